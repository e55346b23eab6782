//! What is needed: everything below the roots that manifests and leases name. Each map node is read once; what of a pack
//! is needed is a bitmap of its ordinals.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::backend::BackendErrorKind;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::names::{self, ObjectId};
use crate::format::{ChunkId, manifest, map};
use crate::index::{IdSet, Location};
use crate::lease;
use crate::point::{Point, PointId};

/// What is there, in an order that misses nothing that matters: a pack was made under a lease that is older than it; a
/// writer's lease goes after its manifest came; a reader's lease comes before its manifest may go.
#[derive(Default)]
pub struct Survey {
    /// Packs and their lengths.
    pub packs: BTreeMap<ObjectId, u64>,
    /// Leases of anyone, before and after the manifests were listed.
    pub leases: BTreeSet<ObjectId>,
    pub points: BTreeSet<PointId>,
    /// Roots of maps that must stay, and who says so.
    pub roots: BTreeMap<ChunkId, String>,
    /// Packs left out because what is in them is not known.
    pub unreadable: u64,
    /// Packs whose copies do not count.
    pub condemned: HashSet<ObjectId>,
}

/// What of a pack is needed.
#[derive(Default, Clone)]
pub struct Live {
    /// A bit for each ordinal.
    bits: Vec<u64>,
    /// As stored, tags included; of frames their share, rounded down.
    pub bytes: u64,
}

impl Live {
    pub fn has(&self, ordinal: u32) -> bool {
        self.bits.get(ordinal as usize / 64).is_some_and(|word| word >> (ordinal % 64) & 1 == 1)
    }

    fn set(&mut self, place: &Location) {
        let ordinal = place.spot.ordinal;
        let (word, bit) = (ordinal as usize / 64, ordinal % 64);
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if !self.has(ordinal) {
            self.bits[word] |= 1 << bit;
            self.bytes += place.share_bytes();
        }
    }
}

/// The outcome of a mark.
#[derive(Default)]
pub struct Marked {
    pub packs: HashMap<ObjectId, Live>,
    /// Needed chunks that have no place that counts, by a condemned pack that has them.
    pub only_condemned: BTreeMap<ObjectId, BTreeMap<ChunkId, Location>>,
    /// Needed chunks in packs that were not listed: newer than the list, or gone.
    unlisted: BTreeMap<ObjectId, u64>,
    /// Needed chunks without any place.
    pub missing: u64,
}

impl Survey {
    pub async fn take(core: &Core, lag: Duration) -> Result<Self> {
        let pause = || async move {
            if !lag.is_zero() {
                tokio::time::sleep(lag).await;
            }
        };
        let mut survey = Self::default();
        for object in core.backend.list(names::PACKS).await? {
            if let Some(id) = names::parse_pack(&object.name) {
                survey.packs.insert(id, object.size);
            }
        }
        pause().await;
        survey.leases.extend(lease::list(core).await?.leases.iter().map(|seen| seen.id));
        pause().await;
        let listed = core.backend.list(names::POINTS).await?;
        let ids: Vec<PointId> = listed
            .iter()
            .map(|object| {
                let no_name = || Error::damaged(&object.name, "its name is not that of a restore point");
                names::parse_point(&object.name).ok_or_else(no_name)
            })
            .collect::<Result<_>>()?;
        survey.add_points(core, &ids).await?;
        pause().await;
        for seen in lease::list(core).await?.leases {
            survey.leases.insert(seen.id);
            survey.roots.extend(seen.body.roots().map(|root| (root, seen.body.who.clone())));
        }
        // What is in a pack that no segment covers is needed like any other. One that cannot be read is left out.
        core.index.rescan(core).await?;
        let listed = survey.packs.len();
        survey.packs.retain(|pack, _| core.index.knows(pack));
        survey.unreadable = (listed - survey.packs.len()) as u64;
        Ok(survey)
    }

    /// Adds the roots of these points. One that is gone or void is none; one that cannot be read is an error.
    pub async fn add_points(&mut self, core: &Core, ids: &[PointId]) -> Result<()> {
        for id in ids {
            match core.manifest(*id).await {
                Ok((point, _)) => self.add_point(&point),
                Err(Error::NoSuchPoint(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn add_point(&mut self, point: &Point) {
        self.points.insert(point.id);
        for disk in &point.disks {
            let root = manifest::root(&disk.map_root).filter(|root| !root.is_zero());
            self.roots.extend(root.map(|root| (root, point.machine.name.clone())));
        }
    }

    /// Follows all roots.
    pub async fn mark(&self, core: &Core) -> Result<Marked> {
        let mut marked = Marked::default();
        let mut seen = IdSet::default();
        let mut nodes: Vec<ChunkId> = self.roots.keys().copied().collect();
        while let Some(id) = nodes.pop() {
            if !seen.insert(id) {
                continue;
            }
            self.need(core, id, &mut marked);
            let bytes = core.node(id).await?;
            let (level, ids) = map::references(&bytes)
                .ok_or_else(|| Error::damaged(format!("map node {id:?}"), "it makes no sense"))?;
            if level > 0 {
                nodes.extend(ids);
            } else {
                for id in ids {
                    self.need(core, id, &mut marked);
                }
            }
        }
        for (pack, chunks) in std::mem::take(&mut marked.unlisted) {
            match core.backend.stat(&names::pack(&pack)).await {
                Ok(_) => {}
                Err(error) if error.kind == BackendErrorKind::NotFound => marked.missing += chunks,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(marked)
    }

    /// Notes by which copy a chunk stays. A damaged one counts only when there is no other: it may be all there is.
    fn need(&self, core: &Core, id: ChunkId, marked: &mut Marked) {
        let places = core.index.judged(&id);
        let stays = |place: &Location| self.packs.contains_key(&place.pack) && !self.condemned.contains(&place.pack);
        let goes = |place: &Location| self.condemned.contains(&place.pack);
        let rescue = places.iter().any(|(place, good)| *good && goes(place));
        if let Some((place, _)) = places.iter().find(|(place, good)| stays(place) && (*good || !rescue)) {
            marked.packs.entry(place.pack).or_default().set(place);
            return;
        }
        let mut condemned = places.iter().filter(|(place, _)| goes(place)).peekable();
        if condemned.peek().is_none() {
            match places.first() {
                Some((place, _)) => *marked.unlisted.entry(place.pack).or_default() += 1,
                None => marked.missing += 1,
            }
        }
        for (place, _) in condemned {
            marked.only_condemned.entry(place.pack).or_default().insert(id, *place);
        }
    }
}
