//! How Stillframe talks to hosts.
//!
//! Owns: the [`Hypervisor`] traits, the drivers behind them, TLS pinning. The only crate that opens a socket to a host.
//! Must never: know the repository, the database or a job; remember anything on disk.
//! Read next: `esxi/mod.rs`.

use async_trait::async_trait;
use bytes::Bytes;
use domain::Extent;
use domain::machine::{MachineConfig, PowerState};
use domain::point::{ChangeMark, Consistency};
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

mod error;
pub mod esxi;
pub mod hyperv;
pub mod tls;

pub use domain::finding::{Finding, Severity};
pub use domain::machine::Quiesce;
pub use error::{ErrorKind, HostError};
pub use esxi::FullReads;

/// Result of talking to a host.
pub type Result<T> = std::result::Result<T, HostError>;

/// A machine on a device, by the host's own reference (vSphere: managed object id, e.g. `42` or `vm-42`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MachineRef(pub String);

/// A snapshot, by the host's own reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SnapshotRef(pub String);

/// One connected host. Cheap to share; every call is safe to run beside others.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// What the host is and what will not work on it. Makes no lasting change.
    async fn preflight(&self) -> Result<DevicePreflight>;

    /// All machines, datastores and networks.
    async fn inventory(&self) -> Result<Inventory>;

    /// The datastores alone, with the space they have now.
    async fn datastores(&self) -> Result<Vec<DatastoreInfo>>;

    /// The machine as it is now, with what speaks against a backup.
    async fn machine(&self, machine: &MachineRef) -> Result<MachineInfo>;

    /// Switches change tracking on when it is off. Says whether the next snapshot can answer what changed.
    async fn enable_tracking(&self, machine: &MachineRef) -> Result<TrackingState>;

    /// Makes a snapshot without memory and waits for it. `name` is ours and unique, so that a snapshot whose answer was
    /// lost can be found again by [`Hypervisor::list_own_snapshots`]. Under [`Quiesce::Require`] a guest that could not be
    /// quiesced is an error, and no snapshot stays; what the host made and did not quiesce without a word is answered, and for
    /// the caller to refuse.
    async fn create_snapshot(&self, machine: &MachineRef, request: &SnapshotRequest) -> Result<Snapshot>;

    /// What a later run needs to ask what changed since this snapshot, one mark for each disk whose changes are tracked.
    /// Called once the disks were copied and before the point is committed. vSphere: nothing happens on the host. Hyper-V:
    /// the checkpoint becomes a reference point and is gone; [`Hypervisor::remove_snapshot`] then only finds that out.
    async fn seal_snapshot(&self, machine: &MachineRef, snapshot: &Snapshot) -> Result<Sealed>;

    /// Lets go of what the host keeps for marks that nobody will ask with again. vSphere keeps nothing. Succeeds when it is
    /// gone already.
    async fn forget_marks(&self, machine: &MachineRef, marks: &[ChangeMark]) -> Result<()>;

    /// Names of all the host keeps for marks of the machine, ours or not; asked before [`Hypervisor::seal_snapshot`]. None: it
    /// never keeps anything.
    async fn kept_for_marks(&self, _machine: &MachineRef) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Lets go of what a call to [`Hypervisor::seal_snapshot`] left whose answer nobody heard: what came since `before`, is
    /// none of `ours`, and is the only such thing. Another backup's is never touched for a guess.
    async fn forget_unheard(&self, _machine: &MachineRef, _before: &[String], _ours: &[ChangeMark]) -> Result<()> {
        Ok(())
    }

    /// Removes a snapshot and waits until the disks are consolidated. Succeeds when it is gone already.
    async fn remove_snapshot(&self, machine: &MachineRef, snapshot: &SnapshotRef) -> Result<()>;

    /// Snapshots whose name starts with [`OWN_SNAPSHOT_PREFIX`].
    async fn list_own_snapshots(&self, machine: &MachineRef) -> Result<Vec<OwnSnapshot>>;

    /// All snapshots of a machine, whoever made them.
    async fn list_snapshots(&self, machine: &MachineRef) -> Result<Vec<HostSnapshot>>;

    /// The frozen disks of a snapshot, ready to be read.
    async fn open_disks(&self, machine: &MachineRef, snapshot: &Snapshot) -> Result<Vec<Arc<dyn DiskReader>>>;

    /// Asks the guest to shut down and waits at most `patience` for it. Succeeds when the machine is off already.
    async fn shut_down(&self, machine: &MachineRef, patience: Duration) -> Result<ShutDown>;

    /// Switches the machine off like a power failure. Succeeds when it is off already.
    async fn power_off(&self, machine: &MachineRef) -> Result<()>;

    /// Switches the machine on. Succeeds when it is on already.
    async fn power_on(&self, machine: &MachineRef) -> Result<()>;

    /// Defines a new machine and opens it for writing. Nothing is left on the host unless [`RestoreTarget::commit`] ran.
    async fn create_target(&self, request: &RestoreRequest) -> Result<Box<dyn RestoreTarget>>;

    /// Removes a machine that a restore made: only when its reference, and the token written into its notes or extra
    /// configuration at creation ([`RestoreRequest::token`]), match. Succeeds when it is gone already.
    async fn remove_half_made(&self, token: &str) -> Result<()>;

    /// Ends the session. Errors are of no consequence.
    async fn close(&self);
}

