//! A backend in memory, for tests and simulations.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::{BackendError, BackendErrorKind, ObjectBackend, ObjectInfo, valid_name};

/// Objects in a map. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryBackend {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl MemoryBackend {
    /// An empty location.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces an object's bytes, as decay of the medium would. For tests.
    pub fn tamper(&self, name: &str, bytes: Bytes) {
        self.objects.lock().insert(name.to_owned(), bytes);
    }

    /// An independent copy of what is there now. For tests.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self { objects: Arc::new(Mutex::new(self.objects.lock().clone())) }
    }

    fn error(kind: BackendErrorKind, verb: &'static str, name: &str) -> BackendError {
        BackendError { kind, verb, name: name.to_owned(), place: "memory".to_owned(), source: None }
    }
}

#[async_trait::async_trait]
impl ObjectBackend for MemoryBackend {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        if !valid_name(name) {
            return Err(Self::error(BackendErrorKind::BadName, "store", name));
        }
        let mut objects = self.objects.lock();
        if objects.contains_key(name) {
            return Err(Self::error(BackendErrorKind::AlreadyExists, "store", name));
        }
        objects.insert(name.to_owned(), parts.concat().into());
        Ok(())
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        let objects = self.objects.lock();
        let object = objects.get(name).ok_or_else(|| Self::error(BackendErrorKind::NotFound, "read", name))?;
        let Some(range) = range else { return Ok(object.clone()) };
        if range.start > range.end || range.end > object.len() as u64 {
            return Err(Self::error(BackendErrorKind::TooShort, "read", name));
        }
        Ok(object.slice(range.start as usize..range.end as usize))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        let objects = self.objects.lock();
        let found = objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        Ok(found.map(|(name, bytes)| ObjectInfo { name: name.clone(), size: bytes.len() as u64 }).collect())
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        let objects = self.objects.lock();
        let object = objects.get(name).ok_or_else(|| Self::error(BackendErrorKind::NotFound, "look up", name))?;
        Ok(ObjectInfo { name: name.to_owned(), size: object.len() as u64 })
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        self.objects.lock().remove(name);
        Ok(())
    }
}
