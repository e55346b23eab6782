//! Reading disks of restore points: the map, single places, and long runs with read-ahead. Every byte that leaves here
//! was checked against the identity of its chunk.

use bytes::{Bytes, BytesMut};
use domain::Extent;
use futures_util::stream::{self, BoxStream, FuturesUnordered};
use futures_util::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;

use crate::backend::BackendErrorKind;
use crate::cache::Cache;
use crate::core::{Core, decode_with};
use crate::error::{Error, Result};
use crate::format::manifest;
use crate::format::map::{self, FANOUT, LeafEntry};
use crate::format::names;
use crate::format::pack::PackSeal;
use crate::format::{ChunkId, ChunkKind, PAGE_BYTES};
use crate::index::{IdMap, Location};
use crate::point::PointId;
use crate::pool::settle;
use crate::repository::Repository;

/// Content decoded at a time; windows are sorted by place in the packs.
const WINDOW_BYTES: u64 = 4 << 20;
/// Windows in the making at the same time.
const WINDOWS_AHEAD: usize = 4;
/// Reads of packs at the same time within a window.
const READS_AT_ONCE: usize = 8;
/// Neighbours in a pack this close are read in one go.
const READ_GAP_BYTES: u64 = 128 << 10;
/// Longest single read of a pack.
const READ_BYTES_MAX: u64 = 16 << 20;
/// Leaves looked up ahead.
const LEAVES_AHEAD: usize = 4;
/// Decoded chunks kept for random access to one disk.
const CHUNK_CACHE_BYTES: usize = 32 << 20;

/// A disk's map and whose it is.
pub struct DiskMap {
    pub core: Arc<Core>,
    pub point: PointId,
    pub machine: String,
    pub disk: i32,
    pub size_bytes: u64,
    root: ChunkId,
}

/// A chunk of a disk in a place.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub offset: u64,
    pub length: u32,
    pub id: ChunkId,
}

impl DiskMap {
    /// The map of a disk, by its point's manifest.
    pub async fn open(core: &Arc<Core>, point: PointId, disk: i32) -> Result<Self> {
        let (manifest, _) = core.manifest(point).await?;
        let found = manifest.disk(disk)?;
        let root = manifest::root(&found.map_root).unwrap_or(ChunkId::ZERO);
        let (core, size_bytes) = (Arc::clone(core), found.size_bytes);
        Ok(Self { core, point, machine: manifest.machine.name, disk, size_bytes, root })
    }

    /// Says which part of which disk an error is about.
    pub fn locate_error(&self, extent: Extent, error: Error) -> Error {
        if !error.is_damage() {
            return error;
        }
        let (point, machine, disk) = (self.point, self.machine.clone(), self.disk);
        Error::DiskDamaged { point, machine, disk, extent, source: Box::new(error) }
    }

    fn node_extent(&self, level: u32, index: u64) -> Extent {
        let span = map::span_bytes(level);
        let offset = index.saturating_mul(span);
        Extent::new(offset, span.min(self.size_bytes.saturating_sub(offset)))
    }

    /// Children of inner node `index` at `level`, or `None` when it is all zero.
    pub async fn children(&self, level: u32, index: u64) -> Result<Option<Vec<ChunkId>>> {
        let id = self.node_id(level, index).await?;
        if id.is_zero() {
            return Ok(None);
        }
        self.inner(level, index, id).await.map(Some)
    }

    async fn inner(&self, level: u32, index: u64, id: ChunkId) -> Result<Vec<ChunkId>> {
        let extent = self.node_extent(level, index);
        let bytes = self.core.node(id).await.map_err(|error| self.locate_error(extent, error))?;
        let count = map::child_count(self.size_bytes, level, index);
        map::decode_inner(&bytes, level, count).ok_or_else(|| {
            self.locate_error(
                extent,
                Error::damaged(format!("map node {id:?}"), "it is not the node that belongs here"),
            )
        })
    }

    /// Id of the node at `level` with that index, from the root down.
    pub async fn node_id(&self, level: u32, index: u64) -> Result<ChunkId> {
        let mut id = self.root;
        for above in (level + 1..=map::root_level(self.size_bytes)).rev() {
            if id.is_zero() {
                break;
            }
            let ancestor = index / FANOUT.pow(above - level);
            let child = index / FANOUT.pow(above - level - 1) % FANOUT;
            let children = self.inner(above, ancestor, id).await?;
            id = children.get(child as usize).copied().ok_or(Error::Internal("map walk"))?;
        }
        Ok(id)
    }

