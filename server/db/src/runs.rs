//! Runs: one start of a task, one restore, or one removal that was asked for. A run's state follows from its jobs' and from nothing else.

use crate::column::{MaybeTime, Time, Word};
use crate::database::Database;
use crate::error::{Conflict, Error, Result};
use crate::events::{Event, notify};
use crate::ids::{DeviceId, JobId, PointId, RepositoryId, RunId, TaskId, VmId};
use crate::jobs::{NewJob, cancel_queued, insert_job};
use domain::job::{JobError, JobKind, JobState};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Run {
    /// Id.
    pub run_id: RunId,
    /// Backup or restore.
    #[sqlx(try_from = "Word")]
    pub kind: RunKind,
    /// The task, of a backup.
    pub task_id: Option<TaskId>,
    /// The task's name at that time, or what is restored.
    pub title: String,
    /// `schedule`, or the account's name.
    pub started_by: String,
    /// By which due time of the schedule it was started.
    #[sqlx(try_from = "MaybeTime")]
    pub due_at: Option<Timestamp>,
    /// The jobs' states taken together.
    #[sqlx(try_from = "Word")]
    pub state: JobState,
    /// When it was started.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// When its last job ended.
    #[sqlx(try_from = "MaybeTime")]
    pub finished_at: Option<Timestamp>,
    /// It did not happen, because of this; it has no jobs.
    #[sqlx(json(nullable))]
    pub skipped: Option<JobError>,
    /// What still runs then is stopped.
    #[sqlx(try_from = "MaybeTime")]
    pub must_end_at: Option<Timestamp>,
}

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// A start of a task.
    Backup,
    /// One machine, back to a host.
    Restore,
    /// The removal of a snapshot that another program left.
    Cleanup,
}

impl RunKind {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Cleanup => "cleanup",
        }
    }
}

/// What a start led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A new run with so many jobs.
    Started {
        /// The run.
        run_id: RunId,
        /// One a machine.
        jobs: usize,
    },
    /// This due time was started before; that run.
    AlreadyStarted(RunId),
    /// The task's last run is still going on; nothing new was started.
    AlreadyRunning(RunId),
    /// The task has no machines.
    NoMachines,
}

/// A restore to start.
#[derive(Debug, Clone)]
pub struct NewRestore {
    /// What is restored, for people.
    pub title: String,
    /// The machine's name, for the job.
    pub machine_name: String,
    /// The account's name.
    pub started_by: String,
    /// The machine it came from, if it is still known.
    pub vm_id: Option<VmId>,
    /// Where to.
    pub device_id: DeviceId,
    /// Where from.
    pub repository_id: RepositoryId,
    /// What the restore job needs, in the engine's shape.
    pub payload: Value,
}

/// A restore is attempted this often: a half-made machine is removed and made anew.
const RESTORE_ATTEMPTS_MAX: u32 = 2;
/// Restores go before backups: someone waits for them.
const RESTORE_PRIORITY: i32 = 10;

type Tx<'a> = Transaction<'a, Postgres>;

#[derive(sqlx::FromRow)]
struct TaskMachine {
    vm_id: VmId,
    device_id: DeviceId,
    name: String,
}

impl Database {
    /// Starts a task: a run and one backup job a machine, in one transaction. `due_at` is the due time by which the
    /// schedule starts it; starting the same due time twice leads to one run.
    pub async fn start_run(&self, task_id: TaskId, started_by: &str, due_at: Option<Timestamp>) -> Result<Start> {
        let mut transaction = self.pool.begin().await?;
        let start = start_run(&mut transaction, task_id, started_by, due_at, None).await?;
        transaction.commit().await?;
        Ok(start)
    }

    /// Starts a task for some of its machines only, by hand. Machines that are not in the task are left out.
    pub async fn start_run_of(&self, task_id: TaskId, started_by: &str, machines: &[VmId]) -> Result<Start> {
        let mut transaction = self.pool.begin().await?;
        let start = start_run(&mut transaction, task_id, started_by, None, Some(machines)).await?;
        transaction.commit().await?;
        Ok(start)
    }

    /// Starts a restore.
    pub async fn start_restore(&self, restore: &NewRestore) -> Result<(RunId, JobId)> {
        let mut transaction = self.pool.begin().await?;
        hold_point(&mut transaction, &restore.payload).await?;
        let run_id: RunId =
            sqlx::query_scalar("insert into run (kind, title, started_by) values ('restore', $1, $2) returning run_id")
                .bind(&restore.title)
                .bind(&restore.started_by)
                .fetch_one(&mut *transaction)
                .await?;
        let job = NewJob {
            run_id: Some(run_id),
            vm_id: restore.vm_id,
            device_id: Some(restore.device_id),
            repository_id: Some(restore.repository_id),
            payload: restore.payload.clone(),
            priority: RESTORE_PRIORITY,
            max_attempts: RESTORE_ATTEMPTS_MAX,
            ..NewJob::new(JobKind::Restore, &restore.machine_name, format!("restore:{run_id}"))
        };
        let job_id =
            insert_job(&mut transaction, &job).await?.ok_or_else(|| Error::not_found("restore job", run_id))?;
        notify(&mut transaction, Event::JobsWaiting).await?;
        notify(&mut transaction, Event::RunChanged(run_id)).await?;
        transaction.commit().await?;
        Ok((run_id, job_id))
    }

