//! Reading packs: which of them, whole or only what some points need, and what is bad in them.

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pace::Pace;
use super::{Fault, Listed, Verifier, VerifyProgress, fault, milliseconds};
use crate::backend::BackendErrorKind;
use crate::core::{Core, decode_with};
use crate::error::{Error, Result};
use crate::format::ChunkId;
use crate::format::names::{self, ObjectId};
use crate::format::pack::PackSeal;
use crate::format::segment::PackRecord;
use crate::format::stamp::Bad;
use crate::index::{IdSet, Location, locations, read_footer, read_segment};
use crate::pool::settle;
use crate::reader::by_frame;

/// Neighbours in a pack this close are read in one go.
const READ_GAP_BYTES: u64 = 256 << 10;
/// Longest single read of a pack.
const READ_BYTES_MAX: u64 = 8 << 20;
/// Packs, or reads, at the same time.
const READS_AT_ONCE: usize = 4;
/// At least so many packs are in a stamp that is written on the way. Later ones are longer, so that there are few.
const CHECKPOINT_PACKS_MIN: usize = 64;

/// Chunks that are read together.
type Run = Vec<(Location, ChunkId)>;
/// A chunk that is bad in a place, and why.
type BadPlace = (Location, ChunkId, Fault);

/// What reading a pack came to.
struct Outcome {
    pack: ObjectId,
    bytes: u64,
    chunks: u64,
    bad: Vec<BadPlace>,
    /// Its footer cannot be read.
    unlisted: Option<Fault>,
    vanished: bool,
}

/// What reading needs; shared by what runs side by side.
struct Reading {
    core: Arc<Core>,
    progress: Arc<dyn VerifyProgress>,
    pace: Mutex<Pace>,
    /// Map nodes that were read already.
    seen: IdSet,
}

