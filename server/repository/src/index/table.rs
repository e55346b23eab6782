//! The memory tier: what was added since the last run was written. Also the hash tables for chunk ids of this crate.

use parking_lot::RwLock;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::record::{Key, Place, Record};
use crate::format::ChunkId;

const SHARDS: usize = 64;

/// Chunk ids are uniform already.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(head) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*head);
        }
    }

    fn write_usize(&mut self, _: usize) {}
}

/// A set of chunk ids.
pub type IdSet = HashSet<ChunkId, BuildHasherDefault<IdHasher>>;
/// A map from chunk ids.
pub type IdMap<T> = HashMap<ChunkId, T, BuildHasherDefault<IdHasher>>;
type KeyMap<T> = HashMap<Key, T, BuildHasherDefault<IdHasher>>;

#[derive(Default)]
struct Shard {
    places: KeyMap<Place>,
    /// Second and later places of the few chunks that have them.
    others: KeyMap<Vec<Place>>,
}

/// Places by key, sharded.
pub struct Table {
    shards: Vec<RwLock<Shard>>,
    records: AtomicUsize,
}

impl Default for Table {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), records: AtomicUsize::new(0) }
    }
}

impl Table {
    fn shard(&self, key: &Key) -> &RwLock<Shard> {
        // The table inside a shard uses the first eight bytes.
        &self.shards[usize::from(key[15]) % SHARDS]
    }

    pub fn insert(&self, key: Key, place: Place) {
        let mut shard = self.shard(&key).write();
        match shard.places.get(&key) {
            None => {
                shard.places.insert(key, place);
            }
            Some(first) if *first == place => return,
            Some(_) => shard.others.entry(key).or_default().push(place),
        }
        self.records.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds the places of a key to `found`, the first one first.
    pub fn find(&self, key: &Key, found: &mut Vec<Place>) {
        let shard = self.shard(key).read();
        let Some(first) = shard.places.get(key) else { return };
        found.push(*first);
        if !shard.others.is_empty() {
            found.extend(shard.others.get(key).into_iter().flatten());
        }
    }

    pub fn len(&self) -> usize {
        self.records.load(Ordering::Relaxed)
    }

    /// Everything, into `out`, unsorted.
    pub fn collect(&self, out: &mut Vec<Record>) {
        for shard in &self.shards {
            let shard = shard.read();
            out.extend(shard.places.iter().map(|(key, place)| Record { key: *key, place: *place }));
            for (key, places) in &shard.others {
                out.extend(places.iter().map(|place| Record { key: *key, place: *place }));
            }
        }
    }
}
