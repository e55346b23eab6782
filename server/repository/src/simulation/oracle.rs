//! What must be true: which points were committed, what their disks hold, and what anybody who looks has to find.

use domain::Extent;
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

use crate::simulation::disks::Disk;
use crate::{Error, PointId, Repository};

/// What is known of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its commit was begun; nobody knows more.
    Attempted,
    /// Its writer was told that it stands.
    Committed(Instant),
    /// Its deletion was begun.
    Deleting,
    /// Its deletion was confirmed.
    Deleted(Instant),
}

#[derive(Clone)]
pub struct Entry {
    pub state: State,
    pub machine: usize,
    /// By disk key.
    pub disks: BTreeMap<i32, Disk>,
}

impl Entry {
    pub fn committed_at(&self) -> Option<Instant> {
        match self.state {
            State::Committed(at) => Some(at),
            _ => None,
        }
    }
}

/// All points ever tried, and what was found wrong.
#[derive(Default)]
pub struct Oracle {
    pub points: Mutex<BTreeMap<PointId, Entry>>,
    violations: Mutex<Vec<String>>,
}

impl Oracle {
    pub fn violation(&self, text: String) {
        self.violations.lock().push(text);
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub fn state(&self, id: PointId) -> Option<State> {
        self.points.lock().get(&id).map(|entry| entry.state)
    }

    pub fn set(&self, id: PointId, state: State) {
        if let Some(entry) = self.points.lock().get_mut(&id) {
            entry.state = state;
        }
    }

    /// Points of whose commit the writer was told, and that nobody began to delete.
    pub fn committed(&self) -> Vec<(PointId, Entry)> {
        let points = self.points.lock();
        let stands = points.iter().filter(|(_, entry)| matches!(entry.state, State::Committed(_)));
        stands.map(|(id, entry)| (*id, entry.clone())).collect()
    }

    /// Lists the points and holds the list against what is known. The ids that are visible; `None` when listing failed.
    pub async fn check_list(&self, repository: &Repository, lag: Duration, when: &str) -> Option<Vec<PointId>> {
        let begun = Instant::now();
        let before: BTreeMap<PointId, State> =
            self.points.lock().iter().map(|(id, entry)| (*id, entry.state)).collect();
        let list = match repository.points().await {
            Ok(list) => list,
            Err(Error::Backend(_)) => return None,
            Err(error) => {
                self.violation(format!("{when}: points cannot be listed: {error}"));
                return None;
            }
        };
        for damaged in &list.damaged {
            self.violation(format!("{when}: {} is damaged: {}", damaged.object, damaged.reason));
        }
        let visible: Vec<PointId> = list.points.iter().map(|point| point.id).collect();
        for (id, state) in before {
            let shows = visible.contains(&id);
            match state {
                State::Committed(at) if at + lag < begun && self.state(id) == Some(state) && !shows => {
                    self.violation(format!("{when}: committed point {id} does not show"));
                }
                State::Deleted(at) if at + lag < begun && shows => {
                    self.violation(format!("{when}: deleted point {id} shows"));
                }
                _ => {}
            }
        }
        for id in &visible {
            if self.state(*id).is_none() {
                self.violation(format!("{when}: point {id} shows, whose commit was never begun"));
            }
        }
        Some(visible)
    }

    /// Reads all disks of a point and compares every byte.
    pub async fn compare(&self, repository: &Repository, id: PointId) -> Result<Result<(), String>, Error> {
        let Some(entry) = self.points.lock().get(&id).cloned() else { return Ok(Err("it is not known".to_owned())) };
        let keys: Vec<i32> = repository.point(id).await?.disks.iter().map(|disk| disk.config.key).collect();
        if keys != entry.disks.keys().copied().collect::<Vec<_>>() {
            return Ok(Err(format!("it has disks {keys:?}")));
        }
        for (key, disk) in &entry.disks {
            let image = repository.open_disk(id, *key).await?;
            if image.size_bytes() != disk.size {
                return Ok(Err(format!("disk {key} has {} bytes", image.size_bytes())));
            }
            let (mut pieces, mut seen) = (image.stream(Extent::new(0, disk.size)), 0);
            while let Some(piece) = pieces.next().await {
                let (offset, bytes) = piece?;
                if !disk.holds(offset, &bytes) {
                    return Ok(Err(format!("disk {key} differs at {offset}+{}", bytes.len())));
                }
                seen += disk.bytes_in_files(Extent::new(offset, bytes.len() as u64));
            }
            if seen != disk.file_bytes() {
                return Ok(Err(format!("disk {key}: {seen} of {} bytes came", disk.file_bytes())));
            }
        }
        Ok(Ok(()))
    }
}