/// Every snapshot of ours has a name that starts so.
pub const OWN_SNAPSHOT_PREFIX: &str = "stillframe-";

/// Code of the finding that a checkpoint stands which is not known to be ours.
pub const FOREIGN_CHECKPOINT: &str = "foreign_checkpoint";

/// What the host is and what works on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePreflight {
    /// The host's own description, e.g. `VMware ESXi 8.0.2 build-22380479`.
    pub product: String,
    /// API version, e.g. `8.0.2.0`.
    pub api_version: String,
    /// The host's unique id, to notice when an address answers with another host.
    pub host_uuid: Option<String>,
    /// What was found, worst first.
    pub findings: Vec<Finding>,
}

/// All that a device holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Machines.
    pub machines: Vec<MachineInfo>,
    /// Datastores.
    pub datastores: Vec<DatastoreInfo>,
    /// Networks.
    pub networks: Vec<NetworkInfo>,
    /// Snapshots of all machines, whoever made them.
    pub snapshots: Vec<HostSnapshot>,
}

/// A machine as the host reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineInfo {
    /// Reference on this device.
    pub reference: MachineRef,
    /// Hardware definition; its disks are only those that can be backed up.
    pub config: MachineConfig,
    /// Power state.
    pub power: PowerState,
    /// Guest operating system in words, if known.
    pub guest_name: String,
    /// First address of the guest, if its tools report one.
    pub guest_address: Option<String>,
    /// Folder path for people.
    pub folder: String,
    /// Path of its resource pool, without the host's own outermost one; empty where there is none or the host was asked for
    /// this machine alone.
    pub pool: String,
    /// All disks, also those that cannot be backed up, with their place.
    pub disks: Vec<DiskPlace>,
    /// Change tracking is switched on (it may not be active yet).
    pub tracking_enabled: bool,
    /// What speaks against a backup, worst first.
    pub findings: Vec<Finding>,
}

/// Where a disk lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlace {
    /// Device key.
    pub key: i32,
    /// Label.
    pub label: String,
    /// Bytes.
    pub capacity_bytes: u64,
    /// Name of the datastore.
    pub datastore: String,
    /// Path in the host's notation, e.g. `[datastore1] web/web.vmdk`.
    pub path: String,
    /// Host's unique id.
    pub uuid: Option<String>,
}

/// A datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatastoreInfo {
    /// Reference on this device.
    pub reference: String,
    /// Name.
    pub name: String,
    /// Type as the platform writes it: `VMFS`, `NFS`, `vsan` …
    pub kind: String,
    /// Bytes.
    pub capacity_bytes: u64,
    /// Bytes.
    pub free_bytes: u64,
    /// Mounted and usable.
    pub accessible: bool,
}

/// A network machines can be attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Reference on this device.
    pub reference: String,
    /// Name.
    pub name: String,
}

/// Whether the host can tell what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackingState {
    /// On, and active for the next snapshot.
    Active,
    /// Was switched on just now; on a running machine it is active only after its next stun.
    SwitchedOn,
    /// The host refused, with its reason.
    Refused(String),
}

/// How a request to shut down ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShutDown {
    /// The machine is off.
    Off,
    /// It still runs, with the reason: the guest refused, has no tools, or took too long.
    StillOn(String),
}

/// A snapshot to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// Unique, starts with [`OWN_SNAPSHOT_PREFIX`].
    pub name: String,
    /// For the host's own console.
    pub description: String,
    /// Policy.
    pub quiesce: Quiesce,
}

