//! Retention: which points of this machine and task go now that a newer one is committed.
//!
//! Owns: the order decision (row) → manifest → row. Must never: remove the newest point, or fail a good backup.

use super::prepare::Source;
use crate::context::JobContext;
use crate::{errors, words};
use db::RepositoryId;
use domain::retention::Candidate;
use repository::{BackendErrorKind, PointId, Repository};

/// Applies the task's rule. What cannot be removed now is tried again after the next backup and at the next start.
pub async fn retain(ctx: &JobContext, source: &Source) {
    ctx.phase("Cleaning up old restore points").await;
    match expire(ctx, source).await {
        Ok(0) => {}
        Ok(gone) => ctx.info(&format!("Retention: {} removed.", words::count(gone, "old restore point"))).await,
        Err(why) => ctx.warn(&format!("Old restore points could not be removed: {why}. They are tried again.")).await,
    }
}

async fn expire(ctx: &JobContext, source: &Source) -> Result<usize, String> {
    let db = &ctx.core.db;
    let failed = |error: db::Error| errors::chain(&error);
    let points = db.points_for_retention(source.task_id, source.vm_id, source.repository_id).await.map_err(failed)?;
    let candidates: Vec<Candidate<db::PointId>> =
        points.into_iter().map(|(id, taken_at)| Candidate { id, taken_at }).collect();
    db.mark_expiring(&source.retention.expired(&candidates)).await.map_err(failed)?;
    remove_expiring(&ctx.core, &source.repository, source.repository_id).await
}

/// Removes what retention has decided about, also what an earlier, broken-off pass did not finish.
pub async fn remove_expiring(
    core: &crate::core::Core,
    repository: &Repository,
    repository_id: RepositoryId,
) -> Result<usize, String> {
    let expiring = core.db.expiring_points(repository_id).await.map_err(|error| errors::chain(&error))?;
    let mut gone = 0;
    for id in expiring {
        match repository.delete_point(PointId(id.0)).await {
            Ok(()) | Err(repository::Error::NoSuchPoint(_)) => {}
            // Object lock keeps it for now; a later pass removes it, and this one goes on with the others.
            Err(repository::Error::Backend(error)) if error.kind == BackendErrorKind::Locked => {
                tracing::debug!(point = %id, %error, "a restore point stays until its lock ends");
                continue;
            }
            Err(error) => return Err(errors::chain(&error)),
        }
        // Before the row goes: whatever stops this pass, space that was freed is not forgotten.
        core.db.mark_collect_due(repository_id).await.map_err(|error| errors::chain(&error))?;
        core.db.delete_point(id).await.map_err(|error| errors::chain(&error))?;
        gone += 1;
    }
    Ok(gone)
}
