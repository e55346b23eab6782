//! The backup of one machine: prepare → snapshot → plan → copy → commit → remove snapshot → retain.
//!
//! Owns: the order, and that the snapshot goes whatever happened in between.
//! Must never: show a point before its manifest is in the repository, or leave a change on the host that the journal
//! does not hold. Read next: the modules in the order of the steps.

mod commit;
mod copy;
mod plan;
mod prepare;
mod retain;
mod snapshot;

pub use retain::remove_expiring;

use crate::context::JobContext;
use crate::words;
use db::Outcome;
use domain::job::JobError;
use prepare::Source;
use repository::CommittedPoint;
use serde_json::json;
use snapshot::Held;

/// Runs the job.
pub async fn run(ctx: &JobContext) -> Result<Outcome, JobError> {
    let source = ctx.unless_stopped(prepare::prepare(ctx)).await?;
    snapshot::activate_tracking(ctx, &source).await?;
    let held = snapshot::take(ctx, &source).await?;
    let made = make_point(ctx, &source, &held).await;
    let removed = snapshot::remove(ctx, &source, held).await;
    let point = made?;
    if let Err(error) = removed {
        ctx.warn(&format!("{} {} The server goes on trying.", error.what, error.why)).await;
    }
    retain::retain(ctx, &source).await;
    Ok(ctx.done(json!({
        "point_id": point.point.id,
        "kind": point.point.kind,
        "bytes_read": point.bytes_read,
        "bytes_stored": point.bytes_stored,
    })))
}

/// Everything that needs the snapshot.
async fn make_point(ctx: &JobContext, source: &Source, held: &Held) -> Result<CommittedPoint, JobError> {
    ctx.phase("Finding out what to read").await;
    let disks = ctx.unless_stopped(plan::plan_disks(ctx, source, held)).await?;
    ctx.phase("Copying").await;
    let copied = copy::copy(ctx, source, &disks).await?;
    ctx.phase("Committing the restore point").await;
    let point = commit::commit(ctx, source, held, &disks, copied).await?;
    ctx.info(&format!(
        "Restore point committed: {} read, {} stored.",
        words::bytes(point.bytes_read),
        words::bytes(point.bytes_stored)
    ))
    .await;
    Ok(point)
}
