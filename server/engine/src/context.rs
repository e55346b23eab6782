//! What a running job has at hand: its row, its stop signal, its log and progress, the journal.
//!
//! Owns: that every write about the job carries the fence, and that a job whose lease is lost hears of it at once.
//! Must never: fail a job because a line of its log could not be written.

use crate::config::EngineConfig;
use crate::core::Core;
use crate::errors;
use crate::progress::{Rate, Tally};
use crate::stop::{Stop, StopReason};
use db::{ChangeId, DiskProgress, Job, Lease, NewChange, Outcome, Progress};
use domain::job::{JobError, LogLevel};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A running job.
pub struct JobContext {
    pub(crate) core: Arc<Core>,
    pub(crate) job: Job,
    pub(crate) stop: Stop,
    warnings: AtomicU32,
    left_behind: AtomicBool,
}

impl JobContext {
    pub(crate) fn new(core: Arc<Core>, job: Job, stop: Stop) -> Self {
        Self { core, job, stop, warnings: AtomicU32::new(0), left_behind: AtomicBool::new(false) }
    }

    pub(crate) fn config(&self) -> &EngineConfig {
        &self.core.config
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.core.clock.now()
    }

    pub(crate) fn lease(&self) -> Lease {
        self.job.lease()
    }

    /// The job did its work: with warnings if there were any, and with what came of it.
    pub(crate) fn done(&self, result: Value) -> Outcome {
        if self.warnings.load(Ordering::Relaxed) > 0 { Outcome::Warning(result) } else { Outcome::Succeeded(result) }
    }

    /// Fails when the job was told to stop.
    pub(crate) fn check(&self, what: &str) -> Result<(), JobError> {
        if self.stop.reason().is_some() { Err(JobError::cancelled(what)) } else { Ok(()) }
    }

    /// Runs `work`, but gives up waiting when the job is told to stop. Only for work that may be dropped anywhere.
    pub(crate) async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, JobError>>,
    ) -> Result<T, JobError> {
        tokio::select! {
            done = work => done,
            () = self.stop.token().cancelled() => Err(JobError::cancelled(format!("{} was not finished.", self.job.title))),
        }
    }

    /// Waits until the job has been told to stop for so long.
    pub(crate) async fn stopped_for(&self, grace: Duration) {
        self.stop.token().cancelled().await;
        tokio::time::sleep(grace).await;
    }

    /// Something of ours may still be on the host: the reconciler looks soon.
    pub(crate) fn left_behind(&self) {
        self.left_behind.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_left_something(&self) -> bool {
        self.left_behind.load(Ordering::Relaxed)
    }

    /// What the job is doing now, in words.
    pub(crate) async fn phase(&self, phase: &str) {
        let written = self.core.db.set_phase(self.lease(), phase).await;
        self.heard(written);
    }

    pub(crate) async fn info(&self, message: &str) {
        self.log(LogLevel::Info, message).await;
    }

    /// A line the operator should read; the job ends with warnings.
    pub(crate) async fn warn(&self, message: &str) {
        self.warnings.fetch_add(1, Ordering::Relaxed);
        self.log(LogLevel::Warning, message).await;
    }

    pub(crate) async fn log(&self, level: LogLevel, message: &str) {
        tracing::info!(job = %self.job.job_id, level = level.as_str(), "{message}");
        let written = self.core.db.log(self.lease(), level, message).await;
        self.heard(written);
    }

    /// A failed write about the job: a lost lease stops it, anything else is only said.
    pub(crate) fn heard<T>(&self, written: db::Result<T>) {
        match written {
            Ok(_) => {}
            Err(db::Error::LostLease(_)) => self.stop.now(StopReason::LeaseLost),
            Err(error) => tracing::warn!(job = %self.job.job_id, error = %errors::chain(&error), "not written"),
        }
    }

    /// A job whose row does not hold what its kind needs.
    pub(crate) fn malformed(&self) -> JobError {
        JobError::fail(
            "job.malformed",
            format!("Job {} could not be started.", self.job.job_id),
            "Its order is incomplete.",
            "",
        )
    }

    /// Writes the tally down now and then until [`Reporter::finish`].
    pub(crate) fn report(&self, tally: Arc<Tally>, labels: BTreeMap<i32, String>) -> Reporter {
        let end = CancellationToken::new();
        let writer = ProgressWriter {
            core: Arc::clone(&self.core),
            lease: self.lease(),
            stop: self.stop.clone(),
            tally,
            labels,
            rate: Rate::default(),
            last: Instant::now(),
        };
        Reporter { end: end.clone(), task: tokio::spawn(writer.run(end)) }
    }
}

