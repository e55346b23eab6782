//! The log: finds the newest whole sequence of entries and replays it in memory (MS-VHDX 2.3).
//!
//! Entries are told from old ones and torn ones by signature, log id, sequence numbers in every descriptor and data
//! sector, and checksum. Whatever is cheap is checked before the checksum, so that a hostile log costs no more than
//! reading it: valid entries cannot overlap, since none has a header's signature inside.

use super::layout::{FILE_BYTES_MAX, LOG_SECTOR, checksum, limit, malformed};
use super::overlay::Overlay;
use crate::Result;
use crate::container::fields::{field, le_u32, le_u64, put};
use bytes::Bytes;
use domain::Extent;
use std::borrow::Cow;
use std::collections::BTreeMap;
use uuid::Uuid;

const ENTRY_SIGNATURE: [u8; 4] = *b"loge";
const DATA_DESCRIPTOR: [u8; 4] = *b"desc";
const ZERO_DESCRIPTOR: [u8; 4] = *b"zero";
const DATA_SECTOR: [u8; 4] = *b"data";
const ENTRY_HEADER_BYTES: usize = 64;
const DESCRIPTOR_BYTES: usize = 32;

/// A valid entry.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Offset in the log, and length, in bytes.
    at: usize,
    length: usize,
    sequence: u64,
    tail: usize,
    descriptors: usize,
    flushed_bytes: u64,
    last_bytes: u64,
}

/// What the log would do to the file.
#[derive(Debug)]
pub(super) struct Replay {
    pub overlay: Overlay,
    /// Length the file must have at least afterwards.
    pub len_bytes: u64,
    /// Bytes that were rewritten or zeroed.
    pub replayed_bytes: u64,
}

/// Replays the log `ring` of entries with this id over a file of `file_bytes`.
pub(super) fn replay(ring: &[u8], log_id: Uuid, file_bytes: u64) -> Result<Replay> {
    let active = active_sequence(ring, log_id);
    let head = active.last().ok_or_else(|| malformed("the log has no whole sequence of entries"))?;
    if file_bytes < head.flushed_bytes {
        let reason =
            format!("the file has {file_bytes} bytes, but had {} when its log was written", head.flushed_bytes);
        return Err(malformed(reason));
    }
    let mut replay =
        Replay { overlay: Overlay::default(), len_bytes: file_bytes.max(head.last_bytes), replayed_bytes: 0 };
    for entry in &active {
        replay.apply(&entry.bytes(ring), entry)?;
    }
    if replay.len_bytes > FILE_BYTES_MAX {
        return Err(limit(format!("a file that its log makes {} bytes long", replay.len_bytes), FILE_BYTES_MAX));
    }
    Ok(replay)
}

/// The entries from tail to head; empty when no sequence is whole.
fn active_sequence(ring: &[u8], log_id: Uuid) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at + LOG_SECTOR <= ring.len() {
        entries.extend(Entry::decode(ring, at, log_id));
        at += LOG_SECTOR;
    }
    entries.sort_unstable_by_key(|entry| entry.sequence);
    // A run is a row of entries, each right behind the one before and one number higher.
    let mut runs: Vec<Vec<Entry>> = Vec::new();
    let mut open: BTreeMap<(u64, usize), usize> = BTreeMap::new();
    for entry in entries {
        let run = open.remove(&(entry.sequence, entry.at)).unwrap_or_else(|| {
            runs.push(Vec::new());
            runs.len() - 1
        });
        if let Some(run) = runs.get_mut(run) {
            run.push(entry);
        }
        if let Some(next) = entry.sequence.checked_add(1) {
            open.insert((next, (entry.at + entry.length) % ring.len()), run);
        }
    }
    let whole = runs.into_iter().filter_map(|run| {
        let head = *run.last()?;
        let from = run.iter().position(|entry| entry.at == head.tail)?;
        Some(run.into_iter().skip(from).collect::<Vec<Entry>>())
    });
    whole.max_by_key(|run| run.last().map(|head| head.sequence)).unwrap_or_default()
}

