//! Virtual machines over all devices.

use super::{PAGE_LINES, Slice, contains, offset};
use crate::column::{MaybeTime, Time, Word};
use crate::ids::{DeviceId, RunId, TaskId, VmId};
use crate::{Database, Result};
use domain::finding::Finding;
use domain::job::JobError;
use domain::machine::PowerState;
use jiff::Timestamp;

/// Whether a machine could be brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protection {
    /// In no task, without a point, or without any way to make one.
    Not,
    /// Has points, but its newest run failed.
    Behind,
    /// Has points, and its newest run made one.
    Protected,
    /// All its tasks are paused.
    Paused,
}

impl Protection {
    /// The order in which trouble comes first.
    pub const ALL: [Self; 4] = [Self::Not, Self::Behind, Self::Protected, Self::Paused];

    /// Stable word, also in addresses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Not => "not",
            Self::Behind => "behind",
            Self::Protected => "protected",
            Self::Paused => "paused",
        }
    }

    /// The one of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == word)
    }
}

/// Which machines to list.
#[derive(Debug, Clone, Default)]
pub struct MachineFilter {
    /// In name, guest or address.
    pub words: String,
    /// Of this device.
    pub device: Option<DeviceId>,
    /// Of this task.
    pub task: Option<TaskId>,
    /// With this tag, unless it is empty.
    pub tag: String,
    /// In this state.
    pub protection: Option<Protection>,
    /// `trouble`, `name`, `-name`, `point`, `-point`, `size`, `-size`, `device`, `-device`.
    pub sort: String,
    /// From 1.
    pub page: i64,
}

/// A machine in the list.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct MachineLine {
    /// Its id.
    pub vm_id: VmId,
    /// Name.
    pub name: String,
    /// Guest in words.
    pub guest_name: String,
    /// Power.
    #[sqlx(try_from = "Word")]
    pub power: PowerState,
    /// Device.
    pub device_id: DeviceId,
    /// Device's name.
    pub device: String,
    /// The device is simulated.
    pub simulated: bool,
    /// No longer on its device.
    #[sqlx(try_from = "MaybeTime")]
    pub missing_since: Option<Timestamp>,
    /// Worst first.
    #[sqlx(json)]
    pub findings: Vec<Finding>,
    /// See [`MachineLine::protection`].
    protection: String,
    /// Its tags, in order.
    pub tags: Vec<String>,
    /// Bytes of its disks.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// One of its tasks.
    pub task_id: Option<TaskId>,
    /// That task's name.
    pub task: Option<String>,
    /// Its tasks.
    pub tasks: i64,
    /// Its restore points.
    pub points: i64,
    /// The newest.
    #[sqlx(try_from = "MaybeTime")]
    pub last_point_at: Option<Timestamp>,
    /// Its kind.
    pub last_point_kind: Option<String>,
    /// State of the newest backup that ended.
    pub last_state: Option<String>,
    /// Its run.
    pub last_run: Option<RunId>,
    /// Why it failed.
    #[sqlx(json(nullable))]
    pub last_error: Option<JobError>,
    /// A backup that is going on.
    pub active_run: Option<RunId>,
}

impl MachineLine {
    /// Whether it could be brought back.
    pub fn protection(&self) -> Protection {
        Protection::parse(&self.protection).unwrap_or(Protection::Not)
    }
}