/// The journal: errors here matter, because what is not written down cannot be undone.
impl JobContext {
    pub(crate) async fn journal(&self, change: &NewChange) -> Result<ChangeId, JobError> {
        self.essential(self.core.db.intend_change(self.lease(), change).await)
    }

    pub(crate) async fn journal_made(&self, change: ChangeId, reference: Option<&str>) -> Result<(), JobError> {
        self.essential(self.core.db.change_made(change, reference).await)
    }

    pub(crate) async fn journal_kept(&self, change: ChangeId) -> Result<(), JobError> {
        self.essential(self.core.db.change_kept(change).await)
    }

    // What is being removed is journalled already: the next pass finds it whatever these writes came to.

    pub(crate) async fn journal_removing(&self, change: ChangeId) {
        self.heard(self.core.db.change_removing(change).await);
    }

    pub(crate) async fn journal_removed(&self, change: ChangeId) {
        self.heard(self.core.db.change_removed(change).await);
    }

    pub(crate) async fn journal_failed(&self, change: ChangeId, error: &JobError) {
        self.heard(self.core.db.change_failed(change, &format!("{} {}", error.what, error.why)).await);
    }

    /// A write without which the job cannot go on.
    pub(crate) fn essential<T>(&self, written: db::Result<T>) -> Result<T, JobError> {
        written.map_err(|error| {
            if matches!(error, db::Error::LostLease(_)) {
                self.stop.now(StopReason::LeaseLost);
            }
            errors::database(&format!("Job {} could not go on.", self.job.job_id), &error)
        })
    }
}

/// Writes progress in the background.
pub struct Reporter {
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Reporter {
    /// Writes the last figures.
    pub async fn finish(self) {
        self.end.cancel();
        let _ = self.task.await;
    }
}

struct ProgressWriter {
    core: Arc<Core>,
    lease: Lease,
    stop: Stop,
    tally: Arc<Tally>,
    labels: BTreeMap<i32, String>,
    rate: Rate,
    last: Instant,
}

impl ProgressWriter {
    async fn run(mut self, end: CancellationToken) {
        let mut ticks = tokio::time::interval(self.core.config.progress_every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let ended = tokio::select! {
                _ = ticks.tick() => false,
                () = end.cancelled() => true,
            };
            self.write().await;
            if ended {
                return;
            }
        }
    }

    async fn write(&mut self) {
        let sum = self.tally.sum();
        let rate = self.rate.sample(sum.done, self.last.elapsed());
        self.last = Instant::now();
        let progress = Progress {
            bytes_total: sum.total,
            bytes_done: sum.done,
            bytes_stored: sum.stored,
            bytes_per_second: rate,
            disks: self
                .tally
                .disks()
                .into_iter()
                .map(|(key, figures)| DiskProgress {
                    disk_key: key,
                    label: self.labels.get(&key).cloned().unwrap_or_default(),
                    bytes_total: figures.total,
                    bytes_done: figures.done,
                    bytes_stored: figures.stored,
                })
                .collect(),
        };
        match self.core.db.progress(self.lease, &progress).await {
            Err(db::Error::LostLease(_)) => self.stop.now(StopReason::LeaseLost),
            Err(error) => tracing::warn!(job = %self.lease.job_id, error = %errors::chain(&error), "progress"),
            Ok(()) => {}
        }
    }
}
