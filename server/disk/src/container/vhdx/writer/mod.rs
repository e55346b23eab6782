//! Writes a VHDX file from ascending writes, of which nobody knows beforehand which blocks they touch.
//!
//! ```text
//! 0      header section, written last: until its first eight bytes are there, no reader takes the file for an image
//! 1 MiB  log, empty
//! 2 MiB  metadata
//! 3 MiB  block table, in whole MiB
//! then   blocks, in the order in which they were first written (fixed: all of them)
//! ```
//!
//! Owns: the order of things. Zeros are never written: a block of zeros has no place in the file, and the rest of a block
//! that was begun is zero because the target is new. Next: `queue` (gathering, writes under way).

mod queue;

use super::bat;
use super::geometry::Geometry;
use super::header::Header;
use super::layout::{
    BAT_BYTES_MAX, FILE_SIGNATURE, FORMAT, HEADER_1_AT, HEADER_2_AT, MIB, REGIONS_1_AT, REGIONS_2_AT, limit, misuse,
};
use super::metadata;
use super::region::Regions;
use crate::container::fields::{is_zero, put};
use crate::container::open::ImageKind;
use crate::container::source::ImageTarget;
use crate::{DiskError, Result};
use bytes::Bytes;
use domain::Extent;
use queue::WriteQueue;
use std::sync::Arc;
use uuid::Uuid;

const LOG: Extent = Extent::new(MIB, MIB);
const METADATA: Extent = Extent::new(2 * MIB, MIB);
const BAT_AT: u64 = 3 * MIB;
/// Data is looked at for zeros in pieces of this many bytes.
const ZERO_TEST_BYTES: u64 = 64 * 1024;
/// Room for the creator's name, in bytes of UTF-16.
const CREATOR_BYTES_MAX: usize = 510;

/// A VHDX file to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhdxOptions {
    /// Dynamic or fixed; a differencing image cannot be written.
    pub kind: ImageKind,
    /// Size of the disk in bytes, a multiple of the logical sector, at most 64 TiB.
    pub size_bytes: u64,
    /// A power of two from 1 MiB to 256 MiB; Windows takes 32 MiB. Smaller blocks save space where data is scattered.
    pub block_bytes: u32,
    /// 512 or 4096.
    pub logical_sector_bytes: u32,
    /// 512 or 4096, not less than the logical one.
    pub physical_sector_bytes: u32,
    /// What the guest sees as the disk's identity (page 83).
    pub disk_id: Uuid,
    /// A random id for the file's contents.
    pub file_write_id: Uuid,
    /// A random id for the disk's contents, which children would remember.
    pub data_write_id: Uuid,
    /// Name of the program, for people who look into the file.
    pub creator: String,
    /// Writes that are under way at once, 1 to 64.
    pub writes_in_flight: usize,
}

impl VhdxOptions {
    /// Windows' own block.
    pub const DEFAULT_BLOCK_BYTES: u32 = 32 << 20;

    fn geometry(&self) -> Result<Geometry> {
        if self.kind == ImageKind::Differencing {
            return Err(DiskError::Unsupported { format: FORMAT, feature: "writing a differencing image".into() });
        }
        let geometry = Geometry {
            size_bytes: self.size_bytes,
            block_bytes: self.block_bytes,
            logical_sector_bytes: self.logical_sector_bytes,
            physical_sector_bytes: self.physical_sector_bytes,
            has_parent: false,
            leave_allocated: self.kind == ImageKind::Fixed,
        };
        let geometry = geometry.checked()?;
        if self.physical_sector_bytes < self.logical_sector_bytes {
            return Err(misuse("physical sectors smaller than logical ones"));
        }
        if geometry.bat_entries() * 8 > BAT_BYTES_MAX {
            let what = format!("a disk of {} bytes in blocks of {}", self.size_bytes, self.block_bytes);
            return Err(limit(format!("the block table of {what}"), BAT_BYTES_MAX));
        }
        Ok(geometry)
    }
}

/// A VHDX file being written. Dropped before [`VhdxWriter::finish`], it leaves a file that is no image.
pub struct VhdxWriter {
    queue: WriteQueue,
    options: VhdxOptions,
    geometry: Geometry,
    /// Offset of each block in the file, in MiB; 0 for a block of zeros.
    blocks: Vec<u32>,
    /// First byte behind the last block in the file.
    end_of_file: u64,
    /// First byte of the disk that may still be written.
    position: u64,
}

