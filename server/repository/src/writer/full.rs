//! Reading a whole disk, or its allocated areas; the rest is zero.

use domain::Extent;
use domain::extent::{coalesce, total_bytes};
use std::sync::Arc;

use super::pages::{ExtentReader, Leaves, PageCutter};
use super::stage::{Counts, Stage};
use super::tree;
use crate::error::Result;
use crate::format::map::page_bytes;
use crate::format::{BLOCK_BYTES, ChunkId, PAGE_BYTES};
use crate::source::DiskInput;

/// Allocated areas this close are read in one go: cheaper than another request.
const JOIN_GAP_BYTES: u64 = 64 << 10;

/// Where the disk has been read up to.
struct Cursor {
    cutter: PageCutter,
    leaves: Leaves,
    size: u64,
    position: u64,
}

impl Cursor {
    fn left_in_page(&self) -> u64 {
        let page = self.position / PAGE_BYTES;
        page * PAGE_BYTES + page_bytes(self.size, page) - self.position
    }

    async fn advance(&mut self, length: u64) -> Result<()> {
        let left = self.left_in_page();
        self.position += length;
        if length == left {
            self.cutter.end().await?;
            let draft = self.cutter.take().await?;
            self.leaves.add((self.position - 1) / PAGE_BYTES, draft)?;
        }
        Ok(())
    }

    async fn data(&mut self, mut piece: bytes::Bytes) -> Result<()> {
        while !piece.is_empty() {
            let part = piece.split_to((self.left_in_page() as usize).min(piece.len()));
            self.cutter.push(&part).await?;
            self.advance(part.len() as u64).await?;
        }
        Ok(())
    }

    async fn zeros_until(&mut self, end: u64) -> Result<()> {
        while self.position < end {
            let part = self.left_in_page().min(end - self.position);
            if self.position.is_multiple_of(PAGE_BYTES) && part == self.left_in_page() {
                self.position += part; // a page of zeros has no leaf
                continue;
            }
            self.cutter.zeros(part).await?;
            self.advance(part).await?;
        }
        Ok(())
    }
}

/// Stores the disk; `allocated` is all of it when `None`. Returns the map's root.
pub async fn backup(
    stage: &Arc<Stage>,
    input: &DiskInput,
    allocated: Option<&[Extent]>,
    counts: &Arc<Counts>,
) -> Result<ChunkId> {
    let size = input.source.size_bytes();
    let extents = match allocated {
        Some(areas) => coalesce(areas, BLOCK_BYTES as u64, JOIN_GAP_BYTES, size),
        None if size == 0 => Vec::new(),
        None => vec![Extent::new(0, size)],
    };
    counts.plan(total_bytes(&extents));
    let (cutter, leaves) = (PageCutter::new(stage, counts), Leaves::new(stage, counts));
    let mut cursor = Cursor { cutter, leaves, size, position: 0 };
    for extent in extents {
        cursor.zeros_until(extent.offset).await?;
        let mut reader = ExtentReader::new(input, extent);
        while let Some(piece) = reader.next(counts).await? {
            cursor.data(piece).await?;
        }
    }
    cursor.zeros_until(size).await?;
    let pages = cursor.leaves.finish().await?;
    tree::store(stage, counts, size, None, pages).await
}
