//! The start page.

use super::{MachineFilter, ProtectionCounts, WorkerLine, protection_counts};
use crate::column::{Time, Word};
use crate::ids::{DeviceId, RepositoryId, RunId, TaskId, VmId};
use crate::runs::RunKind;
use crate::{Database, Result};
use domain::finding::{Finding, Severity};
use domain::job::{JobError, JobState};
use jiff::Timestamp;

/// Figures of the start page.
#[derive(Debug, Clone, Copy, Default)]
pub struct HomeCounts {
    /// Machines by state.
    pub protection: ProtectionCounts,
    /// Devices.
    pub devices: i64,
    /// Tasks.
    pub tasks: i64,
    /// A backup run has ended with a point.
    pub has_points: bool,
    /// Machines with a goal for the age of their newest point.
    pub with_goal: i64,
    /// Those that miss it.
    pub goal_missed: i64,
}

/// Figures of the start page.
pub async fn home_counts(db: &Database) -> Result<HomeCounts> {
    let (devices, tasks, has_points) = sqlx::query_as(
        "select (select count(*) from device), (select count(*) from backup_task where deleted_at is null),
                exists (select 1 from restore_point)",
    )
    .fetch_one(&db.pool)
    .await?;
    let protection = protection_counts(db, &MachineFilter::default()).await?;
    let (with_goal, goal_missed) = db.goal_counts().await?;
    Ok(HomeCounts { protection, devices, tasks, has_points, with_goal, goal_missed })
}

/// What needs attention.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Worse ones first.
    pub is_error: bool,
    /// What it is about.
    pub kind: TroubleKind,
    /// Name of it.
    pub name: String,
    /// One sentence.
    pub title: String,
    /// Cause and remedy.
    pub detail: String,
}

impl Trouble {
    fn machine(&self) -> Option<VmId> {
        match self.kind {
            TroubleKind::Machine(vm_id, _) => Some(vm_id),
            _ => None,
        }
    }
}

/// What a [`Trouble`] is about.
#[derive(Debug, Clone, Copy)]
pub enum TroubleKind {
    /// A machine whose newest backup failed, with the run.
    Machine(VmId, Option<RunId>),
    /// Change tracking of a machine said nothing of a change.
    Tracking(VmId),
    /// A device.
    Device(DeviceId),
    /// A repository.
    Repository(RepositoryId),
    /// A worker.
    Worker,
    /// Machines that are in no task.
    Unprotected,
}

/// Entries of each kind.
const TROUBLES_MAX: i64 = 12;
/// A repository's file system with less than this is nearly full.
const SPACE_LOW_PERCENT: u64 = 5;

/// What needs attention, worst first.
pub async fn troubles(db: &Database) -> Result<Vec<Trouble>> {
    let mut all = goal_troubles(db).await?;
    let told: Vec<VmId> = all.iter().filter_map(Trouble::machine).collect();
    // What keeps a machine from its goal stands there already.
    let failed = machine_troubles(db).await?.into_iter();
    all.extend(failed.filter(|trouble| trouble.machine().is_none_or(|machine| !told.contains(&machine))));
    all.extend(tracking_troubles(db).await?);
    all.extend(device_troubles(db).await?);
    all.extend(repository_troubles(db).await?);
    all.extend(lost_workers(db).await?);
    all.extend(unprotected(db).await?);
    all.sort_by_key(|trouble| !trouble.is_error);
    Ok(all)
}

async fn goal_troubles(db: &Database) -> Result<Vec<Trouble>> {
    let missed = db.missed_goals(TROUBLES_MAX).await?;
    Ok(missed
        .into_iter()
        .map(|goal| Trouble {
            is_error: true,
            kind: TroubleKind::Machine(goal.vm_id, goal.last_run.filter(|_| goal.last_failed)),
            title: match goal.newest_good_at {
                Some(_) => format!("{} misses its goal", goal.name),
                None => format!("{} was never backed up", goal.name),
            },
            detail: goal.reason,
            name: goal.name,
        })
        .collect())
}

async fn machine_troubles(db: &Database) -> Result<Vec<Trouble>> {
    #[derive(sqlx::FromRow)]
    struct Row {
        vm_id: VmId,
        name: String,
        run_id: Option<RunId>,
        #[sqlx(json(nullable))]
        error: Option<JobError>,
        failures: i64,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "select v.vm_id, v.name, l.run_id, l.error,
                (select count(*) from job j where j.vm_id = v.vm_id and j.kind = 'backup' and j.state = 'failed'
                 and j.created_at > coalesce((select max(g.created_at) from job g where g.vm_id = v.vm_id
                     and g.kind = 'backup' and g.state in ('succeeded', 'warning')), '-infinity')) as failures
         from virtual_machine v
         join lateral (select state, run_id, error, created_at from job j where j.vm_id = v.vm_id and j.kind = 'backup'
                       and j.state in ('succeeded', 'warning', 'failed') order by created_at desc limit 1) l on true
         where l.state = 'failed' and exists (select 1 from backup_task_machine m join backup_task t using (task_id)
                                              where m.vm_id = v.vm_id and t.deleted_at is null)
         order by l.created_at desc limit $1",
    )
    .bind(TROUBLES_MAX)
    .fetch_all(&db.pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Trouble {
            is_error: true,
            kind: TroubleKind::Machine(row.vm_id, row.run_id),
            title: if row.failures > 1 {
                format!("{}: {} runs in a row failed", row.name, row.failures)
            } else {
                format!("{}: the last run failed", row.name)
            },
            name: row.name,
            detail: row.error.map(|error| format!("{} {}", error.what, error.why)).unwrap_or_default(),
        })
        .collect())
}

