//! What has to happen by itself: due tasks, expired leases, inventories, looks for left-overs.
//!
//! Owns: when. Must never: do the work; it only queues jobs. Any number of servers may run it on one database.

use crate::context::JobContext;
use crate::core::Core;
use crate::errors;
use db::{Device, DeviceId, JobId, NewJob, RepositoryId};
use domain::job::JobKind;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Looks at a repository are behind everything else, and so is giving space back.
const INDEX_PRIORITY: i32 = -10;

/// Runs `work` now and then every `period`, until `stopping`. A failure is logged; the next round comes.
pub async fn every<F, Fut>(period: Duration, stopping: CancellationToken, name: &'static str, mut work: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = db::Result<()>>,
{
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = work().await {
            tracing::warn!(error = %errors::chain(&error), "{name} failed");
        }
    }
}

/// Stops what runs past its task's hours, then starts what is due. What was missed while no server ran is started once or
/// left out, as the task says.
pub async fn schedule(core: Arc<Core>) -> db::Result<()> {
    for run in core.db.stop_runs_past_their_hours().await? {
        tracing::info!(%run, "the hours of its task are over: the run is stopped");
    }
    for due in core.db.start_due_tasks().await? {
        let (start, skipped) = (due.start, due.skipped);
        tracing::info!(task = %due.name, due = %due.due_at, ?start, ?skipped, "due by schedule");
    }
    Ok(())
}

/// Returns the jobs of dead workers to the queue and looks for what they left.
pub async fn reap(core: &Core, pause: impl Fn(u32) -> Duration + Send) -> db::Result<()> {
    for reaped in core.db.reap(pause).await? {
        tracing::warn!(job = %reaped.job_id, title = %reaped.title, state = reaped.state.as_str(), "worker lost");
        if matches!(reaped.kind, JobKind::Backup | JobKind::Restore)
            && let Some(device_id) = reaped.device_id
        {
            core.db.enqueue_housekeeping(JobKind::Reconcile, device_id).await?;
        }
    }
    Ok(())
}

/// Signs out of devices that are not enabled any more; those that are.
pub async fn sign_out(core: &Core) -> db::Result<Vec<Device>> {
    let devices: Vec<Device> = core.db.devices().await?.into_iter().filter(|device| device.enabled).collect();
    core.sessions.keep_only(&devices.iter().map(|device| device.device_id).collect::<Vec<_>>()).await;
    Ok(devices)
}

/// Queues the inventory of each enabled device that was not read lately; signs out of the others.
pub async fn inventories(core: Arc<Core>) -> db::Result<()> {
    let now = core.db.now().await?;
    for device in sign_out(&core).await? {
        let tried = device.synced_at.max(device.sync_failed_at);
        let fresh = tried.is_some_and(|at| now.duration_since(at).unsigned_abs() < core.config.inventory_every);
        if !fresh {
            core.db.enqueue_housekeeping(JobKind::Inventory, device.device_id).await?;
        }
    }
    Ok(())
}

/// Queues a look at each device with open changes.
pub async fn reconciles(core: Arc<Core>) -> db::Result<()> {
    for device_id in core.db.devices_to_reconcile().await? {
        core.db.enqueue_housekeeping(JobKind::Reconcile, device_id).await?;
    }
    Ok(())
}

/// Queues a look at each repository.
pub async fn indexes(core: Arc<Core>) -> db::Result<()> {
    for repository in core.db.repositories().await? {
        index(&core, repository.repository_id, &repository.name).await?;
    }
    Ok(())
}

/// Queues giving space back for each repository that lost points, or could not give back all last time.
pub async fn collections(core: Arc<Core>) -> db::Result<()> {
    for repository in core.db.repositories().await?.into_iter().filter(|repository| repository.collect_due) {
        collect(&core, repository.repository_id, &repository.name).await?;
    }
    Ok(())
}

/// The same for one.
pub async fn collect(core: &Core, id: RepositoryId, name: &str) -> db::Result<Option<JobId>> {
    let job = NewJob {
        repository_id: Some(id),
        priority: INDEX_PRIORITY,
        ..NewJob::new(JobKind::Collect, name, format!("repository:{id}:collect"))
    };
    core.db.enqueue(&job).await
}

/// Queues retention for each repository whose points were not all looked at lately: what a rule keeps by age goes
/// although no task runs.
pub async fn retentions(core: Arc<Core>) -> db::Result<()> {
    for (id, name) in core.db.repositories_to_retain(core.config.retain_every).await? {
        retain(&core, id, &name).await?;
    }
    Ok(())
}

/// The same for one.
pub async fn retain(core: &Core, id: RepositoryId, name: &str) -> db::Result<Option<JobId>> {
    let job = NewJob {
        repository_id: Some(id),
        priority: INDEX_PRIORITY,
        ..NewJob::new(JobKind::Retain, name, format!("repository:{id}:retain"))
    };
    core.db.enqueue(&job).await
}

/// After a job that made a point, or for whose end points had to stay. Should this get lost, the daily look comes.
pub async fn retain_after(ctx: &JobContext) {
    let Some(id) = ctx.job.repository_id else { return };
    let queued = async {
        let row = ctx.core.db.repository(id).await?;
        retain(&ctx.core, id, &row.name).await
    };
    heard(queued.await);
}

async fn index(core: &Core, id: RepositoryId, name: &str) -> db::Result<()> {
    let job = NewJob {
        repository_id: Some(id),
        priority: INDEX_PRIORITY,
        ..NewJob::new(JobKind::Reconcile, name, format!("repository:{id}:index"))
    };
    core.db.enqueue(&job).await.map(drop)
}

/// After a job that may have left something on its device, or a point without a row.
pub async fn reconcile_after(ctx: &JobContext) {
    if let Some(device_id) = ctx.job.device_id {
        heard(ctx.core.db.enqueue_housekeeping(JobKind::Reconcile, device_id).await);
    }
    if let Some(id) = ctx.job.repository_id {
        heard(index(&ctx.core, id, &ctx.job.title).await);
    }
}

/// After a job that made a machine.
pub async fn inventory_after(ctx: &JobContext, device_id: DeviceId) {
    heard(ctx.core.db.enqueue_housekeeping(JobKind::Inventory, device_id).await);
}

fn heard<T>(queued: db::Result<T>) {
    if let Err(error) = queued {
        tracing::warn!(error = %errors::chain(&error), "housekeeping was not queued");
    }
}
