//! A disk of a restore point into a new file, sparse.

use domain::Extent;
use futures_util::TryStreamExt;
use repository::DiskImage;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

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
    let mut stream = image.stream(Extent::new(0, image.size_bytes()));
    let mut total = 0;
    while let Some((offset, bytes)) = stream.try_next().await? {
        total += bytes.len() as u64;
        let file = Arc::clone(file);
        blocking(move || file.write_all_at(&bytes, offset)).await.map_err(failed)?;
    }
    let file = Arc::clone(file);
    blocking(move || file.sync_all()).await.map_err(failed)?;
    Ok(total)
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("the writing thread stopped")))
}
