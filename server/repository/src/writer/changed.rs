//! Reading only what changed since another point. Each touched page is cut again from the start of the first touched
//! chunk until a cut meets an old one past the change; what lies between is taken over as it was. The result is the map
//! that reading the whole disk would have given.

use domain::Extent;
use domain::extent::{coalesce, total_bytes};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::pages::{Draft, ExtentReader, Leaves, PageCutter};
use super::stage::{Counts, Stage};
use super::tree;
use crate::ahead::driven;
use crate::error::{Error, Result};
use crate::format::map::{LeafEntry, page_bytes};
use crate::format::{BLOCK_BYTES, ChunkId, PAGE_BYTES};
use crate::point::PointId;
use crate::reader::DiskMap;
use crate::source::DiskInput;

/// Stretches this close are read in one go: cheaper than another request.
const JOIN_GAP_BYTES: u64 = 256 << 10;
/// Old pages looked up ahead.
const PAGES_AHEAD: usize = 4;

/// Stores the disk: `areas` from the source, the rest as in `base`. Returns the map's root.
pub async fn backup(
    stage: &Arc<Stage>,
    input: &DiskInput,
    base: PointId,
    areas: &[Extent],
    counts: &Arc<Counts>,
) -> Result<ChunkId> {
    let (disk, size) = (input.config.key, input.source.size_bytes());
    let plan_error = |reason: String| Error::Plan { disk, reason };
    let map = match DiskMap::open(&stage.core, base, disk).await {
        Err(Error::NoSuchDisk { .. }) => return Err(plan_error(format!("restore point {base} has no such disk"))),
        other => other?,
    };
    if map.size_bytes != size {
        let reason = format!("it is {size} bytes long, in restore point {base} it was {}", map.size_bytes);
        return Err(plan_error(reason));
    }
    let areas = coalesce(areas, BLOCK_BYTES as u64, 0, size);
    counts.plan(total_bytes(&areas));
    let map = Arc::new(map);
    let mut pages = stream::iter(by_page(&areas))
        .map(|(page, changes)| (page, changes, Arc::clone(&map)))
        .map(|(page, changes, map)| async move {
            let old = driven(async move { map.leaf(page).await }).await?;
            let zeros = || vec![LeafEntry { length: page_bytes(size, page) as u32, id: ChunkId::ZERO }];
            Ok::<_, Error>((page, old.unwrap_or_else(zeros), changes))
        })
        .buffered(PAGES_AHEAD)
        .map(|loaded| async move {
            let (page, old, changes) = loaded?;
            let rule = stage.core.config.chunk.rule();
            let page_cut = PageUpdate { input, page, old: old_entries(&old), changes, zero_run: rule.zero_run_bytes() };
            Ok::<_, Error>((page, page_cut.run(stage, counts).await?))
        })
        .buffer_unordered(input.source.lanes().max(1));
    let mut leaves = Leaves::new(stage, counts);
    while let Some((page, draft)) = pages.try_next().await? {
        leaves.add(page, draft)?;
    }
    let changed = leaves.finish().await?;
    tree::store(stage, counts, size, Some(&map), changed).await
}

/// Splits areas by page, made relative to their page.
fn by_page(areas: &[Extent]) -> Vec<(u64, Vec<Extent>)> {
    let mut pages: Vec<(u64, Vec<Extent>)> = Vec::new();
    for area in areas {
        for page in area.offset / PAGE_BYTES..area.end().div_ceil(PAGE_BYTES) {
            let Some(part) = area.intersection(&Extent::new(page * PAGE_BYTES, PAGE_BYTES)) else { continue };
            let part = Extent::new(part.offset - page * PAGE_BYTES, part.length);
            match pages.last_mut() {
                Some((last, parts)) if *last == page => parts.push(part),
                _ => pages.push((page, vec![part])),
            }
        }
    }
    pages
}

/// An entry of the old leaf with its place in the page.
#[derive(Clone, Copy)]
struct OldEntry {
    start: u64,
    end: u64,
    entry: LeafEntry,
}

fn old_entries(leaf: &[LeafEntry]) -> Vec<OldEntry> {
    let mut end = 0;
    let place = |entry: &LeafEntry| {
        let start = end;
        end += u64::from(entry.length);
        OldEntry { start, end, entry: *entry }
    };
    leaf.iter().map(place).collect()
}

