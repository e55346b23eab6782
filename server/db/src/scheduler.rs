//! Starting what is due. Any number of servers may do it: the task's row lock and one run per due time keep it once.
//!
//! A due time that does not lead to a run leaves one that did not happen: `cancelled`, without jobs, and
//! [`Run::skipped`](crate::Run::skipped) says why.

use crate::column::Time;
use crate::database::Database;
use crate::error::Result;
use crate::events::{Event, notify};
use crate::ids::{JobId, RunId, TaskId};
use crate::runs::{Start, recompute, start_run};
use domain::job::JobError;
use domain::schedule::{Look, Missed, Schedule, outcome};
use jiff::Timestamp;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};

/// Tasks started in one go; the rest at the next tick.
const DUE_TASKS_MAX: i64 = 100;
/// Runs stopped in one go; the rest at the next tick.
const STOPPED_RUNS_MAX: i64 = 100;
/// Who started it.
pub(crate) const SCHEDULE: &str = "schedule";

type Tx<'a> = Transaction<'a, Postgres>;

/// A task that was due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTask {
    /// The task.
    pub task_id: TaskId,
    /// Its name.
    pub name: String,
    /// When it was due; after a downtime, the first time that was missed.
    pub due_at: Timestamp,
    /// What came of it; `None` when it waits for the hours in which it may start, or was left out.
    pub start: Option<Start>,
    /// The run that says why something did not run.
    pub skipped: Option<RunId>,
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

impl Due {
    /// A time zone that has become unknown must not stop the other tasks: this one runs, is due no more, and says so.
    fn look(&self) -> Look {
        self.schedule.look(self.since, self.now).unwrap_or_else(|error| {
            tracing::error!(task = %self.name, %error, "the task's next due time cannot be told");
            Look { start: Some(self.since), missed: None, next: None }
        })
    }

    /// When a run that starts now has to be over.
    fn ends_at(&self) -> Option<Timestamp> {
        let (hours, time_zone) = self.schedule.hours()?;
        hours.ends_after(time_zone, self.now).unwrap_or_else(|error| {
            tracing::error!(task = %self.name, %error, "the end of the task's hours cannot be told; its run is not stopped");
            None
        })
    }
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

    /// Sets when a run has to be over.
    pub async fn set_must_end(&self, run_id: RunId, must_end_at: Option<Timestamp>) -> Result<()> {
        sqlx::query("update run set must_end_at = $2 where run_id = $1")
            .bind(run_id)
            .bind(must_end_at.map(Time))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Ends the runs whose task's hours are over: jobs that wait end at once, running ones are told. Gives the runs in
    /// which there was something to end.
    pub async fn stop_runs_past_their_hours(&self) -> Result<Vec<RunId>> {
        let runs: Vec<RunId> = sqlx::query_scalar(
            "select run_id from run where must_end_at <= now() and state in ('queued', 'running')
             order by run_id limit $1",
        )
        .bind(STOPPED_RUNS_MAX)
        .fetch_all(&self.pool)
        .await?;
        let mut stopped = Vec::new();
        for run_id in runs {
            if self.stop_run_past_its_hours(run_id).await? {
                stopped.push(run_id);
            }
        }
        Ok(stopped)
    }

    async fn stop_run_past_its_hours(&self, run_id: RunId) -> Result<bool> {
        let mut transaction = self.pool.begin().await?;
        // Jobs first, in their order, as everywhere; the run's row is locked when its state is derived.
        let queued: Vec<(JobId, String)> = sqlx::query_as(
            "select job_id, title from job where run_id = $1 and state = 'queued' order by job_id for update",
        )
        .bind(run_id)
        .fetch_all(&mut *transaction)
        .await?;
        let told: Vec<JobId> = sqlx::query_scalar(
            "update job set cancel_requested = true, window_ended = true, updated_at = now()
             where run_id = $1 and state = 'running' and not cancel_requested returning job_id",
        )
        .bind(run_id)
        .fetch_all(&mut *transaction)
        .await?;
        for job_id in &told {
            notify(&mut transaction, Event::CancelRequested(*job_id)).await?;
        }
        for (job_id, title) in &queued {
            sqlx::query(
                "update job set state = 'cancelled', window_ended = true, error = $2, finished_at = now(),
                     updated_at = now() where job_id = $1",
            )
            .bind(job_id)
            .bind(Json(outcome::window_ended(title)))
            .execute(&mut *transaction)
            .await?;
        }
        if !queued.is_empty() {
            recompute(&mut transaction, run_id).await?;
        }
        transaction.commit().await?;
        Ok(!told.is_empty() || !queued.is_empty())
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
        let look = due.look();
        let mut skipped = match look.missed {
            Some(missed) => {
                let error = outcome::missed(&due.name, &missed_words(&due.schedule, missed));
                leave_out(&mut transaction, due.task_id, Some(missed.first), &error).await?
            }
            None => None,
        };
        let start = match look.start {
            Some(at) => Some(start_run(&mut transaction, due.task_id, SCHEDULE, Some(at), None).await?),
            None => None,
        };
        if let Some((start, at)) = start.zip(look.start) {
            skipped = after_start(&mut transaction, &due, start, at).await?.or(skipped);
        }
        sqlx::query("update backup_task set next_due_at = $2 where task_id = $1")
            .bind(due.task_id)
            .bind(look.next.map(Time))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(DueTask {
            task_id: due.task_id,
            name: due.name,
            due_at: due.since,
            start,
            skipped,
            next_due_at: look.next,
        }))
    }
}