    /// Entries of a page, or `None` when it is all zero.
    pub async fn leaf(&self, page: u64) -> Result<Option<Vec<LeafEntry>>> {
        let id = self.node_id(0, page).await?;
        if id.is_zero() {
            return Ok(None);
        }
        let extent = self.node_extent(0, page);
        let bytes = self.core.node(id).await.map_err(|error| self.locate_error(extent, error))?;
        let entries = map::decode_leaf(&bytes, map::page_bytes(self.size_bytes, page)).ok_or_else(|| {
            let error = Error::damaged(format!("map page {id:?}"), "it is not the page that belongs here");
            self.locate_error(extent, error)
        })?;
        Ok(Some(entries))
    }

    /// The chunks of a page that touch `range`, ascending.
    pub async fn pieces(&self, page: u64, range: Extent) -> Result<Vec<Piece>> {
        let Some(entries) = self.leaf(page).await? else { return Ok(Vec::new()) };
        let mut offset = page * PAGE_BYTES;
        let mut pieces = Vec::new();
        for LeafEntry { length, id } in entries {
            if !id.is_zero() && Extent::new(offset, u64::from(length)).intersection(&range).is_some() {
                pieces.push(Piece { offset, length, id });
            }
            offset += u64::from(length);
        }
        Ok(pieces)
    }

    /// Reads and checks these chunks: sorted by place, neighbours in one read, decoded on all threads.
    pub async fn fetch(&self, pieces: &[Piece]) -> Result<IdMap<Bytes>> {
        let mut wanted: IdMap<Piece> = pieces.iter().map(|piece| (piece.id, *piece)).collect();
        let places = self.places(wanted.drain().map(|(_, piece)| piece)).await?;
        let copy = |piece: &Piece, content: &[u8]| (piece.id, Bytes::copy_from_slice(content));
        let read = |run| self.read_run(run, copy);
        let runs: Vec<_> = stream::iter(runs(&places)).map(read).buffer_unordered(READS_AT_ONCE).try_collect().await?;
        Ok(runs.into_iter().flatten().collect())
    }

    /// Reads and checks these chunks the same way, and gives them to `sink` in any order: so many bytes.
    pub async fn deliver(&self, pieces: &[Piece], sink: &Arc<dyn DiskSink>) -> Result<u64> {
        let places = self.places(pieces.iter().copied()).await?;
        let read = |run| {
            let sink = Arc::clone(sink);
            let write = move |piece: &Piece, content: &[u8]| {
                let written = sink.write_at(piece.offset, content);
                written.map(|()| content.len() as u64).map_err(|source| (piece.offset, source))
            };
            self.read_run(run, write)
        };
        let mut runs = stream::iter(runs(&places)).map(read).buffer_unordered(READS_AT_ONCE);
        let mut total = 0;
        while let Some(written) = runs.try_next().await? {
            for outcome in written {
                total += outcome.map_err(|(offset, source)| Error::Sink { disk: self.disk, offset, source })?;
            }
        }
        Ok(total)
    }

    /// Where these chunks are, in the order of the packs.
    async fn places(&self, pieces: impl Iterator<Item = Piece>) -> Result<Vec<(Location, Piece)>> {
        let mut places = Vec::new();
        for piece in pieces {
            let located = self.core.index.locate(&self.core, &piece.id).await;
            places.push((located.map_err(|error| self.locate_piece(&piece, error))?, piece));
        }
        places.sort_unstable_by_key(|(location, _)| (location.pack, location.offset));
        Ok(places)
    }

    fn locate_piece(&self, piece: &Piece, error: Error) -> Error {
        self.locate_error(Extent::new(piece.offset, u64::from(piece.length)), error)
    }