impl Verifier<'_> {
    /// Footers alone.
    pub(super) async fn check_footers(&mut self) -> Result<()> {
        let core = self.core;
        let mut footers = stream::iter(self.listed.clone())
            .map(|(id, size)| async move { (id, read_footer(core, &id, size).await) })
            .buffered(READS_AT_ONCE);
        while let Some((id, footer)) = footers.next().await {
            match footer {
                Ok(_) => {}
                Err(error) if error.is_damage() => self.unlisted.push((id, fault(&names::pack(&id), &error))),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Which packs are to be read, by what stamps say and what is asked for.
    fn select(&mut self) -> Vec<Listed> {
        let mut since = self.options.since.map_or(u64::MAX, milliseconds);
        if self.report.resumed_from.is_some() {
            since = since.min(self.before.stamp.unfinished_since);
        }
        let last = |id: &ObjectId| self.before.stamp.packs.get(id).map_or(0, |check| check.checked_at);
        let mut packs: Vec<(u64, Listed)> = self.listed.iter().map(|pack| (last(&pack.0), *pack)).collect();
        packs.retain(|(at, _)| *at < since);
        self.report.packs_skipped = (self.listed.len() - packs.len()) as u64;
        if let Some(percent) = self.options.percent {
            packs.sort_unstable();
            let total: u128 = self.listed.iter().map(|(_, size)| u128::from(*size)).sum();
            let (mut wanted, mut count) = ((total * u128::from(percent)).div_ceil(100), 0);
            while let Some((_, (_, size))) = packs.get(count).filter(|_| wanted > 0) {
                wanted = wanted.saturating_sub(u128::from(*size));
                count += 1;
            }
            self.report.packs_left = (packs.len() - count) as u64;
            packs.truncate(count);
        }
        packs.into_iter().map(|(_, pack)| pack).collect()
    }

    fn reading(&mut self) -> Reading {
        Reading {
            core: Arc::clone(self.core),
            progress: Arc::clone(&self.progress),
            pace: Mutex::new(Pace::new(self.options.bytes_per_second_max)),
            seen: std::mem::take(&mut self.seen),
        }
    }

    /// Reads packs whole, each place of each chunk.
    pub(super) async fn read_packs(&mut self) -> Result<()> {
        let packs = self.select();
        self.progress.planned(packs.iter().map(|(_, size)| size).sum());
        let reading = self.reading();
        let done = self.read_each(&reading, packs).await;
        self.seen = reading.seen;
        done
    }

    async fn read_each(&mut self, reading: &Reading, packs: Vec<Listed>) -> Result<()> {
        let mut outcomes = stream::iter(packs).map(|pack| reading.pack(pack, None)).buffer_unordered(READS_AT_ONCE);
        while let Some(outcome) = outcomes.try_next().await? {
            self.take(outcome).await;
        }
        // What their footers do not say, segments may.
        let unlisted: BTreeSet<ObjectId> = self.unlisted.iter().map(|(id, _)| *id).collect();
        if unlisted.is_empty() {
            return Ok(());
        }
        for (id, record) in self.segment_records(&unlisted).await? {
            let outcome = reading.pack((id, record.object_bytes), Some(record)).await?;
            self.take(outcome).await;
        }
        Ok(())
    }

    /// What segments say of these packs.
    pub(super) async fn segment_records(&self, packs: &BTreeSet<ObjectId>) -> Result<BTreeMap<ObjectId, PackRecord>> {
        let mut found = BTreeMap::new();
        for object in self.core.backend.list(names::INDEX).await? {
            match read_segment(self.core, &object.name, object.size).await {
                Ok(records) => found.extend(
                    records.into_iter().filter(|record| packs.contains(&record.id)).map(|record| (record.id, record)),
                ),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn take(&mut self, outcome: Outcome) {
        let Outcome { pack, bytes, chunks, bad, unlisted, vanished } = outcome;
        self.report.bytes_read += bytes;
        self.report.chunks += chunks;
        self.vanished |= vanished;
        if let Some(fault) = unlisted {
            // What is in it may be readable, by a segment; but nothing new is to rely on that.
            self.unlisted.push((pack, fault));
            self.checked(pack, Bad::Whole);
            return;
        }
        self.report.packs_checked += 1;
        // One without a readable list was noted as bad whole.
        let is_listed = self.unlisted.iter().all(|(id, _)| *id != pack);
        if vanished {
            self.checked(pack, Bad::Whole);
        } else if is_listed {
            self.checked(pack, Bad::Chunks(bad.iter().map(|(place, _, _)| place.spot.ordinal).collect()));
        }
        self.faults.extend(bad.into_iter().map(|(_, id, fault)| (id, fault)));
        if self.fresh.packs.len() >= CHECKPOINT_PACKS_MIN.max(self.report.packs_checked as usize / 8) {
            self.checkpoint().await;
        }
    }

    /// Reads each data chunk that some points need once, in the order of the packs.
    pub(super) async fn read_wanted(&mut self) -> Result<()> {
        let mut packs: BTreeMap<ObjectId, Run> = BTreeMap::new();
        let mut planned = 0;
        for id in std::mem::take(&mut self.wanted) {
            let Some(location) = self.core.index.known(&id).filter(|place| self.core.index.is_good(&id, place)) else {
                continue; // the walk said so
            };
            planned += location.share_bytes();
            packs.entry(location.pack).or_default().push((location, id));
        }
        self.progress.planned(planned);
        let mut runs: Vec<Run> = Vec::new();
        for (_, mut places) in packs {
            places.sort_unstable_by_key(|(location, _)| location.spot.ordinal);
            runs.extend(group(&places));
        }
        let reading = self.reading();
        let mut outcomes = stream::iter(runs).map(|run| reading.run(run)).buffer_unordered(READS_AT_ONCE);
        while let Some((bytes, chunks, bad)) = outcomes.try_next().await? {
            self.report.bytes_read += bytes;
            self.report.chunks += chunks;
            for (place, id, fault) in bad {
                self.core.index.add_bad(&place);
                self.faults.insert(id, fault);
            }
        }
        Ok(())
    }
}

impl Reading {
    /// Reads a pack whole, by its footer or by what a segment says of it.
    async fn pack(&self, (id, size): Listed, record: Option<PackRecord>) -> Result<Outcome> {
        let mut outcome = Outcome { pack: id, bytes: 0, chunks: 0, bad: Vec::new(), unlisted: None, vanished: false };
        let record = match record {
            Some(record) => Ok(record),
            None => read_footer(&self.core, &id, size).await,
        };
        let record = match record {
            Ok(record) => record,
            Err(Error::Backend(error)) if error.kind == BackendErrorKind::NotFound => {
                return Ok(Outcome { vanished: true, ..outcome });
            }
            Err(error) if error.is_damage() => {
                return Ok(Outcome { unlisted: Some(fault(&names::pack(&id), &error)), ..outcome });
            }
            Err(error) => return Err(error),
        };
        let mut places: Run = locations(&record);
        places.retain(|(place, id)| !(self.seen.contains(id) && self.core.index.known(id) == Some(*place)));
        let left: u64 = places.iter().map(|(place, _)| place.share_bytes()).sum();
        self.progress.read(size.saturating_sub(left)); // footer and what was read already
        for run in group(&places) {
            let (bytes, chunks, bad) = self.run(run).await?;
            outcome.bytes += bytes;
            outcome.chunks += chunks;
            outcome.bad.extend(bad);
        }
        Ok(outcome)
    }

    /// Reads and checks chunks that lie together: bytes, chunks, and those that are bad.
    async fn run(&self, run: Run) -> Result<(u64, u64, Vec<BadPlace>)> {
        let bytes = run.iter().map(|(place, _)| place.share_bytes()).sum();
        let chunks = run.len() as u64;
        let wait = self.pace.lock().admit(bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let bad = check_run(&self.core, run).await?;
        self.progress.read(bytes);
        Ok((bytes, chunks, bad))
    }
}

/// Groups ascending places of one pack into reads.
fn group(places: &[(Location, ChunkId)]) -> Vec<Run> {
    let mut reads: Vec<Run> = Vec::new();
    for place in places {
        let joins = |run: &Run| {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return false };
            place.0.spot.offset <= last.end() + READ_GAP_BYTES && place.0.end() - first.spot.offset <= READ_BYTES_MAX
        };
        match reads.last_mut() {
            Some(run) if joins(run) => run.push(*place),
            _ => reads.push(vec![*place]),
        }
    }
    reads
}

/// Reads and checks chunks that lie together: those that are bad.
async fn check_run(core: &Arc<Core>, run: Run) -> Result<Vec<BadPlace>> {
    let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return Ok(Vec::new()) };
    let (start, end) = (first.spot.offset, last.end());
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
            let fault = (name, reason.to_owned());
            return Ok(run.into_iter().map(|(place, id)| (place, id, fault.clone())).collect());
        }
    };
    let seal = Arc::new(PackSeal::of(&core.keys, first.pack, first.generation)?);
    let checks: Vec<_> = by_frame(&run)
        .map(|places| {
            let Some((first, _)) = places.first() else { return core.pool.submit(|_| Ok(Vec::new())) };
            let from = (first.spot.offset - start) as usize;
            let part = sealed.slice(from..from + first.spot.sealed_bytes as usize);
            let (keys, seal, places) = (Arc::clone(&core.keys), Arc::clone(&seal), places.to_vec());
            core.pool.submit(move |workspace| {
                let check = |(place, id): &(Location, ChunkId)| {
                    decode_with(&keys, &seal, (place, place.kind, *id), &part, workspace, |_| ())
                };
                Ok(places.iter().map(check).collect::<Vec<Result<()>>>())
            })
        })
        .collect();
    let (mut bad, mut places) = (Vec::new(), run.into_iter());
    for check in checks {
        for (outcome, (place, id)) in settle(check).await?.into_iter().zip(&mut places) {
            match outcome {
                Ok(()) => {}
                Err(error) if error.is_damage() => bad.push((place, id, fault(&name, &error))),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bad)
}
