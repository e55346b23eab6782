//! The Hyper-V simulator over raw HTTP, with a client that knows nothing but text: what it accepts, refuses, does and survives.

mod bench;
mod checkpoints;
mod faults;
mod machines;
mod wire;
