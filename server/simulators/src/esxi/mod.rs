//! A simulated ESXi host: SOAP under `/sdk`, files under `/folder`, leases under `/nfc`, over TLS with a certificate of its own.
//!
//! It is strict where real hosts are (element order, versions, cookies, file locks, power states, paging) and misbehaves on
//! demand ([`Faults`]). Machines have real sparse disk files, snapshots make real COWD deltas, change tracking is per epoch, and
//! guests write while their machine runs. Everything survives a restart on the same folder.
//!
//! Code map: [`simulated`] is the public face; `server` → `soap` → `methods` is the way of a call; `schema` (table
//! `schema.txt`) checks it; `host` and `machine` hold the state; `disk` the bytes; `inventory` and `collector` the properties;
//! `lease`, `nfc` and `stream_vmdk` whole disks in and out; `folder` ranges of files.

mod answer;
mod build;
mod collector;
mod config;
mod demo;
mod disk;
mod fault;
mod folder;
mod host;
mod inject;
mod inventory;
mod inventory_machine;
mod lease;
mod locks;
mod log;
mod machine;
mod methods;
mod nfc;
mod pool;
mod schema;
mod server;
mod session;
mod simulated;
mod soap;
mod spec;
mod stream_vmdk;
mod task;
mod updates;
mod value;

pub use config::{
    DatastoreKind, DatastoreSpec, DiskContent, DiskMode, DiskSpec, Firmware, GuestWrites, HostConfig, License, Limits,
    MachineSpec, NicModel, NicSpec, Power,
};
pub use demo::demo_config;
pub use host::{DiskRecord, SnapshotRecord};
pub use inject::{Action, Corruption, Faults, On, Rule, RuleId};
pub use log::RequestRecord;
pub use simulated::{DiskView, MachineView, SimulatedHost, SnapshotView};
