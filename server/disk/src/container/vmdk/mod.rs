//! Disk formats of vSphere, after the Virtual Disk Format 5.0 technical note.
//!
//! Owns: the text descriptor ([`Descriptor`]) and the streamOptimized form ([`StreamOptimizedWriter`],
//! [`StreamOptimizedReader`]), which is what an import lease takes.
//! Must never: seek. The stream is written and read once, from front to back.

mod descriptor;
mod layout;
mod reader;
mod writer;

pub use descriptor::{Access, Descriptor, DescriptorExtent, ExtentKind};
pub use layout::{GRAIN_BYTES, MAX_CAPACITY_BYTES, SECTOR_BYTES};
pub use reader::{Grain, StreamOptimizedReader};
pub use writer::{GrainSplitter, StreamAssembler, StreamOptimizedWriter, encode_grain};
