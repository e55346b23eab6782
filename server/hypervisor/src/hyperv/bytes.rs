//! What the driver needs of a host's files, so that its operations can be tested without any.

use super::ConnectOptions;
use super::files::{DiskUpload, FrozenDisk, ShareOptions, Shares};
use crate::Result;
use async_trait::async_trait;
use bytes::Bytes;
use disk::container::vhdx::VhdxOptions;
use domain::Extent;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The files of one host, by Windows paths.
#[async_trait]
pub(super) trait Files: Send + Sync {
    /// Bytes that may still be written to the volume of this folder; fails where the account has no access.
    async fn free_bytes(&self, path: &str) -> Result<u64>;

    /// A frozen disk with its chain of parents.
    async fn open_disk(&self, path: &str) -> Result<Arc<dyn Frozen>>;

    /// A new disk; fails when there is a file of that name.
    async fn create_disk(&self, path: &str, options: VhdxOptions) -> Result<Box<dyn NewDisk>>;

    /// Removes a file. Succeeds when it is gone already.
    async fn remove(&self, path: &str) -> Result<()>;

    /// Makes a folder with its parents. Succeeds when it is there already.
    async fn make_folder(&self, path: &str) -> Result<()>;

    /// Ends the session.
    async fn close(&self);
}

/// A disk nobody writes to.
#[async_trait]
pub(super) trait Frozen: Send + Sync {
    fn size_bytes(&self) -> u64;

    /// The disk's own identity, in small letters without braces.
    fn identifier(&self) -> String;

    /// Everything outside is zero.
    async fn allocated(&self) -> Result<Vec<Extent>>;

    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes>>;

    fn stream_areas(&self, areas: Vec<Extent>) -> BoxStream<'static, Result<(u64, Bytes)>>;
}

/// A disk that is being written.
#[async_trait]
pub(super) trait NewDisk: Send {
    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()>;

    async fn finish(self: Box<Self>) -> Result<()>;

    async fn abandon(self: Box<Self>) -> Result<()>;
}

/// The host's administrative shares, joined at the first need.
pub(super) struct ShareFiles {
    options: ShareOptions,
    shares: OnceCell<Shares>,
}

impl ShareFiles {
    pub(super) fn new(options: &ConnectOptions) -> Self {
        let mut share = ShareOptions::new(options.host.clone(), options.account.clone(), options.password.clone());
        share.port = options.share_port;
        share.patience = options.timeouts.files_silent;
        share.reconnect_patience = options.timeouts.files_lost;
        Self { options: share, shares: OnceCell::new() }
    }

    async fn shares(&self) -> Result<&Shares> {
        self.shares.get_or_try_init(|| Shares::connect(self.options.clone())).await
    }
}

#[async_trait]
impl Files for ShareFiles {
    async fn free_bytes(&self, path: &str) -> Result<u64> {
        self.shares().await?.free_bytes(path).await
    }

    async fn open_disk(&self, path: &str) -> Result<Arc<dyn Frozen>> {
        Ok(Arc::new(self.shares().await?.open_disk(path).await?))
    }

    async fn create_disk(&self, path: &str, options: VhdxOptions) -> Result<Box<dyn NewDisk>> {
        Ok(Box::new(self.shares().await?.create_disk(path, options).await?))
    }

    async fn remove(&self, path: &str) -> Result<()> {
        self.shares().await?.remove(path).await
    }

    async fn make_folder(&self, path: &str) -> Result<()> {
        self.shares().await?.make_folder(path).await
    }

    async fn close(&self) {
        if let Some(shares) = self.shares.get() {
            shares.close().await;
        }
    }
}

#[async_trait]
impl Frozen for FrozenDisk {
    fn size_bytes(&self) -> u64 {
        Self::size_bytes(self)
    }

    fn identifier(&self) -> String {
        Self::identifier(self).hyphenated().to_string()
    }

    async fn allocated(&self) -> Result<Vec<Extent>> {
        Self::allocated(self).await
    }

    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes>> {
        Self::stream(self, range)
    }

    fn stream_areas(&self, areas: Vec<Extent>) -> BoxStream<'static, Result<(u64, Bytes)>> {
        Self::stream_areas(self, areas)
    }
}

#[async_trait]
impl NewDisk for DiskUpload {
    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        Self::write(self, offset, data).await
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        (*self).finish().await
    }

    async fn abandon(self: Box<Self>) -> Result<()> {
        (*self).abandon().await
    }
}
