//! The queue: leases, fences, limits, the reaper.

use super::fixture::{self, LIMITS, lease};
use crate::testing::{TestDatabase, database};
use crate::{DiskProgress, Error, Event, Job, LeaseLimits, NewJob, Outcome, Progress, RunId, Start, back_off};
use domain::job::{JobError, JobKind, JobState, LogLevel};
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;

async fn one_running_job(db: &TestDatabase) -> (RunId, Job) {
    let (_, machines) = fixture::device_with_machines(db, "one", 1).await;
    let task_id = fixture::task(db, "nightly", &machines).await;
    let Start::Started { run_id, .. } = db.start_run(task_id, "anna", None).await.unwrap() else { panic!() };
    (run_id, lease(db).await.unwrap())
}

fn lost<T: std::fmt::Debug>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::LostLease(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_take_each_job_once_and_keep_the_limits() {
    const WORKERS: usize = 16;
    const MACHINES: usize = 100;
    let db = database().await;
    let (one, machines_one) = fixture::device_with_machines(&db, "one", MACHINES).await;
    let (two, machines_two) = fixture::device_with_machines(&db, "two", MACHINES).await;
    db.execute("update device set max_jobs = case name when 'one' then 2 else 5 end").await;
    let machines: Vec<_> = machines_one.into_iter().chain(machines_two).collect();
    let task_id = fixture::task(&db, "nightly", &machines).await;
    db.start_run(task_id, "anna", None).await.unwrap();
    let limits = LeaseLimits { copies: 6 };

    let workers = (0..WORKERS).map(|n| {
        let database = db.database.clone();
        tokio::spawn(async move {
            let mut done = Vec::new();
            loop {
                let job = database.lease_job(&format!("worker-{n}"), &JobKind::ALL, limits).await.unwrap();
                let running = sqlx::query_as::<_, (i64, i64, i64, i64)>(
                    "select count(*) filter (where device_id = $1), count(*) filter (where device_id = $2),
                         count(*) filter (where state = 'running'), (select count(*) from job where state = 'queued')
                     from job where state = 'running'",
                )
                .bind(one)
                .bind(two)
                .fetch_one(&database.pool)
                .await
                .unwrap();
                assert!(running.0 <= 2 && running.1 <= 5 && running.2 <= 6, "{running:?}");
                match job {
                    Some(job) => {
                        database.finish(job.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
                        done.push(job.job_id);
                    }
                    None if running.3 == 0 => return done,
                    None => tokio::task::yield_now().await,
                }
            }
        })
    });
    let mut all = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        all.extend(worker.await.unwrap());
    }
    assert_eq!(all.len(), 2 * MACHINES);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2 * MACHINES);
    let run = db.newest_runs(1).await.unwrap().remove(0);
    assert_eq!(run.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_machine_is_backed_up_by_one_job_at_a_time() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    for name in ["first", "second"] {
        let task_id = fixture::task(&db, name, &machines).await;
        db.start_run(task_id, "anna", None).await.unwrap();
    }
    let first = lease(&db).await.unwrap();
    assert!(lease(&db).await.is_none());
    db.finish(first.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    assert!(lease(&db).await.is_some());
}

#[tokio::test]
async fn housekeeping_does_not_pile_up_and_takes_no_slot_of_copies() {
    let db = database().await;
    let device_id = fixture::device(&db, "one").await;
    let job_id = db.enqueue_housekeeping(JobKind::Inventory, device_id).await.unwrap();
    assert!(job_id.is_some());
    assert_eq!(db.enqueue_housekeeping(JobKind::Inventory, device_id).await.unwrap(), None);
    assert!(db.enqueue_housekeeping(JobKind::Reconcile, device_id).await.unwrap().is_some());
    let none = LeaseLimits { copies: 0 };
    assert!(db.lease_job("w", &[JobKind::Backup], none).await.unwrap().is_none());
    let job = db.lease_job("w", &[JobKind::Inventory], none).await.unwrap().unwrap();
    assert_eq!((Some(job.job_id), job.title.as_str()), (job_id, "one"));
    assert!(db.enqueue_housekeeping(JobKind::Inventory, device_id).await.unwrap().is_some(), "one more may wait");
}

#[tokio::test]
async fn housekeeping_gives_way_to_the_next_of_its_kind_that_waits() {
    let db = database().await;
    let device_id = fixture::device(&db, "one").await;
    let error = || JobError::retry("host.unreachable", "It failed.", "No answer.", "");
    for way in ["retry", "reap", "release"] {
        db.enqueue_housekeeping(JobKind::Reconcile, device_id).await.unwrap();
        let job = db.lease_job("w", &[JobKind::Reconcile], LIMITS).await.unwrap().unwrap();
        db.enqueue_housekeeping(JobKind::Reconcile, device_id).await.unwrap().expect("one may wait");
        let state = match way {
            "retry" => db.retry_later(job.lease(), Duration::ZERO, error()).await.unwrap(),
            "reap" => {
                db.expire_leases("w").await.unwrap();
                db.reap(|_| Duration::ZERO).await.unwrap()[0].state
            }
            _ => {
                db.release(job.lease()).await.unwrap();
                db.job(job.job_id).await.unwrap().state
            }
        };
        assert!(state.is_final(), "{way}: {state:?}");
        let next = db.lease_job("w", &[JobKind::Reconcile], LIMITS).await.unwrap().expect("the one that waited");
        db.finish(next.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    }
}

#[tokio::test]
async fn every_write_carries_the_fence() {
    let db = database().await;
    let (_, job) = one_running_job(&db).await;
    let stale = job.lease();
    db.release(stale).await.unwrap();
    let again = lease(&db).await.unwrap();
    assert_eq!((again.job_id, again.fence, again.attempt), (job.job_id, stale.fence + 1, 1));
    assert!(lost(&db.heartbeat(stale).await));
    assert!(lost(&db.set_phase(stale, "Copying").await));
    assert!(lost(&db.progress(stale, &Progress::default()).await));
    assert!(lost(&db.log(stale, LogLevel::Info, "m").await));
    assert!(lost(&db.finish(stale, Outcome::Succeeded(json!({}))).await));
    assert!(lost(&db.release(stale).await));
    assert!(lost(&db.retry_later(stale, Duration::ZERO, JobError::cancelled("w")).await));
    assert!(db.job_log(job.job_id, 0, 10).await.unwrap().is_empty());
    assert!(!db.heartbeat(again.lease()).await.unwrap().cancel_requested);
    db.finish(again.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    assert!(lost(&db.heartbeat(again.lease()).await), "it has ended");
}

#[tokio::test]
async fn progress_and_log_are_kept_and_told() {
    let db = database().await;
    let (run_id, job) = one_running_job(&db).await;
    let events = db.events().await.unwrap();
    let mut receiver = events.subscribe();
    let disk = DiskProgress {
        disk_key: 2000,
        label: "Hard disk 1".to_owned(),
        bytes_total: 9,
        bytes_done: 1,
        bytes_stored: 1,
    };
    let progress =
        Progress { bytes_total: 10, bytes_done: 2, bytes_stored: 1, bytes_per_second: 5, disks: vec![disk.clone()] };
    db.progress(job.lease(), &progress).await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), Event::RunChanged(run_id));
    let further = Progress { disks: vec![DiskProgress { bytes_done: 3, ..disk }], ..progress };
    db.progress(job.lease(), &further).await.unwrap();
    db.set_phase(job.lease(), "Copying").await.unwrap();
    for (level, message) in [(LogLevel::Info, "first"), (LogLevel::Warning, "second\0")] {
        db.log(job.lease(), level, message).await.unwrap();
    }
    let row = db.job(job.job_id).await.unwrap();
    assert_eq!((row.phase.as_str(), row.bytes_done, row.bytes_per_second, row.warnings), ("Copying", 2, 5, 1));
    assert_eq!(db.job_disks(job.job_id).await.unwrap()[0].bytes_done, 3);
    let lines = db.job_log(job.job_id, 0, 10).await.unwrap();
    assert_eq!(lines.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["first", "second\u{fffd}"]);
    assert_eq!(db.job_log(job.job_id, lines[0].log_id, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_log_has_an_end() {
    let db = database().await;
    let (_, job) = one_running_job(&db).await;
    db.execute("update job set log_lines = 9998").await;
    for n in 0..4 {
        db.log(job.lease(), LogLevel::Warning, &format!("line {n}")).await.unwrap();
    }
    let lines = db.job_log(job.job_id, 0, 10).await.unwrap();
    assert_eq!(lines.len(), 2);
    assert!(lines[1].message.contains("full"));
    assert_eq!(db.job(job.job_id).await.unwrap().warnings, 4);
}

#[tokio::test]
async fn an_error_to_retry_is_tried_again_until_the_attempts_are_used_up() {
    let db = database().await;
    let (run_id, job) = one_running_job(&db).await;
    let error = JobError::retry("esxi.unreachable", "w", "y", "h");
    assert_eq!(db.finish(job.lease(), Outcome::Error(error.clone())).await.unwrap(), JobState::Queued);
    assert!(lease(&db).await.is_none(), "it pauses");
    let waiting = db.job(job.job_id).await.unwrap();
    assert_eq!((waiting.error, waiting.attempt), (Some(error.clone()), 1));
    assert!(waiting.run_after > db.now().await.unwrap());
    db.execute("update job set run_after = now()").await;
    let second = lease(&db).await.unwrap();
    assert_eq!(db.retry_later(second.lease(), Duration::ZERO, error.clone()).await.unwrap(), JobState::Queued);
    let third = lease(&db).await.unwrap();
    assert_eq!(third.attempt, 3);
    assert_eq!(db.finish(third.lease(), Outcome::Error(error)).await.unwrap(), JobState::Failed);
    assert_eq!(db.run(run_id).await.unwrap().state, JobState::Failed);
}

#[tokio::test]
async fn the_reaper_returns_what_dead_workers_held() {
    let db = database().await;
    let (run_id, job) = one_running_job(&db).await;
    assert!(db.reap(back_off).await.unwrap().is_empty(), "it is alive");
    assert_eq!(db.expire_leases("other").await.unwrap(), 0);
    assert_eq!(db.expire_leases("work").await.unwrap(), 1);
    let reaped = db.reap(back_off).await.unwrap();
    assert_eq!((reaped[0].job_id, reaped[0].state), (job.job_id, JobState::Queued));
    assert!(lost(&db.heartbeat(job.lease()).await));
    assert!(lease(&db).await.is_none(), "it pauses");

    db.execute("update job set run_after = now(), attempt = 2").await;
    let last = lease(&db).await.unwrap();
    db.execute("update job set lease_expires_at = now()").await;
    assert_eq!(db.reap(back_off).await.unwrap()[0].state, JobState::Failed);
    assert_eq!(db.job(last.job_id).await.unwrap().error.unwrap().code, "job.worker_lost");
    assert_eq!(db.run(run_id).await.unwrap().state, JobState::Failed);

    db.retry_failed(run_id).await.unwrap();
    let job = lease(&db).await.unwrap();
    db.request_cancel_job(job.job_id, "anna").await.unwrap();
    db.execute("update job set lease_expires_at = now()").await;
    assert_eq!(db.reap(back_off).await.unwrap()[0].state, JobState::Cancelled);
}

#[tokio::test]
async fn a_heartbeat_keeps_the_lease() {
    let db = database().await;
    let (_, job) = one_running_job(&db).await;
    db.execute("update job set lease_expires_at = now() + interval '1 ms'").await;
    db.heartbeat(job.lease()).await.unwrap();
    let seconds: f64 = sqlx::query_scalar("select extract(epoch from lease_expires_at - now())::float8 from job")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert!(seconds > 50.0);
}

#[tokio::test]
async fn a_job_of_its_own_is_queued_and_told() {
    let db = database().await;
    let events = db.events().await.unwrap();
    let mut receiver = events.subscribe();
    let repository_id = fixture::repository(&db).await;
    let job = NewJob {
        repository_id: Some(repository_id),
        max_attempts: 1,
        ..NewJob::new(JobKind::Verify, "repository", format!("verify:{repository_id}"))
    };
    let job_id = db.enqueue(&job).await.unwrap().unwrap();
    assert_eq!(receiver.recv().await.unwrap(), Event::JobsWaiting);
    let leased = db.lease_job("w", &[JobKind::Verify], LIMITS).await.unwrap().unwrap();
    assert_eq!((leased.job_id, leased.repository_id, leased.run_id), (job_id, Some(repository_id), None));
}

#[tokio::test]
async fn old_housekeeping_is_forgotten_and_runs_are_not() {
    let db = database().await;
    let (_, backup) = one_running_job(&db).await;
    db.finish(backup.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    let device_id = backup.device_id.unwrap();
    let old = db.enqueue_housekeeping(JobKind::Inventory, device_id).await.unwrap().unwrap();
    let job = db.lease_job("w", &[JobKind::Inventory], LIMITS).await.unwrap().unwrap();
    db.finish(job.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    db.enqueue_housekeeping(JobKind::Inventory, device_id).await.unwrap().unwrap();
    assert!(db.job(old).await.is_ok(), "it is young");
    db.execute("update job set finished_at = now() - interval '8 days' where finished_at is not null").await;
    db.execute("update job set state = 'cancelled' where state = 'queued'").await;
    db.enqueue_housekeeping(JobKind::Inventory, device_id).await.unwrap().unwrap();
    assert!(matches!(db.job(old).await, Err(Error::NotFound { .. })));
    assert!(db.job(backup.job_id).await.is_ok());
}
