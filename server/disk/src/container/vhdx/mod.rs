//! VHDX images, after MS-VHDX (version 8.0). All integers are little-endian.
//!
//! ```text
//! 0        file type identifier   "vhdxfile"
//! 64 KiB   header 1               the valid one with the higher sequence number counts
//! 128 KiB  header 2
//! 192 KiB  region table 1         where the block table (BAT) and the metadata lie
//! 256 KiB  region table 2
//! 1 MiB    log, metadata, BAT and blocks, each aligned to 1 MiB, in any order
//! ```
//!
//! Reading: `image` (open, map), in the order of `header`, `log` (replayed into `overlay`, never written), `region`,
//! `metadata`, `bat`. Writing: `writer`.

mod bat;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod geometry;
mod header;
mod image;
mod layout;
mod locator;
mod log;
mod metadata;
mod occupancy;
mod overlay;
mod region;
mod writer;

pub(super) use image::VhdxImage;
pub use layout::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, SIZE_BYTES_MAX};
pub use writer::{VhdxOptions, VhdxWriter};
