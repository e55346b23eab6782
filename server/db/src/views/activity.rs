//! Runs, their jobs, and the log.

use super::{PAGE_LINES, Slice, offset};
use crate::column::{MaybeTime, Time, Word};
use crate::ids::{DeviceId, JobId, RunId, TaskId, VmId};
use crate::runs::RunKind;
use crate::{Database, Result};
use domain::job::{JobError, JobKind, JobState, LogLevel};
use jiff::Timestamp;

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// `active`, `failed`, `warning`, `succeeded`, `cancelled`, or empty for all.
    pub state: String,
    /// `backup`, `restore`, `cleanup`, or empty.
    pub kind: String,
    /// Of this task only.
    pub task: Option<TaskId>,
    /// From 1.
    pub page: i64,
}

/// A run in a list.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RunLine {
    /// Its id.
    pub run_id: RunId,
    /// Backup or restore.
    #[sqlx(try_from = "Word")]
    pub kind: RunKind,
    /// Task, for backups.
    pub task_id: Option<TaskId>,
    /// Title.
    pub title: String,
    /// `schedule`, or an account.
    pub started_by: String,
    /// State.
    #[sqlx(try_from = "Word")]
    pub state: JobState,
    /// Start.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// End.
    #[sqlx(try_from = "MaybeTime")]
    pub finished_at: Option<Timestamp>,
    /// Machines.
    pub jobs: i64,
    /// Machines that failed.
    pub failed: i64,
    /// Bytes read or written.
    #[sqlx(try_from = "i64")]
    pub bytes_done: u64,
    /// Bytes in all, as far as known.
    #[sqlx(try_from = "i64")]
    pub bytes_total: u64,
    /// Bytes stored.
    #[sqlx(try_from = "i64")]
    pub bytes_stored: u64,
    /// Something on it is simulated.
    pub simulated: bool,
    /// It did not happen, because of this.
    #[sqlx(json(nullable))]
    pub skipped: Option<JobError>,
}

/// Runs, newest first.
pub async fn runs(db: &Database, filter: &RunFilter) -> Result<Slice<RunLine>> {
    let lines = sqlx::query_as(
        "select r.run_id, r.kind, r.task_id, r.title, r.started_by, r.state, r.created_at, r.finished_at, r.skipped,
                coalesce(j.jobs, 0) as jobs, coalesce(j.failed, 0) as failed,
                coalesce(j.bytes_done, 0)::bigint as bytes_done, coalesce(j.bytes_total, 0)::bigint as bytes_total,
                coalesce(j.bytes_stored, 0)::bigint as bytes_stored, coalesce(j.simulated, false) as simulated
         from (select * from run
               where ($1 = '' or state = $1 or ($1 = 'active' and state in ('queued', 'running')))
                 and ($2 = '' or kind = $2) and ($3::bigint is null or task_id = $3)
               order by created_at desc, run_id desc limit $4 offset $5) r
         left join lateral (
               select count(*) as jobs, count(*) filter (where j.state = 'failed') as failed,
                      sum(j.bytes_done) as bytes_done, sum(j.bytes_total) as bytes_total,
                      sum(j.bytes_stored) as bytes_stored, bool_or(d.simulated) as simulated
               from job j left join device d using (device_id) where j.run_id = r.run_id) j on true
         order by r.created_at desc, r.run_id desc",
    )
    .bind(&filter.state)
    .bind(&filter.kind)
    .bind(filter.task)
    .bind(PAGE_LINES)
    .bind(offset(filter.page))
    .fetch_all(&db.pool)
    .await?;
    let total = sqlx::query_scalar(
        "select count(*) from run
         where ($1 = '' or state = $1 or ($1 = 'active' and state in ('queued', 'running')))
           and ($2 = '' or kind = $2) and ($3::bigint is null or task_id = $3)",
    )
    .bind(&filter.state)
    .bind(&filter.kind)
    .bind(filter.task)
    .fetch_one(&db.pool)
    .await?;
    Ok(Slice { lines, total })
}

/// Head of the run page.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RunHead {
    /// Its id.
    pub run_id: RunId,
    /// Backup or restore.
    #[sqlx(try_from = "Word")]
    pub kind: RunKind,
    /// Task, for backups.
    pub task_id: Option<TaskId>,
    /// The task still exists.
    pub task_exists: bool,
    /// Title.
    pub title: String,
    /// `schedule`, or an account.
    pub started_by: String,
    /// State.
    #[sqlx(try_from = "Word")]
    pub state: JobState,
    /// Start.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// End.
    #[sqlx(try_from = "MaybeTime")]
    pub finished_at: Option<Timestamp>,
    /// Where backups of the task go.
    pub repository: Option<String>,
    /// `full`, `incremental` or `differential`.
    pub method: Option<String>,
    /// `hot`, `cold` or `cold_snapshot`.
    pub mode: Option<String>,
    /// It did not happen, because of this.
    #[sqlx(json(nullable))]
    pub skipped: Option<JobError>,
    /// What still runs then is stopped.
    #[sqlx(try_from = "MaybeTime")]
    pub must_end_at: Option<Timestamp>,
}

/// Head of the run page.
pub async fn run_head(db: &Database, run: RunId) -> Result<Option<RunHead>> {
    let head = sqlx::query_as(
        "select r.run_id, r.kind, r.task_id, coalesce(t.deleted_at is null and t.task_id is not null, false) as task_exists,
                r.title, r.started_by, r.state, r.created_at, r.finished_at, p.name as repository, t.method,
                t.mode, r.skipped, r.must_end_at
         from run r left join backup_task t using (task_id) left join repository p using (repository_id)
         where r.run_id = $1",
    )
    .bind(run)
    .fetch_optional(&db.pool)
    .await?;
    Ok(head)
}

