//! Backup tasks.

use crate::column::{MaybeTime, Word};
use crate::ids::{DeviceId, RepositoryId, RunId, TaskId, VmId};
use crate::{Database, Result};
use domain::choice::{Choice, ExcludedDisk};
use domain::finding::Finding;
use domain::job::JobState;
use domain::machine::PowerState;
use domain::machine::Quiesce;
use domain::mode::{IfStillOn, Mode};
use domain::retention::Retention;
use domain::schedule::Schedule;
use jiff::Timestamp;

/// A task in the list and on its page.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TaskLine {
    /// Its id.
    pub task_id: TaskId,
    /// Name.
    pub name: String,
    /// Where it writes.
    pub repository_id: RepositoryId,
    /// Its name.
    pub repository: String,
    /// When.
    #[sqlx(json)]
    pub schedule: Schedule,
    /// What stays.
    #[sqlx(json)]
    pub retention: Retention,
    /// `full`, `incremental` or `differential`.
    pub method: String,
    /// A full every how many points; 0 = when it must be.
    pub full_every: i32,
    /// Whether guests freeze their file systems.
    #[sqlx(try_from = "Word")]
    pub quiesce: Quiesce,
    /// Whether machines run meanwhile.
    #[sqlx(try_from = "Word")]
    pub mode: Mode,
    /// A guest gets so long to shut down, minutes.
    pub shutdown_minutes: i32,
    /// What happens to one that does not.
    #[sqlx(try_from = "Word")]
    pub if_still_on: IfStillOn,
    /// What joins by rule.
    #[sqlx(json)]
    pub choice: Choice,
    /// Disks that stay out.
    #[sqlx(json)]
    pub excluded_disks: Vec<ExcludedDisk>,
    /// No run by schedule.
    pub paused: bool,
    /// Next run.
    #[sqlx(try_from = "MaybeTime")]
    pub next_due_at: Option<Timestamp>,
    /// Machines.
    pub machines: i64,
    /// Something in it is simulated.
    pub simulated: bool,
    /// Restore points of it.
    pub points: i64,
    /// Newest run.
    pub last_run: Option<RunId>,
    /// Its state.
    pub last_state: Option<String>,
    /// Its end, or its start while it goes on.
    #[sqlx(try_from = "MaybeTime")]
    pub last_at: Option<Timestamp>,
    /// It did not happen.
    pub last_skipped: bool,
    /// Name of the task it runs after.
    pub after_task: Option<String>,
}

impl TaskLine {
    /// State of the newest run.
    pub fn last(&self) -> Option<JobState> {
        self.last_state.as_deref().and_then(JobState::parse)
    }

    /// Its schedule.
    pub fn schedule_words(&self) -> String {
        domain::schedule::in_words(&self.schedule, self.after_task.as_deref())
    }

    /// A run is going on.
    pub fn is_active(&self) -> bool {
        self.last().is_some_and(|state| !state.is_final())
    }
}

const QUERY: &str = "
    select t.task_id, t.name, t.repository_id, p.name as repository, t.schedule, t.retention, t.method, t.full_every,
           t.quiesce, t.mode, t.shutdown_minutes, t.if_still_on, t.choice,
           t.excluded_disks, t.paused, t.next_due_at, coalesce(m.machines, 0) as machines,
           coalesce(m.simulated, false) as simulated,
           (select count(*) from restore_point o where o.task_id = t.task_id and o.expiring_since is null) as points,
           r.run_id as last_run, r.state as last_state, coalesce(r.finished_at, r.created_at) as last_at,
           coalesce(r.skipped is not null, false) as last_skipped,
           (select x.name from backup_task x where t.schedule ->> 'kind' = 'after' and x.deleted_at is null
                and x.task_id = (t.schedule ->> 'task_id')::bigint) as after_task
    from backup_task t join repository p using (repository_id)
    left join lateral (select count(*) as machines, bool_or(d.simulated) as simulated
                       from backup_task_machine m join virtual_machine v using (vm_id) join device d using (device_id)
                       where m.task_id = t.task_id) m on true
    left join lateral (select run_id, state, finished_at, created_at, skipped from run r where r.task_id = t.task_id
                       order by created_at desc, run_id desc limit 1) r on true
    where t.deleted_at is null and ($1::bigint is null or t.task_id = $1)
    order by lower(t.name)";

/// All tasks, by name.
pub async fn tasks(db: &Database) -> Result<Vec<TaskLine>> {
    Ok(sqlx::query_as(QUERY).bind(None::<TaskId>).fetch_all(&db.pool).await?)
}