    /// A run.
    pub async fn run(&self, run_id: RunId) -> Result<Run> {
        sqlx::query_as("select * from run where run_id = $1")
            .bind(run_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("run", run_id))
    }

    /// Runs of a task, newest first.
    pub async fn runs_of_task(&self, task_id: TaskId, limit: u32) -> Result<Vec<Run>> {
        Ok(sqlx::query_as("select * from run where task_id = $1 order by created_at desc, run_id desc limit $2")
            .bind(task_id)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?)
    }

    /// Newest runs over all tasks and restores.
    pub async fn newest_runs(&self, limit: u32) -> Result<Vec<Run>> {
        Ok(sqlx::query_as("select * from run order by created_at desc, run_id desc limit $1")
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?)
    }

    /// Asks all jobs of a run to end: queued ones end at once, running ones are told. Says how many there were.
    pub async fn request_cancel_run(&self, run_id: RunId, by: &str) -> Result<usize> {
        let jobs: Vec<JobId> = sqlx::query_scalar(
            "select job_id from job where run_id = $1 and state in ('queued', 'running') order by job_id",
        )
        .bind(run_id)
        .fetch_all(&self.pool)
        .await?;
        self.cancel_jobs(&jobs, by).await?;
        Ok(jobs.len())
    }

    /// Asks one job to end.
    pub async fn request_cancel_job(&self, job_id: JobId, by: &str) -> Result<()> {
        self.cancel_jobs(&[job_id], by).await
    }