impl Entry {
    fn decode(ring: &[u8], at: usize, log_id: Uuid) -> Option<Self> {
        let header = ring.get(at..at + ENTRY_HEADER_BYTES)?;
        let entry = Self {
            at,
            length: le_u32(header, 8) as usize,
            tail: le_u32(header, 12) as usize,
            sequence: le_u64(header, 16),
            descriptors: le_u32(header, 24) as usize,
            flushed_bytes: le_u64(header, 48),
            last_bytes: le_u64(header, 56),
        };
        let ours = header.starts_with(&ENTRY_SIGNATURE) && Uuid::from_bytes_le(field(header, 32)) == log_id;
        let aligned = entry.length.is_multiple_of(LOG_SECTOR) && entry.tail.is_multiple_of(LOG_SECTOR);
        let fits = (LOG_SECTOR..=ring.len()).contains(&entry.length) && entry.tail < ring.len();
        if !ours || !aligned || !fits || entry.sequence == 0 || entry.descriptor_sectors() * LOG_SECTOR > entry.length {
            return None;
        }
        entry.has_sound_sectors(ring)?;
        let bytes = entry.bytes(ring);
        (le_u32(header, 4) == checksum(&bytes)).then_some(entry)
    }

    /// Sectors with header and descriptors.
    fn descriptor_sectors(&self) -> usize {
        (ENTRY_HEADER_BYTES + self.descriptors * DESCRIPTOR_BYTES).div_ceil(LOG_SECTOR)
    }

    fn sector<'a>(&self, ring: &'a [u8], index: usize) -> Option<&'a [u8]> {
        let at = (self.at + index * LOG_SECTOR) % ring.len();
        ring.get(at..at + LOG_SECTOR)
    }

    /// The entry in one piece; at the end of the ring it goes on at its start.
    fn bytes<'a>(&self, ring: &'a [u8]) -> Cow<'a, [u8]> {
        if let Some(whole) = ring.get(self.at..self.at + self.length) {
            return Cow::Borrowed(whole);
        }
        let first = ring.get(self.at..).unwrap_or_default();
        let rest = ring.get(..self.length.saturating_sub(first.len())).unwrap_or_default();
        Cow::Owned([first, rest].concat())
    }

    /// Whether descriptors and data sectors carry their signatures and this entry's number, and none is left over.
    fn has_sound_sectors(&self, ring: &[u8]) -> Option<()> {
        let mut data_sectors = 0;
        for index in 0..self.descriptors {
            let at = ENTRY_HEADER_BYTES + index * DESCRIPTOR_BYTES;
            let sector = self.sector(ring, at / LOG_SECTOR)?;
            let descriptor = sector.get(at % LOG_SECTOR..)?.get(..DESCRIPTOR_BYTES)?;
            let is_data = descriptor.starts_with(&DATA_DESCRIPTOR);
            if !(is_data || descriptor.starts_with(&ZERO_DESCRIPTOR)) || le_u64(descriptor, 24) != self.sequence {
                return None;
            }
            data_sectors += usize::from(is_data);
        }
        let first = self.descriptor_sectors();
        for index in first..self.length / LOG_SECTOR {
            let sector = self.sector(ring, index)?;
            let number = u64::from(le_u32(sector, 4)) << 32 | u64::from(le_u32(sector, LOG_SECTOR - 4));
            if !sector.starts_with(&DATA_SECTOR) || number != self.sequence {
                return None;
            }
        }
        (first + data_sectors == self.length / LOG_SECTOR).then_some(())
    }
}

