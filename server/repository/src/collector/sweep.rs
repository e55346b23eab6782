//! Deleting what is condemned: segments stop naming it, then the packs go, then the epoch.

use std::collections::{BTreeSet, HashSet};

use crate::backend::{BackendErrorKind, ObjectInfo};
use crate::collector::Run;
use crate::epochs::Epoch;
use crate::error::{Error, Result};
use crate::faults::Planted;
use crate::format::names::{self, ObjectId};
use crate::format::segment::{PackRecord, SEGMENT_ENTRIES_TARGET};
use crate::index::read_segment;

impl Run {
    pub(super) async fn sweep(&mut self, epochs: &[Epoch], condemned: &BTreeSet<ObjectId>) -> Result<()> {
        let early = self.core.environment.makes(Planted::EpochDroppedFirst);
        if early {
            self.delete_epochs(epochs.iter()).await?;
        }
        self.replace_segments(condemned).await?;
        // A reader that finds a pack gone looks for the chunk's new place in the segments that it is shown.
        self.pause(self.lag).await;
        let mut locked = BTreeSet::new();
        for object in self.core.backend.list(names::PACKS).await? {
            let Some(id) = names::parse_pack(&object.name).filter(|id| condemned.contains(id)) else { continue };
            if self.delete(&object.name, object.size).await? {
                self.core.index.forget(&id);
                self.report.packs_deleted += 1;
            } else {
                self.report.bytes_locked += object.size;
                locked.insert(id);
            }
        }
        if !early {
            // Whoever does not see the epoch any more must not see what it named either.
            self.pause(self.lag).await;
            let done = epochs.iter().filter(|epoch| !epoch.packs.iter().any(|pack| locked.contains(pack)));
            self.delete_epochs(done).await?;
        }
        Ok(())
    }

    async fn delete_epochs<'a>(&mut self, epochs: impl Iterator<Item = &'a Epoch>) -> Result<()> {
        for epoch in epochs {
            self.delete(&names::epoch(&epoch.id), epoch.bytes).await?;
        }
        Ok(())
    }

    /// Segments that name packs that are condemned, or gone, are written again without them, then deleted. A crash in
    /// between leaves packs named twice, which is allowed.
    async fn replace_segments(&mut self, condemned: &BTreeSet<ObjectId>) -> Result<()> {
        let segments = self.core.backend.list(names::INDEX).await?;
        self.pause(self.lag).await;
        let listed = self.core.backend.list(names::PACKS).await?;
        let listed: HashSet<ObjectId> = listed.iter().filter_map(|object| names::parse_pack(&object.name)).collect();
        let (mut kept, mut replaced, mut entries) = (Vec::new(), Vec::new(), 0);
        for object in segments {
            let records = match read_segment(&self.core, &object.name, object.size).await {
                Ok(records) => records,
                Err(Error::Backend(error)) if error.kind == BackendErrorKind::NotFound => continue,
                // Nobody can read what it says; the packs say the same.
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            let count = records.len();
            let mut rest = Vec::with_capacity(count);
            for record in records {
                let is_there = listed.contains(&record.id) || self.is_there(&record.id).await?;
                if is_there && !condemned.contains(&record.id) {
                    rest.push(record);
                }
            }
            if rest.len() == count {
                continue;
            }
            entries += rest.iter().map(|record| record.entries.len()).sum::<usize>();
            kept.extend(rest);
            replaced.push(object);
            if entries >= SEGMENT_ENTRIES_TARGET {
                self.exchange(std::mem::take(&mut kept), std::mem::take(&mut replaced)).await?;
                entries = 0;
            }
        }
        self.exchange(kept, replaced).await
    }

    async fn exchange(&mut self, kept: Vec<PackRecord>, replaced: Vec<ObjectInfo>) -> Result<()> {
        self.write_segment(&kept).await?;
        for object in replaced {
            self.delete(&object.name, object.size).await?;
        }
        Ok(())
    }

    async fn is_there(&self, pack: &ObjectId) -> Result<bool> {
        match self.core.backend.stat(&names::pack(pack)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == BackendErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
