//! Filling the index from the repository: segments that are new, segments that vanished, and packs no segment names.

use futures_util::{StreamExt, stream};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::time::Instant;

use super::packs::Pack;
use super::tiers::Tiers;
use super::{Index, Location};
use crate::backend::{BackendErrorKind, ObjectInfo};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::ChunkId;
use crate::format::envelope::{HEADER_BYTES, Header, Magic};
use crate::format::names::{self, ObjectId};
use crate::format::pack::{self, PACK_OBJECT_BYTES_MAX, PackSeal, TRAILER_BYTES};
use crate::format::segment::{self, PackRecord, SEGMENT_BYTES_MAX};
use crate::index::IdSet;
use crate::verify::stamps;

/// Segments up to this long are read several at a time.
const SMALL_SEGMENT_BYTES: u64 = 1 << 20;
/// Small segments, footers or look-ups at the same time.
const REQUESTS_AT_ONCE: usize = 8;
/// Lists of segments taken again because one was replaced meanwhile.
const RELISTS_MAX: usize = 4;
/// From this many packs on they are listed in 256 parts, to bound memory.
const PACKS_IN_ONE_LIST_MAX: usize = 100_000;
/// More packs whose presence is in doubt are listed rather than looked up one by one.
const LOOK_UPS_MAX: usize = 1000;
/// Chunks remembered as missing.
const MISSING_CHUNKS_MAX: usize = 4096;
/// With a cache folder, what was read is written to it at the end when it came from this many segments.
const SEGMENTS_IN_MEMORY_MAX: usize = 32;

/// How far loading has come.
#[derive(Default)]
pub struct Progress {
    cache_opened: bool,
    loaded: bool,
    /// Segments that cannot be read.
    unreadable: HashSet<ObjectId>,
    /// Chunks that were in no pack when all were last looked through, since the last change of the segments.
    missing: IdSet,
    in_memory: usize,
    /// Until when lists that lag are, or were, given their time before a chunk is called missing.
    settled_at: Option<Instant>,
    /// At the last load something was sealed with this newer generation of keys; and the newest that was known.
    rotated: Option<(u8, u8)>,
}

impl Progress {
    fn leave_out(&mut self, error: &Error) {
        tracing::warn!(%error, "left out of the index");
        if let Error::KeysRotated { generation, newest, .. } = error {
            self.rotated = Some((*generation, *newest));
        }
    }

    /// A chunk that no readable pack holds may be in one sealed with keys made since.
    fn missing(&self, id: &ChunkId) -> Error {
        let object = format!("chunk {id:?}");
        match self.rotated {
            Some((generation, newest)) => Error::KeysRotated { object, generation, newest },
            None => Error::Missing { object },
        }
    }
}

impl Index {
    /// Where the chunk is. Looks for what other writers added since, and in packs no segment covers, before giving up.
    pub async fn locate(&self, core: &Core, id: &ChunkId) -> Result<Location> {
        self.ensure_loaded(core).await?;
        // One that is known to be bad may have been stored anew by another writer.
        if let Some(location) = self.known(id).filter(|location| self.is_good(id, location)) {
            return Ok(location);
        }
        let lag = core.backend.list_lag();
        loop {
            let mut progress = self.loading.lock().await;
            self.load(core, &mut progress).await?;
            if self.known(id).is_none() && !progress.missing.contains(id) {
                self.scan(core, &mut progress).await?;
            }
            if let Some(location) = self.known(id) {
                return Ok(location);
            }
            // It may have been stored just now, and no list shows it yet.
            if !lag.is_zero() && !progress.missing.contains(id) {
                let now = Instant::now();
                let settled_at = progress.settled_at.filter(|at| *at + lag >= now).unwrap_or(now + lag);
                progress.settled_at = Some(settled_at);
                if settled_at > now {
                    drop(progress);
                    tokio::time::sleep_until(settled_at).await;
                    continue;
                }
            }
            if progress.rotated.is_none() && progress.missing.len() < MISSING_CHUNKS_MAX {
                progress.missing.insert(*id);
            }
            return Err(progress.missing(id));
        }
    }

