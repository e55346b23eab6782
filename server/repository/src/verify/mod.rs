//! Checking a repository: every object, every manifest and map, each place of each chunk once for all points; and what a
//! damage means for which disks. Trusts no cache: everything is read from the location again.
//!
//! Owns: the stamps that say which packs were read whole, when, and what was bad in them. They let a verification go on
//! where it was cut short or take a sample, and keep writers from referring to bad chunks: a backup that reads such a
//! chunk again stores it again, and all points that need it are whole again. Must never: change anything but stamps.
//! Next: `foundations` (small objects), `walk` (maps, and what damage affects), `packs` (data), `stamps`.

mod foundations;
mod pace;
mod packs;
pub mod stamps;
mod walk;

use domain::Extent;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::backend::BackendErrorKind;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::names::{self, ObjectId};
use crate::format::stamp::{Bad, PackCheck, Stamp};
use crate::format::{ChunkId, manifest};
use crate::index::{IdMap, IdSet};
use crate::point::{Point, PointId};
use crate::repository::Repository;
use crate::source::NoProgress;

/// What to verify. The default is everything.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Only what these points need; all when `None`. Leaves no stamps.
    pub points: Option<Vec<PointId>>,
    /// Leave out the data chunks: manifests, maps, index and pack footers only.
    pub structure_only: bool,
    /// Go on with a verification of everything that was cut short, if there was one.
    pub resume: bool,
    /// Leave out packs that were checked at this time or later.
    pub since: Option<Timestamp>,
    /// Only so many hundredths of the packs' bytes, those first that were checked longest ago.
    pub percent: Option<u8>,
    /// Read no faster than this.
    pub bytes_per_second_max: Option<u64>,
    /// Write nothing: no stamps.
    pub read_only: bool,
}

impl VerifyOptions {
    /// Are packs left out, other than by `points`?
    fn is_partial(&self) -> bool {
        self.since.is_some() || self.percent.is_some()
    }
}

/// Hears how far a verification is.
pub trait VerifyProgress: Send + Sync {
    /// So many more bytes are going to be read.
    fn planned(&self, bytes: u64) {
        let _ = bytes;
    }
    /// So many bytes were read.
    fn read(&self, bytes: u64) {
        let _ = bytes;
    }
}

impl VerifyProgress for NoProgress {}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Points checked.
    pub points: u64,
    /// Chunks read and checked, map nodes included.
    pub chunks: u64,
    /// Bytes of chunks read.
    pub bytes_read: u64,
    /// What is wrong; empty when all is well.
    pub damage: Vec<Damage>,
    /// Packs read whole, now.
    pub packs_checked: u64,
    /// Packs left out because they were checked lately. What was bad in them then counts as bad.
    pub packs_skipped: u64,
    /// Packs left for another time, by `percent`.
    pub packs_left: u64,
    /// Chunks with a bad place of which nothing is lost: they can be read, or no point needs them.
    pub bad_chunks_not_needed: u64,
    /// The verification this one went on with began then.
    pub resumed_from: Option<Timestamp>,
}

/// One damaged or missing object, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Name of the object (or the chunk, when no pack is known to hold it).
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// What cannot be restored because of it. Empty when nothing is lost yet.
    pub affected: Vec<Affected>,
}

/// Part of a disk of a point that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// The point.
    pub point: PointId,
    /// Its machine's name.
    pub machine: String,
    /// The disk's key.
    pub disk: i32,
    /// Its label.
    pub label: String,
    /// The bytes, ascending, joined.
    pub extents: Vec<Extent>,
}

/// When packs were last verified, as stamps say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Packs in the repository.
    pub packs: u64,
    /// Of these, read whole at least once.
    pub packs_checked: u64,
    /// The longest time since a check of those.
    pub oldest: Option<Timestamp>,
    /// The last check.
    pub newest: Option<Timestamp>,
    /// Packs in which something is bad.
    pub packs_bad: u64,
    /// A verification of everything began then and was cut short.
    pub unfinished_since: Option<Timestamp>,
}

