//! A disk of a restore point: single places, long runs with read-ahead, all of it.

use bytes::{Bytes, BytesMut};
use domain::Extent;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;

use super::deliver::{Delivery, DiskSink};
use super::map::{DiskMap, Piece};
use crate::ahead::driven;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::format::{ChunkId, PAGE_BYTES};
use crate::point::PointId;
use crate::repository::Repository;

/// Content decoded at a time; windows are sorted by place in the packs.
const WINDOW_BYTES: u64 = 16 << 20;
/// Windows in the making at the same time.
const WINDOWS_AHEAD: usize = 2;
/// Reads of packs on their way at the same time, where order does not matter.
const RUNS_AHEAD: usize = 32;
/// Leaves looked up ahead.
const LEAVES_AHEAD: usize = 4;
/// Decoded chunks kept for random access to one disk.
const CHUNK_CACHE_BYTES: usize = 32 << 20;

/// A disk of a restore point, for reading. Clones share its caches.
#[derive(Clone)]
pub struct DiskImage {
    map: Arc<DiskMap>,
    chunks: Arc<Mutex<Cache<ChunkId>>>,
}

impl fmt::Debug for DiskImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskImage")
            .field("point", &self.map.point)
            .field("disk", &self.map.disk)
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// Opens a disk of a point for reading.
    pub async fn open_disk(&self, point: PointId, disk_key: i32) -> Result<DiskImage> {
        let map = Arc::new(DiskMap::open(&self.core, point, disk_key).await?);
        Ok(DiskImage { map, chunks: Arc::new(Mutex::new(Cache::new(CHUNK_CACHE_BYTES))) })
    }
}

impl DiskImage {
    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.map.size_bytes
    }

    fn check(&self, extent: Extent) -> Result<()> {
        let size = self.map.size_bytes;
        if extent.offset.checked_add(extent.length).is_some_and(|end| end <= size) {
            return Ok(());
        }
        Err(Error::OutOfRange { disk: self.map.disk, size, extent })
    }

    /// Exactly these bytes. For random access, with a cache of decoded chunks; long runs are faster by [`Self::stream`].
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let range = Extent::new(offset, length as u64);
        self.check(range)?;
        let mut out = BytesMut::zeroed(length);
        for page in pages(range) {
            let pieces = self.map.pieces(page, range).await?;
            for window in windows(pieces) {
                for (at, content) in self.load(&window).await? {
                    copy_overlap(&mut out, range, at, &content);
                }
            }
        }
        Ok(out.freeze())
    }

    async fn load(&self, window: &[Piece]) -> Result<Vec<(u64, Bytes)>> {
        let cached: Vec<Option<Bytes>> = {
            let mut cache = self.chunks.lock();
            window.iter().map(|piece| cache.get(&piece.id)).collect()
        };
        let pairs = || window.iter().zip(&cached);
        let missing: Vec<Piece> = pairs().filter(|(_, hit)| hit.is_none()).map(|(piece, _)| *piece).collect();
        let fetched = self.map.fetch(&missing).await?;
        {
            let mut cache = self.chunks.lock();
            for (id, content) in &fetched {
                cache.insert(*id, content.clone());
            }
        }
        let content = |piece: &Piece, hit: &Option<Bytes>| hit.clone().or_else(|| fetched.get(&piece.id).cloned());
        pairs()
            .map(|(piece, hit)| content(piece, hit).map(|content| (piece.offset, content)))
            .collect::<Option<_>>()
            .ok_or(Error::Internal("chunk cache"))
    }

    /// The areas that hold data (the rest is zero), ascending, joined where they touch.
    pub async fn data_extents(&self) -> Result<Vec<Extent>> {
        let all = Extent::new(0, self.size_bytes());
        let mut extents: Vec<Extent> = Vec::new();
        let mut leaves = self.leaves(all);
        while let Some(pieces) = leaves.try_next().await? {
            for piece in pieces {
                match extents.last_mut() {
                    Some(last) if last.end() == piece.offset => last.length += u64::from(piece.length),
                    _ => extents.push(Extent::new(piece.offset, u64::from(piece.length))),
                }
            }
        }
        Ok(extents)
    }

    /// Gives all data to `sink`, in any order, zeros left out, every byte checked; returns how many bytes there were. The
    /// fastest where order does not matter.
    pub async fn copy_to(&self, sink: Arc<dyn DiskSink>) -> Result<u64> {
        let delivery = Arc::new(Delivery::new(Arc::clone(&self.map), sink));
        let runs = self
            .leaves(Extent::new(0, self.size_bytes()))
            .map(|pieces| {
                let delivery = Arc::clone(&delivery);
                driven(async move { delivery.runs(pieces?).await })
            })
            .buffered(LEAVES_AHEAD)
            .map_ok(|runs| stream::iter(runs).map(Ok::<_, Error>))
            .try_flatten();
        let delivered = runs.map(|run| async { delivery.deliver(run?).await }).buffer_unordered(RUNS_AHEAD);
        delivered.try_fold(0, async |total, bytes| Ok(total + bytes)).await
    }

    /// What the pages that touch `range` hold of it, in their order.
    fn leaves(&self, range: Extent) -> impl Stream<Item = Result<Vec<Piece>>> + Send + Unpin + use<> {
        let map = Arc::clone(&self.map);
        let leaf = move |page| {
            let map = Arc::clone(&map);
            driven(async move { map.pieces(page, range).await })
        };
        stream::iter(pages(range)).map(leaf).buffered(LEAVES_AHEAD).boxed()
    }

    /// The data in `range`: pieces in ascending order of their offset, zeros left out, every byte checked. Decodes ahead
    /// on all threads; holds some tens of MiB.
    pub fn stream(&self, range: Extent) -> BoxStream<'static, Result<(u64, Bytes)>> {
        if let Err(error) = self.check(range) {
            return stream::once(async { Err(error) }).boxed();
        }
        let map = Arc::clone(&self.map);
        self.leaves(range)
            .map_ok(|pieces| stream::iter(windows(pieces)).map(Ok::<_, Error>))
            .try_flatten()
            .map(move |window| {
                let map = Arc::clone(&map);
                driven(async move { read_window(&map, window?, range).await })
            })
            .buffered(WINDOWS_AHEAD)
            .map_ok(|pieces| stream::iter(pieces).map(Ok::<_, Error>))
            .try_flatten()
            .boxed()
    }
}

