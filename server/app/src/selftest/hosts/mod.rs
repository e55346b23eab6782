//! The two simulated hosts of a self-test. What differs between platforms is here, and nowhere else in the test.

mod esxi;
mod hyperv;

use crate::failure::Failure;
use db::Platform;
use engine::HostAccess;
use simulators::SimulatorError;
use simulators::esxi::SnapshotRecord;
use std::path::{Path, PathBuf};

/// The machine that is backed up.
pub const MACHINE: &str = "selftest";
/// Its first disk, which may hold a bootable guest.
pub const SYSTEM_DISK: usize = 0;
/// Its second disk.
pub const DATA_DISK: usize = 1;
/// The system disk is larger than the guest's image by this; only there the test writes on it, so that it still boots.
pub const TAIL_BYTES: u64 = 32 << 20;
pub const DATA_DISK_BYTES: u64 = 512 << 20;
const DATA_USED_BYTES: u64 = 96 << 20;
const GENERATED_SYSTEM_BYTES: u64 = 256 << 20;
const GENERATED_SYSTEM_USED_BYTES: u64 = 64 << 20;
const SYSTEM_SEED: u64 = 1;
const DATA_SEED: u64 = 2;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The machine is on it.
    Source,
    /// It is restored to this one.
    Target,
}

/// Both hosts.
pub enum Hosts {
    Esxi(esxi::Pair),
    HyperV(hyperv::Pair),
}

/// What the machine's disks held when its newest snapshot was made: the oracle.
pub enum Held {
    /// Copies.
    Files(SnapshotRecord),
    /// SHA-256 of each, in order.
    Digests(Vec<String>),
}

impl Hosts {
    /// Starts them below `work`.
    pub async fn start(platform: Platform, work: &Path, guest: Option<&Path>) -> Result<Self, Failure> {
        let started = match platform {
            Platform::Esxi => esxi::Pair::start(work, guest).await.map(Self::Esxi),
            Platform::HyperV => hyperv::Pair::start(work, guest).await.map(Self::HyperV),
        };
        started.map_err(|error| Failure::new("A simulated host did not start", &error))
    }

    /// How to sign in.
    pub fn access(&self, side: Side) -> HostAccess {
        match self {
            Self::Esxi(pair) => pair.access(side),
            Self::HyperV(pair) => pair.access(side),
        }
    }

    /// Where a restore puts its disks.
    pub const fn datastore(&self) -> &'static str {
        match self {
            Self::Esxi(_) => "datastore1",
            Self::HyperV(_) => "C:",
        }
    }

    /// Size of the system disk.
    pub fn system_disk_bytes(&self) -> u64 {
        match self {
            Self::Esxi(pair) => pair.system_disk_bytes(),
            Self::HyperV(pair) => pair.system_disk_bytes(),
        }
    }

    /// The guest writes, if it runs.
    pub fn write(&self, disk: usize, offset: u64, bytes: &[u8]) -> Result<(), SimulatorError> {
        match self {
            Self::Esxi(pair) => pair.write(disk, offset, bytes),
            Self::HyperV(pair) => pair.write(disk, offset, bytes),
        }
    }

    /// What the newest backup has to hold.
    pub fn held(&self) -> Option<Held> {
        match self {
            Self::Esxi(pair) => pair.held().map(Held::Files),
            Self::HyperV(pair) => pair.held().map(Held::Digests),
        }
    }

    /// Whether a restored machine holds that, to the byte; how many disks were compared, or what differs.
    pub fn compare(&self, name: &str, held: &Held) -> Result<usize, String> {
        match (self, held) {
            (Self::Esxi(pair), Held::Files(record)) => pair.compare(name, record),
            (Self::HyperV(pair), Held::Digests(digests)) => pair.compare(name, digests),
            _ => Err("the host kept no record".to_owned()),
        }
    }

    /// What backups left on the source, in words; nothing is well.
    pub fn left_behind(&self) -> Result<Option<String>, SimulatorError> {
        match self {
            Self::Esxi(pair) => pair.left_behind(),
            Self::HyperV(pair) => pair.left_behind(),
        }
    }

    /// Raw images of the disks of the machine that was restored last: a name for each, and where it is.
    pub fn restored_disks(&self, work: &Path) -> Result<Vec<(i32, PathBuf)>, SimulatorError> {
        match self {
            Self::Esxi(pair) => pair.restored_disks(),
            Self::HyperV(pair) => pair.restored_disks(work),
        }
    }

    /// Ends both.
    pub async fn stop(self) {
        match self {
            Self::Esxi(pair) => pair.stop().await,
            Self::HyperV(pair) => pair.stop().await,
        }
    }
}
