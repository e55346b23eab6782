//! Goals: how old the newest good point of a machine may be, who misses it, and why.
//!
//! A machine's own goal comes before those of its tasks, of which the strictest counts. Points that did not read back are
//! no good points.

use crate::column::MaybeTime;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{DeviceId, RunId, TaskId, VmId};
use jiff::Timestamp;
use sqlx::{Postgres, Transaction};

/// A machine with a goal.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Goal {
    /// The machine.
    pub vm_id: VmId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub device_id: DeviceId,
    /// No older than this, minutes.
    pub goal_minutes: i32,
    /// The newest point that is not known to be damaged.
    #[sqlx(try_from = "MaybeTime")]
    pub newest_good_at: Option<Timestamp>,
    /// It is older, or there is none for so long.
    pub missed: bool,
    /// Why, in a sentence, if it is missed.
    pub reason: String,
    /// The run of its newest backup that ended.
    pub last_run: Option<RunId>,
    /// That one failed.
    pub last_failed: bool,
}

/// `with goal as (…)` and the rest of the query: one row a machine with a goal, by index look-ups.
macro_rules! goals {
    ($tail:literal) => {
        concat!(
            "with goal as (
    select v.vm_id, v.name, v.device_id, g.goal_minutes, o.taken_at as newest_good_at, l.run_id as last_run,
           coalesce(l.state = 'failed', false) as last_failed,
           coalesce(o.taken_at, greatest(v.first_seen_at, t.since)) < now() - make_interval(mins => g.goal_minutes) as missed,
           case when t.tasks = 0 then 'It is in no task.'
                when v.missing_since is not null then 'It is no longer on its host.'
                when t.active_tasks = 0 then 'Its task is paused.'
                when l.state = 'failed' then 'The last run failed: ' || coalesce(l.error ->> 'why', 'its log says why.')
                when exists (select from job j where j.vm_id = v.vm_id and j.kind = 'backup'
                             and j.state in ('queued', 'running')) then 'A backup of it waits or runs now.'
                when o.taken_at is null then 'No run of its task has come to it yet.'
                else 'No run has made a newer point.' end as reason
    from virtual_machine v
    cross join lateral (select count(*) as tasks, count(*) filter (where not t.paused) as active_tasks,
                               max(t.created_at) as since, min(t.goal_minutes) as goal_minutes
                        from backup_task_machine m join backup_task t using (task_id)
                        where m.vm_id = v.vm_id and t.deleted_at is null) t
    cross join lateral (select coalesce(v.goal_minutes, t.goal_minutes) as goal_minutes) g
    left join lateral (select taken_at from restore_point o where o.vm_id = v.vm_id and o.expiring_since is null
                       and o.verify_error is null order by taken_at desc limit 1) o on true
    left join lateral (select state, run_id, error from job j where j.vm_id = v.vm_id and j.kind = 'backup'
                       and j.state in ('succeeded', 'warning', 'failed') order by created_at desc limit 1) l on true
    where g.goal_minutes > 0) ",
            $tail
        )
    };
}
pub(crate) use goals;

impl Database {
    /// Goals of these machines; those without one are left out.
    pub async fn goals_of(&self, machines: &[VmId]) -> Result<Vec<Goal>> {
        let ids: Vec<i64> = machines.iter().map(|machine| machine.0).collect();
        Ok(sqlx::query_as(goals!("select * from goal where vm_id = any($1) order by lower(name), vm_id"))
            .bind(ids)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Machines that miss their goal, the longest overdue first.
    pub async fn missed_goals(&self, limit: i64) -> Result<Vec<Goal>> {
        Ok(sqlx::query_as(goals!(
            "select * from goal where missed
             order by newest_good_at + make_interval(mins => goal_minutes) nulls first, lower(name), vm_id limit $1"
        ))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Machines with a goal, and those of them that miss it.
    pub async fn goal_counts(&self) -> Result<(i64, i64)> {
        Ok(sqlx::query_as(goals!("select count(*), count(*) filter (where missed) from goal"))
            .fetch_one(&self.pool)
            .await?)
    }

    /// A machine's own goal in minutes: 0 is none, `None` leaves it to its tasks.
    pub async fn machine_goal(&self, vm_id: VmId) -> Result<Option<i32>> {
        sqlx::query_scalar("select goal_minutes from virtual_machine where vm_id = $1")
            .bind(vm_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("machine", vm_id))
    }

    /// Sets it.
    pub async fn set_machine_goal(&self, vm_id: VmId, minutes: Option<u32>) -> Result<()> {
        let changed = sqlx::query("update virtual_machine set goal_minutes = $2 where vm_id = $1")
            .bind(vm_id)
            .bind(minutes.map(|minutes| i32::try_from(minutes).unwrap_or(i32::MAX)))
            .execute(&self.pool)
            .await?;
        if changed.rows_affected() == 0 { Err(Error::not_found("machine", vm_id)) } else { Ok(()) }
    }
}

/// Sets a task's goal. Its due times are watched from now on: those of what it was before are no concern any more.
pub(crate) async fn set_task_goal(
    transaction: &mut Transaction<'_, Postgres>,
    task_id: TaskId,
    minutes: Option<u32>,
) -> Result<()> {
    sqlx::query("update backup_task set goal_minutes = $2, due_checked_until = now() where task_id = $1")
        .bind(task_id)
        .bind(minutes.map(|minutes| i32::try_from(minutes).unwrap_or(i32::MAX)))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
