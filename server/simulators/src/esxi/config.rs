//! What a simulated host is made of. All plain data; see [`super::SimulatedHost::start`] for what is done with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::content::GuestWrites;

/// One simulated ESXi host.
#[derive(Clone)]
pub struct HostConfig {
    /// Host name as the inventory shows it.
    pub name: String,
    /// Folder of everything the host keeps: datastores, certificate, machines. What is there from an earlier run wins over
    /// [`HostConfig::machines`], so that a restart keeps the machines.
    pub state_dir: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The one account.
    pub account: String,
    /// Its password.
    pub password: String,
    /// Machines of a fresh host.
    pub machines: Vec<MachineSpec>,
    /// Datastores; the first is the default of machines that name none.
    pub datastores: Vec<DatastoreSpec>,
    /// Networks (standard port groups).
    pub networks: Vec<String>,
    /// Resource pools without machines, e.g. `Production/Web`; those of machines come by themselves, and each with those above.
    pub pools: Vec<String>,
    /// With [`License::Free`] every change is refused with `RestrictedVersion`.
    pub license: License,
    /// Newest API version the host speaks, e.g. `6.0`, `6.7`, `8.0.2.0`.
    pub api_version: String,
    /// Time-outs and sizes.
    pub limits: Limits,
    /// Keep a copy of every disk as it was at each snapshot (see [`super::SnapshotRecord`]).
    pub record_snapshots: bool,
}

impl HostConfig {
    /// A host with one VMFS datastore `datastore1`, the network `VM Network`, account `root` / `simulated` and no machines,
    /// on a free port of the loopback interface.
    pub fn new(name: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            state_dir: state_dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            account: "root".to_owned(),
            password: "simulated".to_owned(),
            machines: Vec::new(),
            datastores: vec![DatastoreSpec::vmfs("datastore1")],
            networks: vec!["VM Network".to_owned()],
            pools: Vec::new(),
            license: License::Full,
            api_version: "8.0.2.0".to_owned(),
            limits: Limits::default(),
            record_snapshots: false,
        }
    }
}

impl std::fmt::Debug for HostConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostConfig")
            .field("name", &self.name)
            .field("state_dir", &self.state_dir)
            .field("listen", &self.listen)
            .field("account", &self.account)
            .field("machines", &self.machines)
            .finish_non_exhaustive()
    }
}

/// Licence of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum License {
    /// Everything works.
    Full,
    /// The free hypervisor: inventory works, changes are refused.
    Free,
}

/// A datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatastoreSpec {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: DatastoreKind,
    /// Size it claims, in bytes.
    pub capacity_bytes: u64,
}

impl DatastoreSpec {
    /// A VMFS datastore that claims 1 TiB.
    pub fn vmfs(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: DatastoreKind::Vmfs, capacity_bytes: 1 << 40 }
    }
}

/// Kinds of datastores, which differ in what change tracking and file access can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatastoreKind {
    /// VMFS: the change id `*` answers allocated areas.
    Vmfs,
    /// NFS: the change id `*` answers one extent of the whole disk.
    Nfs,
    /// vSAN: disks have no flat file that could be read through `/folder`.
    Vsan,
}

/// A machine of a fresh host.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Display name, and name of its folder.
    pub name: String,
    /// Whether it runs.
    pub power: Power,
    /// vSphere guest id, e.g. `debian12_64Guest`.
    pub guest_id: String,
    /// BIOS or EFI.
    pub firmware: Firmware,
    /// Virtual processors.
    pub processors: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Hardware version.
    pub hardware_version: String,
    /// Disks, in order: keys 2000, 2001, …
    pub disks: Vec<DiskSpec>,
    /// Network adapters.
    pub nics: Vec<NicSpec>,
    /// What the guest writes while it runs.
    pub writes: Option<GuestWrites>,
    /// Names of snapshots that users made before, oldest first; each is the parent of the next.
    pub snapshots: Vec<String>,
    /// Change tracking is on and active from the start.
    pub tracking: bool,
    /// Datastore by name; the host's first when unset.
    pub datastore: Option<String>,
    /// VMware Tools run in the guest while it runs.
    pub tools: bool,
    /// Path of its resource pool; empty is the host's own.
    pub pool: String,
}

