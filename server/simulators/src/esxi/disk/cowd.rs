//! COWD, the sparse format of snapshot deltas on VMFS 5 (`vmfsSparse`): a header, a directory at sector 4, tables of 4096
//! entries, grains of one sector. Entry 0 = ask the parent, 1 = zeros, else the sector of the grain in this file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::SECTOR;
use super::image::Layer;

const MAGIC: u32 = u32::from_le_bytes(*b"COWD");
const DIRECTORY_SECTOR: u32 = 4;
const TABLE_ENTRIES: u64 = 4096;
const TABLE_SECTORS: u32 = 32;
/// Entry of a grain of zeros.
const ZERO_GRAIN: u32 = 1;
/// Disks of deltas end below 2 TiB, where sector numbers do.
const DISK_SECTORS_MAX: u64 = 0xFFFF_FFFF;

/// An open delta.
#[derive(Debug)]
pub(crate) struct Cowd {
    file: Arc<File>,
    directory: Vec<u32>,
    /// Sector of the disk → sector of the grain.
    grains: BTreeMap<u32, u32>,
    free: u32,
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

impl Cowd {
    /// Makes an empty delta for a disk of so many sectors.
    pub fn create(path: &Path, disk_sectors: u64) -> io::Result<Self> {
        if disk_sectors > DISK_SECTORS_MAX {
            return Err(invalid("disk too large for a COWD delta"));
        }
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
        let entries = disk_sectors.div_ceil(TABLE_ENTRIES) as usize;
        let directory_sectors = (entries as u64 * 4).div_ceil(SECTOR) as u32;
        let delta = Self {
            file: Arc::new(file),
            directory: vec![0; entries],
            grains: BTreeMap::new(),
            free: DIRECTORY_SECTOR + directory_sectors,
        };
        let mut header = Vec::with_capacity(64);
        let words = [MAGIC, 1, 3, disk_sectors as u32, 1, DIRECTORY_SECTOR, entries as u32, delta.free, 0, 255, 63];
        for word in words {
            header.extend_from_slice(&word.to_le_bytes());
        }
        delta.file.set_len(u64::from(delta.free) * SECTOR)?;
        delta.file.write_all_at(&header, 0)?;
        delta.save_free()?;
        Ok(delta)
    }

    /// Loads a delta of an earlier run.
    pub fn load(file: File) -> io::Result<Self> {
        let mut header = [0; 44];
        file.read_exact_at(&mut header, 0)?;
        let words = to_words(&header);
        let word = |index: usize| words.get(index).copied().unwrap_or_default();
        if word(0) != MAGIC || word(4) != 1 || u64::from(word(6)) > DISK_SECTORS_MAX / TABLE_ENTRIES + 1 {
            return Err(invalid("not a COWD delta"));
        }
        let directory = read_words(&file, u64::from(word(5)) * SECTOR, word(6) as usize)?;
        let mut grains = BTreeMap::new();
        for (index, &table) in directory.iter().enumerate().filter(|(_, table)| **table != 0) {
            let entries = read_words(&file, u64::from(table) * SECTOR, TABLE_ENTRIES as usize)?;
            let first = index as u32 * TABLE_ENTRIES as u32;
            grains.extend((first..).zip(entries).filter(|(_, grain)| *grain != 0));
        }
        let free = file.metadata()?.len().div_ceil(SECTOR) as u32;
        Ok(Self { file: Arc::new(file), directory, grains, free })
    }

    /// A view of what is in it now.
    pub fn layer(&self) -> Layer {
        Layer::Sparse { file: Arc::clone(&self.file), grains: Arc::new(self.grains.clone()) }
    }

    /// Runs of sectors that it holds, each at most `max` long: first sector and count.
    pub fn runs(&self, max: u64) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for &sector in self.grains.keys() {
            match runs.last_mut() {
                Some((start, count)) if *start + *count == u64::from(sector) && *count < max => *count += 1,
                _ => runs.push((u64::from(sector), 1)),
            }
        }
        runs
    }

    /// Puts what it holds of the sectors from `sector` on over `buffer`.
    pub fn overlay(&self, sector: u64, buffer: &mut [u8]) -> io::Result<()> {
        overlay(&self.file, &self.grains, sector, buffer)
    }

    /// Writes whole sectors.
    pub fn write(&mut self, sector: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = sector as u32;
        let mut rest = bytes;
        while !rest.is_empty() {
            let known = self.grains.get(&at).copied().filter(|grain| *grain != ZERO_GRAIN);
            let count = self.run_length(at, rest.len() / SECTOR as usize, known);
            let (now, later) = rest.split_at((count * SECTOR as usize).max(SECTOR as usize).min(rest.len()));
            match known {
                Some(grain) => self.file.write_all_at(now, u64::from(grain) * SECTOR)?,
                None => self.allocate(at, now)?,
            }
            at += (now.len() as u64 / SECTOR) as u32;
            rest = later;
        }
        Ok(())
    }

