//! The seam to the disks: what the WMI side asks of whoever keeps the VHDX files.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::config::{DiskSpec, GuestWrites};
use crate::SimulatorError;

/// Names a disk of a machine, whatever files it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DiskId(pub Uuid);

/// What a virtual hard disk file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskInfo {
    /// Size of the disk in bytes.
    pub size_bytes: u64,
    /// The virtual disk id.
    pub identifier: Uuid,
    /// The file below a differencing one.
    pub parent: Option<String>,
    /// All blocks were there from the start.
    pub fixed: bool,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Bytes of a sector: logical, physical.
    pub sector_bytes: (u32, u32),
}

/// What a merge did to the paths of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The file that is gone. Who named it (a later checkpoint, or the machine) names `into` from now on.
    pub gone: String,
    /// The file that has its contents.
    pub into: String,
}

/// Keeps virtual hard disks under Windows paths. Paths compare without regard to case.
pub trait DiskStore: Send + Sync + 'static {
    /// Makes the disk of a fresh machine at `path`.
    fn create(&self, path: &str, spec: &DiskSpec) -> Result<DiskId, SimulatorError>;
    /// Takes a file that a client wrote as a disk of a machine.
    fn attach(&self, path: &str) -> Result<DiskId, SimulatorError>;
    /// The machine is gone; its files stay.
    fn detach(&self, disk: DiskId);
    /// Freezes the files on top in one instant; answers them in order. The machine goes on in `.avhdx` files.
    fn checkpoint(&self, disks: &[DiskId]) -> Result<Vec<String>, SimulatorError>;
    /// Ends the checkpoint that froze a file of a disk.
    fn merge(&self, disk: DiskId, frozen: &str) -> Result<Merged, SimulatorError>;
    /// Ends the checkpoint, too; what is written since the frozen moment can be asked for with the answered tracking id.
    fn convert(&self, disk: DiskId, frozen: &str) -> Result<(String, Merged), SimulatorError>;
    /// Ends a tracking.
    fn forget(&self, tracking: &str);
    /// What of `offset ..+ length` was written between the moment of the tracking id and the one that froze `path` (now, if it is
    /// written): offsets and lengths, ascending. The error says why that cannot be told.
    fn changes(&self, tracking: &str, path: &str, offset: u64, length: u64) -> Result<Vec<(u64, u64)>, String>;
    /// The file that is written.
    fn path(&self, disk: DiskId) -> Result<String, SimulatorError>;
    /// What a file says of itself; `None` when there is none.
    fn info(&self, path: &str) -> Option<DiskInfo>;
    /// The machine of that id was switched on: its guest writes to its disks, if it writes at all.
    fn run_guest(&self, machine: &str, disks: &[DiskId], writes: Option<GuestWrites>);
    /// The machine was switched off.
    fn stop_guest(&self, machine: &str);
}

/// A shared store.
pub type SharedStore = Arc<dyn DiskStore>;
