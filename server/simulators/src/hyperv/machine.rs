//! A machine as its host keeps it: settings made of parts, checkpoints, reference points. Plain data, saved as JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::config::{GuestWrites, Quirks};
use super::disk::DiskId;
use super::model::value::Value;

/// `EnabledState` of a machine that runs, and of one that does not.
pub(crate) const STATE_ON: u64 = 2;
pub(crate) const STATE_OFF: u64 = 3;

/// A GUID as Windows writes it in WMI.
pub(crate) fn guid(id: Uuid) -> String {
    id.to_string().to_uppercase()
}

/// `InstanceID` of settings.
pub(crate) fn settings_id(id: Uuid) -> String {
    format!("Microsoft:{}", guid(id))
}

/// A file behind a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backing {
    /// Of a virtual hard disk.
    pub disk: Option<DiskId>,
    pub path: String,
}

/// One resource of a machine: a controller, a drive, a disk, an adapter, memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    pub class: String,
    /// What follows the settings' id in its `InstanceID`.
    pub local: String,
    /// The part it hangs on.
    pub parent: Option<String>,
    pub values: BTreeMap<String, Value>,
    pub backing: Option<Backing>,
    /// The switch of a connection.
    pub switch: Option<Uuid>,
}

impl Part {
    pub fn sub_type(&self) -> &str {
        self.values.get("ResourceSubType").and_then(Value::text).unwrap_or_default()
    }
}

/// Settings of a machine or of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Properties of `Msvm_VirtualSystemSettingData`.
    pub values: BTreeMap<String, Value>,
    pub parts: Vec<Part>,
}

impl Settings {
    pub fn part(&self, local: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.local.eq_ignore_ascii_case(local))
    }

    /// Virtual hard disks: the part's local id and the disk.
    pub fn disks(&self) -> Vec<(String, DiskId)> {
        let disk = |part: &Part| Some((part.local.clone(), part.backing.as_ref()?.disk?));
        self.parts.iter().filter_map(disk).collect()
    }

    /// Tells where the file of a disk is now.
    pub fn move_disk(&mut self, disk: DiskId, path: &str) {
        let backings = self.parts.iter_mut().filter_map(|part| part.backing.as_mut());
        for backing in backings.filter(|backing| backing.disk == Some(disk)) {
            path.clone_into(&mut backing.path);
        }
    }
}

/// A checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub id: Uuid,
    /// A recovery checkpoint, made for a backup.
    pub recovery: bool,
    pub consistency: u64,
    pub created: Timestamp,
    /// The checkpoint before it.
    pub parent: Option<Uuid>,
    /// Its disks' paths are the frozen files.
    pub settings: Settings,
}

/// A reference point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReferencePoint {
    pub id: Uuid,
    pub consistency: u64,
    /// Local id of each disk, and its tracking id.
    pub tracking: Vec<(String, String)>,
}

/// A machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub id: Uuid,
    pub generation: u8,
    pub on: bool,
    pub created: Timestamp,
    pub changed: Timestamp,
    pub settings: Settings,
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    pub points: Vec<ReferencePoint>,
    pub writes: Option<GuestWrites>,
    /// What the guest says of itself: names and values.
    #[serde(default)]
    pub guest_says: Vec<(String, String)>,
    pub quirks: Quirks,
}

impl Machine {
    pub fn name(&self) -> &str {
        self.settings.values.get("ElementName").and_then(Value::text).unwrap_or_default()
    }

    pub fn snapshot(&self, id: Uuid) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }
}
