//! The map of a disk, and the chunks it names: found, read together where they lie together, decoded on all threads.

use bytes::Bytes;
use domain::Extent;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{StreamExt, TryStreamExt};
use std::sync::Arc;

use crate::backend::BackendErrorKind;
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

/// Reads of packs at the same time within a window.
const READS_AT_ONCE: usize = 8;
/// Neighbours in a pack this close are read in one go.
const READ_GAP_BYTES: u64 = 128 << 10;
/// Longest single read of a pack.
const READ_BYTES_MAX: u64 = 16 << 20;

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
        let decode = |run| self.decode_run(run);
        let runs: Vec<_> = stream::iter(runs(&places, READ_BYTES_MAX))
            .map(decode)
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(runs.into_iter().flatten().collect())
    }

    /// Where these chunks are, in the order of the packs.
    pub async fn places(&self, pieces: impl Iterator<Item = Piece>) -> Result<Vec<(Location, Piece)>> {
        let mut places = Vec::new();
        for piece in pieces {
            let located = self.core.index.locate(&self.core, &piece.id).await;
            places.push((located.map_err(|error| self.locate_piece(&piece, error))?, piece));
        }
        places.sort_unstable_by_key(|(location, _)| (location.pack, location.spot.ordinal));
        Ok(places)
    }

    pub fn locate_piece(&self, piece: &Piece, error: Error) -> Error {
        self.locate_error(Extent::new(piece.offset, u64::from(piece.length)), error)
    }

    /// Reads chunks that lie together in one go. What cannot be read so is left to be looked for one by one: what lies
    /// before a cut, or in another pack, is still there.
    pub async fn read_run(&self, run: &[(Location, Piece)]) -> Result<Option<SealedRun>> {
        let (Some((first, piece)), Some((last, _))) = (run.first(), run.last()) else { return Ok(None) };
        let (start, end) = (first.spot.offset, last.end());
        match self.core.backend.get(&names::pack(&first.pack), Some(start..end)).await {
            Ok(bytes) => {
                let seal = PackSeal::of(&self.core.keys, first.pack, first.generation)?;
                Ok(Some(SealedRun { bytes, start, seal: Arc::new(seal) }))
            }
            Err(error) if matches!(error.kind, BackendErrorKind::TooShort | BackendErrorKind::NotFound) => {
                self.core.index.note_failed_read(first, &error);
                Ok(None)
            }
            Err(error) => Err(self.locate_piece(piece, error.into())),
        }
    }

    /// The chunks of a run, decoded on all threads, those of a frame on one.
    async fn decode_run(&self, run: Vec<(Location, Piece)>) -> Result<Vec<(ChunkId, Bytes)>> {
        let sealed = self.read_run(&run).await?;
        let frames = by_frame(&run).map(|places| self.decode_frame(places.to_vec(), sealed.clone()));
        let decoded: Vec<_> = frames.collect::<FuturesUnordered<_>>().try_collect().await?;
        Ok(decoded.into_iter().flatten().collect())
    }

    async fn decode_frame(
        &self,
        places: Vec<(Location, Piece)>,
        sealed: Option<SealedRun>,
    ) -> Result<Vec<(ChunkId, Bytes)>> {
        let outcome = sealed.map(|sealed| {
            let (keys, places) = (Arc::clone(&self.core.keys), places.clone());
            self.core.pool.submit(move |workspace| {
                let decoded = places.iter().map(|(location, piece)| {
                    let (part, id) = (sealed.part(location), (location, ChunkKind::Data, piece.id));
                    decode_with(&keys, &sealed.seal, id, part, workspace, Bytes::copy_from_slice)
                });
                Ok(decoded.collect::<Vec<Result<Bytes>>>())
            })
        });
        let mut decoded = match outcome {
            Some(outcome) => settle(outcome).await?.into_iter(),
            None => Vec::new().into_iter(),
        };
        let mut contents = Vec::with_capacity(places.len());
        for (location, piece) in &places {
            let content = match decoded.next() {
                Some(Ok(content)) => self.whole(location, piece, content)?,
                Some(Err(error)) if !error.is_damage() => return Err(self.locate_piece(piece, error)),
                _ => self.elsewhere(location, piece).await?,
            };
            contents.push((piece.id, content));
        }
        Ok(contents)
    }

    /// A chunk that its run did not give: from here or wherever else it is.
    pub async fn elsewhere(&self, location: &Location, piece: &Piece) -> Result<Bytes> {
        let content = self.core.chunk(piece.id, ChunkKind::Data).await;
        self.whole(location, piece, content.map_err(|error| self.locate_piece(piece, error))?)
    }

    fn whole(&self, location: &Location, piece: &Piece, content: Bytes) -> Result<Bytes> {
        if content.len() == piece.length as usize {
            return Ok(content);
        }
        let reason = "a chunk has another length than the map says";
        Err(self.locate_piece(piece, Error::damaged(names::pack(&location.pack), reason)))
    }
}

/// Chunks of one pack as they are stored, read in one go.
#[derive(Clone)]
pub struct SealedRun {
    bytes: Bytes,
    /// Where in the pack they begin.
    start: u64,
    pub seal: Arc<PackSeal>,
}

impl SealedRun {
    /// One of them; empty, and so no chunk, if it is not among them.
    pub fn part(&self, location: &Location) -> &[u8] {
        let from = location.spot.offset.saturating_sub(self.start) as usize;
        self.bytes.get(from..from + location.spot.sealed_bytes as usize).unwrap_or_default()
    }
}

/// Groups ascending places of one pack by what has to be decoded together.
pub fn by_frame<T>(run: &[(Location, T)]) -> impl Iterator<Item = &[(Location, T)]> {
    run.chunk_by(|(one, _), (other, _)| one.spot.offset == other.spot.offset)
}

/// Groups places in ascending order into reads of up to so many bytes.
pub fn runs(places: &[(Location, Piece)], bytes_max: u64) -> Vec<Vec<(Location, Piece)>> {
    let mut runs: Vec<Vec<(Location, Piece)>> = Vec::new();
    for place in places {
        let joins = |run: &Vec<(Location, Piece)>| {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return false };
            first.pack == place.0.pack
                && place.0.spot.offset <= last.end() + READ_GAP_BYTES
                && place.0.end() - first.spot.offset <= bytes_max
        };
        match runs.last_mut() {
            Some(run) if joins(run) => run.push(*place),
            _ => runs.push(vec![*place]),
        }
    }
    runs
}