    async fn cancel_jobs(&self, jobs: &[JobId], by: &str) -> Result<()> {
        let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
        let mut transaction = self.pool.begin().await?;
        // Locked in one order; a lease that wins the race makes the job running, and it is told instead.
        let queued: Vec<JobId> = sqlx::query_scalar(
            "select job_id from job where job_id = any($1) and state = 'queued' order by job_id for update",
        )
        .bind(&ids)
        .fetch_all(&mut *transaction)
        .await?;
        cancel_queued(&mut transaction, &queued, &format!("Cancelled by {by} before it began.")).await?;
        let told: Vec<JobId> = sqlx::query_scalar(
            "update job set cancel_requested = true, updated_at = now()
             where job_id = any($1) and state = 'running' and not cancel_requested returning job_id",
        )
        .bind(&ids)
        .fetch_all(&mut *transaction)
        .await?;
        for job_id in told {
            notify(&mut transaction, Event::CancelRequested(job_id)).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Queues the failed and cancelled jobs of a run again, with all their attempts. [`Conflict::RunActive`] while it
    /// is going on. Says how many there were.
    pub async fn retry_failed(&self, run_id: RunId) -> Result<usize> {
        let mut transaction = self.pool.begin().await?;
        let active: bool =
            sqlx::query_scalar("select state in ('queued', 'running') from run where run_id = $1 for update")
                .bind(run_id)
                .fetch_optional(&mut *transaction)
                .await?
                .ok_or_else(|| Error::not_found("run", run_id))?;
        if active {
            return Err(Error::Conflict(Conflict::RunActive(run_id)));
        }
        let jobs = sqlx::query(
            "update job set state = 'queued', attempt = 0, run_after = now(), cancel_requested = false,
                 window_ended = false, error = null, result = null, phase = '', bytes_total = 0, bytes_done = 0,
                 bytes_stored = 0, bytes_per_second = 0, finished_at = null, updated_at = now()
             where run_id = $1 and state in ('failed', 'cancelled')",
        )
        .bind(run_id)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if jobs > 0 {
            // A person wants it now, whatever the task's hours.
            sqlx::query("update run set must_end_at = null where run_id = $1")
                .bind(run_id)
                .execute(&mut *transaction)
                .await?;
            recompute(&mut transaction, run_id).await?;
            notify(&mut transaction, Event::JobsWaiting).await?;
        }
        transaction.commit().await?;
        Ok(jobs as usize)
    }
}

/// Retention, which may be deciding just now, sees the restore or has decided: then there is no such point any more.
async fn hold_point(transaction: &mut Tx<'_>, payload: &Value) -> Result<()> {
    let point = payload.get("point_id").and_then(Value::as_str).and_then(|id| id.parse::<PointId>().ok());
    let Some(point) = point else { return Ok(()) };
    let held: Option<PointId> = sqlx::query_scalar(
        "select point_id from restore_point where point_id = $1 and expiring_since is null for share",
    )
    .bind(point)
    .fetch_optional(&mut **transaction)
    .await?;
    held.map(drop).ok_or_else(|| Error::not_found("restore point", point))
}

/// Starts a task within a transaction: see [`Database::start_run`].
pub(crate) async fn start_run(
    transaction: &mut Tx<'_>,
    task_id: TaskId,
    started_by: &str,
    due_at: Option<Timestamp>,
    only: Option<&[VmId]>,
) -> Result<Start> {
    // The task's row is the lock: two starts of it go one after the other.
    crate::tasks::lock_task(transaction, task_id).await?;
    if let Some(due_at) = due_at {
        let before: Option<RunId> = sqlx::query_scalar("select run_id from run where task_id = $1 and due_at = $2")
            .bind(task_id)
            .bind(Time(due_at))
            .fetch_optional(&mut **transaction)
            .await?;
        if let Some(run_id) = before {
            return Ok(Start::AlreadyStarted(run_id));
        }
    }
    if let Some(run_id) = active_run(transaction, task_id).await? {
        return Ok(Start::AlreadyRunning(run_id));
    }
    crate::choice::settle_members(transaction, None, Some(task_id)).await?;
    let only: Option<Vec<i64>> = only.map(|machines| machines.iter().map(|machine| machine.0).collect());
    let machines: Vec<TaskMachine> = sqlx::query_as(
        "select vm_id, device_id, name from backup_task_machine join virtual_machine using (vm_id)
         where task_id = $1 and ($2::bigint[] is null or vm_id = any($2)) order by lower(name), vm_id",
    )
    .bind(task_id)
    .bind(only)
    .fetch_all(&mut **transaction)
    .await?;
    if machines.is_empty() {
        return Ok(Start::NoMachines);
    }
    let (run_id, repository_id, priority): (RunId, RepositoryId, i32) = sqlx::query_as(
        "with made as (insert into run (kind, task_id, title, started_by, due_at)
             select 'backup', task_id, name, $2, $3 from backup_task where task_id = $1 returning run_id, task_id)
         select run_id, repository_id, priority from made join backup_task using (task_id)",
    )
    .bind(task_id)
    .bind(started_by)
    .bind(due_at.map(Time))
    .fetch_one(&mut **transaction)
    .await?;
    for machine in &machines {
        let job = NewJob {
            run_id: Some(run_id),
            vm_id: Some(machine.vm_id),
            device_id: Some(machine.device_id),
            repository_id: Some(repository_id),
            payload: json!({ "task_id": task_id }),
            priority,
            ..NewJob::new(JobKind::Backup, &machine.name, format!("vm:{}", machine.vm_id))
        };
        insert_job(transaction, &job).await?;
    }
    notify(transaction, Event::JobsWaiting).await?;
    notify(transaction, Event::RunChanged(run_id)).await?;
    Ok(Start::Started { run_id, jobs: machines.len() })
}

/// The run of a task that has not ended, if there is one.
pub(crate) async fn active_run(transaction: &mut Tx<'_>, task_id: TaskId) -> Result<Option<RunId>> {
    Ok(sqlx::query_scalar("select run_id from run where task_id = $1 and state in ('queued', 'running') limit 1")
        .bind(task_id)
        .fetch_optional(&mut **transaction)
        .await?)
}

/// Derives the run's state from its jobs' and tells whoever looks at it; what follows a run that has ended becomes due.
/// Called by whatever changes a job's state.
pub(crate) async fn recompute(transaction: &mut Tx<'_>, run_id: RunId) -> Result<()> {
    // The lock orders the ends of two jobs: the second sees the first's.
    let before: String = sqlx::query_scalar("select state from run where run_id = $1 for update")
        .bind(run_id)
        .fetch_one(&mut **transaction)
        .await?;
    let after: String = sqlx::query_scalar(
        "update run set state = s.state,
             finished_at = case when s.state in ('queued', 'running') then null else coalesce(finished_at, now()) end
         from (select case
                 when count(*) filter (where state = 'running') > 0 then 'running'
                 when count(*) filter (where state = 'queued') = count(*) then 'queued'
                 when count(*) filter (where state = 'queued') > 0 then 'running'
                 when count(*) filter (where state = 'failed') > 0 then 'failed'
                 when count(*) filter (where state = 'cancelled') > 0 then 'cancelled'
                 when count(*) filter (where state = 'warning') > 0 then 'warning'
                 else 'succeeded' end as state
               from job where run_id = $1) s
         where run_id = $1 returning run.state",
    )
    .bind(run_id)
    .fetch_one(&mut **transaction)
    .await?;
    let is_over = |word: &str| JobState::parse(word).filter(|state| state.is_final());
    if let (None, Some(state)) = (is_over(&before), is_over(&after)) {
        crate::chain::run_ended(transaction, run_id, state).await?;
    }
    crate::notices::run_ended(transaction, run_id).await?;
    notify(transaction, Event::RunChanged(run_id)).await
}
