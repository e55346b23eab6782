//! What goes wrong between server, Hyper-V host and repository: the twins of `bad_input.rs`, `cold.rs` and `marks.rs`. Each
//! case ends in a clear error that names the machine (or is mended), shows no incomplete point, and leaves no checkpoint,
//! no reference point that nobody asks with, and no half-made machine.

mod host;
mod machines;
mod repository;
mod stop;

use crate::rig::{Rig, SimulatedHyperV, TaskSpec, hyperv_machine, stored};
use db::{DeviceId, Job, Point, RepositoryId, TaskId, VmId};
use domain::job::{JobError, JobState};
use domain::mode::{IfStillOn, Mode};
use engine::{Locations, RealLocations, RestoreOrder};
use simulators::hyperv::{Action, GuestWrites, MachineSpec};
use std::sync::Arc;
use std::time::Duration;

/// Of every simulated host.
const VOLUME: &str = "C:";
const MIB: u64 = 1 << 20;
/// Longer than any test: such a stall ends by what the test does.
const FOR_EVER: Duration = Duration::from_secs(600);

/// A running machine whose guest writes when it is told to.
fn web() -> MachineSpec {
    let writes = Some(GuestWrites { bytes_per_second: 0, seed: 3 });
    MachineSpec { writes, ..hyperv_machine("web-01", &[(32, 16)]) }
}

fn job_fails() -> Action {
    Action::JobFails { code: 32768, description: "no room for it".to_owned() }
}

/// One machine `web-01` with a disk of 32 MiB, and a task for it.
struct Case {
    rig: Rig,
    host: SimulatedHyperV,
    device: DeviceId,
    vm: VmId,
    location: RepositoryId,
    task: TaskId,
}

impl Case {
    async fn new() -> Self {
        Self::with(web(), Arc::new(RealLocations)).await
    }

    async fn with(spec: MachineSpec, locations: Arc<dyn Locations>) -> Self {
        let rig = Rig::with_locations(locations).await;
        let host = SimulatedHyperV::start(rig.folder.path(), "HV-1", vec![spec]).await;
        let device = rig.device(&host).await;
        let vm = rig.vm(device, "web-01").await;
        let location = rig.location().await;
        let task = rig.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
        Self { rig, host, device, vm, location, task }
    }

    async fn cold_task(&self, name: &str, mode: Mode, if_still_on: IfStillOn) -> TaskId {
        let spec = TaskSpec { name, machines: &[self.vm], mode, if_still_on, ..TaskSpec::default() };
        self.rig.task(self.location, spec).await
    }

    async fn run(&self, expected: JobState) -> Job {
        self.rig.run_one(self.task, expected).await
    }

    /// It failed with this code, said why, and left nothing: neither on the host nor as a point.
    async fn failed_cleanly(&self, code: &str, points: usize) -> JobError {
        let job = self.run(JobState::Failed).await;
        let error = job.error.clone().expect("an error");
        assert_eq!(error.code, code, "{error}");
        assert!(error.what.contains("web-01") && !error.why.is_empty() && !error.hint.is_empty(), "{error}");
        self.clean(points).await;
        error
    }

    async fn clean(&self, points: usize) {
        self.rig.settled(self.device).await;
        self.host.assert_clean(&["web-01"]);
        assert_eq!(self.rig.points(self.vm).await.len(), points);
        assert_eq!(self.rig.repository().await.points().await.expect("points").points.len(), points);
        let kept = self.reference_points();
        assert!(kept <= 2, "for the newest point and the last full, not {kept}");
    }

    fn reference_points(&self) -> usize {
        self.host.machine("web-01").expect("the machine").reference_points.len()
    }

    async fn newest(&self) -> Point {
        self.rig.points(self.vm).await.into_iter().next().expect("a point")
    }

    /// The newest point is the job's and equals what the disks hold, as the guest has not written since.
    async fn newest_is_right(&self, job: &Job) {
        let point = self.newest().await;
        assert_eq!(point.job_id, Some(job.job_id));
        assert_eq!(stored(&self.rig.repository().await, &point).await, self.host.digests("web-01"));
    }

    async fn order(&self, name: &str) -> RestoreOrder {
        RestoreOrder {
            point_id: self.newest().await.point_id.0,
            device_id: self.device.0,
            name: name.to_owned(),
            datastore: VOLUME.to_owned(),
            network: None,
            connect_network: false,
            keep_identity: false,
        }
    }

    /// Starts a run and waits until its checkpoint stands and its files, which hang, are asked for.
    async fn run_into_silence(&self, task: TaskId) -> db::RunId {
        self.host.pause_files(true);
        let run = self.rig.start_run(task).await;
        let named = |name: &str| name.starts_with("stillframe-");
        let stands = async || {
            let machine = self.host.machine("web-01").expect("the machine");
            machine.snapshots.iter().any(|snapshot| named(&snapshot.name)).then_some(())
        };
        self.rig.wait("the checkpoint", stands).await;
        run
    }

    fn is_on(&self) -> bool {
        self.host.machine("web-01").expect("the machine").on
    }

    fn burst(&self) {
        self.host.burst("web-01", MIB);
    }
}
