//! Restore points as callers see them: ids, what is said about a point, and what a list of points shows.

use domain::machine::{DiskConfig, MachineConfig};
use domain::point::{ChangeMark, Consistency, PointKind};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::format::names::{self, ObjectId};

/// Identifies a restore point for ever. Chosen by who makes the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PointId(pub Uuid);

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_hyphenated())
    }
}

impl FromStr for PointId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(Self)
    }
}

impl From<Uuid> for PointId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

/// What the caller says about a point when it commits it. The disks come from what was backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointMetadata {
    /// Stable key of the machine: `<device id>/<vm uuid>`.
    pub machine_id: String,
    /// Name of the device (host) it was read from.
    pub device: String,
    /// The machine at that moment.
    pub machine: MachineConfig,
    /// Moment of the snapshot.
    pub taken_at: Timestamp,
    /// What was read.
    pub kind: PointKind,
    /// State of the guest's data.
    pub consistency: Consistency,
    /// The host's change marks, one per disk that has one.
    pub marks: Vec<ChangeMark>,
    /// What the operator should know, in plain words.
    pub warnings: Vec<String>,
    /// Name of the backup task.
    pub task: Option<String>,
    /// The machine's point before this one, whose manifest hash is recorded if it is still there.
    pub predecessor: Option<PointId>,
}

/// The manifest of the point before, as recorded in its successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    /// Its id.
    pub point: PointId,
    /// BLAKE3-256 of its whole manifest object, in hex.
    pub manifest_hash: String,
}

/// A disk of a committed point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDisk {
    /// Its description.
    pub config: DiskConfig,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Root of the disk's map, 64 hex digits; all zero for a disk of zeros.
    pub map_root: String,
    /// Bytes read from the host for this point.
    pub bytes_read: u64,
    /// Bytes this point added to the repository for this disk.
    pub bytes_stored: u64,
}

/// A committed restore point: the contents of its manifest. Fields are only ever added, each with a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its id.
    pub id: PointId,
    /// See [`PointMetadata::machine_id`].
    pub machine_id: String,
    /// See [`PointMetadata::device`].
    pub device: String,
    /// See [`PointMetadata::machine`].
    pub machine: MachineConfig,
    /// See [`PointMetadata::taken_at`].
    pub taken_at: Timestamp,
    /// See [`PointMetadata::kind`].
    pub kind: PointKind,
    /// See [`PointMetadata::consistency`].
    pub consistency: Consistency,
    /// See [`PointMetadata::marks`].
    #[serde(default)]
    pub marks: Vec<ChangeMark>,
    /// See [`PointMetadata::warnings`].
    #[serde(default)]
    pub warnings: Vec<String>,
    /// See [`PointMetadata::task`].
    #[serde(default)]
    pub task: Option<String>,
    /// The point before.
    #[serde(default)]
    pub predecessor: Option<Predecessor>,
    /// Its disks, ascending by key.
    pub disks: Vec<PointDisk>,
    /// Generation of the keys its manifest is sealed and signed with: in its header, not in its body.
    #[serde(skip)]
    pub key_generation: u8,
    /// The lease it was written under, in hex; a point whose lease was declared dead is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

impl Point {
    /// The disk of that key.
    pub fn disk(&self, disk_key: i32) -> Result<&PointDisk> {
        self.disks
            .iter()
            .find(|disk| disk.config.key == disk_key)
            .ok_or(Error::NoSuchDisk { point: self.id, disk: disk_key })
    }

    /// The id of its lease.
    pub(crate) fn lease_id(&self) -> Option<ObjectId> {
        names::last_part_as_id(self.lease.as_deref()?)
    }

    /// What a list shows of it.
    pub fn summary(&self) -> PointSummary {
        PointSummary {
            id: self.id,
            machine_id: self.machine_id.clone(),
            machine_name: self.machine.name.clone(),
            device: self.device.clone(),
            taken_at: self.taken_at,
            kind: self.kind,
            consistency: self.consistency,
            disks: self.disks.len(),
            size_bytes: self.disks.iter().map(|disk| disk.size_bytes).sum(),
            bytes_read: self.disks.iter().map(|disk| disk.bytes_read).sum(),
            bytes_stored: self.disks.iter().map(|disk| disk.bytes_stored).sum(),
            warnings: self.warnings.len(),
        }
    }
}

/// A line in a list of points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointSummary {
    /// Its id.
    pub id: PointId,
    /// Stable key of the machine.
    pub machine_id: String,
    /// Its display name at that moment.
    pub machine_name: String,
    /// Device it was read from.
    pub device: String,
    /// Moment of the snapshot.
    pub taken_at: Timestamp,
    /// What was read.
    pub kind: PointKind,
    /// State of the guest's data.
    pub consistency: Consistency,
    /// Number of disks.
    pub disks: usize,
    /// Sum of the disks' sizes.
    pub size_bytes: u64,
    /// Bytes read from the host.
    pub bytes_read: u64,
    /// Bytes added to the repository.
    pub bytes_stored: u64,
    /// Number of warnings.
    pub warnings: usize,
}

/// A manifest that is there but cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedPoint {
    /// Name of the object.
    pub object: String,
    /// Its id, when the object's name is one.
    pub id: Option<PointId>,
    /// What is wrong with it.
    pub reason: String,
}

/// All points, oldest first, and those that cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PointList {
    /// Readable points, ascending by time.
    pub points: Vec<PointSummary>,
    /// Damaged manifests.
    pub damaged: Vec<DamagedPoint>,
}

/// What backing up one disk came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskSummary {
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Bytes that went to the repository, maps included, after deduplication and compression.
    pub bytes_stored: u64,
    /// Data chunks looked at.
    pub chunks: u64,
    /// Of these, new to the repository.
    pub chunks_new: u64,
}

/// What a commit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedPoint {
    /// The point as it now stands in the repository.
    pub point: Point,
    /// BLAKE3-256 of its manifest object, in hex.
    pub manifest_hash: String,
    /// Sum over the disks.
    pub bytes_read: u64,
    /// Sum over the disks.
    pub bytes_stored: u64,
}
