//! All SQL, the job queue, and the private Postgres.
//!
//! Owns: the schema (`/migrations`), every query, sealed credentials, leases and their fences, notifications.
//! Must never: make a network call inside a transaction, give out a secret other than as a `SecretString`, or take the
//! time from anywhere but Postgres's `now()`.
//! Read next: `jobs/lease.rs` for the queue, `runs.rs` for what a start of a task is, `private_postgres.rs`.
//!
//! Queries are written at run time and every one is run by a test against a real Postgres: nobody needs a database to
//! build.

mod accounts;
mod audit;
mod chain;
mod choice;
mod column;
mod database;
mod devices;
mod drafts;
mod error;
mod events;
mod foreign;
mod goals;
mod ids;
mod inventory;
mod jobs;
mod journal;
mod limits;
mod notices;
mod points;
pub mod private_postgres;
mod repositories;
mod retention;
mod runs;
mod scheduler;
mod sealed;
mod sessions;
mod settings;
mod tags;
mod tasks;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tracking;
pub mod views;
mod workers;

#[cfg(test)]
mod tests;

pub use accounts::{Account, Theme};
pub use audit::{Audit, AuditEntry};
pub use choice::Joined;
pub use database::{Address, Database};
pub use devices::{Device, DeviceUpdate, FullReads, HyperVAccess, NewDevice, Platform, Preflight, Transport};
pub use drafts::{Draft, DraftKind};
pub use error::{Conflict, Error, Result};
pub use events::{Event, Events};
pub use foreign::{CleanupOrder, FOREIGN_SNAPSHOTS_MAX, ForeignInput, ForeignSnapshot};
pub use goals::Goal;
pub use ids::{
    AccountId, ChangeId, ChannelId, DeliveryId, DeviceId, DraftId, ForeignId, JobId, NoticeId, PointId, RepositoryId,
    RunId, TaskId, VmId, WorkerId,
};
pub use inventory::{
    Datastore, DatastoreInput, Disk, DiskInput, InventoryChanges, InventoryInput, Machine, MachineInput, Network,
    NetworkInput,
};
pub use jobs::{
    DiskProgress, Heartbeat, Job, JobDisk, LEASE_SECONDS, Lease, LeaseLimits, LogLine, NewJob, Outcome, Progress,
    Reaped, back_off,
};
pub use journal::{Change, ChangeKind, ChangeState, NewChange};
pub use limits::DeviceLimits;
pub use notices::{Channel, ChannelInput, Delivery, DeliveryLine, DeliveryState, Notice, NoticeLimits};
pub use points::{NewPoint, Point};
pub use repositories::{NewRepository, Repository};
pub use retention::{Draft as RetentionDraft, Expiring, MachinePoints, Marked, Outlook, PIN_NOTE_MAX_CHARS, TaskRule};
pub use runs::{NewRestore, Run, RunKind, Start};
pub use scheduler::DueTask;
pub use sealed::CredentialKey;
pub use sessions::{LoginFailures, NewSession, Session};
pub use tags::TagChange;
pub use tasks::{Method, PointsAfter, Task, TaskInput};
pub use tracking::{NewTrackingAlarm, TrackingAlarm};
pub use workers::{Enrolment, LOST_SECONDS, Presence, Reach, TOKEN_HOURS, WorkerKind};
