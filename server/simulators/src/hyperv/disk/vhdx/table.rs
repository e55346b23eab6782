//! The block allocation table and the sector bitmaps (MS-VHDX 2.4 and 2.5).

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::layout::{MIB, Region, damaged};
use super::metadata::Parameters;

/// Sectors that one bitmap block speaks of.
const CHUNK_SECTORS: u64 = 1 << 23;
/// Bits of an entry that hold the offset.
const OFFSET_MASK: u64 = !0xF_FFFF;
/// Bits of an entry that are reserved.
const RESERVED_MASK: u64 = 0xF_FFF8;
/// State of a bitmap block that is there.
const BITMAP_PRESENT: u64 = 6;

/// States of a payload block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    NotPresent,
    Undefined,
    Zero,
    Unmapped,
    Full,
    Partial,
}

impl State {
    fn of(entry: u64) -> io::Result<Self> {
        match entry & 7 {
            0 => Ok(Self::NotPresent),
            1 => Ok(Self::Undefined),
            2 => Ok(Self::Zero),
            3 => Ok(Self::Unmapped),
            6 => Ok(Self::Full),
            7 => Ok(Self::Partial),
            _ => Err(damaged("a reserved block state")),
        }
    }

    fn code(self) -> u64 {
        match self {
            Self::NotPresent => 0,
            Self::Undefined => 1,
            Self::Zero => 2,
            Self::Unmapped => 3,
            Self::Full => 6,
            Self::Partial => 7,
        }
    }

    /// The block's bytes are in this file.
    pub fn is_allocated(self) -> bool {
        matches!(self, Self::Full | Self::Partial)
    }
}

/// Sizes that follow from the parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub block_bytes: u64,
    pub sector_bytes: u64,
    pub disk_bytes: u64,
    /// Payload blocks per bitmap block.
    ratio: u64,
    differencing: bool,
}

impl Geometry {
    pub fn of(parameters: &Parameters) -> Self {
        Self {
            block_bytes: parameters.block_bytes,
            sector_bytes: parameters.logical_sector_bytes,
            disk_bytes: parameters.disk_bytes,
            ratio: CHUNK_SECTORS * parameters.logical_sector_bytes / parameters.block_bytes,
            differencing: parameters.parent.is_some(),
        }
    }

    /// Payload blocks.
    pub fn blocks(self) -> u64 {
        self.disk_bytes.div_ceil(self.block_bytes)
    }

    /// Entries of the table.
    pub fn entries(self) -> u64 {
        if self.differencing {
            self.blocks().div_ceil(self.ratio) * (self.ratio + 1)
        } else {
            self.blocks() + (self.blocks() - 1) / self.ratio
        }
    }

    fn payload_index(self, block: u64) -> u64 {
        block + block / self.ratio
    }

    fn bitmap_index(self, chunk: u64) -> u64 {
        chunk * (self.ratio + 1) + self.ratio
    }

    pub fn chunk_of(self, block: u64) -> u64 {
        block / self.ratio
    }

    fn chunks(self) -> u64 {
        self.blocks().div_ceil(self.ratio)
    }

    /// First bit of a block in its bitmap.
    fn first_bit(self, block: u64) -> u64 {
        (block % self.ratio) * (self.block_bytes / self.sector_bytes)
    }

    /// Sectors of a block that belong to the disk.
    fn sectors_of(self, block: u64) -> u64 {
        (self.disk_bytes - block * self.block_bytes).min(self.block_bytes) / self.sector_bytes
    }
}

/// The table with the bitmaps it names, in memory.
#[derive(Debug)]
pub(super) struct Table {
    pub geometry: Geometry,
    entries: Vec<u64>,
    /// By chunk.
    bitmaps: BTreeMap<u64, Vec<u8>>,
}

impl Table {
    pub fn new(geometry: Geometry) -> Self {
        Self { geometry, entries: vec![0; geometry.entries() as usize], bitmaps: BTreeMap::new() }
    }

    /// Reads the table from its region; the bitmaps follow by [`Table::bitmap_places`].
    pub fn decode(geometry: Geometry, region: &[u8]) -> io::Result<Self> {
        let mut entries: Vec<u64> = region.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect();
        if (entries.len() as u64) < geometry.entries() {
            return Err(damaged("the block table is too short for the disk"));
        }
        entries.truncate(geometry.entries() as usize);
        Ok(Self { geometry, entries, bitmaps: BTreeMap::new() })
    }

    /// 4 KiB of the table as they are in the file.
    pub fn encode_sector(&self, sector: u64) -> Vec<u8> {
        let entries = self.entries.iter().skip(sector as usize * 512).take(512);
        let mut bytes: Vec<u8> = entries.flat_map(|entry| entry.to_le_bytes()).collect();
        bytes.resize(4096, 0);
        bytes
    }

    pub fn sectors(&self) -> u64 {
        self.entries.len().div_ceil(512) as u64
    }

    fn entry(&self, index: u64) -> u64 {
        self.entries.get(index as usize).copied().unwrap_or(0)
    }

