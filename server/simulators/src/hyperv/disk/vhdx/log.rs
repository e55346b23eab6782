//! The log: a ring of entries, each a set of 4 KiB sectors to be written somewhere in the file (MS-VHDX 2.3).

use std::collections::BTreeMap;
use std::io;

use uuid::Uuid;

use super::layout::{MIB, SECTOR_BYTES, checksum, checksum_fits, damaged, put, u32_at, u64_at, uuid_at};

/// Sectors that one entry carries.
pub(super) const ENTRY_PATCHES_MAX: usize = 32;
/// Descriptors an entry of somebody else may have.
const DESCRIPTORS_MAX: u32 = 1 << 16;
const HEADER_BYTES: usize = 64;
const DESCRIPTOR_BYTES: usize = 32;

/// A sector of metadata with its place in the file.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    pub offset: u64,
    /// [`SECTOR_BYTES`] of them.
    pub bytes: Vec<u8>,
}

/// What an entry says of itself beside its patches.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryHeader {
    pub log: Uuid,
    pub sequence: u64,
    /// Place in the log of the oldest entry that may not be applied yet.
    pub tail: u32,
    pub flushed_bytes: u64,
    pub last_bytes: u64,
}

/// An entry of at most [`ENTRY_PATCHES_MAX`] patches.
pub(super) fn encode_entry(header: &EntryHeader, patches: &[Patch]) -> Vec<u8> {
    let mut bytes = vec![0; descriptor_bytes(patches.len()) + patches.len() * SECTOR_BYTES];
    let length = bytes.len() as u32;
    put(&mut bytes, 0, b"loge");
    put(&mut bytes, 8, &length.to_le_bytes());
    put(&mut bytes, 12, &header.tail.to_le_bytes());
    put(&mut bytes, 16, &header.sequence.to_le_bytes());
    put(&mut bytes, 24, &(patches.len() as u32).to_le_bytes());
    put(&mut bytes, 32, &header.log.to_bytes_le());
    put(&mut bytes, 48, &header.flushed_bytes.to_le_bytes());
    put(&mut bytes, 56, &header.last_bytes.to_le_bytes());
    for (index, patch) in patches.iter().enumerate() {
        let at = HEADER_BYTES + index * DESCRIPTOR_BYTES;
        put(&mut bytes, at, b"desc");
        put(&mut bytes, at + 4, patch.bytes.get(SECTOR_BYTES - 4..).unwrap_or_default());
        put(&mut bytes, at + 8, patch.bytes.get(..8).unwrap_or_default());
        put(&mut bytes, at + 16, &patch.offset.to_le_bytes());
        put(&mut bytes, at + 24, &header.sequence.to_le_bytes());
        let at = descriptor_bytes(patches.len()) + index * SECTOR_BYTES;
        put(&mut bytes, at, b"data");
        put(&mut bytes, at + 4, &((header.sequence >> 32) as u32).to_le_bytes());
        put(&mut bytes, at + 8, patch.bytes.get(8..SECTOR_BYTES - 4).unwrap_or_default());
        put(&mut bytes, at + SECTOR_BYTES - 4, &(header.sequence as u32).to_le_bytes());
    }
    let sum = checksum(&bytes);
    put(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}

fn descriptor_bytes(count: usize) -> usize {
    (HEADER_BYTES + count * DESCRIPTOR_BYTES).next_multiple_of(SECTOR_BYTES)
}

/// A change to be replayed.
#[derive(Debug)]
pub(super) enum Change {
    Data(Patch),
    Zero { offset: u64, bytes: u64 },
}

/// What a log that is not empty asks for.
#[derive(Debug)]
pub(super) struct Replay {
    /// In order.
    pub changes: Vec<Change>,
    /// A shorter file was truncated.
    pub flushed_bytes: u64,
    /// The file is at least so long afterwards.
    pub last_bytes: u64,
}

impl Replay {
    /// Lays the changes over bytes read from `offset` on.
    pub fn overlay(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset + buffer.len() as u64;
        for change in &self.changes {
            let (at, length) = match change {
                Change::Data(patch) => (patch.offset, SECTOR_BYTES as u64),
                Change::Zero { offset, bytes } => (*offset, *bytes),
            };
            let (from, to) = (at.max(offset), at.saturating_add(length).min(end));
            let Some(target) = buffer.get_mut(from.saturating_sub(offset) as usize..to.saturating_sub(offset) as usize)
            else {
                continue;
            };
            match change {
                Change::Data(patch) => {
                    let source = patch.bytes.get((from - at) as usize..(to - at) as usize);
                    target.copy_from_slice(source.unwrap_or_default());
                }
                Change::Zero { .. } => target.fill(0),
            }
        }
    }
}

struct Entry {
    header: EntryHeader,
    bytes: Vec<u8>,
}

/// Reads the active sequence out of a whole log.
pub(super) fn read(ring: &[u8], log: Uuid) -> io::Result<Replay> {
    let mut entries = BTreeMap::new();
    for at in (0..ring.len()).step_by(SECTOR_BYTES) {
        if let Some(entry) = entry_at(ring, at, log) {
            entries.insert(at, entry);
        }
    }
    let mut heads: Vec<(u64, usize)> = entries.iter().map(|(&at, entry)| (entry.header.sequence, at)).collect();
    heads.sort_unstable_by(|a, b| b.cmp(a));
    let active = heads.iter().find_map(|&(_, head)| sequence_to(&entries, head, ring.len()));
    let active = active.ok_or_else(|| damaged("the log has no valid sequence"))?;
    let mut replay = Replay { changes: Vec::new(), flushed_bytes: 0, last_bytes: 0 };
    for entry in active {
        replay.flushed_bytes = entry.header.flushed_bytes;
        replay.last_bytes = entry.header.last_bytes;
        replay.changes.extend(changes(entry).ok_or_else(|| damaged("an entry of the log"))?);
    }
    Ok(replay)
}

/// The entries from a head's tail up to it, if they follow each other.
fn sequence_to(entries: &BTreeMap<usize, Entry>, head: usize, ring_bytes: usize) -> Option<Vec<&Entry>> {
    let mut at = entries.get(&head)?.header.tail as usize;
    let mut sequence: Vec<&Entry> = Vec::new();
    while sequence.len() < entries.len() {
        let entry = entries.get(&at)?;
        if sequence.last().is_some_and(|last| last.header.sequence + 1 != entry.header.sequence) {
            return None;
        }
        sequence.push(entry);
        if at == head {
            return Some(sequence);
        }
        at = (at + entry.bytes.len()) % ring_bytes;
    }
    None
}

fn entry_at(ring: &[u8], at: usize, log: Uuid) -> Option<Entry> {
    let first = ring.get(at..at + SECTOR_BYTES)?;
    let length = u32_at(first, 8) as usize;
    let fits = length >= SECTOR_BYTES && length.is_multiple_of(SECTOR_BYTES) && length <= ring.len();
    if !first.starts_with(b"loge") || uuid_at(first, 32) != log || !fits {
        return None;
    }
    let (upto, rest) = ((at + length).min(ring.len()), (at + length).saturating_sub(ring.len()));
    let bytes = [ring.get(at..upto)?, ring.get(..rest)?].concat();
    let header = EntryHeader {
        log,
        sequence: u64_at(&bytes, 16),
        tail: u32_at(&bytes, 12),
        flushed_bytes: u64_at(&bytes, 48),
        last_bytes: u64_at(&bytes, 56),
    };
    let aligned = header.flushed_bytes.is_multiple_of(MIB) && header.last_bytes.is_multiple_of(MIB);
    let entry = Entry { header, bytes };
    (checksum_fits(&entry.bytes) && header.sequence > 0 && aligned && changes(&entry).is_some()).then_some(entry)
}

/// The changes of an entry; none when a field of it does not fit.
fn changes(entry: &Entry) -> Option<Vec<Change>> {
    let bytes = &entry.bytes;
    let (count, sequence) = (u32_at(bytes, 24), entry.header.sequence);
    if count > DESCRIPTORS_MAX {
        return None;
    }
    let mut changes = Vec::new();
    let mut data_at = descriptor_bytes(count as usize);
    for at in (0..count as usize).map(|index| HEADER_BYTES + index * DESCRIPTOR_BYTES) {
        let descriptor = bytes.get(at..at + DESCRIPTOR_BYTES)?;
        let offset = u64_at(descriptor, 16);
        if u64_at(descriptor, 24) != sequence || !offset.is_multiple_of(SECTOR_BYTES as u64) {
            return None;
        }
        if descriptor.starts_with(b"zero") {
            changes.push(Change::Zero { offset, bytes: u64_at(descriptor, 8) });
            continue;
        }
        let sector = bytes.get(data_at..data_at + SECTOR_BYTES)?;
        let split = (u64::from(u32_at(sector, 4)) << 32) | u64::from(u32_at(sector, SECTOR_BYTES - 4));
        if !descriptor.starts_with(b"desc") || !sector.starts_with(b"data") || split != sequence {
            return None;
        }
        let mut restored = sector.to_vec();
        put(&mut restored, 0, descriptor.get(8..16)?);
        put(&mut restored, SECTOR_BYTES - 4, descriptor.get(4..8)?);
        changes.push(Change::Data(Patch { offset, bytes: restored }));
        data_at += SECTOR_BYTES;
    }
    Some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, tail: u32, fill: u8) -> Vec<u8> {
        let log = Uuid::from_u128(5);
        let header = EntryHeader { log, sequence, tail, flushed_bytes: 4 * MIB, last_bytes: 5 * MIB };
        encode_entry(&header, &[Patch { offset: u64::from(fill) << 20, bytes: vec![fill; SECTOR_BYTES] }])
    }

    #[test]
    fn the_newest_complete_sequence_is_replayed_across_the_end_of_the_ring() {
        let mut ring = vec![0; 4 * SECTOR_BYTES];
        let mut place = |at: usize, entry: &[u8]| {
            for (index, byte) in entry.iter().enumerate() {
                let length = ring.len();
                ring[(at + index) % length] = *byte;
            }
        };
        place(SECTOR_BYTES, &entry(1 << 33, SECTOR_BYTES as u32, 1));
        place(3 * SECTOR_BYTES, &entry((1 << 33) + 1, SECTOR_BYTES as u32, 2));
        let replay = read(&ring, Uuid::from_u128(5)).unwrap();
        assert_eq!((replay.changes.len(), replay.flushed_bytes, replay.last_bytes), (2, 4 * MIB, 5 * MIB));
        let mut bytes = vec![9; 2 * SECTOR_BYTES];
        replay.overlay(2 << 20, &mut bytes);
        assert_eq!((bytes[0], bytes[SECTOR_BYTES - 1], bytes[SECTOR_BYTES]), (2, 2, 9));
        replay.overlay((1 << 20) - SECTOR_BYTES as u64, &mut bytes);
        assert_eq!(bytes[SECTOR_BYTES], 1);
        assert!(read(&ring, Uuid::from_u128(6)).is_err());
        ring[100] ^= 1; // in the newest entry, which wraps: the older one alone is whole
        assert_eq!(read(&ring, Uuid::from_u128(5)).unwrap().changes.len(), 1);
    }
}
