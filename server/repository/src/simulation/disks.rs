//! Disks of the simulation: a few files of a small universe, at places of a sparse disk. Files come and go and come
//! back, so that what a collector is about to delete is often what a writer is about to need.

use bytes::{Bytes, BytesMut};
use domain::Extent;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use std::sync::OnceLock;

use crate::format::{BLOCK_BYTES, PAGE_BYTES};
use crate::simulation::storage::Dice;
use crate::{BlockSource, SourceError};

const FILES: u64 = 9;
const SLOT_BYTES: u64 = 96 << 10;

/// What file `number` holds: text, or what compresses a little, both of which share frames; or noise.
fn file(number: u64) -> &'static Bytes {
    static UNIVERSE: OnceLock<Vec<Bytes>> = OnceLock::new();
    let make = |number: u64| {
        let mut content = vec![0; (5 + 2 * number as usize) * BLOCK_BYTES];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut content);
        match number % 3 {
            0 => content.iter_mut().for_each(|byte| *byte = b"etaoin shrdlu\n"[usize::from(*byte) % 14]),
            1 => content.iter_mut().for_each(|byte| *byte &= 0x7f),
            _ => {}
        }
        Bytes::from(content)
    };
    let universe = UNIVERSE.get_or_init(|| (0..FILES).map(make).collect());
    &universe[number as usize]
}

/// A disk at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub size: u64,
    /// The file at each slot, if any.
    slots: Vec<(u64, Option<u64>)>,
}

impl Disk {
    /// Of two to four slots; some disks have a second page, and so a map of two levels.
    pub fn new(dice: &Dice) -> Self {
        let base = if dice.one_in(3) { PAGE_BYTES - SLOT_BYTES } else { 0 };
        let count = 2 + dice.below(3);
        let slots = (0..count).map(|slot| (base + slot * SLOT_BYTES, None)).collect();
        let mut disk = Self { size: base + count * SLOT_BYTES + 700, slots };
        for _ in 0..count {
            disk.change(dice);
        }
        disk
    }

    /// Changes a slot; the area that changed.
    pub fn change(&mut self, dice: &Dice) -> Extent {
        let slot = dice.below(self.slots.len() as u64) as usize;
        self.slots[slot].1 = (!dice.one_in(6)).then(|| dice.below(FILES));
        Extent::new(self.slots[slot].0, SLOT_BYTES)
    }

    /// Where there may be data.
    pub fn areas(&self) -> Vec<Extent> {
        self.slots.iter().filter(|(_, file)| file.is_some()).map(|(at, _)| Extent::new(*at, SLOT_BYTES)).collect()
    }

    fn content(&self, range: Extent) -> Bytes {
        let mut content = BytesMut::zeroed(range.length as usize);
        for (at, number) in &self.slots {
            let Some(number) = number else { continue };
            let bytes = file(*number);
            let Some(part) = Extent::new(*at, bytes.len() as u64).intersection(&range) else { continue };
            let (to, from, length) = (part.offset - range.offset, part.offset - at, part.length as usize);
            content[to as usize..to as usize + length].copy_from_slice(&bytes[from as usize..from as usize + length]);
        }
        content.freeze()
    }

    /// Is this piece what the disk holds there?
    pub fn holds(&self, offset: u64, piece: &[u8]) -> bool {
        self.content(Extent::new(offset, piece.len() as u64)) == piece
    }

    /// Bytes of files: as many have to be read at least.
    pub fn file_bytes(&self) -> u64 {
        self.slots.iter().filter_map(|(_, number)| *number).map(|number| file(number).len() as u64).sum()
    }

    /// The part of a piece that lies in files.
    pub fn bytes_in_files(&self, piece: Extent) -> u64 {
        let files = self.slots.iter().filter_map(|(at, number)| Some(Extent::new(*at, file((*number)?).len() as u64)));
        files.filter_map(|extent| extent.intersection(&piece)).map(|part| part.length).sum()
    }
}

impl BlockSource for Disk {
    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes, SourceError>> {
        stream::iter([Ok(self.content(range))]).boxed()
    }
}
