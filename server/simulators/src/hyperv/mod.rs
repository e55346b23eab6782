//! A simulated Hyper-V host: WS-Management under `/wsman`, with TLS (Basic, NTLM) and without (NTLM with sealed messages).
//!
//! It is strict where a Windows host is (envelopes, selectors, references, embedded instances, filters), answers 4096 and lets
//! jobs take their time, and misbehaves on demand ([`Faults`]). What a client did against the rules is kept ([`Crime`]).
//! Machines survive a restart on the same folder. Nothing here was compared with a real Windows.
//!
//! Code map: [`simulated`] is the public face; `wire::server` → `engine` → `query` or `methods` is the way of a message; `ntlm`
//! lets people in; `model` is CIM (classes in `schema.txt`, values, paths, WQL, embedded instances); `host` and `machine` hold
//! the state, `inventory` shows it as instances; `jobs` are what clients poll; [`disk`] keeps the VHDX files and
//! [`samba`] serves them.

mod build;
mod config;
mod crimes;
mod demo;
pub mod disk;
mod engine;
mod host;
mod inject;
mod inventory;
mod inventory_host;
mod jobs;
mod log;
mod machine;
mod methods;
mod model;
mod ntlm;
mod parts;
mod query;
pub mod samba;
mod simulated;
mod wire;

pub use config::{
    Content, DISK_FOLDER, DiskKind, DiskSpec, Files, GuestWrites, HostConfig, Limits, MachineSpec, Quirks, Shutdown,
};
pub use crimes::{Crime, Rule as WireRule};
pub use demo::demo_config;
pub use inject::{Action, Faults, On, Rule, RuleId};
pub use log::RequestRecord;
pub use simulated::{DiskView, MachineView, SimulatedHost, SnapshotView};
