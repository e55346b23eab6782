//! Giving space back while backups run. Copies what is still needed out of packs that are mostly dead, condemns packs,
//! waits for the writers that may refer to them, looks again, and deletes. Owns: that order, and the rules below.
//! Must never: delete a pack from which a committed point, one about to be committed, or a reader with a lease needs a
//! chunk that is nowhere else. Next: `mark` (what is needed), `settle` (whose lease is over), `copy`, `sweep`.
//!
//! Objects are only created and deleted; nothing relies on conditional creation, nor on there being one collector.
//!
//! | who | does, in this order |
//! |---|---|
//! | writer | lists epochs → makes its lease, which names them → reads all epochs, then the index → refers to no pack that an epoch names → puts the roots of a base into its lease, then opens the base → packs, segments → looks whether all packs it refers to are there → checks its lease → manifest → checks its lease again → removes the lease |
//! | reader that holds | makes a lease with the roots → looks whether the manifest is still there |
//! | collector | lists packs, leases, manifests, leases → copies → writes segments for the copies → **publishes the epoch** → waits until each writer's lease names the epoch or is over → reads all epochs, packs, manifests, leases once more → copies what is needed and is only in condemned packs → replaces segments that name condemned packs → deletes the packs → **deletes the epoch** |
//!
//! *Checks its lease*: by the monotonic and by the wall clock it was renewed in time, and no challenge and no void is there.
//! *A lease is over* when it is gone; or its manifest is there; or it expired, with a margin, and then: challenge → look
//! for the manifest → (there: not dead) → void. A manifest whose lease is void is no restore point, for anyone.
//!
//! Why that is enough:
//! 1. *Condemned is for ever.* An epoch stays until all its packs are gone, and a condemned pack that turns out to be
//!    needed is emptied by copying, not pardoned. So whoever decided to delete it may do so at any later time, twice, or
//!    after another collector did, and a collector that died is finished by the next.
//! 2. *A writer that names the epoch* never refers to its packs: not by the index, and not by its base, whose roots are
//!    needed like a manifest's from before the base was opened. *One that does not* is waited for, and what it committed is
//!    looked at again. A lease that was made before the epoch is seen, since the collector waits twice a list's lag: the
//!    writer's second look at the epochs came within one lag of the epoch, and its lease before that.
//! 3. *A writer that is taken for dead* cannot commit behind the collector's back. Its manifest comes before the
//!    collector's second look (then it is a point, and marked) or after it (then the challenge is there when the writer
//!    looks, it fails, and the void hides the manifest). A challenge is removed only when there is a void. Clocks decide how
//!    long a collector waits, not whether data is safe.
//! 4. *Two collectors* do not delete the last two copies of a chunk: each counts only copies in packs that no epoch names
//!    and that are there, both looked at after its own epoch was published. One of two sees the other's epoch.
//! 5. *An index that is wrong* (a segment that came late, a lagging list) makes a writer fail before its commit, as it
//!    looks at each pack it refers to; the lease keeps the pack from then on.

mod copy;
mod mark;
mod settle;
mod sweep;

use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::backend::BackendErrorKind;
use crate::core::Core;
use crate::epochs::{self, Epoch};
use crate::error::{Error, Result};
use crate::faults::Planted;
use crate::format::lease::{EPOCH_PACKS_MAX, LeaseKind, encode_epoch};
use crate::format::names::{self, ObjectId};
use crate::index::merge_segments;
use crate::lease::{self, Lease, is_expired, lease_tag, pack_tag};
use crate::point::PointId;
use crate::repository::Repository;
use crate::source::NoProgress;
use mark::Survey;

/// How often a collector that waits looks whether writers are done.
const POLL_EVERY: Duration = Duration::from_secs(10);

/// With so many epochs that wait for locked packs, no more are published.
const EPOCHS_OPEN_MAX: usize = 512;

/// How space is given back.
#[derive(Debug, Clone)]
pub struct CollectOptions {
    /// Packs of which less than this is needed are rewritten, in percent.
    pub repack_below_percent: u8,
    /// Most bytes rewritten in one run; those packs first that give back most.
    pub repack_bytes_max: u64,
    /// Most bytes rewritten in a second.
    pub rate_bytes_per_second: Option<u64>,
    /// Wait for running writers; else the next run goes on where this one ended.
    pub wait: bool,
    /// Run even if another collector does. It does no harm, and no good.
    pub beside_others: bool,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            repack_below_percent: 70,
            repack_bytes_max: 64 << 30,
            rate_bytes_per_second: None,
            wait: false,
            beside_others: false,
        }
    }
}

