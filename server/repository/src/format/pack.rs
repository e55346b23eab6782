//! Packs: many chunks in one object, with an encrypted footer that says what they are.

use super::crypto::{Keys, SealKey, TAG_BYTES};
use super::envelope::{HEADER_BYTES, Header, Magic};
use super::names::{self, ObjectId};
use super::{CHUNK_BYTES_MAX, ChunkId, ChunkKind, Codec, Fields};
use crate::error::{Error, Result};

/// Most chunks in a pack.
pub const PACK_CHUNKS_MAX: usize = 1 << 20;
/// Largest pack object.
pub const PACK_OBJECT_BYTES_MAX: u64 = 256 << 20;
/// Length of what ends a pack.
pub const TRAILER_BYTES: usize = 24;
/// Length of one footer entry.
pub const ENTRY_BYTES: usize = 44;
const TRAILER_MAGIC: &[u8; 8] = b"SFPKEND\0";
/// Counter of the footer's nonce; chunks use their ordinal.
const FOOTER_COUNTER: u32 = u32::MAX;

/// One chunk of a pack. Its ordinal is its place in the list, its offset follows from the lengths before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackEntry {
    pub id: ChunkId,
    pub kind: ChunkKind,
    pub codec: Codec,
    /// Length of the content.
    pub length: u32,
    /// Length as stored, without the tag.
    pub stored: u32,
}

impl PackEntry {
    /// Bytes it takes in the pack.
    pub fn sealed_bytes(&self) -> u64 {
        u64::from(self.stored) + TAG_BYTES as u64
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.id.0);
        out.extend(self.length.to_le_bytes());
        out.extend(self.stored.to_le_bytes());
        out.extend([self.codec as u8, self.kind as u8, 0, 0]);
    }

    pub fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let id = ChunkId(fields.array()?);
        let (length, stored) = (fields.u32()?, fields.u32()?);
        let codec = match fields.u8()? {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => return None,
        };
        let kind = match fields.u8()? {
            0 => ChunkKind::Data,
            1 => ChunkKind::Map,
            _ => return None,
        };
        let reserved = fields.take(2)?;
        let sound = (1..=CHUNK_BYTES_MAX).contains(&length)
            && (1..=length).contains(&stored)
            && (codec == Codec::Zstd || stored == length)
            && reserved == [0, 0];
        sound.then_some(Self { id, kind, codec, length, stored })
    }
}

/// A pack's id, key and header.
pub struct PackSeal {
    pub id: ObjectId,
    /// Of the keys it is sealed with.
    pub generation: u8,
    pub header: [u8; HEADER_BYTES],
    key: SealKey,
}

impl PackSeal {
    /// Of a new pack: with the newest keys.
    pub fn new(keys: &Keys, id: ObjectId) -> Result<Self> {
        Self::of(keys, id, keys.newest())
    }

    /// Of a pack that was sealed with the keys of `generation`.
    pub fn of(keys: &Keys, id: ObjectId, generation: u8) -> Result<Self> {
        let header = Header { repository: keys.repository, id, flags: u32::from(generation) }.encode(Magic::Pack);
        let key = keys.object_key(generation, Magic::Pack.purpose(), &id, || names::pack(&id))?;
        Ok(Self { id, generation, header, key })
    }

    fn chunk_aad(&self, ordinal: u32) -> [u8; 36] {
        let mut aad = [0; 36];
        aad[..32].copy_from_slice(&self.header[16..]);
        aad[32..].copy_from_slice(&ordinal.to_le_bytes());
        aad
    }

    /// Seals what is stored of the chunk with that ordinal into `out`.
    pub fn seal_chunk(&self, ordinal: u32, stored: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.key.seal_into(ordinal, &self.chunk_aad(ordinal), stored, out)
    }

    /// Opens it into `plain`.
    pub fn open_chunk(&self, ordinal: u32, sealed: &[u8], plain: &mut Vec<u8>) -> Option<()> {
        self.key.open_into(ordinal, &self.chunk_aad(ordinal), sealed, plain)
    }

