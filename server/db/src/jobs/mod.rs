//! The job queue.
//!
//! A job is leased to one worker at a time. Each lease raises the job's fence, and every write of a worker carries the
//! fence it was given: a worker that lost its lease writes nothing more ([`Error::LostLease`](crate::Error::LostLease)).
//! Read next: `lease.rs` (taking, keeping, giving back), `work.rs` (progress and log), `end.rs`.

mod end;
mod lease;
mod work;

pub use end::{Outcome, back_off};
pub use lease::{Heartbeat, LEASE_SECONDS, LeaseLimits, Reaped};
pub use work::{DiskProgress, LogLine, Progress};

pub(crate) use end::cancel_queued;
pub(crate) use lease::{hold_leases, may_take};

use crate::column::{MaybeTime, Time, Word};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::events::{Event, notify};
use crate::ids::{DeviceId, JobId, PointId, RepositoryId, RunId, VmId};
use domain::job::{JobError, JobKind, JobState};
use jiff::Timestamp;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};

const ATTEMPTS_MAX_DEFAULT: u32 = 3;
/// Housekeeping that belongs to no run is forgotten after this long; history is what runs are for.
const HOUSEKEEPING_KEPT_DAYS: i32 = 7;

/// A job.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Job {
    /// Id.
    pub job_id: JobId,
    /// What it does.
    #[sqlx(try_from = "Word")]
    pub kind: JobKind,
    /// The run it belongs to; housekeeping belongs to none.
    pub run_id: Option<RunId>,
    /// The machine's or device's name when the job was made.
    pub title: String,
    /// Its machine, while it is known.
    pub vm_id: Option<VmId>,
    /// Its device, while it is known.
    pub device_id: Option<DeviceId>,
    /// Its repository, while it is known.
    pub repository_id: Option<RepositoryId>,
    /// What it needs besides, in the engine's shape. A backup's is `{"task_id": n}`.
    pub payload: Value,
    /// State.
    #[sqlx(try_from = "Word")]
    pub state: JobState,
    /// Higher goes first.
    pub priority: i32,
    /// At most one job of a key runs.
    pub concurrency_key: String,
    /// Not before.
    #[sqlx(try_from = "Time")]
    pub run_after: Timestamp,
    /// How often it was begun.
    #[sqlx(try_from = "i32")]
    pub attempt: u32,
    /// How often at most.
    #[sqlx(try_from = "i32")]
    pub max_attempts: u32,
    /// Number of its last lease.
    pub fence: i64,
    /// Who has the lease.
    pub leased_by: Option<String>,
    /// Someone asked for its end.
    pub cancel_requested: bool,
    /// That was because its task's hours were over.
    pub window_ended: bool,
    /// What it is doing, in words.
    pub phase: String,
    /// Bytes to read or write, as far as known.
    #[sqlx(try_from = "i64")]
    pub bytes_total: u64,
    /// Of these, done.
    #[sqlx(try_from = "i64")]
    pub bytes_done: u64,
    /// Bytes the repository grew by.
    #[sqlx(try_from = "i64")]
    pub bytes_stored: u64,
    /// Speed of late.
    #[sqlx(try_from = "i64")]
    pub bytes_per_second: u64,
    /// Warnings in its log.
    #[sqlx(try_from = "i32")]
    pub warnings: u32,
    /// What it made, in the engine's shape.
    pub result: Option<Value>,
    /// The point that a backup was about to commit.
    pub point_id: Option<PointId>,
    /// Why it did not succeed, this time or the last.
    #[sqlx(json(nullable))]
    pub error: Option<JobError>,
    /// When it was queued.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// When its latest attempt began.
    #[sqlx(try_from = "MaybeTime")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[sqlx(try_from = "MaybeTime")]
    pub finished_at: Option<Timestamp>,
    /// When its row changed last.
    #[sqlx(try_from = "Time")]
    pub updated_at: Timestamp,
}

/// The right to work on a job: its id and the fence of this lease. Every write of a job carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The job.
    pub job_id: JobId,
    /// Number of the lease.
    pub fence: i64,
}

impl Job {
    /// The lease under which this row was read.
    pub const fn lease(&self) -> Lease {
        Lease { job_id: self.job_id, fence: self.fence }
    }
}

/// A job to queue.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What it does.
    pub kind: JobKind,
    /// Name of its machine or device, for people.
    pub title: String,
    /// At most one job of a key runs.
    pub concurrency_key: String,
    /// Its run.
    pub run_id: Option<RunId>,
    /// Its machine.
    pub vm_id: Option<VmId>,
    /// Its device.
    pub device_id: Option<DeviceId>,
    /// Its repository.
    pub repository_id: Option<RepositoryId>,
    /// What it needs besides.
    pub payload: Value,
    /// Higher goes first.
    pub priority: i32,
    /// How often it is begun at most.
    pub max_attempts: u32,
}

