//! Tasks that take machines in by rule and leave disks out, over both platforms.

use crate::rig::{Rig, Simulated, SimulatedHyperV, TaskSpec, frozen, hyperv_machine, machine, same_bytes, stored};
use db::{Job, Method, TaskInput};
use domain::choice::{Choice, ExcludedDisk, Rule};
use domain::job::JobState;
use domain::point::PointKind;
use engine::RestoreOrder;

const MIB: u64 = 1 << 20;

fn titles(jobs: &[Job]) -> Vec<&str> {
    let mut titles: Vec<&str> = jobs.iter().map(|job| job.title.as_str()).collect();
    titles.sort_unstable();
    titles
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_takes_in_what_fits_on_both_platforms_and_what_comes_later() {
    let rig = Rig::start().await;
    let esxi = Simulated::start(rig.folder.path(), "esx-1", vec![machine("web-01", &[(16, 2)])]).await;
    let hyperv = vec![hyperv_machine("web-02", &[(16, 2)]), hyperv_machine("db-01", &[(16, 2)])];
    let hyperv = SimulatedHyperV::start(rig.folder.path(), "HV-1", hyperv).await;
    rig.device(&esxi).await;
    let location = rig.location().await;
    let choice = Choice { rules: vec![Rule::Name { pattern: "WEB-*".to_owned() }], exceptions: Vec::new() };
    let input = TaskInput { choice, ..Rig::task_input(location, TaskSpec::default()) };
    let task = rig.db.create_task(&input).await.expect("a task");
    let jobs = rig.run(task).await;
    assert_eq!(titles(&jobs), ["web-01"]);
    let device = rig.device(&hyperv).await;
    let jobs = rig.run(task).await;
    assert_eq!(titles(&jobs), ["web-01", "web-02"], "the new host's machine has joined");
    assert!(jobs.iter().all(|job| job.state == JobState::Succeeded), "{jobs:?}");
    let point = rig.points(rig.vm(device, "web-02").await).await.into_iter().next().expect("a point");
    assert_eq!(stored(&rig.repository().await, &point).await, hyperv.frozen("web-02"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_left_out_is_in_no_point_and_comes_in_whole_when_it_is_wanted() {
    let rig = Rig::start().await;
    let host = Simulated::start(rig.folder.path(), "esx-1", vec![machine("web-01", &[(16, 4), (16, 4)])]).await;
    let device = rig.device(&host).await;
    let vm = rig.vm(device, "web-01").await;
    let location = rig.location().await;
    let keys: Vec<i32> = rig.db.disks(vm).await.expect("disks").iter().map(|disk| disk.disk_key).collect();
    let left_out = ExcludedDisk { vm_id: vm.0, disk_key: keys[1] };
    let spec = TaskSpec { machines: &[vm], method: Method::Incremental, ..TaskSpec::default() };
    let mut input = TaskInput { excluded_disks: vec![left_out], ..Rig::task_input(location, spec) };
    let task = rig.db.create_task(&input).await.expect("a task");
    let repository = rig.repository().await;
    for kind in [PointKind::Full, PointKind::Incremental] {
        host.guest_burst("web-01", MIB).expect("writes");
        let job = rig.run_one(task, JobState::Succeeded).await;
        assert!(rig.log(&job).await.contains("Left out, as the task says: Hard disk 2"), "{}", rig.log(&job).await);
        let point = rig.points(vm).await.into_iter().next().expect("a point");
        assert_eq!((point.kind, point.config.disks.len(), point.marks.len()), (kind, 1, 1));
        let (key, file) = frozen(&host, job.job_id).into_iter().find(|it| it.0 == keys[0]).expect("the first disk");
        same_bytes(&repository, point.point_id, key, &file).await;
        assert!(repository.open_disk(repository::PointId(point.point_id.0), keys[1]).await.is_err());
    }
    let point = rig.points(vm).await.into_iter().next().expect("a point");
    let order = RestoreOrder {
        point_id: point.point_id.0,
        device_id: device.0,
        name: "without".to_owned(),
        datastore: "datastore1".to_owned(),
        network: None,
        connect_network: false,
        keep_identity: false,
    };
    rig.restore(&order, JobState::Succeeded).await;
    let restored = host.machine("without").expect("the restored machine");
    assert_eq!(restored.disks.len(), 1);

    input.excluded_disks.clear();
    rig.db.update_task(task, &input).await.expect("changed");
    host.guest_burst("web-01", MIB).expect("writes");
    let job = rig.run_one(task, JobState::Warning).await;
    let point = rig.points(vm).await.into_iter().next().expect("a point");
    assert_eq!(point.marks.len(), 2);
    for (key, file) in frozen(&host, job.job_id) {
        same_bytes(&repository, point.point_id, key, &file).await;
    }
    input.excluded_disks = keys.iter().map(|&disk_key| ExcludedDisk { vm_id: vm.0, disk_key }).collect();
    rig.db.update_task(task, &input).await.expect("changed");
    let job = rig.run_one(task, JobState::Failed).await;
    assert_eq!(job.error.expect("an error").code, "vm.all_disks_excluded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_pool_takes_in_what_is_moved_there() {
    let rig = Rig::start().await;
    let mut first = machine("web-01", &[(8, 2)]);
    first.pool = "Production/Web".to_owned();
    let host = Simulated::start(rig.folder.path(), "esx-1", vec![first, machine("web-02", &[(8, 2)])]).await;
    let device = rig.device(&host).await;
    let location = rig.location().await;
    let choice = Choice { rules: vec![Rule::Pool { path: "Production".to_owned() }], exceptions: Vec::new() };
    let input = TaskInput { choice, ..Rig::task_input(location, TaskSpec::default()) };
    let task = rig.db.create_task(&input).await.expect("a task");
    assert_eq!(titles(&rig.run(task).await), ["web-01"]);
    host.move_to_pool("web-02", "Production").expect("moved");
    rig.sync(device).await;
    assert_eq!(titles(&rig.run(task).await), ["web-01", "web-02"]);
    assert_eq!(rig.db.machine(rig.vm(device, "web-01").await).await.expect("a machine").pool, "Production/Web");
}
