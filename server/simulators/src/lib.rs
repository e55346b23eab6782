//! Hypervisor hosts that are not there: simulated hosts on real sockets with real disk files, for trying the product, for its
//! self-test and for its tests.
//!
//! Owns: the ESXi simulator ([`esxi`]), with its own SOAP codec, its own `streamOptimized` reader and writer, and its faults; the
//! Hyper-V simulator ([`hyperv`]), with its own WS-Management, NTLM and VHDX, and the Samba that serves its disks; what both need,
//! beside them.
//! Must never: share code with the drivers or the disk readers (a common mistake would cancel out), or listen on anything but
//! loopback unless told to. Everything it shows is labelled simulated.
//!
//! Read next: [`esxi::SimulatedHost`], [`hyperv::SimulatedHost`].

mod content;
mod error;
pub mod esxi;
pub mod hyperv;
mod listen;
mod rules;
mod sparse;
mod state;
mod tls;
mod xml;

pub use error::SimulatorError;
