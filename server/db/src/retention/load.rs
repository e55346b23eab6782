//! What retention decides about, as the database knows it.

use super::{Draft, MachinePoints, TaskRule};
use crate::column::{Time, Word};
use crate::database::Database;
use crate::error::Result;
use crate::ids::{PointId, RepositoryId, TaskId, VmId};
use domain::point::PointKind;
use domain::retention::{Busy, Candidate, Floor, Retention, Rule, Scope};
use jiff::Timestamp;
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashMap};

#[derive(sqlx::FromRow)]
#[allow(clippy::struct_excessive_bools)] // one for each question of the query
struct PointRow {
    point_id: PointId,
    vm_id: VmId,
    machine_name: String,
    task_id: Option<TaskId>,
    #[sqlx(try_from = "Time")]
    taken_at: Timestamp,
    #[sqlx(try_from = "Word")]
    kind: PointKind,
    pinned: bool,
    damaged: bool,
    restored: bool,
    verified: bool,
    backed_up: bool,
}

#[derive(sqlx::FromRow)]
struct RuleRow {
    vm_id: VmId,
    task_id: TaskId,
    name: String,
    #[sqlx(json)]
    retention: Retention,
    schedule: serde_json::Value,
    goes_on: bool,
    deleted: bool,
}

impl Database {
    /// The points of these machines in a repository, and what decides about them. A machine without any is left out,
    /// unless one of `tasks` would make some.
    pub async fn retention_of(&self, repository_id: RepositoryId, machines: &[VmId]) -> Result<Vec<MachinePoints>> {
        let mut connection = self.pool.acquire().await?;
        load(&mut connection, repository_id, machines).await
    }

    /// The same for one machine, in each repository that holds points of it.
    pub async fn retention_of_machine(&self, vm_id: VmId) -> Result<Vec<MachinePoints>> {
        let mut connection = self.pool.acquire().await?;
        let repositories: Vec<RepositoryId> = sqlx::query_scalar(
            "select distinct repository_id from restore_point where vm_id = $1 and expiring_since is null order by 1",
        )
        .bind(vm_id)
        .fetch_all(&mut *connection)
        .await?;
        let mut found = Vec::new();
        for repository_id in repositories {
            found.extend(load(&mut connection, repository_id, &[vm_id]).await?);
        }
        Ok(found)
    }

    /// What a task as it is about to be saved decides about: its machines where it will write, and whatever points it
    /// has made, wherever they are. At most so many machines; the second part says whether there were more.
    pub async fn retention_with(&self, draft: &Draft, machines_max: usize) -> Result<(Vec<MachinePoints>, bool)> {
        let mut connection = self.pool.acquire().await?;
        let made: Vec<(RepositoryId, VmId)> = sqlx::query_as(
            "select distinct repository_id, vm_id from restore_point
             where task_id = $1 and vm_id is not null and expiring_since is null order by 1, 2",
        )
        .bind(draft.task_id)
        .fetch_all(&mut *connection)
        .await?;
        let mut wanted: Vec<(RepositoryId, VmId)> =
            draft.machines.iter().map(|vm| (draft.repository_id, *vm)).collect();
        wanted.extend(made);
        wanted.sort_unstable();
        wanted.dedup();
        let more = wanted.len() > machines_max;
        wanted.truncate(machines_max);
        let mut by_repository: BTreeMap<RepositoryId, Vec<VmId>> = BTreeMap::new();
        for (repository_id, vm_id) in wanted {
            by_repository.entry(repository_id).or_default().push(vm_id);
        }
        let mut found = Vec::new();
        for (repository_id, machines) in by_repository {
            let loaded = load(&mut connection, repository_id, &machines).await?;
            found.extend(loaded.into_iter().map(|machine| machine.with(draft)));
        }
        Ok((found, more))
    }

    /// What no rule undercuts in a repository.
    pub async fn set_floor(&self, repository_id: RepositoryId, floor: Floor) -> Result<()> {
        let changed = sqlx::query("update repository set floor_points = $2, floor_days = $3 where repository_id = $1")
            .bind(repository_id)
            .bind(i32::try_from(floor.points).unwrap_or(i32::MAX))
            .bind(i32::try_from(floor.days).unwrap_or(i32::MAX))
            .execute(&self.pool)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(crate::Error::not_found("repository", repository_id));
        }
        Ok(())
    }
}

