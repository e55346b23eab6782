//! A task that requires quiesced guests: an application-consistent point or none, a clear error, and nothing left behind.

use crate::rig::{Rig, Simulated, SimulatedHyperV, TaskSpec, hyperv_machine, machine};
use db::{DeviceId, RepositoryId, TaskId, VmId};
use domain::job::{Disposition, JobState};
use domain::machine::Quiesce;
use domain::mode::{IfStillOn, Mode};
use domain::point::Consistency;
use simulators::esxi::{Action, On, Rule};
use simulators::hyperv;

/// A server with one running machine `web-01` on a host.
struct Case {
    rig: Rig,
    device: DeviceId,
    vm: VmId,
    location: RepositoryId,
}

impl Case {
    async fn of(rig: Rig, device: DeviceId) -> Self {
        let vm = rig.vm(device, "web-01").await;
        let location = rig.location().await;
        Self { rig, device, vm, location }
    }

    async fn esxi() -> (Self, Simulated) {
        let rig = Rig::start().await;
        let host = Simulated::start(rig.folder.path(), "esx-1", vec![machine("web-01", &[(8, 2)])]).await;
        let device = rig.device(&host).await;
        (Self::of(rig, device).await, host)
    }

    async fn hyperv() -> (Self, SimulatedHyperV) {
        let rig = Rig::start().await;
        let host = SimulatedHyperV::start(rig.folder.path(), "HV-1", vec![hyperv_machine("web-01", &[(8, 2)])]).await;
        let device = rig.device(&host).await;
        (Self::of(rig, device).await, host)
    }

    async fn task(&self, mode: Mode, if_still_on: IfStillOn) -> TaskId {
        let (name, quiesce, machines) = (mode.as_str(), Quiesce::Require, &[self.vm]);
        let spec = TaskSpec { name, machines, mode, if_still_on, quiesce, ..TaskSpec::default() };
        self.rig.task(self.location, spec).await
    }

    /// It failed at this attempt, said who, why and what to do, and there are as many points as before.
    async fn refused(&self, task: TaskId, code: &str, attempt: u32, points: usize) {
        let job = self.rig.run_one(task, JobState::Failed).await;
        let error = job.error.clone().expect("an error");
        assert_eq!((error.code.as_str(), job.attempt), (code, attempt), "{error}");
        assert_eq!(error.disposition, if attempt == 1 { Disposition::Fail } else { Disposition::Retry });
        assert!(error.what.contains("web-01 on ") && error.hint.contains("if possible"), "{error}");
        assert!(error.why.contains("requires"), "{error}");
        self.rig.settled(self.device).await;
        assert_eq!(self.rig.points(self.vm).await.len(), points);
        assert_eq!(self.rig.repository().await.points().await.expect("points").points.len(), points);
    }

    /// It ends well, at this attempt, with such a point.
    async fn backed_up(&self, task: TaskId, attempt: u32, consistency: Consistency) {
        let job = self.rig.run_one(task, JobState::Succeeded).await;
        assert_eq!(job.attempt, attempt, "{}", self.rig.log(&job).await);
        assert_eq!(self.rig.points(self.vm).await[0].consistency, consistency);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_esxi_guest_that_cannot_be_quiesced_gets_no_point() {
    let (case, host) = Case::esxi().await;
    let task = case.task(Mode::Hot, IfStillOn::Fail).await;
    case.backed_up(task, 1, Consistency::Application).await;

    host.set_tools("web-01", false).expect("stopped");
    let snapshots = host.snapshot_records().len();
    case.refused(task, "esxi.cannot_quiesce", 1, 1).await;
    assert_eq!(host.snapshot_records().len(), snapshots, "none was made for nothing");
    host.set_tools("web-01", true).expect("started");

    // The host says neither yes nor no: only the snapshot tells.
    host.faults().add(Rule::always(On::method("CreateSnapshot_Task"), Action::IgnoreQuiesce));
    case.refused(task, "vm.not_quiesced", 1, 1).await;
    host.faults().clear();

    let slow = || Action::TaskFails { name: "ApplicationQuiesceFault".to_owned(), message: "VSS writers".to_owned() };
    host.faults().add(Rule::always(On::method("CreateSnapshot_Task"), slow()));
    case.refused(task, "esxi.quiesce_failed", 3, 1).await;
    host.faults().clear();
    host.faults().add(Rule::once(On::method("CreateSnapshot_Task"), slow()));
    case.backed_up(task, 2, Consistency::Application).await;

    host.power_off("web-01").expect("off");
    case.backed_up(task, 1, Consistency::Offline).await;
    host.assert_clean(&["web-01"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyperv_guest_that_cannot_be_quiesced_gets_no_point() {
    let (case, host) = Case::hyperv().await;
    let task = case.task(Mode::Hot, IfStillOn::Fail).await;
    case.backed_up(task, 1, Consistency::Application).await;

    host.set_freezing("web-01", false).expect("stopped");
    case.refused(task, "hyperv.cannot_quiesce", 1, 1).await;
    host.set_freezing("web-01", true).expect("started");

    let slow = || hyperv::Action::JobFails { code: 32768, description: "the writers took too long".to_owned() };
    host.faults().add(hyperv::Rule::always(hyperv::On::method("CreateSnapshot"), slow()));
    case.refused(task, "hyperv.quiesce_failed", 3, 1).await;
    host.faults().clear();
    host.faults().add(hyperv::Rule::once(hyperv::On::method("CreateSnapshot"), slow()));
    case.backed_up(task, 2, Consistency::Application).await;

    host.set_power("web-01", false).expect("off");
    case.backed_up(task, 1, Consistency::Offline).await;
    host.assert_clean(&["web-01"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_task_needs_no_quiescing_unless_it_ends_hot() {
    let (case, host) = Case::esxi().await;
    let cold = case.task(Mode::Cold, IfStillOn::Hot).await;
    case.backed_up(cold, 1, Consistency::Offline).await;

    // The guest does not go, so the policy makes it a hot copy, of which only an application-consistent one will do.
    host.faults().add(Rule::always(On::method("ShutdownGuest"), Action::TaskStalls));
    let job = case.rig.run_one(cold, JobState::Warning).await;
    assert_eq!(case.rig.points(case.vm).await[0].consistency, Consistency::Application, "{}", case.rig.log(&job).await);
    let never = Action::TaskFails { name: "OperationNotSupportedByGuest".to_owned(), message: "DOS".to_owned() };
    host.faults().add(Rule::once(On::method("CreateSnapshot_Task"), never));
    case.refused(cold, "esxi.cannot_quiesce", 1, 2).await;

    // Switched off, it is what the policy says it may be.
    let off = case.task(Mode::ColdSnapshot, IfStillOn::PowerOff).await;
    let job = case.rig.run_one(off, JobState::Warning).await;
    assert_eq!(case.rig.points(case.vm).await[0].consistency, Consistency::Crash, "{}", case.rig.log(&job).await);
    host.assert_clean(&["web-01"]);

    let (case, host) = Case::hyperv().await;
    host.set_freezing("web-01", false).expect("stopped");
    host.faults().add(hyperv::Rule::always(hyperv::On::method("InitiateShutdown"), hyperv::Action::IgnoreShutdown));
    let cold = case.task(Mode::Cold, IfStillOn::Hot).await;
    case.refused(cold, "hyperv.cannot_quiesce", 1, 0).await;
    host.faults().clear();
    case.backed_up(cold, 1, Consistency::Offline).await;
    host.assert_clean(&["web-01"]);
}
