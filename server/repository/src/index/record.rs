//! What the index keeps of a chunk in a place: 32 bytes, the first half of its identity and a packed place.

use crate::format::crypto::TAG_BYTES;
use crate::format::pack::{PackEntry, Part, Spot};
use crate::format::{BLOCK_BYTES, ChunkId, ChunkKind, Codec, Fields};

/// Length of a record in a run.
pub const RECORD_BYTES: usize = 32;
/// Bytes of an identity that the index keeps. Identities are keyed and uniform: at 2^30 chunks two of them share these
/// with a probability of 2^-69.
pub const KEY_BYTES: usize = 16;

/// The head of an identity.
pub type Key = [u8; KEY_BYTES];

pub fn key_of(id: &ChunkId) -> Key {
    id.0.first_chunk().copied().unwrap_or_default()
}

/// The first 32 bits of a key, as a number of the same order.
pub fn prefix(key: &Key) -> u32 {
    key.first_chunk().map_or(0, |head| u32::from_be_bytes(*head))
}

/// The first 64 bits of a key, as a number of the same order.
pub fn head(key: &Key) -> u64 {
    key.first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
}

/// A field of a place.
#[derive(Clone, Copy)]
struct Bits {
    at: u32,
    count: u32,
}

impl Bits {
    const fn new(at: u32, count: u32) -> Self {
        Self { at, count }
    }

    /// The field that follows.
    const fn then(self, count: u32) -> Self {
        Self { at: self.at + self.count, count }
    }

    /// `None` for what does not fit.
    fn put(self, value: u64) -> Option<u128> {
        (value < 1 << self.count).then_some(u128::from(value) << self.at)
    }

    fn get(self, place: u128) -> u32 {
        (place >> self.at) as u32 & ((1u64 << self.count) - 1) as u32
    }
}

/// Bits of a pack's number.
pub const PACK_BITS: u32 = 31;
const OFFSET: Bits = Bits::new(0, 28);
const ORDINAL: Bits = OFFSET.then(20);
// A chunk by itself.
const STORED: Bits = ORDINAL.then(23);
const LENGTH: Bits = STORED.then(23);
// A chunk that shares a frame; lengths in blocks.
const FRAME_STORED: Bits = ORDINAL.then(20);
const POSITION: Bits = FRAME_STORED.then(6);
const SKIP: Bits = POSITION.then(7);
const BLOCKS: Bits = SKIP.then(8);
const UNITS: Bits = BLOCKS.then(5);
const KIND: Bits = LENGTH.then(1);
const CODEC: Bits = KIND.then(2);
const PACK: Bits = CODEC.then(PACK_BITS);

/// Where a chunk is, in 128 bits: number of its pack, codec, kind, and of what its pack's entries say what is needed to
/// read it. Chunks that share a frame use the bits of the two lengths otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u128);

impl Place {
    /// `None` for what no pack of the format can hold.
    pub fn new(pack: u32, spot: &Spot, entry: &PackEntry) -> Option<Self> {
        let stored = u64::from(spot.sealed_bytes.checked_sub(TAG_BYTES as u32)?);
        let lengths = match spot.part {
            None => STORED.put(stored)? | LENGTH.put(u64::from(entry.length))?,
            Some(part) => {
                FRAME_STORED.put(stored)?
                    | POSITION.put(u64::from(part.position))?
                    | SKIP.put(u64::from(part.skip) / BLOCK_BYTES as u64)?
                    | BLOCKS.put(u64::from(entry.length) / BLOCK_BYTES as u64)?
                    | UNITS.put(u64::from(part.units.checked_sub(1)?))?
            }
        };
        let head = KIND.put(entry.kind as u64)? | CODEC.put(entry.codec as u64)? | PACK.put(u64::from(pack))?;
        Some(Self(OFFSET.put(spot.offset)? | ORDINAL.put(u64::from(spot.ordinal))? | lengths | head))
    }

    pub fn pack(self) -> u32 {
        PACK.get(self.0)
    }

    /// The same with another number for the pack.
    #[must_use]
    pub fn with_pack(self, pack: u32) -> Self {
        Self(self.0 & ((1 << PACK.at) - 1) | u128::from(pack) << PACK.at)
    }

    pub fn ordinal(self) -> u32 {
        ORDINAL.get(self.0)
    }