impl NewJob {
    /// A job about nothing yet, with the usual number of attempts.
    pub fn new(kind: JobKind, title: &str, concurrency_key: String) -> Self {
        Self {
            kind,
            title: title.to_owned(),
            concurrency_key,
            run_id: None,
            vm_id: None,
            device_id: None,
            repository_id: None,
            payload: Value::Object(serde_json::Map::new()),
            priority: 0,
            max_attempts: ATTEMPTS_MAX_DEFAULT,
        }
    }
}

/// A disk of a job.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct JobDisk {
    /// Device key.
    pub disk_key: i32,
    /// Label.
    pub label: String,
    /// Bytes to read or write.
    #[sqlx(try_from = "i64")]
    pub bytes_total: u64,
    /// Of these, done.
    #[sqlx(try_from = "i64")]
    pub bytes_done: u64,
    /// Bytes the repository grew by.
    #[sqlx(try_from = "i64")]
    pub bytes_stored: u64,
}

impl Database {
    /// Queues a job. `None` when the same housekeeping waits already.
    pub async fn enqueue(&self, job: &NewJob) -> Result<Option<JobId>> {
        let mut transaction = self.pool.begin().await?;
        let job_id = insert_job(&mut transaction, job).await?;
        match (job_id, job.run_id) {
            (Some(_), Some(run_id)) => crate::runs::recompute(&mut transaction, run_id).await?,
            (Some(_), None) => forget_old(&mut transaction, &job.concurrency_key).await?,
            (None, _) => {}
        }
        notify(&mut transaction, Event::JobsWaiting).await?;
        transaction.commit().await?;
        Ok(job_id)
    }

    /// Queues the reading of a device's inventory, or the removal of what dead jobs left on it, unless it waits already.
    pub async fn enqueue_housekeeping(&self, kind: JobKind, device_id: DeviceId) -> Result<Option<JobId>> {
        let device = self.device(device_id).await?;
        let job = NewJob {
            device_id: Some(device_id),
            ..NewJob::new(kind, &device.name, format!("device:{device_id}:{}", kind.as_str()))
        };
        self.enqueue(&job).await
    }

    /// A job.
    pub async fn job(&self, job_id: JobId) -> Result<Job> {
        sqlx::query_as("select * from job where job_id = $1")
            .bind(job_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("job", job_id))
    }

    /// Jobs of a run, in the order they were queued.
    pub async fn jobs_of_run(&self, run_id: RunId) -> Result<Vec<Job>> {
        Ok(sqlx::query_as("select * from job where run_id = $1 order by job_id")
            .bind(run_id)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Disks of a job, by key.
    pub async fn job_disks(&self, job_id: JobId) -> Result<Vec<JobDisk>> {
        Ok(sqlx::query_as(
            "select disk_key, label, bytes_total, bytes_done, bytes_stored from job_disk
             where job_id = $1 order by disk_key",
        )
        .bind(job_id)
        .fetch_all(&self.pool)
        .await?)
    }
}

/// Inserts a queued job; notifying is the caller's.
pub(crate) async fn insert_job(transaction: &mut Transaction<'_, Postgres>, job: &NewJob) -> Result<Option<JobId>> {
    Ok(sqlx::query_scalar(
        "insert into job (kind, title, concurrency_key, run_id, vm_id, device_id, repository_id, payload, priority,
             max_attempts)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict (kind, concurrency_key) where state = 'queued' and kind in ('inventory', 'reconcile', 'collect', 'retain')
         do nothing
         returning job_id",
    )
    .bind(job.kind.as_str())
    .bind(&job.title)
    .bind(&job.concurrency_key)
    .bind(job.run_id)
    .bind(job.vm_id)
    .bind(job.device_id)
    .bind(job.repository_id)
    .bind(Json(&job.payload))
    .bind(job.priority)
    .bind(i32::try_from(job.max_attempts).unwrap_or(i32::MAX))
    .fetch_optional(&mut **transaction)
    .await?)
}

async fn forget_old(transaction: &mut Transaction<'_, Postgres>, concurrency_key: &str) -> Result<()> {
    sqlx::query(
        "delete from job where concurrency_key = $1 and run_id is null
             and finished_at < now() - make_interval(days => $2)",
    )
    .bind(concurrency_key)
    .bind(HOUSEKEEPING_KEPT_DAYS)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
