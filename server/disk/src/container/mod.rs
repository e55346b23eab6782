//! Container formats of virtual disks.

pub mod vmdk;