struct PageUpdate<'a> {
    input: &'a DiskInput,
    page: u64,
    old: Vec<OldEntry>,
    /// Relative to the page, whole blocks, ascending, apart.
    changes: Vec<Extent>,
    zero_run: u64,
}

impl PageUpdate<'_> {
    async fn run(self, stage: &Arc<Stage>, counts: &Arc<Counts>) -> Result<Draft> {
        let mut cutter = PageCutter::new(stage, counts);
        let mut regions = self.regions().into_iter().peekable();
        let mut kept = 0; // old entries before this one are done
        while let Some(region) = regions.next() {
            self.keep(&mut cutter, kept, *region.start());
            let (mut from, mut last) = region.into_inner();
            loop {
                self.feed(&mut cutter, counts, from, last).await?;
                from = last + 1;
                // A region that begins in what was just cut belongs to it.
                if let Some(next) = regions.next_if(|next| *next.start() <= last) {
                    last = last.max(*next.end());
                } else if cutter.is_between_chunks() || from >= self.old.len() {
                    break;
                } else {
                    last += 1;
                }
            }
            cutter.end().await?;
            kept = last + 1;
        }
        self.keep(&mut cutter, kept, self.old.len());
        cutter.take().await
    }

    fn keep(&self, cutter: &mut PageCutter, from: usize, to: usize) {
        self.old.iter().take(to).skip(from).for_each(|old| cutter.keep(old.entry));
    }

    /// Index of the old entry that holds byte `at`.
    fn entry_at(&self, at: u64) -> usize {
        self.old.partition_point(|old| old.end <= at).min(self.old.len().saturating_sub(1))
    }

    /// Old entries that have to be cut again, first and last, for each change; near ones joined.
    fn regions(&self) -> Vec<RangeInclusive<usize>> {
        let mut regions: Vec<RangeInclusive<usize>> = Vec::new();
        for change in &self.changes {
            let first = self.first_touched(change.offset);
            let last = self.entry_at(change.end() - 1);
            let start = self.old.get(first).map_or(0, |old| old.start);
            match regions.last_mut() {
                Some(region) if self.old.get(*region.end()).is_some_and(|old| start < old.end + JOIN_GAP_BYTES) => {
                    *region = *region.start()..=last.max(*region.end());
                }
                _ => regions.push(first..=last),
            }
        }
        regions
    }

    /// Where cutting has to begin when byte `at` changed. A chunk that was ended by zeros depends on so many of them.
    fn first_touched(&self, at: u64) -> usize {
        let touched = self.entry_at(at);
        let (Some(here), Some(before)) = (self.old.get(touched), touched.checked_sub(1)) else { return touched };
        let near = here.entry.id.is_zero() && at < here.start + self.zero_run;
        let after_chunk = self.old.get(before).is_some_and(|old| !old.entry.id.is_zero());
        if near && after_chunk { before } else { touched }
    }

    /// Gives the cutter the old entries `from..=last` as they are now: zeros that did not change are not read.
    async fn feed(&self, cutter: &mut PageCutter, counts: &Arc<Counts>, from: usize, last: usize) -> Result<()> {
        let entries = self.old.get(from..=last).unwrap_or_default();
        let (Some(start), Some(end)) = (entries.first().map(|old| old.start), entries.last().map(|old| old.end)) else {
            return Ok(());
        };
        let mut wanted: Vec<Extent> = Vec::new();
        for old in entries {
            let whole = Extent::new(old.start, old.end - old.start);
            if old.entry.id.is_zero() {
                wanted.extend(self.changes.iter().filter_map(|change| change.intersection(&whole)));
            } else {
                wanted.push(whole);
            }
        }
        let mut position = start;
        for extent in coalesce(&wanted, 1, JOIN_GAP_BYTES, end) {
            cutter.zeros(extent.offset - position).await?;
            position = extent.end();
            let place = Extent::new(self.page * PAGE_BYTES + extent.offset, extent.length);
            let mut reader = ExtentReader::new(self.input, place);
            while let Some(piece) = reader.next(counts).await? {
                cutter.push(&piece).await?;
            }
        }
        cutter.zeros(end - position).await
    }
}
