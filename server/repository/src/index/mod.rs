//! Where each chunk is: from index segments and, where these fail, from the packs' own footers. Memory is bounded: what
//! does not fit is in files of this machine that can always be made again.
//!
//! Owns: which packs and segments are known, which are gone, condemned or bad. Must never answer [`Index::has`] with a chunk
//! whose pack may be gone: a pack counts as there while a segment that was listed at the last refresh names it, or when it
//! was looked up. Packs are not listed on the way; only for a chunk that is missing, by verify, and by collection.
//! Next: `load` (from the repository), `merge` (of segments in it), `tiers` (memory and files), `run` (a file).

mod build;
mod filter;
mod layout;
mod load;
mod merge;
mod packs;
mod record;
mod run;
mod store;
pub mod synthetic;
mod table;
mod tiers;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::backend::{BackendError, BackendErrorKind};
use crate::environment::Environment;
use crate::format::crypto::Keys;
use crate::format::names::ObjectId;
use crate::format::pack::{Spot, spots};
use crate::format::segment::PackRecord;
use crate::format::stamp::Bad;
use crate::format::{ChunkId, ChunkKind, Codec};
use packs::{Packs, Trust};
use record::{Place, key_of};
use tiers::{Segment, Tiers};

pub use load::{read_footer, read_segment};
pub use merge::merge_segments;
pub use table::{IdMap, IdSet};
pub use tiers::IndexOptions;

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub pack: ObjectId,
    /// Of the keys the pack is sealed with.
    pub generation: u8,
    pub spot: Spot,
    /// Of its content.
    pub length: u32,
    pub kind: ChunkKind,
    pub codec: Codec,
}

impl Location {
    /// From the start of the pack object to where it, or the frame it is in, ends.
    pub fn end(&self) -> u64 {
        self.spot.offset + u64::from(self.spot.sealed_bytes)
    }

    /// Its share of the stored bytes.
    pub fn share_bytes(&self) -> u64 {
        u64::from(self.spot.share_bytes(self.length))
    }
}

/// The index of an open repository.
pub struct Index {
    tiers: Arc<Tiers>,
    loading: tokio::sync::Mutex<load::Progress>,
}

impl Drop for Index {
    fn drop(&mut self) {
        self.tiers.close();
    }
}

impl Index {
    pub fn new(keys: &Keys, environment: &Environment) -> Self {
        // A secret of the repository: only its own cache checks.
        let secret = keys.chunk_id(ChunkKind::Map, b"stillframe index cache");
        let secret = secret.0.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
        let (options, randomness) = (environment.index.clone(), Arc::clone(&environment.randomness));
        let tiers = Arc::new(Tiers::new(options, keys.repository, secret, randomness));
        Self { tiers, loading: tokio::sync::Mutex::default() }
    }

    /// Adds a durable pack.
    pub fn add(&self, record: &PackRecord) {
        if self.insert(record) {
            self.tiers.tend();
        }
    }

    /// True when it was not known.
    fn insert(&self, record: &PackRecord) -> bool {
        let mut added = false;
        self.tiers.add(|insert| {
            let number = {
                let mut packs = self.tiers.packs.write();
                let known = packs.number(&record.id);
                if known.and_then(|number| packs.get(number)).is_some_and(|pack| !pack.is_gone()) {
                    return;
                }
                let Some(number) = packs.insert(record.id, record.generation) else { return };
                packs.revive(number);
                if record.entries.is_empty() {
                    packs.set_stored(number);
                }
                number
            };
            added = true;
            for (spot, entry) in spots(&record.entries).iter().zip(&record.entries) {
                if let Some(place) = Place::new(number, spot, entry) {
                    insert(key_of(&entry.id), place);
                }
            }
        });
        added
    }

    /// Notes that a segment with these packs, all added, is in the repository now, so that it need not be read.
    pub fn cover(&self, segment: ObjectId, records: &[PackRecord]) {
        let numbers: Vec<u32> = {
            let packs = self.tiers.packs.read();
            records.iter().filter_map(|record| packs.number(&record.id)).collect()
        };
        if numbers.len() == records.len() {
            self.tiers.segments.lock().insert(segment, Segment::new(numbers));
        }
    }

    /// May a writer refer to the chunk instead of storing it?
    pub fn has(&self, id: &ChunkId) -> bool {
        self.usable_pack(id).is_some()
    }

