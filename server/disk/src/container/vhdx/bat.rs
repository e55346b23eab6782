//! The block allocation table: for every block of the disk its state and place, and for every chunk of blocks the place
//! of the bitmap that says which sectors of its partly present blocks are here.

use super::geometry::Geometry;
use super::layout::{BAT_BYTES_MAX, FORMAT, MIB, limit, malformed};
use super::occupancy::Occupancy;
use crate::Result;
use crate::container::source::{ImageSource, read};
use domain::Extent;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

const ENTRY_BYTES: u64 = 8;
/// The table is read in pieces of this many bytes …
const PIECE_BYTES: u64 = 1 << 20;
/// … of which so many are under way at once.
const PIECES_IN_FLIGHT: usize = 4;
/// Offsets in the file are whole MiB; the bits below hold the state, and others that are reserved.
const OFFSET_MASK: u64 = !(MIB - 1);
const STATE_MASK: u64 = 7;

const NOT_PRESENT: u64 = 0;
const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;

/// Where a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// Not in this file: ask the parent.
    Parent,
    /// Zeros.
    Zero,
    /// All of it, at this offset in the file.
    Full(u64),
    /// Some of its sectors; the bitmap of its chunk at `bitmap` says which.
    Partial { data: u64, bitmap: u64 },
}

/// The table in memory.
pub(super) struct Bat {
    /// One entry for every block, as in the file.
    payload: Vec<u64>,
    /// Offsets of the chunks' bitmaps in the file; empty without a parent, 0 where there is none.
    bitmaps: Vec<u64>,
    chunk_ratio: u64,
}

impl Bat {
    /// Reads the table from its region. Blocks outside the file or on each other are refused.
    pub async fn read(
        source: &dyn ImageSource,
        region: Extent,
        geometry: &Geometry,
        occupied: &mut Occupancy,
    ) -> Result<Self> {
        let bytes = geometry.bat_entries() * ENTRY_BYTES;
        if bytes > BAT_BYTES_MAX {
            return Err(limit(format!("a block table of {bytes} bytes"), BAT_BYTES_MAX));
        }
        if bytes > region.length {
            return Err(malformed(format!("a block table of {bytes} bytes in a region of {}", region.length)));
        }
        let blocks = geometry.blocks();
        let mut table = Self {
            payload: Vec::with_capacity(blocks as usize),
            bitmaps: Vec::new(),
            chunk_ratio: geometry.chunk_ratio(),
        };
        let pieces = (0..bytes.div_ceil(PIECE_BYTES)).map(|index| {
            let at = index * PIECE_BYTES;
            read(source, FORMAT, region.offset + at, PIECE_BYTES.min(bytes - at) as usize)
        });
        let mut pieces = stream::iter(pieces).buffered(PIECES_IN_FLIGHT);
        let mut place = 0;
        while let Some(piece) = pieces.try_next().await? {
            for raw in piece.as_chunks().0 {
                table.take(place, u64::from_le_bytes(*raw), geometry, occupied)?;
                place += 1;
            }
        }
        table.check_bitmaps()?;
        Ok(table)
    }

    /// The next entry of the table: a bitmap's after the blocks of each chunk.
    fn take(&mut self, place: u64, entry: u64, geometry: &Geometry, occupied: &mut Occupancy) -> Result<()> {
        let (state, offset) = (entry & STATE_MASK, entry & OFFSET_MASK);
        if place % (self.chunk_ratio + 1) == self.chunk_ratio {
            // Without a parent nobody looks at bitmaps, and some writers leave anything there.
            if geometry.has_parent {
                self.take_bitmap(place / (self.chunk_ratio + 1), state, offset, occupied)?;
            }
            return Ok(());
        }
        let block = place - place / (self.chunk_ratio + 1);
        if block >= geometry.blocks() {
            return Ok(());
        }
        match state {
            NOT_PRESENT | UNDEFINED | ZERO | UNMAPPED => {}
            PARTIALLY_PRESENT if !geometry.has_parent => {
                return Err(malformed(format!("block {block} is partly present, but there is no parent")));
            }
            FULLY_PRESENT | PARTIALLY_PRESENT => {
                // Some writers end the file with the disk, in the middle of the last block.
                let length = geometry.block(block).length;
                occupied.claim(Extent::new(offset, length), || format!("block {block}"))?;
            }
            other => return Err(malformed(format!("block {block} has the state {other}"))),
        }
        self.payload.push(entry);
        Ok(())
    }

    fn take_bitmap(&mut self, chunk: u64, state: u64, offset: u64, occupied: &mut Occupancy) -> Result<()> {
        match state {
            NOT_PRESENT => self.bitmaps.push(0),
            FULLY_PRESENT => {
                occupied.claim(Extent::new(offset, MIB), || format!("bitmap {chunk}"))?;
                self.bitmaps.push(offset);
            }
            other => return Err(malformed(format!("bitmap {chunk} has the state {other}"))),
        }
        Ok(())
    }

    /// Partly present blocks need their bitmaps.
    fn check_bitmaps(&self) -> Result<()> {
        for (block, entry) in self.payload.iter().enumerate() {
            let chunk = block as u64 / self.chunk_ratio;
            if entry & STATE_MASK == PARTIALLY_PRESENT && self.bitmap(chunk) == 0 {
                return Err(malformed(format!("block {block} is partly present, but bitmap {chunk} is missing")));
            }
        }
        Ok(())
    }

    fn bitmap(&self, chunk: u64) -> u64 {
        self.bitmaps.get(chunk as usize).copied().unwrap_or(0)
    }

