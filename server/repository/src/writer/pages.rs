//! One page of a disk on its way into the repository: cut, stored, and written down as a leaf of the map.

use bytes::Bytes;
use domain::Extent;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::task::JoinSet;

use super::stage::{Counts, Stage};
use crate::error::{Error, Result, SourceError};
use crate::format::chunker::{BlockAligner, Cutter, Segment};
use crate::format::map::{self, LeafEntry};
use crate::format::{ChunkId, ChunkKind, FRAME_BYTES_MAX};
use crate::pool::{Outcome, settle};
use crate::source::DiskInput;

/// Chunks of a page are queued together up to this: those that are new share a frame, and there are fewer hand-offs between
/// threads.
const BATCH_BYTES_MAX: usize = FRAME_BYTES_MAX as usize;

/// Leaf of a page whose chunks are perhaps still in the thread pool.
#[derive(Default)]
pub struct Draft {
    /// In the order of the page; `None` is a chunk whose identity is not known yet, of this length.
    entries: Vec<(u32, Option<ChunkId>)>,
    /// Identities of those, in their order.
    outcomes: Vec<Outcome<Vec<ChunkId>>>,
}

/// Cuts what it is given and queues the chunks.
pub struct PageCutter {
    stage: Arc<Stage>,
    counts: Arc<Counts>,
    cutter: Cutter,
    segments: Vec<Segment>,
    /// Chunks to be queued, and their bytes.
    batch: Vec<Bytes>,
    batch_bytes: usize,
    draft: Draft,
}

impl PageCutter {
    pub fn new(stage: &Arc<Stage>, counts: &Arc<Counts>) -> Self {
        let cutter = Cutter::new(stage.core.config.chunk.rule());
        let (stage, counts) = (Arc::clone(stage), Arc::clone(counts));
        Self { stage, counts, cutter, segments: Vec::new(), batch: Vec::new(), batch_bytes: 0, draft: Draft::default() }
    }

    /// Whole blocks of the page, in order.
    pub async fn push(&mut self, piece: &Bytes) -> Result<()> {
        self.cutter.push(piece, &mut self.segments);
        self.drain().await
    }

    /// So many zeros of the page.
    pub async fn zeros(&mut self, length: u64) -> Result<()> {
        self.cutter.push_zeros(length, &mut self.segments);
        self.drain().await
    }

    /// An entry as it was before. Only between chunks, after [`Self::end`].
    pub fn keep(&mut self, entry: LeafEntry) {
        self.draft.entries.push((entry.length, Some(entry.id)));
    }

    /// Ends the current chunk or run here.
    pub async fn end(&mut self) -> Result<()> {
        self.cutter.finish(&mut self.segments);
        self.drain().await
    }

    pub fn is_between_chunks(&self) -> bool {
        self.cutter.is_between_chunks()
    }

    /// What the page came to; the next page can begin.
    pub async fn take(&mut self) -> Result<Draft> {
        self.store().await?;
        Ok(std::mem::take(&mut self.draft))
    }

    async fn drain(&mut self) -> Result<()> {
        let mut segments = std::mem::take(&mut self.segments);
        for segment in segments.drain(..) {
            match segment {
                Segment::Zeros(length) => self.draft.entries.push((length as u32, Some(ChunkId::ZERO))),
                Segment::Data(content) => {
                    if self.batch_bytes + content.len() > BATCH_BYTES_MAX {
                        self.store().await?;
                    }
                    self.draft.entries.push((content.len() as u32, None));
                    self.batch_bytes += content.len();
                    self.batch.push(content);
                }
            }
        }
        self.segments = segments;
        Ok(())
    }

    async fn store(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if !batch.is_empty() {
            self.draft.outcomes.push(self.stage.store(ChunkKind::Data, batch, &self.counts).await?);
        }
        Ok(())
    }
}

/// Pages whose chunks are still being stored, and the leaves of those that are done.
pub struct Leaves {
    stage: Arc<Stage>,
    counts: Arc<Counts>,
    running: JoinSet<Result<(u64, ChunkId)>>,
    done: BTreeMap<u64, ChunkId>,
}

