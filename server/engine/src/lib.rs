//! What a job does: backup, restore, verification, inventory, reconciling; the workers that run jobs; notices on their way.
//!
//! Owns: the order of a backup's and a restore's steps, retry and cancel, what is undone after a failure.
//! Must never: speak a host's protocol, name an object of a repository, or hold state that another worker needs:
//! workers and the console meet in Postgres only.
//! Read next: `facade.rs` (what the console calls), `backup/mod.rs` (the main job), `runtime/mod.rs` (workers).

mod backup;
mod collect;
mod config;
mod context;
mod core;
pub mod drivers;
pub mod errors;
mod facade;
mod inventory;
mod notices;
mod progress;
mod reconcile;
mod repositories;
mod restore;
mod retain;
mod runtime;
mod sessions;
mod space;
mod stop;
mod throttle;
mod verify;
mod words;

pub use config::EngineConfig;
pub use domain::finding::{Finding, Severity};
pub use domain::job::JobError;
pub use facade::{Engine, HostAccess, LocationOrder, NewLocation, Preflight};
pub use repositories::{Locations, RealLocations};
pub use repository::{Location, NfsLocation, Retention, RetentionMode, S3Location, SmbEncryption, SmbLocation};
pub use restore::RestoreOrder;
pub use runtime::Workers;
pub use sessions::{ConnectTarget, Connector};
