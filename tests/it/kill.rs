//! `kill -9` of the real server in the middle of everything it does to a host. The next start cleans up and goes on:
//! no snapshot, no half-made machine, no point that cannot be read.

use crate::rig::{Rig, Simulated, TaskSpec, machine, same_bytes};
use db::{DeviceId, Job, RunId, TaskId, VmId};
use domain::job::JobState;
use domain::mode::Mode;
use domain::point::Consistency;
use engine::RestoreOrder;
use simulators::esxi::{Action, HostConfig, Limits, On, Power, Rule};
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Options, Server};
use tempfile::TempDir;

const FOR_EVER: Duration = Duration::from_secs(600);
const MANIFEST_SECONDS_MAX: u64 = 60;

struct Case {
    _data: TempDir,
    options: Options,
    server: Option<Server>,
    rig: Rig,
    host: Simulated,
    device: DeviceId,
    vm: VmId,
    task: TaskId,
}

impl Case {
    async fn new() -> Self {
        Self::with(Mode::Hot).await
    }

    async fn with(mode: Mode) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let data_dir = data.path().join("data");
        let rig = Rig::beside(&data_dir).await;
        let options = Options { data_dir, database_url: Some(rig.db.url()), ..Options::default() };
        let server = Some(start(&options).await);
        let host = Simulated::with(HostConfig {
            machines: vec![machine("web-01", &[(32, 16)])],
            record_snapshots: true,
            limits: Limits { lease_timeout: Duration::from_secs(5), ..Limits::default() },
            ..HostConfig::new("esx-1", rig.folder.path().join("esx-1"))
        })
        .await;
        let device = rig.device(&host).await;
        let vm = rig.vm(device, "web-01").await;
        let location = rig.location().await;
        let task = rig.task(location, TaskSpec { machines: &[vm], mode, ..TaskSpec::default() }).await;
        Self { _data: data, options, server, rig, host, device, vm, task }
    }

    /// Runs the task into the fault.
    async fn run_into(&self, rule: Rule) -> RunId {
        let id = self.host.faults().add(rule);
        let run = self.rig.start_run(self.task).await;
        self.held(id).await;
        run
    }

    fn runs(&self) -> bool {
        self.host.machine("web-01").expect("the machine").power == Power::On
    }

    async fn held(&self, id: simulators::esxi::RuleId) {
        self.rig.wait("the fault", async || (self.host.faults().hits(id) > 0).then_some(())).await;
    }

    fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
        self.host.faults().clear();
    }

    /// Starts the server again and waits until the run has ended well.
    async fn recovers(&mut self, run: RunId) -> Job {
        self.server = Some(start(&self.options).await);
        let job = self.rig.finished(run).await.remove(0);
        let log = self.rig.log(&job).await;
        assert!(matches!(job.state, JobState::Succeeded | JobState::Warning), "{:?}\n{log}", job.error);
        assert!(job.attempt >= 2, "it is another attempt\n{log}");
        job
    }

    /// Nothing on the host, and each point that is shown can be read and equals the disk it was made of.
    async fn is_whole(&self, machines: &[&str]) {
        self.rig.wait("a clean host", async || self.host.is_clean().then_some(())).await;
        self.host.assert_clean(machines);
        self.rig.wait("a machine that runs", async || self.runs().then_some(())).await;
        let repository = self.rig.repository().await;
        let list = repository.points().await.expect("points");
        assert!(list.damaged.is_empty(), "{:?}", list.damaged);
        self.rig
            .wait("as many rows as points", async || {
                (self.rig.points(self.vm).await.len() == list.points.len()).then_some(())
            })
            .await;
        for point in self.rig.points(self.vm).await {
            let records = self.host.snapshot_records();
            // The machine is still between its snapshots here: every record holds the same bytes.
            let frozen = records.last().expect("a record");
            for disk in &frozen.disks {
                same_bytes(&repository, point.point_id, disk.key, &disk.file).await;
            }
        }
    }
}

