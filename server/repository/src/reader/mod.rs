//! Reading disks of restore points: the map, single places, and long runs with read-ahead. Every byte that leaves here
//! was checked against the identity of its chunk.
//!
//! Next: `map` (where the chunks of a disk are), `image` (what others read by), `deliver` (all of a disk, in any order).

mod deliver;
mod file;
mod image;
mod map;

pub use deliver::DiskSink;
pub use file::DiskFile;
pub use image::DiskImage;
pub use map::{DiskMap, by_frame};
