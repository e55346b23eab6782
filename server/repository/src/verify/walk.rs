//! Maps: every node once, every chunk they name looked up; and, when something is bad, what of which disks it takes along.

use bytes::Bytes;
use domain::Extent;
use std::collections::BTreeMap;

use super::{Affected, Damage, Fault, Verifier, fault, time};
use crate::backend::BackendErrorKind;
use crate::error::{Error, Result};
use crate::format::map::{self, FANOUT};
use crate::format::names::{self, ObjectId};
use crate::format::stamp::{Bad, PackCheck};
use crate::format::{ChunkId, ChunkKind, manifest};
use crate::index::{IdMap, IdSet, Location};
use crate::point::Point;

/// A node that is to be looked at: level, index, id.
type Node = (u32, u64, ChunkId);

impl Verifier<'_> {
    /// Checks the map below a root, skipping what was seen under another root.
    pub(super) async fn walk(&mut self, size_bytes: u64, root: ChunkId) -> Result<()> {
        let mut nodes: Vec<Node> = vec![(map::root_level(size_bytes), 0, root)];
        while let Some((level, index, id)) = nodes.pop() {
            if id.is_zero() || self.faults.contains_key(&id) || self.seen.contains(&id) {
                continue;
            }
            match self.check_node(size_bytes, level, index, id).await {
                Ok(children) => {
                    self.seen.insert(id);
                    nodes.extend(children);
                }
                Err(error) if error.is_damage() => {
                    self.faults.insert(id, fault(&format!("chunk {id:?}"), &error));
                    for place in self.core.index.places(&id) {
                        if !self.is_present(&place.pack).await? {
                            self.checked(place.pack, Bad::Whole);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn check_node(&mut self, size_bytes: u64, level: u32, index: u64, id: ChunkId) -> Result<Vec<Node>> {
        let expected = self.core.index.known(&id).filter(|place| self.core.index.is_good(&id, place));
        let read = self.node(id).await;
        if let Some(place) = expected.filter(|place| !self.core.index.is_good(&id, place)) {
            self.remember_bad(&place);
        }
        let bytes = read?;
        self.report.chunks += 1;
        self.report.bytes_read += bytes.len() as u64;
        let misplaced = || Error::damaged(format!("map node {id:?}"), "it is not the node that belongs here");
        if level > 0 {
            return children(&bytes, size_bytes, level, index).ok_or_else(misplaced);
        }
        let entries = map::decode_leaf(&bytes, map::page_bytes(size_bytes, index)).ok_or_else(misplaced)?;
        for entry in entries.iter().filter(|entry| !entry.id.is_zero()) {
            self.look_up(entry.id).await?;
        }
        Ok(Vec::new())
    }

    async fn node(&self, id: ChunkId) -> Result<Bytes> {
        if let Some(node) = self.core.nodes.lock().get(&id) {
            return Ok(node);
        }
        let node = self.core.chunk_as_known(id, ChunkKind::Map).await?;
        self.core.nodes.lock().insert(id, node.clone());
        Ok(node)
    }

    /// Is the chunk in a pack that is there, as far as one can tell without reading it?
    async fn look_up(&mut self, id: ChunkId) -> Result<()> {
        if self.options.points.is_some() {
            self.wanted.insert(id);
        }
        loop {
            let Some(place) = self.core.index.known(&id) else {
                self.faults.insert(id, (format!("chunk {id:?}"), "no pack holds it".to_owned()));
                return Ok(());
            };
            let good = self.core.index.is_good(&id, &place);
            let present = self.is_present(&place.pack).await?;
            if good && present {
                return Ok(());
            }
            if !present {
                self.checked(place.pack, Bad::Whole);
            }
            if !good {
                let reason = if present { self.found_bad_before(&place) } else { "it is missing".to_owned() };
                self.faults.insert(id, (names::pack(&place.pack), reason));
                return Ok(());
            }
        }
    }

    fn found_bad_before(&self, place: &Location) -> String {
        let check = self.before.stamp.packs.get(&place.pack);
        match check.and_then(|check| time(check.checked_at)) {
            Some(at) => format!("chunk {} at byte {} was found bad on {at}", place.spot.ordinal, place.spot.offset),
            None => format!("chunk {} at byte {} was found bad before", place.spot.ordinal, place.spot.offset),
        }
    }

    /// Packs that appeared after the list was made are there as well.
    async fn is_present(&mut self, pack: &ObjectId) -> Result<bool> {
        if self.listed.binary_search_by_key(pack, |(id, _)| *id).is_ok() || self.newer.contains(pack) {
            return Ok(true);
        }
        match self.core.backend.stat(&names::pack(pack)).await {
            Ok(_) => {
                self.newer.insert(*pack);
                Ok(true)
            }
            Err(error) if error.kind == BackendErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A bad place goes into the stamps even if its pack is not read whole this time.
    fn remember_bad(&mut self, place: &Location) {
        let known = self.before.stamp.packs.get(&place.pack).map_or(0, |check| check.checked_at);
        let bad = Bad::Chunks([place.spot.ordinal].into());
        self.before.stamp.note(place.pack, PackCheck { checked_at: known, bad });
    }

    /// Decides what is lost: chunks that are bad in one place may be good in another, and packs may have moved meanwhile.
    pub(super) async fn judge(&mut self) -> Result<()> {
        if self.vanished || !self.faults.is_empty() {
            // What was stored just now may be in no list yet.
            tokio::time::sleep(self.core.backend.list_lag()).await;
            self.core.index.rescan(self.core).await?;
        }
        if std::mem::take(&mut self.vanished) {
            self.seen.clear();
            for (size_bytes, root) in self.roots() {
                self.walk(size_bytes, root).await?;
            }
        }
        let mut lost = IdMap::default();
        for (id, fault) in std::mem::take(&mut self.faults) {
            if self.is_readable(id).await? {
                self.report.bad_chunks_not_needed += 1;
            } else {
                lost.insert(id, fault);
            }
        }
        self.faults = lost;
        self.judge_unlisted().await?;
        if self.faults.is_empty() { Ok(()) } else { self.attribute().await }
    }

    async fn is_readable(&self, id: ChunkId) -> Result<bool> {
        let Some(place) = self.core.index.known(&id) else { return Ok(false) };
        match self.core.chunk_as_known(id, place.kind).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A pack whose list is damaged is damage as long as something may be only there.
    async fn judge_unlisted(&mut self) -> Result<()> {
        let unlisted = std::mem::take(&mut self.unlisted);
        let ids = unlisted.iter().map(|(id, _)| *id).collect();
        let records = if unlisted.is_empty() { BTreeMap::new() } else { self.segment_records(&ids).await? };
        for (pack, (object, reason)) in unlisted {
            let elsewhere = |id: &ChunkId| {
                let places = self.core.index.places(id);
                places.iter().any(|place| place.pack != pack && self.core.index.is_good(id, place))
            };
            if !records.get(&pack).is_some_and(|record| record.entries.iter().all(|entry| elsewhere(&entry.id))) {
                self.damage(object, reason);
            }
        }
        Ok(())
    }

    /// Finds every place of the chunks that are bad. What no point needs is no damage.
    async fn attribute(&mut self) -> Result<()> {
        let mut by_object: BTreeMap<String, (u64, Damage)> = BTreeMap::new();
        for (object, reason) in self.faults.values() {
            let damage = Damage { object: object.clone(), reason: reason.clone(), affected: Vec::new() };
            let (count, known) = by_object.entry(object.clone()).or_insert((0, damage));
            *count += 1;
            if known.reason > *reason {
                known.reason.clone_from(reason); // the same one whatever the order of the table
            }
        }
        let mut clean = IdSet::default();
        let points = std::mem::take(&mut self.points);
        for point in &points {
            if !self.is_still_there(point).await? {
                continue;
            }
            for disk in &point.disks {
                let root = manifest::root(&disk.map_root).unwrap_or(ChunkId::ZERO);
                for (object, extents) in self.bad_extents(disk.size_bytes, root, &mut clean).await? {
                    let Some((_, damage)) = by_object.get_mut(&object) else { continue };
                    damage.affected.push(Affected {
                        point: point.id,
                        machine: point.machine.name.clone(),
                        disk: disk.config.key,
                        label: disk.config.label.clone(),
                        extents: domain::extent::coalesce(&extents, 1, 0, disk.size_bytes),
                    });
                }
            }
        }
        self.points = points;
        for (object, (count, damage)) in by_object {
            // What was said about the object as a whole stays, with what it affects.
            match self.report.damage.iter_mut().find(|known| known.object == object) {
                Some(known) => known.affected = damage.affected,
                None if damage.affected.is_empty() => self.report.bad_chunks_not_needed += count,
                None => self.report.damage.push(damage),
            }
        }
        Ok(())
    }

    async fn is_still_there(&self, point: &Point) -> Result<bool> {
        match self.core.backend.stat(&names::point(point.id)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == BackendErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Extents of a disk that bad chunks take with them, by object. Leaves without any go into `clean`.
    async fn bad_extents(
        &self,
        size_bytes: u64,
        root: ChunkId,
        clean: &mut IdSet,
    ) -> Result<BTreeMap<String, Vec<Extent>>> {
        let mut found: BTreeMap<String, Vec<Extent>> = BTreeMap::new();
        let mut nodes: Vec<Node> = vec![(map::root_level(size_bytes), 0, root)];
        let mut bad = |(object, _): &Fault, extent| found.entry(object.clone()).or_default().push(extent);
        while let Some((level, index, id)) = nodes.pop() {
            let span = map::span_bytes(level);
            let start = index * span;
            if let Some(fault) = self.faults.get(&id) {
                bad(fault, Extent::new(start, span.min(size_bytes - start)));
                continue;
            }
            if id.is_zero() || clean.contains(&id) {
                continue;
            }
            let bytes = self.node(id).await?;
            if level > 0 {
                nodes.extend(children(&bytes, size_bytes, level, index).unwrap_or_default());
                continue;
            }
            let (mut offset, mut is_clean) = (start, true);
            for entry in map::decode_leaf(&bytes, map::page_bytes(size_bytes, index)).unwrap_or_default() {
                if let Some(fault) = self.faults.get(&entry.id) {
                    bad(fault, Extent::new(offset, u64::from(entry.length)));
                    is_clean = false;
                }
                offset += u64::from(entry.length);
            }
            if is_clean {
                clean.insert(id);
            }
        }
        Ok(found)
    }
}

fn children(bytes: &Bytes, size_bytes: u64, level: u32, index: u64) -> Option<Vec<Node>> {
    let ids = map::decode_inner(bytes, level, map::child_count(size_bytes, level, index))?;
    Some(ids.into_iter().enumerate().map(|(child, id)| (level - 1, index * FANOUT + child as u64, id)).collect())
}
