//! One repository: the rows in the database follow its manifests.
//!
//! Owns: adopting points no row knows, marking rows whose manifest is gone, having retention finish what it began.
//! Must never: remove a manifest.

use crate::context::JobContext;
use crate::core::Core;
use crate::runtime::housekeeping;
use crate::{errors, words};
use db::{NewPoint, Outcome, RepositoryId, Task, TaskId};
use domain::job::JobError;
use repository::{Point, PointId, Repository};
use serde_json::json;
use std::collections::HashSet;

const GONE: &str = "Its manifest is no longer in the repository.";

/// What a pass came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pass {
    /// Points that have a row now.
    pub adopted: usize,
    /// Rows whose point cannot be read.
    pub damaged: usize,
}

/// The job.
pub async fn reconcile(ctx: &JobContext, id: RepositoryId) -> Result<Outcome, JobError> {
    let row = ctx.essential(ctx.core.db.repository(id).await)?;
    let what = format!("The restore points of “{}” could not be compared with their list.", row.name);
    let checked = pass(ctx, &what, &row).await;
    if let Err(error) = &checked {
        ctx.heard(ctx.core.db.record_repository_error(id, error).await);
    }
    let pass = checked?;
    if pass.adopted > 0 {
        ctx.info(&format!("{} taken up into the list.", words::count(pass.adopted, "restore point"))).await;
    }
    if pass.damaged > 0 {
        ctx.warn(&format!("{} cannot be read.", words::count(pass.damaged, "restore point"))).await;
    }
    Ok(ctx.done(json!({ "adopted": pass.adopted, "damaged": pass.damaged })))
}

async fn pass(ctx: &JobContext, what: &str, row: &db::Repository) -> Result<Pass, JobError> {
    let repository = ctx.core.repository(what, row).await?;
    let pass = adopt(&ctx.core, what, &repository, row.repository_id).await?;
    // What a dead job, or an object lock, left of its work.
    if !ctx.essential(ctx.core.db.expiring_points(row.repository_id).await)?.is_empty() {
        ctx.essential(housekeeping::retain(&ctx.core, row.repository_id, &row.name).await)?;
    }
    crate::space::note(&ctx.core, &repository, row).await;
    Ok(pass)
}

/// Makes the rows agree with the manifests.
pub async fn adopt(core: &Core, what: &str, repository: &Repository, id: RepositoryId) -> Result<Pass, JobError> {
    let database = |error| errors::database(what, &error);
    let storage = |error| errors::repository(what, &error);
    // Rows first: a point committed in between is then found among the manifests and adopted, never marked as gone.
    let rows = core.db.points_of_repository(id).await.map_err(database)?;
    let tasks = core.db.tasks().await.map_err(database)?;
    let list = repository.points().await.map_err(storage)?;
    let known: HashSet<uuid::Uuid> = rows.iter().map(|row| row.point_id.0).collect();
    let mut pass = Pass::default();
    for summary in list.points.iter().filter(|summary| !known.contains(&summary.id.0)) {
        let point = repository.point(summary.id).await.map_err(storage)?;
        let row = NewPoint { task_id: task_of(&tasks, id, &point), ..row_of(id, &point) };
        pass.adopted += core.db.adopt_points(id, &[row]).await.map_err(database)? as usize;
        // Retention may have removed it between the list and now; its row must not outlive it.
        if matches!(repository.point(summary.id).await, Err(repository::Error::NoSuchPoint(_))) {
            core.db.delete_point(db::PointId(summary.id.0)).await.map_err(database)?;
        }
    }
    let readable: HashSet<PointId> = list.points.iter().map(|summary| summary.id).collect();
    for row in &rows {
        let id = PointId(row.point_id.0);
        if readable.contains(&id) {
            continue;
        }
        let damaged = list.damaged.iter().find(|damaged| damaged.id == Some(id));
        let error = damaged.map_or(GONE, |damaged| damaged.reason.as_str());
        core.db.record_verified(row.point_id, Some(error)).await.map_err(database)?;
        pass.damaged += 1;
    }
    Ok(pass)
}

/// The task that made it, by name: retention goes on for a point whose row was lost.
fn task_of(tasks: &[Task], id: RepositoryId, point: &Point) -> Option<TaskId> {
    let name = point.task.as_deref()?;
    tasks.iter().find(|task| task.repository_id == id && task.name == name).map(|task| task.task_id)
}

/// What a manifest says of its row.
pub fn row_of(id: RepositoryId, point: &Point) -> NewPoint {
    let summary = point.summary();
    NewPoint {
        point_id: db::PointId(point.id.0),
        repository_id: id,
        vm_id: None,
        task_id: None,
        job_id: None,
        machine_name: point.machine.name.clone(),
        machine_key: point.machine_id.clone(),
        taken_at: point.taken_at,
        kind: point.kind,
        consistency: point.consistency,
        size_bytes: summary.size_bytes,
        bytes_read: summary.bytes_read,
        bytes_stored: summary.bytes_stored,
        config: point.machine.clone(),
        marks: point.marks.clone(),
        warnings: point.warnings.clone(),
        simulated: false,
    }
}
