//! Retention, as a job of a repository: look → mark → remove manifests → remove rows; collection follows.
//!
//! Owns: the order (row marked) → manifest → row, so that whatever stops it, the next attempt goes on. Must never:
//! decide; the database does, where rules, pins, restores and backups are seen as they are at that moment.

use crate::context::JobContext;
use crate::{errors, words};
use db::{Expiring, Outcome, RepositoryId};
use domain::job::JobError;
use repository::{BackendErrorKind, PointId, Repository};
use serde_json::json;

/// Machines that are decided about in one transaction.
const MACHINES_AT_ONCE: usize = 20;
/// Points that are named in the log; the rest is counted.
const NAMED_IN_LOG_MAX: usize = 500;

/// What became of the marked points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Manifest and row are gone.
    pub gone: usize,
    /// Object lock keeps it for now; a later pass removes it.
    pub locked: usize,
}

/// Runs the job.
pub async fn run(ctx: &JobContext) -> Result<Outcome, JobError> {
    let Some(id) = ctx.job.repository_id else { return Err(ctx.malformed()) };
    let row = ctx.essential(ctx.core.db.repository(id).await)?;
    let what = format!("Old restore points in “{}” were not all removed.", row.name);
    let in_use = mark(ctx, &what, id).await?;
    ctx.phase("Removing restore points").await;
    let expiring = ctx.essential(ctx.core.db.expiring_points(id).await)?;
    let removed = if expiring.is_empty() {
        Removed::default()
    } else {
        let repository = ctx.core.repository(&what, &row).await?;
        remove(ctx, &what, &repository, id, &expiring).await?
    };
    if removed.gone > 0 {
        ctx.info(&format!("Retention: {} removed.", words::count(removed.gone, "old restore point"))).await;
    }
    if removed.locked > 0 {
        let points = words::count(removed.locked, "restore point");
        ctx.info(&format!("{points} more when the location’s object lock lets go.")).await;
    }
    if in_use > 0 {
        let points = words::count(in_use, "restore point");
        ctx.info(&format!("{points} later: being restored, verified or built on just now.")).await;
    }
    Ok(ctx.done(json!({ "removed": removed.gone, "locked": removed.locked, "in_use": in_use })))
}

/// Decides, machine by machine. Says how many points would go but are in use.
async fn mark(ctx: &JobContext, what: &str, id: RepositoryId) -> Result<usize, JobError> {
    ctx.phase("Comparing restore points with the rules").await;
    let db = &ctx.core.db;
    let asked = db.machines_to_retain(id, ctx.config().retain_every).await;
    let (machines, began, all) = ctx.essential(asked)?;
    let mut in_use = 0;
    for some in machines.chunks(MACHINES_AT_ONCE) {
        ctx.check(what)?;
        in_use += ctx.essential(db.mark_by_rules(ctx.lease(), id, some).await)?.in_use;
    }
    // What is in use now is looked at again by the next job.
    if in_use == 0 {
        ctx.essential(db.record_retained(id, began, all).await)?;
    }
    Ok(in_use)
}

async fn remove(
    ctx: &JobContext,
    what: &str,
    repository: &Repository,
    id: RepositoryId,
    expiring: &[Expiring],
) -> Result<Removed, JobError> {
    let mut removed = Removed::default();
    for point in expiring {
        ctx.check(what)?;
        if !remove_manifest(repository, point).await.map_err(|error| errors::repository(what, &error))? {
            removed.locked += 1;
            continue;
        }
        // Before the row goes: whatever stops this pass, space that was freed and what went are not forgotten.
        ctx.essential(ctx.core.db.mark_collect_due(id).await)?;
        if removed.gone < NAMED_IN_LOG_MAX {
            let (machine, taken) = (&point.machine_name, words::moment(point.taken_at));
            ctx.info(&format!("{machine}, {taken}: removed, {}.", point.why)).await;
        }
        ctx.essential(ctx.core.db.delete_point(point.point_id).await)?;
        removed.gone += 1;
    }
    Ok(removed)
}

/// False: object lock keeps it for now.
async fn remove_manifest(repository: &Repository, point: &Expiring) -> repository::Result<bool> {
    match repository.delete_point(PointId(point.point_id.0)).await {
        Ok(()) | Err(repository::Error::NoSuchPoint(_)) => Ok(true),
        Err(repository::Error::Backend(error)) if error.kind == BackendErrorKind::Locked => {
            tracing::debug!(point = %point.point_id, %error, "a restore point stays until its lock ends");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
