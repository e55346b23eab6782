//! What a backup reads: a disk as a stream of bytes, and the plan of what of it to read.

use bytes::Bytes;
use domain::Extent;
use domain::machine::DiskConfig;
use futures_util::stream::BoxStream;
use std::sync::Arc;

use crate::error::SourceError;
use crate::point::PointId;

/// A disk at the moment of its snapshot.
pub trait BlockSource: Send + Sync {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;

    /// The bytes of `range` in order, in pieces of any size, exactly `range.length` of them. Long ranges are one stream.
    /// A stream is always dropped before the next one of the same lane is asked for (see [`Self::lanes`]).
    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes, SourceError>>;

    /// How many streams may be open at once. More than one helps where a request's latency is high.
    fn lanes(&self) -> usize {
        1
    }
}

/// What of a disk has to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadPlan {
    /// All of it.
    Everything,
    /// These areas; the rest is zero.
    Allocated(Vec<Extent>),
    /// These areas; the rest is as in the disk of the same key in `base`, which must have the same size.
    Changed { base: PointId, areas: Vec<Extent> },
}

/// A disk to be stored.
#[derive(Clone)]
pub struct DiskInput {
    /// Its description, which goes into the point. `key` identifies it within the machine.
    pub config: DiskConfig,
    /// Where its bytes come from.
    pub source: Arc<dyn BlockSource>,
    /// What to read.
    pub plan: ReadPlan,
}

/// Hears how far a backup is. All figures are increments in bytes; calls come from several threads.
pub trait Progress: Send + Sync {
    /// So many more bytes are going to be read than was known.
    fn planned(&self, disk_key: i32, bytes: u64) {
        let _ = (disk_key, bytes);
    }
    /// So many bytes were read from the source.
    fn read(&self, disk_key: i32, bytes: u64) {
        let _ = (disk_key, bytes);
    }
    /// So many bytes went to the repository, after deduplication and compression.
    fn stored(&self, disk_key: i32, bytes: u64) {
        let _ = (disk_key, bytes);
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {}
