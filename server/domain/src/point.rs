//! What a restore point is.

use serde::{Deserialize, Serialize};

/// What was read from the host to make the point. Each point stands alone all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    /// Everything (allocated) was read.
    Full,
    /// What changed since the point before.
    Incremental,
    /// What changed since the last full.
    Differential,
}

impl PointKind {
    /// Stable word for storage and lists.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
        }
    }
}

/// State of the guest's data in the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// The guest froze its file systems or applications (quiesced).
    Application,
    /// As after a power failure.
    Crash,
    /// The machine was off.
    Offline,
}

impl Consistency {
    /// Stable word for storage and lists.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Crash => "crash",
            Self::Offline => "offline",
        }
    }
}

/// A host's mark of the moment of a snapshot, from which a later run asks what changed.
/// Stored with the committed point only, keyed by machine, disk key and disk uuid (vSphere: `changeId`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeMark {
    /// Device key of the disk.
    pub disk_key: i32,
    /// The host's unique id of the disk.
    pub disk_uuid: Option<String>,
    /// Size of the disk at that moment, in bytes; another size later means: read everything.
    pub capacity_bytes: u64,
    /// The host's own token, opaque to us.
    pub token: String,
}
