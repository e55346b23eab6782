//! What an open repository shares between its handles: keys, configuration, threads, index, and reading one chunk.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::{BackendErrorKind, ObjectBackend};
use crate::cache::Cache;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::faults::Planted;
use crate::format::codec::Workspace;
use crate::format::config::Config;
use crate::format::crypto::Keys;
use crate::format::envelope::Magic;
use crate::format::lease::Verdict;
use crate::format::manifest::{self, MANIFEST_BYTES_MAX};
use crate::format::names::{self, ObjectId};
use crate::format::pack::PackSeal;
use crate::format::{ChunkId, ChunkKind, Codec, FRAME_BYTES_MAX};
use crate::index::{Index, Location};
use crate::lease::PackTag;
use crate::locks::LockedSubtrees;
use crate::point::{Point, PointId, PointSummary};
use crate::pool::Pool;
use crate::verify::stamps::Seen;

/// Map nodes kept decoded.
const NODE_CACHE_BYTES: usize = 8 << 20;

/// See the module.
pub struct Core {
    pub backend: Arc<dyn ObjectBackend>,
    pub keys: Arc<Keys>,
    pub config: Config,
    pub environment: Environment,
    pub pool: Pool,
    pub index: Index,
    /// What stamps said so far.
    pub stamps: Mutex<Seen>,
    pub nodes: Mutex<Cache<ChunkId>>,
    /// What lists show, and the lease each point was written under.
    pub summaries: Mutex<HashMap<PointId, (PointSummary, Option<ObjectId>)>>,
    pub locked: LockedSubtrees,
}

impl Core {
    pub fn new(
        backend: Arc<dyn ObjectBackend>,
        keys: Keys,
        config: Config,
        environment: Environment,
    ) -> Result<Arc<Self>> {
        Self::sharing(backend, Arc::new(keys), config, environment)
    }

