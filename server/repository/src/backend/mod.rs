//! Where a repository's objects live, behind a few verbs. Owns naming rules for objects and the errors of storage.
//! Must never look inside an object. Next: `folder`, `s3`, `memory` and `faulty` (tests).

pub mod direct;
pub mod faulty;
pub mod folder;
pub mod memory;
pub mod nfs;
pub mod paced;
pub mod s3;
mod share;
pub mod smb;

use bytes::Bytes;
use jiff::Timestamp;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use faulty::{Fault, FaultyBackend};
pub use folder::FolderBackend;
pub use memory::MemoryBackend;
pub use nfs::{NfsBackend, NfsOptions};
pub use paced::{Pace, PacedBackend};
pub use s3::{S3Backend, S3Capabilities, S3Options};
pub use smb::{SmbBackend, SmbOptions};

/// Longest object name, in bytes.
pub const OBJECT_NAME_BYTES_MAX: usize = 200;

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name, with `/` between parts.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
}

/// Verbs on immutable objects. Names are relative, of `[a-zA-Z0-9._-]` and `/`.
#[async_trait::async_trait]
pub trait ObjectBackend: Send + Sync + fmt::Debug {
    /// What to call the location in messages.
    fn place(&self) -> String;

    /// Creates an object of these parts, one after the other. When it returns, the object is durable; until then it is
    /// not visible, not even in part. Fails with `AlreadyExists`, leaving the old bytes, when the name is taken.
    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError>;

    /// The bytes of `range`, or all of them. A range past the end is `TooShort`, never a short answer.
    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError>;

    /// All objects whose name starts with `prefix` (empty or ending in `/`), ascending by name. A missing location is
    /// `NoLocation`; a prefix without objects is an empty list. Whole or an error, never short.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError>;

    /// Name and length of one object.
    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError>;

    /// Removes an object and frees its space; one that is not there is fine. When it returns, the object stays gone. One
    /// that is under a lock is `Locked`, with the end of the lock in the source's text, and stays readable.
    async fn delete(&self, name: &str) -> Result<(), BackendError>;

    /// Makes durable what is visible of this object and, below a prefix ending in `/`, which objects are there and which
    /// are gone: another process may have renamed or removed a file and not have synced the folder yet. Nothing to do
    /// where what is visible is durable.
    async fn sync(&self, name: &str) -> Result<(), BackendError> {
        let _ = name;
        Ok(())
    }

    /// How long a list may go on showing what was. Looking one object up by its name never lags.
    fn list_lag(&self) -> Duration {
        Duration::ZERO
    }

    /// Until when an object must stay locked that a point made now refers to; `None` where nothing is locked.
    fn lock_needed_until(&self) -> Option<Timestamp> {
        None
    }

    /// Sees to it that an object stays locked at least until [`Self::lock_needed_until`], and tells until when it is.
    /// Cheap when its lock lasts long enough. Without locks it does nothing.
    async fn extend_lock(&self, name: &str) -> Result<Option<Timestamp>, BackendError> {
        let _ = name;
        Ok(None)
    }
}

/// What kind of failure it was; callers decide by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendErrorKind {
    /// No such object.
    NotFound,
    /// The location itself (folder, share, bucket) is not there.
    NoLocation,
    /// The name is taken.
    AlreadyExists,
    /// The location is full, or over its quota.
    OutOfSpace,
    /// Not allowed.
    Forbidden,
    /// The account, its password or key is not accepted.
    Unauthorized,
    /// No connection, a broken one, or no answer in time: trying again may help.
    Unreachable,
    /// The clocks here and there differ by more than the storage allows.
    ClockSkew,
    /// The object is locked until a time that has not come.
    Locked,
    /// It may have happened or not: the reply was lost and asking again did not tell.
    OutcomeUnknown,
    /// The location lacks something that was asked of it.
    Unsuitable,
    /// The object ends before the range does.
    TooShort,
    /// A name no object may have.
    BadName,
    /// Anything else: see the source.
    Other,
}

impl BackendErrorKind {
    const fn text(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::NoLocation => "the location is not there",
            Self::AlreadyExists => "it exists already",
            Self::OutOfSpace => "no space left",
            Self::Forbidden => "permission denied",
            Self::Unauthorized => "the account or its secret is not accepted",
            Self::Unreachable => "no answer from the storage",
            Self::ClockSkew => "the clocks here and at the storage differ too much",
            Self::Locked => "it is locked until its retention ends",
            Self::OutcomeUnknown => "the outcome is unknown, the reply was lost",
            Self::Unsuitable => "the location is not fit for this",
            Self::TooShort => "it is shorter than it should be",
            Self::BadName => "not a valid object name",
            Self::Other => "the storage failed",
        }
    }
}

/// A storage failure: which verb, which object, where.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {verb} {name:?} in {place}: {}", kind.text())]
pub struct BackendError {
    /// What kind.
    pub kind: BackendErrorKind,
    /// `open`, `create`, `store`, `read`, `list`, `look up`, `lock`, `delete` or `sync`.
    pub verb: &'static str,
    /// Object name or prefix.
    pub name: String,
    /// The location.
    pub place: String,
    /// The system's own error.
    #[source]
    pub source: Option<Arc<std::io::Error>>,
}

/// Checks a name before it becomes a path: parts of `[a-zA-Z0-9._-]`, none empty, none starting with a dot.
pub(crate) fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= OBJECT_NAME_BYTES_MAX
        && name.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        })
}