    /// Loads the index once.
    pub async fn ensure_loaded(&self, core: &Core) -> Result<()> {
        let mut progress = self.loading.lock().await;
        if progress.loaded { Ok(()) } else { self.load(core, &mut progress).await }
    }

    /// Brings the index up to what the segments say now.
    pub async fn refresh(&self, core: &Core) -> Result<()> {
        let mut progress = self.loading.lock().await;
        self.load(core, &mut progress).await
    }

    /// The same, and looks at every pack: finds those no segment covers, and those that are missing.
    pub async fn rescan(&self, core: &Core) -> Result<()> {
        let mut progress = self.loading.lock().await;
        self.load(core, &mut progress).await?;
        self.scan(core, &mut progress).await
    }

    async fn load(&self, core: &Core, progress: &mut Progress) -> Result<()> {
        stamps::load_new(core).await?;
        if !progress.cache_opened && self.tiers.keeps_a_cache() {
            self.blocking(Tiers::open_cache).await;
        }
        progress.cache_opened = true;
        if self.tiers.is_broken() {
            self.blocking(Tiers::reset).await;
        }
        if !progress.loaded {
            self.tiers.fill();
        }
        progress.rotated = None;
        let (mut damaged, mut listed) = (false, HashSet::new());
        for _ in 0..RELISTS_MAX {
            let objects = core.backend.list(names::INDEX).await?;
            listed = objects.iter().filter_map(|object| names::parse_segment(&object.name)).collect();
            let outcome = self.read_new(core, objects, progress).await?;
            damaged |= outcome.damaged;
            if !outcome.vanished {
                break;
            }
        }
        let vanished = {
            let mut segments = self.tiers.segments.lock();
            let before = segments.len();
            segments.retain(|id, _| listed.contains(id));
            before - segments.len()
        };
        if vanished > 0 {
            progress.missing.clear();
        }
        self.look_up_doubtful(core, progress).await?;
        if damaged || listed.is_empty() {
            self.scan(core, progress).await?;
        }
        if self.tiers.keeps_a_cache() && progress.in_memory >= SEGMENTS_IN_MEMORY_MAX {
            self.blocking(|tiers| tiers.spill().unwrap_or_else(|error| stays_in_memory(&error))).await;
            progress.in_memory = 0;
        }
        if !progress.loaded {
            self.blocking(|tiers| tiers.filled().unwrap_or_else(|error| stays_in_memory(&error))).await;
        }
        self.tiers.tend();
        progress.loaded = true;
        Ok(())
    }

    async fn blocking(&self, work: impl FnOnce(&Tiers) + Send + 'static) {
        let tiers = Arc::clone(&self.tiers);
        // It fails only when the runtime is going away.
        let _ = tokio::task::spawn_blocking(move || work(&tiers)).await;
    }