    /// With keys that others use as well.
    pub fn sharing(
        backend: Arc<dyn ObjectBackend>,
        keys: Arc<Keys>,
        config: Config,
        environment: Environment,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            backend,
            index: Index::new(&keys, &environment),
            keys,
            config,
            pool: Pool::new(environment.threads)?,
            environment,
            stamps: Mutex::default(),
            nodes: Mutex::new(Cache::new(NODE_CACHE_BYTES)),
            summaries: Mutex::default(),
            locked: LockedSubtrees::default(),
        }))
    }

    /// A new random object id.
    pub fn new_id(&self) -> Result<ObjectId> {
        crate::environment::random(&*self.environment.randomness)
    }

    /// Reads and checks a manifest; also its BLAKE3-256. One whose lease was declared dead is none.
    pub async fn manifest(&self, id: PointId) -> Result<(Point, String)> {
        let found = self.written_manifest(id).await?;
        match found.0.lease_id() {
            Some(lease) if self.is_void(&lease).await? => Err(Error::NoSuchPoint(id)),
            _ => Ok(found),
        }
    }

    /// A new random id of a pack, which ends in its writer's tag.
    pub fn new_pack_id(&self, tag: PackTag) -> Result<ObjectId> {
        let mut id = self.new_id()?;
        if let Some(end) = id.last_chunk_mut() {
            *end = tag;
        }
        Ok(id)
    }

    /// Did a collector declare that lease dead? A void that cannot be read is none: it hides nothing.
    pub async fn is_void(&self, lease: &ObjectId) -> Result<bool> {
        if self.environment.makes(Planted::VoidsIgnored) {
            return Ok(false);
        }
        let name = names::void(lease);
        match self.backend.get(&name, None).await {
            Ok(bytes) => match Verdict::decode(&self.keys, Magic::Void, &name, &bytes) {
                Ok(_) => Ok(true),
                Err(error) => match self.settle_generation(error).await {
                    error if error.is_damage() => {
                        tracing::warn!(%error, "a void is ignored");
                        Ok(false)
                    }
                    error => Err(error),
                },
            },
            Err(error) if error.kind == BackendErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The same whatever became of its lease.
    pub async fn written_manifest(&self, id: PointId) -> Result<(Point, String)> {
        let name = names::point(id);
        let object = match self.backend.stat(&name).await {
            Err(error) if error.kind == BackendErrorKind::NotFound => {
                return Err(Error::NoSuchPoint(id));
            }
            other => other?,
        };
        if object.size > MANIFEST_BYTES_MAX {
            return Err(Error::damaged(&name, "it is longer than any manifest"));
        }
        let bytes = self.backend.get(&name, None).await?;
        let point = match manifest::decode(&self.keys, id, &bytes) {
            Ok(point) => point,
            Err(error) => return Err(self.settle_generation(error).await),
        };
        Ok((point, blake3::hash(&bytes).to_hex().to_string()))
    }

    /// Reads and checks one chunk, from whichever of its places is readable. A place that is not is remembered, so that
    /// nothing new refers to it.
    pub async fn chunk(&self, id: ChunkId, kind: ChunkKind) -> Result<Bytes> {
        self.index.locate(self, &id).await?;
        // Before they are tried: the index may learn of others meanwhile.
        let tried = self.index.places(&id);
        match self.chunk_as_known(id, kind).await {
            Err(error) if error.is_damage() => {
                // Another may have stored it anew, or moved it, since the index was loaded.
                self.index.refresh(self).await?;
                if self.index.places(&id).iter().all(|place| tried.contains(place)) {
                    return Err(error);
                }
                self.chunk_as_known(id, kind).await
            }
            other => other,
        }
    }

    /// The same, with the index as it is.
    pub async fn chunk_as_known(&self, id: ChunkId, kind: ChunkKind) -> Result<Bytes> {
        let mut first_error = None;
        for place in self.index.places(&id) {
            match self.chunk_at(&place, id, kind).await {
                Err(error) if error.is_damage() => {
                    self.index.add_bad(&place);
                    first_error.get_or_insert(error);
                }
                other => return other,
            }
        }
        Err(first_error.unwrap_or_else(|| Error::Missing { object: format!("chunk {id:?}") }))
    }

    async fn chunk_at(&self, place: &Location, id: ChunkId, kind: ChunkKind) -> Result<Bytes> {
        let (location, name) = (*place, names::pack(&place.pack));
        let range = location.spot.offset..location.end();
        let sealed = self.backend.get(&name, Some(range)).await.map_err(|error| {
            self.index.note_failed_read(place, &error);
            match error.kind {
                BackendErrorKind::TooShort => Error::damaged(&name, "it is cut short"),
                _ => error.into(),
            }
        })?;
        let keys = Arc::clone(&self.keys);
        self.pool.run(move |workspace| decode_chunk(&keys, &location, kind, id, &sealed, workspace)).await
    }

    /// A map node, from the cache if it is there.
    pub async fn node(&self, id: ChunkId) -> Result<Bytes> {
        if let Some(node) = self.nodes.lock().get(&id) {
            return Ok(node);
        }
        let node = self.chunk(id, ChunkKind::Map).await?;
        self.nodes.lock().insert(id, node.clone());
        Ok(node)
    }
}

/// Opens, decompresses and checks what is stored of a chunk.
pub fn decode_chunk(
    keys: &Keys,
    location: &Location,
    kind: ChunkKind,
    id: ChunkId,
    sealed: &[u8],
    workspace: &mut Workspace,
) -> Result<Bytes> {
    let seal = PackSeal::of(keys, location.pack, location.generation)?;
    decode_with(keys, &seal, (location, kind, id), sealed, workspace, Bytes::copy_from_slice)
}

/// The same for chunks of one pack, whose `seal` is made once; what comes of the content is up to `take`, while it is in
/// the thread's own memory (and its cache).
pub fn decode_with<T>(
    keys: &Keys,
    seal: &PackSeal,
    (location, kind, id): (&Location, ChunkKind, ChunkId),
    sealed: &[u8],
    workspace: &mut Workspace,
    take: impl FnOnce(&[u8]) -> T,
) -> Result<T> {
    let (mut content, length) = (std::mem::take(&mut workspace.content), location.length as usize);
    if content.len() < length {
        content.resize(length, 0);
    }
    let room = content.get_mut(..length).unwrap_or_default();
    let taken = decode_into(keys, seal, (location, kind, id), sealed, workspace, room).map(|()| take(room));
    workspace.content = content;
    taken
}

/// The same into memory of the caller's: as long as the index says that the chunk is.
pub fn decode_into(
    keys: &Keys,
    seal: &PackSeal,
    (location, kind, id): (&Location, ChunkKind, ChunkId),
    sealed: &[u8],
    workspace: &mut Workspace,
    room: &mut [u8],
) -> Result<()> {
    let damaged = |reason: &str| place_damaged(location, reason);
    if location.kind != kind {
        return Err(damaged("it is of another kind than its reference says"));
    }
    if room.len() != location.length as usize {
        return Err(damaged("it has another length than its reference says"));
    }
    if let Some(part) = location.spot.part {
        open_frame(seal, location, sealed, workspace)?;
        let (from, to) = (part.skip as usize, part.skip as usize + room.len());
        let content = workspace.frame_content().get(from..to).ok_or_else(|| damaged("its frame ends before it"))?;
        room.copy_from_slice(content);
    } else {
        open_alone(seal, location, sealed, workspace, room)?;
    }
    if keys.chunk_id(kind, room) != id {
        return Err(damaged("its content is not what its identity says"));
    }
    Ok(())
}

fn place_damaged(location: &Location, reason: &str) -> Error {
    let (pack, ordinal, offset) = (names::pack(&location.pack), location.spot.ordinal, location.spot.offset);
    Error::damaged(pack, format!("chunk {ordinal} at byte {offset}: {reason}"))
}

/// A chunk that is stored by itself.
fn open_alone(
    seal: &PackSeal,
    location: &Location,
    sealed: &[u8],
    workspace: &mut Workspace,
    room: &mut [u8],
) -> Result<()> {
    let mut opened = std::mem::take(&mut workspace.scratch);
    let authentic = seal.open_chunk(location.spot.ordinal, sealed, &mut opened);
    let outcome = match (authentic, location.codec) {
        (None, _) => Err("its bytes are not those that were written"),
        (Some(()), Codec::Raw) if opened.len() == room.len() => {
            room.copy_from_slice(&opened);
            Ok(())
        }
        (Some(()), Codec::Raw | Codec::Shared) => Err("its length is not what the index says"),
        (Some(()), Codec::Zstd) => {
            workspace.decompress_into(&opened, room).ok_or("it does not decompress to its length")
        }
    };
    workspace.scratch = opened;
    outcome.map_err(|reason| place_damaged(location, reason))
}

/// The content of the frame a chunk is in, into the workspace, unless it is there.
fn open_frame(seal: &PackSeal, location: &Location, sealed: &[u8], workspace: &mut Workspace) -> Result<()> {
    let key = (location.pack, location.spot.offset);
    if workspace.frame.is_some_and(|(open, _)| open == key) {
        return Ok(());
    }
    workspace.frame = None;
    let mut opened = std::mem::take(&mut workspace.scratch);
    let mut content = std::mem::take(&mut workspace.frame_room);
    content.resize(FRAME_BYTES_MAX as usize, 0);
    let authentic = seal.open_chunk(location.spot.seal_ordinal(), sealed, &mut opened);
    let outcome = match authentic {
        None => Err("the bytes of its frame are not those that were written"),
        Some(()) => workspace.decompress_up_to(&opened, &mut content).ok_or("its frame does not decompress"),
    };
    (workspace.scratch, workspace.frame_room) = (opened, content);
    workspace.frame = Some((key, outcome.map_err(|reason| place_damaged(location, reason))?));
    Ok(())
}