/// One of them.
pub async fn task_line(db: &Database, task: TaskId) -> Result<Option<TaskLine>> {
    Ok(sqlx::query_as(QUERY).bind(Some(task)).fetch_optional(&db.pool).await?)
}

/// A machine of a task, or one that could be.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TaskMachine {
    /// Its id.
    pub vm_id: VmId,
    /// Name.
    pub name: String,
    /// Device.
    pub device_id: DeviceId,
    /// Device's name.
    pub device: String,
    /// The device is simulated.
    pub simulated: bool,
    /// The device is used.
    pub enabled: bool,
    /// Power.
    #[sqlx(try_from = "Word")]
    pub power: PowerState,
    /// Guest.
    pub guest_name: String,
    /// Bytes of its disks.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Worst first.
    #[sqlx(json)]
    pub findings: Vec<Finding>,
    /// No longer on its device.
    #[sqlx(try_from = "MaybeTime")]
    pub missing_since: Option<Timestamp>,
    /// Names of its tasks.
    pub tasks: Vec<String>,
    /// Newest point.
    #[sqlx(try_from = "MaybeTime")]
    pub last_point_at: Option<Timestamp>,
}

/// Machines in the wizard's list; a filter finds the others.
const CHOICE_MAX: i64 = 500;

/// Machines to choose from, and those of `only` whatever the filter says.
pub async fn task_machines(
    db: &Database,
    words: &str,
    device: Option<DeviceId>,
    only: Option<&[VmId]>,
) -> Result<Vec<TaskMachine>> {
    let chosen: Option<Vec<i64>> = only.map(|ids| ids.iter().map(|id| id.0).collect());
    let rows = sqlx::query_as(
        "select v.vm_id, v.name, v.device_id, d.name as device, d.simulated, d.enabled, v.power, v.guest_name, v.findings,
                v.missing_since,
                coalesce((select sum(k.capacity_bytes) from virtual_disk k where k.vm_id = v.vm_id), 0)::bigint as size_bytes,
                array(select t.name from backup_task_machine m join backup_task t using (task_id)
                      where m.vm_id = v.vm_id and t.deleted_at is null order by 1) as tasks,
                (select max(o.taken_at) from restore_point o where o.vm_id = v.vm_id and o.expiring_since is null)
                    as last_point_at
         from virtual_machine v join device d using (device_id)
         where case when $3::bigint[] is not null then v.vm_id = any($3)
                    else v.missing_since is null and (v.name ilike $1 or v.guest_name ilike $1)
                         and ($2::bigint is null or v.device_id = $2) end
         order by lower(v.name), v.vm_id limit $4",
    )
    .bind(super::contains(words))
    .bind(device)
    .bind(&chosen)
    .bind(if chosen.is_some() { i64::MAX } else { CHOICE_MAX })
    .fetch_all(&db.pool)
    .await?;
    Ok(rows)
}

/// A disk that a task could leave out.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ChoiceDisk {
    /// Its machine.
    pub vm_id: VmId,
    /// The machine's name.
    pub machine: String,
    /// Device key.
    pub disk_key: i32,
    /// Label.
    pub label: String,
    /// Bytes.
    #[sqlx(try_from = "i64")]
    pub capacity_bytes: u64,
}

/// The disks of those of these machines that have several.
pub async fn choice_disks(db: &Database, machines: &[VmId]) -> Result<Vec<ChoiceDisk>> {
    let ids: Vec<i64> = machines.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as(
        "select v.vm_id, v.name as machine, k.disk_key, k.label, k.capacity_bytes
         from virtual_disk k join virtual_machine v using (vm_id)
         where v.vm_id = any($1) and (select count(*) from virtual_disk o where o.vm_id = v.vm_id) > 1
         order by lower(v.name), v.vm_id, k.disk_key limit $2",
    )
    .bind(&ids)
    .bind(CHOICE_MAX)
    .fetch_all(&db.pool)
    .await?;
    Ok(rows)
}

/// For each of these machines that is there, one of its tasks that is not deleted.
pub async fn task_of_machines(db: &Database, machines: &[VmId]) -> Result<Vec<(VmId, Option<TaskId>)>> {
    let ids: Vec<i64> = machines.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as(
        "select v.vm_id, (select t.task_id from backup_task_machine m join backup_task t using (task_id)
                          where m.vm_id = v.vm_id and t.deleted_at is null order by t.paused, t.task_id limit 1)
         from virtual_machine v where v.vm_id = any($1) and v.missing_since is null",
    )
    .bind(&ids)
    .fetch_all(&db.pool)
    .await?;
    Ok(rows)
}
