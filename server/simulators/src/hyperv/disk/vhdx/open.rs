//! Making and opening files, and replaying their logs.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use uuid::Uuid;

use super::file::{Access, Vhdx};
use super::layout::{
    FILE_SIGNATURE, HEADER_OFFSETS, Header, MIB, REGION_OFFSETS, REGION_TABLE_BYTES, Region, Regions, SECTOR_BYTES,
    damaged,
};
use super::log::{self, Change, Replay};
use super::metadata::Parameters;
use super::table::{Geometry, State, Table};

/// Bytes of the log of files made here.
const LOG_BYTES: u32 = 1 << 20;
/// What files made here say of their maker.
const CREATOR: &str = "Stillframe simulated host";

impl Vhdx {
    /// Makes a new file. A fixed one has all its blocks; nothing is written into them.
    pub fn create(path: &Path, parameters: Parameters) -> io::Result<Self> {
        parameters.check()?;
        let geometry = Geometry::of(&parameters);
        let metadata = Region { offset: MIB + u64::from(LOG_BYTES), bytes: MIB };
        let bat = Region { offset: metadata.offset + MIB, bytes: (geometry.entries() * 8).next_multiple_of(MIB) };
        let regions = Regions { bat, metadata };
        let mut table = Table::new(geometry);
        let mut end = bat.offset + bat.bytes;
        if parameters.fixed {
            for block in 0..geometry.blocks() {
                table.set_block(block, State::Full, end);
                end += geometry.block_bytes;
            }
        }
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
        file.set_len(end)?;
        let creator: Vec<u8> = CREATOR.encode_utf16().flat_map(u16::to_le_bytes).collect();
        file.write_all_at(&[FILE_SIGNATURE.as_slice(), &creator].concat(), 0)?;
        file.write_all_at(&parameters.encode()?, metadata.offset)?;
        for sector in 0..table.sectors() {
            file.write_all_at(&table.encode_sector(sector), bat.offset + sector * SECTOR_BYTES as u64)?;
        }
        for place in REGION_OFFSETS {
            file.write_all_at(&regions.encode(), place)?;
        }
        let header = Header {
            sequence: 0,
            file_write: Uuid::new_v4(),
            data_write: Uuid::new_v4(),
            log: Uuid::nil(),
            log_bytes: LOG_BYTES,
            log_offset: MIB,
        };
        let mut vhdx = Self {
            file,
            access: Access::Write,
            header,
            slot: 1,
            regions,
            parameters,
            table,
            end,
            session: None,
            held: VecDeque::new(),
            held_max: 0,
        };
        vhdx.update_header(|_| {})?;
        Ok(vhdx)
    }

    /// Opens a file, checks all of it but the payload, and replays its log: in memory or into the file.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(path)?;
        let (header, slot) = read_header(&file)?;
        let replay = read_log(&file, &header)?;
        let mut vhdx = Self::assemble(file, access, (header, slot), replay.as_ref())?;
        if let Some(replay) = replay.filter(|_| access == Access::Write) {
            vhdx.apply(&replay)?;
        }
        Ok(vhdx)
    }

    fn assemble(
        file: File,
        access: Access,
        (header, slot): (Header, usize),
        replay: Option<&Replay>,
    ) -> io::Result<Self> {
        let view = View { file: &file, replay };
        let first = Regions::decode(&view.read(REGION_OFFSETS[0], REGION_TABLE_BYTES)?);
        let regions = first.or_else(|_| Regions::decode(&view.read(REGION_OFFSETS[1], REGION_TABLE_BYTES)?))?;
        let parameters = Parameters::decode(&view.read(regions.metadata.offset, regions.metadata.bytes as usize)?)?;
        let geometry = Geometry::of(&parameters);
        let mut table = Table::decode(geometry, &view.read(regions.bat.offset, regions.bat.bytes as usize)?)?;
        let file_bytes = file.metadata()?.len().max(replay.map_or(0, |replay| replay.last_bytes));
        let log = Region { offset: header.log_offset, bytes: header.log_bytes.into() };
        let end = table.check(file_bytes, &[log, regions.bat, regions.metadata])?;
        for (chunk, place) in table.bitmap_places() {
            table.load_bitmap(chunk, view.read(place, MIB as usize)?);
        }
        // After the end of all blocks there may be something of which only its maker knows.
        let end = end.max(file_bytes).next_multiple_of(MIB);
        let (session, held) = (None, VecDeque::new());
        Ok(Self { file, access, header, slot, regions, parameters, table, end, session, held, held_max: 0 })
    }

    /// Writes what the log says to its places and empties the log.
    fn apply(&mut self, replay: &Replay) -> io::Result<()> {
        self.update_header(|header| header.file_write = Uuid::new_v4())?;
        for change in &replay.changes {
            match change {
                Change::Data(patch) => self.file.write_all_at(&patch.bytes, patch.offset)?,
                Change::Zero { offset, bytes } => {
                    for at in (*offset..offset.saturating_add(*bytes)).step_by(SECTOR_BYTES) {
                        self.file.write_all_at(&[0; SECTOR_BYTES], at)?;
                    }
                }
            }
        }
        if self.file.metadata()?.len() < replay.last_bytes {
            self.file.set_len(replay.last_bytes)?;
        }
        self.update_header(|header| header.log = Uuid::nil())
    }
}

/// A file as it is once its log is replayed.
struct View<'a> {
    file: &'a File,
    replay: Option<&'a Replay>,
}

impl View<'_> {
    fn read(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        let available = self.file.metadata()?.len().saturating_sub(offset).min(bytes as u64);
        if available < bytes as u64 && self.replay.is_none() {
            return Err(damaged(format!("the file ends before byte {}", offset.saturating_add(bytes as u64))));
        }
        if let Some(part) = buffer.get_mut(..available as usize) {
            self.file.read_exact_at(part, offset)?;
        }
        if let Some(replay) = self.replay {
            replay.overlay(offset, &mut buffer);
        }
        Ok(buffer)
    }
}

fn read_header(file: &File) -> io::Result<(Header, usize)> {
    let view = View { file, replay: None };
    if view.read(0, FILE_SIGNATURE.len())? != FILE_SIGNATURE {
        return Err(damaged("not a VHDX file"));
    }
    Header::current(&view.read(HEADER_OFFSETS[0], SECTOR_BYTES)?, &view.read(HEADER_OFFSETS[1], SECTOR_BYTES)?)
}

fn read_log(file: &File, header: &Header) -> io::Result<Option<Replay>> {
    if header.log.is_nil() {
        return Ok(None);
    }
    let ring = View { file, replay: None }.read(header.log_offset, header.log_bytes as usize)?;
    let replay = log::read(&ring, header.log)?;
    if file.metadata()?.len() < replay.flushed_bytes {
        return Err(damaged("the file is shorter than its log knows it"));
    }
    Ok(Some(replay))
}