    /// State of a block, and where its bytes are.
    pub fn block(&self, block: u64) -> (State, u64) {
        let entry = self.entry(self.geometry.payload_index(block));
        (State::of(entry).unwrap_or(State::NotPresent), entry & OFFSET_MASK)
    }

    /// Changes a block; answers the sector of the table that has to be written.
    pub fn set_block(&mut self, block: u64, state: State, offset: u64) -> u64 {
        self.set(self.geometry.payload_index(block), offset | state.code())
    }

    fn set(&mut self, index: u64, value: u64) -> u64 {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            *entry = value;
        }
        index / 512
    }

    /// Where the bitmap of a chunk is, if it is.
    pub fn bitmap_place(&self, chunk: u64) -> Option<u64> {
        let entry = self.entry(self.geometry.bitmap_index(chunk));
        (entry & 7 == BITMAP_PRESENT).then_some(entry & OFFSET_MASK)
    }

    /// All bitmaps: chunk and place.
    pub fn bitmap_places(&self) -> Vec<(u64, u64)> {
        (0..self.geometry.chunks()).filter_map(|chunk| Some((chunk, self.bitmap_place(chunk)?))).collect()
    }

    /// Takes the bitmap of a chunk that was read from its place.
    pub fn load_bitmap(&mut self, chunk: u64, bytes: Vec<u8>) {
        self.bitmaps.insert(chunk, bytes);
    }

    /// Adds an empty bitmap at a place; answers the sector of the table that has to be written.
    pub fn add_bitmap(&mut self, chunk: u64, offset: u64) -> u64 {
        self.bitmaps.insert(chunk, vec![0; MIB as usize]);
        self.set(self.geometry.bitmap_index(chunk), offset | BITMAP_PRESENT)
    }

    /// 4 KiB of a bitmap.
    pub fn bitmap_sector(&self, chunk: u64, sector: u64) -> Vec<u8> {
        let bytes = self.bitmaps.get(&chunk).and_then(|bitmap| bitmap.get(sector as usize * 4096..)?.get(..4096));
        bytes.map_or_else(|| vec![0; 4096], <[u8]>::to_vec)
    }

    /// Whether a sector of a block is in this file.
    pub fn has_sector(&self, block: u64, sector: u64) -> bool {
        let bit = self.geometry.first_bit(block) + sector;
        let byte = self.bitmaps.get(&self.geometry.chunk_of(block)).and_then(|bitmap| bitmap.get(bit as usize / 8));
        byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    }

    /// Marks sectors of a block as being in this file; answers the sectors of the bitmap that have to be written for it.
    pub fn mark_sectors(&mut self, block: u64, first: u64, count: u64) -> BTreeSet<u64> {
        let mut changed = BTreeSet::new();
        let bit = self.geometry.first_bit(block) + first;
        let chunk = self.geometry.chunk_of(block);
        if let Some(bitmap) = self.bitmaps.get_mut(&chunk) {
            for bit in bit..bit + count {
                let Some(byte) = bitmap.get_mut(bit as usize / 8) else { break };
                if *byte >> (bit % 8) & 1 == 0 {
                    *byte |= 1 << (bit % 8);
                    changed.insert(bit / 8 / 4096);
                }
            }
        }
        changed
    }

    /// Whether a partial block has all its sectors.
    pub fn is_complete(&self, block: u64) -> bool {
        (0..self.geometry.sectors_of(block)).all(|sector| self.has_sector(block, sector))
    }

    /// Refuses states that the kind of file does not allow, blocks outside the file, and blocks on top of each other.
    /// Answers the first byte after everything.
    pub fn check(&self, file_bytes: u64, others: &[Region]) -> io::Result<u64> {
        let mut used: Vec<Region> = others.to_vec();
        for block in 0..self.geometry.blocks() {
            let entry = self.entry(self.geometry.payload_index(block));
            if entry & RESERVED_MASK != 0 {
                return Err(damaged(format!("reserved bits of block {block}")));
            }
            let state = State::of(entry)?;
            if state == State::Partial {
                let bitmap = self.bitmap_place(self.geometry.chunk_of(block));
                if !self.geometry.differencing || bitmap.is_none() {
                    return Err(damaged(format!("block {block} is partial without a bitmap")));
                }
            }
            if state.is_allocated() {
                used.push(Region { offset: entry & OFFSET_MASK, bytes: self.geometry.block_bytes });
            }
        }
        for (chunk, offset) in self.bitmap_places() {
            if !self.geometry.differencing {
                return Err(damaged(format!("bitmap {chunk} in a file without parent")));
            }
            used.push(Region { offset, bytes: MIB });
        }
        used.sort_unstable_by_key(|region| region.offset);
        let mut end = MIB;
        for region in used {
            if region.offset < end {
                return Err(damaged(format!("what is at byte {} overlaps its neighbour", region.offset)));
            }
            end = region.offset.saturating_add(region.bytes);
        }
        if end > file_bytes {
            return Err(damaged(format!("the file ends at byte {file_bytes}, before {end}")));
        }
        Ok(end)
    }

    /// Makes room for a larger disk.
    pub fn grow(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.entries.resize(geometry.entries() as usize, 0);
    }
}
