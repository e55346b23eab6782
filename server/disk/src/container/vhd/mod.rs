//! VHD images, after Microsoft's "Virtual Hard Disk Image Format Specification" 1.0. All integers are big-endian.
//!
//! ```text
//! fixed                    the disk's bytes, then the footer (512 bytes)
//! dynamic, differencing    copy of the footer, header (1024 bytes), block table, blocks, footer
//! block                    bitmap of its sectors, padded to 512 bytes, then its data
//! ```
//!
//! Read only. Next: `image`, then `footer` and `header`.

mod footer;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod header;
mod image;

pub(super) use image::VhdImage;
