//! Where a repository's objects live, behind a few verbs. Owns naming rules for objects and the errors of storage.
//! Must never look inside an object. Next: `folder` (the real one), `memory` and `faulty` (tests).

pub mod faulty;
pub mod folder;
pub mod memory;

use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use faulty::{Fault, FaultyBackend};
pub use folder::FolderBackend;
pub use memory::MemoryBackend;

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
    /// `NotFound`; a prefix without objects is an empty list.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError>;

    /// Name and length of one object.
    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError>;

    /// Removes an object; one that is not there is fine. When it returns, the object stays gone.
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
}

/// What kind of failure it was; callers decide by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendErrorKind {
    /// No such object or location.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The location is full, or over its quota.
    OutOfSpace,
    /// Not allowed.
    Forbidden,
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
            Self::AlreadyExists => "it exists already",
            Self::OutOfSpace => "no space left",
            Self::Forbidden => "permission denied",
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
    /// `store`, `read`, `list`, `look up`, `delete` or `sync`.
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