impl MachineSpec {
    /// A powered-off Debian machine with one processor, 1 GiB of memory, one adapter on `VM Network`, and no disk yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            power: Power::Off,
            guest_id: "debian12_64Guest".to_owned(),
            firmware: Firmware::Bios,
            processors: 1,
            memory_mib: 1024,
            hardware_version: "vmx-19".to_owned(),
            disks: Vec::new(),
            nics: vec![NicSpec { network: "VM Network".to_owned(), model: NicModel::Vmxnet3 }],
            writes: None,
            snapshots: Vec::new(),
            tracking: false,
            datastore: None,
            tools: true,
            pool: String::new(),
        }
    }
}

/// Power of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// Running.
    On,
    /// Off.
    Off,
}

/// Firmware of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    /// Legacy BIOS.
    Bios,
    /// UEFI; the machine also has an `.nvram` file.
    Efi,
}

/// A disk of a machine.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    /// Size in bytes, rounded up to whole KiB. For [`DiskContent::Raw`] 0 means the size of the file.
    pub size_bytes: u64,
    /// What is on it.
    pub content: DiskContent,
    /// How the host treats it.
    pub mode: DiskMode,
}

impl DiskSpec {
    /// A persistent disk.
    pub fn new(size_bytes: u64, content: DiskContent) -> Self {
        Self { size_bytes, content, mode: DiskMode::Persistent }
    }
}

/// Contents of a fresh disk.
#[derive(Debug, Clone)]
pub enum DiskContent {
    /// A copy (kept sparse) of a raw disk image.
    Raw(PathBuf),
    /// Compressible content that depends on the seed alone, spread over the disk in runs.
    Generated {
        /// Decides every byte.
        seed: u64,
        /// About how many bytes are not zero.
        used_bytes: u64,
    },
    /// Zeros.
    Empty,
}

/// How a disk takes part in snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskMode {
    /// The normal kind.
    Persistent,
    /// Left out of snapshots.
    IndependentPersistent,
    /// Left out of snapshots, and its changes are lost at power off.
    IndependentNonpersistent,
    /// A raw device mapping in virtual compatibility mode: takes part in snapshots.
    RawDeviceVirtual,
    /// A raw device mapping in physical compatibility mode: left out of snapshots.
    RawDevicePhysical,
}

impl DiskMode {
    /// Whether a snapshot freezes the disk.
    pub const fn in_snapshots(self) -> bool {
        matches!(self, Self::Persistent | Self::RawDeviceVirtual)
    }
}

/// A network adapter.
#[derive(Debug, Clone)]
pub struct NicSpec {
    /// Network by name.
    pub network: String,
    /// Adapter model.
    pub model: NicModel,
}

/// Models of network adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NicModel {
    /// VMXNET 3.
    Vmxnet3,
    /// Intel E1000.
    E1000,
    /// Intel E1000e.
    E1000e,
}

/// Time-outs and sizes of the simulated host.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A session that is idle for longer is gone.
    pub session_idle: Duration,
    /// Sessions at a time; one more gets "Out of HTTP sessions".
    pub sessions_max: usize,
    /// A lease without `HttpNfcLeaseProgress` for longer ends in an error.
    pub lease_timeout: Duration,
    /// How long a lease stays `initializing`.
    pub lease_initializing: Duration,
    /// How long every task takes at least.
    pub task_delay: Duration,
    /// How long an operation waits for readers of a disk file before it fails for the lock.
    pub lock_wait: Duration,
    /// Unit of change tracking, in bytes.
    pub tracking_unit_bytes: u64,
    /// Areas in one answer of `QueryChangedDiskAreas`.
    pub areas_per_answer: usize,
    /// Objects in one page of `RetrievePropertiesEx`.
    pub objects_per_page: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            session_idle: Duration::from_secs(30 * 60),
            sessions_max: 100,
            lease_timeout: Duration::from_secs(300),
            lease_initializing: Duration::from_millis(100),
            task_delay: Duration::from_millis(20),
            lock_wait: Duration::from_secs(2),
            tracking_unit_bytes: 64 << 10,
            areas_per_answer: 2000,
            objects_per_page: 100,
        }
    }
}
