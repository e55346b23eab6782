//! A disk's map: a tree of nodes, stored as chunks. A leaf lists the chunks of a page, an inner node its children.

use super::{BLOCK_BYTES, CHUNK_BYTES_MAX, ChunkId, Fields, PAGE_BYTES};

/// Children of an inner node.
pub const FANOUT: u64 = 256;
/// Highest level of a root; a tree of it covers more than any disk.
pub const LEVEL_MAX: u32 = 4;
/// Largest disk: 1 PiB.
pub const DISK_BYTES_MAX: u64 = 1 << 50;
const MAGIC: &[u8; 3] = b"SFN";
const NODE_HEAD_BYTES: usize = 8;
/// Most entries of a leaf: every block apart.
const LEAF_ENTRIES_MAX: usize = PAGE_BYTES as usize / BLOCK_BYTES;

/// A stretch of a page: a chunk, or zeros when the id is [`ChunkId::ZERO`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafEntry {
    pub length: u32,
    pub id: ChunkId,
}

/// Bytes of a disk below a node of this level.
pub fn span_bytes(level: u32) -> u64 {
    (0..level.min(LEVEL_MAX)).fold(PAGE_BYTES, |span, _| span.saturating_mul(FANOUT))
}

/// Level of the root of a disk's map.
pub fn root_level(size_bytes: u64) -> u32 {
    (0..LEVEL_MAX).find(|&level| span_bytes(level) >= size_bytes).unwrap_or(LEVEL_MAX)
}

/// Length of page `page` of a disk.
pub fn page_bytes(size_bytes: u64, page: u64) -> u64 {
    size_bytes.saturating_sub(page.saturating_mul(PAGE_BYTES)).min(PAGE_BYTES)
}

/// Joins neighbouring runs of zeros.
pub fn join_zeros(entries: Vec<LeafEntry>) -> Vec<LeafEntry> {
    let mut joined: Vec<LeafEntry> = Vec::with_capacity(entries.len());
    for entry in entries {
        match joined.last_mut() {
            Some(last) if last.id.is_zero() && entry.id.is_zero() => last.length += entry.length,
            _ => joined.push(entry),
        }
    }
    joined
}

fn head(level: u8, count: usize) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(level);
    out.extend((count as u32).to_le_bytes());
    out
}

/// A leaf. `None` stands for a page of zeros, which has no node.
pub fn encode_leaf(entries: &[LeafEntry]) -> Option<Vec<u8>> {
    if entries.iter().all(|entry| entry.id.is_zero()) {
        return None;
    }
    let mut out = head(0, entries.len());
    for entry in entries {
        out.extend(entry.length.to_le_bytes());
        out.extend(entry.id.0);
    }
    Some(out)
}

/// An inner node. `None` stands for zeros only.
pub fn encode_inner(level: u32, children: &[ChunkId]) -> Option<Vec<u8>> {
    if children.iter().all(ChunkId::is_zero) {
        return None;
    }
    let mut out = head(level as u8, children.len());
    out.extend(children.iter().flat_map(|child| child.0));
    Some(out)
}

fn open_node(bytes: &[u8], level: u32) -> Option<(usize, &[u8])> {
    let (head, body) = bytes.split_at_checked(NODE_HEAD_BYTES)?;
    let mut fields = Fields(head);
    let right = fields.take(3)? == MAGIC && u32::from(fields.u8()?) == level;
    let count = fields.u32()? as usize;
    right.then_some((count, body))
}

/// The entries of a leaf, which must cover exactly `page_bytes`.
pub fn decode_leaf(bytes: &[u8], page_bytes: u64) -> Option<Vec<LeafEntry>> {
    let (count, body) = open_node(bytes, 0)?;
    if count > LEAF_ENTRIES_MAX || body.len() != count * 36 {
        return None;
    }
    let mut fields = Fields(body);
    let mut entries = Vec::with_capacity(count);
    let mut covered = 0;
    for _ in 0..count {
        let entry = LeafEntry { length: fields.u32()?, id: ChunkId(fields.array()?) };
        if entry.length == 0 || (!entry.id.is_zero() && entry.length > CHUNK_BYTES_MAX) {
            return None;
        }
        covered += u64::from(entry.length);
        if covered != page_bytes && !covered.is_multiple_of(BLOCK_BYTES as u64) {
            return None;
        }
        entries.push(entry);
    }
    (covered == page_bytes).then_some(entries)
}

/// The children of an inner node, of which there must be `count`.
pub fn decode_inner(bytes: &[u8], level: u32, count: u64) -> Option<Vec<ChunkId>> {
    let (found, body) = open_node(bytes, level)?;
    if found as u64 != count || count > FANOUT || body.len() != found * 32 {
        return None;
    }
    Some(body.chunks_exact(32).filter_map(|id| id.try_into().ok().map(ChunkId)).collect())
}

/// What a node of any place refers to, itself apart: its level, and the ids below it that are not zero.
pub fn references(bytes: &[u8]) -> Option<(u32, Vec<ChunkId>)> {
    let level = u32::from(*bytes.get(MAGIC.len())?);
    let (count, body) = open_node(bytes, level)?;
    let (most, entry_bytes, id_at) = if level == 0 { (LEAF_ENTRIES_MAX, 36, 4) } else { (FANOUT as usize, 32, 0) };
    if level > LEVEL_MAX || count > most || body.len() != count * entry_bytes {
        return None;
    }
    let ids = body.chunks_exact(entry_bytes).filter_map(|entry| entry.get(id_at..)?.try_into().ok().map(ChunkId));
    Some((level, ids.filter(|id| !id.is_zero()).collect()))
}

/// Number of children of inner node `index` at `level` of a disk.
pub fn child_count(size_bytes: u64, level: u32, index: u64) -> u64 {
    let below = span_bytes(level.saturating_sub(1));
    size_bytes.div_ceil(below).saturating_sub(index.saturating_mul(FANOUT)).min(FANOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_grow_with_the_disk() {
        assert_eq!(root_level(1), 0);
        assert_eq!(root_level(PAGE_BYTES), 0);
        assert_eq!(root_level(PAGE_BYTES + 1), 1);
        assert_eq!(root_level(16 << 30), 1);
        assert_eq!(root_level((16 << 30) + 1), 2);
        assert_eq!(root_level(DISK_BYTES_MAX), 3);
        assert_eq!(child_count((16 << 30) + 1, 2, 0), 2);
        assert_eq!(child_count((16 << 30) + 1, 1, 0), 256);
        assert_eq!(child_count((16 << 30) + 1, 1, 1), 1);
    }

    #[test]
    fn golden_nodes() {
        let id = ChunkId(std::array::from_fn(|i| i as u8 + 1));
        let leaf =
            encode_leaf(&[LeafEntry { length: 8192, id }, LeafEntry { length: 100, id: ChunkId::ZERO }]).unwrap();
        let golden = "53464e000200000000200000".to_owned()
            + "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"
            + "64000000"
            + &"00".repeat(32);
        assert_eq!(hex::encode(&leaf), golden);
        assert_eq!(decode_leaf(&leaf, 8292).unwrap().len(), 2);
        assert_eq!(decode_leaf(&leaf, 8293), None);
        let inner = encode_inner(1, &[ChunkId::ZERO, id]).unwrap();
        assert_eq!(hex::encode(&inner[..8]), "53464e0102000000");
        assert_eq!(decode_inner(&inner, 1, 2), Some(vec![ChunkId::ZERO, id]));
        assert_eq!(decode_inner(&inner, 2, 2), None);
        assert_eq!(encode_inner(1, &[ChunkId::ZERO]), None);
    }
}
