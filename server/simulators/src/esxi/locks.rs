//! Locks on disk files: one reader each, whether by HTTP or by a lease; an operation that changes files needs them free.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

#[derive(Default)]
struct Shared {
    held: Mutex<HashSet<PathBuf>>,
    released: Condvar,
}

/// The locks of a host.
#[derive(Clone, Default)]
pub(crate) struct FileLocks(Arc<Shared>);

/// Files that are read by one reader; free again when dropped.
pub(crate) struct FileGuard {
    locks: FileLocks,
    paths: Vec<PathBuf>,
}

impl FileLocks {
    /// Takes all of the files or none; the error is the file that is held.
    pub fn acquire(&self, paths: Vec<PathBuf>) -> Result<FileGuard, PathBuf> {
        let mut held = self.0.held.lock();
        if let Some(taken) = paths.iter().find(|path| held.contains(*path)) {
            return Err(taken.clone());
        }
        held.extend(paths.iter().cloned());
        Ok(FileGuard { locks: self.clone(), paths })
    }

    /// Whether the file has a reader.
    pub fn is_held(&self, path: &Path) -> bool {
        self.0.held.lock().contains(path)
    }

    /// Waits until none of the files has a reader; the error is one that still has.
    pub fn wait_free(&self, paths: &[PathBuf], limit: Duration) -> Result<(), PathBuf> {
        let deadline = Instant::now() + limit;
        let mut held = self.0.held.lock();
        loop {
            let Some(taken) = paths.iter().find(|path| held.contains(*path)) else { return Ok(()) };
            if self.0.released.wait_until(&mut held, deadline).timed_out() {
                return Err(taken.clone());
            }
        }
    }
}

impl Drop for FileGuard {
    fn drop(&mut self) {
        let mut held = self.locks.0.held.lock();
        for path in &self.paths {
            held.remove(path);
        }
        self.locks.0.released.notify_all();
    }
}
