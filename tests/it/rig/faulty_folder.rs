//! A folder that can be made to fill up: after so many bytes every further object is refused as on a full disk; in which
//! objects can be locked; and that can stand still for ever around the deletion of one.

use async_trait::async_trait;
use bytes::Bytes;
use engine::{Location, Locations, RealLocations};
use repository::{BackendError, BackendErrorKind, LocationSecret, ObjectBackend, backend::ObjectInfo};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Shared by all backends of one test.
#[derive(Clone)]
pub struct FaultyFolder {
    /// Bytes that may still be stored.
    left: Arc<AtomicU64>,
    /// Objects that nobody can delete.
    locked: Arc<Mutex<BTreeSet<String>>>,
    /// Stands still here.
    halt: Arc<Mutex<Option<(String, Halt)>>>,
    /// It does.
    halted: Arc<Notify>,
}

/// Where a deletion stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// Nothing is deleted yet.
    Before,
    /// It is deleted, but nobody hears of it.
    After,
}

impl FaultyFolder {
    pub fn endless() -> Self {
        Self {
            left: Arc::new(AtomicU64::new(u64::MAX)),
            locked: Arc::default(),
            halt: Arc::default(),
            halted: Arc::default(),
        }
    }

    /// From now on only so many bytes more.
    pub fn leave(&self, bytes: u64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// From now on the object cannot be deleted, as under object lock.
    pub fn lock(&self, name: &str) {
        self.locked.lock().expect("the locks").insert(name.to_owned());
    }

    /// All locks have come to their end.
    pub fn unlock(&self) {
        self.locked.lock().expect("the locks").clear();
    }

    /// The next deletion of the object stands still there, for ever.
    pub fn halt(&self, name: &str, place: Halt) {
        *self.halt.lock().expect("the halt") = Some((name.to_owned(), place));
    }

    /// Waits until it does.
    pub async fn halted(&self) {
        self.halted.notified().await;
    }

    async fn stand_still(&self, name: &str, place: Halt) {
        let here = self.halt.lock().expect("the halt").take_if(|halt| halt.0 == name && halt.1 == place).is_some();
        if here {
            self.halted.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn around(&self, inner: Arc<dyn ObjectBackend>) -> Arc<dyn ObjectBackend> {
        Arc::new(Faulty { inner, faults: self.clone() })
    }
}

#[async_trait]
impl Locations for FaultyFolder {
    async fn open(
        &self,
        location: &Location,
        secret: Option<&LocationSecret>,
    ) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        Ok(self.around(RealLocations.open(location, secret).await?))
    }

    async fn create(
        &self,
        location: &Location,
        secret: Option<&LocationSecret>,
    ) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        Ok(self.around(RealLocations.create(location, secret).await?))
    }
}

struct Faulty {
    inner: Arc<dyn ObjectBackend>,
    faults: FaultyFolder,
}

impl Faulty {
    fn refusal(&self, kind: BackendErrorKind, verb: &'static str, name: &str, source: io::Error) -> BackendError {
        BackendError { kind, verb, name: name.to_owned(), place: self.place(), source: Some(Arc::new(source)) }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectBackend for Faulty {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        let size: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let left = &self.faults.left;
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(size)).is_err() {
            return Err(self.refusal(BackendErrorKind::OutOfSpace, "store", name, io::ErrorKind::StorageFull.into()));
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
        if self.faults.locked.lock().expect("the locks").contains(name) {
            let source = io::Error::other("nobody can delete it yet");
            return Err(self.refusal(BackendErrorKind::Locked, "delete", name, source));
        }
        self.faults.stand_still(name, Halt::Before).await;
        self.inner.delete(name).await?;
        self.faults.stand_still(name, Halt::After).await;
        Ok(())
    }
}
