//! Packs: many chunks in one object, with an encrypted footer that says what they are.

use super::crypto::{Keys, SealKey, TAG_BYTES};
use super::envelope::{HEADER_BYTES, Header, Magic};
use super::names::{self, ObjectId};
use super::{BLOCK_BYTES, CHUNK_BYTES_MAX, ChunkId, ChunkKind, Codec, FRAME_BYTES_MAX, FRAME_CHUNKS_MAX, Fields};
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

/// One chunk of a pack. Its ordinal is its place in the list, its offset follows from the lengths before it. Chunks that
/// share a frame follow each other; the first one's stored length is the frame's, that of the others is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackEntry {
    pub id: ChunkId,
    pub kind: ChunkKind,
    pub codec: Codec,
    /// Length of the content.
    pub length: u32,
    /// Length as stored, without the tag; 0 when it is in the frame of the entry before.
    pub stored: u32,
}

impl PackEntry {
    /// Bytes it adds to the pack.
    pub fn sealed_bytes(&self) -> u64 {
        if self.continues() { 0 } else { u64::from(self.stored) + TAG_BYTES as u64 }
    }

    /// Is it in the frame of the entry before?
    fn continues(&self) -> bool {
        self.codec == Codec::Shared && self.stored == 0
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
            2 => Codec::Shared,
            _ => return None,
        };
        let kind = match fields.u8()? {
            0 => ChunkKind::Data,
            1 => ChunkKind::Map,
            _ => return None,
        };
        let reserved = fields.take(2)?;
        let fits = match codec {
            Codec::Raw => stored == length,
            Codec::Zstd => (1..=length).contains(&stored),
            Codec::Shared => {
                let whole_blocks = length.is_multiple_of(BLOCK_BYTES as u32) && length <= FRAME_BYTES_MAX;
                kind == ChunkKind::Data && whole_blocks && stored < FRAME_BYTES_MAX
            }
        };
        let sound = (1..=CHUNK_BYTES_MAX).contains(&length) && fits && reserved == [0, 0];
        sound.then_some(Self { id, kind, codec, length, stored })
    }
}

/// Do the entries that share frames make frames?
pub fn frames_fit(entries: &[PackEntry]) -> bool {
    let mut frame: Option<(usize, u32, u32)> = None; // chunks, their lengths, the stored length
    let ended = |frame: Option<(usize, u32, u32)>| frame.is_none_or(|(_, content, stored)| stored < content);
    for entry in entries {
        frame = match (frame, entry.codec) {
            (Some((count, content, stored)), Codec::Shared) if entry.continues() => {
                let (count, content) = (count + 1, content + entry.length);
                if count > FRAME_CHUNKS_MAX || content > FRAME_BYTES_MAX {
                    return false;
                }
                Some((count, content, stored))
            }
            (None, Codec::Shared) if entry.continues() => return false,
            (before, codec) if ended(before) => (codec == Codec::Shared).then_some((1, entry.length, entry.stored)),
            _ => return false,
        };
    }
    ended(frame)
}

/// Content of frames is told to this precision in a [`Part`].
const PART_UNIT_BYTES: u32 = FRAME_BYTES_MAX / 32;

/// Where in a frame that it shares a chunk's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// How many chunks are before it.
    pub position: u32,
    /// Length of their content.
    pub skip: u32,
    /// Length of all the frame's content, in 32nds of the largest, rounded up.
    pub units: u32,
}

/// Where in its pack an entry's chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    pub ordinal: u32,
    /// From the start of the pack object to where it, or the frame it is in, begins.
    pub offset: u64,
    /// Stored bytes, of all the frame if it shares one, tag included.
    pub sealed_bytes: u32,
    pub part: Option<Part>,
}

impl Spot {
    /// By which it is sealed: its own ordinal, or that of the first chunk of the frame.
    pub fn seal_ordinal(&self) -> u32 {
        self.ordinal - self.part.map_or(0, |part| part.position)
    }

    /// Of the stored bytes, about those that are due to a chunk of this length: never 0, seldom more.
    pub fn share_bytes(&self, length: u32) -> u32 {
        self.part.map_or(self.sealed_bytes, |part| {
            let content = u64::from((part.units * PART_UNIT_BYTES).max(1));
            (u64::from(self.sealed_bytes) * u64::from(length)).div_ceil(content).min(self.sealed_bytes.into()) as u32
        })
    }
}

/// Of the bytes chunks take in their pack, those that are due to the ones with these ordinals: of a frame a part, rounded up.
pub fn share_of(entries: &[PackEntry], is_meant: impl Fn(u32) -> bool) -> u64 {
    let (mut total, mut ordinal, mut rest) = (0, 0, entries);
    while let Some((frame, after)) = first_frame(rest) {
        let (mut meant, mut content) = (0, 0);
        for entry in frame {
            content += u64::from(entry.length);
            meant += if is_meant(ordinal) { u64::from(entry.length) } else { 0 };
            ordinal += 1;
        }
        let sealed: u64 = frame.iter().map(PackEntry::sealed_bytes).sum();
        total += (sealed * meant).div_ceil(content.max(1));
        rest = after;
    }
    total
}

/// The chunks that share the first one's frame, and those after.
fn first_frame(entries: &[PackEntry]) -> Option<(&[PackEntry], &[PackEntry])> {
    let (_, others) = entries.split_first()?;
    Some(entries.split_at(1 + others.iter().take_while(|entry| entry.continues()).count()))
}

/// Where the chunks of a pack with these entries are.
pub fn spots(entries: &[PackEntry]) -> Vec<Spot> {
    let (mut spots, mut offset) = (Vec::with_capacity(entries.len()), HEADER_BYTES as u64);
    let mut rest = entries;
    while let Some((frame, after)) = first_frame(rest) {
        let Some(first) = frame.first() else { break };
        let content: u32 = frame.iter().map(|entry| entry.length).fold(0, u32::saturating_add);
        let (units, mut skip) = (content.div_ceil(PART_UNIT_BYTES), 0);
        for (position, entry) in (0..).zip(frame) {
            let part = (first.codec == Codec::Shared).then_some(Part { position, skip, units });
            let ordinal = spots.len() as u32;
            spots.push(Spot { ordinal, offset, sealed_bytes: first.sealed_bytes() as u32, part });
            skip = skip.saturating_add(entry.length);
        }
        offset += first.sealed_bytes();
        rest = after;
    }
    spots
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

    /// Seals what is stored of the chunk, or of the frame of the first chunk, with that ordinal into `out`.
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
        if !frames_fit(&entries) {
            return Err(damaged("the frames of its footer make no sense"));
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
