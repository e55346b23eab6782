//! The backup repository: deduplicated, compressed, encrypted restore points of disks, on any storage location.
//!
//! Owns: the format (`docs/repository-format.md` is the document, this crate one implementation of it), the names of
//! objects, their order of commit, reading and verifying. Knows bytes and what a manifest says, nothing of hosts or jobs.
//! Must never: update an object in place, delete one that a committed point needs, or trust a byte it has not checked.
//! Next: `format` (bytes), `repository` (open), `writer` (back up), `reader` (restore), `verify`, `backend` (storage).

mod ahead;
pub mod backend;
mod cache;
mod catalogue;
mod collector;
mod core;
mod documents;
mod environment;
mod epochs;
mod error;
mod faults;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod hold;
mod index;
mod keys;
mod lease;
mod location;
mod locks;
mod point;
mod pool;
mod reader;
mod repository;
#[cfg(test)]
mod simulation;
mod source;
mod verify;
mod writer;

pub use backend::{
    BackendError, BackendErrorKind, FolderBackend, MemoryBackend, NfsBackend, NfsOptions, ObjectBackend, Pace,
    PacedBackend, S3Backend, S3Capabilities, S3Options, SmbBackend, SmbOptions,
};
pub use catalogue::{Catalogue, CatalogueDisk, CatalogueMachine, CataloguePoint};
pub use collector::{CollectOptions, CollectProgress, CollectReport, Waiting};
pub use environment::{Environment, Randomness, SystemRandomness};
pub use error::{Error, Result, SourceError};
pub use format::crypto::Argon2Cost;
pub use format::keyslot::{RecoveryKey, SlotKind};
pub use format::lease::LeaseKind;
pub use hold::PointHold;
pub use index::IndexOptions;
#[doc(hidden)]
pub use index::synthetic;
pub use keys::{KeySlotInfo, OldRecoveryKeys};
pub use location::{
    Location, LocationSecret, NfsLocation, Retention, RetentionMode, S3Location, SmbEncryption, SmbLocation,
};
pub use point::{
    CommittedPoint, DamagedPoint, DiskSummary, Point, PointDisk, PointId, PointList, PointMetadata, PointSummary,
    Predecessor,
};
pub use reader::{DiskFile, DiskImage, DiskSink};
pub use repository::{InitOptions, Repository, Usage};
pub use source::{BlockSource, DiskInput, NoProgress, Progress, ReadPlan};
pub use verify::{Affected, Damage, Verified, VerifyOptions, VerifyProgress, VerifyReport};
pub use writer::PointWriter;
