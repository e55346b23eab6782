//! A run: sorted records in a file that never changes. In memory are a fence of four bytes for each block of 127 records
//! and a filter of nine bits a key; a look-up that passes the filter reads one block, or two.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::build::{Covered, part_of};
use super::filter::{FILTER_KEYS_MAX, Filter};
use super::layout::{
    BLOCK_BYTES, BLOCK_RECORDS, BUFFER_BYTES, COUNT_AT, FENCES, FILTERS, Header, PACKS, Part, SEGMENTS, Section,
    Source, Sums, damaged,
};
use super::record::{Key, Place, RECORD_BYTES, Record, head, prefix};
use crate::format::names::ObjectId;

/// Most bytes of one encoded filter.
const FILTER_BYTES_MAX: u64 = 2 * FILTER_KEYS_MAX as u64;

/// Numbers of packs in the index, by their number in the run.
enum Numbers {
    /// They follow each other from here on.
    From(u32),
    Listed(Vec<u32>),
}

/// See the module.
pub struct Run {
    pub id: ObjectId,
    pub records: u64,
    file: File,
    sums: Sums,
    blocks: u64,
    fences: Box<[u32]>,
    filters: Vec<(Section, OnceLock<Filter>)>,
    packs: u32,
    numbers: Numbers,
    /// Segments it covers; numbers of packs are the run's.
    pub segments: Vec<Covered>,
    broken: AtomicBool,
}

impl Run {
    /// Opens a run, without its filters. `number` gives each pack its number in the index.
    pub fn open(
        file: File,
        secret: u64,
        repository: &ObjectId,
        id: ObjectId,
        mut number: impl FnMut(ObjectId, u8) -> Option<u32>,
    ) -> io::Result<Self> {
        let sums = Sums::new(secret, &id);
        let mut block = [0; BLOCK_BYTES];
        file.read_exact_at(&mut block, 0)?;
        let header = Header::decode(sums, &block)?;
        if header.repository != *repository || header.run != id {
            return Err(damaged("a run of another repository"));
        }
        let source = |section: usize| Source::new(&file, header.sections[section], sums, Part::Section(section));

        let mut fences = Vec::with_capacity(header.blocks as usize);
        let mut from = source(FENCES);
        while !from.is_at_end() {
            fences.push(from.u32()?);
        }
        from.finish()?;
        if fences.len() as u64 != header.blocks {
            return Err(damaged("a run that does not add up"));
        }

        let mut filters = Vec::with_capacity(header.parts as usize);
        let mut from = source(FILTERS);
        while !from.is_at_end() {
            let section = Section { offset: from.u64()?, bytes: from.u64()?, checksum: from.u64()? };
            filters.push((section, OnceLock::new()));
        }
        from.finish()?;
        if filters.is_empty() || filters.len() as u64 != header.parts {
            return Err(damaged("a run that does not add up"));
        }

        let (mut numbers, mut packs) = (Numbers::From(0), 0);
        let mut from = source(PACKS);
        while !from.is_at_end() {
            let (pack, [generation]) = (from.array()?, from.array()?);
            let number = number(pack, generation).ok_or_else(|| damaged("too many packs"))?;
            numbers = numbers.with(packs, number);
            packs += 1;
        }
        from.finish()?;

        let mut segments = Vec::new();
        let mut from = source(SEGMENTS);
        while !from.is_at_end() {
            let (segment, count) = (from.array()?, from.u32()?);
            let packs = (0..count).map(|_| Ok(from.u32()?..from.u32()?)).collect::<io::Result<_>>()?;
            segments.push(Covered { segment, packs });
        }
        from.finish()?;
        segments.shrink_to_fit();
        let (blocks, records, fences) = (header.blocks, header.records, fences.into());
        let broken = AtomicBool::new(false);
        Ok(Self { id, records, file, sums, blocks, fences, filters, packs, numbers, segments, broken })
    }

    /// Loads the filters. Until then look-ups read a block each.
    pub fn load_filters(&self) -> io::Result<()> {
        for (number, (section, filter)) in self.filters.iter().enumerate() {
            if filter.get().is_some() {
                continue;
            }
            if section.bytes > FILTER_BYTES_MAX {
                return Err(damaged("a filter of a length that cannot be"));
            }
            let mut bytes = vec![0; section.bytes as usize];
            self.file.read_exact_at(&mut bytes, section.offset)?;
            if self.sums.of(Part::Filter(number as u64), &bytes) != section.checksum {
                return Err(damaged("a filter does not check"));
            }
            let loaded = Filter::decode(&bytes).ok_or_else(|| damaged("a filter of another version"))?;
            let _ = filter.set(loaded);
        }
        Ok(())
    }

    pub fn has_filters(&self) -> bool {
        self.filters.iter().all(|(_, filter)| filter.get().is_some())
    }

    /// Is what the file holds not what was written?
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Bytes of memory it takes.
    pub fn memory_bytes(&self) -> u64 {
        let filters = self.filters.iter().filter_map(|(_, filter)| Some(filter.get()?.encoded_bytes() as u64));
        let numbers = match &self.numbers {
            Numbers::From(_) => 0,
            Numbers::Listed(list) => list.len() as u64 * 4,
        };
        filters.sum::<u64>() + self.fences.len() as u64 * 4 + numbers
    }

