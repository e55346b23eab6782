//! Making restore points. The order of commit is the safety of everything here: packs, then index segments, then the
//! manifest; each durable before the next begins. A writer that dies leaves objects nobody refers to.
//!
//! A chunk's way: read → cut → byte budget → thread pool (identity, index, compression, encryption) → pack → map.
//! Next: `stage` (budget, packs, commit order), `full` and `changed` (what is read), `tree` (maps).

mod buffer;
mod changed;
mod full;
mod pages;
mod stage;
mod tree;

use domain::extent::check_areas;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::backend::BackendErrorKind;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::manifest::POINT_DISKS_MAX;
use crate::format::{manifest, map, names};
use crate::locks;
use crate::point::{CommittedPoint, DiskSummary, Point, PointDisk, PointId, PointMetadata, Predecessor};
use crate::repository::Repository;
use crate::source::{DiskInput, Progress, ReadPlan};
use stage::{Counts, Stage};

impl Repository {
    /// Starts a point. Others may be in the making at the same time, in this process or another.
    pub async fn begin_point(&self, id: PointId) -> Result<PointWriter> {
        match self.core.backend.stat(&names::point(id)).await {
            Ok(_) => return Err(Error::PointExists(id)),
            Err(error) if error.kind == BackendErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        self.core.index.refresh(&self.core).await?;
        Ok(PointWriter { id, stage: Stage::new(Arc::clone(&self.core)), disks: Mutex::default() })
    }
}

/// A restore point in the making. Several disks may run at the same time. Dropped without commit, it leaves no point.
pub struct PointWriter {
    id: PointId,
    stage: Arc<Stage>,
    /// `None` while the disk is being read.
    disks: Mutex<BTreeMap<i32, Option<PointDisk>>>,
}

impl fmt::Debug for PointWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PointWriter").field("id", &self.id).finish_non_exhaustive()
    }
}

impl PointWriter {
    /// The point's id.
    pub fn id(&self) -> PointId {
        self.id
    }

    /// Reads a disk as planned and stores it. After a failure of the repository the whole writer is of no more use;
    /// after a failure of the source or a cancellation, the same disk may be tried again.
    pub async fn backup_disk(
        &self,
        input: DiskInput,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<DiskSummary> {
        let key = input.config.key;
        check_plan(&input)?;
        {
            let mut disks = self.disks.lock();
            if disks.len() >= POINT_DISKS_MAX {
                return Err(Error::Limit { what: "number of disks of a point", value: disks.len() as u64 + 1 });
            }
            match disks.entry(key) {
                Entry::Occupied(_) => {
                    return Err(Error::Plan { disk: key, reason: "it is in this point already".to_owned() });
                }
                Entry::Vacant(place) => place.insert(None),
            };
        }
        let counts = Arc::new(Counts::new(key, progress));
        let done = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled),
            done = self.read_disk(&input, &counts) => done,
        };
        let mut disks = self.disks.lock();
        match done {
            Ok(root) => {
                let summary = counts.summary();
                let disk = PointDisk {
                    size_bytes: input.source.size_bytes(),
                    map_root: hex::encode(root.0),
                    bytes_read: summary.bytes_read,
                    bytes_stored: summary.bytes_stored,
                    config: input.config,
                };
                disks.insert(key, Some(disk));
                Ok(summary)
            }
            Err(error) => {
                disks.remove(&key);
                Err(error)
            }
        }
    }

    async fn read_disk(&self, input: &DiskInput, counts: &Arc<Counts>) -> Result<crate::format::ChunkId> {
        match &input.plan {
            ReadPlan::Everything => full::backup(&self.stage, input, None, counts).await,
            ReadPlan::Allocated(areas) => full::backup(&self.stage, input, Some(areas), counts).await,
            ReadPlan::Changed { base, areas } => changed::backup(&self.stage, input, *base, areas, counts).await,
        }
    }

    /// Makes everything durable, then creates the manifest: from then on the point exists.
    pub async fn commit(self, metadata: PointMetadata) -> Result<CommittedPoint> {
        let core = &self.stage.core;
        let predecessor = match metadata.predecessor {
            None => None,
            Some(point) => predecessor(core, point).await?,
        };
        let disks = std::mem::take(&mut *self.disks.lock());
        let disks: Option<Vec<PointDisk>> = disks.into_values().collect();
        let disks = disks.ok_or(Error::Internal("commit while a disk was being read"))?;
        self.stage.flush().await?;
        locks::extend(core, &disks).await?;
        let point = Point {
            id: self.id,
            machine_id: metadata.machine_id,
            device: metadata.device,
            machine: metadata.machine,
            taken_at: metadata.taken_at,
            kind: metadata.kind,
            consistency: metadata.consistency,
            marks: metadata.marks,
            warnings: metadata.warnings,
            task: metadata.task,
            predecessor,
            disks,
            key_generation: core.keys.newest(),
        };
        let object = manifest::encode(&core.keys, core.new_id()?, &point)?;
        let manifest_hash = blake3::hash(&object).to_hex().to_string();
        core.backend.put_new(&names::point(self.id), vec![object.into()]).await.map_err(|error| match error.kind {
            BackendErrorKind::AlreadyExists => Error::PointExists(self.id),
            _ => error.into(),
        })?;
        let bytes_read = point.disks.iter().map(|disk| disk.bytes_read).sum();
        let bytes_stored = point.disks.iter().map(|disk| disk.bytes_stored).sum();
        Ok(CommittedPoint { point, manifest_hash, bytes_read, bytes_stored })
    }

    /// Gives up. What is durable can be reused by a later attempt.
    pub async fn abandon(self) {
        self.stage.give_up().await;
    }
}

impl Drop for PointWriter {
    fn drop(&mut self) {
        self.stage.stop(); // work still queued is of no use any more; after a commit there is none
    }
}

/// The chain is there to show tampering; that a predecessor was deleted or is damaged must not keep a backup from
/// completing, and shows by itself.
async fn predecessor(core: &Core, point: PointId) -> Result<Option<Predecessor>> {
    match core.manifest(point).await {
        Ok((_, manifest_hash)) => Ok(Some(Predecessor { point, manifest_hash })),
        Err(error) if matches!(error, Error::NoSuchPoint(_)) || error.is_damage() => {
            tracing::warn!(%point, %error, "the restore point before this one is not recorded");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn check_plan(input: &DiskInput) -> Result<()> {
    let size = input.source.size_bytes();
    if size > map::DISK_BYTES_MAX {
        return Err(Error::Limit { what: "size of a disk in bytes", value: size });
    }
    match &input.plan {
        ReadPlan::Everything => Ok(()),
        ReadPlan::Allocated(areas) | ReadPlan::Changed { areas, .. } => {
            check_areas(areas, size).map_err(|error| Error::Plan { disk: input.config.key, reason: error.to_string() })
        }
    }
}
