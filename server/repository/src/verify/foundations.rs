//! Small objects: configuration, key slots, documents, index segments, manifests, and the list of packs.

use std::collections::{HashMap, HashSet};

use super::Verifier;
use crate::error::{Error, Result};
use crate::format::config::Config;
use crate::format::names;
use crate::index::read_segment;
use crate::keys::read_slot;
use crate::point::PointId;

impl Verifier<'_> {
    pub(super) async fn check_foundations(&mut self) -> Result<()> {
        let backend = &self.core.backend;
        let config = async { Config::decode(&self.core.keys, &backend.get(names::CONFIG, None).await?).map(drop) };
        let outcome = config.await;
        self.note(names::CONFIG, outcome)?;
        for object in backend.list(names::KEYS).await? {
            let outcome = read_slot(&**backend, &object.name, object.size).await.and_then(|slot| {
                let own = slot.header.repository == self.core.keys.repository;
                if own { Ok(()) } else { Err(Error::damaged(&object.name, "it belongs to another repository")) }
            });
            self.note(&object.name, outcome)?;
        }
        for (name, hash) in &self.core.config.documents {
            let outcome = match backend.get(name, None).await {
                Ok(bytes) if blake3::hash(&bytes).to_hex().as_str() == hash => Ok(()),
                Ok(_) => Err(Error::damaged(name, "its text is not what was written")),
                Err(error) => Err(error.into()),
            };
            self.note(name, outcome)?;
        }
        // Those of a large repository take long: a sample leaves them to the index, which reports what it cannot read.
        let segments = if self.options.is_partial() { Vec::new() } else { backend.list(names::INDEX).await? };
        for object in segments {
            let outcome = read_segment(self.core, &object.name, object.size).await.map(drop);
            self.note(&object.name, outcome)?;
        }
        Ok(())
    }

    pub(super) async fn list_packs(&mut self) -> Result<()> {
        for object in self.core.backend.list(names::PACKS).await? {
            match names::parse_pack(&object.name) {
                Some(id) => self.listed.push((id, object.size)),
                None => self.damage(&object.name, "its name is not that of a pack"),
            }
        }
        self.listed.sort_unstable();
        Ok(())
    }

    /// All manifests are read, for their chain of hashes; only the wanted ones are followed.
    pub(super) async fn read_manifests(&mut self) -> Result<()> {
        let mut hashes: HashMap<PointId, (String, u8)> = HashMap::new();
        let mut predecessors = Vec::new();
        let chosen = self.options.points.clone();
        let wanted: Option<HashSet<&PointId>> = chosen.as_ref().map(|points| points.iter().collect());
        for object in self.core.backend.list(names::POINTS).await? {
            let Some(id) = names::parse_point(&object.name) else {
                self.damage(&object.name, "its name is not that of a restore point");
                continue;
            };
            match self.core.manifest(id).await {
                Ok((point, hash)) => {
                    hashes.insert(id, (hash, point.key_generation));
                    predecessors.extend(point.predecessor.clone().map(|before| (id, point.key_generation, before)));
                    if wanted.as_ref().is_none_or(|wanted| wanted.contains(&id)) {
                        self.points.push(point);
                    }
                }
                Err(Error::NoSuchPoint(_)) => {} // deleted meanwhile
                Err(error) => self.note(&object.name, Err(error))?,
            }
        }
        for id in chosen.iter().flatten() {
            if !hashes.contains_key(id) && !self.report.damage.iter().any(|damage| damage.object == names::point(*id)) {
                self.damage(names::point(*id), "it is missing");
            }
        }
        for (id, generation, before) in predecessors {
            // One that was deleted is no damage: retention does that.
            let Some((hash, older)) = hashes.get(&before.point) else { continue };
            if *hash != before.manifest_hash {
                let reason = format!("it is not the manifest that restore point {id} recorded as the one before it");
                self.damage(names::point(before.point), reason);
            }
            // Somebody who has only keys that were rotated away may have made it.
            if generation < *older {
                let reason = format!("it is sealed with older keys than restore point {} before it", before.point);
                self.damage(names::point(id), reason);
            }
        }
        Ok(())
    }
}
