//! Backup tasks: what is backed up where, how and when.

use crate::chain::{check_chain, followers};
use crate::choice::settle_members;
use crate::column::{MaybeTime, Time, Word};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::goals::set_task_goal;
use crate::ids::{RepositoryId, TaskId, VmId};
use domain::choice::{Choice, ExcludedDisk};
use domain::machine::Quiesce;
use domain::mode::{IfStillOn, Mode, Shutdown};
use domain::retention::Retention;
use domain::schedule::Schedule;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, Transaction};

/// A backup task.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Task {
    /// Id.
    pub task_id: TaskId,
    /// Name.
    pub name: String,
    /// Where to.
    pub repository_id: RepositoryId,
    /// When by itself.
    #[sqlx(json)]
    pub schedule: Schedule,
    /// What is kept.
    #[sqlx(json)]
    pub retention: Retention,
    /// What is read.
    #[sqlx(try_from = "Word")]
    pub method: Method,
    /// Unless it is [`Method::Full`]: every how many points a full is read again; 0 = only when it must be.
    #[sqlx(try_from = "i32")]
    pub full_every: u32,
    /// Whether guests freeze their file systems.
    #[sqlx(try_from = "Word")]
    pub quiesce: Quiesce,
    /// Whether machines run meanwhile.
    #[sqlx(try_from = "Word")]
    pub mode: Mode,
    /// A guest gets so long to shut down, minutes.
    #[sqlx(try_from = "i32")]
    pub shutdown_minutes: u32,
    /// What happens to one that does not.
    #[sqlx(try_from = "Word")]
    pub if_still_on: IfStillOn,
    /// Its machines come before those of tasks with a lower one: −1 low, 0 normal, 1 high.
    pub priority: i32,
    /// Machines that join by rule.
    #[sqlx(json)]
    pub choice: Choice,
    /// Disks that are left out.
    #[sqlx(json)]
    pub excluded_disks: Vec<ExcludedDisk>,
    /// Not started by its schedule.
    pub paused: bool,
    /// The newest good point of each machine is to be no older, minutes.
    pub goal_minutes: Option<i32>,
    /// Due next, if not paused.
    #[sqlx(try_from = "MaybeTime")]
    pub next_due_at: Option<Timestamp>,
    /// When it was made.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
}

/// What a task reads from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Everything, each time.
    Full,
    /// What changed since the point before.
    Incremental,
    /// What changed since the last full.
    Differential,
}

/// What becomes of a deleted task's points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointsAfter {
    /// They stay.
    Keep,
    /// They go as its last rule says.
    Rule,
}

impl PointsAfter {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Rule => "rule",
        }
    }
}

impl Task {
    /// How machines are shut down.
    pub const fn shutdown(&self) -> Shutdown {
        Shutdown { limit_minutes: self.shutdown_minutes, if_still_on: self.if_still_on }
    }
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 3] = [Self::Full, Self::Incremental, Self::Differential];

    /// The method of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == word)
    }

    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
        }
    }
}

/// What an operator decides about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInput {
    /// Name.
    pub name: String,
    /// Where to.
    pub repository_id: RepositoryId,
    /// When by itself.
    pub schedule: Schedule,
    /// What is kept.
    pub retention: Retention,
    /// What is read.
    pub method: Method,
    /// See [`Task::full_every`].
    pub full_every: u32,
    /// Whether guests freeze their file systems.
    pub quiesce: Quiesce,
    /// Whether machines run meanwhile.
    pub mode: Mode,
    /// How they are shut down, if they are.
    pub shutdown: Shutdown,
    /// The newest good point of each machine is to be no older, minutes; none: nobody is told.
    pub goal_minutes: Option<u32>,
    /// Which machines were picked, over all devices.
    pub machines: Vec<VmId>,
    /// See [`Task::priority`].
    pub priority: i32,
    /// Which join by rule.
    pub choice: Choice,
    /// Disks that are left out.
    pub excluded_disks: Vec<ExcludedDisk>,
}

