//! Hypervisor hosts that are not there: simulated hosts on real sockets with real disk files, for trying the product, for its
//! self-test and for its tests.
//!
//! Owns: the ESXi simulator ([`esxi`]), with its own SOAP codec, its own `streamOptimized` reader and writer, and its faults; the
//! disks of the Hyper-V simulator ([`hyperv::disk`]), with its own VHDX, and the Samba that serves them.
//! Must never: share code with the drivers or the disk readers (a common mistake would cancel out), or listen on anything but
//! loopback unless told to. Everything it shows is labelled simulated.
//!
//! Read next: [`esxi::SimulatedHost`], [`hyperv::disk::DiskStore`].

mod content;
mod error;
pub mod esxi;
pub mod hyperv;
mod sparse;

pub use error::SimulatorError;
