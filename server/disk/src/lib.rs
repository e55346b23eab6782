//! What is inside a virtual disk: container formats, and later partitions and file systems.
//!
//! Owns: the VMDK descriptor, the streamOptimized VMDK stream.
//! Must never: talk to a host or to the repository; trust a length it read. Every input is hostile.
//! Read next: `container/vmdk/mod.rs`.

pub mod container;
mod error;

pub use error::DiskError;

/// Result of reading or writing a disk format.
pub type Result<T> = std::result::Result<T, DiskError>;
