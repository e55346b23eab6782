//! All of a disk into a sink, in any order: neighbours are decoded into one block of memory and handed over together, so
//! that a sink can write past the page cache.

use domain::Extent;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Semaphore;

use super::map::{DiskMap, Piece, SealedRun, by_frame, runs};
use crate::core::decode_into;
use crate::error::{Error, Result};
use crate::format::ChunkKind;
use crate::index::Location;
use crate::pool::settle;

/// Content decoded in one go, and handed over in as few pieces as it lies in on the disk. Chunks that share a frame are decoded
/// together, wherever on the page they go.
const BLOCK_BYTES: usize = 1 << 20;
/// Longest single read of a pack.
const READ_BYTES_MAX: u64 = 4 << 20;
/// Sealed bytes on their way at a time, of all reads.
const READING_BYTES_MAX: usize = 16 << 20;
/// Blocks of a run that are decoded or written at the same time.
const BLOCKS_AT_ONCE: usize = 8;
/// Where blocks begin in memory: what files past the page cache ask for.
const ALIGNMENT_BYTES: usize = 4096;
/// Blocks kept for the next ones: memory that was never touched costs more than the content that goes into it.
const SPARE_BLOCKS_MAX: usize = 32;

/// Where a disk's content goes, block by block; called by several threads at once.
pub trait DiskSink: Send + Sync {
    /// Puts `content` at byte `offset`. It begins at a multiple of 4096 in memory.
    fn write_at(&self, offset: u64, content: &[u8]) -> std::io::Result<()>;
}

/// A chunk of the disk, and where it is stored.
pub type Place = (Location, Piece);

/// A disk on its way to a sink.
pub struct Delivery {
    map: Arc<DiskMap>,
    sink: Arc<dyn DiskSink>,
    spare: Arc<Mutex<Vec<Block>>>,
    reading: Semaphore,
}

impl Delivery {
    pub fn new(map: Arc<DiskMap>, sink: Arc<dyn DiskSink>) -> Self {
        Self { map, sink, spare: Arc::default(), reading: Semaphore::new(READING_BYTES_MAX) }
    }

    /// What has to be read for these chunks.
    pub async fn runs(&self, pieces: Vec<Piece>) -> Result<Vec<Vec<Place>>> {
        Ok(runs(&self.map.places(pieces.into_iter()).await?, READ_BYTES_MAX))
    }

    /// Reads and checks the chunks of a run and hands them over: so many bytes.
    pub async fn deliver(&self, run: Vec<Place>) -> Result<u64> {
        let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return Ok(0) };
        let bytes = (last.end() - first.spot.offset).min(READING_BYTES_MAX as u64) as u32;
        let _reading = self.reading.acquire_many(bytes).await.map_err(|_| Error::Internal("the budget of reads"))?;
        let sealed = self.map.read_run(&run).await?;
        let blocks = stream::iter(blocks(&run)).map(|places| self.deliver_block(places, sealed.clone()));
        blocks.buffer_unordered(BLOCKS_AT_ONCE).try_fold(0, async |total, bytes| Ok(total + bytes)).await
    }

    async fn deliver_block(&self, places: Vec<Place>, sealed: Option<SealedRun>) -> Result<u64> {
        let Some((_, first)) = places.first().copied() else { return Ok(0) };
        let places = Arc::new(places);
        let decoded = match sealed {
            Some(sealed) => {
                let (keys, places) = (Arc::clone(&self.map.core.keys), Arc::clone(&places));
                let mut block = self.block(&places);
                let decoding = self.map.core.pool.submit(move |workspace| {
                    let mut rooms = rooms(block.content_mut(), &places);
                    // In the order of the pack: a frame is opened once.
                    rooms.sort_unstable_by_key(|((location, _), _)| location.spot.ordinal);
                    for ((location, piece), room) in rooms {
                        let id = (location, ChunkKind::Data, piece.id);
                        decode_into(&keys, &sealed.seal, id, sealed.part(location), workspace, room)?;
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
        self.write(stretches(&places), block).await
    }

    /// The same block where something of it is not what it should be.
    async fn one_by_one(&self, places: &[Place]) -> Result<Block> {
        let mut block = self.block(places);
        for ((location, piece), room) in rooms(block.content_mut(), places) {
            room.copy_from_slice(&self.map.elsewhere(location, piece).await?);
        }
        Ok(block)
    }

    /// Off the threads that decode: they have better to do than to wait for a disk.
    async fn write(&self, stretches: Vec<Extent>, block: Block) -> Result<u64> {
        let (sink, spare) = (Arc::clone(&self.sink), Arc::clone(&self.spare));
        let written = tokio::task::spawn_blocking(move || {
            let mut content = block.content();
            let written = stretches.iter().try_for_each(|stretch| {
                let (part, rest) = content.split_at(stretch.length as usize);
                content = rest;
                sink.write_at(stretch.offset, part).map_err(|source| (stretch.offset, source))
            });
            let bytes = block.content().len() as u64;
            let mut spare = spare.lock();
            if spare.len() < SPARE_BLOCKS_MAX {
                spare.push(block);
            }
            written.map(|()| bytes)
        });
        let written = written.await.map_err(|_| Error::Internal("a thread that writes"))?;
        written.map_err(|(offset, source)| Error::Sink { disk: self.map.disk, offset, source })
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

/// What to decode in one go: each in the order of the disk.
fn blocks(run: &[Place]) -> Vec<Vec<Place>> {
    let (mut blocks, mut bytes): (Vec<Vec<Place>>, usize) = (vec![Vec::new()], 0);
    for frame in by_frame(run) {
        let whole: usize = frame.iter().map(|(_, piece)| piece.length as usize).sum();
        for (at, place) in frame.iter().enumerate() {
            let length = place.1.length as usize;
            let wanted = if at == 0 { whole.min(BLOCK_BYTES) } else { length };
            if bytes > 0 && bytes + wanted > BLOCK_BYTES {
                blocks.push(Vec::new());
                bytes = 0;
            }
            bytes += length;
            if let Some(block) = blocks.last_mut() {
                block.push(*place);
            }
        }
    }
    // Only the disk's last chunk is not of whole blocks: behind all others, and so all of them begin aligned.
    for block in &mut blocks {
        block.sort_unstable_by_key(|(_, piece)| piece.offset);
    }
    blocks
}

/// Where in a block each chunk goes.
fn rooms<'a>(mut content: &'a mut [u8], places: &'a [Place]) -> Vec<(&'a Place, &'a mut [u8])> {
    let mut rooms = Vec::with_capacity(places.len());
    for place in places {
        let (room, rest) = content.split_at_mut(place.1.length as usize);
        content = rest;
        rooms.push((place, room));
    }
    rooms
}

/// Chunks in the order of the disk, joined where they touch.
fn stretches(places: &[Place]) -> Vec<Extent> {
    let mut stretches: Vec<Extent> = Vec::new();
    for (_, piece) in places {
        match stretches.last_mut() {
            Some(last) if last.end() == piece.offset => last.length += u64::from(piece.length),
            _ => stretches.push(Extent::new(piece.offset, u64::from(piece.length))),
        }
    }
    stretches
}
