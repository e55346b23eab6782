//! Runs that did not happen. Found from the schedules and the runs themselves, not from what the scheduler keeps: it may
//! be what is broken, or the server was not there.

use super::{NewNotice, insert};
use crate::column::Time;
use crate::database::Database;
use crate::error::Result;
use crate::ids::TaskId;
use domain::job::JobError;
use domain::notice::{Item, NoticeKind};
use domain::schedule::Schedule;
use jiff::{SignedDuration, Timestamp};
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};

/// Due times of one task in one look; more are looked at in the next.
const DUE_TIMES_MAX: usize = 100;
/// Of them, so many are named.
const NAMED_MAX: usize = 3;

#[derive(sqlx::FromRow)]
struct Watched {
    task_id: TaskId,
    name: String,
    #[sqlx(json)]
    schedule: Schedule,
    #[sqlx(try_from = "Time")]
    since: Timestamp,
    #[sqlx(try_from = "Time")]
    now: Timestamp,
    machines: i64,
}

impl Database {
    /// Looks for due times that passed more than the grace ago and by which no run began in time; writes one notice for
    /// all tasks. Each due time is looked at once. Says how many tasks there are.
    pub async fn observe_missed_runs(&self) -> Result<usize> {
        let grace = SignedDuration::from_mins(i64::from(self.notice_limits().await?.missed_grace_minutes));
        let mut transaction = self.pool.begin().await?;
        let tasks: Vec<Watched> = sqlx::query_as(
            "select task_id, name, schedule, due_checked_until as since, now() as now,
                    (select count(*) from backup_task_machine m where m.task_id = t.task_id) as machines
             from backup_task t where not paused and deleted_at is null order by task_id",
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut missed = Vec::new();
        for task in &tasks {
            if let Some(item) = look_at(&mut transaction, task, grace).await? {
                missed.push((task.task_id, item));
            }
        }
        let count = missed.len();
        if let Some((task_id, first)) = missed.first() {
            let notice = NewNotice {
                title: if count == 1 {
                    format!("{} did not run at its time", first.name)
                } else {
                    format!("{count} tasks did not run at their time")
                },
                detail: "Their machines have no point of that time.".to_owned(),
                task_id: (count == 1).then_some(*task_id),
                items: missed.into_iter().map(|(_, item)| item).collect(),
                ..NewNotice::default()
            };
            insert(&mut transaction, NoticeKind::RunMissed, notice).await?;
        }
        transaction.commit().await?;
        Ok(count)
    }
}

/// What is to be told of the task's due times up to the grace, which are then accounted for.
async fn look_at(
    transaction: &mut Transaction<'_, Postgres>,
    task: &Watched,
    grace: SignedDuration,
) -> Result<Option<Item>> {
    let Ok(until) = task.now.checked_sub(grace) else { return Ok(None) };
    let mut due_times = Vec::new();
    let mut after = task.since;
    // A zone that has become unknown has no due times; the scheduler's log says so.
    while let Ok(Some(due)) = task.schedule.next_after(after)
        && may_start(&task.schedule, due) <= until
        && due_times.len() < DUE_TIMES_MAX
    {
        due_times.push(due);
        after = due;
    }
    let Some(last) = due_times.last() else { return Ok(None) };
    // Of two servers that look at the same time, one gets it.
    let ours = sqlx::query(
        "update backup_task set due_checked_until = $3 where task_id = $1 and due_checked_until = $2
             and not paused and deleted_at is null",
    )
    .bind(task.task_id)
    .bind(Time(task.since))
    .bind(Time(*last))
    .execute(&mut **transaction)
    .await?;
    if ours.rows_affected() == 0 {
        return Ok(None);
    }
    let mut told = Vec::new();
    for due in &due_times {
        told.extend(missed_at(transaction, task, *due, grace).await?);
    }
    let more = told.len().saturating_sub(NAMED_MAX);
    told.truncate(NAMED_MAX);
    if more > 0 {
        told.push(format!("And {more} more."));
    }
    Ok((!told.is_empty()).then(|| Item { name: task.name.clone(), text: told.join(" ") }))
}

/// When what is due then may start: hours in which the task may not run are no delay.
fn may_start(schedule: &Schedule, due: Timestamp) -> Timestamp {
    let open = schedule.hours().and_then(|(hours, time_zone)| hours.next_open(time_zone, due).ok().flatten());
    open.unwrap_or(due)
}

/// A sentence about a due time by which no run began in time.
async fn missed_at(
    transaction: &mut Transaction<'_, Postgres>,
    task: &Watched,
    due: Timestamp,
    grace: SignedDuration,
) -> Result<Option<String>> {
    let (began, skipped, was_busy): (Option<Time>, Option<Json<JobError>>, bool) = sqlx::query_as(
        "select (select min(created_at) from run where task_id = $1 and due_at = $2 and skipped is null),
                (select skipped from run where task_id = $1 and due_at = $2 and skipped is not null limit 1),
                exists (select from run where task_id = $1 and created_at < $2 and skipped is null
                        and (finished_at is null or finished_at > $2))",
    )
    .bind(task.task_id)
    .bind(Time(due))
    .fetch_one(&mut **transaction)
    .await?;
    let words = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M UTC").to_string();
    let at = words(due);
    if let (None, Some(Json(cause))) = (&began, skipped) {
        return Ok(Some(format!("Due {at}: {} {}", cause.what, cause.why)));
    }
    Ok(match began {
        Some(Time(began)) if began.duration_since(may_start(&task.schedule, due)) <= grace => None,
        Some(Time(began)) => Some(format!("Due {at}: it began only at {}.", words(began))),
        None if was_busy => Some(format!("Due {at}: the run before it was still going on.")),
        None if task.machines == 0 => Some(format!("Due {at}: the task has no machines.")),
        None => Some(format!("Due {at}: no run began. Look whether the server was running then.")),
    })
}
