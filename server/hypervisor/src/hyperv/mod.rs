//! The Hyper-V driver: WMI over WS-Management for control, SMB for the disks' bytes. No agent, no PowerShell.
//!
//! Owns: everything that knows Hyper-V. Layers, from below: `ntlm` (logging in, sealing) — `wire` (WS-Management) —
//! `wmi` (instances, methods, jobs).
//! Must never: follow what a host says without checking it; send a password over a connection without TLS.
//! Read next: `wire/mod.rs`, then `wmi/mod.rs`; `files/mod.rs` for the bytes of disks.

pub mod files;
#[allow(dead_code)] // the same
mod ntlm;
#[cfg(test)]
mod script;
#[allow(dead_code, unused_imports)] // what the driver's operations call; they come next
mod wire;
#[allow(dead_code, unused_imports)] // the same
mod wmi;

pub use wire::{Timeouts, Transport};