/// A machine of a run.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobView {
    /// Its id.
    pub job_id: JobId,
    /// What it does.
    #[sqlx(try_from = "Word")]
    pub kind: JobKind,
    /// Machine.
    pub vm_id: Option<VmId>,
    /// Machine's name, or what else the job is about.
    pub name: String,
    /// Device.
    pub device_id: Option<DeviceId>,
    /// Device's name.
    pub device: Option<String>,
    /// The device is simulated.
    pub simulated: bool,
    /// State.
    #[sqlx(try_from = "Word")]
    pub state: JobState,
    /// What it is doing, in words.
    pub phase: String,
    /// Tries so far.
    pub attempt: i32,
    /// Tries at most.
    pub max_attempts: i32,
    /// The operator wants it to stop.
    pub cancel_requested: bool,
    /// Not before this moment.
    #[sqlx(try_from = "Time")]
    pub run_after: Timestamp,
    /// Bytes.
    #[sqlx(try_from = "i64")]
    pub bytes_total: u64,
    /// Of them.
    #[sqlx(try_from = "i64")]
    pub bytes_done: u64,
    /// After deduplication and compression.
    #[sqlx(try_from = "i64")]
    pub bytes_stored: u64,
    /// Speed now.
    #[sqlx(try_from = "i64")]
    pub bytes_per_second: u64,
    /// Warnings in the log.
    pub warnings: i32,
    /// Why it failed, or what the last try ended with.
    #[sqlx(json(nullable))]
    pub error: Option<JobError>,
    /// Start.
    #[sqlx(try_from = "MaybeTime")]
    pub started_at: Option<Timestamp>,
    /// End.
    #[sqlx(try_from = "MaybeTime")]
    pub finished_at: Option<Timestamp>,
    /// Disks, in order.
    #[sqlx(json)]
    pub disks: Vec<DiskProgress>,
}

/// A disk of a machine of a run.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct DiskProgress {
    /// Label.
    pub label: String,
    /// Bytes to read.
    pub bytes_total: u64,
    /// Of them.
    pub bytes_done: u64,
}

/// Machines of a run on its page.
const JOBS_MAX: i64 = 2_000;

/// Jobs of a run with their disks, failed first.
pub async fn jobs_of(db: &Database, run: RunId) -> Result<Vec<JobView>> {
    let jobs = sqlx::query_as(
        "select j.job_id, j.kind, j.vm_id, j.title as name, j.device_id, d.name as device,
                coalesce(d.simulated, false) as simulated, j.state, j.phase, j.attempt, j.max_attempts,
                j.cancel_requested, j.run_after, j.bytes_total, j.bytes_done, j.bytes_stored, j.bytes_per_second,
                j.warnings, j.error, j.started_at, j.finished_at,
                coalesce((select jsonb_agg(jsonb_build_object('label', k.label, 'bytes_total', k.bytes_total,
                                                              'bytes_done', k.bytes_done) order by k.disk_key)
                          from job_disk k where k.job_id = j.job_id), '[]'::jsonb) as disks
         from job j left join device d using (device_id)
         where j.run_id = $1
         order by case j.state when 'failed' then 0 when 'running' then 1 when 'warning' then 3 when 'succeeded' then 4
                              when 'cancelled' then 5 else 2 end, lower(j.title), j.job_id
         limit $2",
    )
    .bind(run)
    .bind(JOBS_MAX)
    .fetch_all(&db.pool)
    .await?;
    Ok(jobs)
}

/// A line of the log.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LogLine {
    /// Ascending.
    pub log_id: i64,
    /// Whose.
    pub name: String,
    /// When.
    #[sqlx(try_from = "Time")]
    pub at: Timestamp,
    /// Gravity.
    #[sqlx(try_from = "Word")]
    pub level: LogLevel,
    /// Words.
    pub message: String,
}

/// Log lines of a run after `after`, oldest first: the newest `limit` of them.
pub async fn log_of(db: &Database, run: RunId, after: i64, limit: i64) -> Result<Vec<LogLine>> {
    let lines = sqlx::query_as(
        "select * from (
             select l.log_id, j.title as name, l.at, l.level, l.message
             from job_log l join job j using (job_id)
             where j.run_id = $1 and l.log_id > $2
             order by l.log_id desc limit $3) newest
         order by log_id",
    )
    .bind(run)
    .bind(after)
    .bind(limit)
    .fetch_all(&db.pool)
    .await?;
    Ok(lines)
}

/// The newest runs that a machine was in.
pub async fn runs_of_machine(db: &Database, vm: VmId, limit: i64) -> Result<Vec<(RunLine, Option<JobError>)>> {
    #[derive(sqlx::FromRow)]
    struct Row {
        #[sqlx(flatten)]
        line: RunLine,
        #[sqlx(json(nullable))]
        error: Option<JobError>,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "select r.run_id, r.kind, r.task_id, r.title, r.started_by, j.state, j.created_at, j.finished_at,
                1::bigint as jobs, (j.state = 'failed')::int::bigint as failed, j.bytes_done, j.bytes_total,
                j.bytes_stored, coalesce(d.simulated, false) as simulated, r.skipped, j.error
         from job j join run r using (run_id) left join device d using (device_id)
         where j.vm_id = $1 order by j.created_at desc, j.job_id desc limit $2",
    )
    .bind(vm)
    .bind(limit)
    .fetch_all(&db.pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.line, row.error)).collect())
}
