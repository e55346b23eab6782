//! `kill -9` of the real server while it works on a Hyper-V host: the twin of `kill.rs`. The next start cleans up and goes
//! on: no checkpoint, no reference point that nobody asks with, no half-made machine, no point that cannot be read.

use crate::rig::{Rig, SimulatedHyperV, TaskSpec, hyperv_machine, stored};
use db::{DeviceId, Job, RunId, TaskId, VmId};
use domain::job::JobState;
use domain::mode::Mode;
use domain::point::{Consistency, PointKind};
use engine::RestoreOrder;
use simulators::hyperv::{Action, GuestWrites, HostConfig, MachineSpec, On, Rule, RuleId};
use std::time::Duration;
use support::{Options, Server};
use tempfile::TempDir;

const FOR_EVER: Duration = Duration::from_secs(600);
/// Longer than a kill takes, so that the host finishes alone.
const SLOW: Duration = Duration::from_secs(3);

struct Case {
    _data: TempDir,
    options: Options,
    server: Option<Server>,
    rig: Rig,
    host: SimulatedHyperV,
    device: DeviceId,
    vm: VmId,
    task: TaskId,
}

impl Case {
    async fn new(mode: Mode) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let data_dir = data.path().join("data");
        let rig = Rig::beside(&data_dir).await;
        let options = Options { data_dir, database_url: Some(rig.db.url()), ..Options::default() };
        let server = Some(start(&options).await);
        // Its guest does not write: whatever was backed up equals what the disk holds at the end.
        let writes = Some(GuestWrites { bytes_per_second: 0, seed: 3 });
        let host = SimulatedHyperV::with(HostConfig {
            machines: vec![MachineSpec { writes, ..hyperv_machine("web-01", &[(32, 16)]) }],
            // Without it a checkpoint that a death left unnamed is told and not touched: `hyperv_bad_input` shows that.
            names_checkpoints: true,
            ..HostConfig::new("HV-1", rig.folder.path().join("HV-1"))
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

    /// Runs the task until its checkpoint stands and the host's files hang.
    async fn run_into_silence(&self) -> RunId {
        self.host.pause_files(true);
        let run = self.rig.start_run(self.task).await;
        self.rig.wait("the checkpoint", async || (!self.checkpoints().is_empty()).then_some(())).await;
        run
    }

    async fn held(&self, id: RuleId) {
        self.rig.wait("the fault", async || (self.host.faults().hits(id) > 0).then_some(())).await;
    }

    fn checkpoints(&self) -> Vec<String> {
        let machine = self.host.machine("web-01").expect("the machine");
        machine.snapshots.into_iter().map(|snapshot| snapshot.name).collect()
    }

    fn reference_points(&self) -> usize {
        self.host.machine("web-01").expect("the machine").reference_points.len()
    }

    fn runs(&self) -> bool {
        self.host.machine("web-01").expect("the machine").on
    }

    fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
        self.host.faults().clear();
        self.host.pause_files(false);
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

    /// Nothing is left on the host, and each point that is shown can be read and equals the disk it was made of.
    async fn is_whole(&self, machines: &[&str]) {
        self.rig.wait("a clean host", async || self.checkpoints().is_empty().then_some(())).await;
        self.rig.wait("a machine that runs", async || self.runs().then_some(())).await;
        self.rig.settled(self.device).await;
        self.host.assert_clean(machines);
        let repository = self.rig.repository().await;
        let list = repository.points().await.expect("points");
        assert!(list.damaged.is_empty(), "{:?}", list.damaged);
        let rows = async || {
            let points = self.rig.points(self.vm).await;
            (points.len() == list.points.len()).then_some(points)
        };
        let points = self.rig.wait("as many rows as points", rows).await;
        for point in &points {
            assert_eq!(stored(&repository, point).await, self.host.digests("web-01"));
        }
        assert!(
            self.reference_points() <= 2,
            "for the newest point and the last full, not {}",
            self.reference_points()
        );
    }
}

async fn start(options: &Options) -> Server {
    let options = options.clone();
    tokio::task::spawn_blocking(move || Server::start(&options)).await.expect("the server starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_checkpoint_is_being_made() {
    let mut case = Case::new(Mode::Hot).await;
    // The host goes on with its job after the server is gone: the checkpoint appears later.
    let run = case.run_into(Rule::once(On::method("CreateSnapshot"), Action::JobSlow(SLOW))).await;
    case.kill();
    case.recovers(run).await;
    case.is_whole(&["web-01"]).await;
    assert_eq!(case.rig.points(case.vm).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_mid_copy() {
    let mut case = Case::new(Mode::Hot).await;
    let run = case.run_into_silence().await;
    case.kill();
    assert_eq!(case.checkpoints().len(), 1, "it stands");
    assert!(case.rig.points(case.vm).await.is_empty());
    assert_eq!(case.rig.repository().await.points().await.expect("points").points.len(), 0);
    case.recovers(run).await;
    case.is_whole(&["web-01"]).await;
    assert_eq!((case.rig.points(case.vm).await.len(), case.reference_points()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_mid_copy_of_an_increment() {
    let mut case = Case::new(Mode::Hot).await;
    let run = case.rig.start_run(case.task).await;
    assert_eq!(case.rig.finished(run).await[0].state, JobState::Succeeded);
    let run = case.run_into_silence().await;
    case.kill();
    assert_eq!(case.rig.points(case.vm).await.len(), 1, "the first only");
    let job = case.recovers(run).await;
    case.is_whole(&["web-01"]).await;
    let newest = case.rig.points(case.vm).await.remove(0);
    assert_eq!(newest.kind, PointKind::Incremental, "{}", case.rig.log(&job).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_checkpoint_becomes_a_reference_point() {
    let mut case = Case::new(Mode::Hot).await;
    // The host goes on: a reference point appears that no restore point knows.
    let run = case.run_into(Rule::once(On::method("ConvertToReferencePoint"), Action::JobSlow(SLOW))).await;
    case.kill();
    assert!(case.rig.points(case.vm).await.is_empty(), "no point before its marks are known");
    case.recovers(run).await;
    case.is_whole(&["web-01"]).await;
    assert_eq!((case.rig.points(case.vm).await.len(), case.reference_points()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_restore() {
    let mut case = Case::new(Mode::Hot).await;
    let run = case.rig.start_run(case.task).await;
    assert_eq!(case.rig.finished(run).await[0].state, JobState::Succeeded);
    let point = case.rig.points(case.vm).await.remove(0);
    let order = RestoreOrder {
        point_id: point.point_id.0,
        device_id: case.device.0,
        name: "web-01-restored".to_owned(),
        datastore: "C:".to_owned(),
        network: None,
        connect_network: false,
        keep_identity: false,
    };
    let id = case.host.faults().add(Rule::once(On::method("AddResourceSettings"), Action::Stall(FOR_EVER)));
    let run = case.rig.engine.start_restore(&order, "tester").await.expect("a restore");
    case.held(id).await;
    case.kill();
    case.recovers(run).await;
    case.is_whole(&["web-01", "web-01-restored"]).await;
    assert_eq!(case.host.digests("web-01-restored"), case.host.digests("web-01"));
}

/// Kills the server in this state of a cold backup; the next life makes the point, and the machine runs.
async fn cold_is_mended(mut case: Case, run: RunId) {
    case.kill();
    let job = case.recovers(run).await;
    case.is_whole(&["web-01"]).await;
    let point = case.rig.points(case.vm).await.remove(0);
    let log = case.rig.log(&job).await;
    assert_eq!((point.job_id, point.consistency), (Some(job.job_id), Consistency::Offline), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_while_the_guest_shuts_down() {
    let case = Case::new(Mode::Cold).await;
    let run = case.run_into(Rule::once(On::method("InitiateShutdown"), Action::DropAfter)).await;
    cold_is_mended(case, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_in_mid_copy() {
    let case = Case::new(Mode::Cold).await;
    let run = case.run_into_silence().await;
    assert!(!case.runs());
    cold_is_mended(case, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_while_the_machine_is_switched_on() {
    let case = Case::new(Mode::Cold).await;
    let run = case.run_into(Rule::once(On::method("RequestStateChange"), Action::JobSlow(SLOW))).await;
    assert!(!case.runs());
    cold_is_mended(case, run).await;
}
