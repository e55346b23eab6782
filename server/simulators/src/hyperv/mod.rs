//! A simulated Hyper-V host.

pub mod disk;
mod ntlm;
pub mod samba;
