//! Writes a streamOptimized disk as a stream, in three steps that can run apart so that grains compress in parallel:
//! [`GrainSplitter`] cuts ascending writes into grains, [`encode_grain`] deflates one (pure, any thread), and
//! [`StreamAssembler`] puts them in order and keeps the tables. [`StreamOptimizedWriter`] is the three in a row.

use super::layout::{
    DESCRIPTOR_SECTOR, DESCRIPTOR_SECTORS, DIRECTORY_AT_END, FORMAT, GRAIN_BYTES, GRAIN_MARKER_BYTES, GRAIN_SECTORS,
    GRAINS_PER_TABLE, Header, MAX_CAPACITY_BYTES, MarkerKind, OVERHEAD_SECTORS, SECTOR, SECTOR_BYTES, TABLE_BYTES,
    grain_count, metadata_marker, misuse, pad_to_sector, table_count,
};
use crate::{DiskError, Result};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;

/// Any value but the two reserved ones; a disk that an import reads once is never compared by it.
const CONTENT_ID: u32 = 0x5f3a_91c4;

/// One grain as it goes into the stream: marker, deflated data, padding. `None` when `grain` is all zeros.
/// `grain` holds at most [`GRAIN_BYTES`]; a shorter one (the end of a disk) is filled up with zeros.
pub fn encode_grain(index: u64, grain: &[u8]) -> Option<Vec<u8>> {
    if grain.len() > GRAIN_BYTES || is_zero(grain) {
        return None;
    }
    let mut out = deflate_grain(index, grain, Compression::fast())?;
    if out.len() - GRAIN_MARKER_BYTES > GRAIN_BYTES {
        // Random data grows by some percent at the fast level; readers allow little more than a grain.
        out = deflate_grain(index, grain, Compression::none())?;
    }
    let size = (out.len() - GRAIN_MARKER_BYTES) as u32;
    out[8..GRAIN_MARKER_BYTES].copy_from_slice(&size.to_le_bytes());
    pad_to_sector(&mut out);
    Some(out)
}

/// Marker without its size, then the deflated grain.
fn deflate_grain(index: u64, grain: &[u8], level: Compression) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(GRAIN_BYTES / 2);
    out.extend_from_slice(&(index * GRAIN_SECTORS).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let mut encoder = ZlibEncoder::new(out, level);
    let padding = GRAIN_BYTES - grain.len();
    // Writing into memory does not fail.
    encoder.write_all(grain).ok()?;
    if padding > 0 {
        encoder.write_all(&vec![0; padding]).ok()?;
    }
    encoder.finish().ok()
}

/// Word by word, so that the compiler can use wide registers, and out early on data.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|word| word.iter().fold(0, |sum, byte| sum | byte) == 0)
}

/// Cuts ascending writes into grains. What is skipped is zero.
#[derive(Debug)]
pub struct GrainSplitter {
    capacity_bytes: u64,
    /// First byte that may still be written.
    position: u64,
    grain: Vec<u8>,
    index: u64,
}

impl GrainSplitter {
    /// For a disk of `capacity_bytes`.
    pub const fn new(capacity_bytes: u64) -> Self {
        Self { capacity_bytes, position: 0, grain: Vec::new(), index: 0 }
    }

    /// Takes `data` at `offset`; hands every grain that became whole to `take` as (index, bytes).
    /// Fails when `offset` lies before the end of the last write, or the data passes the capacity.
    pub fn write(&mut self, offset: u64, data: &[u8], mut take: impl FnMut(u64, Vec<u8>)) -> Result<()> {
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= self.capacity_bytes).ok_or_else(|| {
            misuse(format!("a write of {} bytes at {offset} passes {} bytes", data.len(), self.capacity_bytes))
        })?;
        if offset < self.position {
            return Err(misuse(format!("a write at {offset} after one that ended at {}", self.position)));
        }
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let index = at / GRAIN_BYTES as u64;
            if index != self.index {
                self.flush(&mut take);
                self.index = index;
            }
            let within = (at % GRAIN_BYTES as u64) as usize;
            let (part, later) = rest.split_at(rest.len().min(GRAIN_BYTES - within));
            self.grain.resize(within, 0);
            self.grain.extend_from_slice(part);
            at += part.len() as u64;
            rest = later;
        }
        self.position = end;
        if self.grain.len() == GRAIN_BYTES {
            self.flush(&mut take);
        }
        Ok(())
    }

    /// The last, unfinished grain.
    pub fn finish(mut self, mut take: impl FnMut(u64, Vec<u8>)) {
        self.flush(&mut take);
    }

    fn flush(&mut self, take: &mut impl FnMut(u64, Vec<u8>)) {
        if !self.grain.is_empty() {
            take(self.index, std::mem::take(&mut self.grain));
        }
    }
}

/// Puts encoded grains in order and writes tables, directory and footer around them.
#[derive(Debug)]
pub struct StreamAssembler {
    header: Header,
    /// Sector of the next byte.
    sector: u64,
    directory: Vec<u32>,
    table: Vec<u32>,
    table_index: u64,
    next_grain: u64,
}

