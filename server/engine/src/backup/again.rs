//! What an earlier attempt of the job committed and could not tell: the machine is not backed up twice for one due time.
//!
//! Must never: take a point for the job's own that is not in the repository.

use super::prepare;
use crate::context::JobContext;
use crate::errors;
use crate::reconcile::index::row_of;
use db::{NewPoint, Outcome};
use domain::job::JobError;
use repository::{Error, PointId};
use serde_json::json;

/// The end of the job, if the point that an earlier attempt was about to commit is in the repository. What that attempt left
/// on the host goes first.
pub async fn committed(ctx: &JobContext) -> Result<Option<Outcome>, JobError> {
    let Some(intended) = ctx.job.point_id else { return Ok(None) };
    let (task, machine, device) = prepare::rows(ctx).await?;
    let what = format!("{} on {} was not backed up.", machine.name, device.name);
    let row = ctx.essential(ctx.core.db.repository(task.repository_id).await)?;
    let repository = ctx.core.repository(&what, &row).await?;
    let point = match repository.point(PointId(intended.0)).await {
        Ok(point) => point,
        Err(Error::NoSuchPoint(_)) => return Ok(None),
        Err(error) => return Err(errors::repository(&what, &error)),
    };
    let host = ctx.core.host(&what, &device).await?;
    prepare::undo_own(ctx, &what, host.as_ref(), &machine).await?;
    let point_row = NewPoint {
        vm_id: Some(machine.vm_id),
        task_id: Some(task.task_id),
        job_id: Some(ctx.job.job_id),
        simulated: device.simulated,
        ..row_of(row.repository_id, &point)
    };
    ctx.essential(ctx.core.db.insert_point(ctx.lease(), &point_row).await)?;
    ctx.info("The attempt before this one had committed the restore point when it ended; nothing is copied again.")
        .await;
    Ok(Some(ctx.done(json!({
        "point_id": point.id,
        "kind": point.kind,
        "consistency": point.consistency,
        "bytes_read": point_row.bytes_read,
        "bytes_stored": point_row.bytes_stored,
    }))))
}
