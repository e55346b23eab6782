//! The worker pool: leases jobs as slots become free, runs each in a task of its own, and settles how it ended.
//!
//! Owns: slots, the life of a job in this process. Must never: write about a job whose lease it has lost.
//! Read next: `heartbeat.rs`.

use super::heartbeat;
use crate::context::JobContext;
use crate::core::Core;
use crate::stop::{Stop, StopReason};
use crate::{backup, collect, errors, inventory, reconcile, restore, retain, verify, words};
use db::{Event, Job, Lease, LeaseLimits, Outcome, WorkerKind};
use domain::job::{Disposition, JobError, JobKind, LogLevel};
use domain::schedule::outcome;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tries to write how a job ended, while the lease may still hold.
const SETTLE_TRIES_MAX: u32 = 5;

/// The jobs of this process.
pub struct Pool {
    core: Arc<Core>,
    /// No new job is leased once this is cancelled.
    stopping: CancellationToken,
    slots: Arc<Semaphore>,
    /// By lease: a job whose lease was lost may still clean up here while its next attempt runs.
    running: Mutex<HashMap<Lease, Running>>,
    tasks: TaskTracker,
    /// Look at the queue now.
    wake: Notify,
}

struct Running {
    stop: Stop,
    look: Arc<Notify>,
}

impl Pool {
    pub fn new(core: Arc<Core>, stopping: CancellationToken) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(core.config.slots));
        Arc::new(Self {
            core,
            stopping,
            slots,
            running: Mutex::default(),
            tasks: TaskTracker::new(),
            wake: Notify::new(),
        })
    }

    /// Leases and starts jobs until the pool stops.
    pub async fn lease_jobs(self: Arc<Self>) {
        let limits = LeaseLimits { copies: self.core.config.max_transfers };
        // The process too, for the operator; the name alone says whose lives a start may end.
        let name = format!("{}/{}", self.core.config.worker_name, std::process::id());
        while let Some(slot) = self.next_slot().await {
            match self.core.db.lease_job(&name, &JobKind::ALL, limits).await {
                Ok(Some(job)) => {
                    let pool = Arc::clone(&self);
                    self.tasks.spawn(async move {
                        pool.run(job).await;
                        drop(slot);
                        pool.wake.notify_one();
                    });
                }
                Ok(None) => {
                    drop(slot);
                    self.pause().await;
                }
                Err(error) => {
                    tracing::warn!(error = %errors::chain(&error), "the queue could not be read");
                    drop(slot);
                    self.pause().await;
                }
            }
        }
    }

    async fn next_slot(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok(),
        }
    }

    async fn pause(&self) {
        tokio::select! {
            () = self.wake.notified() => {}
            () = tokio::time::sleep(self.core.config.poll_every) => {}
            () = self.stopping.cancelled() => {}
        }
    }

    /// Turns the database's events into looks at the queue and at jobs.
    pub async fn listen(self: Arc<Self>, mut events: broadcast::Receiver<Event>) {
        loop {
            match events.recv().await {
                Ok(Event::JobsWaiting) => self.wake.notify_one(),
                Ok(Event::CancelRequested(job)) => {
                    self.look_at(|lease| lease.job_id == job);
                }
                Ok(Event::Reconnected) | Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.wake.notify_one();
                    self.look_at(|_| true);
                }
                Ok(Event::RunChanged(_) | Event::DeviceChanged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn look_at(&self, which: impl Fn(&Lease) -> bool) {
        self.running.lock().iter().filter(|(lease, _)| which(lease)).for_each(|(_, running)| running.look.notify_one());
    }

    /// Tells all jobs to stop and waits for them to clean up.
    pub async fn stop(&self) {
        self.running.lock().values().for_each(|running| running.stop.now(StopReason::ServerStops));
        self.tasks.close();
        if tokio::time::timeout(self.core.config.stop_grace, self.tasks.wait()).await.is_err() {
            tracing::warn!("jobs did not end in time; the next start cleans up after them");
        }
    }

    async fn run(&self, job: Job) {
        let (stop, look) = (Stop::default(), Arc::new(Notify::new()));
        let lease = job.lease();
        self.running.lock().insert(lease, Running { stop: stop.clone(), look: Arc::clone(&look) });
        if self.stopping.is_cancelled() {
            stop.now(StopReason::ServerStops);
        }
        let beat = tokio::spawn(heartbeat::keep(Arc::clone(&self.core), lease, stop.clone(), look));
        let ctx = JobContext::new(Arc::clone(&self.core), job, stop);
        let ended = AssertUnwindSafe(handle(&ctx)).catch_unwind().await.unwrap_or_else(|_| Err(defect(&ctx)));
        settle(&ctx, ended).await;
        beat.abort();
        self.running.lock().remove(&lease);
    }
}

/// Boxed: the compiler proves each job `Send` by itself, not all of them at once within the pool's task.
fn handle(ctx: &JobContext) -> BoxFuture<'_, Result<Outcome, JobError>> {
    match ctx.job.kind {
        JobKind::Backup => backup::run(ctx).boxed(),
        JobKind::Restore => restore::run(ctx).boxed(),
        JobKind::Inventory => inventory::run(ctx).boxed(),
        JobKind::Reconcile => reconcile::run(ctx).boxed(),
        JobKind::Verify => verify::run(ctx).boxed(),
        JobKind::Collect => collect::run(ctx).boxed(),
        JobKind::Retain => retain::run(ctx).boxed(),
        JobKind::Cleanup => reconcile::foreign::run(ctx).boxed(),
    }
}

fn defect(ctx: &JobContext) -> JobError {
    ctx.left_behind();
    JobError::fail(
        "job.defect",
        format!("Job {} stopped in the middle.", ctx.job.job_id),
        "A defect of this program; its log holds the place.",
        "Please report it with the log.",
    )
}

/// Writes down how the job ended.
async fn settle(ctx: &JobContext, ended: Result<Outcome, JobError>) {
    let ending = match (ended, ctx.stop.reason()) {
        (_, Some(StopReason::LeaseLost)) => {
            tracing::warn!(job = %ctx.job.job_id, "the lease was lost; another worker goes on");
            return;
        }
        (Err(_), Some(StopReason::ServerStops)) => Ending::Release,
        // What else went wrong meanwhile, such as a machine that does not start again, must not be hidden.
        (Err(error), Some(StopReason::HoursEnded)) if error.disposition == Disposition::Cancelled => {
            Ending::Finish(Outcome::Error(outcome::window_ended(&ctx.job.title)))
        }
        (Err(error), Some(StopReason::Operator | StopReason::HoursEnded)) => {
            Ending::Finish(Outcome::Error(JobError { disposition: Disposition::Cancelled, ..error }))
        }
        (Err(error), None) if error.disposition == Disposition::Retry && ctx.job.attempt < ctx.job.max_attempts => {
            Ending::Again(error)
        }
        (Err(error), None) => Ending::Finish(Outcome::Error(error)),
        (Ok(outcome), _) => Ending::Finish(outcome),
    };
    tell(ctx, &ending).await;
    for attempt in 1..=SETTLE_TRIES_MAX {
        match write(ctx, &ending).await {
            Ok(()) | Err(db::Error::LostLease(_)) => break,
            Err(error) => tracing::warn!(job = %ctx.job.job_id, error = %errors::chain(&error), "not settled"),
        }
        tokio::time::sleep(ctx.config().settle_pause * attempt).await;
    }
    look_after(ctx, &ending).await;
}

enum Ending {
    Finish(Outcome),
    Again(JobError),
    Release,
}

async fn tell(ctx: &JobContext, ending: &Ending) {
    match ending {
        Ending::Finish(Outcome::Succeeded(_) | Outcome::Warning(_)) => {}
        Ending::Finish(Outcome::Error(error)) if error.disposition == Disposition::Cancelled => {
            let hours_ended = ctx.stop.reason() == Some(StopReason::HoursEnded);
            ctx.log(LogLevel::Warning, if hours_ended { &error.why } else { "Cancelled." }).await;
        }
        Ending::Finish(Outcome::Error(error)) => ctx.log(LogLevel::Error, &error.to_string()).await,
        Ending::Again(error) => {
            let pause = words::duration(ctx.config().retry_pause(ctx.job.attempt));
            let (attempt, max) = (ctx.job.attempt, ctx.job.max_attempts);
            let text = format!("Attempt {attempt} of {max} failed: {error} Next attempt in {pause}.");
            ctx.log(LogLevel::Warning, &text).await;
        }
        Ending::Release => ctx.info(stop_words(ctx.config().worker_kind)).await,
    }
}

const fn stop_words(kind: WorkerKind) -> &'static str {
    match kind {
        WorkerKind::Server => "The server stops; this goes on after its next start, or by another worker.",
        WorkerKind::Worker => {
            "The worker stops; another one goes on with this, or it does itself after its next start."
        }
    }
}

