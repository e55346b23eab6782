//! Writing the disks of a point into a machine that is being made: data only, zeros are what is left out.
//!
//! Owns: the stream from the repository into the target. Must never: commit the machine.

use crate::context::JobContext;
use crate::errors;
use crate::progress::Tally;
use crate::throttle::Throttle;
use domain::Extent;
use domain::job::JobError;
use futures_util::stream::StreamExt;
use hypervisor::RestoreTarget;
use repository::{DiskImage, PointId, Repository};
use std::sync::Arc;

/// A disk to write.
pub struct RestoreDisk {
    key: i32,
    label: String,
    image: DiskImage,
}

/// Opens the point's disks and counts their data, before anything is made on the host.
pub async fn open_disks(
    what: &str,
    repository: &Repository,
    point: PointId,
    disks: &[domain::machine::DiskConfig],
    tally: &Tally,
) -> Result<Vec<RestoreDisk>, JobError> {
    let failed = |error| errors::repository(what, &error);
    let mut opened = Vec::with_capacity(disks.len());
    for disk in disks {
        let image = repository.open_disk(point, disk.key).await.map_err(failed)?;
        let data = image.data_extents().await.map_err(failed)?;
        tally.add_planned(disk.key, domain::extent::total_bytes(&data));
        opened.push(RestoreDisk { key: disk.key, label: disk.label.clone(), image });
    }
    Ok(opened)
}

/// Writes all disks, one after the other, as hosts want them.
pub async fn write_disks(
    ctx: &JobContext,
    what: &str,
    disks: &[RestoreDisk],
    target: &mut dyn RestoreTarget,
    tally: &Arc<Tally>,
    throttle: &Throttle,
) -> Result<(), JobError> {
    for disk in disks {
        write_disk(ctx, what, disk, target, tally, throttle).await?;
        ctx.info(&format!("{} written.", disk.label)).await;
    }
    Ok(())
}

async fn write_disk(
    ctx: &JobContext,
    what: &str,
    disk: &RestoreDisk,
    target: &mut dyn RestoreTarget,
    tally: &Tally,
    throttle: &Throttle,
) -> Result<(), JobError> {
    let host_error = |error| errors::host(&format!("{what} {} was being written.", disk.label), &error);
    target.begin_disk(disk.key).await.map_err(host_error)?;
    let mut pieces = disk.image.stream(Extent::new(0, disk.image.size_bytes()));
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            () = ctx.stop.token().cancelled() => return Err(JobError::cancelled(what)),
        };
        let Some(piece) = piece else { break };
        let (offset, bytes) = piece.map_err(|error| errors::repository(what, &error))?;
        let length = bytes.len() as u64;
        tokio::select! {
            () = throttle.pass(length) => {}
            () = ctx.stop.token().cancelled() => return Err(JobError::cancelled(what)),
        }
        tokio::select! {
            written = target.write(offset, bytes) => written.map_err(host_error)?,
            () = ctx.stop.token().cancelled() => return Err(JobError::cancelled(what)),
        }
        tally.add_done(disk.key, length);
    }
    // A host may take minutes to store what it was sent.
    tokio::select! {
        finished = target.finish_disk() => finished.map_err(host_error),
        () = ctx.stop.token().cancelled() => Err(JobError::cancelled(what)),
    }
}