impl StreamAssembler {
    /// A disk of `capacity_bytes`, and the first bytes of its stream.
    pub fn new(capacity_bytes: u64) -> Result<(Self, Vec<u8>)> {
        if capacity_bytes > MAX_CAPACITY_BYTES {
            let what = format!("a capacity of {capacity_bytes} bytes");
            return Err(DiskError::Limit { format: FORMAT, what, limit: MAX_CAPACITY_BYTES });
        }
        let header = Header {
            capacity_sectors: capacity_bytes.div_ceil(SECTOR_BYTES),
            descriptor_sector: DESCRIPTOR_SECTOR,
            descriptor_sectors: DESCRIPTOR_SECTORS,
            directory_sector: DIRECTORY_AT_END,
            overhead_sectors: OVERHEAD_SECTORS,
        };
        let mut out = header.encode().to_vec();
        out.extend_from_slice(descriptor_text(header.capacity_sectors).as_bytes());
        out.resize(OVERHEAD_SECTORS as usize * SECTOR, 0);
        let assembler = Self {
            header,
            sector: OVERHEAD_SECTORS,
            directory: vec![0; table_count(header.capacity_sectors) as usize],
            table: vec![0; GRAINS_PER_TABLE],
            table_index: 0,
            next_grain: 0,
        };
        Ok((assembler, out))
    }

    /// Appends a grain made by [`encode_grain`]. Indexes ascend; those left out are zero.
    pub fn push(&mut self, index: u64, encoded: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if index < self.next_grain || index >= grain_count(self.header.capacity_sectors) {
            return Err(misuse(format!("grain {index} where {} was due", self.next_grain)));
        }
        let table_index = index / GRAINS_PER_TABLE as u64;
        if table_index != self.table_index {
            self.end_table(out)?;
            self.table_index = table_index;
        }
        let sector = self.sector_u32()?;
        if let Some(entry) = self.table.get_mut((index % GRAINS_PER_TABLE as u64) as usize) {
            *entry = sector;
        }
        out.extend_from_slice(encoded);
        self.sector += (encoded.len() / SECTOR) as u64;
        self.next_grain = index + 1;
        Ok(())
    }

    /// The end of the stream.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<()> {
        self.end_table(out)?;
        let directory_bytes = (self.directory.len() * 4).next_multiple_of(SECTOR);
        self.append(&metadata_marker(MarkerKind::Directory, (directory_bytes / SECTOR) as u64), out);
        let directory_sector = u64::from(self.sector_u32()?);
        let mut directory: Vec<u8> = self.directory.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        directory.resize(directory_bytes, 0);
        self.append(&directory, out);
        self.append(&metadata_marker(MarkerKind::Footer, 1), out);
        self.append(&Header { directory_sector, ..self.header }.encode(), out);
        self.append(&metadata_marker(MarkerKind::End, 0), out);
        Ok(())
    }

    /// Writes the current table, unless all its grains are zero.
    fn end_table(&mut self, out: &mut Vec<u8>) -> Result<()> {
        if self.table.iter().all(|&entry| entry == 0) {
            return Ok(());
        }
        self.append(&metadata_marker(MarkerKind::Table, (TABLE_BYTES / SECTOR) as u64), out);
        let sector = self.sector_u32()?;
        if let Some(entry) = self.directory.get_mut(self.table_index as usize) {
            *entry = sector;
        }
        let table: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        self.append(&table, out);
        self.table.fill(0);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(bytes);
        self.sector += (bytes.len() / SECTOR) as u64;
    }

    /// Table entries have 32 bits: no stream of more than 2 TiB after compression.
    fn sector_u32(&self) -> Result<u32> {
        u32::try_from(self.sector).map_err(|_| DiskError::Limit {
            format: FORMAT,
            what: "the length of the stream in sectors".into(),
            limit: u64::from(u32::MAX),
        })
    }
}

/// The whole way in one thread: bytes of the disk in, bytes of the stream out.
#[derive(Debug)]
pub struct StreamOptimizedWriter {
    splitter: GrainSplitter,
    assembler: StreamAssembler,
    /// Bytes not yet handed out.
    out: Vec<u8>,
}

impl StreamOptimizedWriter {
    /// For a disk of `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Result<Self> {
        let (assembler, out) = StreamAssembler::new(capacity_bytes)?;
        Ok(Self { splitter: GrainSplitter::new(capacity_bytes), assembler, out })
    }

    /// Takes `data` at `offset` (offsets ascend, what is skipped is zero) and returns what the stream grew by.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<Vec<u8>> {
        let mut out = std::mem::take(&mut self.out);
        let mut pushed = Ok(());
        self.splitter.write(offset, data, |index, grain| {
            append_grain(&mut self.assembler, index, &grain, &mut pushed, &mut out);
        })?;
        pushed.map(|()| out)
    }

    /// The rest of the stream.
    pub fn finish(self) -> Result<Vec<u8>> {
        let Self { splitter, mut assembler, mut out } = self;
        let mut pushed = Ok(());
        splitter.finish(|index, grain| append_grain(&mut assembler, index, &grain, &mut pushed, &mut out));
        pushed?;
        assembler.finish(&mut out)?;
        Ok(out)
    }
}

fn append_grain(assembler: &mut StreamAssembler, index: u64, grain: &[u8], pushed: &mut Result<()>, out: &mut Vec<u8>) {
    if let (Ok(()), Some(encoded)) = (&pushed, encode_grain(index, grain)) {
        *pushed = assembler.push(index, &encoded, out);
    }
}

fn descriptor_text(capacity_sectors: u64) -> String {
    let cylinders = (capacity_sectors / (255 * 63)).clamp(1, 65_535);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={CONTENT_ID:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {capacity_sectors} SPARSE \"disk.vmdk\"\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\nddb.virtualHWVersion = \"4\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grain_of_random_data_hardly_grows() {
        let mut state = 1_u64;
        let grain: Vec<u8> = (0..GRAIN_BYTES)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let encoded = encode_grain(3, &grain).unwrap();
        let size = u32::from_le_bytes(encoded[8..GRAIN_MARKER_BYTES].try_into().unwrap()) as usize;
        assert!(size <= GRAIN_BYTES + 64, "{size}");
    }
}
