//! Cold backups and differentials: the machine is off while it is copied, or only for its snapshot, and runs again
//! whatever happens. What a `kill -9` leaves is in `kill.rs`.

use crate::rig::{Rig, SAMPLE_BYTES, Simulated, TaskSpec, frozen, machine, same_bytes};
use db::{DeviceId, Job, Method, Point, RepositoryId, TaskId, VmId};
use domain::job::{JobKind, JobState};
use domain::mode::{IfStillOn, Mode};
use domain::point::{Consistency, PointKind};
use simulators::esxi::{Action, GuestWrites, On, Power, Rule};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Longer than any test: such a stall ends by what the test does.
const FOR_EVER: Duration = Duration::from_secs(600);

/// A machine `web-01` that runs and writes, one `idle-01` that is off, and a repository.
struct Case {
    rig: Rig,
    host: Simulated,
    device: DeviceId,
    location: RepositoryId,
    web: VmId,
}

impl Case {
    async fn new() -> Self {
        let rig = Rig::start().await;
        let mut web = machine("web-01", &[(32, 16)]);
        web.writes = Some(GuestWrites { bytes_per_second: 256 << 10, seed: 5 });
        let mut idle = machine("idle-01", &[(8, 4)]);
        idle.power = Power::Off;
        let host = Simulated::start(rig.folder.path(), "esx-1", vec![web, idle]).await;
        let device = rig.device(&host).await;
        let web = rig.vm(device, "web-01").await;
        let location = rig.location().await;
        Self { rig, host, device, location, web }
    }

    async fn task(&self, name: &str, mode: Mode, if_still_on: IfStillOn) -> TaskId {
        let spec = TaskSpec { name, machines: &[self.web], mode, if_still_on, ..TaskSpec::default() };
        self.rig.task(self.location, spec).await
    }

    fn runs(&self) -> bool {
        self.host.machine("web-01").expect("the machine").power == Power::On
    }

    async fn newest(&self) -> Point {
        self.rig.points(self.web).await.into_iter().next().expect("a point")
    }

    /// Runs the task, and says whether the machine ran while its disk was being read.
    async fn run_and_look(&self, task: TaskId, expected: JobState) -> (Job, bool) {
        let id = self.host.faults().add(Rule::once(On::path("-flat.vmdk"), Action::Stall(Duration::from_secs(1))));
        let run = self.rig.start_run(task).await;
        self.rig.wait("the copy", async || (self.host.faults().hits(id) > 0).then_some(())).await;
        let ran = self.runs();
        let job = self.rig.finished(run).await.remove(0);
        assert_eq!(job.state, expected, "{:?}\n{}", job.error, self.rig.log(&job).await);
        self.host.faults().clear();
        (job, ran)
    }

    /// The newest point is the job's and equals what the disks held at its snapshot.
    async fn is_right(&self, job: &Job) {
        let point = self.newest().await;
        assert_eq!(point.job_id, Some(job.job_id));
        let repository = self.rig.repository().await;
        for (key, file) in frozen(&self.host, job.job_id) {
            same_bytes(&repository, point.point_id, key, &file).await;
        }
    }

