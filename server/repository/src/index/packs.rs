//! The packs an index knows, by number and by id: 18 bytes each and a slot of 4 in a hash table of numbers.

use std::collections::{HashMap, HashSet};

use super::record::{PACK_BITS, Place};
use crate::format::names::ObjectId;
use crate::format::stamp::Bad;

/// Packs in a page of the list, so that it grows without being copied.
const PAGE_PACKS: usize = 1 << 16;
const EMPTY: u32 = u32::MAX;
/// Most packs an index holds: 64 PB of packs of 32 MiB.
const PACKS_MAX: usize = 1 << PACK_BITS;

/// A pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pack {
    pub id: ObjectId,
    /// Of the keys it is sealed with.
    pub generation: u8,
    flags: u8,
}

/// A segment names it, but its object was not there when last looked.
const ABSENT: u8 = 1;
/// No segment names it and it is not there: given back. Its records mean nothing and go at the next merge.
const GONE: u8 = 2;
/// All its records are in runs.
const STORED: u8 = 4;

impl Pack {
    pub fn is_absent(&self) -> bool {
        self.flags & ABSENT != 0
    }

    pub fn is_gone(&self) -> bool {
        self.flags & GONE != 0
    }

    pub fn is_stored(&self) -> bool {
        self.flags & STORED != 0
    }

    fn set(&mut self, flag: u8, on: bool) {
        self.flags = self.flags & !flag | if on { flag } else { 0 };
    }
}

/// All packs, and what is known against some of them.
#[derive(Default)]
pub struct Packs {
    pages: Vec<Vec<Pack>>,
    count: usize,
    /// Numbers, by hash of the id, open addressing; a power of two of them.
    slots: Vec<u32>,
    condemned: HashSet<ObjectId>,
    bad: HashMap<ObjectId, Bad>,
}

impl Packs {
    pub fn len(&self) -> usize {
        self.count
    }

    /// Bytes of memory they take.
    pub fn memory_bytes(&self) -> u64 {
        (self.count * size_of::<Pack>() + self.slots.len() * 4) as u64
    }

    pub fn get(&self, number: u32) -> Option<&Pack> {
        self.pages.get(number as usize / PAGE_PACKS)?.get(number as usize % PAGE_PACKS)
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Pack> {
        self.pages.get_mut(number as usize / PAGE_PACKS)?.get_mut(number as usize % PAGE_PACKS)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Pack)> {
        (0..).zip(self.pages.iter().flatten())
    }

    fn slot(&self, id: &ObjectId) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = u64::from_le_bytes(id.first_chunk().copied().unwrap_or_default()) as usize & mask;
        while self.slots[at] != EMPTY && self.get(self.slots[at]).is_some_and(|pack| pack.id != *id) {
            at = (at + 1) & mask;
        }
        at
    }

    pub fn number(&self, id: &ObjectId) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        Some(self.slots[self.slot(id)]).filter(|number| *number != EMPTY)
    }

    /// The number of a pack, new or not. `None` when there are more packs than numbers.
    pub fn insert(&mut self, id: ObjectId, generation: u8) -> Option<u32> {
        if self.count * 5 >= self.slots.len() * 4 {
            self.grow();
        }
        let slot = self.slot(&id);
        if self.slots[slot] != EMPTY {
            return Some(self.slots[slot]);
        }
        if self.count >= PACKS_MAX {
            return None;
        }
        let number = self.count as u32;
        if self.count.is_multiple_of(PAGE_PACKS) {
            // The first page grows by itself: most repositories never fill it.
            let capacity = if self.pages.is_empty() { 0 } else { PAGE_PACKS };
            self.pages.push(Vec::with_capacity(capacity));
        }
        self.pages[self.count / PAGE_PACKS].push(Pack { id, generation, flags: 0 });
        self.slots[slot] = number;
        self.count += 1;
        Some(number)
    }

    fn grow(&mut self) {
        self.slots = vec![EMPTY; (self.slots.len() * 2).max(64)];
        for number in 0..self.count as u32 {
            let Some(pack) = self.get(number) else { continue };
            let slot = self.slot(&pack.id);
            self.slots[slot] = number;
        }
    }

    /// Notes whether a pack is there; `covered`: a segment names it.
    pub fn set_present(&mut self, number: u32, present: bool, covered: bool) {
        if let Some(pack) = self.get_mut(number) {
            pack.set(ABSENT, !present);
            if present || !covered {
                pack.set(GONE, !present);
            }
        }
    }

    /// Takes back that a pack is gone: its records are about to be added again.
    pub fn revive(&mut self, number: u32) {
        if let Some(pack) = self.get_mut(number) {
            pack.flags = 0;
        }
    }

    pub fn set_stored(&mut self, number: u32) {
        if let Some(pack) = self.get_mut(number) {
            pack.set(STORED, true);
        }
    }

    /// The runs are lost: packs whose records were in them have to be read again.
    pub fn forget_stored(&mut self) {
        for pack in self.pages.iter_mut().flatten().filter(|pack| pack.is_stored()) {
            pack.flags = GONE;
        }
    }

    /// These packs are going to be deleted, whether they are known yet or not.
    pub fn condemn<'a>(&mut self, packs: impl IntoIterator<Item = &'a ObjectId>) {
        self.condemned.extend(packs);
    }

    /// Replaces what is known to be bad in a pack.
    pub fn set_bad(&mut self, pack: ObjectId, bad: Bad) {
        if bad.is_none() {
            self.bad.remove(&pack);
        } else {
            self.bad.insert(pack, bad);
        }
    }

    /// Adds one chunk to what is known to be bad.
    pub fn add_bad(&mut self, pack: ObjectId, ordinal: u32) {
        if let Bad::Chunks(ordinals) = self.bad.entry(pack).or_insert_with(Bad::none) {
            ordinals.insert(ordinal);
        }
    }

    /// How far a place is to be trusted.
    pub fn trust(&self, place: Place) -> Trust {
        let Some(pack) = self.get(place.pack()).filter(|pack| !pack.is_gone()) else { return Trust::None };
        if pack.is_absent() || self.bad.get(&pack.id).is_some_and(|bad| bad.includes(place.ordinal())) {
            return Trust::Bad;
        }
        if self.condemned.contains(&pack.id) { Trust::Condemned } else { Trust::Good }
    }
}

/// What may be expected of a place, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    Good,
    /// Readable still, but its pack is going to be deleted.
    Condemned,
    /// Damaged or missing when last read.
    Bad,
    /// The pack was given back.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_id() {
        let mut packs = Packs::default();
        let id = |number: u32| *blake3::hash(&number.to_le_bytes()).as_bytes().first_chunk::<16>().unwrap();
        assert_eq!(packs.number(&id(0)), None);
        for number in 0..100_000 {
            assert_eq!(packs.insert(id(number), 0), Some(number));
            assert_eq!(packs.insert(id(number / 2), 0), Some(number / 2));
        }
        assert_eq!(packs.len(), 100_000);
        for number in (0..100_000).step_by(77) {
            assert_eq!(packs.number(&id(number)), Some(number));
            assert_eq!(packs.get(number).unwrap().id, id(number));
        }
        assert_eq!(packs.number(&id(100_000)), None);
    }
}