/// Machines that have points there, each with the rules that have a say.
pub(super) async fn load(
    connection: &mut PgConnection,
    repository_id: RepositoryId,
    machines: &[VmId],
) -> Result<Vec<MachinePoints>> {
    let ids: Vec<i64> = machines.iter().map(|vm| vm.0).collect();
    let floor = floor(connection, repository_id).await?;
    let mut rules = rules(connection, repository_id, &ids).await?;
    let mut found: Vec<MachinePoints> = Vec::new();
    let mut full_seen = false;
    for row in points(connection, repository_id, &ids).await? {
        if found.last().is_none_or(|machine| machine.vm_id != row.vm_id) {
            full_seen = false;
            found.push(MachinePoints {
                repository_id,
                vm_id: row.vm_id,
                machine_name: row.machine_name.clone(),
                rules: rules.remove(&row.vm_id).unwrap_or_default(),
                floor,
                points: Vec::new(),
            });
        }
        // Newest first, so what comes first of its kind is the newest of it.
        let Some(machine) = found.last_mut() else { continue };
        let is_base = machine.points.is_empty() || (row.kind == PointKind::Full && !full_seen);
        full_seen |= row.kind == PointKind::Full;
        let busy = match &row {
            _ if row.restored => Some(Busy::Restore),
            _ if row.verified => Some(Busy::Verify),
            _ if row.backed_up && is_base => Some(Busy::Backup),
            _ => None,
        };
        let owner = machine.rules.iter().position(|rule| rule.task_id.is_some() && rule.task_id == row.task_id);
        machine.points.push(Candidate {
            id: row.point_id,
            taken_at: row.taken_at,
            owner,
            pinned: row.pinned,
            damaged: row.damaged,
            busy,
        });
    }
    Ok(found)
}

async fn floor(connection: &mut PgConnection, repository_id: RepositoryId) -> Result<Floor> {
    let row: Option<(i32, i32)> =
        sqlx::query_as("select floor_points, floor_days from repository where repository_id = $1")
            .bind(repository_id)
            .fetch_optional(connection)
            .await?;
    let (points, days) = row.ok_or_else(|| crate::Error::not_found("repository", repository_id))?;
    Ok(Floor { points: points.unsigned_abs(), days: days.unsigned_abs() })
}

/// By machine, newest first. In use: read by a restore that waits or runs; by a verification of the whole repository;
/// or the newest point or the last full of a machine that is being backed up, which that backup may build on.
async fn points(connection: &mut PgConnection, repository_id: RepositoryId, machines: &[i64]) -> Result<Vec<PointRow>> {
    Ok(sqlx::query_as(
        "select p.point_id, p.vm_id, p.machine_name, p.task_id, p.taken_at, p.kind, p.pinned_at is not null as pinned,
             p.verify_error is not null as damaged,
             p.point_id::text in (select j.payload->>'point_id' from job j
                 where j.kind = 'restore' and j.state in ('queued', 'running')
                     and j.payload->>'point_id' is not null) as restored,
             exists (select from job j
                 where j.kind = 'verify' and j.state = 'running' and j.repository_id = $1) as verified,
             p.vm_id in (select j.vm_id from job j
                 where j.kind = 'backup' and j.state = 'running' and j.vm_id is not null) as backed_up
         from restore_point p
         where p.repository_id = $1 and p.vm_id = any($2) and p.expiring_since is null
         order by p.vm_id, p.taken_at desc, p.created_at desc, p.point_id",
    )
    .bind(repository_id)
    .bind(machines)
    .fetch_all(connection)
    .await?)
}

/// Rules of the tasks that made points there or will make some, in the order of the tasks.
async fn rules(
    connection: &mut PgConnection,
    repository_id: RepositoryId,
    machines: &[i64],
) -> Result<HashMap<VmId, Vec<TaskRule>>> {
    let rows: Vec<RuleRow> = sqlx::query_as(
        "select k.vm_id, t.task_id, t.name, t.retention, t.schedule,
             k.member and not t.paused and t.deleted_at is null as goes_on, t.deleted_at is not null as deleted
         from (select vm_id, task_id, bool_or(member) as member
               from (select vm_id, task_id, false as member from restore_point
                     where repository_id = $1 and vm_id = any($2) and task_id is not null and expiring_since is null
                     union all
                     select m.vm_id, m.task_id, true from backup_task_machine m join backup_task t using (task_id)
                     where m.vm_id = any($2) and t.repository_id = $1 and t.deleted_at is null) a
               group by vm_id, task_id) k join backup_task t using (task_id)
         where t.deleted_at is null or t.points_after = 'rule'
         order by k.vm_id, t.task_id",
    )
    .bind(repository_id)
    .bind(machines)
    .fetch_all(connection)
    .await?;
    let mut rules: HashMap<VmId, Vec<TaskRule>> = HashMap::new();
    for row in rows {
        let rule = row.retention.rule();
        rules.entry(row.vm_id).or_default().push(TaskRule {
            task_id: Some(row.task_id),
            name: row.name,
            // A deleted task still answers for what it made, and for nothing else.
            rule: if row.deleted { Rule { scope: Scope::Task, ..rule } } else { rule },
            // One that cannot be read makes no runs; the scheduler says so.
            schedule: if row.goes_on { serde_json::from_value(row.schedule).ok() } else { None },
        });
    }
    Ok(rules)
}
