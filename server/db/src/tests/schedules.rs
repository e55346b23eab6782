//! Due times that start, wait, are left out or follow another task; runs that their hours end. Time is made to pass by
//! setting the rows' own times.

use super::fixture::{self, lease, task_input};
use crate::testing::{TestDatabase, database};
use crate::{Conflict, Error, Outcome, Run, Start, TaskId, VmId};
use domain::job::{JobError, JobState};
use domain::schedule::{After, Days, Hours, HoursRule, MissedRuns, Rule, Schedule, Span, Timed, Weekday};
use jiff::civil::Time;
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde_json::json;
use std::collections::BTreeSet;

fn timed(missed: MissedRuns, hours: Hours) -> Schedule {
    let at = BTreeSet::from([Time::constant(22, 0, 0, 0)]);
    Schedule::Timed(Timed { rule: Rule::Days { days: Days::Day, at }, time_zone: "UTC".to_owned(), missed, hours })
}

fn after(task: TaskId, also_after_failure: bool) -> Schedule {
    Schedule::After(After { task_id: task.0, also_after_failure, time_zone: "UTC".to_owned(), hours: Hours::default() })
}

/// Two hours from this hour on, or the same hours as quiet ones.
async fn hours_now(db: &TestDatabase, rule: HoursRule, stop: bool) -> Hours {
    let hour = db.now().await.unwrap().to_zoned(jiff::tz::TimeZone::UTC).hour();
    let from = Time::constant(hour, 0, 0, 0);
    let spans = vec![Span { days: BTreeSet::from(Weekday::ALL), from, until: from.wrapping_add(2.hours()) }];
    Hours { rule, spans, stop }
}

async fn task(db: &TestDatabase, name: &str, machines: &[VmId], schedule: Schedule) -> TaskId {
    let mut input = task_input(name, fixture::repository(db).await, machines);
    input.schedule = schedule;
    db.create_task(&input).await.unwrap()
}

async fn due_ago(db: &TestDatabase, task: TaskId, ago: SignedDuration) -> Timestamp {
    let due = db.now().await.unwrap() - ago;
    db.set_next_due(task, Some(due)).await.unwrap();
    due
}

async fn newest(db: &TestDatabase, task: TaskId) -> Run {
    db.runs_of_task(task, 1).await.unwrap().remove(0)
}

fn code(run: &Run) -> &str {
    run.skipped.as_ref().map_or("", |error| error.code.as_str())
}

async fn end(db: &TestDatabase, outcome: Outcome) {
    let job = lease(db).await.unwrap();
    db.finish(job.lease(), outcome).await.unwrap();
}

fn failure() -> Outcome {
    Outcome::Error(JobError::fail("esxi.x", "w", "y", "h"))
}

#[tokio::test]
async fn schedules_of_the_first_version_are_read() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task = fixture::task(&db, "nightly", &machines).await;
    db.execute(
        "update backup_task set schedule = '{\"kind\":\"daily\",\"at\":\"22:00:00\",\"time_zone\":\"Europe/Vienna\"}'",
    )
    .await;
    let daily = Schedule::daily(Time::constant(22, 0, 0, 0), "Europe/Vienna");
    assert_eq!(db.task(task).await.unwrap().schedule, daily);
    assert_eq!(crate::views::task_line(&db, task).await.unwrap().unwrap().schedule, daily);
    db.execute("update backup_task set schedule = '{\"kind\":\"manual\"}'").await;
    assert_eq!(db.task(task).await.unwrap().schedule, Schedule::Manual);
}

