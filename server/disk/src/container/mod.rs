//! Container formats of virtual disks.
//!
//! VMDK is read and written as streams. VHDX and VHD are files that are read at places: `source` says where their bytes
//! come from, `chain` puts an image and its parents together into one disk.

mod chain;
mod fields;
#[cfg(any(test, feature = "fuzzing"))]
mod memory;
mod open;
mod pages;
mod plan;
mod segment;
mod source;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
mod windows_path;

pub use chain::{ReadOptions, VirtualDisk};
pub use open::{CHAIN_IMAGES_MAX, ImageInfo, ImageKind};
pub use source::{ImageFolder, ImageSource, ImageTarget};
