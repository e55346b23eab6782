//! A disk of a restore point into a new file, sparse.

use repository::{DiskImage, DiskSink};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::RepoError;

/// Bytes of data written. A file that was not finished is removed; one that was there is never touched.
pub async fn to_file(image: &DiskImage, path: &Path) -> Result<u64, RepoError> {
    let failed = |source| RepoError::File { doing: "create", path: path.display().to_string(), source };
    let file = Arc::new(File::create_new(path).map_err(failed)?);
    let written = write(image, &file, path).await;
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(path);
    }
    written
}

async fn write(image: &DiskImage, file: &Arc<File>, path: &Path) -> Result<u64, RepoError> {
    let failed = |source| RepoError::File { doing: "write", path: path.display().to_string(), source };
    file.set_len(image.size_bytes()).map_err(failed)?;
    let written = image.copy_to(Arc::new(Target(Mutex::new(Arc::clone(file))))).await.map_err(|error| match error {
        repository::Error::Sink { source, .. } => failed(source),
        error => error.into(),
    })?;
    let file = Arc::clone(file);
    let synced = tokio::task::spawn_blocking(move || file.sync_all()).await;
    synced.unwrap_or_else(|_| Err(io::Error::other("the writing thread stopped"))).map_err(failed)?;
    Ok(written)
}

/// The new file; what is not written stays a hole. One write at a time: the file system allows no more, and threads that
/// wait for it there spin.
struct Target(Mutex<Arc<File>>);

impl DiskSink for Target {
    fn write_at(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all_at(content, offset)
    }
}
