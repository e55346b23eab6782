//! The backup of one machine: prepare → shut down → snapshot → plan → check tracking → copy → commit → remove snapshot → switch
//! on; retention is a job of its own.
//!
//! Owns: the order, and that the snapshot goes and the machine runs again whatever happened in between.
//! Must never: show a point before its manifest is in the repository, or leave a change on the host that the journal
//! does not hold. Read next: the modules in the order of the steps.

mod again;
mod commit;
mod copy;
mod host_disk;
mod marks;
mod plan;
mod power;
mod prepare;
mod room;
mod sample;
mod snapshot;

use crate::context::JobContext;
use crate::words;
use db::Outcome;
use domain::job::{JobError, LogLevel};
use domain::mode::Mode;
use power::Power;
use prepare::Source;
use repository::CommittedPoint;
use serde_json::json;
use snapshot::Held;

/// Runs the job.
pub async fn run(ctx: &JobContext) -> Result<Outcome, JobError> {
    if let Some(done) = ctx.unless_stopped(Box::pin(again::committed(ctx))).await? {
        return Ok(done);
    }
    let mut source = ctx.unless_stopped(Box::pin(prepare::prepare(ctx))).await?;
    let mut power = Power::default();
    let made = with_snapshot(ctx, &mut source, &mut power).await;
    // Before anything is said about the backup: a machine that stays off is worse than one without a point.
    if let Err(error) = power.wake(ctx, &source).await {
        if let Err(first) = &made {
            ctx.log(LogLevel::Error, &first.to_string()).await;
        }
        return Err(error);
    }
    let point = made?;
    marks::let_go(ctx, &source).await;
    Ok(ctx.done(json!({
        "point_id": point.point.id,
        "kind": point.point.kind,
        "consistency": point.point.consistency,
        "bytes_read": point.bytes_read,
        "bytes_stored": point.bytes_stored,
    })))
}

/// Everything between the shutdown of the machine and its start.
async fn with_snapshot(ctx: &JobContext, source: &mut Source, power: &mut Power) -> Result<CommittedPoint, JobError> {
    room::check(ctx, source).await?;
    power.rest(ctx, source).await?;
    snapshot::activate_tracking(ctx, source).await?;
    let mut held = snapshot::take(ctx, source).await?;
    snapshot::leave_out_disks(ctx, source, &mut held).await;
    let made = make_point(ctx, source, power, &held).await;
    let removed = snapshot::remove(ctx, source, held).await;
    let point = made?;
    if let Err(error) = removed {
        ctx.warn(&format!("{} {} The server goes on trying.", error.what, error.why)).await;
    }
    Ok(point)
}

/// Everything that needs the snapshot.
async fn make_point(
    ctx: &JobContext,
    source: &Source,
    power: &mut Power,
    held: &Held,
) -> Result<CommittedPoint, JobError> {
    power.compare(ctx, held.snapshot.consistency).await;
    if source.mode == Mode::ColdSnapshot {
        power.wake_early(ctx, source).await?;
    }
    ctx.phase("Finding out what to read").await;
    let mut disks = ctx.unless_stopped(plan::plan_disks(ctx, source, held)).await?;
    sample::check(ctx, source, &mut disks).await?;
    ctx.phase("Copying").await;
    let copied = copy::copy(ctx, source, &disks).await?;
    ctx.phase("Committing the restore point").await;
    let point = commit::commit(ctx, source, held, power, &disks, copied).await?;
    ctx.info(&format!(
        "Restore point committed: {} read, {} stored.",
        words::bytes(point.bytes_read),
        words::bytes(point.bytes_stored)
    ))
    .await;
    Ok(point)
}
