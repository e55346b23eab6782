//! Changed block tracking of one disk: which units were written in which epoch. An epoch ends at every snapshot.
//!
//! The change id is `uuid/sequence`. The `-ctk.vmdk` file holds the epochs, one 32-bit number per first write of a unit, so
//! that tracking survives a crash of the simulator.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::spaced_hex;
use crate::sparse::runs;

/// Record that starts the next epoch.
const NEXT_EPOCH: u32 = u32::MAX;
/// Epochs that are told apart; the oldest are joined, which only ever reports more.
const EPOCHS_MAX: usize = 4096;

/// Whether changes are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Switched off.
    Off,
    /// Switched on while the machine runs: waits for a stun.
    Pending,
    /// Works.
    Active,
}

#[derive(Debug)]
struct Epoch {
    sequence: u32,
    units: BTreeSet<u64>,
}

/// Why changes since a change id cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Not tracked, or tracking started over since.
    NotTracked,
    /// The text is no change id.
    Malformed,
}

/// Change tracking of one disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tracking {
    pub state: State,
    uuid: Uuid,
    unit: u64,
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip)]
    epochs: Vec<Epoch>,
    #[serde(skip)]
    log: Option<File>,
}

impl Tracking {
    /// Tracking that is off.
    pub fn new(path: PathBuf, unit: u64) -> Self {
        Self { state: State::Off, uuid: Uuid::nil(), unit: unit.max(512), path, epochs: Vec::new(), log: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts (or starts over) with a new uuid and nothing known to have changed.
    pub fn activate(&mut self) -> io::Result<()> {
        self.uuid = Uuid::new_v4();
        self.epochs = vec![Epoch { sequence: 1, units: BTreeSet::new() }];
        self.state = State::Active;
        let mut log = File::create(&self.path)?;
        log.write_all(self.uuid.as_bytes())?;
        self.log = Some(log);
        Ok(())
    }

    /// Starts over if it is active: earlier change ids are worthless from now on.
    pub fn reset(&mut self) -> io::Result<()> {
        if self.state == State::Active { self.activate() } else { Ok(()) }
    }

    /// Switches tracking off and forgets.
    pub fn stop(&mut self) {
        self.state = State::Off;
        self.epochs.clear();
        self.log = None;
        let _ = fs::remove_file(&self.path);
    }

    /// Reads the epochs of an earlier run; a file that does not fit starts tracking over.
    pub fn open(&mut self, path: PathBuf) {
        self.path = path;
        if self.state == State::Active && self.load().is_err() {
            tracing::warn!(path = %self.path.display(), "change tracking starts over");
            if self.activate().is_err() {
                self.state = State::Off;
            }
        }
    }

    fn load(&mut self) -> io::Result<()> {
        let bytes = fs::read(&self.path)?;
        let (head, rest) = bytes
            .split_at_checked(16)
            .filter(|(head, _)| *head == self.uuid.as_bytes())
            .ok_or(io::ErrorKind::InvalidData)?;
        debug_assert_eq!(head.len(), 16);
        self.epochs = vec![Epoch { sequence: 1, units: BTreeSet::new() }];
        for record in rest.as_chunks::<4>().0 {
            match u32::from_le_bytes(*record) {
                NEXT_EPOCH => self.push_epoch(),
                unit => self.mark(u64::from(unit)),
            }
        }
        self.log = Some(OpenOptions::new().append(true).open(&self.path)?);
        Ok(())
    }

    fn push_epoch(&mut self) {
        let sequence = self.sequence() + 1;
        self.epochs.push(Epoch { sequence, units: BTreeSet::new() });
        if self.epochs.len() > EPOCHS_MAX {
            let oldest = self.epochs.remove(0);
            if let Some(next) = self.epochs.first_mut() {
                next.units.extend(oldest.units);
            }
        }
    }

    fn mark(&mut self, unit: u64) {
        if let Some(epoch) = self.epochs.last_mut() {
            epoch.units.insert(unit);
        }
    }

    fn sequence(&self) -> u32 {
        self.epochs.last().map_or(0, |epoch| epoch.sequence)
    }

    /// Ends the epoch: what is written from now on is newer than every change id handed out so far.
    pub fn next_epoch(&mut self) -> io::Result<()> {
        if self.state == State::Active {
            self.append(&NEXT_EPOCH.to_le_bytes())?;
            self.push_epoch();
        }
        Ok(())
    }

    /// Notes a write.
    pub fn touch(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.state != State::Active || length == 0 {
            return Ok(());
        }
        let units = offset / self.unit..(offset + length).div_ceil(self.unit);
        let known = self.epochs.last();
        let fresh: Vec<u64> = units.filter(|unit| known.is_none_or(|epoch| !epoch.units.contains(unit))).collect();
        let records: Vec<u8> = fresh.iter().flat_map(|unit| (*unit as u32).to_le_bytes()).collect();
        self.append(&records)?;
        for unit in fresh {
            self.mark(unit);
        }
        Ok(())
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        match &mut self.log {
            Some(log) if !records.is_empty() => log.write_all(records),
            _ => Ok(()),
        }
    }

    /// The change id of now; unset unless active.
    pub fn change_id(&self) -> Option<String> {
        (self.state == State::Active).then(|| format!("{}/{}", spaced_hex(self.uuid.as_bytes()), self.sequence()))
    }

    /// Runs of bytes written after `since` up to `until` (both change ids; `until` unset means now).
    pub fn changed(&self, since: &str, until: Option<&str>, capacity: u64) -> Result<Vec<(u64, u64)>, Unknown> {
        let first = self.parse(since)?;
        let last = until.map_or(Ok(self.sequence()), |until| self.parse(until))?;
        let wanted = self.epochs.iter().filter(|epoch| epoch.sequence > first && epoch.sequence <= last);
        let units: BTreeSet<u64> = wanted.flat_map(|epoch| epoch.units.iter().copied()).collect();
        Ok(runs(&units, self.unit, capacity))
    }

    /// The unit, in bytes.
    pub fn unit(&self) -> u64 {
        self.unit
    }

    fn parse(&self, change_id: &str) -> Result<u32, Unknown> {
        let (uuid, sequence) = change_id.rsplit_once('/').ok_or(Unknown::Malformed)?;
        let sequence = sequence.parse().map_err(|_| Unknown::Malformed)?;
        let ours = spaced_hex(self.uuid.as_bytes());
        if self.state != State::Active || uuid != ours || sequence > self.sequence() {
            return Err(Unknown::NotTracked);
        }
        Ok(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_per_epoch_and_survive_a_reload() {
        let folder = tempfile::tempdir().unwrap();
        let mut tracking = Tracking::new(folder.path().join("x-ctk.vmdk"), 1024);
        tracking.touch(0, 10).unwrap();
        assert_eq!(tracking.change_id(), None);
        tracking.activate().unwrap();
        tracking.touch(0, 1).unwrap();
        let first = tracking.change_id().unwrap();
        tracking.next_epoch().unwrap();
        tracking.touch(1000, 100).unwrap();
        tracking.touch(5000, 1).unwrap();
        let second = tracking.change_id().unwrap();
        tracking.next_epoch().unwrap();
        tracking.touch(9_000, 500).unwrap();
        let json = serde_json::to_string(&tracking).unwrap();
        let mut tracking: Tracking = serde_json::from_str(&json).unwrap();
        tracking.open(folder.path().join("x-ctk.vmdk"));
        assert_eq!(tracking.changed(&first, Some(&second), 10_000), Ok(vec![(0, 2048), (4096, 1024)]));
        assert_eq!(tracking.changed(&second, None, 9_100), Ok(vec![(8192, 908)]));
        assert_eq!(tracking.changed("nonsense", None, 9_100), Err(Unknown::Malformed));
        tracking.reset().unwrap();
        assert_eq!(tracking.changed(&first, None, 9_100), Err(Unknown::NotTracked));
    }
}