    /// Reads chunks that lie together in one go; `take` gets the content of each, on the thread that decoded it.
    async fn read_run<T: Send + 'static>(
        &self,
        run: Vec<(Location, Piece)>,
        take: impl Fn(&Piece, &[u8]) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>> {
        let (Some((first, piece)), Some((last, _))) = (run.first(), run.last()) else { return Ok(Vec::new()) };
        let (start, end) = (first.offset, last.offset + u64::from(last.sealed_bytes));
        let sealed = match self.core.backend.get(&names::pack(&first.pack), Some(start..end)).await {
            Ok(sealed) => Some(sealed),
            // Each chunk by itself: what lies before the cut, or in another pack, is still there.
            Err(error) if matches!(error.kind, BackendErrorKind::TooShort | BackendErrorKind::NotFound) => {
                self.core.index.note_failed_read(first, &error);
                None
            }
            Err(error) => return Err(self.locate_piece(piece, error.into())),
        };
        let seal = Arc::new(PackSeal::of(&self.core.keys, first.pack, first.generation)?);
        let decode = |(location, piece): (Location, Piece)| {
            let take = take.clone();
            let take = move |content: &[u8]| (content.len() == piece.length as usize).then(|| take(&piece, content));
            let outcome = sealed.as_ref().map(|sealed| {
                let from = (location.offset - start) as usize;
                let part = sealed.slice(from..from + location.sealed_bytes as usize);
                let (keys, seal, take) = (Arc::clone(&self.core.keys), Arc::clone(&seal), take.clone());
                self.core.pool.submit(move |workspace| {
                    decode_with(&keys, &seal, (&location, ChunkKind::Data, piece.id), &part, workspace, take)
                })
            });
            async move {
                let decoded = match outcome {
                    Some(outcome) => Some(settle(outcome).await),
                    None => None,
                };
                let taken = match decoded {
                    Some(Ok(taken)) => Ok(taken),
                    Some(Err(error)) if !error.is_damage() => Err(error),
                    // Here or wherever else it is.
                    _ => self.core.chunk(piece.id, ChunkKind::Data).await.map(|content| take(&content)),
                };
                taken.map_err(|error| self.locate_piece(&piece, error))?.ok_or_else(|| {
                    let reason = "a chunk has another length than the map says";
                    self.locate_piece(&piece, Error::damaged(names::pack(&location.pack), reason))
                })
            }
        };
        run.into_iter().map(decode).collect::<FuturesUnordered<_>>().try_collect().await
    }
}

/// Groups places in ascending order into reads.
fn runs(places: &[(Location, Piece)]) -> Vec<Vec<(Location, Piece)>> {
    let mut runs: Vec<Vec<(Location, Piece)>> = Vec::new();
    for place in places {
        let joins = |run: &Vec<(Location, Piece)>| {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return false };
            let end = last.offset + u64::from(last.sealed_bytes);
            first.pack == place.0.pack
                && place.0.offset <= end + READ_GAP_BYTES
                && place.0.offset + u64::from(place.0.sealed_bytes) - first.offset <= READ_BYTES_MAX
        };
        match runs.last_mut() {
            Some(run) if joins(run) => run.push(*place),
            _ => runs.push(vec![*place]),
        }
    }
    runs
}

/// Where a disk's content goes, piece by piece; called by several threads at once.
pub trait DiskSink: Send + Sync {
    /// Puts `content` at byte `offset`.
    fn write_at(&self, offset: u64, content: &[u8]) -> std::io::Result<()>;
}

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
        let mut leaves = stream::iter(pages(all)).map(|page| self.map.pieces(page, all)).buffered(LEAVES_AHEAD);
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
    /// threads that decode call it, so that nothing is copied or kept on the way: the fastest where order does not matter.
    pub async fn copy_to(&self, sink: Arc<dyn DiskSink>) -> Result<u64> {
        let (map, sink, all) = (&self.map, &sink, Extent::new(0, self.size_bytes()));
        let mut windows = stream::iter(pages(all))
            .map(|page| map.pieces(page, all))
            .buffered(LEAVES_AHEAD)
            .map_ok(|pieces| stream::iter(windows(pieces)).map(Ok::<_, Error>))
            .try_flatten()
            .map(|window| async move { map.deliver(&window?, sink).await })
            .buffer_unordered(WINDOWS_AHEAD);
        let mut total = 0;
        while let Some(bytes) = windows.try_next().await? {
            total += bytes;
        }
        Ok(total)
    }

    /// The data in `range`: pieces in ascending order of their offset, zeros left out, every byte checked. Decodes ahead
    /// on all threads; holds some tens of MiB.
    pub fn stream(&self, range: Extent) -> BoxStream<'static, Result<(u64, Bytes)>> {
        if let Err(error) = self.check(range) {
            return stream::once(async { Err(error) }).boxed();
        }
        let (map, fetch_map) = (Arc::clone(&self.map), Arc::clone(&self.map));
        stream::iter(pages(range))
            .map(move |page| {
                let map = Arc::clone(&map);
                async move { map.pieces(page, range).await }
            })
            .buffered(LEAVES_AHEAD)
            .map_ok(|pieces| stream::iter(windows(pieces)).map(Ok::<_, Error>))
            .try_flatten()
            .map(move |window| {
                let map = Arc::clone(&fetch_map);
                async move { read_window(&map, window?, range).await }
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
