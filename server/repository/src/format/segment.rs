//! Index segments: the footers of several packs in one object, so that an index is loaded with few reads.
//! Nothing depends on them: what no segment covers is read from the packs' own footers.

use super::crypto::{GENERATIONS_MAX, Keys};
use super::envelope::{self, HEADER_BYTES, Magic};
use super::names::{self, ObjectId};
use super::pack::{ENTRY_BYTES, PACK_CHUNKS_MAX, PACK_OBJECT_BYTES_MAX, PackEntry, frames_fit};
use super::{Fields, crypto::TAG_BYTES};
use crate::error::{Error, Result};

/// Largest index segment object.
pub const SEGMENT_BYTES_MAX: u64 = 96 << 20;
/// A writer starts a new segment after this many entries.
pub const SEGMENT_ENTRIES_TARGET: usize = 256 * 1024;
const PACK_HEAD_BYTES: usize = 28;
/// Above the number of entries, which is at most 2^20.
const GENERATION_SHIFT: u32 = 24;

/// What an index knows of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRecord {
    pub id: ObjectId,
    /// Length of the pack object.
    pub object_bytes: u64,
    /// Of the keys it is sealed with.
    pub generation: u8,
    pub entries: Vec<PackEntry>,
}

/// Makes the segment `id`.
pub fn encode(keys: &Keys, id: ObjectId, packs: &[PackRecord]) -> Result<Vec<u8>> {
    let entries: usize = packs.iter().map(|pack| pack.entries.len()).sum();
    let mut payload = Vec::with_capacity(4 + packs.len() * PACK_HEAD_BYTES + entries * ENTRY_BYTES);
    payload.extend((packs.len() as u32).to_le_bytes());
    for pack in packs {
        payload.extend(pack.id);
        payload.extend(pack.object_bytes.to_le_bytes());
        payload.extend((pack.entries.len() as u32 | u32::from(pack.generation) << GENERATION_SHIFT).to_le_bytes());
        for entry in &pack.entries {
            entry.encode(&mut payload);
        }
    }
    let bytes = envelope::seal(keys, Magic::Index, id, &names::segment(&id), &payload)?;
    debug_assert_eq!(bytes.len(), HEADER_BYTES + payload.len() + TAG_BYTES);
    Ok(bytes)
}

/// Reads the segment `name`.
pub fn decode(keys: &Keys, name: &str, bytes: &[u8]) -> Result<Vec<PackRecord>> {
    let (_, payload) = envelope::open(keys, Magic::Index, name, bytes)?;
    parse(&payload).ok_or_else(|| Error::damaged(name, "its list of packs makes no sense"))
}

fn parse(payload: &[u8]) -> Option<Vec<PackRecord>> {
    let mut fields = Fields(payload);
    let count = fields.u32()? as usize;
    let mut packs = Vec::with_capacity(count.min(payload.len() / PACK_HEAD_BYTES));
    for _ in 0..count {
        let (id, object_bytes, word) = (fields.array()?, fields.u64()?, fields.u32()?);
        let (generation, chunks) = ((word >> GENERATION_SHIFT) as u8, (word & 0xff_ffff) as usize);
        if chunks > PACK_CHUNKS_MAX || usize::from(generation) >= GENERATIONS_MAX {
            return None;
        }
        let mut entries = Vec::with_capacity(chunks.min(fields.0.len() / ENTRY_BYTES));
        let mut end = HEADER_BYTES as u64;
        for _ in 0..chunks {
            let entry = PackEntry::decode(&mut fields)?;
            end += entry.sealed_bytes();
            entries.push(entry);
        }
        if end > object_bytes || object_bytes > PACK_OBJECT_BYTES_MAX || !frames_fit(&entries) {
            return None; // chunks outside their pack
        }
        packs.push(PackRecord { id, object_bytes, generation, entries });
    }
    fields.0.is_empty().then_some(packs)
}