/// Hears how far a collection is. All figures are increments.
pub trait CollectProgress: Send + Sync {
    /// What it does now, in words.
    fn step(&self, text: &str) {
        let _ = text;
    }
    /// So many more bytes are going to be copied.
    fn planned(&self, bytes: u64) {
        let _ = bytes;
    }
    /// So many bytes were copied.
    fn copied(&self, bytes: u64) {
        let _ = bytes;
    }
}

impl CollectProgress for NoProgress {}

/// Someone a collection waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Host and process.
    pub who: String,
    /// What it does.
    pub kind: LeaseKind,
    /// The restore point it makes.
    pub point: Option<PointId>,
    /// When it was last heard of, by its own clock.
    pub renewed_at: Timestamp,
}

/// What a collection came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CollectReport {
    /// Bytes of deleted objects less bytes of written ones. Negative when packs were rewritten and not deleted yet.
    pub freed_bytes: i64,
    /// Restore points whose disks were followed.
    pub points: u64,
    /// Packs that are there and stay.
    pub packs_kept: u64,
    /// Packs deleted.
    pub packs_deleted: u64,
    /// Packs of which the needed part was copied.
    pub packs_rewritten: u64,
    /// Bytes of packs written for that.
    pub bytes_rewritten: u64,
    /// Bytes of condemned packs that are still there.
    pub bytes_waiting: u64,
    /// Bytes of condemned packs that the storage keeps until their retention ends.
    pub bytes_locked: u64,
    /// Who may still refer to them.
    pub waiting_for: Vec<Waiting>,
    /// Leases declared dead.
    pub leases_voided: u64,
    /// Packs left alone because what is in them cannot be read.
    pub packs_unreadable: u64,
    /// Chunks that points need and that are nowhere. Verify says what that means.
    pub chunks_missing: u64,
}

impl Repository {
    /// Gives back the space of what no point needs. Backups, restores and verification may run meanwhile; a collection may
    /// be cut short at any moment, and the next one goes on. Fails, deleting nothing, when a manifest or a map cannot be
    /// read: what it needs is not known.
    pub async fn collect(
        &self,
        options: CollectOptions,
        progress: Arc<dyn CollectProgress>,
        cancel: &CancellationToken,
    ) -> Result<CollectReport> {
        let lease = Lease::create(&self.core, LeaseKind::Collect, None, &[], Vec::new()).await?;
        let mut run = Run::new(Arc::clone(&self.core), options, progress, lease.clone());
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled),
            outcome = run.whole() => outcome,
        };
        lease.release().await;
        outcome.map(|()| run.report)
    }
}

struct Run {
    core: Arc<Core>,
    options: CollectOptions,
    progress: Arc<dyn CollectProgress>,
    lease: Lease,
    lag: Duration,
    report: CollectReport,
}

impl Run {
    fn new(core: Arc<Core>, options: CollectOptions, progress: Arc<dyn CollectProgress>, lease: Lease) -> Self {
        let lag = core.backend.list_lag();
        Self { core, options, progress, lease, lag, report: CollectReport::default() }
    }

    async fn whole(&mut self) -> Result<()> {
        self.pause(self.lag).await;
        if !self.options.beside_others && self.yields().await? {
            return Ok(());
        }
        // What an earlier run began comes first: it may have been stopped anywhere.
        let pending = epochs::load(&self.core).await?;
        // Its collector may not have got as far as syncing it.
        self.core.backend.sync(names::EPOCHS).await?;
        let mut done = true;
        if !pending.is_empty() {
            done = self.finish(&pending).await?;
        }
        // Epochs of locked packs wait; there is an end to how many a lease can name.
        let has_room = epochs::list(&self.core).await?.len() < EPOCHS_OPEN_MAX;
        if done
            && has_room
            && let Some(epoch) = self.condemn().await?
        {
            done = self.finish(&[epoch]).await?;
        }
        if done {
            self.merge_index().await?;
        }
        self.progress.step("cleaning up");
        self.clean_up().await
    }

    /// Is another collector at work? Of two that begin together the one with the lesser id goes on.
    async fn yields(&mut self) -> Result<bool> {
        let now = self.core.environment.clock.now();
        for seen in lease::list(&self.core).await?.leases {
            let other = seen.body.kind == LeaseKind::Collect && seen.id != *self.lease.id();
            if other && !is_expired(&seen.body, now) && seen.id < *self.lease.id() {
                self.report.waiting_for.push(waiting(&seen));
            }
        }
        Ok(!self.report.waiting_for.is_empty())
    }