impl Repository {
    /// Reads and checks everything the points need, each chunk once. Damage is in the report; an error is a failure of
    /// the location, or a cancellation. What was checked until then is stamped.
    pub async fn verify(
        &self,
        options: VerifyOptions,
        progress: Arc<dyn VerifyProgress>,
        cancel: &CancellationToken,
    ) -> Result<VerifyReport> {
        if let Some(percent) = options.percent.filter(|percent| !(1..=100).contains(percent)) {
            return Err(Error::Limit { what: "percent to verify", value: percent.into() });
        }
        let mut verifier = Verifier::new(&self.core, options, progress);
        let done = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled),
            done = verifier.run() => done,
        };
        match done {
            Ok(()) => Ok(verifier.report),
            Err(error) => {
                verifier.checkpoint().await;
                Err(error)
            }
        }
    }

    /// When packs were last verified.
    pub async fn verified(&self) -> Result<Verified> {
        let stamp = stamps::read_all(&self.core).await?.stamp;
        let mut verified = Verified { unfinished_since: time(stamp.unfinished_since), ..Verified::default() };
        for object in self.core.backend.list(names::PACKS).await? {
            verified.packs += 1;
            let Some(check) = names::parse_pack(&object.name).and_then(|id| stamp.packs.get(&id)) else { continue };
            verified.packs_bad += u64::from(!check.bad.is_none());
            let Some(at) = time(check.checked_at) else { continue };
            verified.packs_checked += 1;
            verified.oldest = Some(verified.oldest.map_or(at, |oldest| oldest.min(at)));
            verified.newest = verified.newest.max(Some(at));
        }
        Ok(verified)
    }
}

/// A stamp's time, in milliseconds since 1970; 0 is none.
fn time(milliseconds: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(milliseconds).ok()?).ok().filter(|_| milliseconds > 0)
}

/// The same the other way.
fn milliseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or_default()
}

/// Why a chunk cannot be read: object and reason.
type Fault = (String, String);

/// A pack that is there, and its length.
type Listed = (ObjectId, u64);

struct Verifier<'a> {
    core: &'a Arc<Core>,
    options: VerifyOptions,
    progress: Arc<dyn VerifyProgress>,
    report: VerifyReport,
    /// Milliseconds since 1970, when this one began.
    now: u64,
    /// Ascending.
    listed: Vec<Listed>,
    /// Packs that appeared after the list was made.
    newer: HashSet<ObjectId>,
    /// Packs that were listed were gone when they were read.
    vanished: bool,
    points: Vec<Point>,
    /// Data chunks in use, when only some points are verified.
    wanted: IdSet,
    /// Sound map nodes, decoded to their children or chunks when seen first.
    seen: IdSet,
    /// Chunks with a place that is bad, and why.
    faults: IdMap<Fault>,
    /// Packs whose lists cannot be read, and why.
    unlisted: Vec<(ObjectId, Fault)>,
    /// All stamps that were there.
    before: stamps::AllStamps,
    /// What this one checked and no stamp of its own says yet.
    fresh: Stamp,
    /// Stamps of its own.
    own: Vec<String>,
}

impl<'a> Verifier<'a> {
    fn new(core: &'a Arc<Core>, options: VerifyOptions, progress: Arc<dyn VerifyProgress>) -> Self {
        let now = milliseconds(core.environment.clock.now());
        Self {
            core,
            options,
            progress,
            report: VerifyReport::default(),
            now,
            listed: Vec::new(),
            newer: HashSet::new(),
            vanished: false,
            points: Vec::new(),
            wanted: IdSet::default(),
            seen: IdSet::default(),
            faults: IdMap::default(),
            unlisted: Vec::new(),
            before: stamps::AllStamps::default(),
            fresh: Stamp::default(),
            own: Vec::new(),
        }
    }

    async fn run(&mut self) -> Result<()> {
        self.core.nodes.lock().clear();
        self.check_foundations().await?;
        self.read_stamps().await?;
        self.list_packs().await?;
        self.read_manifests().await?;
        self.core.index.rescan(self.core).await?;
        for (size_bytes, root) in self.roots() {
            self.walk(size_bytes, root).await?;
        }
        if self.options.structure_only {
            self.check_footers().await?;
        } else if self.options.points.is_some() {
            self.check_footers().await?;
            self.read_wanted().await?;
        } else {
            self.read_packs().await?;
        }
        self.judge().await?;
        self.report.points = self.points.len() as u64;
        self.finish().await;
        Ok(())
    }