    /// What follows the chunks: the sealed footer and the trailer.
    pub fn seal_footer(&self, entries: &[PackEntry]) -> Result<Vec<u8>> {
        let mut footer = Vec::with_capacity(entries.len() * ENTRY_BYTES);
        for entry in entries {
            entry.encode(&mut footer);
        }
        let sealed_bytes = (footer.len() + TAG_BYTES) as u64;
        let chunks: u64 = entries.iter().map(PackEntry::sealed_bytes).sum();
        let total = HEADER_BYTES as u64 + chunks + sealed_bytes + TRAILER_BYTES as u64;
        let trailer = encode_trailer(entries.len() as u32, sealed_bytes as u32, total);
        let mut out = self.key.seal(FOOTER_COUNTER, &[&self.header[..], &trailer].concat(), &footer)?;
        out.extend(trailer);
        Ok(out)
    }

    /// A footer of any bytes with the trailer that fits it, and the length of a pack that would end so.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn seal_raw_footer(&self, footer: &[u8]) -> Result<(Vec<u8>, u64)> {
        let mut rest = Fields(footer);
        let entries = std::iter::from_fn(|| PackEntry::decode(&mut rest));
        let chunks: u64 = entries.map(|entry| entry.sealed_bytes()).sum();
        let sealed_bytes = (footer.len() + TAG_BYTES) as u64;
        let total = HEADER_BYTES as u64 + chunks + sealed_bytes + TRAILER_BYTES as u64;
        let trailer = encode_trailer((footer.len() / ENTRY_BYTES) as u32, sealed_bytes as u32, total);
        let mut out = self.key.seal(FOOTER_COUNTER, &[&self.header[..], &trailer].concat(), footer)?;
        out.extend(trailer);
        Ok((out, total))
    }

    /// Reads a footer: `header` as it stands in the object, `tail` the sealed footer and the trailer.
    pub fn open_footer(&self, header: &[u8], tail: &[u8], object_bytes: u64) -> Result<Vec<PackEntry>> {
        let name = names::pack(&self.id);
        let damaged = |reason: &str| Error::damaged(&name, reason);
        let at = tail.len().checked_sub(TRAILER_BYTES).ok_or_else(|| damaged("it is cut short"))?;
        let (sealed, trailer) = tail.split_at(at);
        let plain = self.key.open(FOOTER_COUNTER, &[header, trailer].concat(), sealed);
        let plain = plain.ok_or_else(|| damaged("its header, footer or trailer is not what was written"))?;
        let mut fields = Fields(&plain);
        let mut entries = Vec::with_capacity(plain.len() / ENTRY_BYTES);
        while !fields.0.is_empty() {
            entries.push(PackEntry::decode(&mut fields).ok_or_else(|| damaged("a footer entry makes no sense"))?);
        }
        let end = HEADER_BYTES as u64 + entries.iter().map(PackEntry::sealed_bytes).sum::<u64>() + tail.len() as u64;
        if end != object_bytes {
            return Err(damaged("its length is not what its footer says"));
        }
        Ok(entries)
    }
}

fn encode_trailer(count: u32, footer_bytes: u32, total: u64) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..4].copy_from_slice(&count.to_le_bytes());
    out[4..8].copy_from_slice(&footer_bytes.to_le_bytes());
    out[8..16].copy_from_slice(&total.to_le_bytes());
    out[16..].copy_from_slice(TRAILER_MAGIC);
    out
}

/// From a trailer: the length of sealed footer and trailer together.
pub fn tail_bytes(name: &str, trailer: &[u8], object_bytes: u64) -> Result<u64> {
    let mut fields = Fields(trailer);
    let read = || -> Option<(u32, u32, u64, &[u8])> { Some((fields.u32()?, fields.u32()?, fields.u64()?, fields.0)) };
    let mut read = read;
    let (count, footer, total, magic) = read().ok_or_else(|| Error::damaged(name, "it is cut short"))?;
    let expected = u64::from(count) * ENTRY_BYTES as u64 + TAG_BYTES as u64;
    let tail = u64::from(footer) + TRAILER_BYTES as u64;
    let sound = magic == TRAILER_MAGIC
        && count as usize <= PACK_CHUNKS_MAX
        && u64::from(footer) == expected
        && total == object_bytes
        && tail + HEADER_BYTES as u64 <= object_bytes;
    if !sound {
        return Err(Error::damaged(name, "it does not end as a pack of its length does"));
    }
    Ok(tail)
}
