//! Writing a run: sorted records come, the file grows; memory stays bounded whatever the number of records, but for four
//! bytes a block.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::filter::Filter;
use super::layout::{
    BLOCK_BYTES, BLOCK_RECORDS, BUFFER_BYTES, COUNT_AT, FENCES, FILTERS, Header, PACKS, Part, SECTIONS, SEGMENTS,
    Section, Sink, Sums, damaged,
};
use super::record::{RECORD_BYTES, Record, head, prefix};
use crate::format::names::ObjectId;

/// Keys a filter is made for: more save a few bits a thousand keys, and take 24 bytes each while it is made.
const FILTER_KEYS_TARGET: u64 = 512 << 10;

/// A segment, and its packs by local number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    pub segment: ObjectId,
    pub packs: Vec<Range<u32>>,
}

/// A run in the making.
pub struct RunWriter<'a> {
    file: &'a File,
    sums: Sums,
    records_max: u64,
    records: u64,
    parts: u64,
    last: Option<Record>,
    block: Box<[u8; BLOCK_BYTES]>,
    in_block: usize,
    /// Whole blocks not written yet.
    buffer: Vec<u8>,
    fences: Vec<u32>,
    /// Distinct keys of the current part.
    keys: Vec<u64>,
    filters: Vec<Section>,
    filters_end: u64,
}

/// The part of the range of keys a key falls in.
pub fn part_of(prefix: u32, parts: u64) -> u64 {
    (u64::from(prefix) * parts) >> 32
}

impl<'a> RunWriter<'a> {
    /// At most `records_max` records will come.
    pub fn new(file: &'a File, sums: Sums, records_max: u64) -> Self {
        let blocks_max = records_max.div_ceil(BLOCK_RECORDS as u64);
        Self {
            file,
            sums,
            records_max,
            records: 0,
            parts: records_max.div_ceil(FILTER_KEYS_TARGET).max(1),
            last: None,
            block: Box::new([0; BLOCK_BYTES]),
            in_block: 0,
            buffer: Vec::with_capacity(BUFFER_BYTES + BLOCK_BYTES),
            fences: Vec::with_capacity(blocks_max as usize),
            keys: Vec::new(),
            filters: Vec::new(),
            filters_end: (1 + blocks_max) * BLOCK_BYTES as u64,
        }
    }

    /// The next record; those that are there already are left out.
    pub fn push(&mut self, record: Record) -> io::Result<()> {
        match &self.last {
            Some(last) if *last == record => return Ok(()),
            Some(last) if *last > record => return Err(damaged("records out of order")),
            _ => self.last = Some(record),
        }
        if self.records >= self.records_max {
            return Err(damaged("more records than expected"));
        }
        let first_bits = prefix(&record.key);
        while (self.filters.len() as u64) < part_of(first_bits, self.parts) {
            self.end_part()?;
        }
        let key = head(&record.key);
        if self.keys.last() != Some(&key) {
            self.keys.push(key);
        }
        if self.in_block == 0 {
            self.fences.push(first_bits);
        }
        let at = self.in_block * RECORD_BYTES;
        if let Some(place) = self.block.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            record.encode(place);
        }
        self.in_block += 1;
        self.records += 1;
        if self.in_block == BLOCK_RECORDS { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.in_block == 0 {
            return Ok(());
        }
        self.block[self.in_block * RECORD_BYTES..].fill(0);
        self.block[COUNT_AT..COUNT_AT + 4].copy_from_slice(&(self.in_block as u32).to_le_bytes());
        self.sums.close(Part::Block(self.fences.len() as u64 - 1), &mut self.block);
        self.in_block = 0;
        self.buffer.extend(&*self.block);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let start = (1 + self.fences.len() as u64) * BLOCK_BYTES as u64 - self.buffer.len() as u64;
        self.file.write_all_at(&self.buffer, start)?;
        self.buffer.clear();
        Ok(())
    }

    fn end_part(&mut self) -> io::Result<()> {
        let filter = Filter::new(&self.keys).ok_or_else(|| damaged("keys that no filter fits"))?;
        self.keys.clear();
        let mut bytes = Vec::with_capacity(filter.encoded_bytes());
        filter.encode(&mut bytes);
        self.file.write_all_at(&bytes, self.filters_end)?;
        let checksum = self.sums.of(Part::Filter(self.filters.len() as u64), &bytes);
        self.filters.push(Section { offset: self.filters_end, bytes: bytes.len() as u64, checksum });
        self.filters_end += bytes.len() as u64;
        Ok(())
    }

    /// Writes the rest and makes the file durable.
    pub fn finish(
        mut self,
        repository: ObjectId,
        run: ObjectId,
        packs: impl Iterator<Item = (ObjectId, u8)>,
        segments: &[Covered],
    ) -> io::Result<()> {
        self.end_block()?;
        self.flush()?;
        while (self.filters.len() as u64) < self.parts {
            self.end_part()?;
        }
        let (file, sums) = (self.file, self.sums);
        let mut end = self.filters_end;
        let mut section = |number: usize, write: &mut dyn FnMut(&mut Sink<'_>) -> io::Result<()>| {
            let mut sink = Sink::new(file, end, sums, Part::Section(number));
            write(&mut sink)?;
            let section = sink.finish()?;
            end = section.offset + section.bytes;
            Ok::<_, io::Error>(section)
        };
        let mut sections = [Section::default(); SECTIONS];
        sections[FENCES] =
            section(FENCES, &mut |sink| self.fences.iter().try_for_each(|fence| sink.put(&fence.to_le_bytes())))?;
        sections[FILTERS] = section(FILTERS, &mut |sink| {
            self.filters.iter().try_for_each(|filter| {
                [filter.offset, filter.bytes, filter.checksum].iter().try_for_each(|n| sink.put(&n.to_le_bytes()))
            })
        })?;
        let mut packs = packs;
        sections[PACKS] = section(PACKS, &mut |sink| {
            packs.try_for_each(|(id, generation)| {
                sink.put(&id)?;
                sink.put(&[generation])
            })
        })?;
        sections[SEGMENTS] = section(SEGMENTS, &mut |sink| segments.iter().try_for_each(|segment| segment.put(sink)))?;
        let (records, blocks, parts) = (self.records, self.fences.len() as u64, self.parts);
        let header = Header { repository, run, records, blocks, parts, sections };
        file.write_all_at(&header.encode(sums), 0)?;
        file.sync_all()
    }
}

impl Covered {
    fn put(&self, sink: &mut Sink<'_>) -> io::Result<()> {
        sink.put(&self.segment)?;
        sink.put(&(self.packs.len() as u32).to_le_bytes())?;
        self.packs.iter().try_for_each(|range| {
            sink.put(&range.start.to_le_bytes())?;
            sink.put(&range.end.to_le_bytes())
        })
    }
}