async fn write(ctx: &JobContext, ending: &Ending) -> db::Result<()> {
    let (db, lease) = (&ctx.core.db, ctx.lease());
    match ending {
        Ending::Finish(outcome) => db.finish(lease, outcome.clone()).await.map(drop),
        Ending::Again(error) => {
            db.retry_later(lease, ctx.config().retry_pause(ctx.job.attempt), error.clone()).await.map(drop)
        }
        Ending::Release => db.release(lease).await,
    }
}

/// A backup or restore that did not end well may have left something: look soon, not at the next round.
async fn look_after(ctx: &JobContext, ending: &Ending) {
    let transfer = matches!(ctx.job.kind, JobKind::Backup | JobKind::Restore);
    let failed = matches!(ending, Ending::Finish(Outcome::Error(_)) | Ending::Again(_));
    if transfer && (failed || ctx.has_left_something()) {
        super::housekeeping::reconcile_after(ctx).await;
    }
    // Not before the job's end is written: what it builds on or reads is left alone until then.
    let made = ctx.job.kind == JobKind::Backup
        && matches!(ending, Ending::Finish(Outcome::Succeeded(_) | Outcome::Warning(_)));
    let has_read = matches!(ctx.job.kind, JobKind::Restore | JobKind::Verify) && matches!(ending, Ending::Finish(_));
    if made || has_read {
        super::housekeeping::retain_after(ctx).await;
    }
}
