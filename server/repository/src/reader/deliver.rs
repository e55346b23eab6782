//! All of a disk into a sink, in any order: neighbours are decoded into one block of memory and handed over together, so
//! that a sink can write past the page cache.

use futures_util::stream::{self, FuturesUnordered};
use futures_util::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use std::sync::Arc;

use super::map::{DiskMap, Piece, READS_AT_ONCE, SealedRun, runs};
use crate::core::decode_into;
use crate::error::{Error, Result};
use crate::format::{ChunkKind, FRAME_BYTES_MAX};
use crate::index::Location;
use crate::pool::settle;

/// About what is handed over at a time; neighbours of a longer run come in several blocks. Chunks that share a frame come in
/// the same one, so that it is decoded once.
const BLOCK_BYTES: usize = 1 << 20;
/// Where blocks begin in memory: what files past the page cache ask for.
const ALIGNMENT_BYTES: usize = 4096;
/// Blocks kept for the next ones: memory that was never touched costs more than the content that goes into it.
const SPARE_BLOCKS_MAX: usize = 32;

/// Where a disk's content goes, block by block; called by several threads at once.
pub trait DiskSink: Send + Sync {
    /// Puts `content` at byte `offset`. It begins at a multiple of 4096 in memory.
    fn write_at(&self, offset: u64, content: &[u8]) -> std::io::Result<()>;
}

type Place = (Location, Piece);

/// A disk on its way to a sink.
pub struct Delivery {
    map: Arc<DiskMap>,
    sink: Arc<dyn DiskSink>,
    spare: Arc<Mutex<Vec<Block>>>,
}

impl Delivery {
    pub fn new(map: Arc<DiskMap>, sink: Arc<dyn DiskSink>) -> Self {
        Self { map, sink, spare: Arc::default() }
    }

    /// Reads and checks these chunks and hands them over: so many bytes.
    pub async fn deliver(&self, pieces: &[Piece]) -> Result<u64> {
        let places = self.map.places(pieces.iter().copied()).await?;
        let runs = stream::iter(runs(&places)).map(|run| self.deliver_run(run));
        runs.buffer_unordered(READS_AT_ONCE).try_fold(0, async |total, bytes| Ok(total + bytes)).await
    }

    async fn deliver_run(&self, mut run: Vec<Place>) -> Result<u64> {
        let sealed = self.map.read_run(&run).await?;
        run.sort_unstable_by_key(|(_, piece)| piece.offset);
        let blocks = blocks(&run).into_iter().map(|places| self.deliver_block(places, sealed.clone()));
        blocks.collect::<FuturesUnordered<_>>().try_fold(0, async |total, bytes| Ok(total + bytes)).await
    }

    async fn deliver_block(&self, places: Vec<Place>, sealed: Option<SealedRun>) -> Result<u64> {
        let Some((_, first)) = places.first() else { return Ok(0) };
        let (offset, first) = (first.offset, *first);
        let places = Arc::new(places);
        let decoded = match sealed {
            Some(sealed) => {
                let (keys, places) = (Arc::clone(&self.map.core.keys), Arc::clone(&places));
                let mut block = self.block(&places);
                let decoding = self.map.core.pool.submit(move |workspace| {
                    let mut room = block.content_mut();
                    for (location, piece) in places.iter() {
                        let (part, rest) = room.split_at_mut(piece.length as usize);
                        let id = (location, ChunkKind::Data, piece.id);
                        decode_into(&keys, &sealed.seal, id, sealed.part(location), workspace, part)?;
                        room = rest;
                    }
                    Ok(block)
                });
                Some(settle(decoding).await)
            }
            None => None,
        };
        let block = match decoded {
            Some(Ok(block)) => block,
            Some(Err(error)) if !error.is_damage() => return Err(self.map.locate_piece(&first, error)),
            _ => self.one_by_one(&places).await?,
        };
        self.write(offset, block).await
    }

    /// The same block where something of it is not what it should be.
    async fn one_by_one(&self, places: &[Place]) -> Result<Block> {
        let mut block = self.block(places);
        let mut room = block.content_mut();
        for (location, piece) in places {
            let (part, rest) = room.split_at_mut(piece.length as usize);
            part.copy_from_slice(&self.map.elsewhere(location, piece).await?);
            room = rest;
        }
        Ok(block)
    }

    /// Off the threads that decode: they have better to do than to wait for a disk.
    async fn write(&self, offset: u64, block: Block) -> Result<u64> {
        let (sink, spare) = (Arc::clone(&self.sink), Arc::clone(&self.spare));
        let written = tokio::task::spawn_blocking(move || {
            let written = sink.write_at(offset, block.content()).map(|()| block.content().len() as u64);
            let mut spare = spare.lock();
            if spare.len() < SPARE_BLOCKS_MAX {
                spare.push(block);
            }
            written
        });
        let written = written.await.map_err(|_| Error::Internal("a thread that writes"))?;
        written.map_err(|source| Error::Sink { disk: self.map.disk, offset, source })
    }

    fn block(&self, places: &[Place]) -> Block {
        let length = places.iter().map(|(_, piece)| piece.length as usize).sum();
        let mut block = self.spare.lock().pop().unwrap_or_default();
        block.fit(length);
        block
    }
}

/// Memory that begins at a multiple of [`ALIGNMENT_BYTES`].
#[derive(Default)]
struct Block {
    memory: Vec<u8>,
    lead: usize,
    length: usize,
}

impl Block {
    fn fit(&mut self, length: usize) {
        let room = length.max(BLOCK_BYTES) + ALIGNMENT_BYTES;
        if self.memory.len() < room {
            self.memory = vec![0; room];
        }
        let start = self.memory.as_ptr().addr();
        self.lead = start.next_multiple_of(ALIGNMENT_BYTES) - start;
        self.length = length;
    }

    fn content(&self) -> &[u8] {
        self.memory.get(self.lead..self.lead + self.length).unwrap_or_default()
    }

    fn content_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.lead..self.lead + self.length).unwrap_or_default()
    }
}

/// Neighbours on the disk, ascending, in blocks.
fn blocks(run: &[Place]) -> Vec<Vec<Place>> {
    let (mut blocks, mut bytes): (Vec<Vec<Place>>, usize) = (Vec::new(), 0);
    for place in run {
        let (offset, length) = (place.1.offset, place.1.length as usize);
        let joins = |block: &Vec<Place>| {
            block.last().is_some_and(|(location, last)| {
                let follows = last.offset + u64::from(last.length) == offset;
                let shares_frame = location.spot.offset == place.0.spot.offset;
                follows && (shares_frame || bytes + length.max(FRAME_BYTES_MAX as usize) <= BLOCK_BYTES)
            })
        };
        match blocks.last_mut() {
            Some(block) if joins(block) => {
                bytes += length;
                block.push(*place);
            }
            _ => {
                bytes = length;
                blocks.push(vec![*place]);
            }
        }
    }
    blocks
}
