//! What a repository holds, by machine: what an empty server that takes the repository over fills its tables with.
//! Reads manifests only. Next: `point` (a manifest's content), `repository` (lists).

use domain::point::{Consistency, PointKind};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::format::names;
use crate::point::{DamagedPoint, Point, PointId};
use crate::repository::Repository;

/// Manifests read at the same time.
const MANIFESTS_AT_ONCE: usize = 8;

/// All machines of a repository with their restore points. The rest of a point's description is in its manifest, see
/// [`Repository::point`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Catalogue {
    /// The repository's id.
    pub repository: Uuid,
    /// When it was made.
    pub created_at: Timestamp,
    /// By name, then id.
    pub machines: Vec<CatalogueMachine>,
    /// Manifests that are there but cannot be read.
    pub damaged: Vec<DamagedPoint>,
}

/// A machine that has restore points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogueMachine {
    /// Stable key of the machine.
    pub machine_id: String,
    /// Its name at its newest point.
    pub name: String,
    /// The device it was on at its newest point.
    pub device: String,
    /// Oldest first.
    pub points: Vec<CataloguePoint>,
}

/// A restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CataloguePoint {
    /// Its id.
    pub id: PointId,
    /// Moment of the snapshot.
    pub taken_at: Timestamp,
    /// What was read.
    pub kind: PointKind,
    /// State of the guest's data.
    pub consistency: Consistency,
    /// Name of the backup task.
    pub task: Option<String>,
    /// Sum of the disks' sizes.
    pub size_bytes: u64,
    /// Bytes it added to the repository.
    pub bytes_stored: u64,
    /// Its disks, ascending by key.
    pub disks: Vec<CatalogueDisk>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// A disk of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogueDisk {
    /// Its key.
    pub key: i32,
    /// Its label.
    pub label: String,
    /// Size in bytes.
    pub size_bytes: u64,
}

impl Repository {
    /// Everything a server needs to know to take the repository over. Reads every manifest, changes nothing.
    pub async fn catalogue(&self) -> Result<Catalogue> {
        let mut machines: BTreeMap<String, Vec<(CatalogueMachine, CataloguePoint)>> = BTreeMap::new();
        let mut damaged = Vec::new();
        let objects = self.core.backend.list(names::POINTS).await?;
        let read = |object: crate::backend::ObjectInfo| async {
            let id = names::parse_point(&object.name);
            let point = match id {
                Some(id) => self.point(id).await,
                None => Err(Error::damaged(&object.name, "its name is not that of a restore point")),
            };
            (object.name, id, point)
        };
        let mut points = stream::iter(objects).map(read).buffered(MANIFESTS_AT_ONCE);
        while let Some((object, id, point)) = points.next().await {
            match point {
                Ok(point) => machines.entry(point.machine_id.clone()).or_default().push(entry(point)),
                Err(Error::NoSuchPoint(_)) => {} // deleted meanwhile
                Err(error @ (Error::Backend(_) | Error::KeysRotated { .. })) => return Err(error),
                Err(error) => damaged.push(DamagedPoint { object, id, reason: error.to_string() }),
            }
        }
        let mut machines: Vec<_> = machines.into_values().filter_map(machine).collect();
        machines.sort_by(|a, b| (&a.name, &a.machine_id).cmp(&(&b.name, &b.machine_id)));
        Ok(Catalogue { repository: self.id(), created_at: self.created_at(), machines, damaged })
    }
}

fn entry(point: Point) -> (CatalogueMachine, CataloguePoint) {
    let summary = point.summary();
    let disk = |disk: crate::point::PointDisk| CatalogueDisk {
        key: disk.config.key,
        label: disk.config.label,
        size_bytes: disk.size_bytes,
    };
    let machine = CatalogueMachine {
        machine_id: point.machine_id,
        name: point.machine.name,
        device: point.device,
        points: Vec::new(),
    };
    let line = CataloguePoint {
        id: point.id,
        taken_at: point.taken_at,
        kind: point.kind,
        consistency: point.consistency,
        task: point.task,
        size_bytes: summary.size_bytes,
        bytes_stored: summary.bytes_stored,
        disks: point.disks.into_iter().map(disk).collect(),
        warnings: point.warnings,
    };
    (machine, line)
}

/// A machine as its newest point describes it, with all its points.
fn machine(mut entries: Vec<(CatalogueMachine, CataloguePoint)>) -> Option<CatalogueMachine> {
    entries.sort_by_key(|(_, point)| (point.taken_at, point.id));
    let newest = entries.last()?.0.clone();
    Some(CatalogueMachine { points: entries.into_iter().map(|(_, point)| point).collect(), ..newest })
}