impl Database {
    /// Makes a task. Its first due time follows from the schedule and Postgres's clock. A schedule that follows a task
    /// which is gone is [`Error::NotFound`], one that closes a ring [`Conflict::TaskRing`](crate::Conflict::TaskRing).
    pub async fn create_task(&self, input: &TaskInput) -> Result<TaskId> {
        let mut transaction = self.pool.begin().await?;
        check_chain(&mut transaction, None, &input.schedule).await?;
        let next_due_at = next_due(&mut transaction, &input.schedule).await?;
        let task_id: TaskId = sqlx::query_scalar(
            "insert into backup_task (name, repository_id, schedule, retention, method, full_every, quiesce, next_due_at,
                 mode, shutdown_minutes, if_still_on, choice, excluded_disks, priority)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) returning task_id",
        )
        .bind(&input.name)
        .bind(input.repository_id)
        .bind(Json(&input.schedule))
        .bind(Json(&input.retention))
        .bind(input.method.as_str())
        .bind(i32::try_from(input.full_every).unwrap_or(i32::MAX))
        .bind(input.quiesce.as_str())
        .bind(next_due_at.map(Time))
        .bind(input.mode.as_str())
        .bind(i32::try_from(input.shutdown.limit_minutes).unwrap_or(i32::MAX))
        .bind(input.shutdown.if_still_on.as_str())
        .bind(Json(&input.choice))
        .bind(Json(&input.excluded_disks))
        .bind(input.priority)
        .fetch_one(&mut *transaction)
        .await?;
        set_machines(&mut transaction, task_id, &input.machines).await?;
        settle_members(&mut transaction, None, Some(task_id)).await?;
        set_task_goal(&mut transaction, task_id, input.goal_minutes).await?;
        transaction.commit().await?;
        Ok(task_id)
    }

    /// Replaces a task's decisions; runs that are going on are not touched.
    pub async fn update_task(&self, task_id: TaskId, input: &TaskInput) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let paused = lock_task(&mut transaction, task_id).await?;
        check_chain(&mut transaction, Some(task_id), &input.schedule).await?;
        let next_due_at = if paused { None } else { next_due(&mut transaction, &input.schedule).await? };
        sqlx::query(
            "update backup_task set name = $2, repository_id = $3, schedule = $4, retention = $5, method = $6,
                 full_every = $7, quiesce = $8, next_due_at = $9, mode = $10, shutdown_minutes = $11, if_still_on = $12,
                 choice = $13, excluded_disks = $14, priority = $15
             where task_id = $1",
        )
        .bind(task_id)
        .bind(&input.name)
        .bind(input.repository_id)
        .bind(Json(&input.schedule))
        .bind(Json(&input.retention))
        .bind(input.method.as_str())
        .bind(i32::try_from(input.full_every).unwrap_or(i32::MAX))
        .bind(input.quiesce.as_str())
        .bind(next_due_at.map(Time))
        .bind(input.mode.as_str())
        .bind(i32::try_from(input.shutdown.limit_minutes).unwrap_or(i32::MAX))
        .bind(input.shutdown.if_still_on.as_str())
        .bind(Json(&input.choice))
        .bind(Json(&input.excluded_disks))
        .bind(input.priority)
        .execute(&mut *transaction)
        .await?;
        set_machines(&mut transaction, task_id, &input.machines).await?;
        settle_members(&mut transaction, None, Some(task_id)).await?;
        set_task_goal(&mut transaction, task_id, input.goal_minutes).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Pauses a task, or lets its schedule start it again from now on.
    pub async fn set_task_paused(&self, task_id: TaskId, paused: bool) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        lock_task(&mut transaction, task_id).await?;
        let next_due_at = if paused {
            None
        } else {
            let Json(schedule): Json<Schedule> =
                sqlx::query_scalar("select schedule from backup_task where task_id = $1")
                    .bind(task_id)
                    .fetch_one(&mut *transaction)
                    .await?;
            next_due(&mut transaction, &schedule).await?
        };
        sqlx::query(
            "update backup_task set paused = $2, next_due_at = $3, due_checked_until = now() where task_id = $1",
        )
        .bind(task_id)
        .bind(paused)
        .bind(next_due_at.map(Time))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes a task. Its history and its restore points stay; [`Error::InUse`] while a run of it is going on or
    /// another task runs after it.
    pub async fn delete_task(&self, task_id: TaskId) -> Result<()> {
        self.end_task(task_id, PointsAfter::Keep).await
    }

    /// The same, with what becomes of its points.
    pub async fn end_task(&self, task_id: TaskId, points: PointsAfter) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        lock_task(&mut transaction, task_id).await?;
        let name: String = sqlx::query_scalar("select name from backup_task where task_id = $1")
            .bind(task_id)
            .fetch_one(&mut *transaction)
            .await?;
        if let Some(run_id) = crate::runs::active_run(&mut transaction, task_id).await? {
            return Err(Error::InUse { what: format!("task “{name}”"), by: vec![format!("its run {run_id}")] });
        }
        let by = followers(&mut transaction, task_id).await?;
        if !by.is_empty() {
            let by = by.iter().map(|name| format!("the task “{name}”, which runs after it")).collect();
            return Err(Error::InUse { what: format!("task “{name}”"), by });
        }
        sqlx::query(
            "update backup_task set deleted_at = now(), next_due_at = null, points_after = $2 where task_id = $1",
        )
        .bind(task_id)
        .bind(points.as_str())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// A task that is not deleted.
    pub async fn task(&self, task_id: TaskId) -> Result<Task> {
        sqlx::query_as("select * from backup_task where task_id = $1 and deleted_at is null")
            .bind(task_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("task", task_id))
    }

    /// All tasks that are not deleted, by name.
    pub async fn tasks(&self) -> Result<Vec<Task>> {
        Ok(sqlx::query_as("select * from backup_task where deleted_at is null order by lower(name)")
            .fetch_all(&self.pool)
            .await?)
    }

    /// The machines that were picked one by one, by name.
    pub async fn picked_machines(&self, task_id: TaskId) -> Result<Vec<VmId>> {
        Ok(sqlx::query_scalar(
            "select vm_id from backup_task_machine join virtual_machine using (vm_id)
             where task_id = $1 and not by_rule order by lower(name), vm_id",
        )
        .bind(task_id)
        .fetch_all(&self.pool)
        .await?)
    }

    /// The task's machines, picked or by rule, by name.
    pub async fn task_machines(&self, task_id: TaskId) -> Result<Vec<VmId>> {
        Ok(sqlx::query_scalar(
            "select vm_id from backup_task_machine join virtual_machine using (vm_id)
             where task_id = $1 order by lower(name), vm_id",
        )
        .bind(task_id)
        .fetch_all(&self.pool)
        .await?)
    }
}

