//! Tasks that run after another task.
//!
//! Owns: that such tasks make no ring, and that they become due in the transaction that ends the other's run.
//! Must never: start a run; the scheduler does, once.

use crate::error::{Conflict, Error, Result};
use crate::ids::{RunId, TaskId};
use crate::scheduler::leave_out;
use domain::job::JobState;
use domain::schedule::{Schedule, outcome};
use sqlx::{Postgres, Transaction};

type Tx<'a> = Transaction<'a, Postgres>;

/// Two tasks are not made to follow each other at the same moment ("stillseq" in ASCII).
const CHAIN_LOCK: i64 = 0x7374_696c_6c73_6571;

#[derive(sqlx::FromRow)]
struct Follower {
    task_id: TaskId,
    name: String,
    #[sqlx(json)]
    schedule: Schedule,
}

/// Refuses a schedule that follows a task that is not there, or that follows this task in turn. `task` is the task that
/// is to have it, if that is in the database already.
pub(crate) async fn check_chain(transaction: &mut Tx<'_>, task: Option<TaskId>, schedule: &Schedule) -> Result<()> {
    let Some(followed) = schedule.follows().map(TaskId) else { return Ok(()) };
    sqlx::query("select pg_advisory_xact_lock($1)").bind(CHAIN_LOCK).execute(&mut **transaction).await?;
    // `union` forgets what it has seen, so that a ring ends the search as well.
    let before: Vec<TaskId> = sqlx::query_scalar(
        "with recursive before (task_id) as (
             select $1::bigint
             union
             select (t.schedule ->> 'task_id')::bigint from before b join backup_task t using (task_id)
             where t.schedule ->> 'kind' = 'after' and t.deleted_at is null)
         select task_id from before join backup_task using (task_id) where deleted_at is null",
    )
    .bind(followed)
    .fetch_all(&mut **transaction)
    .await?;
    if !before.contains(&followed) {
        return Err(Error::not_found("task", followed));
    }
    if task.is_some_and(|task| before.contains(&task)) {
        return Err(Error::Conflict(Conflict::TaskRing));
    }
    Ok(())
}

/// Names of the tasks that run after this one.
pub(crate) async fn followers(transaction: &mut Tx<'_>, task: TaskId) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "select name from backup_task
         where schedule ->> 'kind' = 'after' and (schedule ->> 'task_id')::bigint = $1 and deleted_at is null
         order by lower(name)",
    )
    .bind(task)
    .fetch_all(&mut **transaction)
    .await?)
}

/// A run has ended: the tasks that follow its task are due now, or did not run because it did not end well. A run that an
/// operator cancelled is followed by nothing.
pub(crate) async fn run_ended(transaction: &mut Tx<'_>, run: RunId, state: JobState) -> Result<()> {
    let ended_well = matches!(state, JobState::Succeeded | JobState::Warning);
    let followers: Vec<Follower> = sqlx::query_as(
        "select t.task_id, t.name, t.schedule from backup_task t
             join run r on r.task_id = (t.schedule ->> 'task_id')::bigint
         where r.run_id = $1 and t.schedule ->> 'kind' = 'after' and t.deleted_at is null and not t.paused
             and ($2 or r.state = 'failed'
                  or exists (select from job j where j.run_id = r.run_id and j.window_ended))
         order by t.task_id for no key update of t",
    )
    .bind(run)
    .bind(ended_well)
    .fetch_all(&mut **transaction)
    .await?;
    for follower in followers {
        let Schedule::After(after) = &follower.schedule else { continue };
        if ended_well || after.also_after_failure {
            sqlx::query("update backup_task set next_due_at = coalesce(next_due_at, now()) where task_id = $1")
                .bind(follower.task_id)
                .execute(&mut **transaction)
                .await?;
            continue;
        }
        let title: String = sqlx::query_scalar("select title from run where run_id = $1")
            .bind(run)
            .fetch_one(&mut **transaction)
            .await?;
        let error = outcome::after_failure(&follower.name, &title, run);
        leave_out(transaction, follower.task_id, None, &error).await?;
    }
    Ok(())
}
