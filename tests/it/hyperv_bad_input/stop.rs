//! Jobs that are cancelled, that lose their lease or whose server ends; and guests that do not go or do not come back.

use super::{Case, FOR_EVER, job_fails};
use domain::job::{JobKind, JobState};
use domain::mode::{IfStillOn, Mode};
use domain::point::Consistency;
use simulators::hyperv::{Action, On, Rule};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn cancel_takes_effect_in_mid_copy_and_removes_the_checkpoint() {
    let case = Case::new().await;
    let run = case.run_into_silence(case.task).await;
    case.rig.db.request_cancel_run(run, "tester").await.expect("asked");
    let jobs = tokio::time::timeout(Duration::from_secs(10), case.rig.finished(run)).await.expect("in seconds");
    assert_eq!(jobs[0].state, JobState::Cancelled);
    case.host.pause_files(false);
    case.clean(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_is_heard_while_the_host_does_not_answer() {
    let case = Case::new().await;
    let id = case.host.faults().add(Rule::always(On::method("Enumerate"), Action::Stall(FOR_EVER)));
    let run = case.rig.start_run(case.task).await;
    case.rig.wait("the fault", async || (case.host.faults().hits(id) > 0).then_some(())).await;
    case.rig.db.request_cancel_run(run, "tester").await.expect("asked");
    let jobs = tokio::time::timeout(Duration::from_secs(10), case.rig.finished(run)).await.expect("in seconds");
    assert_eq!(jobs[0].state, JobState::Cancelled);
    case.host.faults().clear();
    case.clean(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_lease_is_taken_stops_and_harms_nothing() {
    let case = Case::new().await;
    let run = case.run_into_silence(case.task).await;
    case.rig.take_lease(run).await;
    case.host.pause_files(false);
    let jobs = case.rig.finished(run).await;
    assert_eq!((jobs[0].state, jobs[0].attempt), (JobState::Succeeded, 2), "{}", case.rig.log(&jobs[0]).await);
    case.newest_is_right(&jobs[0]).await;
    case.clean(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_puts_the_job_back_and_the_next_start_finishes_it() {
    let mut case = Case::new().await;
    let run = case.run_into_silence(case.task).await;
    case.rig.stop().await;
    let job = case.rig.db.jobs_of_run(run).await.expect("jobs").remove(0);
    assert_eq!((job.state, job.attempt), (JobState::Queued, 0), "{:?}", case.rig.log(&job).await);
    case.host.assert_clean(&["web-01"]);
    case.host.pause_files(false);
    case.rig.start_workers().await;
    let jobs = case.rig.finished(run).await;
    assert_eq!(jobs[0].state, JobState::Succeeded);
    case.newest_is_right(&jobs[0]).await;
    case.clean(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_decides_about_a_guest_that_does_not_go() {
    let case = Case::new().await;
    let deaf = || Rule::always(On::method("InitiateShutdown"), Action::IgnoreShutdown);
    case.host.faults().add(deaf());
    let task = case.cold_task("fail", Mode::Cold, IfStillOn::Fail).await;
    let error = case.rig.run_one(task, JobState::Failed).await.error.expect("an error");
    assert_eq!(error.code, "vm.still_on", "{error}");
    assert!(error.what.contains("web-01") && error.why.contains("did not shut down within"), "{error}");
    assert!(case.is_on());
    case.clean(0).await;

    let task = case.cold_task("power off", Mode::Cold, IfStillOn::PowerOff).await;
    let job = case.rig.run_one(task, JobState::Warning).await;
    assert_eq!(case.newest().await.consistency, Consistency::Crash, "it was not shut down");
    case.newest_is_right(&job).await;
    assert!(case.is_on(), "it runs again");

    let task = case.cold_task("hot", Mode::ColdSnapshot, IfStillOn::Hot).await;
    let job = case.rig.run_one(task, JobState::Warning).await;
    assert_ne!(case.newest().await.consistency, Consistency::Offline);
    case.newest_is_right(&job).await;
    assert!(case.is_on());
    case.clean(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_does_not_start_is_tried_again_and_then_said_loudly() {
    let case = Case::new().await;
    let task = case.cold_task("cold", Mode::Cold, IfStillOn::Fail).await;
    case.host.faults().add(Rule::once(On::method("RequestStateChange"), job_fails()));
    let job = case.rig.run_one(task, JobState::Succeeded).await;
    assert!(case.rig.log(&job).await.contains("The machine did not start"));
    assert!(case.is_on());

    case.host.faults().add(Rule::always(On::method("RequestStateChange"), job_fails()));
    let job = case.rig.run_one(task, JobState::Failed).await;
    let error = job.error.clone().expect("an error");
    assert_eq!((error.code.as_str(), job.attempt), ("vm.not_switched_on", 1), "{error}");
    assert!(error.what.contains("web-01") && error.why.contains("no room for it"), "{error}");
    assert!(!case.is_on());
    assert_eq!(case.rig.points(case.vm).await.len(), 2, "the point is good all the same");
    case.host.faults().clear();
    // As every few minutes: the reconciler goes on trying.
    case.rig.db.enqueue_housekeeping(JobKind::Reconcile, case.device).await.expect("queued");
    case.clean(2).await;
    assert!(case.is_on());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_in_mid_copy_a_machine_that_was_shut_down_runs_again() {
    let case = Case::new().await;
    let task = case.cold_task("cold", Mode::Cold, IfStillOn::Fail).await;
    let run = case.run_into_silence(task).await;
    assert!(!case.is_on());
    case.rig.db.request_cancel_run(run, "tester").await.expect("asked");
    assert_eq!(case.rig.finished(run).await[0].state, JobState::Cancelled);
    assert!(case.is_on(), "before the job ends");
    case.host.pause_files(false);
    case.clean(0).await;
}