impl Replay {
    fn apply(&mut self, bytes: &[u8], entry: &Entry) -> Result<()> {
        let mut data = bytes.chunks_exact(LOG_SECTOR).skip(entry.descriptor_sectors());
        for index in 0..entry.descriptors {
            let at = ENTRY_HEADER_BYTES + index * DESCRIPTOR_BYTES;
            let descriptor = bytes.get(at..at + DESCRIPTOR_BYTES).unwrap_or_default();
            let offset = le_u64(descriptor, 16);
            let is_data = descriptor.starts_with(&DATA_DESCRIPTOR);
            let area = Extent::new(offset, if is_data { LOG_SECTOR as u64 } else { le_u64(descriptor, 8) });
            let sector = LOG_SECTOR as u64;
            if area.end() > FILE_BYTES_MAX || !offset.is_multiple_of(sector) || !area.length.is_multiple_of(sector) {
                let number = entry.sequence;
                return Err(malformed(format!("log entry {number} writes {} bytes at {offset}", area.length)));
            }
            if is_data {
                let mut sector: [u8; LOG_SECTOR] = field(data.next().unwrap_or_default(), 0);
                put(&mut sector, 0, &le_u64(descriptor, 8).to_le_bytes());
                put(&mut sector, LOG_SECTOR - 4, &le_u32(descriptor, 4).to_le_bytes());
                self.overlay.data(offset, Bytes::copy_from_slice(&sector));
            } else {
                self.overlay.zero(area);
            }
            self.replayed_bytes = self.replayed_bytes.saturating_add(area.length);
            self.len_bytes = self.len_bytes.max(area.end());
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const FILE_BYTES: u64 = 8 << 20;
    const ID: Uuid = Uuid::from_u128(7);

    /// An entry that writes a sector of `value` at 1 MiB, and zeros at 2 MiB.
    fn entry(number: u64, tail: usize, value: u8, id: Uuid) -> Vec<u8> {
        let mut raw = vec![0; 2 * LOG_SECTOR];
        let length = raw.len() as u32;
        put(&mut raw, 0, &ENTRY_SIGNATURE);
        put(&mut raw, 8, &length.to_le_bytes());
        put(&mut raw, 12, &(tail as u32).to_le_bytes());
        put(&mut raw, 16, &number.to_le_bytes());
        put(&mut raw, 24, &2_u32.to_le_bytes());
        put(&mut raw, 32, &id.to_bytes_le());
        put(&mut raw, 48, &FILE_BYTES.to_le_bytes());
        put(&mut raw, 56, &(FILE_BYTES + (1 << 20)).to_le_bytes());
        put(&mut raw, 64, &DATA_DESCRIPTOR);
        put(&mut raw, 68, &[value; 12]);
        put(&mut raw, 80, &(1_u64 << 20).to_le_bytes());
        put(&mut raw, 88, &number.to_le_bytes());
        put(&mut raw, 96, &ZERO_DESCRIPTOR);
        put(&mut raw, 104, &8192_u64.to_le_bytes());
        put(&mut raw, 112, &(2_u64 << 20).to_le_bytes());
        put(&mut raw, 120, &number.to_le_bytes());
        put(&mut raw, LOG_SECTOR, &DATA_SECTOR);
        put(&mut raw, LOG_SECTOR + 4, &((number >> 32) as u32).to_le_bytes());
        put(&mut raw, LOG_SECTOR + 8, &[value; LOG_SECTOR - 12]);
        put(&mut raw, 2 * LOG_SECTOR - 4, &(number as u32).to_le_bytes());
        seal(&mut raw);
        raw
    }

    fn seal(raw: &mut [u8]) {
        let sum = checksum(raw);
        put(raw, 4, &sum.to_le_bytes());
    }

    /// A log of 12 sectors with these entries at these sectors.
    fn ring(entries: &[(usize, &[u8])]) -> Vec<u8> {
        let mut ring = vec![0; 12 * LOG_SECTOR];
        for (sector, entry) in entries {
            for (index, part) in entry.chunks(LOG_SECTOR).enumerate() {
                put(&mut ring, (sector + index) % 12 * LOG_SECTOR, part);
            }
        }
        ring
    }

    /// A sound log, for the fuzzer.
    pub fn sample(id: Uuid) -> Vec<u8> {
        [entry(5, 0, 1, id), entry(6, 0, 2, id)].concat()
    }

    /// The byte that replay leaves at 1 MiB.
    fn outcome(ring: &[u8]) -> Option<u8> {
        let replay = replay(ring, ID, FILE_BYTES).ok()?;
        let (mut data, mut zeros) = ([9; LOG_SECTOR], [9; 8193]);
        replay.overlay.apply(1 << 20, &mut data);
        replay.overlay.apply(2 << 20, &mut zeros);
        assert!(data.iter().all(|byte| *byte == data[0]));
        assert!(zeros[..8192].iter().all(|byte| *byte == 0) && zeros[8192] == 9);
        assert_eq!(replay.len_bytes, FILE_BYTES + (1 << 20));
        Some(data[0])
    }

    #[test]
    fn the_newest_whole_sequence_counts() {
        let at = |sector: usize| sector * LOG_SECTOR;
        let (one, two) = (entry(5, at(1), 1, ID), entry(6, at(1), 2, ID));
        assert_eq!(outcome(&ring(&[(1, &one), (3, &two)])), Some(2));
        assert_eq!(outcome(&ring(&[(1, &one)])), Some(1));
        // A newer one elsewhere, an older one, one of another log, and one whose predecessor is missing.
        assert_eq!(outcome(&ring(&[(1, &one), (3, &two), (8, &entry(9, at(8), 3, ID))])), Some(3));
        assert_eq!(outcome(&ring(&[(1, &one), (3, &two), (8, &entry(4, at(8), 3, ID))])), Some(2));
        assert_eq!(outcome(&ring(&[(1, &one), (8, &entry(9, at(8), 3, Uuid::from_u128(8)))])), Some(1));
        assert_eq!(outcome(&ring(&[(1, &one), (8, &entry(9, at(6), 3, ID))])), Some(1));
        assert_eq!(outcome(&ring(&[(8, &entry(9, at(6), 3, ID))])), None);
        assert_eq!(outcome(&ring(&[])), None);
    }

    #[test]
    fn a_sequence_goes_on_at_the_start_of_the_ring() {
        let tail = 9 * LOG_SECTOR;
        let entries = [entry(5, tail, 1, ID), entry(6, tail, 2, ID), entry(7, tail, 3, ID)];
        assert_eq!(outcome(&ring(&[(9, &entries[0]), (11, &entries[1]), (1, &entries[2])])), Some(3));
        // Without the first, what stands is a head whose tail is gone.
        assert_eq!(outcome(&ring(&[(11, &entries[1]), (1, &entries[2])])), None);
    }

    #[test]
    fn an_entry_with_any_wrong_byte_is_none() {
        let good = entry((1 << 40) + 5, 0, 1, ID);
        assert_eq!(outcome(&ring(&[(0, &good)])), Some(1));
        for at in (0..150).chain([LOG_SECTOR, LOG_SECTOR + 4, 2 * LOG_SECTOR - 1]) {
            let mut torn = good.clone();
            torn[at] ^= 1;
            assert_eq!(outcome(&ring(&[(0, &torn)])), None, "byte {at}");
            // Right again by its checksum, but not by what it says.
            if [10, 15, 16, 26, 32, 64, 88, 96, 120, LOG_SECTOR, LOG_SECTOR + 4, 2 * LOG_SECTOR - 1].contains(&at) {
                seal(&mut torn);
                assert_eq!(outcome(&ring(&[(0, &torn)])), None, "byte {at}, sealed");
            }
        }
    }

    #[test]
    fn writes_that_no_file_could_take_are_refused() {
        for (at, value) in [(80, 1_u64), (80, FILE_BYTES_MAX), (104, 5), (104, u64::MAX), (56, FILE_BYTES_MAX + 1)] {
            let mut bad = entry(5, 0, 1, ID);
            put(&mut bad, at, &value.to_le_bytes());
            seal(&mut bad);
            assert!(replay(&ring(&[(0, &bad)]), ID, FILE_BYTES).is_err(), "{value} at {at}");
        }
        assert!(replay(&ring(&[(0, &entry(5, 0, 1, ID))]), ID, FILE_BYTES - 1).is_err());
    }
}