/// One row a machine: what protection needs, by index look-ups.
macro_rules! states {
    ($tail:literal) => {
        concat!(
            "with machine as (
    select v.*, d.name as device, d.simulated, t.tasks, t.active_tasks, t.task_id, t.task,
           o.taken_at as last_point_at, o.kind as last_point_kind,
           l.state as last_state, l.run_id as last_run, l.error as last_error,
           coalesce((select sum(k.capacity_bytes) from virtual_disk k where k.vm_id = v.vm_id), 0)::bigint as size_bytes,
           case when coalesce(t.tasks, 0) = 0 or o.taken_at is null then 'not'
                when t.active_tasks = 0 then 'paused'
                when l.state = 'failed' then 'behind'
                else 'protected' end as protection
    from virtual_machine v join device d using (device_id)
    left join lateral (select count(*) as tasks, count(*) filter (where not t.paused) as active_tasks,
                              (array_agg(t.task_id order by lower(t.name)))[1] as task_id,
                              (array_agg(t.name order by lower(t.name)))[1] as task
                       from backup_task_machine m join backup_task t using (task_id)
                       where m.vm_id = v.vm_id and t.deleted_at is null) t on true
    left join lateral (select taken_at, kind from restore_point o where o.vm_id = v.vm_id and o.expiring_since is null
                       order by taken_at desc limit 1) o on true
    left join lateral (select state, run_id, error from job j where j.vm_id = v.vm_id and j.kind = 'backup'
                       and j.state in ('succeeded', 'warning', 'failed') order by created_at desc limit 1) l on true
    where (v.missing_since is null or o.taken_at is not null or t.tasks > 0)
      and (v.name ilike $1 or v.guest_name ilike $1 or v.guest_address ilike $1)
      and ($2::bigint is null or v.device_id = $2)
      and ($3::bigint is null or exists (select 1 from backup_task_machine m
                                         where m.vm_id = v.vm_id and m.task_id = $3))
      and ($4 = '' or $4 = any(v.tags))) ",
            $tail
        )
    };
}

/// Machines that fit the filter.
pub async fn machines(db: &Database, filter: &MachineFilter) -> Result<Slice<MachineLine>> {
    let lines = sqlx::query_as(states!(
        "select m.vm_id, m.name, m.guest_name, m.power, m.device_id, m.device, m.simulated, m.missing_since, m.findings, m.tags,
                m.protection, m.size_bytes, m.task_id, m.task, coalesce(m.tasks, 0) as tasks, m.last_point_at,
                m.last_point_kind, m.last_state, m.last_run, m.last_error,
                (select count(*) from restore_point o where o.vm_id = m.vm_id and o.expiring_since is null) as points,
                (select j.run_id from job j where j.vm_id = m.vm_id and j.kind = 'backup'
                 and j.state in ('queued', 'running') order by j.job_id desc limit 1) as active_run
         from (select * from machine where $5 = '' or protection = $5
               order by case when $6 = 'trouble' then array_position(array['not', 'behind', 'protected', 'paused'], protection) end,
                        case when $6 = 'size' then size_bytes end, case when $6 = '-size' then -size_bytes end,
                        case when $6 = 'point' then last_point_at end nulls first,
                        case when $6 = '-point' then last_point_at end desc nulls last,
                        case when $6 = 'device' then lower(device) end, case when $6 = '-device' then lower(device) end desc,
                        case when $6 = '-name' then lower(name) end desc,
                        lower(name), vm_id
               limit $7 offset $8) m"
    ))
    .bind(contains(&filter.words))
    .bind(filter.device)
    .bind(filter.task)
    .bind(&filter.tag)
    .bind(filter.protection.map_or("", Protection::as_str))
    .bind(if filter.sort.is_empty() { "trouble" } else { &filter.sort })
    .bind(PAGE_LINES)
    .bind(offset(filter.page))
    .fetch_all(&db.pool)
    .await?;
    let counts = protection_counts(db, filter).await?;
    let total = filter.protection.map_or(counts.all(), |one| counts.of(one));
    Ok(Slice { lines, total })
}

/// How many machines are in which state.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProtectionCounts([i64; 4]);

impl ProtectionCounts {
    /// In this state.
    pub const fn of(&self, protection: Protection) -> i64 {
        let [not, behind, protected, paused] = self.0;
        match protection {
            Protection::Not => not,
            Protection::Behind => behind,
            Protection::Protected => protected,
            Protection::Paused => paused,
        }
    }

    /// In any.
    pub fn all(&self) -> i64 {
        self.0.iter().sum()
    }
}

/// Counts over the machines that fit the filter, whatever state it names.
pub async fn protection_counts(db: &Database, filter: &MachineFilter) -> Result<ProtectionCounts> {
    let (not, behind, protected, paused) = sqlx::query_as(states!(
        "select count(*) filter (where protection = 'not'), count(*) filter (where protection = 'behind'),
                count(*) filter (where protection = 'protected'), count(*) filter (where protection = 'paused')
         from machine"
    ))
    .bind(contains(&filter.words))
    .bind(filter.device)
    .bind(filter.task)
    .bind(&filter.tag)
    .fetch_one(&db.pool)
    .await?;
    Ok(ProtectionCounts([not, behind, protected, paused]))
}

