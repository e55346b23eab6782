//! What callers of the disk store say and hear. All plain data.

use std::path::PathBuf;

use uuid::Uuid;

/// Block of dynamic disks that say nothing else, in bytes; that of Hyper-V.
const BLOCK_BYTES: u64 = 32 << 20;

/// Where a store keeps things, and what it does beside.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Folder of the drive `C:`; it is made if it is missing.
    pub drive_dir: PathBuf,
    /// Folder of the state of disks and of their tracking logs, not on the drive.
    pub state_dir: PathBuf,
    /// Every checkpoint notes the SHA-256 of the frozen disk; costs a read of it.
    pub records_digests: bool,
    /// Frozen files have their last updates of metadata only in their log.
    pub leaves_dirty_logs: bool,
}

impl StoreOptions {
    /// `drive_c` and `disks` below a folder, with nothing else switched on.
    pub fn below(folder: &std::path::Path) -> Self {
        let (drive_dir, state_dir) = (folder.join("drive_c"), folder.join("disks"));
        Self { drive_dir, state_dir, records_digests: false, leaves_dirty_logs: false }
    }
}

/// What a fresh disk holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// Nothing.
    Zeros,
    /// About so many bytes that the seed decides.
    Pattern { seed: u64, used_bytes: u64 },
    /// A copy of a raw image, which may be shorter than the disk.
    Raw(PathBuf),
}

/// How blocks are allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskLayout {
    /// When they are written.
    Dynamic,
    /// All at once.
    Fixed,
}

/// Sector sizes of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectorSizes {
    /// 512 or 4096.
    pub logical: u64,
    /// 512 or 4096.
    pub physical: u64,
}

/// A disk to be made.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    /// Windows path of its file, e.g. `C:\VMs\web\web.vhdx`. Folders are made.
    pub path: String,
    /// Size of the disk, a multiple of the logical sector.
    pub size_bytes: u64,
    /// What is in it.
    pub content: Content,
    /// How blocks are allocated.
    pub layout: DiskLayout,
    /// A power of two from 1 MiB to 256 MiB.
    pub block_bytes: u64,
    /// Its sectors.
    pub sectors: SectorSizes,
    /// Virtual disk id; a new one if unset.
    pub identifier: Option<Uuid>,
}

impl DiskSpec {
    /// An empty dynamic disk as Hyper-V makes it.
    pub fn dynamic(path: impl Into<String>, size_bytes: u64) -> Self {
        Self {
            path: path.into(),
            size_bytes,
            content: Content::Zeros,
            layout: DiskLayout::Dynamic,
            block_bytes: BLOCK_BYTES,
            sectors: SectorSizes { logical: 512, physical: 4096 },
            identifier: None,
        }
    }

    /// The same with content of a seed.
    #[must_use]
    pub fn with_pattern(mut self, seed: u64, used_bytes: u64) -> Self {
        self.content = Content::Pattern { seed, used_bytes };
        self
    }
}

/// What a merge did to the paths of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The file that is gone. Who named it (a later checkpoint, or the machine) names `into` from now on.
    pub gone: String,
    /// The file that has its contents.
    pub into: String,
}

/// What a conversion to a reference point did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Asks for what was written since the checkpoint.
    pub tracking_id: String,
    /// The merge.
    pub merged: Merged,
}

/// Why changes cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangesRefused {
    /// Never given, or forgotten.
    #[error("unknown tracking id")]
    UnknownId,
    /// It belongs to another disk.
    #[error("tracking id of another disk")]
    OtherDisk,
    /// No disk has that file.
    #[error("no disk has the file {path}")]
    NoSuchDisk { path: String },
    /// The file was frozen before the tracking id was given.
    #[error("the file is older than the tracking id")]
    OlderFile,
    /// The range is not within the disk.
    #[error("the range is not within the disk")]
    OutOfRange,
}
