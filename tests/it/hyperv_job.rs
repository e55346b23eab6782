//! The main job on Hyper-V hosts, end to end by the engine, and in one task with an ESXi host.

use crate::rig::{Rig, Simulated, SimulatedHyperV, TaskSpec, frozen, hyperv_machine, machine, same_bytes, stored};
use db::{DeviceId, Method, Point, RepositoryId, TaskId, Transport, VmId};
use domain::job::{Disposition, JobState};
use domain::mode::Mode;
use domain::point::{Consistency, PointKind};
use engine::RestoreOrder;

const MIB: u64 = 1 << 20;

/// The newest point of a machine, once one run of the task is over.
async fn back_up(rig: &Rig, task: TaskId, vm: VmId) -> Point {
    let job = rig.run_one(task, JobState::Succeeded).await;
    assert!(job.bytes_total > 0 && job.bytes_done == job.bytes_total, "progress reaches its end: {job:?}");
    let point = rig.points(vm).await.into_iter().next().expect("a point");
    assert_eq!(point.job_id, Some(job.job_id));
    assert!(point.simulated);
    point
}

async fn task(rig: &Rig, location: RepositoryId, vm: VmId, method: Method, mode: Mode) -> TaskId {
    let name = format!("{}-{}", method.as_str(), mode.as_str());
    rig.task(location, TaskSpec { name: &name, machines: &[vm], method, mode, ..TaskSpec::default() }).await
}

fn restore_of(point: &Point, device: DeviceId, name: &str) -> RestoreOrder {
    RestoreOrder {
        point_id: point.point_id.0,
        device_id: device.0,
        name: name.to_owned(),
        datastore: "C:".to_owned(),
        network: Some("LAN".to_owned()),
        connect_network: false,
        keep_identity: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_backed_up_in_all_four_ways_and_restored_to_its_host_and_a_second_one() {
    let rig = Rig::start().await;
    let machines = vec![hyperv_machine("web-01", &[(48, 20), (16, 6)])];
    let source = SimulatedHyperV::start(rig.folder.path(), "HV-1", machines).await;
    let target = SimulatedHyperV::start(rig.folder.path(), "HV-2", vec![]).await.over(Transport::TlsBasic);
    let (device, other) = (rig.device(&source).await, rig.device(&target).await);
    let vm = rig.vm(device, "web-01").await;
    let location = rig.location().await;
    let hot = task(&rig, location, vm, Method::Incremental, Mode::Hot).await;
    let differential = task(&rig, location, vm, Method::Differential, Mode::Hot).await;
    let cold = task(&rig, location, vm, Method::Full, Mode::Cold).await;

    let repository = rig.repository().await;
    let mut points = Vec::new();
    let rounds = [
        (hot, PointKind::Full, Consistency::Application),
        (hot, PointKind::Incremental, Consistency::Application),
        (differential, PointKind::Differential, Consistency::Application),
        (cold, PointKind::Full, Consistency::Offline),
    ];
    for (task, kind, consistency) in rounds {
        source.burst("web-01", MIB);
        let point = back_up(&rig, task, vm).await;
        assert_eq!((point.kind, point.consistency), (kind, consistency));
        if kind != PointKind::Full {
            assert!(point.bytes_read < 16 * MIB, "what changed is read, not {} bytes", point.bytes_read);
        }
        let held = source.frozen("web-01");
        assert_eq!(stored(&repository, &point).await, held, "{kind:?}");
        source.assert_clean(&["web-01"]);
        assert!(source.machine("web-01").expect("the machine").on, "it runs again");
        points.push((point, held));
    }
    rig.settled(device).await;

    let (point, held) = &points[1];
    rig.restore(&restore_of(point, device, "beside"), JobState::Succeeded).await;
    assert_eq!(source.digests("beside"), *held, "on the host it came from");
    source.assert_clean(&["beside", "web-01"]);

    let names = ["full", "incremental", "differential", "cold"];
    for (name, (point, held)) in names.into_iter().zip(&points) {
        rig.restore(&restore_of(point, other, name), JobState::Succeeded).await;
        assert_eq!(target.digests(name), *held, "{name}");
        assert!(!target.machine(name).expect("the machine").on);
    }
    rig.settled(other).await;
    target.assert_clean(&["cold", "differential", "full", "incremental"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_task_holds_machines_of_both_platforms() {
    let rig = Rig::start().await;
    let esxi = Simulated::start(rig.folder.path(), "esx-1", vec![machine("db-01", &[(16, 6)])]).await;
    let hyperv = SimulatedHyperV::start(rig.folder.path(), "HV-1", vec![hyperv_machine("web-01", &[(16, 6)])]).await;
    let hyperv = hyperv.over(Transport::SealedHttp);
    let devices = (rig.device(&esxi).await, rig.device(&hyperv).await);
    let (on_esxi, on_hyperv) = (rig.vm(devices.0, "db-01").await, rig.vm(devices.1, "web-01").await);
    let location = rig.location().await;
    let both = rig.task(location, TaskSpec { machines: &[on_esxi, on_hyperv], ..TaskSpec::default() }).await;
    let repository = rig.repository().await;
    for kind in [PointKind::Full, PointKind::Incremental] {
        esxi.guest_burst("db-01", MIB).expect("writes");
        hyperv.burst("web-01", MIB);
        for job in rig.run(both).await {
            assert_eq!(job.state, JobState::Succeeded, "{:?}\n{}", job.error, rig.log(&job).await);
        }
        let newest = async |vm| rig.points(vm).await.into_iter().next().expect("a point");
        let (one, two) = (newest(on_esxi).await, newest(on_hyperv).await);
        assert_eq!((one.kind, two.kind), (kind, kind));
        for (key, file) in frozen(&esxi, one.job_id.expect("a job")) {
            same_bytes(&repository, one.point_id, key, &file).await;
        }
        assert_eq!(stored(&repository, &two).await, hyperv.frozen("web-01"));
        for (point, device) in [(one, devices.1), (two, devices.0)] {
            let order = restore_of(&point, device, "elsewhere");
            let refused = rig.engine.start_restore(&order, "the test").await.expect_err("another platform");
            assert_eq!((refused.code.as_str(), refused.disposition), ("restore.other_platform", Disposition::Fail));
        }
    }
    esxi.assert_clean(&["db-01"]);
    hyperv.assert_clean(&["web-01"]);
}
