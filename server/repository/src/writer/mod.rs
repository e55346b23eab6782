//! Making restore points. The order of commit is the safety of everything here: packs, then index segments, then the
//! manifest; each durable before the next begins. A writer that dies leaves objects nobody refers to. It works under a
//! lease, so that a collector neither takes from it what it refers to nor waits for it when it is dead (see `collector`).
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
use crate::epochs;
use crate::error::{Error, Result};
use crate::faults::Planted;
use crate::format::lease::LeaseKind;
use crate::format::manifest::POINT_DISKS_MAX;
use crate::format::{manifest, map, names};
use crate::lease::{Lease, lease_tag};
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
        // Twice, as an epoch may come between this and the lease: see `collector`.
        let seen = epochs::list(&self.core).await?;
        let lease = Lease::create(&self.core, LeaseKind::Write, Some(id), &seen, Vec::new()).await?;
        if let Err(error) = honour_epochs(&self.core, &lease).await {
            lease.release().await;
            return Err(error);
        }
        let stage = Stage::new(Arc::clone(&self.core), lease_tag(lease.id()));
        Ok(PointWriter { id, stage, disks: Mutex::default(), lease, outcome: Outcome::Open })
    }
}

/// Learns what is condemned, then what is there: from now on nothing condemned is referred to.
async fn honour_epochs(core: &Core, lease: &Lease) -> Result<()> {
    let epochs = epochs::load(core).await?;
    if !core.environment.makes(Planted::EpochsIgnored) {
        core.index.condemn(epochs.iter().flat_map(|epoch| &epoch.packs));
    }
    lease.honour(&epochs.iter().map(|epoch| epoch.id).collect::<Vec<_>>()).await;
    core.index.refresh(core).await
}

/// What became of a point, and so of its lease.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// No manifest was written.
    Open,
    /// It may have been. The lease stays until it expires, and a collector decides.
    InDoubt,
    /// The lease was taken away.
    Done,
}

/// A restore point in the making. Several disks may run at the same time. Dropped without commit, it leaves no point.
pub struct PointWriter {
    id: PointId,
    stage: Arc<Stage>,
    /// `None` while the disk is being read.
    disks: Mutex<BTreeMap<i32, Option<PointDisk>>>,
    lease: Lease,
    outcome: Outcome,
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
        let done = match done {
            Err(error) => Err(self.explain(error).await),
            done => done,
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

    /// What looks like damage to a writer that was taken for dead is what a collector rightly took away.
    async fn explain(&self, error: Error) -> Error {
        if error.is_damage() || matches!(error, Error::ReferredGone { .. }) {
            return self.lease.check().await.err().unwrap_or(error);
        }
        error
    }

    async fn read_disk(&self, input: &DiskInput, counts: &Arc<Counts>) -> Result<crate::format::ChunkId> {
        match &input.plan {
            ReadPlan::Everything => full::backup(&self.stage, input, None, counts).await,
            ReadPlan::Allocated(areas) => full::backup(&self.stage, input, Some(areas), counts).await,
            ReadPlan::Changed { base, areas } => {
                self.hold_base(*base, input.config.key).await?;
                changed::backup(&self.stage, input, *base, areas, counts).await
            }
        }
    }

    /// What is kept from the base was not looked up in the index; it has to stay even if the base is deleted now. The
    /// base is looked at again after the lease names it (`changed` opens it): from then on one of the two protects it.
    async fn hold_base(&self, base: PointId, disk: i32) -> Result<()> {
        let (point, _) = self.stage.core.manifest(base).await?;
        match point.disk(disk) {
            Ok(disk) => self.lease.hold(manifest::root(&disk.map_root).as_slice()).await,
            Err(_) => Ok(()), // `changed` says so
        }
    }

    /// Makes everything durable, then creates the manifest: from then on the point exists.
    pub async fn commit(mut self, metadata: PointMetadata) -> Result<CommittedPoint> {
        let core = Arc::clone(&self.stage.core);
        let predecessor = match metadata.predecessor {
            None => None,
            Some(point) => predecessor(&core, point).await?,
        };
        let disks = std::mem::take(&mut *self.disks.lock());
        let disks: Option<Vec<PointDisk>> = disks.into_values().collect();
        let disks = disks.ok_or(Error::Internal("commit while a disk was being read"))?;
        if !core.environment.makes(Planted::ManifestBeforePacks) {
            self.stage.flush().await?;
        }
        if let Err(error) = self.stage.check_referred(self.id).await {
            return Err(self.explain(error).await);
        }
        locks::extend(&core, &disks).await?;
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
            lease: Some(hex::encode(self.lease.id())),
        };
        let object = manifest::encode(&core.keys, core.new_id()?, &point)?;
        let manifest_hash = blake3::hash(&object).to_hex().to_string();
        self.lease.check().await?;
        self.outcome = Outcome::InDoubt;
        core.backend.put_new(&names::point(self.id), vec![object.into()]).await.map_err(|error| match error.kind {
            BackendErrorKind::AlreadyExists => Error::PointExists(self.id),
            _ => error.into(),
        })?;
        if core.environment.makes(Planted::ManifestBeforePacks) {
            self.stage.flush().await?;
        }
        // Again: it may have taken long to arrive, and whoever declared the lease dead meanwhile did not see it.
        if let Err(error) = self.lease.check().await {
            self.take_back().await;
            return Err(error);
        }
        self.lease.release().await;
        self.outcome = Outcome::Done;
        let bytes_read = point.disks.iter().map(|disk| disk.bytes_read).sum();
        let bytes_stored = point.disks.iter().map(|disk| disk.bytes_stored).sum();
        Ok(CommittedPoint { point, manifest_hash, bytes_read, bytes_stored })
    }

    /// Removes the manifest that came too late. Should that fail, the collector's void or its mark decides.
    async fn take_back(&self) {
        let core = &self.stage.core;
        let own = match core.written_manifest(self.id).await {
            Ok((point, _)) => point.lease == Some(hex::encode(self.lease.id())),
            Err(_) => false,
        };
        if own && let Err(error) = core.backend.delete(&names::point(self.id)).await {
            tracing::warn!(point = %self.id, %error, "the manifest of a lost lease stays");
        }
    }

    /// Gives up. What is durable can be reused by a later attempt.
    pub async fn abandon(mut self) {
        self.stage.give_up().await;
        self.lease.release().await;
        self.outcome = Outcome::Done;
    }
}

impl Drop for PointWriter {
    fn drop(&mut self) {
        self.stage.stop(); // work still queued is of no use any more; after a commit there is none
        if self.outcome == Outcome::Open {
            let lease = self.lease.clone();
            self.stage.spawn(async move { lease.release().await });
        }
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
