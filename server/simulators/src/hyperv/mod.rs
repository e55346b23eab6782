//! A simulated Hyper-V host.

pub mod disk;
pub mod samba;
