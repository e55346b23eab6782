//! The backup repository: deduplicated, compressed, encrypted restore points of disks, on any storage location.
//!
//! Owns: the format (`docs/repository-format.md` is the document, this crate one implementation of it), the names of
//! objects, their order of commit, reading and verifying. Knows bytes and what a manifest says, nothing of hosts or jobs.
//! Must never: update an object in place, delete one that a committed point needs, or trust a byte it has not checked.
//! Next: `format` (bytes), `repository` (open), `writer` (back up), `reader` (restore), `verify`, `backend` (storage).

pub mod backend;
mod error;
mod point;
mod repository;
mod source;

pub use backend::{BackendError, BackendErrorKind, FolderBackend, MemoryBackend, ObjectBackend};
pub use error::{Error, Result, SourceError};
pub use point::{
    CommittedPoint, DamagedPoint, DiskSummary, Point, PointDisk, PointId, PointList, PointMetadata, PointSummary,
    Predecessor,
};
pub use repository::*;
pub use source::{BlockSource, DiskInput, NoProgress, Progress, ReadPlan};