/// A machine on its page.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct MachinePage {
    /// Its id.
    pub vm_id: VmId,
    /// Name.
    pub name: String,
    /// The platform's id.
    pub instance_uuid: String,
    /// Reference on the device.
    pub reference: String,
    /// Guest in words.
    pub guest_name: String,
    /// First address of the guest.
    pub guest_address: Option<String>,
    /// Folder.
    pub folder: String,
    /// Path of its resource pool.
    pub pool: String,
    /// Its tags, in order.
    pub tags: Vec<String>,
    /// Power.
    #[sqlx(try_from = "Word")]
    pub power: PowerState,
    /// Processors.
    pub processors: i32,
    /// Memory.
    pub memory_mib: i64,
    /// Change tracking is on.
    pub tracking_enabled: bool,
    /// Worst first.
    #[sqlx(json)]
    pub findings: Vec<Finding>,
    /// First seen.
    #[sqlx(try_from = "Time")]
    pub first_seen_at: Timestamp,
    /// Last seen.
    #[sqlx(try_from = "Time")]
    pub seen_at: Timestamp,
    /// No longer on its device.
    #[sqlx(try_from = "MaybeTime")]
    pub missing_since: Option<Timestamp>,
    /// Device.
    pub device_id: DeviceId,
    /// Device's name.
    pub device: String,
    /// The device is simulated.
    pub simulated: bool,
    /// The device is used.
    pub device_enabled: bool,
    /// Key of its points, when it has some.
    pub machine_key: Option<String>,
    /// Its points.
    pub points: i64,
    /// Its tasks: id and name and whether it is paused.
    #[sqlx(skip)]
    pub tasks: Vec<(TaskId, String, bool)>,
    /// Its disks.
    #[sqlx(skip)]
    pub disks: Vec<MachineDisk>,
}

/// A disk of a machine.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct MachineDisk {
    /// Device key.
    pub disk_key: i32,
    /// Label.
    pub label: String,
    /// Bytes.
    #[sqlx(try_from = "i64")]
    pub capacity_bytes: u64,
    /// Datastore.
    pub datastore: String,
    /// Path in the host's notation.
    pub path: String,
}

/// A machine with its disks and tasks.
pub async fn machine_page(db: &Database, vm: VmId) -> Result<Option<MachinePage>> {
    let page: Option<MachinePage> = sqlx::query_as(
        "select v.vm_id, v.name, v.instance_uuid, v.reference, v.guest_name, v.guest_address, v.folder, v.pool, v.tags, v.power,
                v.processors, v.memory_mib, v.tracking_enabled, v.findings, v.first_seen_at, v.seen_at, v.missing_since,
                v.device_id, d.name as device, d.simulated, d.enabled as device_enabled, o.machine_key,
                coalesce(o.points, 0) as points
         from virtual_machine v join device d using (device_id)
         left join lateral (select max(machine_key) as machine_key, count(*) as points from restore_point o
                            where o.vm_id = v.vm_id and o.expiring_since is null) o on true
         where v.vm_id = $1",
    )
    .bind(vm)
    .fetch_optional(&db.pool)
    .await?;
    let Some(mut page) = page else { return Ok(None) };
    page.tasks = sqlx::query_as(
        "select t.task_id, t.name, t.paused from backup_task_machine m join backup_task t using (task_id)
         where m.vm_id = $1 and t.deleted_at is null order by lower(t.name)",
    )
    .bind(vm)
    .fetch_all(&db.pool)
    .await?;
    page.disks = machine_disks(db, vm).await?;
    Ok(Some(page))
}

/// Disks of a machine, in the host's order.
pub async fn machine_disks(db: &Database, vm: VmId) -> Result<Vec<MachineDisk>> {
    let disks = sqlx::query_as(
        "select disk_key, label, capacity_bytes, datastore, path from virtual_disk where vm_id = $1 order by disk_key",
    )
    .bind(vm)
    .fetch_all(&db.pool)
    .await?;
    Ok(disks)
}