    fn roots(&self) -> Vec<(u64, ChunkId)> {
        let disks = self.points.iter().flat_map(|point| &point.disks);
        disks.map(|disk| (disk.size_bytes, manifest::root(&disk.map_root).unwrap_or(ChunkId::ZERO))).collect()
    }

    fn damage(&mut self, object: impl Into<String>, reason: impl Into<String>) {
        self.report.damage.push(Damage { object: object.into(), reason: reason.into(), affected: Vec::new() });
    }

    /// A fault of the repository goes into the report, one of the location ends the verification.
    fn note(&mut self, object: &str, outcome: Result<()>) -> Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(error) if error.is_damage() || matches!(error, Error::Limit { .. }) => {
                let (object, reason) = fault(object, &error);
                self.damage(object, reason);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Reads all stamps; those that cannot be read are replaced at the end.
    async fn read_stamps(&mut self) -> Result<()> {
        self.before = stamps::read_all(self.core).await?;
        for (name, error) in std::mem::take(&mut self.before.damaged) {
            self.note(&name, Err(error))?;
        }
        let began = self.before.stamp.unfinished_since;
        if self.options.resume && began > 0 {
            self.report.resumed_from = time(began);
            self.fresh.unfinished_since = began;
        } else if !self.options.is_partial() {
            self.fresh.unfinished_since = self.now;
        }
        Ok(())
    }

    /// Notes what is bad in a pack. Later than what was known of it, whatever the clock says.
    fn checked(&mut self, pack: ObjectId, bad: Bad) {
        let now = milliseconds(self.core.environment.clock.now()).max(self.now);
        let after = self.before.stamp.packs.get(&pack).map_or(0, |check| check.checked_at + 1);
        self.core.index.set_bad(pack, bad.clone());
        self.fresh.note(pack, PackCheck { checked_at: now.max(after), bad });
    }

    /// Is anything stamped?
    fn stamps(&self) -> bool {
        !self.options.read_only && !self.options.structure_only && self.options.points.is_none()
    }

    /// Writes down what was checked so far, for one that goes on. That it cannot be written is no fault of what was read.
    async fn checkpoint(&mut self) {
        if !self.stamps() || self.fresh.packs.is_empty() {
            return;
        }
        match stamps::write(self.core, &self.fresh).await {
            Ok(names) => {
                self.own.extend(names);
                let unfinished_since = self.fresh.unfinished_since;
                self.before.stamp.merge(std::mem::take(&mut self.fresh));
                self.fresh.unfinished_since = unfinished_since;
            }
            Err(error) => tracing::warn!(%error, "what was verified could not be stamped"),
        }
    }

    /// One stamp in place of all there are. Packs that are gone, and that nothing refers to, are left out.
    async fn finish(&mut self) {
        if !self.stamps() {
            return;
        }
        let complete = !self.options.is_partial();
        let mut all = std::mem::take(&mut self.before.stamp);
        all.merge(std::mem::take(&mut self.fresh));
        if complete {
            all.unfinished_since = 0;
        }
        let (listed, now, index) = (&self.listed, self.now, &self.core.index);
        all.packs.retain(|pack, check| {
            let is_there = listed.binary_search_by_key(pack, |(id, _)| *id).is_ok();
            // As long as a segment names one that is gone, writers have to be told.
            is_there || (check.bad == Bad::Whole && (check.checked_at >= now || index.knows(pack)))
        });
        match stamps::write(self.core, &all).await {
            Ok(_) => {
                stamps::delete(self.core, &self.before.names).await;
                stamps::delete(self.core, &self.own).await;
            }
            Err(error) => tracing::warn!(%error, "what was verified could not be stamped"),
        }
    }
}

/// The object an error is about, and why.
fn fault(object: &str, error: &Error) -> Fault {
    match error {
        Error::Damaged { object, reason } => (object.clone(), reason.clone()),
        Error::Missing { object } => (object.clone(), "it is missing".to_owned()),
        Error::Backend(error) if error.kind == BackendErrorKind::NotFound => {
            (error.name.clone(), "it is missing".to_owned())
        }
        other => (object.to_owned(), other.to_string()),
    }
}