/// Says until when the run may go on, or why there is none.
async fn after_start(transaction: &mut Tx<'_>, due: &Due, start: Start, at: Timestamp) -> Result<Option<RunId>> {
    let error = match start {
        Start::Started { run_id, .. } => {
            if let Some(end) = due.ends_at() {
                sqlx::query("update run set must_end_at = $2 where run_id = $1")
                    .bind(run_id)
                    .bind(Time(end))
                    .execute(&mut **transaction)
                    .await?;
            }
            return Ok(None);
        }
        Start::AlreadyStarted(_) => return Ok(None),
        Start::AlreadyRunning(run_id) => outcome::still_running(&due.name, run_id),
        Start::NoMachines => outcome::no_machines(&due.name),
    };
    leave_out(transaction, due.task_id, Some(at), &error).await
}

fn missed_words(schedule: &Schedule, missed: Missed) -> String {
    let zone =
        schedule.hours().and_then(|(_, zone)| jiff::tz::TimeZone::get(zone).ok()).unwrap_or(jiff::tz::TimeZone::UTC);
    let first = missed.first.to_zoned(zone).strftime("%-d %b %Y, %H:%M").to_string();
    match missed.count {
        1 => format!("It was due at {first}, when no server was running or none came to it in time"),
        count => {
            format!("It was due {count} times from {first} on, when no server was running or none came to it in time")
        }
    }
}

/// Notes a run that did not happen. While the cause is the same as the last time, one note is enough: a task that is due
/// every few minutes must not fill the list.
pub(crate) async fn leave_out(
    transaction: &mut Tx<'_>,
    task_id: TaskId,
    due_at: Option<Timestamp>,
    error: &JobError,
) -> Result<Option<RunId>> {
    let run_id: Option<RunId> = sqlx::query_scalar(
        "insert into run (kind, task_id, title, started_by, due_at, state, finished_at, skipped)
         select 'backup', task_id, name, $2, $3, 'cancelled', now(), $4 from backup_task t
         where task_id = $1 and $4 is distinct from (
             select skipped from run r where r.task_id = t.task_id and r.state not in ('queued', 'running')
             order by created_at desc, run_id desc limit 1)
         on conflict (task_id, due_at) where due_at is not null do nothing
         returning run_id",
    )
    .bind(task_id)
    .bind(SCHEDULE)
    .bind(due_at.map(Time))
    .bind(Json(error))
    .fetch_optional(&mut **transaction)
    .await?;
    if let Some(run_id) = run_id {
        notify(transaction, Event::RunChanged(run_id)).await?;
    }
    Ok(run_id)
}
