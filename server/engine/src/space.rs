//! How full a repository's location is.

use crate::core::Core;
use crate::errors;
use repository::Repository;

/// Writes the repository's usage and the free space below it into its row. A failure is only logged.
pub async fn note(core: &Core, repository: &Repository, row: &db::Repository) {
    let used = match repository.usage().await {
        Ok(usage) => usage.pack_bytes + usage.index_bytes + usage.point_bytes,
        Err(error) => return tracing::warn!(repository = %row.name, error = %errors::chain(&error), "usage"),
    };
    // Only a folder's file system tells; what is left on a share or in a bucket shows when it is full.
    let (capacity, free) = match rustix::fs::statvfs(&row.path) {
        _ if row.kind != "folder" => (None, None),
        Ok(stat) => {
            (Some(stat.f_blocks.saturating_mul(stat.f_frsize)), Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
        }
        Err(error) => return tracing::warn!(repository = %row.name, %error, "free space"),
    };
    if let Err(error) = core.db.record_repository_usage(row.repository_id, capacity, free, used).await {
        tracing::warn!(repository = %row.name, error = %errors::chain(&error), "space");
    }
}
