//! How full a repository's location is.

use crate::core::Core;
use crate::errors;
use repository::Repository;

/// Writes the repository's usage and the free space below it into its row. A failure is only logged.
pub async fn note(core: &Core, repository: &Repository, row: &db::Repository) {
    let used = match repository.usage().await {
        Ok(usage) => usage.total_bytes(),
        Err(error) => return tracing::warn!(repository = %row.name, error = %errors::chain(&error), "usage"),
    };
    // Only a folder's file system tells; what is left on a share or in a bucket shows when it is full.
    let (capacity, free) = match (row.kind == "folder").then(|| rustix::fs::statvfs(&row.path)) {
        None => (None, None),
        Some(Ok(stat)) => {
            let bytes = |blocks: u64| Some(blocks.saturating_mul(stat.f_frsize));
            (bytes(stat.f_blocks), bytes(stat.f_bavail))
        }
        Some(Err(error)) => return tracing::warn!(repository = %row.name, %error, "free space"),
    };
    if let Err(error) = core.db.record_repository_usage(row.repository_id, capacity, free, used).await {
        tracing::warn!(repository = %row.name, error = %errors::chain(&error), "space");
    }
}