#[tokio::test]
async fn what_is_left_out_leaves_a_run_that_says_why() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let skip = MissedRuns::Skip { grace_minutes: 0 };
    let task = task(&db, "nightly", &machines, timed(skip, Hours::default())).await;
    due_ago(&db, task, SignedDuration::from_hours(72)).await;
    let other = db.second().await;
    let (one, two) = tokio::join!(db.start_due_tasks(), other.start_due_tasks());
    let looked: Vec<_> = one.unwrap().into_iter().chain(two.unwrap()).collect();
    assert_eq!(looked.len(), 1, "{looked:?}");
    assert!(looked[0].start.is_none() && looked[0].next_due_at.unwrap() > db.now().await.unwrap());
    let run = newest(&db, task).await;
    assert_eq!((Some(run.run_id), run.state, code(&run)), (looked[0].skipped, JobState::Cancelled, "schedule.missed"));
    assert!(run.finished_at.is_some() && db.jobs_of_run(run.run_id).await.unwrap().is_empty());
    let why = run.skipped.unwrap().why;
    assert!(why.contains("It was due 3 times from") || why.contains("It was due 4 times from"), "{why}");
    assert_eq!(db.runs_of_task(task, 9).await.unwrap().len(), 1);
    assert_eq!(db.retry_failed(run.run_id).await.unwrap(), 0, "there is nothing to try again");
    let line = crate::views::task_line(&db, task).await.unwrap().unwrap();
    assert!(line.last_skipped && !line.is_active());
}

#[tokio::test]
async fn a_due_time_within_its_grace_runs() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let skip = MissedRuns::Skip { grace_minutes: 24 * 60 };
    let task = task(&db, "nightly", &machines, timed(skip, Hours::default())).await;
    due_ago(&db, task, SignedDuration::from_mins(5)).await;
    let looked = db.start_due_tasks().await.unwrap();
    assert!(matches!(looked[0].start, Some(Start::Started { jobs: 1, .. })), "{looked:?}");
}

#[tokio::test]
async fn a_run_that_meets_the_one_before_is_noted_once() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task = task(&db, "nightly", &machines, timed(MissedRuns::Once, Hours::default())).await;
    let Start::Started { run_id, .. } = db.start_run(task, "anna", None).await.unwrap() else { panic!("it starts") };
    for minutes in [3, 2, 1] {
        due_ago(&db, task, SignedDuration::from_mins(minutes)).await;
        let looked = db.start_due_tasks().await.unwrap();
        assert_eq!(looked[0].start, Some(Start::AlreadyRunning(run_id)));
    }
    let runs = db.runs_of_task(task, 9).await.unwrap();
    assert_eq!(runs.len(), 2, "one run, one note: {runs:?}");
    assert_eq!(code(&runs[0]), "schedule.still_running");
    let lines =
        crate::views::runs(&db, &crate::views::RunFilter { page: 1, ..Default::default() }).await.unwrap().lines;
    assert_eq!((lines[0].skipped.is_some(), lines[0].jobs), (true, 0));
    assert!(crate::views::run_head(&db, runs[0].run_id).await.unwrap().unwrap().skipped.is_some());
}

#[tokio::test]
async fn a_task_without_machines_says_so() {
    let db = database().await;
    let task = task(&db, "empty", &[], timed(MissedRuns::Once, Hours::default())).await;
    due_ago(&db, task, SignedDuration::from_mins(1)).await;
    assert_eq!(db.start_due_tasks().await.unwrap()[0].start, Some(Start::NoMachines));
    assert_eq!(code(&newest(&db, task).await), "schedule.no_machines");
}

#[tokio::test]
async fn a_run_waits_for_its_hours_and_is_told_when_they_end() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let quiet = hours_now(&db, HoursRule::Outside, false).await;
    let waiting = task(&db, "waiting", &machines, timed(MissedRuns::Once, quiet)).await;
    due_ago(&db, waiting, SignedDuration::from_mins(1)).await;
    let looked = db.start_due_tasks().await.unwrap();
    assert!(looked[0].start.is_none() && looked[0].skipped.is_none(), "{looked:?}");
    assert!(looked[0].next_due_at.unwrap() > db.now().await.unwrap());
    assert!(db.runs_of_task(waiting, 9).await.unwrap().is_empty());

    let window = hours_now(&db, HoursRule::Within, true).await;
    let bound = task(&db, "bound", &machines, timed(MissedRuns::Once, window)).await;
    due_ago(&db, bound, SignedDuration::from_secs(1)).await;
    db.start_due_tasks().await.unwrap();
    let ends = newest(&db, bound).await.must_end_at.unwrap();
    let now = db.now().await.unwrap();
    assert!(ends > now && ends <= now + SignedDuration::from_hours(2), "{ends}");
}

