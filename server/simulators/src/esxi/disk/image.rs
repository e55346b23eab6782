//! A disk to be read from top to bottom of its chain, without anybody's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::SECTOR;
use super::cowd::overlay;
use crate::sparse::{data_ranges, is_zero, runs};

/// Bytes copied at a time.
const COPY_CHUNK_BYTES: usize = 1 << 20;
/// Copies leave blocks of zeros of this size out.
const HOLE_BYTES: usize = 64 << 10;

/// One link.
#[derive(Debug, Clone)]
pub(crate) enum Layer {
    /// The base.
    Flat(Arc<File>),
    /// A delta with its map of grains.
    Sparse { file: Arc<File>, grains: Arc<BTreeMap<u32, u32>> },
}

/// The contents of a disk at a link.
#[derive(Debug, Clone)]
pub(crate) struct DiskImage {
    capacity: u64,
    /// Nearest first; the last is the base.
    layers: Vec<Layer>,
}

impl DiskImage {
    pub fn new(capacity: u64, layers: Vec<Layer>) -> Self {
        Self { capacity, layers }
    }

    /// Size in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Fills the buffer from `offset` on. Offset and length are whole sectors.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        for layer in self.layers.iter().rev() {
            match layer {
                Layer::Flat(file) => file.read_exact_at(buffer, offset)?,
                Layer::Sparse { file, grains } => overlay(file, grains, offset / SECTOR, buffer)?,
            }
        }
        Ok(())
    }

    /// Units of `unit` bytes that are allocated in any link, as runs of offset and length.
    pub fn allocated(&self, unit: u64) -> io::Result<Vec<(u64, u64)>> {
        let mut units = BTreeSet::new();
        for layer in &self.layers {
            match layer {
                Layer::Flat(file) => {
                    for (start, end) in data_ranges(file, self.capacity)? {
                        units.extend(start / unit..end.div_ceil(unit));
                    }
                }
                Layer::Sparse { grains, .. } => {
                    units.extend(grains.keys().map(|&grain| u64::from(grain) * SECTOR / unit));
                }
            }
        }
        Ok(runs(&units, unit, self.capacity))
    }

    /// Writes the contents into a new sparse file.
    pub fn copy_to(&self, path: &Path) -> io::Result<()> {
        let target = File::create(path)?;
        target.set_len(self.capacity)?;
        let mut buffer = vec![0; COPY_CHUNK_BYTES];
        for (start, length) in self.allocated(HOLE_BYTES as u64)? {
            let mut at = start;
            while at < start + length {
                let count = (start + length - at).min(COPY_CHUNK_BYTES as u64) as usize;
                let Some(bytes) = buffer.get_mut(..count) else { break };
                self.read_at(at, bytes)?;
                for (index, block) in bytes.chunks(HOLE_BYTES).enumerate().filter(|(_, block)| !is_zero(block)) {
                    target.write_all_at(block, at + (index * HOLE_BYTES) as u64)?;
                }
                at += count as u64;
            }
        }
        Ok(())
    }
}
