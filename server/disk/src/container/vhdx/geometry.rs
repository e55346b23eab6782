//! Sizes of a disk and what follows from them: blocks, chunks, entries of the block table.

use super::layout::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, SIZE_BYTES_MAX, limit, malformed};
use crate::Result;
use domain::Extent;

/// Sectors that one bitmap block of 1 MiB describes.
const CHUNK_SECTORS: u64 = 1 << 23;

/// A disk in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub size_bytes: u64,
    pub block_bytes: u32,
    pub logical_sector_bytes: u32,
    pub physical_sector_bytes: u32,
    pub has_parent: bool,
    pub leave_allocated: bool,
}

impl Geometry {
    /// Fails when a number is none the format allows.
    pub fn checked(self) -> Result<Self> {
        let block = self.block_bytes;
        if !block.is_power_of_two() || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block) {
            return Err(malformed(format!("blocks of {block} bytes")));
        }
        for (what, sector) in [("logical", self.logical_sector_bytes), ("physical", self.physical_sector_bytes)] {
            if sector != 512 && sector != 4096 {
                return Err(malformed(format!("{what} sectors of {sector} bytes")));
            }
        }
        if self.size_bytes > SIZE_BYTES_MAX {
            return Err(limit(format!("a disk of {} bytes", self.size_bytes), SIZE_BYTES_MAX));
        }
        if self.size_bytes == 0 || !self.size_bytes.is_multiple_of(u64::from(self.logical_sector_bytes)) {
            let sector = self.logical_sector_bytes;
            return Err(malformed(format!("a disk of {} bytes in sectors of {sector}", self.size_bytes)));
        }
        Ok(self)
    }

    /// Payload blocks.
    pub fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(u64::from(self.block_bytes))
    }

    /// Payload blocks that share a bitmap block. At least 16.
    pub fn chunk_ratio(&self) -> u64 {
        CHUNK_SECTORS * u64::from(self.logical_sector_bytes) / u64::from(self.block_bytes)
    }

    /// Chunks, the last of which may be short.
    pub fn chunks(&self) -> u64 {
        self.blocks().div_ceil(self.chunk_ratio())
    }

    /// Entries the block table must have.
    pub fn bat_entries(&self) -> u64 {
        if self.has_parent {
            self.chunks() * (self.chunk_ratio() + 1)
        } else {
            self.blocks() + (self.blocks() - 1) / self.chunk_ratio()
        }
    }

    /// The bytes of the disk in this block; fewer than a block at the end of the disk.
    pub fn block(&self, index: u64) -> Extent {
        let offset = index * u64::from(self.block_bytes);
        Extent::new(offset, u64::from(self.block_bytes).min(self.size_bytes.saturating_sub(offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(size_bytes: u64, block_mib: u32, sector: u32, has_parent: bool) -> Geometry {
        let (logical_sector_bytes, physical_sector_bytes) = (sector, 4096);
        let block_bytes = block_mib << 20;
        Geometry {
            size_bytes,
            block_bytes,
            logical_sector_bytes,
            physical_sector_bytes,
            has_parent,
            leave_allocated: false,
        }
    }

    #[test]
    fn entries_follow_the_specifications_formulas() {
        let terabyte = geometry(1 << 40, 32, 512, false);
        assert_eq!((terabyte.blocks(), terabyte.chunk_ratio(), terabyte.bat_entries()), (32_768, 128, 32_768 + 255));
        let child = geometry((4 << 30) + 512, 2, 512, true);
        assert_eq!((child.blocks(), child.chunks(), child.bat_entries()), (2049, 2, 2 * 2049));
        let large_sectors = geometry(SIZE_BYTES_MAX, 256, 4096, true);
        assert_eq!((large_sectors.chunk_ratio(), large_sectors.bat_entries()), (128, 2048 * 129));
        assert_eq!(geometry((5 << 20) + 512, 2, 512, false).block(2), Extent::new(4 << 20, (1 << 20) + 512));
    }

    #[test]
    fn numbers_the_format_does_not_know_are_refused() {
        assert!(geometry(1 << 20, 1, 512, false).checked().is_ok());
        for bad in [
            geometry(0, 1, 512, false),
            geometry(513, 1, 512, false),
            geometry(512, 1, 4096, false),
            geometry(4096, 3, 512, false),
            geometry(4096, 512, 512, false),
            geometry(4096, 1, 520, false),
            geometry(SIZE_BYTES_MAX + 512, 32, 512, false),
        ] {
            assert!(bad.checked().is_err(), "{bad:?}");
        }
    }
}
