//! Starting what is due. Any number of servers may do it: the task's row lock and one run per due time keep it once.

use crate::column::Time;
use crate::database::Database;
use crate::error::Result;
use crate::ids::TaskId;
use crate::runs::{Start, start_run};
use domain::schedule::Schedule;
use jiff::Timestamp;

/// Tasks started in one go; the rest at the next tick.
const DUE_TASKS_MAX: i64 = 100;
/// Who started it.
const SCHEDULE: &str = "schedule";

/// A task that was due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTask {
    /// The task.
    pub task_id: TaskId,
    /// Its name.
    pub name: String,
    /// When it was due; after a downtime, the first time that was missed. What was missed runs once.
    pub due_at: Timestamp,
    /// What came of it.
    pub start: Start,
    /// When it is due next.
    pub next_due_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct Due {
    task_id: TaskId,
    name: String,
    #[sqlx(json)]
    schedule: Schedule,
    #[sqlx(try_from = "Time")]
    since: Timestamp,
    #[sqlx(try_from = "Time")]
    now: Timestamp,
}

impl Database {
    /// Starts every task whose due time has come and sets its next one.
    pub async fn start_due_tasks(&self) -> Result<Vec<DueTask>> {
        let mut started = Vec::new();
        for _ in 0..DUE_TASKS_MAX {
            match self.start_one_due_task().await? {
                Some(task) => started.push(task),
                None => break,
            }
        }
        Ok(started)
    }

    /// The earliest due time of all tasks.
    pub async fn next_due_at(&self) -> Result<Option<Timestamp>> {
        let next: Option<Time> =
            sqlx::query_scalar("select min(next_due_at) from backup_task where not paused and deleted_at is null")
                .fetch_one(&self.pool)
                .await?;
        Ok(next.map(|Time(next)| next))
    }

    /// Sets a task's due time, e.g. to make it due now.
    pub async fn set_next_due(&self, task_id: TaskId, next_due_at: Option<Timestamp>) -> Result<()> {
        sqlx::query("update backup_task set next_due_at = $2 where task_id = $1 and deleted_at is null")
            .bind(task_id)
            .bind(next_due_at.map(Time))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn start_one_due_task(&self) -> Result<Option<DueTask>> {
        let mut transaction = self.pool.begin().await?;
        let due: Option<Due> = sqlx::query_as(
            "select task_id, name, schedule, next_due_at as since, now() as now from backup_task
             where next_due_at <= now() and not paused and deleted_at is null
             order by next_due_at, task_id limit 1 for update skip locked",
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(due) = due else { return Ok(None) };
        let start = start_run(&mut transaction, due.task_id, SCHEDULE, Some(due.since), None).await?;
        // A time zone that has become unknown must not stop the other tasks: this one is due no more, and says so.
        let next_due_at = due.schedule.next_after(due.now).unwrap_or_else(|error| {
            tracing::error!(task = %due.name, %error, "the task's next due time cannot be told");
            None
        });
        sqlx::query("update backup_task set next_due_at = $2 where task_id = $1")
            .bind(due.task_id)
            .bind(next_due_at.map(Time))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(DueTask { task_id: due.task_id, name: due.name, due_at: due.since, start, next_due_at }))
    }
}
