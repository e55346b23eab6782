//! Integration: real sockets, real Postgres, the simulator with faults on, independent peers.

mod adopt;
mod bad_input;
mod bench;
mod choice;
mod cold;
mod esxi_driver;
mod hyperv_bad_input;
mod hyperv_driver;
mod hyperv_job;
mod hyperv_kill;
mod hyperv_lab;
mod hyperv_trouble;
mod kill;
mod load;
mod main_job;
mod marks;
mod notices;
mod retention;
mod rig;
mod room;
mod schedules;
mod selftest;
mod speed;
mod start;
mod tracking;
mod vcsim;
