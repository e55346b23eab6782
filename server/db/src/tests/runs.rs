//! Runs and what their state follows from.

use super::fixture::{self, lease};
use crate::testing::{TestDatabase, database};
use crate::{Conflict, Error, Event, NewRestore, Outcome, RunId, Start, VmId};
use domain::job::{JobError, JobKind, JobState};
use jiff::Timestamp;
use serde_json::json;

async fn started(db: &TestDatabase, machines: &[VmId]) -> RunId {
    let task_id = fixture::task(db, "nightly", machines).await;
    match db.start_run(task_id, "anna", None).await.unwrap() {
        Start::Started { run_id, jobs } if jobs == machines.len() => run_id,
        other => panic!("{other:?}"),
    }
}

async fn state(db: &TestDatabase, run_id: RunId) -> JobState {
    db.run(run_id).await.unwrap().state
}

#[tokio::test]
async fn a_start_makes_one_job_a_machine_and_is_not_repeated() {
    let db = database().await;
    let (device_id, machines) = fixture::device_with_machines(&db, "one", 2).await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    let due = Some(Timestamp::from_second(1_000_000).unwrap());
    let Start::Started { run_id, jobs: 2 } = db.start_run(task_id, "schedule", due).await.unwrap() else { panic!() };
    assert_eq!(db.start_run(task_id, "schedule", due).await.unwrap(), Start::AlreadyStarted(run_id));
    assert_eq!(db.start_run(task_id, "anna", None).await.unwrap(), Start::AlreadyRunning(run_id));
    let jobs = db.jobs_of_run(run_id).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.vm_id.unwrap()).collect::<Vec<_>>(), machines);
    assert!(jobs.iter().all(|job| job.device_id == Some(device_id) && job.payload == json!({ "task_id": task_id })));
    let run = db.run(run_id).await.unwrap();
    assert_eq!((run.due_at, run.title.as_str(), run.state), (due, "nightly", JobState::Queued));
    assert_eq!(db.newest_runs(5).await.unwrap(), [run]);
}

#[tokio::test]
async fn a_task_without_machines_does_not_start() {
    let db = database().await;
    let task_id = fixture::task(&db, "empty", &[]).await;
    assert_eq!(db.start_run(task_id, "anna", None).await.unwrap(), Start::NoMachines);
}

#[tokio::test]
async fn the_runs_state_follows_its_jobs() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 3).await;
    db.execute("update device set max_jobs = 9").await;
    let run_id = started(&db, &machines).await;
    assert_eq!(state(&db, run_id).await, JobState::Queued);
    let one = lease(&db).await.unwrap();
    assert_eq!(state(&db, run_id).await, JobState::Running);
    db.finish(one.lease(), Outcome::Succeeded(json!({ "point": 1 }))).await.unwrap();
    assert_eq!(state(&db, run_id).await, JobState::Running, "two wait still");
    let two = lease(&db).await.unwrap();
    db.finish(two.lease(), Outcome::Warning(json!({}))).await.unwrap();
    let three = lease(&db).await.unwrap();
    assert!(db.run(run_id).await.unwrap().finished_at.is_none());
    db.finish(three.lease(), Outcome::Error(JobError::fail("esxi.x", "w", "y", "h"))).await.unwrap();
    let run = db.run(run_id).await.unwrap();
    assert_eq!(run.state, JobState::Failed);
    assert!(run.finished_at.is_some());

    assert_eq!(db.retry_failed(run_id).await.unwrap(), 1);
    assert!(matches!(db.retry_failed(run_id).await, Err(Error::Conflict(Conflict::RunActive(_)))));
    let again = lease(&db).await.unwrap();
    assert_eq!((again.job_id, again.attempt), (three.job_id, 1));
    assert!(again.fence > three.fence);
    db.finish(again.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    assert_eq!(state(&db, run_id).await, JobState::Warning);
}

#[tokio::test]
async fn cancelling_ends_queued_jobs_at_once_and_tells_running_ones() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 2).await;
    let events = db.events().await.unwrap();
    let run_id = started(&db, &machines).await;
    let job = lease(&db).await.unwrap();
    let mut receiver = events.subscribe();
    assert_eq!(db.request_cancel_run(run_id, "anna").await.unwrap(), 2);
    let mut told = false;
    while !told {
        told = receiver.recv().await.unwrap() == Event::CancelRequested(job.job_id);
    }
    assert!(db.heartbeat(job.lease()).await.unwrap().cancel_requested);
    let jobs = db.jobs_of_run(run_id).await.unwrap();
    assert_eq!(jobs[1].state, JobState::Cancelled);
    assert!(jobs[1].error.as_ref().unwrap().why.contains("anna"));
    assert_eq!(state(&db, run_id).await, JobState::Running);
    let to_retry = JobError::retry("esxi.x", "w", "y", "h");
    assert_eq!(db.finish(job.lease(), Outcome::Error(to_retry)).await.unwrap(), JobState::Cancelled);
    assert_eq!(state(&db, run_id).await, JobState::Cancelled);
    assert!(lease(&db).await.is_none());
    db.request_cancel_job(job.job_id, "anna").await.unwrap();
    assert_eq!(db.job(job.job_id).await.unwrap().state, JobState::Cancelled);
}

#[tokio::test]
async fn a_restore_is_a_run_of_one_job_before_all_backups() {
    let db = database().await;
    let (device_id, machines) = fixture::device_with_machines(&db, "one", 1).await;
    started(&db, &machines).await;
    let restore = NewRestore {
        title: "one-000 of yesterday".to_owned(),
        machine_name: "one-000".to_owned(),
        started_by: "anna".to_owned(),
        vm_id: Some(machines[0]),
        device_id,
        repository_id: fixture::repository(&db).await,
        payload: json!({ "point": "p" }),
    };
    let (run_id, job_id) = db.start_restore(&restore).await.unwrap();
    let job = lease(&db).await.unwrap();
    assert_eq!((job.job_id, job.kind, job.run_id), (job_id, JobKind::Restore, Some(run_id)));
    assert_eq!(job.payload, restore.payload);
}