/// The newest alarm of each machine that nobody has seen yet.
async fn tracking_troubles(db: &Database) -> Result<Vec<Trouble>> {
    let rows: Vec<(VmId, String, String, String, i64)> = sqlx::query_as(
        "select distinct on (v.vm_id) v.vm_id, v.name, d.name, a.disk_label, a.offset_bytes
         from tracking_alarm a join virtual_machine v using (vm_id) join device d using (device_id)
         where a.seen_at is null order by v.vm_id, a.alarm_id desc limit $1",
    )
    .bind(TROUBLES_MAX)
    .fetch_all(&db.pool)
    .await?;
    let trouble = |(vm_id, name, device, disk, offset)| Trouble {
        is_error: true,
        kind: TroubleKind::Tracking(vm_id),
        title: format!("{name}: change tracking missed a change"),
        detail: format!(
            "{device} said nothing of a change at byte {offset} of {disk}. Earlier increments may lack changes too."
        ),
        name,
    };
    Ok(rows.into_iter().map(trouble).collect())
}

async fn device_troubles(db: &Database) -> Result<Vec<Trouble>> {
    #[derive(sqlx::FromRow)]
    struct Row {
        device_id: DeviceId,
        name: String,
        #[sqlx(json)]
        findings: Vec<Finding>,
        #[sqlx(json(nullable))]
        sync_error: Option<JobError>,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "select device_id, name, findings, sync_error from device
         where enabled and (sync_error is not null or findings <> '[]'::jsonb) order by lower(name)",
    )
    .fetch_all(&db.pool)
    .await?;
    let mut troubles = Vec::new();
    for row in rows {
        let trouble = |is_error, title: String, detail: String| Trouble {
            is_error,
            kind: TroubleKind::Device(row.device_id),
            name: row.name.clone(),
            title: format!("{}: {title}", row.name),
            detail,
        };
        if let Some(error) = &row.sync_error {
            troubles.push(trouble(
                true,
                "the device does not answer as it should".to_owned(),
                format!("{} {}", error.what, error.why),
            ));
        }
        for finding in row.findings.iter().filter(|finding| finding.severity != Severity::Info) {
            let is_error = finding.severity == Severity::Blocker;
            troubles.push(trouble(is_error, finding.message.clone(), finding.hint.clone()));
        }
    }
    troubles.truncate(TROUBLES_MAX as usize);
    Ok(troubles)
}

async fn repository_troubles(db: &Database) -> Result<Vec<Trouble>> {
    let repositories = super::repositories(db).await?;
    Ok(repositories
        .into_iter()
        .filter_map(|it| {
            let (is_error, title, detail) = if let Some(error) = it.check_error {
                (true, format!("{} cannot be used", it.name), format!("{} {}", error.what, error.why))
            } else if it.damaged_points > 0 {
                let detail = "Some of their data did not read back. The next run of their tasks reads it again.";
                (true, format!("{} holds {} damaged restore points", it.name, it.damaged_points), detail.to_owned())
            } else {
                let (free, capacity) = (it.free_bytes?, it.capacity_bytes?);
                if free >= capacity / 100 * SPACE_LOW_PERCENT {
                    return None;
                }
                let detail = format!("{} MB are free. Keep fewer points, or give it more space.", free / 1_000_000);
                (false, format!("{} is nearly full", it.name), detail)
            };
            Some(Trouble { is_error, kind: TroubleKind::Repository(it.repository_id), name: it.name, title, detail })
        })
        .collect())
}

/// Workers that went without a word: what they alone can reach is not backed up.
async fn lost_workers(db: &Database) -> Result<Vec<Trouble>> {
    let workers = super::workers(db).await?.into_iter();
    let lost = workers.filter(WorkerLine::is_lost).take(TROUBLES_MAX.unsigned_abs() as usize);
    Ok(lost
        .map(|it| Trouble {
            is_error: true,
            kind: TroubleKind::Worker,
            title: format!("The worker {} is lost", it.name),
            detail: format!(
                "Nothing was heard of it for more than a minute. Look at {}; others go on with what they can reach.",
                it.host
            ),
            name: it.name,
        })
        .collect())
}