    /// The machine runs, and nothing of ours is on the host or open in the journal.
    async fn is_as_before(&self) {
        self.rig.settled(self.device).await;
        assert!(self.runs(), "it was on");
        self.host.assert_clean(&["idle-01", "web-01"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_off_for_the_copy_or_only_for_the_snapshot_and_on_afterwards() {
    let case = Case::new().await;
    for (mode, ran_while_copied) in [(Mode::Cold, false), (Mode::ColdSnapshot, true)] {
        let task = case.task(mode.as_str(), mode, IfStillOn::Fail).await;
        for _ in 0..2 {
            let first = case.rig.points(case.web).await.is_empty();
            let (job, ran) = case.run_and_look(task, JobState::Succeeded).await;
            let log = case.rig.log(&job).await;
            assert_eq!(ran, ran_while_copied, "{mode:?}\n{log}");
            let point = case.newest().await;
            assert_eq!(point.kind, if first { PointKind::Full } else { PointKind::Incremental }, "{log}");
            assert_eq!((point.consistency, &point.warnings), (Consistency::Offline, &Vec::new()));
            for line in ["The guest is asked to shut down", "The machine is off after", "is switched on again"] {
                assert!(log.contains(line), "{line}: {log}");
            }
            case.is_right(&job).await;
            case.is_as_before().await;
            case.host.guest_burst("web-01", MIB).expect("writes");
        }
    }
    assert_eq!(case.rig.points(case.web).await.len(), 4);

    // What is off stays off.
    let idle = case.rig.vm(case.device, "idle-01").await;
    let spec = TaskSpec { name: "idle", machines: &[idle], mode: Mode::Cold, ..TaskSpec::default() };
    let task = case.rig.task(case.location, spec).await;
    let requests = case.host.requests().len();
    let job = case.rig.run_one(task, JobState::Succeeded).await;
    assert!(case.rig.log(&job).await.contains("is off already, and stays off"));
    assert_eq!(case.host.machine("idle-01").expect("the machine").power, Power::Off);
    let asked: Vec<_> = case.host.requests().split_off(requests);
    assert!(!asked.iter().any(|request| request.what.contains("Power") || request.what.contains("Shutdown")));
    assert_eq!(case.rig.points(idle).await[0].consistency, Consistency::Offline);
    case.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_decides_about_a_guest_that_does_not_go() {
    let case = Case::new().await;
    let deaf = || Rule::always(On::method("ShutdownGuest"), Action::TaskStalls);
    case.host.faults().add(deaf());
    let task = case.task("fail", Mode::Cold, IfStillOn::Fail).await;
    let error = case.rig.run_one(task, JobState::Failed).await.error.expect("an error");
    assert_eq!(error.code, "vm.still_on", "{error}");
    assert!(error.what.contains("web-01") && error.why.contains("did not shut down within"), "{error}");
    assert!(case.host.snapshot_records().is_empty() && case.rig.points(case.web).await.is_empty());
    case.is_as_before().await;

    let task = case.task("power off", Mode::Cold, IfStillOn::PowerOff).await;
    let (job, ran) = case.run_and_look(task, JobState::Warning).await;
    assert!(!ran, "{}", case.rig.log(&job).await);
    let point = case.newest().await;
    assert_eq!(point.consistency, Consistency::Crash, "it was not shut down");
    assert!(point.warnings[0].contains("was switched off"), "{:?}", point.warnings);
    case.is_right(&job).await;
    case.is_as_before().await;

    case.host.faults().add(deaf());
    let task = case.task("hot", Mode::ColdSnapshot, IfStillOn::Hot).await;
    let (job, ran) = case.run_and_look(task, JobState::Warning).await;
    assert!(ran);
    let point = case.newest().await;
    assert_ne!(point.consistency, Consistency::Offline);
    assert!(point.warnings[0].contains("was backed up running"), "{:?}", point.warnings);
    case.is_right(&job).await;
    case.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_does_not_start_is_tried_again_and_then_said_loudly() {
    let case = Case::new().await;
    let task = case.task("cold", Mode::Cold, IfStillOn::Fail).await;
    let refused =
        || Action::TaskFails { name: "InsufficientResourcesFault".to_owned(), message: "no memory".to_owned() };
    case.host.faults().add(Rule::once(On::method("PowerOnVM_Task"), refused()));
    let job = case.rig.run_one(task, JobState::Succeeded).await;
    assert!(case.rig.log(&job).await.contains("The machine did not start"));
    case.is_as_before().await;

    case.host.faults().add(Rule::always(On::method("PowerOnVM_Task"), refused()));
    let job = case.rig.run_one(task, JobState::Failed).await;
    let error = job.error.clone().expect("an error");
    assert_eq!((error.code.as_str(), job.attempt), ("vm.not_switched_on", 1), "{error}");
    assert!(error.what.contains("web-01") && error.why.contains("no memory"), "{error}");
    assert_eq!(case.rig.points(case.web).await.len(), 2, "the point is good all the same");
    assert!(!case.runs());
    let open = case.rig.db.open_changes(case.device).await.expect("changes");
    assert!(open.len() == 1 && open[0].last_error.is_some(), "{open:?}");
    case.host.faults().clear();
    // As every few minutes: the reconciler goes on trying.
    case.rig.db.enqueue_housekeeping(JobKind::Reconcile, case.device).await.expect("queued");
    case.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_in_mid_copy_the_machine_runs_again_and_a_late_guest_too() {
    let case = Case::new().await;
    let task = case.task("cold", Mode::Cold, IfStillOn::Fail).await;
    let id = case.host.faults().add(Rule::always(On::path("-flat.vmdk"), Action::Stall(FOR_EVER)));
    let run = case.rig.start_run(task).await;
    case.rig.wait("the copy", async || (case.host.faults().hits(id) > 0).then_some(())).await;
    assert!(!case.runs());
    case.rig.db.request_cancel_run(run, "tester").await.expect("asked");
    assert_eq!(case.rig.finished(run).await[0].state, JobState::Cancelled);
    assert!(case.runs(), "before the job ends");
    case.host.faults().clear();
    case.is_as_before().await;

    // Cancelled while the guest is asked: it may go down when nobody waits for it any more.
    let id = case.host.faults().add(Rule::always(On::method("ShutdownGuest"), Action::TaskStalls));
    let run = case.rig.start_run(task).await;
    case.rig.wait("the question", async || (case.host.faults().hits(id) > 0).then_some(())).await;
    case.rig.db.request_cancel_run(run, "tester").await.expect("asked");
    assert_eq!(case.rig.finished(run).await[0].state, JobState::Cancelled);
    case.host.faults().clear();
    case.host.power_off("web-01").expect("off");
    case.rig
        .wait("the machine to be on", async || {
            case.rig.db.enqueue_housekeeping(JobKind::Reconcile, case.device).await.expect("queued");
            case.runs().then_some(())
        })
        .await;
    case.is_as_before().await;
    assert!(case.rig.points(case.web).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_of_its_hours_a_run_is_stopped_and_nothing_is_left() {
    let case = Case::new().await;
    for (mode, name) in [(Mode::Cold, "cold"), (Mode::Hot, "hot")] {
        let task = case.task(name, mode, IfStillOn::Fail).await;
        let id = case.host.faults().add(Rule::always(On::path("-flat.vmdk"), Action::Stall(FOR_EVER)));
        let run = case.rig.start_run(task).await;
        case.rig.wait("the copy", async || (case.host.faults().hits(id) > 0).then_some(())).await;
        let hours_end = case.rig.db.now().await.expect("a time");
        case.rig.db.set_must_end(run, Some(hours_end)).await.expect("set");
        let job = case.rig.finished(run).await.remove(0);
        let error = job.error.clone().expect("an error");
        assert_eq!((job.state, error.code.as_str()), (JobState::Cancelled, "schedule.window_ended"), "{error}");
        assert!(error.what.contains("web-01") && case.rig.log(&job).await.contains("had ended"), "{error}");
        assert!(case.runs(), "before the job ends");
        case.host.faults().clear();
        case.is_as_before().await;
    }
    assert!(case.rig.points(case.web).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_takes_over_a_machine_that_is_off() {
    let case = Case::new().await;
    let task = case.task("cold", Mode::Cold, IfStillOn::Fail).await;
    let id = case.host.faults().add(Rule::once(On::path("-flat.vmdk"), Action::Stall(FOR_EVER)));
    let run = case.rig.start_run(task).await;
    case.rig.wait("the copy", async || (case.host.faults().hits(id) > 0).then_some(())).await;
    case.rig.take_lease(run).await;
    let job = case.rig.finished(run).await.remove(0);
    assert_eq!((job.state, job.attempt), (JobState::Succeeded, 2), "{}", case.rig.log(&job).await);
    case.is_right(&job).await;
    assert_eq!(case.newest().await.consistency, Consistency::Offline);
    case.is_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn differentials_read_what_changed_since_the_last_full() {
    let case = Case::new().await;
    case.host.pause_guest_writes(true);
    let spec = TaskSpec { machines: &[case.web], method: Method::Differential, keep: 3, ..TaskSpec::default() };
    let task = case.rig.task(case.location, spec).await;
    let mut read = Vec::new();
    for run in 0..5 {
        let before = case.host.requests().len();
        let job = case.rig.run_one(task, JobState::Succeeded).await;
        let log = case.rig.log(&job).await;
        let point = case.newest().await;
        // Of three points that are kept the oldest is the full, until the fourth makes retention remove it.
        let full = matches!(run, 0 | 4);
        assert_eq!(point.kind, if full { PointKind::Full } else { PointKind::Differential }, "run {run}\n{log}");
        assert_eq!(log.contains("since the last full, of"), !full, "{log}");
        assert_eq!(log.contains("Retention has removed the last full"), run == 4, "{log}");
        case.is_right(&job).await;
        read.push(case.host.folder_bytes(before));
        // Each in a place of its own, so that what a differential reads adds up.
        let bytes: Vec<u8> = (0..2 * MIB).map(|byte| (byte % 251) as u8 ^ run).collect();
        case.host.write("web-01", 2000, (1 + 3 * u64::from(run)) * MIB, &bytes).expect("written");
    }
    for (run, bytes) in read.iter().enumerate().take(4).skip(1) {
        let changed = run as u64 * 2 * MIB;
        assert!((changed..changed + 2 * MIB + SAMPLE_BYTES).contains(bytes), "run {run} read {bytes}");
    }
    case.is_as_before().await;
}