    /// Where the block is. What a state leaves open is zero; so does every other reader we know of.
    pub fn block(&self, index: u64) -> Block {
        let entry = self.payload.get(index as usize).copied().unwrap_or(NOT_PRESENT);
        let data = entry & OFFSET_MASK;
        match entry & STATE_MASK {
            NOT_PRESENT => Block::Parent,
            FULLY_PRESENT => Block::Full(data),
            PARTIALLY_PRESENT => Block::Partial { data, bitmap: self.bitmap(index / self.chunk_ratio) },
            _ => Block::Zero,
        }
    }

    /// Memory it takes, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.payload.len() + self.bitmaps.len()) as u64 * ENTRY_BYTES
    }
}

/// The table of a disk without a parent, in pieces for the file. `block_at` tells where a block is, 0 for one of zeros.
pub(super) fn encode(geometry: &Geometry, mut block_at: impl FnMut(u64) -> u64) -> Vec<u8> {
    let ratio = geometry.chunk_ratio();
    let mut raw = Vec::with_capacity((geometry.bat_entries() * ENTRY_BYTES) as usize);
    for block in 0..geometry.blocks() {
        if block > 0 && block % ratio == 0 {
            raw.extend_from_slice(&NOT_PRESENT.to_le_bytes());
        }
        let entry = match block_at(block) {
            0 => ZERO,
            offset => offset | FULLY_PRESENT,
        };
        raw.extend_from_slice(&entry.to_le_bytes());
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::memory::{Memory, now};

    fn geometry(blocks: u64, has_parent: bool) -> Geometry {
        Geometry {
            size_bytes: blocks * MIB,
            block_bytes: MIB as u32,
            logical_sector_bytes: 512,
            physical_sector_bytes: 512,
            has_parent,
            leave_allocated: false,
        }
    }

    fn read_table(entries: &[u64], geometry: &Geometry) -> Result<Bat> {
        let mut raw: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        raw.resize((geometry.bat_entries() * ENTRY_BYTES) as usize, 0);
        let source = Memory(raw.into());
        now(Bat::read(&source, Extent::new(0, MIB), geometry, &mut Occupancy::new(20 * MIB)))
    }

    #[test]
    fn states_say_where_a_block_is() {
        let entries = [0, 1, 2, 3 | (5 * MIB), 6 | (7 * MIB), 6 | (9 * MIB)];
        let table = read_table(&entries, &geometry(6, false)).unwrap();
        let found: Vec<Block> = (0..6).map(|index| table.block(index)).collect();
        let full = |mib: u64| Block::Full(mib * MIB);
        assert_eq!(found, [Block::Parent, Block::Zero, Block::Zero, Block::Zero, full(7), full(9)]);
    }

    #[test]
    fn bitmaps_stand_after_their_chunk() {
        let child = geometry(2, true);
        let mut entries = vec![0; child.bat_entries() as usize];
        entries[1] = 7 | (4 * MIB);
        assert!(read_table(&entries, &child).is_err());
        entries[4096] = 6 | (5 * MIB);
        let table = read_table(&entries, &child).unwrap();
        assert_eq!(table.block(1), Block::Partial { data: 4 * MIB, bitmap: 5 * MIB });
        entries[4096] = 6 | (4 * MIB);
        assert!(read_table(&entries, &child).is_err());
        entries[4096] = 2;
        assert!(read_table(&entries, &child).is_err());
    }

    #[test]
    fn blocks_must_be_in_the_file_and_apart() {
        let said = |entries: &[u64]| read_table(entries, &geometry(2, false)).err().map(|error| error.to_string());
        assert_eq!(said(&[6 | (19 * MIB), 0]), None);
        assert!(said(&[6 | (20 * MIB), 0]).is_some_and(|said| said.contains("end of the file")));
        assert!(said(&[6 | (3 * MIB), 6 | (3 * MIB)]).is_some_and(|said| said.contains("another structure")));
        assert!(said(&[6, 0]).is_some_and(|said| said.contains("another structure")));
        assert!(said(&[7 | (3 * MIB), 0]).is_some_and(|said| said.contains("no parent")));
        assert!(said(&[4, 0]).is_some_and(|said| said.contains("state 4")));
        assert!(said(&[6 | u64::MAX << 20, 0]).is_some());
    }

    #[test]
    fn a_table_too_large_is_refused_before_it_is_read() {
        let huge = Geometry { size_bytes: 64 << 40, ..geometry(1, false) };
        let source = Memory(bytes::Bytes::new());
        let refused = now(Bat::read(&source, Extent::new(0, 1 << 30), &huge, &mut Occupancy::new(MIB))).err().unwrap();
        assert!(matches!(refused, crate::DiskError::Limit { .. }));
        let short = Geometry { size_bytes: 1 << 40, ..geometry(1, false) };
        assert!(now(Bat::read(&source, Extent::new(0, MIB), &short, &mut Occupancy::new(MIB))).is_err());
    }

    #[test]
    fn an_encoded_table_is_read_back() {
        let disk = Geometry { size_bytes: 4100 * MIB, ..geometry(1, false) };
        let raw = encode(&disk, |block| if block % 1000 == 0 { (block / 1000 + 1) * MIB } else { 0 });
        assert_eq!(raw.len() as u64, disk.bat_entries() * ENTRY_BYTES);
        let length = raw.len() as u64;
        let source = Memory(raw.into());
        let table = now(Bat::read(&source, Extent::new(0, length), &disk, &mut Occupancy::new(20 * MIB))).unwrap();
        assert_eq!(table.block(4000), Block::Full(5 * MIB));
        assert_eq!((table.block(4096), table.block(4099)), (Block::Zero, Block::Zero));
    }
}
