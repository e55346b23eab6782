//! What goes wrong between server, host and repository. Each case ends in a clear error (or is mended), shows no incomplete
//! point, and leaves no snapshot and no half-made machine.

use crate::rig::{FaultyFolder, Host as _, PASSPHRASE, Rig, Simulated, TaskSpec, frozen, machine, same_bytes};
use db::{DeviceId, Job, RepositoryId, TaskId, VmId};
use domain::finding::Severity;
use domain::job::{Disposition, JobError, JobState};
use domain::point::PointKind;
use engine::{HostAccess, LocationOrder, Locations, RealLocations, RestoreOrder};
use simulators::esxi::{Action, Corruption, DiskMode, HostConfig, License, MachineSpec, On, Rule};
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Longer than any test: such a stall ends by what the test does.
const FOR_EVER: Duration = Duration::from_secs(600);

/// One machine `web-01` with a disk of 32 MiB, and a task for it.
struct Case {
    rig: Rig,
    host: Simulated,
    device: DeviceId,
    vm: VmId,
    location: RepositoryId,
    task: TaskId,
}

impl Case {
    async fn new() -> Self {
        Self::with(machine("web-01", &[(32, 16)]), Arc::new(RealLocations)).await
    }

    async fn with(spec: MachineSpec, locations: Arc<dyn Locations>) -> Self {
        let rig = Rig::with_locations(locations).await;
        let host = Simulated::start(rig.folder.path(), "esx-1", vec![spec]).await;
        let device = rig.device(&host).await;
        let vm = rig.vm(device, "web-01").await;
        let location = rig.location().await;
        let task = rig.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
        Self { rig, host, device, vm, location, task }
    }

    async fn run(&self, expected: JobState) -> Job {
        self.rig.run_one(self.task, expected).await
    }

    /// It failed with this code, said why, and left nothing: neither on the host nor as a point.
    async fn failed_cleanly(&self, code: &str, points: usize) -> JobError {
        let job = self.run(JobState::Failed).await;
        let error = job.error.clone().expect("an error");
        assert_eq!(error.code, code, "{error}");
        assert!(error.what.contains("web-01") && !error.why.is_empty(), "{error}");
        self.clean(points).await;
        error
    }

    async fn clean(&self, points: usize) {
        self.rig.settled(self.device).await;
        self.host.assert_clean(&["web-01"]);
        assert_eq!(self.rig.points(self.vm).await.len(), points);
        assert_eq!(self.rig.repository().await.points().await.expect("points").points.len(), points);
    }

    /// The newest point equals what the disks held at the job's snapshot.
    async fn newest_is_right(&self, job: &Job) {
        let point = self.rig.points(self.vm).await.into_iter().next().expect("a point");
        assert_eq!(point.job_id, Some(job.job_id));
        let repository = self.rig.repository().await;
        for (key, file) in frozen(&self.host, job.job_id) {
            same_bytes(&repository, point.point_id, key, &file).await;
        }
    }

    async fn order(&self, name: &str) -> RestoreOrder {
        let point = self.rig.points(self.vm).await.into_iter().next().expect("a point");
        RestoreOrder {
            point_id: point.point_id.0,
            device_id: self.device.0,
            name: name.to_owned(),
            datastore: "datastore1".to_owned(),
            network: None,
            connect_network: false,
            keep_identity: false,
        }
    }

