//! Who works: servers and workers with their load, and jobs that none of them can take.

use crate::column::{MaybeTime, Time, Word};
use crate::ids::{DeviceId, JobId, RepositoryId, RunId, WorkerId};
use crate::workers::{LOST_SECONDS, WorkerKind};
use crate::{Database, Result};
use jiff::Timestamp;

/// Lines of jobs that nobody can take, at most.
const WAITING_MAX: i64 = 50;
/// A job that could begin so lately is not told yet: somebody is about to take it.
const STRANDED_AFTER_SECONDS: u32 = 10;

/// A worker.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct WorkerLine {
    /// Id.
    pub worker_id: WorkerId,
    /// Its name.
    pub name: String,
    /// Where it came from.
    #[sqlx(try_from = "Word")]
    pub kind: WorkerKind,
    /// Whose jobs it takes.
    pub tags: Vec<String>,
    /// And those of devices without a tag.
    pub also_untagged: bool,
    /// It takes nothing more.
    pub draining: bool,
    /// It was heard of lately and did not say that it stops.
    pub alive: bool,
    /// Its machine.
    pub host: String,
    /// Its program's version.
    pub version: String,
    /// Jobs at the same time.
    pub slots: i32,
    /// Jobs it works on.
    pub jobs: i64,
    /// Processors it has.
    pub processors: i32,
    /// Processes that want to run, hundredths.
    pub load_percent: Option<i32>,
    /// Who made its token.
    pub enrolled_by: String,
    /// When it came in.
    #[sqlx(try_from = "Time")]
    pub enrolled_at: Timestamp,
    /// When its process began.
    #[sqlx(try_from = "MaybeTime")]
    pub started_at: Option<Timestamp>,
    /// When it was heard of last.
    #[sqlx(try_from = "MaybeTime")]
    pub seen_at: Option<Timestamp>,
    /// When it said that it stops.
    #[sqlx(try_from = "MaybeTime")]
    pub stopped_at: Option<Timestamp>,
}

impl WorkerLine {
    /// It went without a word. A server that is away shows no page, and comes back under its own name.
    pub fn is_lost(&self) -> bool {
        self.kind == WorkerKind::Worker && self.started_at.is_some() && self.stopped_at.is_none() && !self.alive
    }
}

const WORKER: &str = "
    select w.*, coalesce(w.stopped_at is null and w.seen_at > now() - make_interval(secs => $1), false) as alive,
        (select count(*) from job j where j.state = 'running' and split_part(j.leased_by, '/', 1) = w.name) as jobs
    from worker w";

/// All workers: servers first, by name.
pub async fn workers(db: &Database) -> Result<Vec<WorkerLine>> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!("{WORKER} order by w.kind, w.name")))
        .bind(f64::from(LOST_SECONDS))
        .fetch_all(&db.pool)
        .await?)
}

/// One of them.
pub async fn worker_line(db: &Database, worker_id: WorkerId) -> Result<Option<WorkerLine>> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!("{WORKER} where w.worker_id = $2")))
        .bind(f64::from(LOST_SECONDS))
        .bind(worker_id)
        .fetch_optional(&db.pool)
        .await?)
}

/// A job that waits for a worker that is not there.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StrandedJob {
    /// The job.
    pub job_id: JobId,
    /// Its run, if it belongs to one.
    pub run_id: Option<RunId>,
    /// Machine, device or location.
    pub title: String,
    /// Its device.
    pub device_id: Option<DeviceId>,
    /// The tag a worker needs for it.
    pub tag: Option<String>,
    /// Its location, if that is a folder.
    pub folder: Option<RepositoryId>,
    /// Its name.
    pub location: Option<String>,
    /// Since when it could begin.
    #[sqlx(try_from = "Time")]
    pub run_after: Timestamp,
}

/// Queued jobs that no worker which is alive may take, drained or not, oldest first: [`crate::jobs`] leases by the same
/// rule.
pub async fn stranded_jobs(db: &Database) -> Result<Vec<StrandedJob>> {
    Ok(sqlx::query_as(concat!(
        "select j.job_id, j.run_id, j.title, j.device_id, d.worker_tag as tag,
             case when r.kind = 'folder' then r.repository_id end as folder,
             case when r.kind = 'folder' then r.name end as location, j.run_after
         from job j left join device d using (device_id) left join repository r using (repository_id)
         where j.state = 'queued' and j.run_after <= now() - make_interval(secs => $3) and not exists (
             select from (select worker_id, kind = 'server' as server, tags,
                     kind = 'server' or cardinality(tags) = 0 or also_untagged as untagged from worker
                 where stopped_at is null and seen_at > now() - make_interval(secs => $1)) me
             where ",
        crate::jobs::may_take!(),
        ")
         order by j.run_after limit $2"
    ))
    .bind(f64::from(LOST_SECONDS))
    .bind(WAITING_MAX)
    .bind(f64::from(STRANDED_AFTER_SECONDS))
    .fetch_all(&db.pool)
    .await?)
}
