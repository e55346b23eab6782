//! Integration: real sockets, real Postgres, the simulator with faults on, independent peers.

mod start;
mod vcsim;
