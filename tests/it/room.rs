//! A datastore that runs full: no snapshot is made, and one that stands is given up before the machines on it stop.

use crate::rig::{Rig, Simulated, TaskSpec, machine};
use db::{DeviceLimits, RunId};
use domain::job::JobState;
use simulators::esxi::{Action, DatastoreSpec, HostConfig, On, Rule};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// A host whose datastore has room for the machine's disk of 64 MiB and not much more.
async fn small_host(rig: &Rig, capacity_mib: u64) -> Simulated {
    let mut config = HostConfig::new("esx-1", rig.folder.path().join("esx-1"));
    config.datastores = vec![DatastoreSpec { capacity_bytes: capacity_mib * MIB, ..DatastoreSpec::vmfs("datastore1") }];
    config.machines = vec![machine("web-01", &[(64, 32)])];
    Simulated::with(config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_snapshot_is_made_on_a_datastore_that_is_nearly_full() {
    let rig = Rig::start().await;
    let host = small_host(&rig, 40).await;
    let device = rig.device(&host).await;
    let vm = rig.vm(device, "web-01").await;
    let location = rig.location().await;
    let task = rig.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
    rig.db.set_device_limits(device, DeviceLimits { per_datastore: 1, reserve_percent: 60 }).await.expect("limits");
    let job = rig.run_one(task, JobState::Failed).await;
    let error = job.error.clone().expect("an error");
    assert_eq!(error.code, "vm.datastore_full");
    assert!(error.why.contains("datastore1 has") && error.why.contains("60 % are to stay free"), "{error}");
    assert!(!rig.log(&job).await.contains("snapshot was made"));
    rig.db.set_device_limits(device, DeviceLimits { per_datastore: 1, reserve_percent: 0 }).await.expect("limits");
    rig.run_one(task, JobState::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_grows_too_far_is_given_up_and_gone() {
    let rig = Rig::start().await;
    let host = small_host(&rig, 100).await;
    let device = rig.device(&host).await;
    let vm = rig.vm(device, "web-01").await;
    let location = rig.location().await;
    let task = rig.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
    rig.db.set_device_limits(device, DeviceLimits { per_datastore: 1, reserve_percent: 60 }).await.expect("limits");
    // The copy stands still while the guest fills the datastore.
    let stalled = host.faults().add(Rule::once(On::path("-flat.vmdk"), Action::Stall(Duration::from_secs(4))));
    let run: RunId = rig.start_run(task).await;
    rig.wait("the copy", async || (host.faults().hits(stalled) > 0).then_some(())).await;
    host.guest_burst("web-01", 192 * MIB).expect("writes");
    let jobs = rig.finished(run).await;
    let (error, log) = (jobs[0].error.clone().expect("an error"), rig.log(&jobs[0]).await);
    assert_eq!((jobs[0].state, error.code.as_str()), (JobState::Failed, "vm.datastore_full"), "{error}");
    assert!(log.contains("The copy is broken off: datastore1 has"), "{log}");
    assert!(log.contains("The snapshot was removed"), "{log}");
    assert!(rig.points(vm).await.is_empty());
    rig.settled(device).await;
    host.assert_clean(&["web-01"]);
    host.faults().clear();
    rig.db.set_device_limits(device, DeviceLimits { per_datastore: 1, reserve_percent: 5 }).await.expect("limits");
    rig.run_one(task, JobState::Succeeded).await;
}
