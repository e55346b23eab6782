//! What was found on a host or a machine that helps or hinders its backup.

use serde::{Deserialize, Serialize};

/// One sentence about what will or will not work, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whether backups are impossible, degraded, or fine.
    pub severity: Severity,
    /// Stable word, e.g. `free_licence`, `rdm`, `independent_disk`, `snapshots_exist`.
    pub code: String,
    /// What was found, naming the machine or disk.
    pub message: String,
    /// What the operator can do.
    pub hint: String,
}

/// Gravity of a [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Cannot be backed up.
    Blocker,
    /// Works, with a drawback.
    Warning,
    /// Good to know.
    Info,
}
