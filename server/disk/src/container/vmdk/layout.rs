//! Numbers and records of the streamOptimized form. All integers are little-endian.
//!
//! ```text
//! sector 0       header, directory offset = all ones ("see the footer")
//! sector 1..21   descriptor
//! sector 128     grain markers: u64 sector, u32 size, deflated grain, padded to a sector
//!                after the last grain of a table: table marker, table (512 x u32 sectors)
//!                directory marker, directory (u32 sectors of tables)
//!                footer marker, footer (the header with the real directory offset)
//!                end marker (a sector of zeros)
//! ```

use crate::{DiskError, Result};

pub(super) const FORMAT: &str = "streamOptimized VMDK";

/// Bytes of a sector.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes of a grain, the unit of compression: 128 sectors.
pub const GRAIN_BYTES: usize = 64 * 1024;
/// Largest disk: vSphere's own limit is 62 TB.
pub const MAX_CAPACITY_BYTES: u64 = 64 << 40;

pub(super) const SECTOR: usize = SECTOR_BYTES as usize;
pub(super) const GRAIN_SECTORS: u64 = 128;
pub(super) const GRAINS_PER_TABLE: usize = 512;
pub(super) const TABLE_BYTES: usize = GRAINS_PER_TABLE * 4;
pub(super) const GRAIN_MARKER_BYTES: usize = 12;
/// A deflated grain may be longer than a plain one, by far less than this.
pub(super) const MAX_DEFLATED_GRAIN_BYTES: usize = 2 * GRAIN_BYTES;
pub(super) const DIRECTORY_AT_END: u64 = u64::MAX;
pub(super) const DESCRIPTOR_SECTOR: u64 = 1;
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;
/// Sectors in front of the first grain.
pub(super) const OVERHEAD_SECTORS: u64 = 128;

const MAGIC: [u8; 4] = *b"KDMV";
const VERSION: u32 = 3;
/// Valid newline test, compressed grains, markers.
const FLAGS: u32 = 0x0003_0001;
const COMPRESSION_DEFLATE: u16 = 1;
const NEWLINE_TEST: [u8; 4] = *b"\n \r\n";

/// Metadata markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkerKind {
    End = 0,
    Table = 1,
    Directory = 2,
    Footer = 3,
}

/// What the header (and the footer) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub capacity_sectors: u64,
    pub descriptor_sector: u64,
    pub descriptor_sectors: u64,
    pub directory_sector: u64,
    pub overhead_sectors: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; SECTOR] {
        let mut sector = [0u8; SECTOR];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            sector[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&FLAGS.to_le_bytes());
        put(&self.capacity_sectors.to_le_bytes());
        put(&GRAIN_SECTORS.to_le_bytes());
        put(&self.descriptor_sector.to_le_bytes());
        put(&self.descriptor_sectors.to_le_bytes());
        put(&(GRAINS_PER_TABLE as u32).to_le_bytes());
        put(&0u64.to_le_bytes()); // no redundant directory
        put(&self.directory_sector.to_le_bytes());
        put(&self.overhead_sectors.to_le_bytes());
        put(&[0]); // clean shutdown
        put(&NEWLINE_TEST);
        put(&COMPRESSION_DEFLATE.to_le_bytes());
        sector
    }

    pub(super) fn decode(sector: &[u8; SECTOR]) -> Result<Self> {
        if sector[..4] != MAGIC {
            return Err(malformed("it does not begin with KDMV"));
        }
        if u32_at(sector, 4) != VERSION || u32_at(sector, 8) != FLAGS || sector[77..79] != 1u16.to_le_bytes() {
            return Err(DiskError::Unsupported { format: FORMAT, feature: "another version or other flags".into() });
        }
        if u64_at(sector, 20) != GRAIN_SECTORS || u32_at(sector, 44) != GRAINS_PER_TABLE as u32 {
            return Err(DiskError::Unsupported { format: FORMAT, feature: "another grain or table size".into() });
        }
        if sector[73..77] != NEWLINE_TEST {
            return Err(malformed("its newline test failed: it went through a text conversion"));
        }
        let capacity_sectors = u64_at(sector, 12);
        if capacity_sectors > MAX_CAPACITY_BYTES / SECTOR_BYTES {
            return Err(DiskError::Limit {
                format: FORMAT,
                what: "the capacity in bytes".into(),
                limit: MAX_CAPACITY_BYTES,
            });
        }
        Ok(Self {
            capacity_sectors,
            descriptor_sector: u64_at(sector, 28),
            descriptor_sectors: u64_at(sector, 36),
            directory_sector: u64_at(sector, 56),
            overhead_sectors: u64_at(sector, 64),
        })
    }
}

/// A sector that announces `sectors` sectors of metadata.
pub(super) fn metadata_marker(kind: MarkerKind, sectors: u64) -> [u8; SECTOR] {
    let mut sector = [0u8; SECTOR];
    sector[..8].copy_from_slice(&sectors.to_le_bytes());
    sector[12..16].copy_from_slice(&(kind as u32).to_le_bytes());
    sector
}

/// Grains of a disk.
pub(super) const fn grain_count(capacity_sectors: u64) -> u64 {
    capacity_sectors.div_ceil(GRAIN_SECTORS)
}

/// Tables of a disk, also those that are not written because all their grains are zero.
pub(super) const fn table_count(capacity_sectors: u64) -> u64 {
    grain_count(capacity_sectors).div_ceil(GRAINS_PER_TABLE as u64)
}

/// Fills up to a whole sector with zeros.
pub(super) fn pad_to_sector(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(SECTOR), 0);
}

pub(super) fn u32_at(sector: &[u8; SECTOR], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&sector[at..at + 4]);
    u32::from_le_bytes(raw)
}

pub(super) fn u64_at(sector: &[u8; SECTOR], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&sector[at..at + 8]);
    u64::from_le_bytes(raw)
}

pub(super) fn malformed(reason: impl Into<String>) -> DiskError {
    DiskError::Malformed { format: FORMAT, reason: reason.into() }
}

pub(super) fn misuse(reason: impl Into<String>) -> DiskError {
    DiskError::Misuse { format: FORMAT, reason: reason.into() }
}
