//! The simulator over raw HTTP, with a client that knows nothing but text: what it accepts, refuses, locks and survives.

mod bench;
mod disks;
mod faults;
mod leases;
mod life;
mod protocol;
mod tracking;
