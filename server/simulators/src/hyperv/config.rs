//! What a simulated host is made of. All plain data; see [`super::SimulatedHost::start`] for what is done with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::disk::Content;
use super::samba::Encryption;
pub use crate::content::GuestWrites;

/// Folder of virtual hard disks, as a fresh host has it.
pub const DISK_FOLDER: &str = "C:\\Hyper-V\\Virtual Hard Disks";

/// One simulated Hyper-V host.
#[derive(Clone)]
pub struct HostConfig {
    /// Computer name, at most 15 letters, digits and hyphens.
    pub name: String,
    /// Folder of everything the host keeps. What is there from an earlier run wins over [`HostConfig::machines`].
    pub state_dir: PathBuf,
    /// Where to listen with TLS (a real host: 5986); port 0 takes a free one.
    pub listen_tls: SocketAddr,
    /// Where to listen without TLS, for sealed messages (a real host: 5985).
    pub listen_http: SocketAddr,
    /// The one account, an administrator.
    pub account: String,
    /// Its password.
    pub password: String,
    /// Build of Windows: 14393 is Server 2016, 17763 is 2019, 20348 is 2022.
    pub build: u32,
    /// Machines of a fresh host.
    pub machines: Vec<MachineSpec>,
    /// Virtual switches of a fresh host.
    pub switches: Vec<String>,
    /// Whether a Samba serves the drive as `C$`.
    pub files: Files,
    /// Keep the digest of every disk as it was at each checkpoint (see [`super::disk::DiskStore::recorded_digest`]).
    pub records_digests: bool,
    /// A checkpoint has the name that its settings ask for from the first moment. What a real host does with it is not known.
    pub names_checkpoints: bool,
    /// Frozen files have their last updates of metadata only in their log.
    pub leaves_dirty_logs: bool,
    /// Size the volume `C:` claims.
    pub volume_bytes: u64,
    /// Times and sizes.
    pub limits: Limits,
}

impl HostConfig {
    /// A Windows Server 2022 with one switch `LAN`, account `Administrator` / `simulated` and no machines, on free ports of the
    /// loopback interface.
    pub fn new(name: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            state_dir: state_dir.into(),
            listen_tls: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            listen_http: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            account: "Administrator".to_owned(),
            password: "simulated".to_owned(),
            build: 20348,
            machines: Vec::new(),
            switches: vec!["LAN".to_owned()],
            files: Files::Served { port: None, encryption: Encryption::Offered },
            records_digests: false,
            names_checkpoints: false,
            leaves_dirty_logs: false,
            volume_bytes: 1 << 40,
            limits: Limits::default(),
        }
    }
}

impl std::fmt::Debug for HostConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostConfig")
            .field("name", &self.name)
            .field("state_dir", &self.state_dir)
            .field("account", &self.account)
            .field("machines", &self.machines)
            .finish_non_exhaustive()
    }
}

/// How clients reach the drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Not at all, for tests that need none.
    Closed,
    /// By SMB on a port of the loopback interface (a real host: 445); unset takes a free one.
    Served {
        /// The port.
        port: Option<u16>,
        /// Whether clients have to encrypt.
        encryption: Encryption,
    },
}

/// A machine of a fresh host.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Display name, and first part of its disks' names.
    pub name: String,
    /// Whether it runs.
    pub on: bool,
    /// 1 (BIOS, IDE) or 2 (UEFI, SCSI).
    pub generation: u8,
    /// Of generation 2.
    pub secure_boot: bool,
    /// Virtual processors.
    pub processors: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Notes of the administrator.
    pub notes: Vec<String>,
    /// Disks, in order of their place on the controllers.
    pub disks: Vec<DiskSpec>,
    /// Network adapters, each on the switch of that name, or on none.
    pub nics: Vec<Option<String>>,
    /// What the guest writes while it runs.
    pub writes: Option<GuestWrites>,
    /// What the guest says of itself while it runs, as `Msvm_KvpExchangeDataItem`: names and values.
    pub guest_says: Vec<(String, String)>,
    /// Names of checkpoints that users made before, oldest first.
    pub checkpoints: Vec<String>,
    /// What differs from a machine that does all it is asked.
    pub quirks: Quirks,
}

impl MachineSpec {
    /// A machine of generation 2 that is off, with one processor, 1 GiB of memory, one adapter on the switch `LAN`, no disk.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            on: false,
            generation: 2,
            secure_boot: true,
            processors: 1,
            memory_mib: 1024,
            notes: Vec::new(),
            disks: Vec::new(),
            nics: vec![Some("LAN".to_owned())],
            writes: None,
            guest_says: Vec::new(),
            checkpoints: Vec::new(),
            quirks: Quirks::default(),
        }
    }
}

/// How a machine misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quirks {
    /// Nothing in the guest answers the integration service for backups: an application-consistent checkpoint fails.
    pub no_consistency: bool,
    /// What it does when it is told to shut down.
    pub shutdown: Shutdown,
}

/// What a guest does when it is told to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Shutdown {
    /// It is off a job's delay later.
    #[default]
    Obeys,
    /// It is off after this time.
    Slow(Duration),
    /// It says yes and stays on.
    Ignores,
    /// The call fails (32768), as without integration services.
    Refuses,
}

/// A disk of a machine.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    /// Size in bytes. For [`Content::Raw`] 0 means the size of the file.
    pub size_bytes: u64,
    /// What is on it.
    pub content: Content,
    /// What it is made of.
    pub kind: DiskKind,
}

impl DiskSpec {
    /// A dynamic VHDX.
    pub fn new(size_bytes: u64, content: Content) -> Self {
        Self { size_bytes, content, kind: DiskKind::Dynamic }
    }
}

/// What a disk is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// A VHDX that grows.
    Dynamic,
    /// A VHDX that has all its blocks.
    Fixed,
    /// A dynamic VHDX with sectors of 4 KiB.
    Dynamic4K,
    /// A disk of the host, passed through: no file, no checkpoints.
    PassThrough,
    /// A VHD Set that several machines may share.
    Shared,
}

/// Times and sizes of the simulated host.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long every job takes at least.
    pub job_delay: Duration,
    /// How long a finished job is remembered.
    pub job_kept: Duration,
    /// An enumeration that is idle for longer is gone.
    pub context_idle: Duration,
    /// Most items in one answer to `Pull`.
    pub items_per_pull: usize,
    /// Ranges in one answer of `GetVirtualDiskChanges`.
    pub ranges_per_answer: usize,
    /// Bytes that one `GetVirtualDiskChanges` looks at.
    pub bytes_per_answer: u64,
    /// A connection without a request for longer must authenticate anew.
    pub session_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            job_delay: Duration::from_millis(20),
            job_kept: Duration::from_secs(300),
            context_idle: Duration::from_secs(120),
            items_per_pull: 100,
            ranges_per_answer: 2000,
            bytes_per_answer: 1 << 40,
            session_idle: Duration::from_secs(15 * 60),
        }
    }
}
