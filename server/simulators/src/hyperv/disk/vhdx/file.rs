//! An open VHDX file: where the bytes of a range are.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use uuid::Uuid;

use super::layout::{HEADER_OFFSETS, Header, Regions};
use super::log::Patch;
use super::metadata::Parameters;
use super::table::{State, Table};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// A log is replayed in memory.
    Read,
    /// A log is replayed into the file.
    Write,
}

/// Where bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// From this place of the file.
    File(u64),
    /// They are zeros.
    Zero,
    /// From the parent, at the same place of the disk.
    Parent,
}

/// A stretch of the disk with one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub offset: u64,
    pub length: u64,
    pub source: Source,
}

/// An entry of the log whose patches are not in their places yet.
#[derive(Debug)]
pub(super) struct Held {
    /// Place in the log.
    pub at: u32,
    pub patches: Vec<Patch>,
}

/// From the first change after opening to [`Vhdx::finish`].
#[derive(Debug)]
pub(super) struct Session {
    pub data_changed: bool,
    /// Where the next entry of the log goes.
    pub at: u64,
    pub sequence: u64,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct Vhdx {
    pub(super) file: File,
    pub(super) access: Access,
    pub(super) header: Header,
    /// Which of the two places holds the current header.
    pub(super) slot: usize,
    pub(super) regions: Regions,
    pub(super) parameters: Parameters,
    pub(super) table: Table,
    /// First free byte.
    pub(super) end: u64,
    pub(super) session: Option<Session>,
    /// Oldest first.
    pub(super) held: VecDeque<Held>,
    /// How many entries of the log wait before they are applied.
    pub(super) held_max: usize,
}

impl Vhdx {
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Identifies the contents that the guest sees.
    pub fn data_write_guid(&self) -> Uuid {
        self.header.data_write
    }

    /// Identifies the contents of the file.
    #[cfg(test)]
    pub fn file_write_guid(&self) -> Uuid {
        self.header.file_write
    }

    /// The log has to be replayed by who opens the file now.
    #[cfg(test)]
    pub fn is_dirty(&self) -> bool {
        !self.header.log.is_nil()
    }

    /// Where the bytes of a range are, in order and without gaps. The range is inside the disk and of whole sectors.
    pub fn segments(&self, offset: u64, length: u64) -> Vec<Segment> {
        let geometry = self.table.geometry;
        let mut segments = Vec::new();
        let mut at = offset;
        while at < offset + length {
            let (block, within) = (at / geometry.block_bytes, at % geometry.block_bytes);
            let count = (offset + length - at).min(geometry.block_bytes - within);
            let (state, place) = self.table.block(block);
            let source = match state {
                State::Full => Source::File(place + within),
                State::NotPresent if self.parameters.parent.is_some() => Source::Parent,
                State::NotPresent | State::Undefined | State::Zero | State::Unmapped => Source::Zero,
                State::Partial => {
                    self.partial(block, at, count, &mut segments);
                    at += count;
                    continue;
                }
            };
            push(&mut segments, Segment { offset: at, length: count, source });
            at += count;
        }
        segments
    }

    fn partial(&self, block: u64, offset: u64, length: u64, segments: &mut Vec<Segment>) {
        let geometry = self.table.geometry;
        let (_, place) = self.table.block(block);
        for at in (offset..offset + length).step_by(geometry.sector_bytes as usize) {
            let within = at - block * geometry.block_bytes;
            let here = self.table.has_sector(block, within / geometry.sector_bytes);
            let source = if here { Source::File(place + within) } else { Source::Parent };
            push(segments, Segment { offset: at, length: geometry.sector_bytes, source });
        }
    }

    /// Reads payload at a place that [`Vhdx::segments`] named.
    pub fn read_payload(&self, place: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, place)
    }

    /// Ranges of the disk that this file says something about.
    pub fn own_segments(&self) -> Vec<Segment> {
        let geometry = self.table.geometry;
        let mut own = Vec::new();
        for block in 0..geometry.blocks() {
            if self.table.block(block).0 == State::NotPresent {
                continue;
            }
            let start = block * geometry.block_bytes;
            let length = (geometry.disk_bytes - start).min(geometry.block_bytes);
            own.extend(self.segments(start, length).into_iter().filter(|segment| segment.source != Source::Parent));
        }
        own
    }

    /// Writes the header to the place of the older one, then to the other.
    pub(super) fn update_header(&mut self, change: impl FnOnce(&mut Header)) -> io::Result<()> {
        change(&mut self.header);
        for _ in HEADER_OFFSETS {
            self.header.sequence += 1;
            self.slot = 1 - self.slot.min(1);
            let place = HEADER_OFFSETS.get(self.slot).copied().unwrap_or_default();
            self.file.write_all_at(&self.header.encode(), place)?;
        }
        Ok(())
    }
}

/// Appends a segment, joined to the last one where it goes on.
fn push(segments: &mut Vec<Segment>, next: Segment) {
    if let Some(last) = segments.last_mut() {
        let goes_on = match (last.source, next.source) {
            (Source::File(place), Source::File(other)) => place + last.length == other,
            (a, b) => a == b,
        };
        if goes_on && last.offset + last.length == next.offset {
            last.length += next.length;
            return;
        }
    }
    segments.push(next);
}