impl VhdxWriter {
    /// Begins the file; `target` is new and empty. A fixed one gets its length at once, so that a lack of room shows early.
    pub async fn create(target: Arc<dyn ImageTarget>, options: VhdxOptions) -> Result<Self> {
        let geometry = options.geometry()?;
        let mut writer = Self {
            queue: WriteQueue::new(target, options.writes_in_flight),
            geometry,
            blocks: vec![0; geometry.blocks() as usize],
            end_of_file: BAT_AT + bat_region_bytes(&geometry),
            position: 0,
            options,
        };
        if geometry.leave_allocated {
            for block in 0..geometry.blocks() {
                writer.place_of(block)?;
            }
        }
        writer.queue.set_len(writer.end_of_file).await?;
        Ok(writer)
    }

    /// Takes `data` at `offset` of the disk. Offsets ascend and need no alignment; what is skipped is zero. Returns when
    /// the target keeps up; an error of an earlier write may come with a later one.
    pub async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let size = self.geometry.size_bytes;
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= size);
        let end = end.ok_or_else(|| misuse(format!("a write of {} bytes at {offset} passes {size}", data.len())))?;
        if offset < self.position {
            return Err(misuse(format!("a write at {offset} after one that ended at {}", self.position)));
        }
        let (mut at, mut rest) = (offset, data);
        while at < end {
            let block = at / u64::from(self.geometry.block_bytes);
            let limit = self.geometry.block(block).end().min((at / ZERO_TEST_BYTES + 1) * ZERO_TEST_BYTES).min(end);
            let piece = rest.split_to((limit - at) as usize);
            if !is_zero(&piece) {
                let within = at - self.geometry.block(block).offset;
                let place = self.place_of(block)? + within;
                self.queue.push(place, piece).await?;
            }
            at = limit;
        }
        self.position = end;
        Ok(())
    }

    /// Writes tables and headers, and last what makes the file an image. Returns its length in bytes.
    pub async fn finish(mut self) -> Result<u64> {
        let blocks = std::mem::take(&mut self.blocks);
        let table =
            bat::encode(&self.geometry, |block| blocks.get(block as usize).map_or(0, |&mib| u64::from(mib) * MIB));
        self.queue.push(METADATA.offset, metadata::encode(&self.geometry, self.options.disk_id).into()).await?;
        self.queue.push_all(BAT_AT, table.into()).await?;
        let regions = Regions { bat: Extent::new(BAT_AT, bat_region_bytes(&self.geometry)), metadata: METADATA };
        let regions = Bytes::from(regions.encode());
        self.queue.push(REGIONS_1_AT as u64, regions.clone()).await?;
        self.queue.push(REGIONS_2_AT as u64, regions).await?;
        self.queue.settle().await?;
        self.queue.set_len(self.end_of_file).await?;
        self.queue.flush().await?;
        for (at, sequence) in [(HEADER_1_AT, 1), (HEADER_2_AT, 2)] {
            self.queue.push(at as u64, self.header(sequence).encode().into()).await?;
        }
        self.queue.settle().await?;
        self.queue.flush().await?;
        self.queue.push(0, identifier(&self.options.creator).into()).await?;
        self.queue.settle().await?;
        self.queue.flush().await?;
        Ok(self.end_of_file)
    }

    /// Offset of the block in the file; a block without one gets the next place.
    fn place_of(&mut self, block: u64) -> Result<u64> {
        let place = self.blocks.get_mut(block as usize);
        let place = place.ok_or_else(|| misuse(format!("block {block} is not on the disk")))?;
        if *place == 0 {
            // The largest disk with the largest table ends far below 2^32 MiB.
            *place = (self.end_of_file / MIB) as u32;
            self.end_of_file += u64::from(self.geometry.block_bytes);
        }
        Ok(u64::from(*place) * MIB)
    }

    fn header(&self, sequence: u64) -> Header {
        let VhdxOptions { file_write_id, data_write_id, .. } = self.options;
        Header { sequence, file_write_id, data_write_id, log_id: Uuid::nil(), log: LOG }
    }
}

fn bat_region_bytes(geometry: &Geometry) -> u64 {
    (geometry.bat_entries() * 8).next_multiple_of(MIB)
}

/// The file type identifier: signature and creator.
fn identifier(creator: &str) -> Vec<u8> {
    let mut raw = vec![0; FILE_SIGNATURE.len() + CREATOR_BYTES_MAX + 2];
    put(&mut raw, 0, &FILE_SIGNATURE);
    let units: Vec<u8> = creator.encode_utf16().flat_map(u16::to_le_bytes).take(CREATOR_BYTES_MAX).collect();
    put(&mut raw, FILE_SIGNATURE.len(), &units);
    raw
}