impl Leaves {
    pub fn new(stage: &Arc<Stage>, counts: &Arc<Counts>) -> Self {
        let (stage, counts) = (Arc::clone(stage), Arc::clone(counts));
        Self { stage, counts, running: JoinSet::new(), done: BTreeMap::new() }
    }

    /// Finishes a page in the background. Fails when an earlier one failed.
    pub fn add(&mut self, page: u64, draft: Draft) -> Result<()> {
        let (stage, counts) = (Arc::clone(&self.stage), Arc::clone(&self.counts));
        self.running.spawn(async move { Ok((page, store_leaf(&stage, &counts, draft).await?)) });
        while let Some(done) = self.running.try_join_next() {
            self.note(done)?;
        }
        Ok(())
    }

    /// Waits for all pages: their leaves by number.
    pub async fn finish(mut self) -> Result<BTreeMap<u64, ChunkId>> {
        while let Some(done) = self.running.join_next().await {
            self.note(done)?;
        }
        Ok(self.done)
    }

    fn note(&mut self, done: Result<Result<(u64, ChunkId)>, tokio::task::JoinError>) -> Result<()> {
        let (page, id) = done.unwrap_or(Err(Error::Internal("a page of a disk's map")))?;
        self.done.insert(page, id);
        Ok(())
    }
}

async fn store_leaf(stage: &Arc<Stage>, counts: &Arc<Counts>, draft: Draft) -> Result<ChunkId> {
    let mut ids = Vec::new();
    for outcome in draft.outcomes {
        ids.extend(settle(outcome).await?);
    }
    let (mut ids, mut entries) = (ids.into_iter(), Vec::with_capacity(draft.entries.len()));
    for (length, known) in draft.entries {
        let id = known.or_else(|| ids.next()).ok_or(Error::Internal("a chunk of a disk's map"))?;
        entries.push(LeafEntry { length, id });
    }
    store_node(stage, counts, map::encode_leaf(&map::join_zeros(entries))).await
}

/// Stores a node; `None` is the one that stands for zeros.
pub async fn store_node(stage: &Arc<Stage>, counts: &Arc<Counts>, node: Option<Vec<u8>>) -> Result<ChunkId> {
    match node {
        None => Ok(ChunkId::ZERO),
        Some(bytes) => {
            let ids = settle(stage.store(ChunkKind::Map, vec![bytes.into()], counts).await?).await?;
            ids.first().copied().ok_or(Error::Internal("a node of a disk's map"))
        }
    }
}

/// Reads one extent of the source, in whole blocks, and checks that it is all there.
pub struct ExtentReader {
    stream: BoxStream<'static, Result<Bytes, SourceError>>,
    aligner: BlockAligner,
    ready: VecDeque<Bytes>,
    disk: i32,
    extent: Extent,
    got: u64,
    ended: bool,
}

impl ExtentReader {
    pub fn new(input: &DiskInput, extent: Extent) -> Self {
        let (stream, aligner) = (input.source.stream(extent), BlockAligner::default());
        Self { stream, aligner, ready: VecDeque::new(), disk: input.config.key, extent, got: 0, ended: false }
    }

    /// The next whole blocks, or `None` at the extent's end.
    pub async fn next(&mut self, counts: &Counts) -> Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.ended {
                return Ok(None);
            }
            let pieces = match self.stream.next().await {
                Some(Ok(piece)) => {
                    self.got += piece.len() as u64;
                    if self.got > self.extent.length {
                        return Err(self.wrong_length());
                    }
                    counts.read(piece.len() as u64);
                    self.aligner.push(piece)
                }
                Some(Err(source)) => {
                    return Err(Error::Source { disk: self.disk, offset: self.extent.offset + self.got, source });
                }
                None if self.got < self.extent.length => return Err(self.wrong_length()),
                None => {
                    self.ended = true;
                    [self.aligner.finish(), Bytes::new()]
                }
            };
            self.ready.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
        }
    }

    fn wrong_length(&self) -> Error {
        let Extent { offset, length: wanted } = self.extent;
        Error::SourceLength { disk: self.disk, offset, wanted, got: self.got }
    }
}
