//! The commit: the manifest in the repository is the point, the row in the database follows it.
//!
//! Owns: what a point says about itself. Must never: write the row first.

use super::copy::Copied;
use super::marks;
use super::plan::{self, PlannedDisk};
use super::power::Power;
use super::prepare::Source;
use super::snapshot::Held;
use crate::context::JobContext;
use crate::errors;
use db::NewPoint;
use domain::job::JobError;
use domain::point::ChangeMark;
use repository::{CommittedPoint, PointMetadata};

/// Seals the snapshot, commits the point and writes its row.
pub async fn commit(
    ctx: &JobContext,
    source: &Source,
    held: &Held,
    power: &Power,
    disks: &[PlannedDisk],
    copied: Copied,
) -> Result<CommittedPoint, JobError> {
    let sealed = match marks::seal(ctx, source, held, copied.id).await {
        Ok(sealed) => sealed,
        Err(error) => {
            copied.writer.abandon().await;
            return Err(error);
        }
    };
    // Should this process end before it can tell, the next attempt asks for this point first.
    if let Err(error) = ctx.essential(ctx.core.db.intend_point(ctx.lease(), db::PointId(copied.id.0)).await) {
        copied.writer.abandon().await;
        return Err(error);
    }
    let committed = copied.writer.commit(metadata(source, held, power, disks, marks_of(disks, &sealed.marks))).await;
    let committed = committed.map_err(|error| errors::repository(&source.what, &error))?;
    let point = &committed.point;
    let row = NewPoint {
        point_id: db::PointId(copied.id.0),
        repository_id: source.repository_id,
        vm_id: Some(source.vm_id),
        task_id: Some(source.task_id),
        job_id: Some(ctx.job.job_id),
        machine_name: point.machine.name.clone(),
        machine_key: source.machine_key.clone(),
        taken_at: point.taken_at,
        kind: point.kind,
        consistency: point.consistency,
        size_bytes: point.disks.iter().map(|disk| disk.size_bytes).sum(),
        bytes_read: committed.bytes_read,
        bytes_stored: committed.bytes_stored,
        config: point.machine.clone(),
        marks: point.marks.clone(),
        warnings: point.warnings.clone(),
        simulated: source.simulated,
    };
    // Without the row the point exists all the same: the next look at the repository adopts it.
    ctx.essential(ctx.core.db.insert_point(ctx.lease(), &row).await)?;
    sealed.keep(ctx).await;
    Ok(committed)
}

/// Without those of disks that are left out: a later run would build on a disk that the point does not hold.
fn marks_of(disks: &[PlannedDisk], marks: &[ChangeMark]) -> Vec<ChangeMark> {
    let held = |mark: &&ChangeMark| disks.iter().any(|disk| disk.config.key == mark.disk_key);
    marks.iter().filter(held).cloned().collect()
}

fn metadata(
    source: &Source,
    held: &Held,
    power: &Power,
    disks: &[PlannedDisk],
    marks: Vec<ChangeMark>,
) -> PointMetadata {
    let fallbacks = disks.iter().filter_map(|disk| {
        disk.plan.fallback.as_ref().map(|cause| format!("{}: all of it was read, because {cause}.", disk.title()))
    });
    PointMetadata {
        machine_id: source.machine_key.clone(),
        device: source.device_name.clone(),
        machine: held.snapshot.config.clone(),
        taken_at: held.taken_at,
        kind: plan::point_kind(disks),
        consistency: power.consistency.unwrap_or(held.snapshot.consistency),
        marks,
        warnings: power.warnings.iter().chain(&held.snapshot.warnings).cloned().chain(fallbacks).collect(),
        task: Some(source.task_name.clone()),
        predecessor: source.predecessor,
    }
}