    /// Chooses packs, copies what is needed out of them, and publishes the epoch. `None` when there is nothing to do.
    async fn condemn(&mut self) -> Result<Option<Epoch>> {
        self.progress.step("looking for what is needed");
        let survey = Survey::take(&self.core, self.lag).await?;
        let live = survey.mark(&self.core).await?;
        self.report.points = survey.points.len() as u64;
        self.report.chunks_missing = live.missing;
        let choice = self.choose(&survey, &live).await?;
        let mut packs = choice.dead;
        packs.extend(self.rewrite(choice.sparse).await?);
        packs.truncate(EPOCH_PACKS_MAX);
        self.report.packs_kept = (survey.packs.len() - packs.len()) as u64;
        if packs.is_empty() {
            return Ok(None);
        }
        packs.sort_unstable();
        let id = self.core.new_id()?;
        let bytes = encode_epoch(&self.core.keys, id, &packs)?;
        let length = bytes.len() as u64;
        self.put(&names::epoch(&id), bytes).await?;
        Ok(Some(Epoch { id, packs, bytes: length }))
    }

    /// From the published epochs to their end. False when writers have to be waited for.
    async fn finish(&mut self, epochs: &[Epoch]) -> Result<bool> {
        let condemned: BTreeSet<ObjectId> = epochs.iter().flat_map(|epoch| &epoch.packs).copied().collect();
        self.core.index.condemn(&condemned);
        self.progress.step("waiting for writers");
        self.pause(self.lag * 2).await;
        let Some(settled) = self.settle_all(epochs).await? else {
            self.report.bytes_waiting = self.bytes_of(&condemned).await?;
            return Ok(false);
        };
        if !self.core.environment.makes(Planted::NoMarkAgain) {
            self.progress.step("looking again");
            self.rescue(&condemned, &settled).await?;
        }
        self.progress.step("deleting");
        self.sweep(epochs, &condemned).await?;
        Ok(true)
    }

    /// Makes few segments of many. Should another collector delete a pack just now, a segment may come to name it: see 5.
    async fn merge_index(&mut self) -> Result<()> {
        self.progress.step("merging the index");
        let epochs = epochs::load(&self.core).await?;
        let condemned: BTreeSet<&ObjectId> = epochs.iter().flat_map(|epoch| &epoch.packs).collect();
        let merged = merge_segments(&self.core, self.lag, |pack| !condemned.contains(pack)).await?;
        self.report.freed_bytes += merged.bytes_deleted as i64 - merged.bytes_written as i64;
        Ok(())
    }

    /// Copies what is needed and is nowhere but in condemned packs.
    async fn rescue(&mut self, condemned: &BTreeSet<ObjectId>, settled: &[PointId]) -> Result<()> {
        // A manifest whose removal is not durable would come back after a crash, without its packs.
        self.core.backend.sync(names::POINTS).await?;
        self.pause(self.lag).await;
        let epochs = epochs::load(&self.core).await?;
        self.core.index.condemn(epochs.iter().flat_map(|epoch| &epoch.packs));
        self.pause(self.lag).await;
        let mut survey = Survey::take(&self.core, self.lag).await?;
        survey.add_points(&self.core, settled).await?;
        survey.condemned.extend(epochs.iter().flat_map(|epoch| &epoch.packs));
        survey.condemned.extend(condemned);
        let live = survey.mark(&self.core).await?;
        let needed = live.only_condemned.into_iter().filter(|(pack, _)| condemned.contains(pack)).collect();
        self.copy_chunks(needed).await
    }

    async fn bytes_of(&self, packs: &BTreeSet<ObjectId>) -> Result<u64> {
        let listed = self.core.backend.list(names::PACKS).await?;
        let is_one = |name: &str| names::parse_pack(name).is_some_and(|id| packs.contains(&id));
        Ok(listed.iter().filter(|object| is_one(&object.name)).map(|object| object.size).sum())
    }

    async fn pause(&self, time: Duration) {
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }

    async fn put(&mut self, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.report.freed_bytes -= bytes.len() as i64;
        Ok(self.core.backend.put_new(name, vec![bytes.into()]).await?)
    }

    /// False when it is locked, and stays.
    async fn delete(&mut self, name: &str, bytes: u64) -> Result<bool> {
        match self.core.backend.delete(name).await {
            Ok(()) => {
                self.report.freed_bytes += bytes as i64;
                Ok(true)
            }
            Err(error) if error.kind == BackendErrorKind::Locked => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// A lease as the report shows it.
fn waiting(seen: &lease::Seen) -> Waiting {
    let lease::Seen { body, .. } = seen;
    Waiting { who: body.who.clone(), kind: body.kind, point: body.point, renewed_at: body.renewed_at }
}

/// Is the pack of a writer whose lease is among these?
fn is_tagged(pack: &ObjectId, leases: &BTreeSet<ObjectId>) -> bool {
    leases.iter().any(|lease| lease_tag(lease) == pack_tag(pack))
}
