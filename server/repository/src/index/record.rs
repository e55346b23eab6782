//! What the index keeps of a chunk in a place: 32 bytes, the first half of its identity and a packed place.

use crate::format::crypto::TAG_BYTES;
use crate::format::pack::PackEntry;
use crate::format::{ChunkId, ChunkKind, Codec, Fields};

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

const OFFSET_BITS: u32 = 28;
const LENGTH_BITS: u32 = 23;
const ORDINAL_BITS: u32 = 20;
const STORED_AT: u32 = OFFSET_BITS;
const LENGTH_AT: u32 = STORED_AT + LENGTH_BITS;
const ORDINAL_AT: u32 = LENGTH_AT + LENGTH_BITS;
const KIND_AT: u32 = ORDINAL_AT + ORDINAL_BITS;
const CODEC_AT: u32 = KIND_AT + 1;
const PACK_AT: u32 = 96;

/// Where a chunk is: number of the pack 32 bits, codec 1, kind 1, ordinal 20, length 23, stored length without the tag 23,
/// offset 28, from the highest bit down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u128);

impl Place {
    /// `None` for what no pack of the format can hold.
    pub fn new(pack: u32, ordinal: u32, offset: u64, entry: &PackEntry) -> Option<Self> {
        let fits = |value: u64, bits: u32| (value < 1 << bits).then_some(u128::from(value));
        Some(Self(
            fits(offset, OFFSET_BITS)?
                | fits(u64::from(entry.stored), LENGTH_BITS)? << STORED_AT
                | fits(u64::from(entry.length), LENGTH_BITS)? << LENGTH_AT
                | fits(u64::from(ordinal), ORDINAL_BITS)? << ORDINAL_AT
                | (entry.kind as u128) << KIND_AT
                | (entry.codec as u128) << CODEC_AT
                | u128::from(pack) << PACK_AT,
        ))
    }

    fn field(self, at: u32, bits: u32) -> u32 {
        (self.0 >> at) as u32 & ((1 << bits) - 1)
    }

    pub fn pack(self) -> u32 {
        (self.0 >> PACK_AT) as u32
    }

    /// The same with another number for the pack.
    #[must_use]
    pub fn with_pack(self, pack: u32) -> Self {
        Self(self.0 & ((1 << PACK_AT) - 1) | u128::from(pack) << PACK_AT)
    }

    pub fn ordinal(self) -> u32 {
        self.field(ORDINAL_AT, ORDINAL_BITS)
    }

    /// From the start of the pack object.
    pub fn offset(self) -> u64 {
        u64::from(self.field(0, OFFSET_BITS))
    }

    /// Stored bytes, tag included.
    pub fn sealed_bytes(self) -> u32 {
        self.field(STORED_AT, LENGTH_BITS) + TAG_BYTES as u32
    }

    pub fn length(self) -> u32 {
        self.field(LENGTH_AT, LENGTH_BITS)
    }

    pub fn kind(self) -> ChunkKind {
        if self.field(KIND_AT, 1) == 0 { ChunkKind::Data } else { ChunkKind::Map }
    }

    pub fn codec(self) -> Codec {
        if self.field(CODEC_AT, 1) == 0 { Codec::Raw } else { Codec::Zstd }
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

    proptest! {
        #[test]
        fn a_place_keeps_every_field(
            pack: u32, other: u32, ordinal in 0u32..1 << 20, offset in 0u64..1 << 28,
            length in 1u32..=4 << 20, stored in 1u32..=4 << 20, map: bool, zstd: bool, id: [u8; 32],
        ) {
            let kind = if map { ChunkKind::Map } else { ChunkKind::Data };
            let codec = if zstd { Codec::Zstd } else { Codec::Raw };
            let entry = PackEntry { id: ChunkId(id), kind, codec, length, stored };
            let place = Place::new(other, ordinal, offset, &entry).unwrap().with_pack(pack);
            let record = Record { key: key_of(&entry.id), place };
            let mut bytes = [0; RECORD_BYTES];
            record.encode(&mut bytes);
            prop_assert_eq!(Record::decode(&bytes), Some(record));
            prop_assert_eq!((place.pack(), place.ordinal(), place.offset()), (pack, ordinal, offset));
            prop_assert_eq!((place.length(), place.sealed_bytes()), (length, stored + 16));
            prop_assert_eq!((place.kind(), place.codec()), (kind, codec));
        }
    }

    #[test]
    fn what_no_pack_can_hold_is_refused() {
        let entry =
            |length| PackEntry { id: ChunkId::ZERO, kind: ChunkKind::Data, codec: Codec::Raw, length, stored: length };
        assert!(Place::new(0, 0, (1 << 28) - 1, &entry(1)).is_some());
        assert!(Place::new(0, 0, 1 << 28, &entry(1)).is_none());
        assert!(Place::new(0, 1 << 20, 0, &entry(1)).is_none());
        assert!(Place::new(0, 0, 0, &entry(1 << 23)).is_none());
    }
}
