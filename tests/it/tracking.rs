//! Change tracking with a defect: the host says nothing of what was written. A sample of what it calls unchanged finds it.

use crate::rig::{Rig, Simulated, SimulatedHyperV, TaskSpec, frozen, hyperv_machine, machine, same_bytes, stored};
use db::{DeviceId, Job, Point, TaskId, VmId};
use domain::job::JobState;
use domain::point::PointKind;
use domain::sampling::Sampling;
use simulators::{esxi, hyperv};

const MIB: u64 = 1 << 20;

/// A device with one machine, and a task of increments for it.
struct Case {
    rig: Rig,
    vm: VmId,
    task: TaskId,
}

impl Case {
    async fn new(rig: Rig, device: DeviceId) -> Self {
        let vm = rig.vm(device, "web-01").await;
        let location = rig.location().await;
        let task = rig.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
        Self { rig, vm, task }
    }

    /// One run, with the point it made.
    async fn run(&self, expected: JobState) -> (Job, Point) {
        let job = self.rig.run_one(self.task, expected).await;
        let point = self.rig.points(self.vm).await.into_iter().next().expect("a point");
        assert_eq!(point.job_id, Some(job.job_id));
        (job, point)
    }

    /// The run noticed: everything was read, and everybody is told which host, disk and place.
    async fn noticed(&self, job: &Job, point: &Point, device: &str) {
        assert_eq!(point.kind, PointKind::Full);
        let log = self.rig.log(job).await;
        assert!(log.contains(&format!("{device} said nothing of a change at byte")), "{log}");
        assert!(point.warnings.iter().any(|warning| warning.contains("said nothing of a change at byte")), "{point:?}");
        let alarms = self.rig.db.tracking_alarms(self.vm).await.expect("alarms");
        assert_eq!(alarms.len(), 1);
        assert!(log.contains(&format!("at byte {}", alarms[0].offset_bytes)), "{alarms:?}\n{log}");
        let troubles = db::views::troubles(&self.rig.db).await.expect("troubles");
        assert!(
            troubles.iter().any(|it| it.is_error && it.title.contains("web-01: change tracking missed")),
            "{troubles:?}"
        );
        assert_eq!(self.rig.db.see_tracking_alarms(self.vm, "anna").await.expect("seen"), 1);
        assert!(self.rig.db.tracking_alarms(self.vm).await.expect("alarms").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_esxi_does_not_tell_of_makes_a_full_and_an_alarm() {
    let rig = Rig::start().await;
    let host = Simulated::start(rig.folder.path(), "esx-1", vec![machine("web-01", &[(16, 6)])]).await;
    let device = rig.device(&host).await;
    let case = Case::new(rig, device).await;
    let repository = case.rig.repository().await;
    case.run(JobState::Succeeded).await;
    let defect = esxi::Rule::always(esxi::On::method("QueryChangedDiskAreas"), esxi::Action::LoseAreas);
    host.faults().add(defect);
    host.guest_burst("web-01", 4 * MIB).expect("writes");
    let (job, point) = case.run(JobState::Warning).await;
    case.noticed(&job, &point, "esx-1").await;
    for (key, file) in frozen(&host, job.job_id) {
        same_bytes(&repository, point.point_id, key, &file).await;
    }
    host.faults().clear();
    host.guest_burst("web-01", MIB).expect("writes");
    let (job, point) = case.run(JobState::Succeeded).await;
    assert_eq!(point.kind, PointKind::Incremental, "the full is built on again");
    assert!(case.rig.log(&job).await.contains("Change tracking was checked"));
    for (key, file) in frozen(&host, job.job_id) {
        same_bytes(&repository, point.point_id, key, &file).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_hyperv_does_not_tell_of_makes_a_full_and_an_alarm() {
    let rig = Rig::start().await;
    let host = SimulatedHyperV::start(rig.folder.path(), "HV-1", vec![hyperv_machine("web-01", &[(16, 6)])]).await;
    let device = rig.device(&host).await;
    let case = Case::new(rig, device).await;
    let repository = case.rig.repository().await;
    case.run(JobState::Succeeded).await;
    let defect = hyperv::Rule::always(hyperv::On::method("GetVirtualDiskChanges"), hyperv::Action::LoseAreas);
    host.faults().add(defect);
    host.burst("web-01", 4 * MIB);
    let (job, point) = case.run(JobState::Warning).await;
    case.noticed(&job, &point, "HV-1").await;
    assert_eq!(stored(&repository, &point).await, host.frozen("web-01"));
    host.faults().clear();
    host.burst("web-01", MIB);
    let (_, point) = case.run(JobState::Succeeded).await;
    assert_eq!(point.kind, PointKind::Incremental, "the full is built on again");
    assert_eq!(stored(&repository, &point).await, host.frozen("web-01"));
    host.assert_clean(&["web-01"]);
}

/// The check can be switched off; then the same defect goes unnoticed, and the point is wrong. Nothing else would find it.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_sample_the_defect_goes_unnoticed() {
    let rig = Rig::start().await;
    let host = SimulatedHyperV::start(rig.folder.path(), "HV-1", vec![hyperv_machine("web-01", &[(16, 6)])]).await;
    let device = rig.device(&host).await;
    let case = Case::new(rig, device).await;
    case.rig.db.set_setting(Sampling::SETTING, &Sampling { per_mille: 0 }).await.expect("the setting");
    case.run(JobState::Succeeded).await;
    let defect = hyperv::Rule::always(hyperv::On::method("GetVirtualDiskChanges"), hyperv::Action::LoseAreas);
    host.faults().add(defect);
    host.burst("web-01", 4 * MIB);
    let (job, point) = case.run(JobState::Succeeded).await;
    assert_eq!(point.kind, PointKind::Incremental);
    assert!(!case.rig.log(&job).await.contains("Change tracking was checked"));
    assert_ne!(stored(&case.rig.repository().await, &point).await, host.frozen("web-01"));
}
