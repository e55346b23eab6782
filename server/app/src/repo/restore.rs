//! A disk of a restore point into a new file, sparse.

use repository::{DiskFile, DiskImage};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::RepoError;

/// Bytes of data written. A file that was not finished is removed; one that was there is never touched.
pub async fn to_file(image: &DiskImage, path: &Path) -> Result<u64, RepoError> {
    let failed = |source| RepoError::File { doing: "create", path: path.display().to_string(), source };
    let file = Arc::new(DiskFile::create(path, image.size_bytes()).map_err(failed)?);
    let written = write(image, &file, path).await;
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(path);
    }
    written
}

async fn write(image: &DiskImage, file: &Arc<DiskFile>, path: &Path) -> Result<u64, RepoError> {
    let failed = |source| RepoError::File { doing: "write", path: path.display().to_string(), source };
    let written = image.copy_to(Arc::<DiskFile>::clone(file)).await.map_err(|error| match error {
        repository::Error::Sink { source, .. } => failed(source),
        error => error.into(),
    })?;
    let file = Arc::clone(file);
    let synced = tokio::task::spawn_blocking(move || file.sync()).await;
    synced.unwrap_or_else(|_| Err(io::Error::other("the writing thread stopped"))).map_err(failed)?;
    Ok(written)
}
