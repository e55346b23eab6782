//! The file of a run. A cache of this machine, no part of the repository's format: it may change with every version, and
//! what does not check is made again.
//!
//! ```text
//! header      4096   magic, version, repository, run, counts, sections, checksum
//! blocks      4096 each: 127 records of 32 bytes in order, zeros, number of records 4, zeros, checksum 8
//! (a hole, when fewer records came than were expected)
//! filters     one for each equal part of the keys' range
//! sections    fences: the first 32 bits of each block; filters: where and how long; packs: ids and
//!             generations by local number; segments: those whose packs are all in this run or in older ones
//! ```
//!
//! Every checksum is XXH3 with a seed that only those who have the repository's keys know: the cache of another
//! repository, or of another run, does not check.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::record::RECORD_BYTES;
use crate::format::Fields;
use crate::format::names::ObjectId;

pub const BLOCK_BYTES: usize = 4096;
pub const BLOCK_RECORDS: usize = 127;
/// Where the number of records stands in a block.
pub const COUNT_AT: usize = BLOCK_RECORDS * RECORD_BYTES;
const CHECKSUM_AT: usize = BLOCK_BYTES - 8;
const MAGIC: &[u8; 8] = b"SFRUN\0\0\0";
const VERSION: u32 = 2;
/// Bytes read or written at a time.
pub const BUFFER_BYTES: usize = 64 << 10;

/// What a checksum is about; part of its seed.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    Header,
    Block(u64),
    Filter(u64),
    Section(usize),
    State,
}

/// Checksums of one file.
#[derive(Debug, Clone, Copy)]
pub struct Sums(u64);

impl Sums {
    /// `secret` is the repository's, `file` tells its files apart.
    pub fn new(secret: u64, file: &ObjectId) -> Self {
        Self(xxh3_64_with_seed(file, secret))
    }

    fn seed(self, part: Part) -> u64 {
        let (kind, number) = match part {
            Part::Header => (1, 0),
            Part::Block(number) => (2, number),
            Part::Filter(number) => (3, number),
            Part::Section(number) => (4, number as u64),
            Part::State => (5, 0),
        };
        self.0 ^ (kind << 56 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    pub fn of(self, part: Part, bytes: &[u8]) -> u64 {
        xxh3_64_with_seed(bytes, self.seed(part))
    }

    /// Writes the checksum of a block into its last eight bytes.
    pub fn close(self, part: Part, block: &mut [u8; BLOCK_BYTES]) {
        let (body, end) = block.split_at_mut(CHECKSUM_AT);
        end.copy_from_slice(&self.of(part, body).to_le_bytes());
    }

    pub fn check(self, part: Part, block: &[u8; BLOCK_BYTES]) -> io::Result<()> {
        let (body, end) = block.split_at(CHECKSUM_AT);
        if end == self.of(part, body).to_le_bytes() { Ok(()) } else { Err(damaged("a block does not check")) }
    }
}

pub fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A stretch of the file with its checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Section {
    pub offset: u64,
    pub bytes: u64,
    pub checksum: u64,
}

pub const FENCES: usize = 0;
pub const FILTERS: usize = 1;
pub const PACKS: usize = 2;
pub const SEGMENTS: usize = 3;
pub const SECTIONS: usize = 4;

/// The first 4096 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub repository: ObjectId,
    pub run: ObjectId,
    pub records: u64,
    pub blocks: u64,
    /// Equal parts of the range of keys, a filter for each.
    pub parts: u64,
    pub sections: [Section; SECTIONS],
}

impl Header {
    pub fn encode(&self, sums: Sums) -> [u8; BLOCK_BYTES] {
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.repository);
        out.extend(self.run);
        for number in [self.records, self.blocks, self.parts] {
            out.extend(number.to_le_bytes());
        }
        for section in &self.sections {
            for number in [section.offset, section.bytes, section.checksum] {
                out.extend(number.to_le_bytes());
            }
        }
        let mut block = [0; BLOCK_BYTES];
        block[..out.len()].copy_from_slice(&out);
        sums.close(Part::Header, &mut block);
        block
    }

    pub fn decode(sums: Sums, block: &[u8; BLOCK_BYTES]) -> io::Result<Self> {
        sums.check(Part::Header, block)?;
        let mut fields = Fields(block);
        let mut read = || -> Option<Self> {
            let sound = fields.array::<8>()? == *MAGIC && fields.u32()? == VERSION;
            fields.take(4)?;
            let (repository, run) = (fields.array()?, fields.array()?);
            let (records, blocks, parts) = (fields.u64()?, fields.u64()?, fields.u64()?);
            let mut sections = [Section::default(); SECTIONS];
            for section in &mut sections {
                *section = Section { offset: fields.u64()?, bytes: fields.u64()?, checksum: fields.u64()? };
            }
            sound.then_some(Self { repository, run, records, blocks, parts, sections })
        };
        read().ok_or_else(|| damaged("a header of another version"))
    }
}

/// Writes a stretch of a file through a buffer.
pub struct Sink<'a> {
    file: &'a File,
    start: u64,
    at: u64,
    buffer: Vec<u8>,
    hash: Xxh3,
}

impl<'a> Sink<'a> {
    pub fn new(file: &'a File, start: u64, sums: Sums, part: Part) -> Self {
        let (buffer, hash) = (Vec::with_capacity(BUFFER_BYTES), Xxh3::with_seed(sums.seed(part)));
        Self { file, start, at: start, buffer, hash }
    }

    pub fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hash.update(&self.buffer);
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<Section> {
        self.flush()?;
        Ok(Section { offset: self.start, bytes: self.at - self.start, checksum: self.hash.digest() })
    }
}

/// Reads a section through a buffer. What it gives is to be believed only when [`Self::finish`] says so.
pub struct Source<'a> {
    file: &'a File,
    section: Section,
    read: u64,
    buffer: Vec<u8>,
    at: usize,
    hash: Xxh3,
}

impl<'a> Source<'a> {
    pub fn new(file: &'a File, section: Section, sums: Sums, part: Part) -> Self {
        let hash = Xxh3::with_seed(sums.seed(part));
        Self { file, section, read: 0, buffer: Vec::new(), at: 0, hash }
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.buffer.len() && self.read == self.section.bytes
    }

    pub fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut out = [0; N];
        self.read_exact(&mut out)?;
        Ok(out)
    }

    pub fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn finish(self) -> io::Result<()> {
        let sound = self.is_at_end() && self.hash.digest() == self.section.checksum;
        if sound { Ok(()) } else { Err(damaged("a section does not check")) }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() {
            let length = (self.section.bytes - self.read).min(BUFFER_BYTES as u64) as usize;
            self.buffer.resize(length, 0);
            self.file.read_exact_at(&mut self.buffer, self.section.offset + self.read)?;
            self.hash.update(&self.buffer);
            self.read += length as u64;
            self.at = 0;
        }
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}