    /// How many sectors from `at` on can be written in one go: all new and of one table, or all in adjacent grains.
    fn run_length(&self, at: u32, wanted: usize, known: Option<u32>) -> usize {
        let table_end = (u64::from(at) / TABLE_ENTRIES + 1) * TABLE_ENTRIES;
        let wanted = wanted.min((table_end - u64::from(at)) as usize);
        (0..wanted as u32)
            .take_while(|step| match (known, self.grains.get(&(at + step)).filter(|grain| **grain != ZERO_GRAIN)) {
                (None, None) => true,
                (Some(first), Some(&grain)) => grain == first + step,
                _ => false,
            })
            .count()
    }

    /// Appends grains for new sectors of one table. Data first, then the entries that make it count.
    fn allocate(&mut self, at: u32, bytes: &[u8]) -> io::Result<()> {
        let index = u64::from(at) / TABLE_ENTRIES;
        let slot = self.directory.get(index as usize).copied().ok_or_else(|| invalid("sector past the end"))?;
        let table = if slot == 0 { self.add_table(index)? } else { slot };
        let first = self.free;
        let count = (bytes.len() as u64 / SECTOR) as u32;
        self.file.write_all_at(bytes, u64::from(first) * SECTOR)?;
        self.free += count;
        let entries: Vec<u8> = (first..first + count).flat_map(u32::to_le_bytes).collect();
        let within = u64::from(at) % TABLE_ENTRIES;
        self.file.write_all_at(&entries, u64::from(table) * SECTOR + within * 4)?;
        self.grains.extend((at..at + count).zip(first..));
        self.save_free()
    }

    fn add_table(&mut self, index: u64) -> io::Result<u32> {
        let table = self.free;
        self.free += TABLE_SECTORS;
        self.file.set_len(u64::from(self.free) * SECTOR)?;
        self.file.write_all_at(&table.to_le_bytes(), u64::from(DIRECTORY_SECTOR) * SECTOR + index * 4)?;
        if let Some(slot) = self.directory.get_mut(index as usize) {
            *slot = table;
        }
        Ok(table)
    }

    fn save_free(&self) -> io::Result<()> {
        self.file.write_all_at(&self.free.to_le_bytes(), 28)
    }
}

/// Puts what a delta holds of the sectors from `sector` on over `buffer`, adjacent grains in one read.
pub(crate) fn overlay(file: &File, grains: &BTreeMap<u32, u32>, sector: u64, buffer: &mut [u8]) -> io::Result<()> {
    let count = buffer.len() as u64 / SECTOR;
    let first = sector as u32;
    let mut run: Option<(u32, u32, u32)> = None; // sector, grain, count
    for (&at, &grain) in grains.range(first..first.saturating_add(count as u32)) {
        run = match run {
            Some((start, from, length)) if start + length == at && from != ZERO_GRAIN && from + length == grain => {
                Some((start, from, length + 1))
            }
            other => {
                read_run(file, other, first, buffer)?;
                Some((at, grain, 1))
            }
        };
    }
    read_run(file, run, first, buffer)
}

fn read_run(file: &File, run: Option<(u32, u32, u32)>, first: u32, buffer: &mut [u8]) -> io::Result<()> {
    let Some((start, grain, count)) = run else { return Ok(()) };
    let begin = (start - first) as usize * SECTOR as usize;
    let Some(part) = buffer.get_mut(begin..begin + count as usize * SECTOR as usize) else { return Ok(()) };
    if grain == ZERO_GRAIN {
        part.fill(0);
        return Ok(());
    }
    file.read_exact_at(part, u64::from(grain) * SECTOR)
}

fn to_words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn read_words(file: &File, offset: u64, count: usize) -> io::Result<Vec<u32>> {
    let mut bytes = vec![0; count * 4];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(to_words(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_survive_a_reload_and_leave_holes_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d-delta.vmdk");
        let mut delta = Cowd::create(&path, 20_000).unwrap();
        delta.write(4090, &[7; 12 * 512]).unwrap(); // over the border of two tables
        delta.write(4095, &[8; 512]).unwrap();
        delta.write(10, &[9; 1024]).unwrap();
        drop(delta);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut delta = Cowd::load(file).unwrap();
        let mut buffer = vec![1; 16 * 512];
        delta.overlay(4088, &mut buffer).unwrap();
        let expected: Vec<u8> = (0..16u8)
            .flat_map(|s| {
                [match s {
                    0 | 1 | 14 | 15 => 1,
                    7 => 8,
                    _ => 7,
                }; 512]
            })
            .collect();
        assert_eq!(buffer, expected);
        delta.write(11, &[3; 1024]).unwrap();
        let mut buffer = vec![0; 4 * 512];
        delta.overlay(10, &mut buffer).unwrap();
        assert_eq!((buffer[0], buffer[512], buffer[1024], buffer[1536]), (9, 3, 3, 0));
        assert_eq!(delta.runs(1000), vec![(10, 3), (4090, 12)]);
    }
}
