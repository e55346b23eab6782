//! Copying the disks of a machine: several at once, bounded, each from its frozen reader into the point being written.
//!
//! Owns: what one failed disk means for the others.
//! Must never: commit.

use super::host_disk::HostDisk;
use super::plan::{self, PlannedDisk};
use super::prepare::Source;
use super::room;
use crate::context::JobContext;
use crate::progress::Tally;
use crate::{errors, words};
use domain::job::JobError;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use repository::{DiskInput, DiskSummary, PointId, PointWriter, Progress, ReadPlan};
use std::pin::pin;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A point whose disks are stored but that is not committed.
pub struct Copied {
    pub id: PointId,
    pub writer: PointWriter,
}

/// Copies all disks. When one fails the others stop, and nothing of the point stays visible.
pub async fn copy(ctx: &JobContext, source: &Source, disks: &[PlannedDisk]) -> Result<Copied, JobError> {
    let id = PointId(Uuid::now_v7());
    let writer = source.repository.begin_point(id).await.map_err(|error| errors::repository(&source.what, &error))?;
    let tally = Arc::new(Tally::new(disks.iter().map(|disk| disk.config.key)));
    let labels = disks.iter().map(|disk| (disk.config.key, disk.config.label.clone())).collect();
    let reporter = ctx.report(Arc::clone(&tally), labels);
    let cancel = ctx.stop.token().child_token();
    // Boxed before they are a stream: the compiler cannot see that such a closure is `Send` otherwise.
    let lanes: Vec<BoxFuture<'_, _>> =
        disks.iter().map(|disk| copy_disk(ctx, source, &writer, disk, &tally, &cancel).boxed()).collect();
    let copying = stream::iter(lanes).buffer_unordered(ctx.config().disks_per_job.max(1)).try_collect::<Vec<()>>();
    let copied = with_room(ctx, source, copying, &cancel).await;
    cancel.cancel();
    reporter.finish().await;
    match copied {
        Ok(_) => Ok(Copied { id, writer }),
        Err(error) => {
            writer.abandon().await;
            Err(error)
        }
    }
}

/// Copies while there is room for the snapshot; when there is not, the copy is broken off where it may be.
async fn with_room<T>(
    ctx: &JobContext,
    source: &Source,
    copying: impl Future<Output = Result<T, JobError>>,
    cancel: &CancellationToken,
) -> Result<T, JobError> {
    let mut copying = pin!(copying);
    let full = tokio::select! {
        copied = &mut copying => return copied,
        full = room::watch(ctx, source) => full,
    };
    ctx.warn(&format!("The copy is broken off: {}", full.why)).await;
    cancel.cancel();
    let _ = copying.await;
    Err(full)
}

async fn copy_disk(
    ctx: &JobContext,
    source: &Source,
    writer: &PointWriter,
    disk: &PlannedDisk,
    tally: &Arc<Tally>,
    cancel: &CancellationToken,
) -> Result<(), JobError> {
    let what = format!("{} {} was being copied.", source.what, disk.title());
    let progress = Arc::clone(tally) as Arc<dyn Progress>;
    let input = |plan: ReadPlan| DiskInput {
        config: disk.config.clone(),
        source: Arc::new(HostDisk::new(Arc::clone(&disk.reader), &plan, Arc::clone(&source.throttle))),
        plan,
    };
    let mut result = writer.backup_disk(input(disk.plan.read.clone()), Arc::clone(&progress), cancel).await;
    if let (Err(error), ReadPlan::Changed { .. }) = (&result, &disk.plan.read)
        && error.is_damage()
    {
        // What the increment builds on is damaged; the host still has all of it.
        let cause = format!("the point it builds on is damaged ({})", errors::chain(error));
        ctx.warn(&format!("{}: reading all of it, because {cause}.", disk.title())).await;
        let full = plan::full(disk.reader.as_ref(), Some(cause)).await;
        let full = full.map_err(|error| errors::host(&what, &error))?;
        result = writer.backup_disk(input(full.read), progress, cancel).await;
    }
    let summary = result.map_err(|error| errors::repository(&what, &error))?;
    ctx.info(&done(disk, &summary)).await;
    Ok(())
}

fn done(disk: &PlannedDisk, summary: &DiskSummary) -> String {
    format!(
        "{} done: {} read, {} stored.",
        disk.title(),
        words::bytes(summary.bytes_read),
        words::bytes(summary.bytes_stored)
    )
}