#[tokio::test]
async fn a_run_past_its_hours_ends_with_words_of_its_own() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 3).await;
    db.execute("update device set max_jobs = 2").await;
    let task = task(&db, "nightly", &machines, timed(MissedRuns::Once, Hours::default())).await;
    let follows = self::task(&db, "next", &machines, after(task, true)).await;
    let Start::Started { run_id, .. } = db.start_run(task, "schedule", None).await.unwrap() else {
        panic!("it starts")
    };
    let (one, two) = (lease(&db).await.unwrap(), lease(&db).await.unwrap());
    let now = db.now().await.unwrap();
    db.set_must_end(run_id, Some(now + SignedDuration::from_hours(1))).await.unwrap();
    assert!(db.stop_runs_past_their_hours().await.unwrap().is_empty());
    db.set_must_end(run_id, Some(now)).await.unwrap();
    assert_eq!(db.stop_runs_past_their_hours().await.unwrap(), [run_id]);
    assert!(db.stop_runs_past_their_hours().await.unwrap().is_empty(), "once");
    let beat = db.heartbeat(one.lease()).await.unwrap();
    assert!(beat.cancel_requested && beat.window_ended);
    // One worker ends it as it is told, the other dies meanwhile.
    db.finish(one.lease(), Outcome::Error(domain::schedule::outcome::window_ended("one-000"))).await.unwrap();
    db.expire_leases("worker").await.unwrap();
    assert_eq!(db.reap(|_| std::time::Duration::ZERO).await.unwrap()[0].job_id, two.job_id);
    let jobs = db.jobs_of_run(run_id).await.unwrap();
    assert!(jobs.iter().all(|job| job.state == JobState::Cancelled), "{jobs:?}");
    assert!(jobs.iter().all(|job| job.error.as_ref().unwrap().code == "schedule.window_ended"), "{jobs:?}");
    assert_eq!(db.run(run_id).await.unwrap().state, JobState::Cancelled);
    assert!(db.task(follows).await.unwrap().next_due_at.is_some(), "it is followed as a failure is");
    // A person's wish counts more than the hours.
    assert_eq!(db.retry_failed(run_id).await.unwrap(), 3);
    assert!(db.stop_runs_past_their_hours().await.unwrap().is_empty());
    assert!(!db.heartbeat(lease(&db).await.unwrap().lease()).await.unwrap().window_ended);
}

