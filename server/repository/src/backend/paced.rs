//! A location whose bytes go no faster than somebody says.
//!
//! Must never: change anything but the time a request takes.

use bytes::Bytes;
use jiff::Timestamp;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{BackendError, ObjectBackend, ObjectInfo};

/// Says when bytes may go.
#[async_trait::async_trait]
pub trait Pace: Send + Sync + fmt::Debug {
    /// Waits until so many bytes may go.
    async fn pass(&self, bytes: u64);
}

/// See the module.
#[derive(Debug)]
pub struct PacedBackend {
    inner: Arc<dyn ObjectBackend>,
    pace: Arc<dyn Pace>,
}

impl PacedBackend {
    /// The same location at this pace.
    pub fn new(inner: Arc<dyn ObjectBackend>, pace: Arc<dyn Pace>) -> Self {
        Self { inner, pace }
    }
}

#[async_trait::async_trait]
impl ObjectBackend for PacedBackend {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        self.pace.pass(parts.iter().map(|part| part.len() as u64).sum()).await;
        self.inner.put_new(name, parts).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        // What was read is paid for by whoever comes next: how long an object is shows only then.
        let content = self.inner.get(name, range).await?;
        self.pace.pass(content.len() as u64).await;
        Ok(content)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        self.inner.list(prefix).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        self.inner.stat(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        self.inner.delete(name).await
    }

    async fn sync(&self, name: &str) -> Result<(), BackendError> {
        self.inner.sync(name).await
    }

    fn list_lag(&self) -> Duration {
        self.inner.list_lag()
    }

    fn lock_needed_until(&self) -> Option<Timestamp> {
        self.inner.lock_needed_until()
    }

    async fn extend_lock(&self, name: &str) -> Result<Option<Timestamp>, BackendError> {
        self.inner.extend_lock(name).await
    }
}