async fn read_window(map: &DiskMap, window: Vec<Piece>, range: Extent) -> Result<Vec<(u64, Bytes)>> {
    let contents = map.fetch(&window).await?;
    let clip = |piece: &Piece| {
        let whole = Extent::new(piece.offset, u64::from(piece.length));
        let part = whole.intersection(&range)?;
        let from = (part.offset - whole.offset) as usize;
        Some((part.offset, contents.get(&piece.id)?.slice(from..from + part.length as usize)))
    };
    Ok(window.iter().filter_map(clip).collect())
}

/// Pages that touch `range`.
fn pages(range: Extent) -> std::ops::Range<u64> {
    if range.length == 0 {
        return 0..0;
    }
    range.offset / PAGE_BYTES..range.end().div_ceil(PAGE_BYTES)
}

/// Splits pieces into windows.
fn windows(pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    let (mut windows, mut bytes): (Vec<Vec<Piece>>, u64) = (Vec::new(), 0);
    for piece in pieces {
        match windows.last_mut() {
            Some(window) if bytes + u64::from(piece.length) <= WINDOW_BYTES => {
                bytes += u64::from(piece.length);
                window.push(piece);
            }
            _ => {
                bytes = u64::from(piece.length);
                windows.push(vec![piece]);
            }
        }
    }
    windows
}

/// Copies the part of `content` (which lies at `at`) that falls in `range`.
fn copy_overlap(out: &mut BytesMut, range: Extent, at: u64, content: &Bytes) {
    let Some(part) = Extent::new(at, content.len() as u64).intersection(&range) else { return };
    let (to, from, length) = ((part.offset - range.offset) as usize, (part.offset - at) as usize, part.length as usize);
    out[to..to + length].copy_from_slice(&content[from..from + length]);
}
