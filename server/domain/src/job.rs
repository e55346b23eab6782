//! States of jobs and runs, and the error a job ends with.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Back up one machine.
    Backup,
    /// Restore one machine.
    Restore,
    /// Read the inventory of one device.
    Inventory,
    /// Remove what dead jobs left on one device.
    Reconcile,
    /// Check the chunks of a repository.
    Verify,
    /// Give back the space of a repository that no restore point needs.
    Collect,
    /// Remove the restore points of a repository that no rule keeps.
    Retain,
    /// Remove a snapshot that another program's backup left on a machine.
    Cleanup,
}

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Backup,
        Self::Restore,
        Self::Inventory,
        Self::Reconcile,
        Self::Verify,
        Self::Collect,
        Self::Retain,
        Self::Cleanup,
    ];

    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Inventory => "inventory",
            Self::Reconcile => "reconcile",
            Self::Verify => "verify",
            Self::Collect => "collect",
            Self::Retain => "retain",
            Self::Cleanup => "cleanup",
        }
    }

    /// The kind of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// State of a job, and of a run as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker, a slot or its time.
    Queued,
    /// A worker holds its lease.
    Running,
    /// Done.
    Succeeded,
    /// Done, with something the operator should read.
    Warning,
    /// Not done.
    Failed,
    /// Stopped by an operator or by its schedule, or never begun.
    Cancelled,
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Succeeded, Self::Warning, Self::Failed, Self::Cancelled];

    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Nothing more will happen.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// What follows from a job's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Likely to pass: try again after a pause, while attempts are left.
    Retry,
    /// Will not change by itself.
    Fail,
    /// An operator cancelled it, its hours ended, or the server stops.
    Cancelled,
}

/// How a job ended when it did not succeed: for people, in three sentences, and for programs, by `code`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// What follows.
    pub disposition: Disposition,
    /// Stable, lower case with dots, e.g. `esxi.snapshot_refused`. Listed in docs/error-codes.md.
    pub code: String,
    /// What was tried and on which machine, disk or host.
    pub what: String,
    /// Why it failed, as far as is known.
    pub why: String,
    /// What the operator can do.
    pub hint: String,
}

impl JobError {
    /// An error that is worth another try.
    pub fn retry(code: &str, what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Disposition::Retry, code, what, why, hint)
    }

    /// An error that needs a person.
    pub fn fail(code: &str, what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Disposition::Fail, code, what, why, hint)
    }

    /// Stopped on request.
    pub fn cancelled(what: impl Into<String>) -> Self {
        Self::new(Disposition::Cancelled, "job.cancelled", what, "An operator cancelled it.", "")
    }

    /// Stopped, or not begun, for a reason of its own.
    pub fn cancelled_by(code: &str, what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Disposition::Cancelled, code, what, why, hint)
    }

    fn new(
        disposition: Disposition,
        code: &str,
        what: impl Into<String>,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { disposition, code: code.to_owned(), what: what.into(), why: why.into(), hint: hint.into() }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.why)?;
        if !self.hint.is_empty() {
            write!(f, " {}", self.hint)?;
        }
        write!(f, " [{}]", self.code)
    }
}

impl std::error::Error for JobError {}

/// How grave a line of a job's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Course of events.
    Info,
    /// Something the operator should read.
    Warning,
    /// The reason of a failure.
    Error,
}

impl LogLevel {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}
