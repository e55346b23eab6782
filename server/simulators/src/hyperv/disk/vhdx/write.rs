//! Changing an open file: payload first, then its metadata through the log.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::FileExt;

use uuid::Uuid;

use super::file::{Access, Held, Session, Vhdx};
use super::layout::{MIB, REGION_OFFSETS, Region, SECTOR_BYTES};
use super::log::{ENTRY_PATCHES_MAX, EntryHeader, Patch, encode_entry};
use super::metadata::Parent;
use super::table::{Geometry, State};
use crate::sparse::is_zero;

/// Entries that may wait in the log; more of the largest would not fit it.
const HELD_MAX: usize = 4;

/// Sectors of metadata that changed in memory.
#[derive(Default)]
struct Changed {
    table: BTreeSet<u64>,
    /// Chunk and sector.
    bitmaps: BTreeSet<(u64, u64)>,
}

impl Vhdx {
    /// Leaves the last few updates of metadata in the log only, so that who opens the file after [`Vhdx::finish`] has to
    /// replay it.
    pub fn hold_in_log(&mut self, hold: bool) {
        self.held_max = if hold { HELD_MAX } else { 0 };
    }

    /// Whether updates are left in the log.
    pub fn holds_in_log(&self) -> bool {
        self.held_max > 0
    }