/// Locks the row and says whether the task is paused.
pub(crate) async fn lock_task(transaction: &mut Transaction<'_, Postgres>, task_id: TaskId) -> Result<bool> {
    sqlx::query_scalar("select paused from backup_task where task_id = $1 and deleted_at is null for update")
        .bind(task_id)
        .fetch_optional(&mut **transaction)
        .await?
        .ok_or_else(|| Error::not_found("task", task_id))
}

/// The schedule's first due time after Postgres's now.
pub(crate) async fn next_due(connection: &mut PgConnection, schedule: &Schedule) -> Result<Option<Timestamp>> {
    let Time(now) = sqlx::query_scalar("select now()").fetch_one(connection).await?;
    Ok(schedule.next_after(now)?)
}

async fn set_machines(transaction: &mut Transaction<'_, Postgres>, task_id: TaskId, machines: &[VmId]) -> Result<()> {
    sqlx::query("delete from backup_task_machine where task_id = $1 and not by_rule")
        .bind(task_id)
        .execute(&mut **transaction)
        .await?;
    let ids: Vec<i64> = machines.iter().map(|machine| machine.0).collect();
    let inserted = sqlx::query(
        "insert into backup_task_machine (task_id, vm_id) select $1, vm_id from virtual_machine where vm_id = any($2)
         on conflict (task_id, vm_id) do update set by_rule = false",
    )
    .bind(task_id)
    .bind(&ids)
    .execute(&mut **transaction)
    .await?;
    let wanted: std::collections::HashSet<i64> = ids.into_iter().collect();
    if inserted.rows_affected() as usize != wanted.len() {
        return Err(Error::not_found("machine", "of the selection"));
    }
    Ok(())
}
