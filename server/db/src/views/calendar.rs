//! What the calendar of coming runs is made of.

use crate::column::MaybeTime;
use crate::ids::TaskId;
use crate::{Database, Result};
use domain::schedule::Schedule;
use jiff::Timestamp;

/// A task that runs by itself.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct CalendarTask {
    /// Its id.
    pub task_id: TaskId,
    /// Name.
    pub name: String,
    /// When.
    #[sqlx(json)]
    pub schedule: Schedule,
    /// Due next, or due already and about to start.
    #[sqlx(try_from = "MaybeTime")]
    pub next_due_at: Option<Timestamp>,
    /// What its last good runs took, seconds: the median; `None` before the first.
    pub expected_seconds: Option<i64>,
}

/// Runs from which it is told how long a task takes.
const RUNS_LOOKED_AT: i64 = 10;
/// Tasks in the calendar; the earliest due first.
const TASKS_MAX: i64 = 2_000;

/// Tasks that run by themselves and are not paused.
pub async fn calendar_tasks(db: &Database) -> Result<Vec<CalendarTask>> {
    let tasks = sqlx::query_as(
        "select t.task_id, t.name, t.schedule, t.next_due_at,
                (select percentile_cont(0.5) within group (order by extract(epoch from l.finished_at - l.created_at))
                 from (select finished_at, created_at from run r
                       where r.task_id = t.task_id and r.state in ('succeeded', 'warning')
                       order by created_at desc limit $1) l)::bigint as expected_seconds
         from backup_task t
         where t.deleted_at is null and not t.paused and t.schedule ->> 'kind' <> 'manual'
         order by t.next_due_at nulls last, lower(t.name), t.task_id limit $2",
    )
    .bind(RUNS_LOOKED_AT)
    .bind(TASKS_MAX)
    .fetch_all(&db.pool)
    .await?;
    Ok(tasks)
}
