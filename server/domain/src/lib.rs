//! The words and rules of Stillframe, without any input or output.
//!
//! Owns: extents, machine descriptions, modes, choices of machines, tags, findings, names of other backups' snapshots, schedules,
//! retention, samples, limits of speed, job states and errors, notices, names of workers, permissions, the clock trait.
//! Must never: open a file or socket, read the clock, or know SQL, HTTP or a host's protocol.

pub mod address;
pub mod bandwidth;
pub mod choice;
pub mod clock;
pub mod extent;
pub mod finding;
pub mod foreign;
pub mod job;
pub mod machine;
pub mod mode;
pub mod notice;
pub mod permission;
pub mod point;
pub mod retention;
pub mod sampling;
pub mod schedule;
pub mod tag;
pub mod worker;

pub use clock::{Clock, SystemClock};
pub use extent::Extent;
