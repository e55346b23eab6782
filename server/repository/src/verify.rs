//! Checking a repository: every object, every manifest and map, each chunk once for all points; and what a damage means
//! for which disks. Reads only. Trusts no cache: everything is read from the location again.

use bytes::Bytes;
use domain::Extent;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::backend::{BackendErrorKind, ObjectInfo};
use crate::core::{Core, decode_chunk};
use crate::error::{Error, Result};
use crate::format::config::Config;
use crate::format::map::{self, FANOUT};
use crate::format::names::{self, ObjectId};
use crate::format::{ChunkId, ChunkKind, manifest};
use crate::index::{IdMap, IdSet, Location, read_footer, read_segment};
use crate::keys::read_slot;
use crate::point::{Point, PointId};
use crate::pool::settle;
use crate::repository::Repository;
use crate::source::NoProgress;

/// Neighbours in a pack this close are read in one go.
const READ_GAP_BYTES: u64 = 256 << 10;
/// Longest single read of a pack.
const READ_BYTES_MAX: u64 = 8 << 20;
/// Reads at the same time.
const READS_AT_ONCE: usize = 4;

/// What to verify.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Only these points; all when `None`.
    pub points: Option<Vec<PointId>>,
    /// Leave out the data chunks: manifests, maps, index and pack footers only.
    pub structure_only: bool,
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

impl Repository {
    /// Reads and checks everything the points need, each chunk once. Damage is in the report; an error is a failure of
    /// the location, or a cancellation.
    pub async fn verify(
        &self,
        options: VerifyOptions,
        progress: Arc<dyn VerifyProgress>,
        cancel: &CancellationToken,
    ) -> Result<VerifyReport> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled),
            report = Verifier::new(&self.core, progress).run(&options) => report,
        }
    }
}

/// Why a chunk cannot be read: object and reason.
type Fault = (String, String);

struct Verifier<'a> {
    core: &'a Arc<Core>,
    progress: Arc<dyn VerifyProgress>,
    report: VerifyReport,
    points: Vec<Point>,
    /// Data chunks in use.
    wanted: IdSet,
    /// Sound map nodes, decoded to their children or chunks when seen first.
    seen: IdSet,
    bad: IdMap<Fault>,
}

/// A node that is to be looked at: level, index, id.
type Node = (u32, u64, ChunkId);

impl<'a> Verifier<'a> {
    fn new(core: &'a Arc<Core>, progress: Arc<dyn VerifyProgress>) -> Self {
        let (points, wanted, seen, bad) = (Vec::new(), IdSet::default(), IdSet::default(), IdMap::default());
        Self { core, progress, report: VerifyReport::default(), points, wanted, seen, bad }
    }