async fn start(options: &Options) -> Server {
    let options = options.clone();
    tokio::task::spawn_blocking(move || Server::start(&options)).await.expect("the server starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_snapshot_is_being_made() {
    let mut case = Case::new().await;
    // The host goes on with its task after the server is gone: the snapshot appears later.
    let slow = Action::TaskSlow(Duration::from_secs(3));
    let run = case.run_into(Rule::once(On::method("CreateSnapshot_Task"), slow)).await;
    case.kill();
    case.recovers(run).await;
    case.is_whole(&["web-01"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_mid_copy() {
    let mut case = Case::new().await;
    let run = case.run_into(Rule::once(On::path("-flat.vmdk"), Action::Stall(FOR_EVER))).await;
    case.kill();
    assert_eq!(case.host.machine("web-01").expect("the machine").snapshots.len(), 1);
    assert!(case.rig.points(case.vm).await.is_empty());
    case.recovers(run).await;
    case.is_whole(&["web-01"]).await;
    case.rig.settled(case.device).await;
    assert_eq!(case.rig.points(case.vm).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_commit() {
    let mut case = Case::new().await;
    let run = case.rig.start_run(case.task).await;
    let points = case.rig.repository_path().join("points");
    // As soon as the manifest is there: before or after its row, either way the point has to be whole.
    tokio::task::spawn_blocking(move || wait_for_a_file(&points)).await.expect("a manifest");
    case.kill();
    // The job may have ended in that moment; then there is nothing to do again.
    case.server = Some(start(&case.options).await);
    let job = case.rig.finished(run).await.remove(0);
    assert!(matches!(job.state, JobState::Succeeded | JobState::Warning), "{:?}", job.error);
    case.is_whole(&["web-01"]).await;
    case.rig.settled(case.device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_snapshot_is_being_removed() {
    let mut case = Case::new().await;
    // Not the first: that one only makes change tracking take effect.
    let slow = Action::TaskSlow(Duration::from_secs(3));
    let run = case.run_into(Rule::once(On::method("RemoveSnapshot_Task"), slow).after(1)).await;
    case.kill();
    assert_eq!(case.rig.points(case.vm).await.len(), 1, "the point is committed before the snapshot goes");
    case.recovers(run).await;
    case.is_whole(&["web-01"]).await;
    case.rig.settled(case.device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_restore() {
    let mut case = Case::new().await;
    let run = case.rig.start_run(case.task).await;
    assert_eq!(case.rig.finished(run).await[0].state, JobState::Succeeded);
    let point = case.rig.points(case.vm).await.remove(0);
    let order = RestoreOrder {
        point_id: point.point_id.0,
        device_id: case.device.0,
        name: "web-01-restored".to_owned(),
        datastore: "datastore1".to_owned(),
        network: None,
        connect_network: false,
        keep_identity: false,
    };
    let id = case.host.faults().add(Rule::once(On::path("/nfc/"), Action::Stall(FOR_EVER)));
    let run = case.rig.engine.start_restore(&order, "tester").await.expect("a restore");
    case.held(id).await;
    case.kill();
    assert_eq!(case.host.machine_names().len(), 2, "half made");
    // The host holds a machine that is being imported until its lease ends; then the next attempt may remove it.
    case.rig.wait("the end of the lease", async || (case.host.open_handles().1 == 0).then_some(())).await;
    case.recovers(run).await;
    case.is_whole(&["web-01", "web-01-restored"]).await;
    case.rig.settled(case.device).await;
}

/// Kills the server at this step of a cold backup; the next life makes the point, and the machine runs.
async fn cold_killed_at(mode: Mode, step: Rule, runs_then: Option<bool>) {
    let mut case = Case::with(mode).await;
    let run = case.run_into(step).await;
    assert!(runs_then.is_none_or(|runs| runs == case.runs()), "at that step");
    case.kill();
    let job = case.recovers(run).await;
    let log = case.rig.log(&job).await;
    case.is_whole(&["web-01"]).await;
    case.rig.settled(case.device).await;
    let point = case.rig.points(case.vm).await.remove(0);
    assert_eq!((point.job_id, point.consistency), (Some(job.job_id), Consistency::Offline), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_while_the_guest_is_asked_to_shut_down() {
    cold_killed_at(Mode::Cold, Rule::once(On::method("ShutdownGuest"), Action::TaskStalls), Some(true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_while_the_guest_shuts_down() {
    // It is off a moment later, when nobody looks any more.
    cold_killed_at(Mode::Cold, Rule::once(On::method("ShutdownGuest"), Action::DropAfter), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_while_the_snapshot_is_being_made() {
    let slow = Action::TaskSlow(Duration::from_secs(3));
    cold_killed_at(Mode::Cold, Rule::once(On::method("CreateSnapshot_Task"), slow), Some(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_in_mid_copy() {
    cold_killed_at(Mode::Cold, Rule::once(On::path("-flat.vmdk"), Action::Stall(FOR_EVER)), Some(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_while_the_snapshot_is_being_removed() {
    let slow = Action::TaskSlow(Duration::from_secs(3));
    cold_killed_at(Mode::Cold, Rule::once(On::method("RemoveSnapshot_Task"), slow), Some(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_while_the_machine_is_switched_on() {
    let slow = Action::TaskSlow(Duration::from_secs(3));
    cold_killed_at(Mode::Cold, Rule::once(On::method("PowerOnVM_Task"), slow), Some(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_snapshot_while_the_machine_is_switched_on() {
    // The server is gone before the host has done anything.
    let stall = Action::Stall(FOR_EVER);
    cold_killed_at(Mode::ColdSnapshot, Rule::once(On::method("PowerOnVM_Task"), stall), Some(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_snapshot_in_mid_copy() {
    cold_killed_at(Mode::ColdSnapshot, Rule::once(On::path("-flat.vmdk"), Action::Stall(FOR_EVER)), Some(true)).await;
}

fn wait_for_a_file(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(MANIFEST_SECONDS_MAX);
    while std::fs::read_dir(folder).map_or(0, Iterator::count) == 0 {
        assert!(Instant::now() < deadline, "no manifest came");
        std::hint::spin_loop();
    }
}
