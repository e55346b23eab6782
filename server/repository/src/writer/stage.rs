//! What all disks of a point share: the byte budget, packs being filled and written, and the order of commit.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::buffer::{PackBuffer, PackBuffers};
use crate::backend::{BackendError, BackendErrorKind};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::codec::Workspace;
use crate::format::envelope::HEADER_BYTES;
use crate::format::names::{self, ObjectId};
use crate::format::pack::{ENTRY_BYTES, PACK_CHUNKS_MAX, PackEntry, PackSeal};
use crate::format::segment::{self, PackRecord, SEGMENT_ENTRIES_TARGET};
use crate::format::stamp::{Bad, PackCheck, Stamp};
use crate::format::{ChunkId, ChunkKind, Codec, FRAME_CHUNKS_MAX, frame};
use crate::index::IdSet;
use crate::lease::{PackTag, pack_tag};
use crate::point::{DiskSummary, PointId};
use crate::pool::Outcome;
use crate::source::Progress;
use crate::verify::stamps;

/// Content waiting for a thread.
const QUEUE_BYTES: usize = 12 << 20;
/// Sealed bytes a writer may hold beside the pack it fills: packs being written. With the pack itself and the queue, a
/// job stays below 128 MiB.
const BUDGET_BESIDE_PACK_BYTES: usize = 32 << 20;
/// Packs of map nodes are closed at this size, so that they never hold much of the budget.
const MAP_PACK_BYTES: u64 = 8 << 20;

/// Packs looked for at the same time, before the commit.
const LOOKS_AT_ONCE: usize = 16;

/// What became of one disk's bytes.
pub struct Counts {
    disk: i32,
    progress: Arc<dyn Progress>,
    planned: AtomicU64,
    read: AtomicU64,
    stored: AtomicU64,
    chunks: AtomicU64,
    chunks_new: AtomicU64,
}

impl Counts {
    pub fn new(disk: i32, progress: Arc<dyn Progress>) -> Self {
        let zero = AtomicU64::default;
        Self { disk, progress, planned: zero(), read: zero(), stored: zero(), chunks: zero(), chunks_new: zero() }
    }

    pub fn plan(&self, bytes: u64) {
        self.planned.fetch_add(bytes, Ordering::Relaxed);
        self.progress.planned(self.disk, bytes);
    }

    pub fn read(&self, bytes: u64) {
        let read = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // Neighbours of changed areas are read again; how many shows only on the way.
        let planned = self.planned.load(Ordering::Relaxed);
        if read > planned {
            self.plan(read - planned);
        }
        self.progress.read(self.disk, bytes);
    }

