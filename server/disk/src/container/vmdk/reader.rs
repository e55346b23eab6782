//! Reads a streamOptimized disk from front to back and checks everything on the way: order of grains, tables that say
//! what was seen, the footer, the end. For tests of the writer, and for exports by lease.

use super::layout::{
    FORMAT, GRAIN_BYTES, GRAIN_MARKER_BYTES, GRAIN_SECTORS, GRAINS_PER_TABLE, Header, MAX_DEFLATED_GRAIN_BYTES,
    MarkerKind, OVERHEAD_SECTORS, SECTOR, SECTOR_BYTES, TABLE_BYTES, grain_count, malformed, table_count, u32_at,
    u64_at,
};
use super::{Descriptor, layout};
use crate::{DiskError, Result};
use flate2::{Decompress, FlushDecompress, Status};
use std::io::Read;

/// More room than any writer leaves in front of the grains.
const MAX_OVERHEAD_SECTORS: u64 = 64 * OVERHEAD_SECTORS;

/// A grain that is not zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grain {
    /// First byte within the disk.
    pub offset: u64,
    /// [`GRAIN_BYTES`], or fewer at the end of the disk.
    pub data: Vec<u8>,
}

/// Reads grains in ascending order. What no grain covers is zero.
#[derive(Debug)]
pub struct StreamOptimizedReader<R> {
    source: R,
    header: Header,
    descriptor: Descriptor,
    /// Sector of the next byte.
    sector: u64,
    next_grain: u64,
    /// Where grains of the current table were seen, and which table that is.
    seen: Vec<u32>,
    seen_table: u64,
    directory: Vec<u32>,
    directory_sector: Option<u64>,
    ended: bool,
}

impl<R: Read> StreamOptimizedReader<R> {
    /// Reads header and descriptor.
    pub fn new(mut source: R) -> Result<Self> {
        let mut sector = [0; SECTOR];
        fill(&mut source, &mut sector)?;
        let header = Header::decode(&sector)?;
        let descriptor_end = header.descriptor_sector.saturating_add(header.descriptor_sectors);
        if header.overhead_sectors > MAX_OVERHEAD_SECTORS
            || header.descriptor_sector == 0
            || descriptor_end > header.overhead_sectors
        {
            return Err(malformed("its descriptor lies outside the room in front of the grains"));
        }
        if header.directory_sector != layout::DIRECTORY_AT_END {
            return Err(DiskError::Unsupported {
                format: FORMAT,
                feature: "a directory in front of the grains".into(),
            });
        }
        let mut front = vec![0; (header.overhead_sectors - 1) as usize * SECTOR];
        fill(&mut source, &mut front)?;
        let (from, to) = ((header.descriptor_sector - 1) as usize * SECTOR, (descriptor_end - 1) as usize * SECTOR);
        let text = front.get(from..to).unwrap_or_default();
        let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
        let descriptor = Descriptor::parse(text)?;
        if descriptor.capacity_bytes() != Some(header.capacity_sectors * SECTOR_BYTES) {
            return Err(malformed("descriptor and header name different capacities"));
        }
        Ok(Self {
            source,
            header,
            descriptor,
            sector: header.overhead_sectors,
            next_grain: 0,
            seen: vec![0; GRAINS_PER_TABLE],
            seen_table: 0,
            directory: vec![0; table_count(header.capacity_sectors) as usize],
            directory_sector: None,
            ended: false,
        })
    }

    /// Bytes of the disk, whole sectors.
    pub const fn capacity_bytes(&self) -> u64 {
        self.header.capacity_sectors * SECTOR_BYTES
    }

    /// The embedded descriptor.
    pub const fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The next grain; `None` once the end marker was read and all metadata agreed.
    pub fn next_grain(&mut self) -> Result<Option<Grain>> {
        while !self.ended {
            let at = self.sector;
            let mut first = [0; SECTOR];
            self.read(&mut first)?;
            let (value, size) = (u64_at(&first, 0), u32_at(&first, 8));
            if size > 0 {
                return self.grain(at, value, size as usize, &first).map(Some);
            }
            match u32_at(&first, 12) {
                kind if kind == MarkerKind::Table as u32 => self.table(value)?,
                kind if kind == MarkerKind::Directory as u32 => self.check_directory(value)?,
                kind if kind == MarkerKind::Footer as u32 => self.check_footer(value)?,
                kind if kind == MarkerKind::End as u32 => self.end()?,
                kind => return Err(malformed(format!("unknown marker {kind} at sector {at}"))),
            }
        }
        Ok(None)
    }

