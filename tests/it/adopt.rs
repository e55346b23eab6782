//! A new server takes over a repository that another one made: its points appear, are restored, and go on.

use crate::rig::{PASSPHRASE, Rig, Simulated, TaskSpec, frozen, machine, same_bytes};
use domain::job::JobState;
use domain::point::PointKind;
use engine::{LocationOrder, RestoreOrder};

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_server_restores_what_another_backed_up() {
    let mut old = Rig::start().await;
    let source = Simulated::start(old.folder.path(), "esx-1", vec![machine("web-01", &[(24, 9), (8, 3)])]).await;
    let device = old.device(&source).await;
    let vm = old.vm(device, "web-01").await;
    let location = old.location().await;
    let task = old.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
    let mut jobs = Vec::new();
    for _ in 0..2 {
        jobs.push(old.run_one(task, JobState::Succeeded).await);
        source.guest_burst("web-01", 1 << 20).expect("writes");
    }
    let made = old.points(vm).await;
    old.stop().await;

    // Another database, another key for its secrets; only folder and passphrase are the same.
    let new = Rig::start().await;
    let path = old.repository_path();
    let order = |passphrase: &str| LocationOrder::folder("taken over", path.clone(), passphrase.into());
    let refused = new.engine.create_location(order("not the passphrase")).await.expect_err("a wrong passphrase");
    assert_eq!(refused.code, "repository.wrong_passphrase");
    let taken = new.engine.create_location(order(PASSPHRASE)).await.expect("a repository");
    assert_eq!((taken.points, taken.recovery_key.is_some()), (2, false), "it has its recovery key");
    assert_eq!(taken.repository_id, location);
    let again = new.engine.create_location(order(PASSPHRASE)).await.expect_err("it is there");
    assert_eq!(again.code, "repository.known");
    let points = new.db.points_of_repository(location).await.expect("points");
    assert_eq!(points.len(), 2);
    for (point, before) in points.iter().zip(&made) {
        assert_eq!((point.point_id, &point.machine_name), (before.point_id, &before.machine_name));
        assert_eq!((point.taken_at, point.kind, point.size_bytes), (before.taken_at, before.kind, before.size_bytes));
        assert_eq!(point.vm_id, None, "no host of it is known here");
    }
    let pages = db::views::restorable_machines(&new.db, "", None, 0).await.expect("a page");
    assert_eq!((pages.total, pages.lines[0].points), (1, 2));

    let target = Simulated::start(new.folder.path(), "esx-2", vec![]).await;
    let other = new.device(&target).await;
    for (point, job) in points.iter().zip(jobs.iter().rev()) {
        let name = format!("web-01-{}", point.kind.as_str());
        let order = RestoreOrder {
            point_id: point.point_id.0,
            device_id: other.0,
            name: name.clone(),
            datastore: "datastore1".to_owned(),
            network: Some("VM Network".to_owned()),
            connect_network: false,
            keep_identity: false,
        };
        new.restore(&order, JobState::Succeeded).await;
        let view = target.machine(&name).expect("the machine");
        for ((_, file), disk) in frozen(&source, job.job_id).iter().zip(&view.disks) {
            let copy = new.folder.path().join(format!("{name}-{}", disk.key));
            target.copy_disk(&name, disk.key, &copy).expect("a copy");
            assert!(std::fs::read(file).expect("bytes") == std::fs::read(copy).expect("bytes"), "disk {}", disk.key);
        }
    }
}

/// The host that the points came from becomes a device of the new server: they are its machine's, and backups go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_server_goes_on_where_the_other_stopped() {
    let mut old = Rig::start().await;
    let source = Simulated::start(old.folder.path(), "esx-1", vec![machine("web-01", &[(24, 9)])]).await;
    let device = old.device(&source).await;
    let vm = old.vm(device, "web-01").await;
    let location = old.location().await;
    let task = old.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
    old.run_one(task, JobState::Succeeded).await;
    old.stop().await;

    let new = Rig::start().await;
    let order = LocationOrder::folder("taken over", old.repository_path(), PASSPHRASE.into());
    new.engine.create_location(order).await.expect("a repository");
    let device = new.device(&source).await;
    let vm = new.vm(device, "web-01").await;
    let task = new.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
    let job = new.run_one(task, JobState::Succeeded).await;
    let point = new.points(vm).await.into_iter().next().expect("a point");
    assert_eq!(point.job_id, Some(job.job_id));
    assert_eq!(point.kind, PointKind::Full, "its machine has another key here: {}", new.log(&job).await);
    assert!(point.bytes_stored < point.bytes_read / 10, "its chunks are there already: {point:?}");
    for (key, file) in frozen(&source, job.job_id) {
        same_bytes(&old.repository().await, point.point_id, key, &file).await;
    }
}
