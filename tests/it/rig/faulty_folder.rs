//! A folder that can be made to fill up: after so many bytes every further object is refused as on a full disk.

use async_trait::async_trait;
use bytes::Bytes;
use engine::{Location, Locations, RealLocations};
use repository::{BackendError, BackendErrorKind, LocationSecret, ObjectBackend, backend::ObjectInfo};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that may still be stored; shared by all backends of one test.
#[derive(Clone)]
pub struct FaultyFolder(Arc<AtomicU64>);

impl FaultyFolder {
    pub fn endless() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// From now on only so many bytes more.
    pub fn leave(&self, bytes: u64) {
        self.0.store(bytes, Ordering::SeqCst);
    }
}

#[async_trait]
impl Locations for FaultyFolder {
    async fn open(
        &self,
        location: &Location,
        secret: Option<&LocationSecret>,
    ) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        Ok(Arc::new(Filling { inner: RealLocations.open(location, secret).await?, left: Arc::clone(&self.0) }))
    }

    async fn create(
        &self,
        location: &Location,
        secret: Option<&LocationSecret>,
    ) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        Ok(Arc::new(Filling { inner: RealLocations.create(location, secret).await?, left: Arc::clone(&self.0) }))
    }
}

struct Filling {
    inner: Arc<dyn ObjectBackend>,
    left: Arc<AtomicU64>,
}

impl fmt::Debug for Filling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectBackend for Filling {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        let size: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let fits = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(size));
        if fits.is_err() {
            return Err(BackendError {
                kind: BackendErrorKind::OutOfSpace,
                verb: "store",
                name: name.to_owned(),
                place: self.place(),
                source: Some(Arc::new(io::Error::from(io::ErrorKind::StorageFull))),
            });
        }
        self.inner.put_new(name, parts).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        self.inner.get(name, range).await
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
}