    /// Number of packs.
    pub fn packs(&self) -> u32 {
        self.packs
    }

    /// The index's number of a pack of this run.
    pub fn number(&self, local: u32) -> Option<u32> {
        if local >= self.packs {
            return None;
        }
        match &self.numbers {
            Numbers::From(first) => Some(first + local),
            Numbers::Listed(list) => list.get(local as usize).copied(),
        }
    }

    /// Blocks that may hold keys with that prefix.
    fn blocks_of(&self, prefix: u32) -> std::ops::Range<usize> {
        let fences = &self.fences;
        // Keys are uniform: the place is near where the prefix lies in the range of all.
        let guess = ((u64::from(prefix) * fences.len() as u64) >> 32) as usize;
        let mut reach = 4;
        let window = loop {
            let (start, end) = (guess.saturating_sub(reach), (guess + reach).min(fences.len()));
            let low_enough = start == 0 || fences.get(start).is_some_and(|fence| *fence < prefix);
            let high_enough = end == fences.len() || fences.get(end).is_some_and(|fence| *fence > prefix);
            if low_enough && high_enough {
                break start..end;
            }
            reach *= 4;
        };
        let start = window.start;
        let fences = fences.get(window).unwrap_or_default();
        let first = start + fences.partition_point(|fence| *fence < prefix);
        let end = start + fences.partition_point(|fence| *fence <= prefix);
        first.saturating_sub(1)..end
    }

    /// Adds the places of a key to `found`, with the index's numbers of packs. A block that is not what was written marks
    /// the run as broken and gives nothing.
    pub fn find(&self, key: &Key, found: &mut Vec<Place>) {
        let first_bits = prefix(key);
        let part = part_of(first_bits, self.filters.len() as u64) as usize;
        let filter = self.filters.get(part).and_then(|(_, filter)| filter.get());
        if filter.is_some_and(|filter| !filter.may_contain(head(key))) {
            return;
        }
        for block in self.blocks_of(first_bits) {
            if let Err(error) = self.find_in(block as u64, key, found) {
                self.note_broken(&error);
                return;
            }
        }
    }

    fn note_broken(&self, error: &io::Error) {
        if !self.broken.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the index cache is damaged and will be made again");
        }
    }

    fn find_in(&self, block: u64, key: &Key, found: &mut Vec<Place>) -> io::Result<()> {
        let mut bytes = [0; BLOCK_BYTES];
        self.file.read_exact_at(&mut bytes, (1 + block) * BLOCK_BYTES as u64)?;
        self.sums.check(Part::Block(block), &bytes)?;
        let records = bytes.get(..count(&bytes) * RECORD_BYTES).unwrap_or_default();
        let (records, _) = records.as_chunks::<RECORD_BYTES>();
        let first = records.partition_point(|record| record.as_slice() < key.as_slice());
        for record in records.get(first..).unwrap_or_default() {
            let Some(record) = Record::decode(record).filter(|record| record.key == *key) else { break };
            let number = self.number(record.place.pack()).ok_or_else(|| damaged("a pack that is not in the list"))?;
            found.push(record.place.with_pack(number));
        }
        Ok(())
    }
}

fn count(block: &[u8; BLOCK_BYTES]) -> usize {
    let count = block.get(COUNT_AT..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes));
    (count as usize).min(BLOCK_RECORDS)
}

impl Numbers {
    /// With the number of one more pack, whose local number is `local`.
    fn with(self, local: u32, number: u32) -> Self {
        match self {
            Self::From(_) if local == 0 => Self::From(number),
            Self::From(first) if first + local == number => self,
            Self::From(first) => Self::Listed((first..first + local).chain([number]).collect()),
            Self::Listed(mut list) => {
                list.push(number);
                Self::Listed(list)
            }
        }
    }
}

/// Reads a run from its first record to its last, with its own numbers of packs.
pub struct Cursor<'a> {
    run: &'a Run,
    next_block: u64,
    buffer: Vec<u8>,
    /// Block in the buffer, record in the block.
    at: (usize, usize),
}

impl<'a> Cursor<'a> {
    pub fn new(run: &'a Run) -> Self {
        Self { run, next_block: 0, buffer: Vec::new(), at: (0, 0) }
    }

    pub fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            let (blocks, _) = self.buffer.as_chunks::<BLOCK_BYTES>();
            let (block, record) = self.at;
            let Some(bytes) = blocks.get(block) else {
                if self.next_block >= self.run.blocks {
                    return Ok(None);
                }
                self.fill().inspect_err(|error| self.run.note_broken(error))?;
                continue;
            };
            if record >= count(bytes) {
                self.at = (block + 1, 0);
                continue;
            }
            self.at.1 += 1;
            return Ok(bytes.get(record * RECORD_BYTES..).and_then(Record::decode));
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let first = self.next_block;
        let blocks = (self.run.blocks - first).min((BUFFER_BYTES / BLOCK_BYTES) as u64);
        self.buffer.resize(blocks as usize * BLOCK_BYTES, 0);
        self.run.file.read_exact_at(&mut self.buffer, (1 + first) * BLOCK_BYTES as u64)?;
        for (number, block) in (first..).zip(self.buffer.as_chunks::<BLOCK_BYTES>().0) {
            self.run.sums.check(Part::Block(number), block)?;
        }
        self.next_block += blocks;
        self.at = (0, 0);
        Ok(())
    }
}