    async fn run(mut self, options: &VerifyOptions) -> Result<VerifyReport> {
        self.core.nodes.lock().clear();
        self.check_foundations().await?;
        self.check_index_and_packs().await?;
        self.read_manifests(options).await?;
        self.core.index.rescan(self.core).await?;
        let points = std::mem::take(&mut self.points);
        for point in &points {
            for disk in &point.disks {
                self.walk(disk.size_bytes, manifest::root(&disk.map_root).unwrap_or(ChunkId::ZERO)).await?;
            }
        }
        if !options.structure_only {
            self.read_data().await?;
        }
        if !self.bad.is_empty() {
            self.attribute(&points).await?;
        }
        self.report.points = points.len() as u64;
        Ok(self.report)
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

    /// Configuration, key slots, documents.
    async fn check_foundations(&mut self) -> Result<()> {
        let backend = &self.core.backend;
        let config = async { Config::decode(&self.core.keys, &backend.get(names::CONFIG, None).await?).map(drop) };
        let outcome = config.await;
        self.note(names::CONFIG, outcome)?;
        for object in backend.list(names::KEYS).await? {
            let outcome = read_slot(&**backend, &object.name, object.size).await.and_then(|slot| {
                let own = slot.header.repository == self.core.keys.repository;
                if own { Ok(()) } else { Err(Error::damaged(&object.name, "it belongs to another repository")) }
            });
            self.note(&object.name, outcome)?;
        }
        for (name, hash) in &self.core.config.documents {
            let outcome = match backend.get(name, None).await {
                Ok(bytes) if blake3::hash(&bytes).to_hex().as_str() == hash => Ok(()),
                Ok(_) => Err(Error::damaged(name, "its text is not what was written")),
                Err(error) => Err(error.into()),
            };
            self.note(name, outcome)?;
        }
        Ok(())
    }

    async fn check_index_and_packs(&mut self) -> Result<()> {
        for object in self.core.backend.list(names::INDEX).await? {
            let outcome = read_segment(self.core, &object.name, object.size).await.map(drop);
            self.note(&object.name, outcome)?;
        }
        let core = self.core;
        let listed = core.backend.list(names::PACKS).await?;
        let mut footers = stream::iter(listed).map(|object| check_footer(core, object)).buffered(READS_AT_ONCE);
        while let Some((name, outcome)) = footers.next().await {
            self.note(&name, outcome)?;
        }
        Ok(())
    }

    /// All manifests are read, for their chain of hashes; only the wanted ones are followed.
    async fn read_manifests(&mut self, options: &VerifyOptions) -> Result<()> {
        let mut hashes: HashMap<PointId, (String, u8)> = HashMap::new();
        let mut predecessors = Vec::new();
        let wanted: Option<HashSet<&PointId>> = options.points.as_ref().map(|points| points.iter().collect());
        for object in self.core.backend.list(names::POINTS).await? {
            let Some(id) = names::parse_point(&object.name) else {
                self.damage(&object.name, "its name is not that of a restore point");
                continue;
            };
            match self.core.manifest(id).await {
                Ok((point, hash)) => {
                    hashes.insert(id, (hash, point.key_generation));
                    predecessors.extend(point.predecessor.clone().map(|before| (id, point.key_generation, before)));
                    if wanted.as_ref().is_none_or(|wanted| wanted.contains(&id)) {
                        self.points.push(point);
                    }
                }
                Err(Error::NoSuchPoint(_)) => {} // deleted meanwhile
                Err(error) => self.note(&object.name, Err(error))?,
            }
        }
        for id in options.points.iter().flatten() {
            if !hashes.contains_key(id) && !self.report.damage.iter().any(|damage| damage.object == names::point(*id)) {
                self.damage(names::point(*id), "it is missing");
            }
        }
        for (id, generation, before) in predecessors {
            // One that was deleted is no damage: retention does that.
            let Some((hash, older)) = hashes.get(&before.point) else { continue };
            if *hash != before.manifest_hash {
                let reason = format!("it is not the manifest that restore point {id} recorded as the one before it");
                self.damage(names::point(before.point), reason);
            }
            // Somebody who has only keys that were rotated away may have made it.
            if generation < *older {
                let reason = format!("it is sealed with older keys than restore point {} before it", before.point);
                self.damage(names::point(id), reason);
            }
        }
        Ok(())
    }

    /// Checks the map below a root, skipping what was seen under another root.
    async fn walk(&mut self, size_bytes: u64, root: ChunkId) -> Result<()> {
        let mut nodes: Vec<Node> = vec![(map::root_level(size_bytes), 0, root)];
        while let Some((level, index, id)) = nodes.pop() {
            if id.is_zero() || self.bad.contains_key(&id) || self.seen.contains(&id) {
                continue;
            }
            match self.read_node(size_bytes, level, index, id).await {
                Ok(children) => {
                    self.seen.insert(id);
                    nodes.extend(children);
                }
                Err(error) if error.is_damage() => {
                    self.bad.insert(id, fault(&format!("chunk {id:?}"), &error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read_node(&mut self, size_bytes: u64, level: u32, index: u64, id: ChunkId) -> Result<Vec<Node>> {
        let bytes = self.core.node(id).await?;
        self.report.chunks += 1;
        self.report.bytes_read += bytes.len() as u64;
        let misplaced = || Error::damaged(format!("map node {id:?}"), "it is not the node that belongs here");
        if level > 0 {
            return children(&bytes, size_bytes, level, index).ok_or_else(misplaced);
        }
        let entries = map::decode_leaf(&bytes, map::page_bytes(size_bytes, index)).ok_or_else(misplaced)?;
        self.wanted.extend(entries.iter().map(|entry| entry.id).filter(|id| !id.is_zero()));
        Ok(Vec::new())
    }

    /// Reads each data chunk once, in the order of the packs.
    async fn read_data(&mut self) -> Result<()> {
        let mut packs: BTreeMap<ObjectId, Vec<(Location, ChunkId)>> = BTreeMap::new();
        let mut planned = 0;
        for id in std::mem::take(&mut self.wanted) {
            match self.core.index.known(&id) {
                Some(location) => {
                    planned += u64::from(location.sealed_bytes);
                    packs.entry(location.pack).or_default().push((location, id));
                }
                None => {
                    self.bad.insert(id, (format!("chunk {id:?}"), "no pack holds it".to_owned()));
                }
            }
        }
        self.progress.planned(planned);
        let mut reads: Vec<Vec<(Location, ChunkId)>> = Vec::new();
        for (_, mut places) in packs {
            places.sort_unstable_by_key(|(location, _)| location.offset);
            group(&places, &mut reads);
        }
        let (core, progress) = (self.core, Arc::clone(&self.progress));
        let mut outcomes = stream::iter(reads)
            .map(|run| {
                let progress = Arc::clone(&progress);
                async move {
                    let (bytes, count) = (run.iter().map(|(place, _)| u64::from(place.sealed_bytes)).sum(), run.len());
                    let bad = check_run(core, run).await?;
                    progress.read(bytes);
                    Ok::<_, Error>((bytes, count, bad))
                }
            })
            .buffer_unordered(READS_AT_ONCE);
        while let Some((bytes, count, bad)) = outcomes.try_next().await? {
            self.report.bytes_read += bytes;
            self.report.chunks += count as u64;
            self.bad.extend(bad);
        }
        Ok(())
    }

    /// Finds every place of the chunks that are bad.
    async fn attribute(&mut self, points: &[Point]) -> Result<()> {
        let mut by_object: BTreeMap<String, Damage> = BTreeMap::new();
        for (object, reason) in self.bad.values() {
            let damage = Damage { object: object.clone(), reason: reason.clone(), affected: Vec::new() };
            let known = by_object.entry(object.clone()).or_insert(damage);
            if known.reason > *reason {
                known.reason.clone_from(reason); // the same one whatever the order of the table
            }
        }
        for point in points {
            for disk in &point.disks {
                let root = manifest::root(&disk.map_root).unwrap_or(ChunkId::ZERO);
                for (object, extents) in self.bad_extents(disk.size_bytes, root).await? {
                    let Some(damage) = by_object.get_mut(&object) else { continue };
                    damage.affected.push(Affected {
                        point: point.id,
                        machine: point.machine.name.clone(),
                        disk: disk.config.key,
                        label: disk.config.label.clone(),
                        extents: domain::extent::coalesce(&extents, 1, 0, disk.size_bytes),
                    });
                }
            }
        }
        for (object, damage) in by_object {
            // What was said about the object as a whole stays, with what it affects.
            match self.report.damage.iter_mut().find(|known| known.object == object) {
                Some(known) => known.affected = damage.affected,
                None => self.report.damage.push(damage),
            }
        }
        Ok(())
    }

    /// Extents of a disk that bad chunks take with them, by object.
    async fn bad_extents(&self, size_bytes: u64, root: ChunkId) -> Result<BTreeMap<String, Vec<Extent>>> {
        let mut found: BTreeMap<String, Vec<Extent>> = BTreeMap::new();
        let mut nodes: Vec<Node> = vec![(map::root_level(size_bytes), 0, root)];
        while let Some((level, index, id)) = nodes.pop() {
            let span = map::span_bytes(level);
            let start = index * span;
            if let Some((object, _)) = self.bad.get(&id) {
                let extent = Extent::new(start, span.min(size_bytes - start));
                found.entry(object.clone()).or_default().push(extent);
                continue;
            }
            if id.is_zero() {
                continue;
            }
            let bytes = self.core.node(id).await?;
            if level > 0 {
                nodes.extend(children(&bytes, size_bytes, level, index).unwrap_or_default());
                continue;
            }
            let mut offset = start;
            for entry in map::decode_leaf(&bytes, map::page_bytes(size_bytes, index)).unwrap_or_default() {
                if let Some((object, _)) = self.bad.get(&entry.id) {
                    found.entry(object.clone()).or_default().push(Extent::new(offset, u64::from(entry.length)));
                }
                offset += u64::from(entry.length);
            }
        }
        Ok(found)
    }
}

async fn check_footer(core: &Core, object: ObjectInfo) -> (String, Result<()>) {
    let outcome = match names::parse_pack(&object.name) {
        Some(id) => read_footer(core, &id, object.size).await.map(drop),
        None => Err(Error::damaged(&object.name, "its name is not that of a pack")),
    };
    (object.name, outcome)
}

fn children(bytes: &Bytes, size_bytes: u64, level: u32, index: u64) -> Option<Vec<Node>> {
    let ids = map::decode_inner(bytes, level, map::child_count(size_bytes, level, index))?;
    Some(ids.into_iter().enumerate().map(|(child, id)| (level - 1, index * FANOUT + child as u64, id)).collect())
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

/// Groups ascending places of one pack into reads.
fn group(places: &[(Location, ChunkId)], reads: &mut Vec<Vec<(Location, ChunkId)>>) {
    let first_of_pack = reads.len();
    for place in places {
        let joins = |run: &Vec<(Location, ChunkId)>| {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return false };
            let end = last.offset + u64::from(last.sealed_bytes);
            place.0.offset <= end + READ_GAP_BYTES
                && place.0.offset + u64::from(place.0.sealed_bytes) - first.offset <= READ_BYTES_MAX
        };
        match reads.get_mut(first_of_pack..).and_then(<[_]>::last_mut) {
            Some(run) if joins(run) => run.push(*place),
            _ => reads.push(vec![*place]),
        }
    }
}

/// Reads and checks chunks that lie together: those that are bad.
async fn check_run(core: &Arc<Core>, run: Vec<(Location, ChunkId)>) -> Result<Vec<(ChunkId, Fault)>> {
    let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return Ok(Vec::new()) };
    let (start, end) = (first.offset, last.offset + u64::from(last.sealed_bytes));
    let name = names::pack(&first.pack);
    let sealed = match core.backend.get(&name, Some(start..end)).await {
        Ok(sealed) => sealed,
        // Cut short somewhere in here: those before the cut are still good.
        Err(error) if error.kind == BackendErrorKind::TooShort && run.len() > 1 => {
            let singles = run.into_iter().map(|place| Box::pin(check_run(core, vec![place])));
            let bad: Vec<_> = singles.collect::<FuturesUnordered<_>>().try_collect().await?;
            return Ok(bad.into_iter().flatten().collect());
        }
        Err(error) => {
            let reason = match error.kind {
                BackendErrorKind::TooShort => "it is cut short",
                BackendErrorKind::NotFound => "it is missing",
                _ => return Err(error.into()),
            };
            return Ok(run.into_iter().map(|(_, id)| (id, (name.clone(), reason.to_owned()))).collect());
        }
    };
    let checks: Vec<_> = run
        .into_iter()
        .map(|(location, id)| {
            let from = (location.offset - start) as usize;
            let part = sealed.slice(from..from + location.sealed_bytes as usize);
            let keys = Arc::clone(&core.keys);
            let check = core.pool.submit(move |workspace| {
                decode_chunk(&keys, &location, ChunkKind::Data, id, &part, workspace).map(drop)
            });
            (id, check)
        })
        .collect();
    let mut bad = Vec::new();
    for (id, check) in checks {
        match settle(check).await {
            Ok(()) => {}
            Err(error) if error.is_damage() => bad.push((id, fault(&name, &error))),
            Err(error) => return Err(error),
        }
    }
    Ok(bad)
}
