//! One VHD file, opened: everything but its data in memory.

use super::footer::{FOOTER_BYTES, Footer, SIGNATURE};
use super::header::{DynamicHeader, HEADER_BYTES};
use crate::container::open::{ImageInfo, ImageKind, ParentLink};
use crate::container::pages::Pages;
use crate::container::segment::{Bits, Place, Segments};
use crate::container::source::{ImageSource, read};
use crate::{DiskError, Result};
use domain::Extent;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use std::sync::Arc;

pub(super) const FORMAT: &str = "VHD";
const SECTOR_BYTES: u64 = 512;
/// An entry of the table that stands for no block.
const NO_BLOCK: u32 = u32::MAX;
/// The table is read in pieces of this many bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// A VHD file.
pub(in crate::container) struct VhdImage {
    info: ImageInfo,
    parent: Option<ParentLink>,
    source: Arc<dyn ImageSource>,
    /// Sector of each block in the file; empty for a fixed disk.
    table: Vec<u32>,
    pages: Pages,
}

pub(super) fn malformed(reason: impl Into<String>) -> DiskError {
    DiskError::Malformed { format: FORMAT, reason: reason.into() }
}

impl VhdImage {
    /// Whether the file ends or begins like one.
    pub async fn is_one(source: &dyn ImageSource) -> Result<bool> {
        let Some(last) = source.len_bytes().checked_sub(FOOTER_BYTES as u64) else { return Ok(false) };
        for at in [last, 0] {
            if read(source, FORMAT, at, SIGNATURE.len()).await? == SIGNATURE[..] {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads footer, header and block table.
    pub async fn open(path: &str, source: Arc<dyn ImageSource>) -> Result<Self> {
        let footer = read_footer(source.as_ref()).await?;
        let (mut parent, mut table, mut block_bytes) = (None, Vec::new(), 0);
        if footer.kind == ImageKind::Fixed {
            if footer.size_bytes > source.len_bytes() - FOOTER_BYTES as u64 {
                let (size, file) = (footer.size_bytes, source.len_bytes());
                return Err(malformed(format!("a fixed disk of {size} bytes in a file of {file}")));
            }
        } else {
            if !within(source.as_ref(), footer.header_at, HEADER_BYTES as u64) {
                return Err(malformed(format!("its header at {} is outside the file", footer.header_at)));
            }
            let header = read(source.as_ref(), FORMAT, footer.header_at, HEADER_BYTES).await?;
            let header = DynamicHeader::decode(&header)?;
            block_bytes = header.block_bytes;
            table = read_table(source.as_ref(), &footer, &header).await?;
            if footer.kind == ImageKind::Differencing {
                parent = Some(header.parent(source.as_ref()).await?);
            }
        }
        let info = ImageInfo {
            path: path.to_owned(),
            format: FORMAT,
            kind: footer.kind,
            size_bytes: footer.size_bytes,
            file_bytes: source.len_bytes(),
            block_bytes,
            logical_sector_bytes: SECTOR_BYTES as u32,
            physical_sector_bytes: SECTOR_BYTES as u32,
            disk_id: footer.unique_id,
            content_id: footer.unique_id,
            replayed_bytes: 0,
        };
        Ok(Self { info, parent, source, table, pages: Pages::default() })
    }

    pub fn info(&self) -> &ImageInfo {
        &self.info
    }

    pub fn parent(&self) -> Option<&ParentLink> {
        self.parent.as_ref()
    }

    pub fn table_bytes(&self) -> u64 {
        self.table.len() as u64 * 4
    }

    pub fn source(&self) -> &Arc<dyn ImageSource> {
        &self.source
    }

    /// Where the bytes of `range`, which lies inside the disk, are.
    pub async fn map(&self, range: Extent, into: &mut Segments) -> Result<()> {
        if self.info.kind == ImageKind::Fixed {
            into.push(range, Place::File(range.offset));
            return Ok(());
        }
        let block_bytes = u64::from(self.info.block_bytes);
        for index in range.offset / block_bytes..range.end().div_ceil(block_bytes) {
            let block = Extent::new(index * block_bytes, block_bytes);
            let Some(part) = block.intersection(&range) else { continue };
            let sector = self.table.get(index as usize).copied().unwrap_or(NO_BLOCK);
            if sector == NO_BLOCK {
                into.push(part, Place::Parent);
                continue;
            }
            let bitmap_at = u64::from(sector) * SECTOR_BYTES;
            let within = part.offset - block.offset;
            let data_at = bitmap_at + bitmap_bytes(self.info.block_bytes) + within;
            if self.info.kind == ImageKind::Dynamic {
                // A sector that was never written is zero in a block that was, whatever its bit says.
                into.push(part, Place::File(data_at));
                continue;
            }
            let bits_bytes = (block_bytes / SECTOR_BYTES / 8) as usize;
            let bytes = self.pages.get(&self.source, FORMAT, bitmap_at, bits_bytes).await?;
            let bits = Bits { bytes: &bytes, highest_first: true };
            into.push_bits(part, data_at, SECTOR_BYTES, bits, within / SECTOR_BYTES);
        }
        Ok(())
    }
}

/// The footer at the end of the file, or its copy at the start.
async fn read_footer(source: &dyn ImageSource) -> Result<Footer> {
    let last = source.len_bytes().checked_sub(FOOTER_BYTES as u64);
    let last = last.ok_or_else(|| malformed(format!("a file of {} bytes", source.len_bytes())))?;
    for at in [last, 0] {
        let footer = Footer::decode(&read(source, FORMAT, at, FOOTER_BYTES).await?)?;
        // The first sector of a fixed disk is data, even if it looks like a footer.
        if let Some(footer) = footer.filter(|footer| at == last || footer.kind != ImageKind::Fixed) {
            return Ok(footer);
        }
    }
    Err(malformed("neither the footer nor its copy has a valid checksum"))
}

/// Bytes of a block's bitmap, padded to whole sectors.
fn bitmap_bytes(block_bytes: u32) -> u64 {
    (u64::from(block_bytes) / SECTOR_BYTES / 8).next_multiple_of(SECTOR_BYTES)
}

/// The entries the disk needs, each checked: inside the file and apart from the others.
async fn read_table(source: &dyn ImageSource, footer: &Footer, header: &DynamicHeader) -> Result<Vec<u32>> {
    let blocks = footer.size_bytes.div_ceil(u64::from(header.block_bytes));
    if blocks > u64::from(header.table_entries) {
        return Err(malformed(format!("a block table of {} entries for {blocks} blocks", header.table_entries)));
    }
    let bytes = blocks * 4;
    if !within(source, header.table_at, bytes) {
        return Err(malformed(format!("its block table of {bytes} bytes at {} is outside the file", header.table_at)));
    }
    let pieces = (0..bytes.div_ceil(PIECE_BYTES)).map(|index| {
        let at = index * PIECE_BYTES;
        read(source, FORMAT, header.table_at + at, PIECE_BYTES.min(bytes - at) as usize)
    });
    let mut pieces = stream::iter(pieces).buffered(4);
    let mut table = Vec::with_capacity(blocks as usize);
    while let Some(piece) = pieces.try_next().await? {
        table.extend(piece.as_chunks().0.iter().map(|raw| u32::from_be_bytes(*raw)));
    }
    check_table(&table, source.len_bytes(), footer, header)?;
    Ok(table)
}

fn check_table(table: &[u32], file_bytes: u64, footer: &Footer, header: &DynamicHeader) -> Result<()> {
    let bitmap = bitmap_bytes(header.block_bytes);
    let block_bytes = u64::from(header.block_bytes);
    let mut taken: Vec<Extent> = table
        .iter()
        .enumerate()
        .filter(|(_, sector)| **sector != NO_BLOCK)
        .map(|(index, &sector)| {
            let length = block_bytes.min(footer.size_bytes.saturating_sub(index as u64 * block_bytes));
            Extent::new(u64::from(sector) * SECTOR_BYTES, bitmap + length)
        })
        .collect();
    taken.push(Extent::new(header.table_at, table.len() as u64 * 4));
    taken.push(Extent::new(footer.header_at, HEADER_BYTES as u64));
    taken.push(Extent::new(0, FOOTER_BYTES as u64));
    taken.sort_unstable();
    if let Some(outside) = taken.last().filter(|last| last.end() > file_bytes) {
        return Err(malformed(format!("a block at {} passes the end of the file at {file_bytes}", outside.offset)));
    }
    for (one, next) in taken.iter().zip(taken.iter().skip(1)) {
        if one.end() > next.offset {
            return Err(malformed(format!("what lies at {} reaches into what lies at {}", one.offset, next.offset)));
        }
    }
    Ok(())
}

fn within(source: &dyn ImageSource, offset: u64, length: u64) -> bool {
    offset.checked_add(length).is_some_and(|end| end <= source.len_bytes())
}
