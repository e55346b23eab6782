//! Integration: real sockets, real Postgres, the simulator with faults on, independent peers.

mod main_job;
mod rig;
mod start;
mod vcsim;