async fn unprotected(db: &Database) -> Result<Option<Trouble>> {
    let (count, first): (i64, Option<String>) = sqlx::query_as(
        "select count(*), min(v.name) from virtual_machine v join device d using (device_id)
         where v.missing_since is null and d.enabled and not exists (
             select 1 from backup_task_machine m join backup_task t using (task_id)
             where m.vm_id = v.vm_id and t.deleted_at is null)",
    )
    .fetch_one(&db.pool)
    .await?;
    let Some(name) = first.filter(|_| count > 0) else { return Ok(None) };
    Ok(Some(Trouble {
        is_error: false,
        kind: TroubleKind::Unprotected,
        title: if count == 1 { format!("{name} is in no task") } else { format!("{count} machines are in no task") },
        detail: "They are not backed up. Add them to a task.".to_owned(),
        name,
    }))
}

/// A run that is going on.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ActiveRun {
    /// Its id.
    pub run_id: RunId,
    /// Backup or restore.
    #[sqlx(try_from = "Word")]
    pub kind: RunKind,
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
    /// Machines.
    pub jobs: i64,
    /// That ended.
    pub ended: i64,
    /// That failed.
    pub failed: i64,
    /// Bytes.
    #[sqlx(try_from = "i64")]
    pub bytes_total: u64,
    /// Of them.
    #[sqlx(try_from = "i64")]
    pub bytes_done: u64,
    /// Now.
    #[sqlx(try_from = "i64")]
    pub bytes_per_second: u64,
    /// Something in it is simulated.
    pub simulated: bool,
}

impl ActiveRun {
    /// At the present speed.
    pub const fn seconds_left(&self) -> u64 {
        match self.bytes_total.saturating_sub(self.bytes_done).checked_div(self.bytes_per_second) {
            Some(seconds) => seconds,
            None => 0,
        }
    }
}

/// Runs on the start page.
const ACTIVE_RUNS_MAX: i64 = 20;

/// Runs that are going on, oldest first.
pub async fn active_runs(db: &Database) -> Result<Vec<ActiveRun>> {
    let runs = sqlx::query_as(
        "select r.run_id, r.kind, r.title, r.started_by, r.state, r.created_at, count(j.job_id) as jobs,
                count(*) filter (where j.state not in ('queued', 'running')) as ended,
                count(*) filter (where j.state = 'failed') as failed,
                coalesce(sum(j.bytes_total), 0)::bigint as bytes_total, coalesce(sum(j.bytes_done), 0)::bigint as bytes_done,
                coalesce(sum(j.bytes_per_second) filter (where j.state = 'running'), 0)::bigint as bytes_per_second,
                coalesce(bool_or(d.simulated), false) as simulated
         from run r left join job j using (run_id) left join device d on d.device_id = j.device_id
         where r.state in ('queued', 'running')
         group by r.run_id order by r.created_at limit $1",
    )
    .bind(ACTIVE_RUNS_MAX)
    .fetch_all(&db.pool)
    .await?;
    Ok(runs)
}

/// A run to come.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct NextRun {
    /// Task.
    pub task_id: TaskId,
    /// Its name.
    pub name: String,
    /// When.
    #[sqlx(try_from = "Time")]
    pub next_due_at: Timestamp,
    /// Machines.
    pub machines: i64,
}

/// Next runs by schedule.
pub async fn next_runs(db: &Database, limit: i64) -> Result<Vec<NextRun>> {
    let runs = sqlx::query_as(
        "select task_id, name, next_due_at,
                (select count(*) from backup_task_machine m where m.task_id = t.task_id) as machines
         from backup_task t where deleted_at is null and not paused and next_due_at is not null
         order by next_due_at, task_id limit $1",
    )
    .bind(limit)
    .fetch_all(&db.pool)
    .await?;
    Ok(runs)
}

/// Machine runs of a day.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Day {
    /// `2026-11-22`.
    pub day: String,
    /// Made a point.
    pub good: i64,
    /// With a warning.
    pub warning: i64,
    /// Failed.
    pub failed: i64,
}

/// Machine runs by day, in a time zone by its IANA name; days without any are left out.
pub async fn days(db: &Database, since: Timestamp, time_zone: &str) -> Result<Vec<Day>> {
    let days = sqlx::query_as(
        "select to_char(finished_at at time zone $2, 'YYYY-MM-DD') as day,
                count(*) filter (where state = 'succeeded') as good, count(*) filter (where state = 'warning') as warning,
                count(*) filter (where state = 'failed') as failed
         from job where kind = 'backup' and created_at >= $1 and finished_at >= $1
           and state in ('succeeded', 'warning', 'failed')
         group by 1 order by 1",
    )
    .bind(Time(since))
    .bind(time_zone)
    .fetch_all(&db.pool)
    .await?;
    Ok(days)
}