    /// Writes whole sectors inside the disk.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let geometry = self.table.geometry;
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= geometry.disk_bytes);
        let sector = geometry.sector_bytes;
        if !offset.is_multiple_of(sector) || end.is_none_or(|end| !end.is_multiple_of(sector)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "write outside the disk, or of parts of sectors"));
        }
        self.begin(true)?;
        let mut changed = Changed::default();
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let room = (geometry.block_bytes - at % geometry.block_bytes) as usize;
            let (part, others) = rest.split_at(room.min(rest.len()));
            self.write_in_block(at, part, &mut changed)?;
            (at, rest) = (at + part.len() as u64, others);
        }
        self.log_changed(&changed)
    }

    fn write_in_block(&mut self, offset: u64, bytes: &[u8], changed: &mut Changed) -> io::Result<()> {
        let geometry = self.table.geometry;
        let (block, within) = (offset / geometry.block_bytes, offset % geometry.block_bytes);
        let (mut state, mut place) = self.table.block(block);
        let size = (geometry.disk_bytes - block * geometry.block_bytes).min(geometry.block_bytes);
        let is_whole = within == 0 && bytes.len() as u64 == size;
        if !state.is_allocated() {
            let below = state == State::NotPresent && self.parameters.parent.is_some();
            if is_zero(bytes) && (is_whole || !below) {
                if below {
                    changed.table.insert(self.table.set_block(block, State::Zero, 0));
                }
                return Ok(());
            }
            place = self.allocate(geometry.block_bytes)?;
            state = if below && !is_whole { State::Partial } else { State::Full };
            if state == State::Partial {
                self.need_bitmap(geometry.chunk_of(block), changed)?;
            }
            changed.table.insert(self.table.set_block(block, state, place));
        }
        self.file.write_all_at(bytes, place + within)?;
        if state == State::Partial {
            let (first, count) = (within / geometry.sector_bytes, bytes.len() as u64 / geometry.sector_bytes);
            let chunk = geometry.chunk_of(block);
            let sectors = self.table.mark_sectors(block, first, count);
            changed.bitmaps.extend(sectors.into_iter().map(|sector| (chunk, sector)));
            if self.table.is_complete(block) {
                changed.table.insert(self.table.set_block(block, State::Full, place));
            }
        }
        Ok(())
    }

    /// Space at the end of the file, which reads as zeros.
    fn allocate(&mut self, bytes: u64) -> io::Result<u64> {
        let place = self.end;
        self.end = place + bytes;
        self.file.set_len(self.end)?;
        Ok(place)
    }

    fn need_bitmap(&mut self, chunk: u64, changed: &mut Changed) -> io::Result<()> {
        if self.table.bitmap_place(chunk).is_none() {
            let place = self.allocate(MIB)?;
            changed.table.insert(self.table.add_bitmap(chunk, place));
        }
        Ok(())
    }

    fn log_changed(&mut self, changed: &Changed) -> io::Result<()> {
        let mut patches = Vec::new();
        // Bitmaps first: a block must never be partial before its bitmap is right.
        for &(chunk, sector) in &changed.bitmaps {
            let Some(place) = self.table.bitmap_place(chunk) else { continue };
            let bytes = self.table.bitmap_sector(chunk, sector);
            patches.push(Patch { offset: place + sector * SECTOR_BYTES as u64, bytes });
        }
        for &sector in &changed.table {
            let offset = self.regions.bat.offset + sector * SECTOR_BYTES as u64;
            patches.push(Patch { offset, bytes: self.table.encode_sector(sector) });
        }
        self.log(patches)
    }

    /// Starts a session if there is none: new identities, a new log.
    fn begin(&mut self, data: bool) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading"));
        }
        if let Some(session) = &mut self.session {
            if data && !session.data_changed {
                session.data_changed = true;
                self.update_header(|header| header.data_write = Uuid::new_v4())?;
            }
            return Ok(());
        }
        self.apply_held(0)?;
        self.session = Some(Session { data_changed: data, at: 0, sequence: 1 });
        self.update_header(|header| {
            header.file_write = Uuid::new_v4();
            header.log = Uuid::nil();
            if data {
                header.data_write = Uuid::new_v4();
            }
        })
    }

    /// Writes patches to the log, then (sooner or later) to their places.
    fn log(&mut self, mut patches: Vec<Patch>) -> io::Result<()> {
        while !patches.is_empty() {
            let later = patches.split_off(patches.len().min(ENTRY_PATCHES_MAX));
            let Some(session) = &mut self.session else { return Err(io::Error::other("no session")) };
            let at = session.at as u32;
            let header = EntryHeader {
                log: if self.header.log.is_nil() { Uuid::new_v4() } else { self.header.log },
                sequence: session.sequence,
                tail: self.held.front().map_or(at, |held| held.at),
                flushed_bytes: self.end,
                last_bytes: self.end,
            };
            let entry = encode_entry(&header, &patches);
            let ring = u64::from(self.header.log_bytes);
            let (first, wrapped) = entry.split_at((ring - session.at).min(entry.len() as u64) as usize);
            self.file.write_all_at(first, self.header.log_offset + session.at)?;
            self.file.write_all_at(wrapped, self.header.log_offset)?;
            session.at = (session.at + entry.len() as u64) % ring;
            session.sequence += 1;
            if self.header.log.is_nil() {
                self.update_header(|current| current.log = header.log)?;
            }
            self.held.push_back(Held { at, patches });
            self.apply_held(self.held_max)?;
            patches = later;
        }
        Ok(())
    }

    /// Applies the oldest entries of the log until so many are left.
    fn apply_held(&mut self, left: usize) -> io::Result<()> {
        while self.held.len() > left {
            let Some(held) = self.held.pop_front() else { break };
            for patch in &held.patches {
                self.file.write_all_at(&patch.bytes, patch.offset)?;
            }
        }
        Ok(())
    }

    /// Ends the session, as closing the file does. The log is empty afterwards, unless it is to hold the last updates.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.held_max == 0 && (self.session.is_some() || !self.held.is_empty()) {
            self.apply_held(0)?;
            if !self.header.log.is_nil() {
                self.update_header(|header| header.log = Uuid::nil())?;
            }
        }
        self.session = None;
        Ok(())
    }

    /// Changes where the parent is.
    pub fn set_parent(&mut self, parent: Parent) -> io::Result<()> {
        self.begin(false)?;
        self.parameters.parent = Some(parent);
        self.log_metadata(Vec::new())
    }

    /// Logs the metadata that differ from those in the file, together with other patches.
    fn log_metadata(&mut self, mut patches: Vec<Patch>) -> io::Result<()> {
        self.apply_held(0)?;
        let after = self.parameters.encode()?;
        let mut before = vec![0; after.len()];
        self.file.read_exact_at(&mut before, self.regions.metadata.offset)?;
        let sectors = before.chunks(SECTOR_BYTES).zip(after.chunks(SECTOR_BYTES));
        for (index, (_, bytes)) in sectors.enumerate().filter(|(_, (old, new))| old != new) {
            let offset = self.regions.metadata.offset + (index * SECTOR_BYTES) as u64;
            patches.push(Patch { offset, bytes: bytes.to_vec() });
        }
        self.log(patches)
    }

    /// Makes the disk of a file without parent larger.
    pub fn grow(&mut self, disk_bytes: u64) -> io::Result<()> {
        let mut parameters = self.parameters.clone();
        parameters.disk_bytes = disk_bytes;
        parameters.check()?;
        if parameters.parent.is_some() || disk_bytes < self.parameters.disk_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only a disk of one file can grow"));
        }
        self.begin(true)?;
        let old_blocks = self.table.geometry.blocks();
        self.parameters = parameters;
        self.table.grow(Geometry::of(&self.parameters));
        if self.parameters.fixed {
            for block in old_blocks..self.table.geometry.blocks() {
                let place = self.allocate(self.table.geometry.block_bytes)?;
                self.table.set_block(block, State::Full, place);
            }
        }
        let patches = self.place_table()?;
        self.log_metadata(patches)
    }

    /// Writes the whole table, to a new place if it does not fit the old one; answers what has to be logged then.
    fn place_table(&mut self) -> io::Result<Vec<Patch>> {
        let wanted = (self.table.geometry.entries() * 8).next_multiple_of(MIB);
        let sectors = self.table.sectors();
        if wanted <= self.regions.bat.bytes {
            let patch = |sector: u64| Patch {
                offset: self.regions.bat.offset + sector * SECTOR_BYTES as u64,
                bytes: self.table.encode_sector(sector),
            };
            let patches: Vec<Patch> = (0..sectors).map(patch).collect();
            self.log(patches)?;
            return Ok(Vec::new());
        }
        self.regions.bat = Region { offset: self.allocate(wanted)?, bytes: wanted };
        for sector in 0..sectors {
            let place = self.regions.bat.offset + sector * SECTOR_BYTES as u64;
            self.file.write_all_at(&self.table.encode_sector(sector), place)?;
        }
        let table = self.regions.encode();
        let sector = table.get(..SECTOR_BYTES).unwrap_or_default();
        Ok(REGION_OFFSETS.iter().map(|&offset| Patch { offset, bytes: sector.to_vec() }).collect())
    }
}