/// A snapshot that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Reference on this device.
    pub reference: SnapshotRef,
    /// State of the guest's data.
    pub consistency: Consistency,
    /// The machine's definition at the moment of the snapshot.
    pub config: MachineConfig,
    /// Why it is less than was asked for, and the like.
    pub warnings: Vec<String>,
}

/// What a later run asks with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sealed {
    /// One for each disk whose changes are tracked.
    pub marks: Vec<ChangeMark>,
    /// Disks that should have a mark and have none, each with the cause: the next run reads all of them.
    pub unmarked: Vec<String>,
}

/// A snapshot of ours that exists on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSnapshot {
    /// Reference.
    pub reference: SnapshotRef,
    /// Its name.
    pub name: String,
}

/// A snapshot as the host lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSnapshot {
    /// Of this machine.
    pub machine: MachineRef,
    /// Reference on this device.
    pub reference: SnapshotRef,
    /// Its name now; its maker chose it, or a user since.
    pub name: String,
    /// When it was made, by the host's clock.
    pub created_at: Option<Timestamp>,
    /// Hyper-V: of the type that backup programs make and users cannot.
    pub is_recovery: bool,
}

/// What of a disk to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Areas {
    /// The host's list: sorted, checked, nothing outside it differs (or, for a full, nothing outside it is allocated).
    Known(Vec<Extent>),
    /// The host cannot tell; read everything. With the reason, for the log.
    Unknown(String),
}

/// One frozen disk of a snapshot.
#[async_trait]
pub trait DiskReader: Send + Sync {
    /// Device key of the disk.
    fn key(&self) -> i32;

    /// Bytes.
    fn size_bytes(&self) -> u64;

    /// Whether the host tracks this disk's changes, so that [`Hypervisor::seal_snapshot`] gives a mark for it.
    fn tracks_changes(&self) -> bool;

    /// What changed since `mark`. A mark the host no longer knows is not an error: [`Areas::Unknown`] with the cause.
    async fn changed_since(&self, mark: &ChangeMark) -> Result<Areas>;

    /// What is allocated, where that is reliable (vSphere: `*` on VMFS with active tracking).
    async fn allocated(&self) -> Result<Areas>;

    /// Bytes of `range` in order, in pieces of any size. One long range is one request to the host, read ahead.
    /// A host that sends less, or something else, ends the stream with an error, never silently.
    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes>>;

    /// Bytes of many areas, in their order, each piece with its place on the disk; short areas cost no wait each where the
    /// host allows several requests at once. Bounded like one [`DiskReader::stream`].
    fn stream_areas(&self, areas: Vec<Extent>) -> BoxStream<'static, Result<(u64, Bytes)>>;

    /// How many streams may be read at once to some use: 1 where a file has one reader at a time.
    fn lanes(&self) -> usize;
}

/// Where to restore a machine to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRequest {
    /// The machine as it was backed up.
    pub config: MachineConfig,
    /// Name on the target.
    pub name: String,
    /// Name of the target datastore.
    pub datastore: String,
    /// Name of the target network for every adapter; `None` keeps the old name where the target has it.
    pub network: Option<String>,
    /// Connect the adapters at power-on.
    pub connect_network: bool,
    /// Keep MAC addresses and ids (the original is gone), or let the host give new ones (a copy).
    pub keep_identity: bool,
    /// Written into the machine at creation, so that [`Hypervisor::remove_half_made`] finds exactly it.
    pub token: String,
}

/// A machine that is being restored. Dropping it without `commit` or `abandon` leaves the removal to the reconciler.
#[async_trait]
pub trait RestoreTarget: Send {
    /// Reference of the new machine, as soon as the host has given one.
    fn machine(&self) -> Option<MachineRef>;

    /// Starts the disk with the source's key `disk_key`. Disks are written one after the other.
    async fn begin_disk(&mut self, disk_key: i32) -> Result<()>;

    /// The next bytes of the disk that was begun. Offsets ascend; what is skipped reads as zero.
    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()>;

    /// Ends the disk; the host has taken all of it.
    async fn finish_disk(&mut self) -> Result<()>;

    /// Makes the machine whole. Fails if a disk is missing.
    async fn commit(self: Box<Self>) -> Result<MachineRef>;

    /// Removes what was made.
    async fn abandon(self: Box<Self>) -> Result<()>;
}
