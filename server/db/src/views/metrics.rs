//! The figures that monitoring reads: few queries, each over indexed rows, whatever the size.

use super::{MachineFilter, Protection, ProtectionCounts, left_behind, protection_counts};
use crate::column::{MaybeBytes, MaybeTime};
use crate::journal::left_behind as left;
use crate::{Database, Result};
use domain::job::{JobKind, JobState};
use jiff::Timestamp;

/// Devices, tasks and repositories with a line of their own, each at most.
pub const LINES_MAX: i64 = 1000;

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// What runs that broke off left on hosts.
    pub left_behind: i64,
    /// The same by device, by name; enabled devices, the first [`LINES_MAX`].
    pub left_behind_by_device: Vec<(String, i64)>,
    /// Snapshots that other programs seem to have left.
    pub foreign_snapshots: i64,
    /// Enabled devices.
    pub devices: i64,
    /// Those whose inventory could not be read the last time.
    pub devices_unreachable: i64,
    /// Jobs that wait or run; kinds without any are left out.
    pub jobs: Vec<(JobKind, JobState, i64)>,
    /// Machines by state.
    pub protection: ProtectionCounts,
    /// Machines that miss their goal.
    pub missing_goal: i64,
    /// Tasks by name, the first [`LINES_MAX`].
    pub tasks: Vec<TaskSuccess>,
    /// Repositories by name, the first [`LINES_MAX`].
    pub repositories: Vec<RepositorySpace>,
}

/// When a task's newest run ended that made all its points.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TaskSuccess {
    /// Task.
    pub name: String,
    /// None yet: none.
    #[sqlx(try_from = "MaybeTime")]
    pub last_success: Option<Timestamp>,
}

/// Space of a repository, as it was measured last.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RepositorySpace {
    /// Repository.
    pub name: String,
    /// Bytes it takes.
    #[sqlx(try_from = "MaybeBytes")]
    pub used_bytes: Option<u64>,
    /// Bytes that are free at its place.
    #[sqlx(try_from = "MaybeBytes")]
    pub free_bytes: Option<u64>,
}

impl Metrics {
    /// Machines in a state.
    pub const fn machines(&self, protection: Protection) -> i64 {
        self.protection.of(protection)
    }

    /// Jobs of a kind in a state.
    pub fn jobs(&self, kind: JobKind, state: JobState) -> i64 {
        self.jobs.iter().find(|line| (line.0, line.1) == (kind, state)).map_or(0, |line| line.2)
    }
}

/// Reads them.
pub async fn metrics(db: &Database) -> Result<Metrics> {
    let sum = left_behind(db).await?;
    let (devices, devices_unreachable) =
        sqlx::query_as("select count(*), count(*) filter (where sync_error is not null) from device where enabled")
            .fetch_one(&db.pool)
            .await?;
    let (_, missing_goal) = db.goal_counts().await?;
    Ok(Metrics {
        left_behind: sum.changes,
        left_behind_by_device: by_device(db).await?,
        foreign_snapshots: sum.foreign,
        devices,
        devices_unreachable,
        jobs: jobs(db).await?,
        protection: protection_counts(db, &MachineFilter::default()).await?,
        missing_goal,
        tasks: tasks(db).await?,
        repositories: repositories(db).await?,
    })
}

async fn by_device(db: &Database) -> Result<Vec<(String, i64)>> {
    Ok(sqlx::query_as(concat!(
        "select d.name, (select count(*) from host_change c left join job j using (job_id)
                         where c.device_id = d.device_id and ",
        left!(),
        ") from device d where enabled order by lower(d.name) limit $1"
    ))
    .bind(LINES_MAX)
    .fetch_all(&db.pool)
    .await?)
}

async fn jobs(db: &Database) -> Result<Vec<(JobKind, JobState, i64)>> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "select kind, state, count(*) from job where state = 'queued' group by kind, state
         union all select kind, state, count(*) from job where state = 'running' group by kind, state",
    )
    .fetch_all(&db.pool)
    .await?;
    let known =
        |(kind, state, count): (String, String, i64)| Some((JobKind::parse(&kind)?, JobState::parse(&state)?, count));
    Ok(rows.into_iter().filter_map(known).collect())
}

async fn tasks(db: &Database) -> Result<Vec<TaskSuccess>> {
    Ok(sqlx::query_as(
        "select t.name, l.finished_at as last_success
         from backup_task t
         left join lateral (select finished_at from run r where r.task_id = t.task_id and r.state in ('succeeded', 'warning')
                            order by created_at desc limit 1) l on true
         where t.deleted_at is null order by lower(t.name) limit $1",
    )
    .bind(LINES_MAX)
    .fetch_all(&db.pool)
    .await?)
}

async fn repositories(db: &Database) -> Result<Vec<RepositorySpace>> {
    Ok(sqlx::query_as("select name, used_bytes, free_bytes from repository order by lower(name) limit $1")
        .bind(LINES_MAX)
        .fetch_all(&db.pool)
        .await?)
}
