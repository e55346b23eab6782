//! What is inside a virtual disk: container formats, and later partitions and file systems.
//!
//! Owns: the VMDK descriptor, the streamOptimized VMDK stream; VHDX and VHD images and chains of them.
//! Must never: talk to a host or to the repository; trust a length it read. Every input is hostile.
//! Read next: `container/mod.rs`.

pub mod container;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

pub use error::DiskError;

/// Result of reading or writing a disk format.
pub type Result<T> = std::result::Result<T, DiskError>;