    fn grain(&mut self, at: u64, lba: u64, size: usize, first: &[u8; SECTOR]) -> Result<Grain> {
        let index = lba / GRAIN_SECTORS;
        if !lba.is_multiple_of(GRAIN_SECTORS)
            || index < self.next_grain
            || index >= grain_count(self.header.capacity_sectors)
        {
            return Err(malformed(format!("grain of sector {lba} at sector {at} is out of place")));
        }
        if size > MAX_DEFLATED_GRAIN_BYTES {
            let what = "the size of a deflated grain in bytes".into();
            return Err(DiskError::Limit { format: FORMAT, what, limit: MAX_DEFLATED_GRAIN_BYTES as u64 });
        }
        let table = index / GRAINS_PER_TABLE as u64;
        if table != self.seen_table {
            self.expect_no_open_table()?;
            self.seen_table = table;
        }
        if let Some(entry) = self.seen.get_mut((index % GRAINS_PER_TABLE as u64) as usize) {
            *entry = at as u32;
        }
        let mut deflated = first[GRAIN_MARKER_BYTES..].to_vec();
        let whole = (GRAIN_MARKER_BYTES + size).next_multiple_of(SECTOR);
        let mut rest = vec![0; whole - SECTOR];
        self.read(&mut rest)?;
        deflated.append(&mut rest);
        deflated.truncate(size);
        let mut data = inflate(&deflated).ok_or_else(|| malformed(format!("grain at sector {at} does not inflate")))?;
        let offset = lba * SECTOR_BYTES;
        data.truncate((self.capacity_bytes() - offset).min(GRAIN_BYTES as u64) as usize);
        self.next_grain = index + 1;
        Ok(Grain { offset, data })
    }

    fn table(&mut self, sectors: u64) -> Result<()> {
        let at = self.sector;
        let raw = self.metadata(sectors, TABLE_BYTES, "a table")?;
        if raw != self.seen.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<u8>>() {
            return Err(malformed(format!("table at sector {at} does not say where its grains are")));
        }
        if let Some(entry) = self.directory.get_mut(self.seen_table as usize) {
            *entry = at as u32;
        }
        self.seen.fill(0);
        self.next_grain = self.next_grain.next_multiple_of(GRAINS_PER_TABLE as u64);
        Ok(())
    }

    fn check_directory(&mut self, sectors: u64) -> Result<()> {
        self.expect_no_open_table()?;
        let at = self.sector;
        let raw = self.metadata(sectors, (self.directory.len() * 4).next_multiple_of(SECTOR), "the directory")?;
        let mut expected: Vec<u8> = self.directory.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        layout::pad_to_sector(&mut expected);
        if raw != expected || self.directory_sector.is_some() {
            return Err(malformed(format!("directory at sector {at} does not say where the tables are")));
        }
        self.directory_sector = Some(at);
        Ok(())
    }

    fn check_footer(&mut self, sectors: u64) -> Result<()> {
        let raw = self.metadata(sectors, SECTOR, "the footer")?;
        let mut sector = [0; SECTOR];
        sector.copy_from_slice(raw.get(..SECTOR).ok_or_else(|| malformed("short footer"))?);
        let footer = Header::decode(&sector)?;
        match self.directory_sector {
            Some(directory_sector) if footer == (Header { directory_sector, ..self.header }) => Ok(()),
            _ => Err(malformed("the footer differs from the header, or names another place of the directory")),
        }
    }

    fn end(&mut self) -> Result<()> {
        let mut one = [0];
        match self.source.read(&mut one) {
            Ok(0) if self.directory_sector.is_some() => self.ended = true,
            Ok(0) => return Err(malformed("it ends without a directory")),
            Ok(_) => return Err(malformed("bytes follow the end marker")),
            Err(source) => return Err(DiskError::Read { format: FORMAT, source }),
        }
        Ok(())
    }

    fn expect_no_open_table(&self) -> Result<()> {
        if self.seen.iter().any(|&entry| entry != 0) {
            return Err(malformed(format!("grains without a table before sector {}", self.sector)));
        }
        Ok(())
    }

    fn metadata(&mut self, sectors: u64, expected_bytes: usize, what: &str) -> Result<Vec<u8>> {
        if sectors != (expected_bytes / SECTOR) as u64 {
            return Err(malformed(format!("{what} of {sectors} sectors")));
        }
        let mut raw = vec![0; expected_bytes];
        self.read(&mut raw)?;
        Ok(raw)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        fill(&mut self.source, into)?;
        self.sector += (into.len() / SECTOR) as u64;
        Ok(())
    }
}

fn fill(source: &mut impl Read, into: &mut [u8]) -> Result<()> {
    source.read_exact(into).map_err(|source| DiskError::Read { format: FORMAT, source })
}

/// Exactly one grain, or nothing.
fn inflate(deflated: &[u8]) -> Option<Vec<u8>> {
    let mut data = vec![0; GRAIN_BYTES];
    let mut state = Decompress::new(true);
    let status = state.decompress(deflated, &mut data, FlushDecompress::Finish).ok()?;
    (status == Status::StreamEnd && state.total_out() == GRAIN_BYTES as u64).then_some(data)
}
