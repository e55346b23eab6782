//! A new disk on its way to the host.
//!
//! While it is written the file is marked to vanish with its handle: whatever ends us or our session leaves nothing behind.
//! Must never: replace a file, or leave a half-written one after `abandon`.

use super::failure::{Failure, into_io};
use super::frozen::translate;
use super::path::SharePath;
use super::session::{Handle, Purpose};
use super::shares::Access;
use crate::{ErrorKind, HostError, Result};
use async_trait::async_trait;
use bytes::Bytes;
use disk::container::ImageTarget;
use disk::container::vhdx::{VhdxOptions, VhdxWriter};
use std::io;
use std::sync::Arc;
use tokio::time::timeout;

/// A VHDX file being written. Dropped without `finish`, it vanishes from the host.
pub struct DiskUpload {
    writer: VhdxWriter,
    target: Arc<Target>,
}

impl DiskUpload {
    pub(super) async fn create(access: &Arc<Access>, path: &str, options: VhdxOptions) -> Result<Self> {
        let attempt = || format!("create {path:.300}");
        let place = access.place(path, attempt)?;
        let handle = access.open_again(&place, Purpose::Create).await;
        let handle = handle.map_err(|failure| access.error_at(failure, &place, attempt()))?;
        let vanishes = match handle.set_vanishing(true).await {
            Ok(()) => true,
            Err(failure) => {
                tracing::warn!(path, %failure, "the host does not let a new file vanish with its handle");
                false
            }
        };
        let target = Arc::new(Target { access: access.clone(), place, name: path.to_owned(), handle, vanishes });
        match VhdxWriter::create(target.clone(), options).await {
            Ok(writer) => Ok(Self { writer, target }),
            Err(error) => {
                let error = translate(access, path, "create", &error);
                target.discard().await?;
                Err(error)
            }
        }
    }

    /// Takes bytes of the disk; offsets ascend, what is skipped reads as zero. Waits while the host is slower than we are.
    /// An error of an earlier write may come with a later one.
    pub async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let written = self.writer.write(offset, data).await;
        written.map_err(|error| translate(&self.target.access, &self.target.name, "write", &error))
    }

    /// Ends the disk: everything is on the host's volume, and the file stays. After an error nothing stays.
    pub async fn finish(self) -> Result<()> {
        let Self { writer, target } = self;
        let finished = match writer.finish().await {
            Ok(length_bytes) => target.keep(length_bytes).await,
            Err(error) => Err(translate(&target.access, &target.name, "finish", &error)),
        };
        if finished.is_err()
            && let Err(error) = target.discard().await
        {
            tracing::warn!(%error, "a half-written disk may be left on the host");
        }
        finished
    }

    /// Removes what was written.
    pub async fn abandon(self) -> Result<()> {
        let Self { writer, target } = self;
        drop(writer);
        target.discard().await
    }
}

struct Target {
    access: Arc<Access>,
    place: SharePath,
    name: String,
    handle: Handle,
    vanishes: bool,
}

impl Target {
    fn error(&self, failure: Failure, what: &str) -> HostError {
        self.access.error_at(failure, &self.place, format!("{what} {:.300}", self.name))
    }

    /// The file stays, and is as long as it should be.
    async fn keep(&self, length_bytes: u64) -> Result<()> {
        let kept = async {
            if self.vanishes {
                self.handle.set_vanishing(false).await?;
            }
            self.handle.close().await?;
            let there = self.access.open(&self.place, Purpose::LookUp).await?;
            if there.size_bytes == length_bytes {
                return there.close().await;
            }
            let text = format!("the file has {} bytes instead of {length_bytes}", there.size_bytes);
            Err(Failure::new(ErrorKind::Protocol, "hyperv.file_changed", text))
        };
        kept.await.map_err(|failure| self.error(failure, "keep"))
    }

    /// The file goes.
    async fn discard(&self) -> Result<()> {
        // A handle of a session that is gone is closed already, or will be when the host notices.
        let _ = timeout(self.access.patience(), self.handle.close()).await;
        let removed = self.access.remove(&self.place).await;
        removed.map_err(|failure| self.error(failure, "remove"))
    }
}

#[async_trait]
impl ImageTarget for Target {
    async fn write_at(&self, offset: u64, data: Bytes) -> io::Result<()> {
        self.handle.write(offset, &data).await.map_err(|failure| {
            let what = format!("write {} bytes at {offset} of", data.len());
            into_io(self.error(failure, &what))
        })
    }

    async fn set_len(&self, length_bytes: u64) -> io::Result<()> {
        let set = self.handle.set_len(length_bytes).await;
        set.map_err(|failure| into_io(self.error(failure, &format!("set the length to {length_bytes} of"))))
    }

    async fn flush(&self) -> io::Result<()> {
        self.handle.flush().await.map_err(|failure| into_io(self.error(failure, "flush")))
    }
}
