//! Where the bytes of image files come from and go to: positioned, asynchronous, several at a time.
//!
//! The formats know only these traits; a driver implements them over the share it reads.

use crate::{DiskError, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// An image file to be read. It must not change while it is open.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// Length of the file in bytes.
    fn len_bytes(&self) -> u64;

    /// Exactly `length` bytes from byte `offset` on; a file that ends earlier is an error, never a short answer. Calls run
    /// beside each other. `length` is at most 8 MiB.
    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes>;
}

/// Where the images of a chain lie.
#[async_trait]
pub trait ImageFolder: Send + Sync {
    /// Opens the file with this Windows path (`C:\vm\disk.vhdx`, `\\server\share\disk.vhdx`, or a volume path); `None` when
    /// there is no such file.
    async fn open(&self, path: &str) -> io::Result<Option<Arc<dyn ImageSource>>>;
}

/// A new, empty image file to be written. What is never written and lies inside the length reads as zero.
#[async_trait]
pub trait ImageTarget: Send + Sync {
    /// Writes all of `data` at byte `offset`; the file grows as needed. Calls run beside each other and never overlap.
    async fn write_at(&self, offset: u64, data: Bytes) -> io::Result<()>;

    /// Sets the length of the file.
    async fn set_len(&self, length_bytes: u64) -> io::Result<()>;

    /// What was written so far outlives a loss of power.
    async fn flush(&self) -> io::Result<()>;
}

/// Largest single read, in bytes.
pub(super) const READ_BYTES_MAX: usize = 8 << 20;

/// Reads exactly `length` bytes, whatever the source makes of its promise.
pub(super) async fn read_exact(source: &dyn ImageSource, offset: u64, length: usize) -> io::Result<Bytes> {
    let bytes = source.read_at(offset, length).await?;
    if bytes.len() == length {
        return Ok(bytes);
    }
    let reason = format!("{} bytes instead of {length} came from offset {offset}", bytes.len());
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason))
}

/// [`read_exact`] of a file whose length was checked before.
pub(super) async fn read(source: &dyn ImageSource, format: &'static str, offset: u64, length: usize) -> Result<Bytes> {
    read_exact(source, offset, length).await.map_err(|source| DiskError::Read { format, source })
}