    pub fn spot(self) -> Spot {
        let is_shared = self.codec() == Codec::Shared;
        let part = || Part {
            position: POSITION.get(self.0),
            skip: SKIP.get(self.0) * BLOCK_BYTES as u32,
            units: UNITS.get(self.0) + 1,
        };
        let stored = if is_shared { FRAME_STORED } else { STORED };
        Spot {
            ordinal: self.ordinal(),
            offset: u64::from(OFFSET.get(self.0)),
            sealed_bytes: stored.get(self.0) + TAG_BYTES as u32,
            part: is_shared.then(part),
        }
    }

    pub fn length(self) -> u32 {
        match self.codec() {
            Codec::Shared => BLOCKS.get(self.0) * BLOCK_BYTES as u32,
            Codec::Raw | Codec::Zstd => LENGTH.get(self.0),
        }
    }

    pub fn kind(self) -> ChunkKind {
        if KIND.get(self.0) == 0 { ChunkKind::Data } else { ChunkKind::Map }
    }

    pub fn codec(self) -> Codec {
        match CODEC.get(self.0) {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => Codec::Shared,
        }
    }
}

/// A key and one of its places; ordered as runs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub key: Key,
    pub place: Place,
}

impl Record {
    pub fn encode(&self, out: &mut [u8; RECORD_BYTES]) {
        let (key, place) = out.split_at_mut(KEY_BYTES);
        key.copy_from_slice(&self.key);
        place.copy_from_slice(&self.place.0.to_le_bytes());
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        Some(Self { key: fields.array()?, place: Place(u128::from_le_bytes(fields.array()?)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn there_and_back(number: u32, spot: Spot, entry: &PackEntry) {
        let place = Place::new(7, &spot, entry).unwrap().with_pack(number);
        let record = Record { key: key_of(&entry.id), place };
        let mut bytes = [0; RECORD_BYTES];
        record.encode(&mut bytes);
        assert_eq!(Record::decode(&bytes), Some(record));
        assert_eq!((place.pack(), place.ordinal(), place.spot()), (number, spot.ordinal, spot));
        assert_eq!((place.length(), place.kind(), place.codec()), (entry.length, entry.kind, entry.codec));
    }

    proptest! {
        #[test]
        fn a_place_keeps_every_field(
            pack in 0u32..1 << 31, ordinal in 0u32..1 << 20, offset in 0u64..1 << 28,
            length in 1u32..=4 << 20, stored in 1u32..=4 << 20, map: bool, zstd: bool, id: [u8; 32],
        ) {
            let kind = if map { ChunkKind::Map } else { ChunkKind::Data };
            let codec = if zstd { Codec::Zstd } else { Codec::Raw };
            let entry = PackEntry { id: ChunkId(id), kind, codec, length, stored };
            there_and_back(pack, Spot { ordinal, offset, sealed_bytes: stored + 16, part: None }, &entry);
        }

        #[test]
        fn a_place_in_a_frame_keeps_every_field(
            pack in 0u32..1 << 31, ordinal in 0u32..1 << 20, offset in 0u64..1 << 28, stored in 1u32..512 << 10,
            position in 0u32..64, skip in 0u32..128, blocks in 1u32..=128, units in 1u32..=32,
        ) {
            let length = blocks * BLOCK_BYTES as u32;
            let entry =
                PackEntry { id: ChunkId([7; 32]), kind: ChunkKind::Data, codec: Codec::Shared, length, stored: 0 };
            let part = Some(Part { position, skip: skip * BLOCK_BYTES as u32, units });
            there_and_back(pack, Spot { ordinal, offset, sealed_bytes: stored + 16, part }, &entry);
        }
    }

    #[test]
    fn what_no_pack_can_hold_is_refused() {
        let entry =
            |length| PackEntry { id: ChunkId::ZERO, kind: ChunkKind::Data, codec: Codec::Raw, length, stored: length };
        let place = |pack, ordinal, offset, length| {
            Place::new(pack, &Spot { ordinal, offset, sealed_bytes: length + 16, part: None }, &entry(length))
        };
        assert!(place(0, 0, (1 << 28) - 1, 1).is_some());
        assert!(place(0, 0, 1 << 28, 1).is_none());
        assert!(place(0, 1 << 20, 0, 1).is_none());
        assert!(place(0, 0, 0, 1 << 23).is_none());
        assert!(place(1 << 31, 0, 0, 1).is_none());
    }
}