    async fn read_new(&self, core: &Core, objects: Vec<ObjectInfo>, progress: &mut Progress) -> Result<Outcome> {
        let new: Vec<(ObjectId, ObjectInfo)> = {
            let segments = self.tiers.segments.lock();
            let is_new = |id: &ObjectId| !segments.contains_key(id) && !progress.unreadable.contains(id);
            let ids = objects.into_iter().filter_map(|object| Some((names::parse_segment(&object.name)?, object)));
            ids.filter(|(id, _)| is_new(id)).collect()
        };
        let (small, large): (Vec<_>, Vec<_>) =
            new.into_iter().partition(|(_, object)| object.size <= SMALL_SEGMENT_BYTES);
        let mut outcome = Outcome::default();
        for (objects, at_once) in [(small, REQUESTS_AT_ONCE), (large, 1)] {
            let mut read = stream::iter(objects).map(|(id, object)| read_named(core, id, object)).buffered(at_once);
            while let Some((id, records)) = read.next().await {
                match records {
                    Ok(records) => {
                        self.take(id, &records).await;
                        progress.in_memory += 1;
                        progress.missing.clear();
                    }
                    // Merged with others since the list was taken.
                    Err(Error::Backend(error)) if error.kind == BackendErrorKind::NotFound => outcome.vanished = true,
                    // What it said is in the packs as well.
                    Err(error) if error.is_damage() => {
                        tracing::warn!(%error, "index segment unreadable, using pack footers");
                        progress.unreadable.insert(id);
                        outcome.damaged = true;
                    }
                    // Written since the keys were rotated: not for those who hold the old ones, and read again when they learn.
                    Err(error @ Error::KeysRotated { .. }) => progress.leave_out(&error),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(outcome)
    }

    async fn take(&self, segment: ObjectId, records: &[PackRecord]) {
        for record in records {
            self.insert(record);
        }
        self.cover(segment, records);
        if self.tiers.is_full() {
            self.blocking(|tiers| tiers.gather().unwrap_or_else(|error| stays_in_memory(&error))).await;
        }
    }

    /// By number of a pack: does a segment name it?
    fn covered(&self) -> Vec<bool> {
        let mut covered = vec![false; self.tiers.packs.read().len()];
        for segment in self.tiers.segments.lock().values() {
            for range in &segment.packs {
                let range = range.start as usize..range.end as usize;
                covered.get_mut(range).into_iter().flatten().for_each(|covered| *covered = true);
            }
        }
        covered
    }

    /// Looks up the packs that no segment names, and those that were absent.
    async fn look_up_doubtful(&self, core: &Core, progress: &mut Progress) -> Result<()> {
        let covered = self.covered();
        let doubtful: Vec<u32> = {
            let packs = self.tiers.packs.read();
            let listed = packs.iter().zip(&covered);
            let in_doubt = listed.filter(|((_, pack), covered)| !pack.is_gone() && (pack.is_absent() || !**covered));
            in_doubt.map(|((number, _), _)| number).collect()
        };
        if doubtful.len() > LOOK_UPS_MAX {
            return self.scan(core, progress).await;
        }
        self.look_up(core, doubtful, &covered).await
    }

    async fn look_up(&self, core: &Core, numbers: Vec<u32>, covered: &[bool]) -> Result<()> {
        let ids: Vec<(u32, ObjectId)> = {
            let packs = self.tiers.packs.read();
            numbers.into_iter().filter_map(|number| Some((number, packs.get(number)?.id))).collect()
        };
        let mut found = stream::iter(ids).map(|(number, id)| is_present(core, number, id)).buffered(REQUESTS_AT_ONCE);
        while let Some((number, present)) = found.next().await {
            let covered = covered.get(number as usize).copied().unwrap_or_default();
            self.tiers.packs.write().set_present(number, present?, covered);
        }
        Ok(())
    }

    /// Lists all packs: reads the footers of those that are not known, and notes which are gone.
    async fn scan(&self, core: &Core, progress: &mut Progress) -> Result<()> {
        // Those that are added while the list is taken may be missing in it.
        let known = self.tiers.packs.read().len();
        let mut present = vec![false; known];
        let prefixes = if known < PACKS_IN_ONE_LIST_MAX {
            vec![names::PACKS.to_owned()]
        } else {
            (0..=u8::MAX).map(|byte| format!("{}{byte:02x}/", names::PACKS)).collect()
        };
        for prefix in prefixes {
            let mut unknown = Vec::new();
            for object in core.backend.list(&prefix).await? {
                let Some(id) = names::parse_pack(&object.name) else { continue };
                let packs = self.tiers.packs.read();
                let number = packs.number(&id);
                if number.and_then(|number| packs.get(number)).is_none_or(Pack::is_gone) {
                    unknown.push((id, object));
                } else if let Some(present) = number.and_then(|number| present.get_mut(number as usize)) {
                    *present = true;
                }
            }
            self.read_footers(core, unknown, progress).await?;
        }
        let covered = self.covered();
        let absent: Vec<u32> = {
            let mut packs = self.tiers.packs.write();
            let seen = (0u32..).zip(&present);
            seen.clone().filter(|(_, present)| **present).for_each(|(number, _)| packs.set_present(number, true, true));
            let not_gone = |number: &u32| packs.get(*number).is_some_and(|pack| !pack.is_gone());
            seen.filter(|(_, present)| !**present).map(|(number, _)| number).filter(not_gone).collect()
        };
        self.look_up(core, absent, &covered).await
    }

    async fn read_footers(
        &self,
        core: &Core,
        packs: Vec<(ObjectId, ObjectInfo)>,
        progress: &mut Progress,
    ) -> Result<()> {
        let mut read = stream::iter(packs).map(|(id, object)| footer_of(core, id, object)).buffered(REQUESTS_AT_ONCE);
        while let Some(record) = read.next().await {
            match record {
                Ok(record) => self.add(&record),
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, "pack without index segment is unreadable");
                }
                Err(error @ Error::KeysRotated { .. }) => progress.leave_out(&error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Outcome {
    damaged: bool,
    vanished: bool,
}

fn stays_in_memory(error: &std::io::Error) {
    tracing::warn!(%error, "the index cannot write its files and stays in memory for now");
}

async fn read_named(core: &Core, id: ObjectId, object: ObjectInfo) -> (ObjectId, Result<Vec<PackRecord>>) {
    (id, read_segment(core, &object.name, object.size).await)
}

async fn footer_of(core: &Core, id: ObjectId, object: ObjectInfo) -> Result<PackRecord> {
    // Its writer may not have got as far as syncing the folder: what is in the index is durable.
    core.backend.sync(&object.name).await?;
    read_footer(core, &id, object.size).await
}

async fn is_present(core: &Core, number: u32, id: ObjectId) -> (u32, Result<bool>) {
    let present = match core.backend.stat(&names::pack(&id)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == BackendErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    };
    (number, present)
}

/// Reads an index segment.
pub async fn read_segment(core: &Core, name: &str, size: u64) -> Result<Vec<PackRecord>> {
    if size > SEGMENT_BYTES_MAX {
        return Err(Error::damaged(name, "it is longer than any index segment"));
    }
    let bytes = core.backend.get(name, None).await?;
    match segment::decode(&core.keys, name, &bytes) {
        Err(error) => Err(core.settle_generation(error).await),
        decoded => decoded,
    }
}

/// Reads a pack's footer, header and trailer and checks that they fit its length.
pub async fn read_footer(core: &Core, id: &ObjectId, size: u64) -> Result<PackRecord> {
    let name = names::pack(id);
    if size < (HEADER_BYTES + TRAILER_BYTES) as u64 || size > PACK_OBJECT_BYTES_MAX {
        return Err(Error::damaged(&name, "it does not have the length of a pack"));
    }
    let header = core.backend.get(&name, Some(0..HEADER_BYTES as u64)).await?;
    let trailer = core.backend.get(&name, Some(size - TRAILER_BYTES as u64..size)).await?;
    let tail_bytes = pack::tail_bytes(&name, &trailer, size)?;
    let tail = core.backend.get(&name, Some(size - tail_bytes..size)).await?;
    let generation = Header::decode(Magic::Pack, &header, &name)?.generation(&name)?;
    let seal = match PackSeal::of(&core.keys, *id, generation) {
        Err(error) => return Err(core.settle_generation(error).await),
        Ok(seal) => seal,
    };
    let entries = seal.open_footer(&header, &tail, size)?;
    Ok(PackRecord { id: *id, object_bytes: size, generation, entries })
}
