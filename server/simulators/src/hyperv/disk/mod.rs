//! Virtual disks of the simulated Hyper-V host: real VHDX files in the folder of its drive `C:`.
//!
//! Owns: chains of `.vhdx` and `.avhdx` files, checkpoints, merges, resilient change tracking, and what guests write. Every
//! disk has a lock of its own: guest writes, checkpoints and merges exclude each other there, and a checkpoint of several disks
//! takes all their locks, so it is one instant. Everything survives a restart on the same folders.
//!
//! Must never: know machines, jobs or WMI ([`DiskStore`] is what those call), or share code with the product's disk readers.
//!
//! Read next: [`DiskStore`]; then `virtual_disk` (one disk), `chain` (its files), `vhdx` (one file), `tracking`, `guest`.

mod chain;
mod drive;
mod guest;
mod spec;
mod store;
mod tracking;
mod vhdx;
mod virtual_disk;

pub use drive::Drive;
pub use spec::{ChangesRefused, Content, Converted, DiskLayout, DiskSpec, Merged, SectorSizes, StoreOptions};
pub use store::DiskStore;
pub use tracking::TRACKING_UNIT_BYTES;
pub use virtual_disk::DiskId;

pub use crate::content::GuestWrites;
