//! Where each chunk is: in memory, from index segments and, for what these do not cover, from the packs' own footers.
//! Must never answer with a chunk whose pack is not durable.

use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::backend::BackendErrorKind;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::envelope::{HEADER_BYTES, Header, Magic};
use crate::format::names::{self, ObjectId};
use crate::format::pack::{self, PACK_OBJECT_BYTES_MAX, PackSeal, TRAILER_BYTES};
use crate::format::segment::{self, PackRecord, SEGMENT_BYTES_MAX};
use crate::format::{ChunkId, ChunkKind, Codec};

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

/// A chunk's place, 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    pack: u32,
    ordinal: u32,
    offset: u32,
    stored: u32,
    length: u32,
    kind: ChunkKind,
    codec: Codec,
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub pack: ObjectId,
    /// Of the keys the pack is sealed with.
    pub generation: u8,
    pub ordinal: u32,
    /// From the start of the pack object.
    pub offset: u64,
    /// Stored bytes, tag included.
    pub sealed_bytes: u32,
    pub length: u32,
    pub kind: ChunkKind,
    pub codec: Codec,
}

#[derive(Debug, Clone, Copy)]
struct PackInfo {
    id: ObjectId,
    generation: u8,
    /// Its object was not there when last looked: do not deduplicate against it.
    absent: bool,
    /// An epoch names it, and it will be deleted. Never taken back.
    condemned: bool,
}

#[derive(Default)]
struct Packs {
    list: Vec<PackInfo>,
    numbers: HashMap<ObjectId, u32>,
    /// Condemned packs, known here or not.
    condemned: HashSet<ObjectId>,
}

/// The index of an open repository.
pub struct Index {
    shards: Vec<RwLock<IdMap<Slot>>>,
    /// Further places of chunks that are in several packs.
    others: RwLock<IdMap<Vec<Slot>>>,
    packs: RwLock<Packs>,
    segments: Mutex<HashSet<String>>,
    /// At the last load something was sealed with this newer generation of keys; and the newest that was known.
    rotated: Mutex<Option<(u8, u8)>>,
    loading: tokio::sync::Mutex<bool>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            others: RwLock::default(),
            packs: RwLock::default(),
            segments: Mutex::default(),
            rotated: Mutex::default(),
            loading: tokio::sync::Mutex::new(false),
        }
    }
}

impl Index {
    fn shard(&self, id: &ChunkId) -> &RwLock<IdMap<Slot>> {
        // The table inside a shard uses the first eight bytes.
        &self.shards[usize::from(id.0[31]) % SHARDS]
    }

    /// Adds a durable pack.
    pub fn add(&self, record: &PackRecord) {
        let number = {
            let mut packs = self.packs.write();
            if packs.numbers.contains_key(&record.id) {
                return;
            }
            let number = packs.list.len() as u32;
            let condemned = packs.condemned.contains(&record.id);
            packs.list.push(PackInfo { id: record.id, generation: record.generation, absent: false, condemned });
            packs.numbers.insert(record.id, number);
            number
        };
        let mut offset = HEADER_BYTES as u64;
        for (ordinal, entry) in record.entries.iter().enumerate() {
            let slot = Slot {
                pack: number,
                ordinal: ordinal as u32,
                offset: offset as u32,
                stored: entry.stored,
                length: entry.length,
                kind: entry.kind,
                codec: entry.codec,
            };
            offset += entry.sealed_bytes();
            self.insert(entry.id, slot);
        }
    }

    fn insert(&self, id: ChunkId, slot: Slot) {
        let mut shard = self.shard(&id).write();
        // The first place wins, so that readers of neighbouring chunks stay in one pack; unless that pack is gone.
        match shard.get(&id).copied() {
            None => drop(shard.insert(id, slot)),
            Some(old) => {
                let keep = self.is_usable(old.pack);
                if !keep {
                    shard.insert(id, slot);
                }
                self.others.write().entry(id).or_default().push(if keep { slot } else { old });
            }
        }
    }

    fn is_usable(&self, pack: u32) -> bool {
        self.packs.read().list.get(pack as usize).is_some_and(|info| !info.absent && !info.condemned)
    }

    fn slots(&self, id: &ChunkId) -> Vec<Slot> {
        let Some(first) = self.shard(id).read().get(id).copied() else { return Vec::new() };
        let mut slots = vec![first];
        slots.extend(self.others.read().get(id).into_iter().flatten());
        slots
    }

    /// May a writer refer to the chunk instead of storing it?
    pub fn has(&self, id: &ChunkId) -> bool {
        self.usable_pack(id).is_some()
    }

    /// A pack that a writer may refer to for this chunk: there when last looked, and not condemned.
    pub fn usable_pack(&self, id: &ChunkId) -> Option<ObjectId> {
        let first = self.shard(id).read().get(id).copied()?;
        let slot = if self.is_usable(first.pack) {
            first
        } else {
            self.slots(id).into_iter().find(|slot| self.is_usable(slot.pack))?
        };
        Some(self.packs.read().list.get(slot.pack as usize)?.id)
    }

    /// Where the chunk is best read, as far as is known.
    pub fn known(&self, id: &ChunkId) -> Option<Location> {
        let first = self.shard(id).read().get(id).copied()?;
        if self.is_usable(first.pack) {
            return self.location(&first);
        }
        self.places(id).into_iter().next()
    }