    /// Starts a run and waits until the host holds this many requests back.
    async fn run_into(&self, rule: Rule) -> db::RunId {
        let id = self.host.faults().add(rule);
        let run = self.rig.start_run(self.task).await;
        self.rig.wait("the fault", async || (self.host.faults().hits(id) > 0).then_some(())).await;
        run
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_pass_are_mended_within_the_copy() {
    let case = Case::new().await;
    for action in [Action::Status(401), Action::Status(500), Action::TruncateBody(3 * MIB + 5), Action::Drop] {
        case.host.faults().add(Rule::once(On::path("-flat.vmdk"), action.clone()));
        case.host.guest_burst("web-01", MIB).expect("writes");
        let job = case.run(JobState::Succeeded).await;
        assert_eq!(job.attempt, 1, "{action:?} is mended without another attempt of the job");
        case.newest_is_right(&job).await;
        case.host.faults().clear();
    }
    case.clean(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_stay_end_in_a_clear_error() {
    let case = Case::new().await;
    let flat = || On::path("-flat.vmdk");
    let cases = [
        (Rule::always(flat(), Action::Drop), "host.interrupted"),
        (Rule::always(flat(), Action::WrongStatus), "esxi.range_ignored"),
        (Rule::always(flat(), Action::Status(500)), "esxi.http_error"),
        (
            Rule::always(
                On::method("CreateSnapshot_Task"),
                Action::TaskFails { name: "SnapshotFault".to_owned(), message: "no room".to_owned() },
            ),
            "esxi.snapshot_refused",
        ),
    ];
    for (rule, code) in cases {
        let action = rule.action.clone();
        case.host.faults().add(rule);
        let job = case.run(JobState::Failed).await;
        let error = job.error.clone().expect("an error");
        assert_eq!((error.code.as_str(), job.attempt), (code, 3), "{action:?}: {error}");
        assert!(error.what.contains("web-01") && !error.why.is_empty(), "{error}");
        case.clean(0).await;
        case.host.faults().clear();
    }
    case.run(JobState::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn areas_that_cannot_be_true_are_refused() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    case.host.guest_burst("web-01", MIB).expect("writes");
    for corruption in [Corruption::Overlap, Corruption::PastEnd] {
        case.host.faults().add(Rule::always(On::method("QueryChangedDiskAreas"), Action::CorruptAreas(corruption)));
        case.failed_cleanly("esxi.areas_invalid", 1).await;
        case.host.faults().clear();
    }
    let job = case.run(JobState::Succeeded).await;
    case.newest_is_right(&job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_tracking_and_a_grown_disk_lead_to_a_full_with_a_warning() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    for change in ["reset", "grow"] {
        match change {
            "reset" => case.host.reset_tracking("web-01").expect("reset"),
            _ => case.host.resize_disk("web-01", 2000, 40 * MIB).expect("resize"),
        }
        let job = case.run(JobState::Warning).await;
        let log = case.rig.log(&job).await;
        assert!(
            log.contains("warning Disk 1 (Hard disk 1): reading all of it instead of what changed, because"),
            "{log}"
        );
        assert_eq!(case.rig.points(case.vm).await[0].kind, PointKind::Full);
        case.newest_is_right(&job).await;
        let job = case.run(JobState::Succeeded).await;
        assert_eq!(case.rig.points(case.vm).await[0].kind, PointKind::Incremental, "{}", case.rig.log(&job).await);
    }
    case.clean(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_machine_is_found_and_a_deleted_one_is_said() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    case.host.rename("web-01", "web-renamed").expect("rename");
    let job = case.run(JobState::Succeeded).await;
    assert!(case.rig.log(&job).await.contains("called “web-renamed” now"));
    assert_eq!(case.rig.points(case.vm).await[0].machine_name, "web-renamed");
    case.host.destroy("web-renamed").expect("destroy");
    let job = case.run(JobState::Failed).await;
    assert_eq!(job.error.expect("an error").code, "vm.gone");
    assert_eq!(job.attempt, 1, "another try would not bring it back");
    assert_eq!(case.rig.points(case.vm).await.len(), 2, "its points stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_and_hosts_that_cannot_be_backed_up_are_refused_before_a_snapshot() {
    let rig = Rig::start().await;
    let mut independent = machine("independent", &[(8, 2)]);
    independent.disks[0].mode = DiskMode::IndependentPersistent;
    let mut rdm = machine("rdm", &[(8, 2)]);
    rdm.disks[0].mode = DiskMode::RawDevicePhysical;
    let mut snapshots = machine("snapshots", &[(8, 2)]);
    snapshots.snapshots = vec!["before the update".to_owned()];
    let host = Simulated::start(rig.folder.path(), "esx-1", vec![independent, rdm, snapshots]).await;
    let device = rig.device(&host).await;
    let location = rig.location().await;
    for (name, code) in [("independent", "vm.independent_disk"), ("rdm", "vm.rdm"), ("snapshots", "vm.snapshots_exist")]
    {
        let vm = rig.vm(device, name).await;
        let row = rig.db.machine(vm).await.expect("a machine");
        assert!(row.findings.iter().any(|finding| finding.severity == Severity::Blocker), "{name}: {:?}", row.findings);
        let task = rig.task(location, TaskSpec { name, machines: &[vm], ..TaskSpec::default() }).await;
        let job = rig.run_one(task, JobState::Failed).await;
        let error = job.error.expect("an error");
        assert_eq!(error.code, code, "{error}");
        assert!(!error.hint.is_empty());
    }
    assert!(host.snapshot_records().is_empty(), "no snapshot was made");

    let free = Simulated::with(HostConfig {
        license: License::Free,
        machines: vec![machine("web-01", &[(8, 2)])],
        ..HostConfig::new("free", rig.folder.path().join("free"))
    })
    .await;
    let preflight = rig.engine.preflight(&free.access()).await.expect("the host answers");
    assert!(preflight.findings.iter().any(|finding| finding.code == "free_licence"), "{:?}", preflight.findings);
    let device = rig.device(&free).await;
    let vm = rig.vm(device, "web-01").await;
    let task = rig.task(location, TaskSpec { name: "free", machines: &[vm], ..TaskSpec::default() }).await;
    let error = rig.run_one(task, JobState::Failed).await.error.expect("an error");
    assert_eq!((error.disposition, error.code.as_str()), (Disposition::Fail, "esxi.free_licence"), "{error}");
    rig.settled(device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_be_reached_or_is_another_is_said_in_words() {
    let rig = Rig::start().await;
    let host = Simulated::start(rig.folder.path(), "esx-1", vec![]).await;
    let good = host.access();
    let refused = async |access: HostAccess| rig.engine.preflight(&access).await.expect_err("refused");
    let wrong = refused(HostAccess { password: "wrong".into(), ..good.clone() }).await;
    assert_eq!(wrong.disposition, Disposition::Fail, "{wrong}");
    assert!(!format!("{wrong:?}").contains("wrong\""), "no password in an error: {wrong:?}");
    let other = refused(HostAccess { certificate_sha256: Some([7; 32]), ..good.clone() }).await;
    assert_eq!(other.code, "host.certificate_changed", "{other}");
    let unknown = refused(HostAccess { host: "esx.invalid".to_owned(), ..good.clone() }).await;
    let closed = refused(HostAccess { port: 1, ..good }).await;
    assert_eq!((unknown.disposition, closed.disposition), (Disposition::Retry, Disposition::Retry));
    assert!(unknown.why.contains("esx.invalid") && closed.why.contains("127.0.0.1"), "{unknown} {closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_goes_away_in_mid_copy_is_cleaned_up_when_it_is_back() {
    let case = Case::new().await;
    let run = case.run_into(Rule::always(On::path("-flat.vmdk"), Action::Stall(FOR_EVER))).await;
    let listen = case.host.address();
    let Case { rig, host, device, vm, .. } = case;
    host.stop().await;
    let jobs = rig.finished(run).await;
    let error = jobs[0].error.clone().expect("an error");
    assert_eq!((jobs[0].state, jobs[0].attempt), (JobState::Failed, 3), "{error}");
    assert!(!rig.db.open_changes(device).await.expect("changes").is_empty(), "the snapshot is still journalled");
    let state = rig.folder.path().join("hosts/esx-1");
    let host = Simulated::with(HostConfig { listen, ..HostConfig::new("esx-1", state) }).await;
    assert_eq!(host.machine("web-01").expect("the machine").snapshots.len(), 1, "left by the dead job");
    rig.db.enqueue_housekeeping(domain::job::JobKind::Reconcile, device).await.expect("queued");
    rig.settled(device).await;
    host.assert_clean(&["web-01"]);
    assert!(rig.points(vm).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_gone_or_full_fails_the_job_and_no_more() {
    let space = FaultyFolder::endless();
    let case = Case::with(machine("web-01", &[(32, 16)]), Arc::new(space.clone())).await;
    space.leave(MIB);
    let error = case.failed_cleanly("repository.no_space", 0).await;
    assert!(error.why.contains("no space left"), "{error}");
    space.leave(u64::MAX);
    case.run(JobState::Succeeded).await;

    let path = case.rig.repository_path();
    let away = path.with_extension("away");
    std::fs::rename(&path, &away).expect("rename");
    let snapshots = case.host.snapshot_records().len();
    let job = case.run(JobState::Failed).await;
    assert_eq!(job.error.expect("an error").code, "repository.not_found");
    // An unmounted share leaves an empty folder; nothing is written into it.
    std::fs::create_dir(&path).expect("an empty folder");
    let job = case.run(JobState::Failed).await;
    assert_eq!(job.error.expect("an error").code, "repository.not_found");
    assert_eq!(std::fs::read_dir(&path).expect("a folder").count(), 0);
    assert_eq!(case.host.snapshot_records().len(), snapshots, "no snapshot was made for nothing");
    std::fs::remove_dir(&path).expect("remove");
    std::fs::rename(&away, &path).expect("rename");
    case.run(JobState::Succeeded).await;
    case.clean(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_adopted_with_its_passphrase_only() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    let path = case.rig.repository_path();
    let other = Rig::start().await;
    let order = |passphrase: &str| LocationOrder::folder("found", &path, passphrase.into());
    let wrong = other.engine.create_location(order("wrong")).await.expect_err("refused");
    assert_eq!(wrong.code, "repository.wrong_passphrase");
    assert!(other.db.repositories().await.expect("rows").is_empty());
    let found = other.engine.create_location(order(PASSPHRASE)).await.expect("adopted");
    assert_eq!((found.repository_id, found.points), (case.location, 1));
    assert!(found.recovery_key.is_none());
    let points = other.db.points_of_repository(found.repository_id).await.expect("points");
    assert_eq!(points[0].machine_name, "web-01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_stops_the_restore_and_removes_the_half_made_machine() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    case.rig.flip_a_byte();
    let job = case.rig.restore(&case.order("web-01-restored").await, JobState::Failed).await;
    let error = job.error.expect("an error");
    assert_eq!(error.code, "repository.damaged", "{error}");
    case.rig.settled(case.device).await;
    case.host.assert_clean(&["web-01"]);

    let verify = case.rig.engine.verify(case.location).await.expect("queued").expect("queued");
    let job = case.rig.wait("the verification", async || {
        let job = case.rig.db.job(verify).await.expect("a job");
        job.state.is_final().then_some(job)
    });
    assert_eq!(job.await.error.expect("damage").code, "verify.damage");
    assert!(case.rig.points(case.vm).await[0].verify_error.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_cannot_work_makes_nothing() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    let good = case.order("copy").await;
    let cases = [
        (RestoreOrder { name: "web-01".to_owned(), ..good.clone() }, "restore.name_taken"),
        (RestoreOrder { datastore: "nowhere".to_owned(), ..good.clone() }, "restore.datastore_missing"),
        (RestoreOrder { network: Some("nowhere".to_owned()), ..good.clone() }, "restore.network_missing"),
    ];
    for (order, code) in cases {
        let job = case.rig.restore(&order, JobState::Failed).await;
        assert_eq!(job.error.expect("an error").code, code);
    }
    case.host.faults().add(Rule::once(On::method("ImportVApp"), Action::LeaseFails));
    case.host.faults().add(Rule::always(On::path("/nfc/"), Action::Drop));
    let job = case.rig.restore(&good, JobState::Failed).await;
    assert_eq!(job.attempt, 2);
    case.clean(1).await;
    case.host.faults().clear();
    case.rig.restore(&good, JobState::Succeeded).await;
    case.host.assert_clean(&["copy", "web-01"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_takes_effect_in_mid_copy_and_removes_the_snapshot() {
    let case = Case::new().await;
    let run = case.run_into(Rule::always(On::path("-flat.vmdk"), Action::Stall(FOR_EVER))).await;
    assert_eq!(case.host.machine("web-01").expect("the machine").snapshots.len(), 1);
    case.rig.db.request_cancel_run(run, "tester").await.expect("asked");
    let jobs = tokio::time::timeout(Duration::from_secs(10), case.rig.finished(run)).await.expect("in seconds");
    assert_eq!(jobs[0].state, JobState::Cancelled);
    case.host.faults().clear();
    case.clean(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_lease_is_taken_stops_and_harms_nothing() {
    let case = Case::new().await;
    let run = case.run_into(Rule::once(On::path("-flat.vmdk"), Action::Stall(FOR_EVER))).await;
    case.rig.take_lease(run).await;
    let jobs = case.rig.finished(run).await;
    assert_eq!((jobs[0].state, jobs[0].attempt), (JobState::Succeeded, 2), "{}", case.rig.log(&jobs[0]).await);
    case.newest_is_right(&jobs[0]).await;
    case.rig.wait("a clean host", async || case.host.is_clean().then_some(())).await;
    case.clean(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_is_heard_while_the_host_does_not_answer() {
    let case = Case::new().await;
    let run = case.run_into(Rule::always(On::method("RetrievePropertiesEx"), Action::Stall(FOR_EVER))).await;
    case.rig.db.request_cancel_run(run, "tester").await.expect("asked");
    let jobs = tokio::time::timeout(Duration::from_secs(10), case.rig.finished(run)).await.expect("in seconds");
    assert_eq!(jobs[0].state, JobState::Cancelled);
    case.host.faults().clear();
    case.clean(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_puts_the_job_back_and_the_next_start_finishes_it() {
    let mut case = Case::new().await;
    let run = case.run_into(Rule::once(On::path("-flat.vmdk"), Action::Stall(FOR_EVER))).await;
    case.rig.stop().await;
    let job = case.rig.db.jobs_of_run(run).await.expect("jobs").remove(0);
    assert_eq!((job.state, job.attempt), (JobState::Queued, 0), "{:?}", case.rig.log(&job).await);
    case.host.assert_clean(&["web-01"]);
    assert_eq!(case.host.open_handles().0, 0, "signed out");
    case.rig.start_workers().await;
    let jobs = case.rig.finished(run).await;
    assert_eq!(jobs[0].state, JobState::Succeeded);
    case.newest_is_right(&jobs[0]).await;
    case.clean(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_whose_row_is_lost_is_found_again_and_one_whose_manifest_is_gone_is_said() {
    let mut case = Case::new().await;
    case.run(JobState::Succeeded).await;
    let point = case.rig.points(case.vm).await.remove(0);
    case.rig.db.delete_point(point.point_id).await.expect("deleted");
    // A start looks at every repository.
    case.rig.stop().await;
    case.rig.start_workers().await;
    let found = case.rig.wait("the point", async || case.rig.points(case.vm).await.into_iter().next()).await;
    assert_eq!((found.point_id, found.task_id), (point.point_id, Some(case.task)));
    assert_eq!((found.marks, found.simulated), (point.marks, true));

    let repository = case.rig.repository().await;
    repository.delete_point(repository::PointId(point.point_id.0)).await.expect("deleted");
    case.rig.stop().await;
    case.rig.start_workers().await;
    case.rig.wait("the row to say so", async || case.rig.points(case.vm).await.remove(0).verify_error).await;
    // What an increment would build on is gone: a full, with the cause.
    let job = case.run(JobState::Warning).await;
    assert!(case.rig.log(&job).await.contains("cannot be read"));
    assert_eq!(case.rig.points(case.vm).await[0].kind, PointKind::Full);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_database_do_nothing_twice() {
    let rig = Rig::start().await;
    let names: Vec<String> = (1..=6).map(|number| format!("vm-{number}")).collect();
    let specs = names.iter().map(|name| machine(name, &[(8, 2)])).collect();
    let host = Simulated::start(rig.folder.path(), "esx-1", specs).await;
    let device = rig.device(&host).await;
    let mut machines = Vec::new();
    for name in &names {
        machines.push(rig.vm(device, name).await);
    }
    let location = rig.location().await;
    let task = rig.task(location, TaskSpec { machines: &machines, ..TaskSpec::default() }).await;
    let (second, workers) = rig.second("two").await;
    // Both schedulers find the same due time.
    rig.db.set_next_due(task, Some("2026-01-01T00:00:00Z".parse().expect("a time"))).await.expect("due");
    let run = rig.wait("the run", async || rig.db.runs_of_task(task, 9).await.expect("runs").into_iter().next()).await;
    let jobs = rig.finished(run.run_id).await;
    assert_eq!(jobs.len(), names.len());
    assert!(jobs.iter().all(|job| job.state == JobState::Succeeded && job.attempt == 1), "{jobs:?}");
    assert_eq!(rig.db.runs_of_task(task, 9).await.expect("runs").len(), 1, "one run for one due time");
    for vm in machines {
        assert_eq!(rig.points(vm).await.len(), 1);
    }
    host.assert_clean(&names.iter().map(String::as_str).collect::<Vec<_>>());
    workers.stop().await;
    drop(second);
}