    fn chunk(&self, kind: ChunkKind) {
        if kind == ChunkKind::Data {
            self.chunks.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn stored(&self, kind: ChunkKind, chunks: usize, bytes: u64) {
        if kind == ChunkKind::Data {
            self.chunks_new.fetch_add(chunks as u64, Ordering::Relaxed);
        }
        self.stored.fetch_add(bytes, Ordering::Relaxed);
        self.progress.stored(self.disk, bytes);
    }

    pub fn summary(&self) -> DiskSummary {
        DiskSummary {
            bytes_read: self.read.load(Ordering::Relaxed),
            bytes_stored: self.stored.load(Ordering::Relaxed),
            chunks: self.chunks.load(Ordering::Relaxed),
            chunks_new: self.chunks_new.load(Ordering::Relaxed),
        }
    }
}

/// A place in a pack, for some chunks in one frame.
struct Reserved {
    pack: Arc<ActivePack>,
    chunks: usize,
    ordinal: u32,
    offset: u64,
}

/// A pack being filled. Places are given out under the lock, encryption happens outside it.
struct ActivePack {
    seal: PackSeal,
    filling: Mutex<Filling>,
}

#[derive(Default)]
struct Filling {
    entries: Vec<PackEntry>,
    /// Header and chunks; what is reserved but not deposited yet is a gap.
    buffer: PackBuffer,
    deposited: usize,
    /// Where the next chunk goes.
    end: u64,
    closed: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl Filling {
    fn is_complete(&self) -> bool {
        self.closed && self.deposited == self.entries.len()
    }
}

enum Failure {
    Backend(BackendError),
    Internal(&'static str),
}

/// See the module.
pub struct Stage {
    pub core: Arc<Core>,
    /// Content cut but not in a pack yet.
    queue: Arc<Semaphore>,
    /// Sealed bytes not durable yet.
    budget: Arc<Semaphore>,
    stop: CancellationToken,
    failure: Mutex<Option<Failure>>,
    /// Chunks of this writer that are on their way and not in the index yet.
    pending: Mutex<IdSet>,
    open: [Mutex<Option<Arc<ActivePack>>>; 2],
    buffers: Arc<PackBuffers>,
    /// Ends the ids of its packs.
    tag: PackTag,
    /// Packs of others that this point refers to.
    referred: Mutex<BTreeSet<ObjectId>>,
    /// Durable packs that no segment covers yet.
    uncovered: Mutex<Vec<PackRecord>>,
    tasks: TaskTracker,
    runtime: Handle,
}

impl Stage {
    pub fn new(core: Arc<Core>, tag: PackTag) -> Arc<Self> {
        let pack_bytes = core.config.pack_bytes;
        let budget = pack_bytes as usize + BUDGET_BESIDE_PACK_BYTES;
        Arc::new(Self {
            core,
            queue: Arc::new(Semaphore::new(QUEUE_BYTES)),
            budget: Arc::new(Semaphore::new(budget)),
            stop: CancellationToken::new(),
            failure: Mutex::default(),
            pending: Mutex::default(),
            open: Default::default(),
            buffers: PackBuffers::new(pack_bytes),
            tag,
            referred: Mutex::default(),
            uncovered: Mutex::default(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        })
    }

    /// Queues chunks, to be worked on by one thread; waits while the budget is spent. The outcome is their identities.
    pub async fn store(
        self: &Arc<Self>,
        kind: ChunkKind,
        contents: Vec<Bytes>,
        counts: &Arc<Counts>,
    ) -> Result<Outcome<Vec<ChunkId>>> {
        let bytes = contents.iter().map(Bytes::len).sum();
        let queued = self.permit(&self.queue, bytes).await?;
        let mut permit = self.permit(&self.budget, bytes).await?;
        let (stage, counts, token) = (Arc::clone(self), Arc::clone(counts), self.tasks.token());
        Ok(self.core.pool.submit(move |workspace| {
            let ids = stage.process(kind, &contents, &mut permit, &counts, workspace)?;
            drop((contents, queued, token));
            Ok(ids)
        }))
    }

    async fn permit(&self, of: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit> {
        Arc::clone(of).acquire_many_owned(bytes as u32).await.map_err(|_| self.why_stopped())
    }

    /// The identities of these chunks; those that are new are stored.
    fn process(
        self: &Arc<Self>,
        kind: ChunkKind,
        contents: &[Bytes],
        permit: &mut OwnedSemaphorePermit,
        counts: &Counts,
        workspace: &mut Workspace,
    ) -> Result<Vec<ChunkId>> {
        let (mut ids, mut new) = (Vec::with_capacity(contents.len()), Vec::new());
        for content in contents {
            counts.chunk(kind);
            let id = self.core.keys.chunk_id(kind, content);
            if self.claim(id)? {
                new.push((id, content));
            }
            ids.push(id);
        }
        for group in frame::groups(kind, new.iter().map(|(_, content)| &content[..])) {
            let chunks: Vec<_> = group.into_iter().filter_map(|index| new.get(index)).collect();
            self.put(kind, &chunks, permit, counts, workspace)?;
        }
        Ok(ids)
    }

    /// True when the chunk has to be stored, and is by the caller; it is in the repository, or on its way, otherwise.
    fn claim(&self, id: ChunkId) -> Result<bool> {
        if self.stop.is_cancelled() {
            return Err(self.why_stopped());
        }
        // The index is asked under the lock: a chunk moves from here into the index, in that order, never out of both.
        let mut pending = self.pending.lock();
        if let Some(pack) = self.core.index.usable_pack(&id) {
            self.refer(pack);
            return Ok(false);
        }
        Ok(pending.insert(id))
    }

    /// Stores chunks in one frame if that is smaller, else each by itself.
    fn put(
        self: &Arc<Self>,
        kind: ChunkKind,
        chunks: &[&(ChunkId, &Bytes)],
        permit: &mut OwnedSemaphorePermit,
        counts: &Counts,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let mut sealed = std::mem::take(&mut workspace.sealed);
        if chunks.len() > 1
            && let Some(stored) = workspace.compress_together(chunks.iter().map(|(_, content)| &content[..]))
        {
            let entry = |(at, chunk): (usize, &&(ChunkId, &Bytes))| PackEntry {
                id: chunk.0,
                kind,
                codec: Codec::Shared,
                length: chunk.1.len() as u32,
                stored: if at == 0 { stored.len() as u32 } else { 0 },
            };
            let entries = chunks.iter().enumerate().map(entry).collect();
            self.seal_and_deposit(entries, stored, &mut sealed, permit, counts)?;
        } else {
            for (id, content) in chunks {
                let (codec, stored) = workspace.compress(content);
                let (length, stored_bytes) = (content.len() as u32, stored.len() as u32);
                let entry = PackEntry { id: *id, kind, codec, length, stored: stored_bytes };
                self.seal_and_deposit(vec![entry], stored, &mut sealed, permit, counts)?;
            }
        }
        workspace.sealed = sealed;
        Ok(())
    }

    /// Puts what is stored of these chunks into the open pack.
    fn seal_and_deposit(
        self: &Arc<Self>,
        entries: Vec<PackEntry>,
        stored: &[u8],
        sealed: &mut Vec<u8>,
        permit: &mut OwnedSemaphorePermit,
        counts: &Counts,
    ) -> Result<()> {
        let (Some(kind), chunks) = (entries.first().map(|entry| entry.kind), entries.len()) else { return Ok(()) };
        let content: usize = entries.iter().map(|entry| entry.length as usize).sum();
        let mut own = permit.split(content).ok_or(Error::Internal("the byte budget"))?;
        let place = self.reserve(kind, entries)?;
        place.pack.seal.seal_chunk(place.ordinal, stored, sealed)?;
        drop(own.split(content.saturating_sub(sealed.len())));
        counts.stored(kind, chunks, (sealed.len() + chunks * ENTRY_BYTES) as u64);
        self.deposit(&place, sealed, own);
        Ok(())
    }

    fn refer(&self, pack: ObjectId) {
        if pack_tag(&pack) != self.tag {
            self.referred.lock().insert(pack);
        }
    }

    /// Are all packs there that this point refers to? The index may be wrong: a segment may have come late, a pack may
    /// have been lost. From here on the lease keeps them.
    pub async fn check_referred(&self, point: PointId) -> Result<()> {
        let packs: Vec<ObjectId> = self.referred.lock().iter().copied().collect();
        let mut looks = stream::iter(packs)
            .map(|pack| async move { (pack, self.core.backend.stat(&names::pack(&pack)).await) })
            .buffer_unordered(LOOKS_AT_ONCE);
        let mut missing = Vec::new();
        while let Some((pack, found)) = looks.next().await {
            match found {
                Ok(_) => {}
                Err(error) if error.kind == BackendErrorKind::NotFound => missing.push(pack),
                Err(error) => return Err(error.into()),
            }
        }
        let Some(first) = missing.first() else { return Ok(()) };
        let object = names::pack(first);
        self.tell_missing(missing).await;
        Err(Error::ReferredGone { point, object })
    }

    /// Sees to it that the next attempt, by whomever, stores what was in these packs again.
    async fn tell_missing(&self, packs: Vec<ObjectId>) {
        let checked_at = u64::try_from(self.core.environment.clock.now().as_millisecond()).unwrap_or_default();
        let mut stamp = Stamp::default();
        for pack in packs {
            self.core.index.forget(&pack);
            stamp.note(pack, PackCheck { checked_at, bad: Bad::Whole });
        }
        if let Err(error) = stamps::write(&self.core, &stamp).await {
            tracing::warn!(%error, "others are not told of packs that are gone");
        }
    }

    /// Does some work that nobody waits for.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// A place in the open pack of that kind, for the chunks of one frame.
    fn reserve(&self, kind: ChunkKind, entries: Vec<PackEntry>) -> Result<Reserved> {
        let target = match kind {
            ChunkKind::Data => u64::from(self.core.config.pack_bytes),
            ChunkKind::Map => MAP_PACK_BYTES.min(u64::from(self.core.config.pack_bytes)),
        };
        let mut open = self.open[kind as usize].lock();
        let pack = if let Some(pack) = &*open {
            Arc::clone(pack)
        } else {
            let seal = PackSeal::new(&self.core.keys, self.core.new_pack_id(self.tag)?)?;
            let mut buffer = self.buffers.take(kind);
            buffer.put(0, &seal.header);
            let filling = Filling { buffer, end: HEADER_BYTES as u64, ..Filling::default() };
            let pack = Arc::new(ActivePack { seal, filling: Mutex::new(filling) });
            *open = Some(Arc::clone(&pack));
            pack
        };
        let chunks = entries.len();
        let (ordinal, offset) = {
            let mut filling = pack.filling.lock();
            let (ordinal, offset) = (filling.entries.len() as u32, filling.end);
            filling.end += entries.iter().map(PackEntry::sealed_bytes).sum::<u64>();
            filling.entries.extend(entries);
            if filling.end - HEADER_BYTES as u64 >= target || filling.entries.len() > PACK_CHUNKS_MAX - FRAME_CHUNKS_MAX
            {
                filling.closed = true;
                *open = None;
            }
            (ordinal, offset)
        };
        Ok(Reserved { pack, chunks, ordinal, offset })
    }

    fn deposit(self: &Arc<Self>, place: &Reserved, sealed: &[u8], permit: OwnedSemaphorePermit) {
        let mut filling = place.pack.filling.lock();
        filling.buffer.put(place.offset as usize, sealed);
        filling.deposited += place.chunks;
        match &mut filling.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        if filling.is_complete() {
            self.write_later(&place.pack, std::mem::take(&mut *filling));
        }
    }

    fn write_later(self: &Arc<Self>, pack: &Arc<ActivePack>, filling: Filling) {
        let (stage, pack) = (Arc::clone(self), Arc::clone(pack));
        let write = async move {
            if let Err(error) = stage.write_pack(&pack.seal, filling).await {
                stage.fail(error);
            }
        };
        self.tasks.spawn_on(write, &self.runtime);
    }

    async fn write_pack(&self, seal: &PackSeal, filling: Filling) -> Result<()> {
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let Filling { entries, buffer, permit, .. } = filling;
        let parts = vec![buffer.freeze(), seal.seal_footer(&entries)?.into()];
        let object_bytes = parts.iter().map(|part| part.len() as u64).sum();
        self.core.backend.put_new(&names::pack(&seal.id), parts).await?;
        drop(permit);
        let record = PackRecord { id: seal.id, object_bytes, generation: seal.generation, entries };
        self.core.index.add(&record);
        {
            let mut pending = self.pending.lock();
            record.entries.iter().for_each(|entry| {
                pending.remove(&entry.id);
            });
        }
        let full = {
            let mut uncovered = self.uncovered.lock();
            uncovered.push(record);
            let entries: usize = uncovered.iter().map(|record| record.entries.len()).sum();
            (entries >= SEGMENT_ENTRIES_TARGET).then(|| std::mem::take(&mut *uncovered))
        };
        match full {
            Some(records) => self.write_segment(&records).await,
            None => Ok(()),
        }
    }

    async fn write_segment(&self, records: &[PackRecord]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let id = self.core.new_id()?;
        let bytes = segment::encode(&self.core.keys, id, records)?;
        self.core.backend.put_new(&names::segment(&id), vec![bytes.into()]).await?;
        self.core.index.cover(id, records);
        Ok(())
    }

    /// Closes what is open and waits until all packs and segments are durable.
    pub async fn flush(self: &Arc<Self>) -> Result<()> {
        // Chunks still in the pool have their places already or fail; the tracker counts them.
        self.wait_for_work().await;
        for open in &self.open {
            let Some(pack) = open.lock().take() else { continue };
            let mut filling = pack.filling.lock();
            filling.closed = true;
            if filling.is_complete() {
                self.write_later(&pack, std::mem::take(&mut *filling));
            }
        }
        self.wait_for_work().await;
        if self.stop.is_cancelled() {
            return Err(self.why_stopped());
        }
        let mut records = std::mem::take(&mut *self.uncovered.lock());
        records.sort_unstable_by_key(|record| record.id);
        self.write_segment(&records).await
    }

    async fn wait_for_work(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Drops what is not durable and indexes what is, so that another attempt finds it.
    pub async fn give_up(&self) {
        self.stop();
        self.wait_for_work().await;
        let records = std::mem::take(&mut *self.uncovered.lock());
        if let Err(error) = self.write_segment(&records).await {
            tracing::debug!(%error, "no index segment for the packs of an abandoned restore point");
        }
    }

    /// Work that has not begun fails from now on.
    pub fn stop(&self) {
        self.stop.cancel();
        self.queue.close();
        self.budget.close();
    }

    fn fail(&self, error: Error) {
        let failure = match error {
            Error::Backend(error) => Failure::Backend(error),
            Error::Internal(step) => Failure::Internal(step),
            _ => Failure::Internal("writing a pack"),
        };
        self.failure.lock().get_or_insert(failure);
        self.stop();
    }

    fn why_stopped(&self) -> Error {
        match &*self.failure.lock() {
            Some(Failure::Backend(error)) => Error::Backend(error.clone()),
            Some(Failure::Internal(step)) => Error::Internal(step),
            None => Error::Cancelled,
        }
    }
}