    /// A pack that a writer may refer to for this chunk: its place there is expected to be readable, and the pack is not
    /// going to be deleted.
    pub fn usable_pack(&self, id: &ChunkId) -> Option<ObjectId> {
        self.tiers.view().find_map(&key_of(id), |places| {
            let packs = self.tiers.packs.read();
            let good = places.iter().find(|place| packs.trust(**place) == Trust::Good)?;
            packs.get(good.pack()).map(|pack| pack.id)
        })
    }

    /// The same, and of each whether it is expected to be readable.
    pub fn judged(&self, id: &ChunkId) -> Vec<(Location, bool)> {
        let readable = |trust| matches!(trust, Trust::Good | Trust::Condemned);
        self.trusted(id).into_iter().map(|(trust, location)| (location, readable(trust))).collect()
    }

    /// Is what is in the pack known?
    pub fn knows(&self, pack: &ObjectId) -> bool {
        let packs = self.tiers.packs.read();
        packs.number(pack).and_then(|number| packs.get(number)).is_some_and(|pack| !pack.is_gone())
    }

    /// The place to read the chunk from, as far as is known.
    pub fn known(&self, id: &ChunkId) -> Option<Location> {
        self.trusted(id).into_iter().next().map(|(_, location)| location)
    }

    /// Every place of the chunk, those that are expected to be readable first.
    pub fn places(&self, id: &ChunkId) -> Vec<Location> {
        self.trusted(id).into_iter().map(|(_, location)| location).collect()
    }

    fn trusted(&self, id: &ChunkId) -> Vec<(Trust, Location)> {
        let mut places = Vec::new();
        self.tiers.view().find(&key_of(id), &mut places);
        let packs = self.tiers.packs.read();
        let mut trusted: Vec<_> = places.iter().filter_map(|place| located(&packs, *place)).collect();
        // The first place stays first among equals, so that readers of neighbouring chunks stay in one pack.
        trusted.sort_by_key(|(trust, _)| *trust);
        trusted.dedup();
        trusted
    }

    /// These packs are going to be deleted: nothing new may refer to them. For ever, whether known here yet or not.
    pub fn condemn<'a>(&self, condemned: impl IntoIterator<Item = &'a ObjectId>) {
        self.tiers.packs.write().condemn(condemned);
    }

    /// Replaces what is known to be bad in a pack. Such places are not deduplicated against, and read only when there is no
    /// other.
    pub fn set_bad(&self, pack: ObjectId, bad: Bad) {
        self.tiers.packs.write().set_bad(pack, bad);
    }

    /// Adds one place to what is known to be bad.
    pub fn add_bad(&self, place: &Location) {
        self.tiers.packs.write().add_bad(place.pack, place.spot.ordinal);
    }

    /// Is this place expected to be readable?
    pub fn is_good(&self, id: &ChunkId, place: &Location) -> bool {
        let readable = |trust| matches!(trust, Trust::Good | Trust::Condemned);
        self.trusted(id).iter().any(|(trust, known)| readable(*trust) && known == place)
    }

    /// A read of this place failed: when its pack is gone, nothing new refers to it.
    pub fn note_failed_read(&self, place: &Location, error: &BackendError) {
        if error.kind == BackendErrorKind::NotFound {
            self.forget(&place.pack);
        }
    }

    /// The pack's object was found to be gone.
    pub fn forget(&self, pack: &ObjectId) {
        let mut packs = self.tiers.packs.write();
        if let Some(number) = packs.number(pack) {
            packs.set_present(number, false, true);
        }
    }
}

/// Where a pack's chunks are.
pub fn locations(record: &PackRecord) -> Vec<(Location, ChunkId)> {
    let (pack, generation) = (record.id, record.generation);
    let entries = record.entries.iter();
    let located = spots(&record.entries).into_iter().zip(entries).map(|(spot, entry)| {
        let (length, kind, codec) = (entry.length, entry.kind, entry.codec);
        (Location { pack, generation, spot, length, kind, codec }, entry.id)
    });
    located.collect()
}

fn located(packs: &Packs, place: Place) -> Option<(Trust, Location)> {
    let (trust, pack) = (packs.trust(place), packs.get(place.pack())?);
    let location = Location {
        pack: pack.id,
        generation: pack.generation,
        spot: place.spot(),
        length: place.length(),
        kind: place.kind(),
        codec: place.codec(),
    };
    (trust != Trust::None).then_some((trust, location))
}
