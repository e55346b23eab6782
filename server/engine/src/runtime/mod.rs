//! The workers of one process: the pool, the heartbeat of each job, the scheduler, the reaper, housekeeping.
//!
//! Owns: starting and stopping all of it. Must never: share state with another worker but through Postgres.
//! Read next: `worker.rs`, `heartbeat.rs`, `housekeeping.rs`.

mod heartbeat;
pub mod housekeeping;
mod presence;
mod worker;

use crate::core::Core;
use crate::facade::Engine;
use crate::notices;
use db::WorkerKind;
use housekeeping::every;
use presence::Present;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker::Pool;

/// The running workers. [`Workers::stop`] ends them in order; dropping leaves running jobs to the reaper.
pub struct Workers {
    core: Arc<Core>,
    pool: Arc<Pool>,
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// This worker was removed, or another process has its place.
    gone: CancellationToken,
    _events: db::Events,
}

impl Workers {
    /// Starts to work. Leases that an earlier life of this worker held are ended at once. One that was enrolled works and
    /// returns the leases of the dead; a server also keeps house and tells people.
    pub async fn start(engine: &Engine) -> db::Result<Self> {
        let core = engine.core();
        let present = Present::announce(&core).await?;
        let lost = core.db.expire_leases(&format!("{}/", core.config.worker_name)).await?;
        if lost > 0 {
            tracing::warn!(jobs = lost, "an earlier life of this server ended in the middle of jobs");
            // Their attempt is counted, so a job that takes the server down with it ends; a pause would help nobody.
            housekeeping::reap(&core, |_| Duration::ZERO).await?;
        }
        let events = core.db.events().await?;
        let stopping = CancellationToken::new();
        let pool = Pool::new(Arc::clone(&core), stopping.clone());
        let tasks = TaskTracker::new();
        tasks.spawn(Arc::clone(&pool).lease_jobs());
        // Ends when the events do.
        tokio::spawn(Arc::clone(&pool).listen(events.subscribe()));
        let gone = CancellationToken::new();
        tasks.spawn(present.keep(stopping.clone(), gone.clone()));
        reap(&core, &stopping, &tasks);
        if core.config.worker_kind == WorkerKind::Server {
            keep_house(&core, &stopping, &tasks);
            tell(&core, &stopping, &tasks);
        } else {
            sign_out(&core, &stopping, &tasks);
        }
        Ok(Self { core, pool, stopping, tasks, gone, _events: events })
    }

    /// Waits until this worker has been removed, or another process has taken its place: it should stop then.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Takes no more jobs, lets running ones clean up and go back to the queue, signs out of all hosts.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.tasks.close();
        self.pool.stop().await;
        self.tasks.wait().await;
        self.core.sessions.close_all().await;
    }
}

fn tell(core: &Arc<Core>, stopping: &CancellationToken, tasks: &TaskTracker) {
    let work = Arc::clone(core);
    tasks.spawn(every(core.config.observe_every, stopping.clone(), "looking for what is worth telling", move || {
        notices::observe(Arc::clone(&work))
    }));
    let (work, stop) = (Arc::clone(core), stopping.clone());
    tasks.spawn(every(core.config.notices_every, stopping.clone(), "delivering notices", move || {
        notices::deliver(Arc::clone(&work), stop.clone())
    }));
}

/// First of all: what it returns to the queue tells the reconciler where to look.
fn reap(core: &Arc<Core>, stopping: &CancellationToken, tasks: &TaskTracker) {
    let work = Arc::clone(core);
    tasks.spawn(every(core.config.reap_every, stopping.clone(), "the reaper", move || {
        let core = Arc::clone(&work);
        async move { housekeeping::reap(&core, |attempt| core.config.retry_pause(attempt)).await }
    }));
}

fn sign_out(core: &Arc<Core>, stopping: &CancellationToken, tasks: &TaskTracker) {
    let work = Arc::clone(core);
    tasks.spawn(every(core.config.inventory_every, stopping.clone(), "signing out of devices", move || {
        let core = Arc::clone(&work);
        async move { housekeeping::sign_out(&core).await.map(drop) }
    }));
}

fn keep_house(core: &Arc<Core>, stopping: &CancellationToken, tasks: &TaskTracker) {
    let config = &core.config;
    let work = Arc::clone(core);
    tasks.spawn(every(config.schedule_every, stopping.clone(), "the scheduler", move || {
        housekeeping::schedule(Arc::clone(&work))
    }));
    let work = Arc::clone(core);
    // Looked at more often than due, so that a device whose time comes does not wait a whole period.
    tasks.spawn(every(config.inventory_every / 4, stopping.clone(), "queueing inventories", move || {
        housekeeping::inventories(Arc::clone(&work))
    }));
    let work = Arc::clone(core);
    tasks.spawn(every(config.index_every, stopping.clone(), "queueing looks at repositories", move || {
        housekeeping::indexes(Arc::clone(&work))
    }));
    let work = Arc::clone(core);
    tasks.spawn(every(config.collect_every, stopping.clone(), "queueing collections", move || {
        housekeeping::collections(Arc::clone(&work))
    }));
    let work = Arc::clone(core);
    // Looked at more often than due, so that a start of the server does not put it off for a day.
    tasks.spawn(every(config.retain_every / 24, stopping.clone(), "queueing retention", move || {
        housekeeping::retentions(Arc::clone(&work))
    }));
    let work = Arc::clone(core);
    tasks.spawn(every(config.reconcile_every, stopping.clone(), "queueing reconciles", move || {
        housekeeping::reconciles(Arc::clone(&work))
    }));
}
