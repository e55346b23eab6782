//! Tasks and their schedule.

use super::fixture::{self, task_input};
use crate::testing::database;
use crate::{Conflict, Error, Method, Start, TaskInput, VmId};
use domain::machine::Quiesce;
use domain::mode::{IfStillOn, Mode, Shutdown};
use domain::retention::Retention;
use domain::schedule::Schedule;
use jiff::{Timestamp, ToSpan};

fn daily() -> Schedule {
    Schedule::daily("22:00:00".parse().unwrap(), "UTC")
}

#[tokio::test]
async fn a_task_keeps_what_was_decided() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 3).await;
    let repository_id = fixture::repository(&db).await;
    let mut input = task_input("nightly", repository_id, &machines[..2]);
    input.schedule = daily();
    let task_id = db.create_task(&input).await.unwrap();
    let twice = db.create_task(&task_input("Nightly", repository_id, &machines)).await;
    assert!(matches!(twice, Err(Error::Conflict(Conflict::TaskName))));
    let task = db.task(task_id).await.unwrap();
    assert_eq!((task.mode, task.shutdown()), (Mode::Hot, Shutdown::default()));
    assert_eq!(
        (task.schedule, task.retention, task.method),
        (daily(), Retention::KeepLast { count: 3 }, Method::Incremental)
    );
    assert!(task.next_due_at.unwrap() > db.now().await.unwrap());
    assert_eq!(db.next_due_at().await.unwrap(), task.next_due_at);

    input.method = Method::Differential;
    input.quiesce = Quiesce::Require;
    input.mode = Mode::ColdSnapshot;
    input.shutdown = Shutdown { limit_minutes: 45, if_still_on: IfStillOn::PowerOff };
    input.schedule = Schedule::Manual;
    input.machines = vec![machines[2]];
    db.update_task(task_id, &input).await.unwrap();
    let task = db.task(task_id).await.unwrap();
    assert_eq!((task.method, task.quiesce, task.next_due_at), (Method::Differential, Quiesce::Require, None));
    assert_eq!((task.mode, task.shutdown()), (Mode::ColdSnapshot, input.shutdown));
    let too_long = TaskInput { shutdown: Shutdown { limit_minutes: 121, ..input.shutdown }, ..input.clone() };
    assert!(matches!(db.update_task(task_id, &too_long).await, Err(Error::OutOfLimits { .. })));
    assert_eq!(db.task_machines(task_id).await.unwrap(), [machines[2]]);
    input.machines.push(VmId(i64::MAX));
    assert!(matches!(db.update_task(task_id, &input).await, Err(Error::NotFound { .. })));
    assert_eq!(db.task_machines(task_id).await.unwrap(), [machines[2]], "nothing was changed");
}

#[tokio::test]
async fn a_deleted_task_is_gone_and_its_name_is_free() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    let Start::Started { run_id, .. } = db.start_run(task_id, "anna", None).await.unwrap() else { panic!("it starts") };
    assert!(matches!(db.delete_task(task_id).await, Err(Error::InUse { .. })));
    db.request_cancel_run(run_id, "anna").await.unwrap();
    db.delete_task(task_id).await.unwrap();
    assert!(matches!(db.task(task_id).await, Err(Error::NotFound { .. })));
    assert!(matches!(db.start_run(task_id, "anna", None).await, Err(Error::NotFound { .. })));
    assert!(db.tasks().await.unwrap().is_empty());
    assert_eq!(db.run(run_id).await.unwrap().title, "nightly", "the history stays");
    fixture::task(&db, "nightly", &machines).await;
}

#[tokio::test]
async fn a_paused_task_is_not_due() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let repository_id = fixture::repository(&db).await;
    let mut input = task_input("nightly", repository_id, &machines);
    input.schedule = daily();
    let task_id = db.create_task(&input).await.unwrap();
    db.set_task_paused(task_id, true).await.unwrap();
    assert_eq!(db.next_due_at().await.unwrap(), None);
    db.update_task(task_id, &input).await.unwrap();
    assert_eq!(db.task(task_id).await.unwrap().next_due_at, None);
    db.set_task_paused(task_id, false).await.unwrap();
    assert!(db.task(task_id).await.unwrap().next_due_at.is_some());
}

#[tokio::test]
async fn what_was_missed_runs_once_and_two_schedulers_start_it_once() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 2).await;
    let repository_id = fixture::repository(&db).await;
    let mut due = Vec::new();
    for n in 0..8 {
        let mut input = task_input(&format!("task {n}"), repository_id, &machines);
        input.schedule = daily();
        let task_id = db.create_task(&input).await.unwrap();
        let three_days_ago = db.now().await.unwrap().checked_sub(72.hours()).unwrap();
        db.set_next_due(task_id, Some(three_days_ago)).await.unwrap();
        due.push(task_id);
    }
    let other = db.second().await;
    let (one, two) = tokio::join!(db.start_due_tasks(), other.start_due_tasks());
    let mut started: Vec<_> = one.unwrap().into_iter().chain(two.unwrap()).collect();
    started.sort_by_key(|task| task.task_id);
    assert_eq!(started.iter().map(|task| task.task_id).collect::<Vec<_>>(), due);
    let now = db.now().await.unwrap();
    for task in &started {
        assert!(matches!(task.start, Some(Start::Started { jobs: 2, .. })), "{task:?}");
        assert!(task.next_due_at.unwrap() > now);
        assert_eq!(db.runs_of_task(task.task_id, 10).await.unwrap().len(), 1);
    }
    assert!(db.start_due_tasks().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_task_whose_zone_is_unknown_does_not_stop_the_others() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let broken = fixture::task(&db, "a broken", &machines).await;
    let sound = fixture::task(&db, "b sound", &machines).await;
    db.execute(
        "update backup_task set schedule = '{\"kind\": \"daily\", \"at\": \"01:00:00\", \"time_zone\": \"Mars/Olympus\"}'
         where name = 'a broken'",
    )
    .await;
    for task_id in [broken, sound] {
        db.set_next_due(task_id, Some(Timestamp::UNIX_EPOCH)).await.unwrap();
    }
    let started = db.start_due_tasks().await.unwrap();
    assert_eq!(started.iter().map(|task| task.next_due_at).collect::<Vec<_>>(), [None, None]);
    assert_eq!(started.len(), 2);
    db.set_task_paused(broken, true).await.unwrap();
    assert!(matches!(db.set_task_paused(broken, false).await, Err(Error::Schedule(_))));
}
