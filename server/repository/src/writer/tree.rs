//! The inner nodes of a disk's map. Only paths to changed pages are made; the rest is the base's.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pages::store_node;
use super::stage::{Counts, Stage};
use crate::error::Result;
use crate::format::ChunkId;
use crate::format::map::{self, FANOUT};
use crate::reader::DiskMap;

/// Stores the nodes above `pages` and returns the root. What is not in `pages` is as in `base`, or zero without one.
pub async fn store(
    stage: &Arc<Stage>,
    counts: &Arc<Counts>,
    size_bytes: u64,
    base: Option<&DiskMap>,
    pages: BTreeMap<u64, ChunkId>,
) -> Result<ChunkId> {
    let mut changed = pages;
    for level in 1..=map::root_level(size_bytes) {
        let mut parents: BTreeMap<u64, Vec<(u64, ChunkId)>> = BTreeMap::new();
        for (index, id) in changed {
            parents.entry(index / FANOUT).or_default().push((index % FANOUT, id));
        }
        changed = BTreeMap::new();
        for (index, children) in parents {
            let old = match base {
                Some(map) => map.children(level, index).await?,
                None => None,
            };
            let count = map::child_count(size_bytes, level, index) as usize;
            let mut ids = old.unwrap_or_else(|| vec![ChunkId::ZERO; count]);
            for (child, id) in children {
                if let Some(place) = ids.get_mut(child as usize) {
                    *place = id;
                }
            }
            changed.insert(index, store_node(stage, counts, map::encode_inner(level, &ids)).await?);
        }
    }
    match (changed.get(&0), base) {
        (Some(root), _) => Ok(*root),
        (None, Some(map)) => map.node_id(map::root_level(size_bytes), 0).await,
        (None, None) => Ok(ChunkId::ZERO),
    }
}
