#![allow(clippy::unused_async, unused_variables, dead_code, clippy::todo, clippy::wildcard_imports)] // signatures first; the bodies follow

use bytes::Bytes;
use domain::Extent;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use secrecy::SecretString;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::*;

/// How a repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Average chunk: a power of two, 64 KiB to 1 MiB.
    pub chunk_average_bytes: u32,
    /// Size at which a pack is closed.
    pub pack_bytes: u32,
    /// Written into the repository.
    pub created_at: Timestamp,
}

impl InitOptions {
    /// The usual: 128 KiB chunks, 32 MiB packs.
    pub fn new(created_at: Timestamp) -> Self {
        Self { chunk_average_bytes: 128 * 1024, pack_bytes: 32 << 20, created_at }
    }
}

/// A printable key that opens the repository when the passphrase is lost. Shown once, never stored.
#[derive(Debug, Clone)]
pub struct RecoveryKey(SecretString);

impl RecoveryKey {
    /// Eight groups of five characters.
    pub fn text(&self) -> &SecretString {
        &self.0
    }
}

/// An open repository. Clones share it.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<()>,
}

impl Repository {
    /// Makes a new repository in an empty location.
    pub async fn init(
        backend: Arc<dyn ObjectBackend>,
        passphrase: &SecretString,
        options: InitOptions,
    ) -> Result<(Self, RecoveryKey)> {
        todo!()
    }
    /// Opens a repository by its passphrase, or by its recovery key.
    pub async fn open(backend: Arc<dyn ObjectBackend>, passphrase: &SecretString) -> Result<Self> {
        todo!()
    }
    /// The repository's id, fixed at its creation.
    pub fn id(&self) -> Uuid {
        todo!()
    }
    /// All points.
    pub async fn points(&self) -> Result<PointList> {
        todo!()
    }
    /// One point.
    pub async fn point(&self, id: PointId) -> Result<Point> {
        todo!()
    }
    /// Starts a point.
    pub async fn begin_point(&self, id: PointId) -> Result<PointWriter> {
        todo!()
    }
    /// Opens a disk of a point for reading.
    pub async fn open_disk(&self, point: PointId, disk_key: i32) -> Result<DiskImage> {
        todo!()
    }
    /// Reads and checks everything that points need, each chunk once.
    pub async fn verify(
        &self,
        options: VerifyOptions,
        progress: Arc<dyn VerifyProgress>,
        cancel: &CancellationToken,
    ) -> Result<VerifyReport> {
        todo!()
    }
    /// Removes a point's manifest. Its bytes stay until space is given back.
    pub async fn delete_point(&self, id: PointId) -> Result<()> {
        todo!()
    }
    /// What the repository's objects come to.
    pub async fn usage(&self) -> Result<Usage> {
        todo!()
    }
}

/// A restore point in the making. Several disks may run at the same time. Dropped without commit, it leaves no point.
pub struct PointWriter {
    inner: Arc<()>,
}

impl PointWriter {
    /// Reads a disk as planned and stores it.
    pub async fn backup_disk(
        &self,
        disk: DiskInput,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<DiskSummary> {
        todo!()
    }
    /// Makes everything durable, then creates the manifest: from then on the point exists.
    pub async fn commit(self, metadata: PointMetadata) -> Result<CommittedPoint> {
        todo!()
    }
    /// Gives up. What was stored can be reused by a later attempt.
    pub async fn abandon(self) {
        todo!()
    }
}

/// A disk of a restore point, for reading. Clones share its caches.
#[derive(Clone)]
pub struct DiskImage {
    inner: Arc<()>,
}

impl DiskImage {
    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }
    /// Exactly these bytes. For random access; long runs are faster by [`Self::stream`].
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        todo!()
    }
    /// The areas that are not known to be zero, ascending, joined where they touch.
    pub async fn data_extents(&self) -> Result<Vec<Extent>> {
        todo!()
    }
    /// The data in `range`: pieces in ascending order of their offset, zeros skipped, every byte checked.
    pub fn stream(&self, range: Extent) -> BoxStream<'static, Result<(u64, Bytes)>> {
        todo!()
    }
}

/// What to verify.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Only these points; all when `None`.
    pub points: Option<Vec<PointId>>,
    /// Leave out the data chunks: manifests, maps, index and pack footers only.
    pub structure_only: bool,
}

/// Hears how far a verification is.
pub trait VerifyProgress: Send + Sync {
    /// Bytes that will be read.
    fn planned(&self, bytes: u64) {
        let _ = bytes;
    }
    /// Bytes read, an increment.
    fn read(&self, bytes: u64) {
        let _ = bytes;
    }
}

impl VerifyProgress for NoProgress {}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// Points checked.
    pub points: u64,
    /// Chunks read and checked.
    pub chunks: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// What is wrong; empty when all is well.
    pub damage: Vec<Damage>,
}

/// One damaged or missing object, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// Name of the object.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// What cannot be restored because of it.
    pub affected: Vec<Affected>,
}

/// Part of a disk of a point that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Affected {
    /// The point.
    pub point: PointId,
    /// Its machine's name.
    pub machine: String,
    /// The disk's key.
    pub disk: i32,
    /// Its label.
    pub label: String,
    /// The bytes, ascending.
    pub extents: Vec<Extent>,
}

/// Objects and bytes by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Number of packs.
    pub packs: u64,
    /// Bytes in packs.
    pub pack_bytes: u64,
    /// Bytes in index segments.
    pub index_bytes: u64,
    /// Number of points.
    pub points: u64,
    /// Bytes in manifests.
    pub point_bytes: u64,
}
