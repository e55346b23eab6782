//! Change tracking is trusted, but checked: what it calls unchanged is read here and there, and compared with the point that is
//! built on.
//!
//! Owns: that one difference makes the run a full, and an alarm. Must never: call a host right that gave other bytes.

use super::plan::{self, Base, PlannedDisk, Wish};
use super::prepare::Source;
use crate::context::JobContext;
use crate::{errors, words};
use db::NewTrackingAlarm;
use domain::job::JobError;
use domain::sampling::Sampling;
use domain::{Extent, extent};
use futures_util::TryStreamExt;
use hypervisor::Areas;
use repository::ReadPlan;

/// What came of comparing a disk.
enum Compared {
    /// So many bytes are as they were.
    Same(u64),
    /// The byte at this offset is another, and tracking did not say so.
    Differs(u64),
    /// The point that is built on cannot be read there.
    Damaged(String),
}

/// Compares a sample of each disk of which only changes would be read. What differs makes all disks be read as a whole.
pub async fn check(ctx: &JobContext, source: &Source, disks: &mut [PlannedDisk]) -> Result<(), JobError> {
    let Wish::Since(_, base) = &source.wish else { return Ok(()) };
    let sampling: Sampling = ctx.essential(ctx.core.db.setting(Sampling::SETTING).await)?.unwrap_or_default();
    let mut same_bytes = 0;
    let mut cause = None;
    for disk in disks.iter() {
        ctx.check(&source.what)?;
        match ctx.unless_stopped(compare(ctx, source, base, disk, sampling)).await? {
            Compared::Same(bytes) => same_bytes += bytes,
            Compared::Differs(offset) => {
                raise(ctx, source, disk, offset).await?;
                let title = disk.title();
                cause.get_or_insert(format!("change tracking said nothing of a change at byte {offset} of {title}"));
            }
            Compared::Damaged(damage) => {
                cause.get_or_insert(format!("the point it builds on is damaged ({damage})"));
            }
        }
    }
    if let Some(cause) = cause {
        return read_all(ctx, source, disks, &cause).await;
    }
    if same_bytes > 0 {
        let bytes = words::bytes(same_bytes);
        ctx.info(&format!("Change tracking was checked: {bytes} that it calls unchanged are as they were.")).await;
    }
    Ok(())
}

async fn compare(
    ctx: &JobContext,
    source: &Source,
    base: &Base,
    disk: &PlannedDisk,
    sampling: Sampling,
) -> Result<Compared, JobError> {
    let ReadPlan::Changed { areas, .. } = &disk.plan.read else { return Ok(Compared::Same(0)) };
    let host = |error| errors::host(&source.what, &error);
    let (reader, size) = (&disk.reader, disk.reader.size_bytes());
    let used = match reader.allocated().await.map_err(host)? {
        Areas::Known(used) => used,
        Areas::Unknown(_) => vec![Extent::new(0, size)],
    };
    // Another sample each run, also where each builds on the same full.
    let seed = base.point_id.0.as_u64_pair().1 ^ ctx.job.job_id.0.unsigned_abs().rotate_left(32);
    let mut random = fastrand::Rng::with_seed(seed ^ u64::from(disk.config.key.unsigned_abs()));
    let cells = sampling.choose(size, &used, areas, |bound| random.u64(..bound));
    if cells.is_empty() {
        return Ok(Compared::Same(0));
    }
    let broken = |error: repository::Error| {
        if error.is_damage() {
            Ok(Compared::Damaged(errors::chain(&error)))
        } else {
            Err(errors::repository(&source.what, &error))
        }
    };
    let image = match source.repository.open_disk(base.point_id, disk.config.key).await {
        Ok(image) => image,
        Err(error) => return broken(error),
    };
    let mut pieces = reader.stream_areas(extent::coalesce(&cells, 1, 0, size));
    let mut same_bytes = 0;
    while let Some((offset, now)) = pieces.try_next().await.map_err(host)? {
        source.throttle.pass(now.len() as u64).await;
        let before = match image.read_at(offset, now.len()).await {
            Ok(before) => before,
            Err(error) => return broken(error),
        };
        if let Some(at) = now.iter().zip(&before).position(|(now, before)| now != before) {
            return Ok(Compared::Differs(offset + at as u64));
        }
        same_bytes += now.len() as u64;
    }
    Ok(Compared::Same(same_bytes))
}

/// Before anything else is done: the alarm stands even if the run fails.
async fn raise(ctx: &JobContext, source: &Source, disk: &PlannedDisk, offset: u64) -> Result<(), JobError> {
    let alarm = NewTrackingAlarm {
        vm_id: source.vm_id,
        job_id: ctx.job.job_id,
        disk_key: disk.config.key,
        disk_label: disk.config.label.clone(),
        offset_bytes: offset,
    };
    ctx.essential(ctx.core.db.raise_tracking_alarm(&alarm).await)?;
    ctx.warn(&format!(
        "{}: {} said nothing of a change at byte {offset}. Earlier increments may lack changes as well: verify what you \
         restore from them, and set change tracking of this machine up anew on the host.",
        disk.title(),
        source.device_name,
    ))
    .await;
    Ok(())
}

async fn read_all(ctx: &JobContext, source: &Source, disks: &mut [PlannedDisk], cause: &str) -> Result<(), JobError> {
    ctx.warn(&format!("All disks are read as a whole, because {cause}.")).await;
    for disk in disks.iter_mut().filter(|disk| matches!(disk.plan.read, ReadPlan::Changed { .. })) {
        let full = plan::full(disk.reader.as_ref(), Some(cause.to_owned())).await;
        disk.plan = full.map_err(|error| errors::host(&source.what, &error))?;
    }
    Ok(())
}