#[tokio::test]
async fn a_task_runs_after_another_once() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let first = fixture::task(&db, "first", &machines).await;
    let well = task(&db, "well", &machines, after(first, false)).await;
    let always = task(&db, "always", &machines, after(first, true)).await;
    let third = task(&db, "third", &machines, after(well, false)).await;
    assert!(db.start_due_tasks().await.unwrap().is_empty(), "nothing ran yet");
    db.start_run(first, "anna", None).await.unwrap();
    assert!(db.start_due_tasks().await.unwrap().is_empty(), "it is going on");
    end(&db, Outcome::Warning(json!({}))).await;
    let other = db.second().await;
    let (one, two) = tokio::join!(db.start_due_tasks(), other.start_due_tasks());
    let mut started: Vec<_> = one.unwrap().into_iter().chain(two.unwrap()).map(|task| task.task_id).collect();
    started.sort_unstable();
    assert_eq!(started, [well, always]);
    assert!(db.start_due_tasks().await.unwrap().is_empty(), "once");
    assert_eq!(newest(&db, well).await.started_by, "schedule");
    // Their own ends lead on.
    for _ in 0..2 {
        end(&db, Outcome::Succeeded(json!({}))).await;
    }
    assert_eq!(db.start_due_tasks().await.unwrap().iter().map(|task| task.task_id).collect::<Vec<_>>(), [third]);
    end(&db, Outcome::Succeeded(json!({}))).await;

    // A failure is followed by those that want it; the others say that they did not run.
    db.start_run(first, "anna", None).await.unwrap();
    end(&db, failure()).await;
    assert_eq!(db.start_due_tasks().await.unwrap().iter().map(|task| task.task_id).collect::<Vec<_>>(), [always]);
    let left_out = newest(&db, well).await;
    assert_eq!(code(&left_out), "schedule.after_failure");
    assert!(left_out.skipped.unwrap().why.contains("“first”"));
    assert_eq!(db.runs_of_task(third, 9).await.unwrap().len(), 1, "what did not run is followed by nothing");
    end(&db, Outcome::Succeeded(json!({}))).await;

    // What an operator cancels ends the chain.
    let Start::Started { run_id, .. } = db.start_run(first, "anna", None).await.unwrap() else { panic!("it starts") };
    db.request_cancel_run(run_id, "anna").await.unwrap();
    db.set_task_paused(always, true).await.unwrap();
    assert!(db.start_due_tasks().await.unwrap().is_empty());
}

#[tokio::test]
async fn tasks_do_not_follow_each_other_in_a_ring() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let repository = fixture::repository(&db).await;
    let with = |name: &str, schedule| {
        let mut input = task_input(name, repository, &machines);
        input.schedule = schedule;
        input
    };
    let first = db.create_task(&with("first", Schedule::Manual)).await.unwrap();
    let second = db.create_task(&with("second", after(first, false))).await.unwrap();
    let third = db.create_task(&with("third", after(second, false))).await.unwrap();
    for last in [first, second, third] {
        let ring = db.update_task(first, &with("first", after(last, false))).await;
        assert!(matches!(ring, Err(Error::Conflict(Conflict::TaskRing))), "{ring:?}");
    }
    assert_eq!(db.task(first).await.unwrap().schedule, Schedule::Manual);
    let gone = db.create_task(&with("fourth", after(TaskId(i64::MAX), false))).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    let kept = db.delete_task(second).await;
    assert!(matches!(&kept, Err(Error::InUse { by, .. }) if by[0].contains("“third”")), "{kept:?}");
    db.delete_task(third).await.unwrap();
    db.delete_task(second).await.unwrap();
    assert!(matches!(db.update_task(first, &with("first", after(second, false))).await, Err(Error::NotFound { .. })));

    // Two that come at the same moment make none either.
    let (a, b) = (
        db.create_task(&with("a", Schedule::Manual)).await.unwrap(),
        db.create_task(&with("b", Schedule::Manual)).await.unwrap(),
    );
    let (to_b, to_a) = (with("a", after(b, false)), with("b", after(a, false)));
    let other = db.second().await;
    let (one, two) = tokio::join!(db.update_task(a, &to_b), other.update_task(b, &to_a));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
}

#[tokio::test]
async fn the_calendar_knows_what_a_task_takes() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let nightly = task(&db, "nightly", &machines, timed(MissedRuns::Once, Hours::default())).await;
    let next = task(&db, "next", &machines, after(nightly, false)).await;
    fixture::task(&db, "by hand", &machines).await;
    for _ in 0..3 {
        db.start_run(nightly, "anna", None).await.unwrap();
        end(&db, Outcome::Succeeded(json!({}))).await;
        db.set_next_due(next, None).await.unwrap();
    }
    db.execute("update run set finished_at = created_at + make_interval(mins => (run_id * 10)::int)").await;
    let tasks = crate::views::calendar_tasks(&db).await.unwrap();
    let seen: Vec<_> = tasks.iter().map(|task| (task.task_id, task.expected_seconds)).collect();
    assert_eq!(seen, [(nightly, Some(1200)), (next, None)]);
    assert_eq!(tasks[1].schedule.follows(), Some(nightly.0));
}