    /// All places of the chunk: those in usable packs first, then in condemned ones, last those last seen gone.
    pub fn places(&self, id: &ChunkId) -> Vec<Location> {
        let mut slots = self.slots(id);
        let packs = self.packs.read();
        slots.sort_by_key(|slot| {
            packs.list.get(slot.pack as usize).map_or((true, true), |info| (info.absent, info.condemned))
        });
        drop(packs);
        slots.iter().filter_map(|slot| self.location(slot)).collect()
    }

    fn location(&self, slot: &Slot) -> Option<Location> {
        let info = *self.packs.read().list.get(slot.pack as usize)?;
        Some(Location {
            pack: info.id,
            generation: info.generation,
            ordinal: slot.ordinal,
            offset: u64::from(slot.offset),
            sealed_bytes: slot.stored + crate::format::crypto::TAG_BYTES as u32,
            length: slot.length,
            kind: slot.kind,
            codec: slot.codec,
        })
    }

    /// These packs are going to be deleted: nothing new may refer to them. For ever, whether known here yet or not.
    pub fn condemn<'a>(&self, condemned: impl IntoIterator<Item = &'a ObjectId>) {
        let mut packs = self.packs.write();
        for id in condemned {
            packs.condemned.insert(*id);
            let number = packs.numbers.get(id).copied();
            if let Some(info) = number.and_then(|number| packs.list.get_mut(number as usize)) {
                info.condemned = true;
            }
        }
    }

    /// The pack's object was found to be gone.
    pub fn forget(&self, pack: &ObjectId) {
        let mut packs = self.packs.write();
        let number = packs.numbers.get(pack).copied();
        if let Some(info) = number.and_then(|number| packs.list.get_mut(number as usize)) {
            info.absent = true;
        }
    }

    /// Where the chunk is. Looks for what other writers added since, and in packs no segment covers, before giving up.
    pub async fn locate(&self, core: &Core, id: &ChunkId) -> Result<Location> {
        self.ensure_loaded(core).await?;
        if let Some(location) = self.known(id) {
            return Ok(location);
        }
        self.refresh(core).await?;
        self.known(id).ok_or_else(|| self.missing(id))
    }

    /// Loads the index once.
    pub async fn ensure_loaded(&self, core: &Core) -> Result<()> {
        let mut loaded = self.loading.lock().await;
        if !*loaded {
            self.load(core).await?;
            *loaded = true;
        }
        Ok(())
    }

    /// Brings the index up to what is stored now.
    pub async fn refresh(&self, core: &Core) -> Result<()> {
        let mut loaded = self.loading.lock().await;
        self.load(core).await?;
        *loaded = true;
        Ok(())
    }

    fn unreadable(&self, error: &Error) {
        tracing::warn!(%error, "left out of the index");
        if let Error::KeysRotated { generation, newest, .. } = error {
            *self.rotated.lock() = Some((*generation, *newest));
        }
    }

    /// A chunk that no readable pack holds may be in one sealed with keys made since.
    fn missing(&self, id: &ChunkId) -> Error {
        let object = format!("chunk {id:?}");
        match *self.rotated.lock() {
            Some((generation, newest)) => Error::KeysRotated { object, generation, newest },
            None => Error::Missing { object },
        }
    }

    async fn load(&self, core: &Core) -> Result<()> {
        *self.rotated.lock() = None;
        // Packs first: one that appears after this list is covered by its writer's segment or by the next refresh.
        let known = self.packs.read().list.len();
        let listed = core.backend.list(names::PACKS).await?;
        for object in core.backend.list(names::INDEX).await? {
            if self.segments.lock().contains(&object.name) {
                continue;
            }
            match read_segment(core, &object.name, object.size).await {
                Ok(packs) => packs.iter().for_each(|record| self.add(record)),
                // What it said is in the packs as well.
                Err(error) if error.is_damage() => {
                    tracing::warn!(segment = object.name, %error, "index segment unreadable, using pack footers");
                }
                // Written since the keys were rotated: not for those who hold the old ones, and read again when they learn.
                Err(error @ Error::KeysRotated { .. }) => {
                    self.unreadable(&error);
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.segments.lock().insert(object.name);
        }
        let mut present = HashSet::new();
        for object in listed {
            let Some(id) = names::parse_pack(&object.name) else { continue };
            present.insert(id);
            if self.packs.read().numbers.contains_key(&id) {
                continue;
            }
            // Its writer may not have got as far as syncing the folder: what is in the index is durable.
            core.backend.sync(&object.name).await?;
            match read_footer(core, &id, object.size).await {
                Ok(record) => self.add(&record),
                Err(error) if error.is_damage() => {
                    tracing::warn!(pack = object.name, %error, "pack without index segment is unreadable");
                }
                Err(error @ Error::KeysRotated { .. }) => self.unreadable(&error),
                Err(error) => return Err(error),
            }
        }
        self.mark_absent(core, &present, known).await
    }

    /// Notes which packs are gone. The first `known` were known before `present` was listed; later ones may be newer.
    async fn mark_absent(&self, core: &Core, present: &HashSet<ObjectId>, known: usize) -> Result<()> {
        let list = self.packs.read().list.clone();
        for (number, info) in list.iter().enumerate() {
            let mut absent = !present.contains(&info.id);
            if absent && number >= known {
                absent = match core.backend.stat(&names::pack(&info.id)).await {
                    Ok(_) => false,
                    Err(error) if error.kind == BackendErrorKind::NotFound => true,
                    Err(error) => return Err(error.into()),
                };
            }
            if let Some(info) = self.packs.write().list.get_mut(number) {
                info.absent = absent;
            }
        }
        Ok(())
    }
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
