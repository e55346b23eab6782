//! Object locks that follow what points refer to: before a point is committed, every pack it needs, new or reused, is
//! locked for as long as a new one would be. The map is walked for that, but for subtrees known to be locked for long
//! enough: equal subtrees have equal ids, and a lock lasts longer than is needed at first, so a daily increment walks
//! little more than what it changed.
//!
//! Must never shorten a lock, nor keep a backup from completing because an old chunk is damaged.

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::backend::{BackendError, BackendErrorKind};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::ChunkId;
use crate::format::manifest;
use crate::format::map::{self, FANOUT};
use crate::format::names::{self, ObjectId};
use crate::index::IdMap;
use crate::point::PointDisk;

/// Objects whose lock is looked at, and nodes read, at the same time.
const AT_ONCE: usize = 16;
/// Subtrees kept in mind; leaves of 100 TB.
const SUBTREES_MAX: usize = 2_000_000;

/// Until when everything below a map node is locked.
#[derive(Default)]
pub struct LockedSubtrees(Mutex<IdMap<Timestamp>>);

impl LockedSubtrees {
    fn until(&self, id: &ChunkId) -> Option<Timestamp> {
        if id.is_zero() { Some(Timestamp::MAX) } else { self.0.lock().get(id).copied() }
    }

    fn note(&self, id: ChunkId, until: Timestamp) {
        let mut known = self.0.lock();
        if known.len() >= SUBTREES_MAX {
            known.clear();
        }
        known.insert(id, until);
    }
}

/// A node that was looked at: what it needs itself.
struct Visited {
    id: ChunkId,
    packs: HashSet<ObjectId>,
    children: Vec<ChunkId>,
    /// Something of it is damaged or gone: look again next time.
    doubtful: bool,
}

/// Extends the locks of what these disks, and opening the repository, need. Nothing to do where nothing is locked.
pub async fn extend(core: &Arc<Core>, disks: &[PointDisk]) -> Result<()> {
    let Some(needed) = core.backend.lock_needed_until() else { return Ok(()) };
    let mut objects = vec![names::CONFIG.to_owned()];
    objects.extend(core.backend.list(names::KEYS).await?.into_iter().map(|object| object.name));
    let extended = stream::iter(objects).map(|name| async move { extend_one(core, &name).await });
    extended.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
    for disk in disks {
        let root = manifest::root(&disk.map_root).unwrap_or(ChunkId::ZERO);
        let visited = walk(core, root, disk.size_bytes, needed).await?;
        let packs: HashSet<ObjectId> = visited.iter().flat_map(|node| node.packs.iter().copied()).collect();
        let ends = stream::iter(packs).map(|pack| async move {
            let until = extend_one(core, &names::pack(&pack)).await?;
            Ok::<_, BackendError>((pack, until))
        });
        let ends: HashMap<ObjectId, Option<Timestamp>> = ends.buffer_unordered(AT_ONCE).try_collect().await?;
        // Children come after their parents.
        for node in visited.into_iter().rev() {
            let own = node.packs.iter().map(|pack| ends.get(pack).copied().flatten());
            let below = node.children.iter().map(|child| core.locked.until(child));
            let until = own.chain(below).try_fold(Timestamp::MAX, |least, until| Some(least.min(until?)));
            if let Some(until) = until.filter(|_| !node.doubtful) {
                core.locked.note(node.id, until);
            }
        }
    }
    Ok(())
}

/// The end of the object's lock; `None` when it is gone, which others notice and tell.
async fn extend_one(core: &Core, name: &str) -> Result<Option<Timestamp>, BackendError> {
    match core.backend.extend_lock(name).await {
        Err(error) if error.kind == BackendErrorKind::NotFound => Ok(None),
        other => other,
    }
}

/// The nodes that are not known to be locked for long enough, parents before children.
async fn walk(core: &Arc<Core>, root: ChunkId, size_bytes: u64, needed: Timestamp) -> Result<Vec<Visited>> {
    let is_due = |id: &ChunkId| core.locked.until(id).is_none_or(|until| until < needed);
    let mut visited: Vec<Visited> = Vec::new();
    let mut level_nodes = vec![(0, root)];
    for level in (0..=map::root_level(size_bytes)).rev() {
        level_nodes.retain(|(_, id)| is_due(id));
        let nodes: Vec<Visited> = stream::iter(std::mem::take(&mut level_nodes))
            .map(|(index, id)| async move { (index, visit(core, level, index, id, size_bytes).await) })
            .buffered(AT_ONCE)
            .map(|(index, node)| node.map(|node| (index, node)))
            .try_fold((Vec::new(), &mut level_nodes), |(mut nodes, below), (index, node)| async move {
                let base = index * FANOUT;
                below.extend((base..).zip(node.children.iter().copied()));
                nodes.push(node);
                Ok((nodes, below))
            })
            .await?
            .0;
        visited.extend(nodes);
    }
    Ok(visited)
}

async fn visit(core: &Arc<Core>, level: u32, index: u64, id: ChunkId, size_bytes: u64) -> Result<Visited> {
    let mut node = Visited { id, packs: HashSet::new(), children: Vec::new(), doubtful: false };
    let read = match core.node(id).await {
        Err(error) if error.is_damage() => Err(error),
        other => Ok(other?),
    };
    let mut needs = vec![id];
    match (read, level) {
        (Err(error), _) => {
            tracing::warn!(%error, "a map node cannot be read to extend locks");
            node.doubtful = true;
        }
        (Ok(bytes), 0) => {
            let page_bytes = map::page_bytes(size_bytes, index);
            let entries = map::decode_leaf(&bytes, page_bytes).unwrap_or_default();
            needs.extend(entries.into_iter().map(|entry| entry.id).filter(|id| !id.is_zero()));
        }
        (Ok(bytes), _) => {
            let count = map::child_count(size_bytes, level, index);
            node.children = map::decode_inner(&bytes, level, count).unwrap_or_default();
        }
    }
    for chunk in needs {
        let pack = match core.index.usable_pack(&chunk) {
            Some(pack) => pack,
            None => match core.index.locate(core, &chunk).await {
                Ok(location) => location.pack,
                Err(error @ Error::Backend(_)) => return Err(error),
                Err(_) => {
                    node.doubtful = true;
                    continue;
                }
            },
        };
        node.packs.insert(pack);
    }
    Ok(node)
}
