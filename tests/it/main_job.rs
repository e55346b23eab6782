//! The main job, end to end: inventory → task → full → incrementals while the guests write → restore → retention.

use crate::rig::{Rig, SAMPLE_BYTES, Simulated, TaskSpec, frozen, machine, same_bytes};
use domain::job::JobState;
use domain::point::PointKind;
use engine::RestoreOrder;
use simulators::esxi::GuestWrites;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_are_backed_up_restored_and_cleaned_up_after() {
    let rig = Rig::start().await;
    let writes = Some(GuestWrites { bytes_per_second: 64 << 10, seed: 3 });
    let mut web = machine("web-01", &[(48, 20)]);
    web.writes = writes;
    let mut db = machine("db-01", &[(16, 6), (24, 10)]);
    db.writes = writes;
    let source = Simulated::start(rig.folder.path(), "esx-1", vec![web, db]).await;
    let target = Simulated::start(rig.folder.path(), "esx-2", vec![]).await;
    let (device, other) = (rig.device(&source).await, rig.device(&target).await);
    let machines = [rig.vm(device, "web-01").await, rig.vm(device, "db-01").await];
    let location = rig.location().await;
    let task = rig.task(location, TaskSpec { machines: &machines, keep: 2, ..TaskSpec::default() }).await;

    for run in 0..3 {
        let before = source.requests().len();
        for job in rig.run(task).await {
            assert_eq!(job.state, JobState::Succeeded, "run {run}: {:?}\n{}", job.error, rig.log(&job).await);
            assert!(job.bytes_total > 0 && job.bytes_done == job.bytes_total, "progress reaches its end: {job:?}");
            let point = rig.points(job.vm_id.expect("a machine")).await.into_iter().next().expect("a point");
            assert_eq!(point.job_id, Some(job.job_id));
            assert_eq!(point.kind, if run == 0 { PointKind::Full } else { PointKind::Incremental });
            assert!(point.simulated);
        }
        // The host's own record, not only our word for it: 88 MiB of disks, a few of them changed.
        let read_at_most = 24 * MIB + 3 * SAMPLE_BYTES;
        assert!(run == 0 || source.folder_bytes(before) < read_at_most, "{} read", source.folder_bytes(before));
        source.guest_burst("web-01", MIB).expect("writes");
        source.guest_burst("db-01", MIB).expect("writes");
    }
    source.assert_clean(&["db-01", "web-01"]);

    // Retention kept the last two of three; each equals what the disks held at its snapshot.
    let repository = rig.repository().await;
    for vm in machines {
        let points = rig.points(vm).await;
        assert_eq!(points.len(), 2);
        for point in &points {
            for (key, file) in frozen(&source, point.job_id.expect("a job")) {
                same_bytes(&repository, point.point_id, key, &file).await;
            }
            assert!(point.bytes_read < point.size_bytes / 2, "an incremental reads what changed: {point:?}");
        }
    }
    assert_eq!(repository.points().await.expect("points").points.len(), 4, "expired manifests are gone");

    // A restore to another host gives the same bytes, powered off.
    let point = rig.points(machines[1]).await.into_iter().next().expect("a point");
    let order = RestoreOrder {
        point_id: point.point_id.0,
        device_id: other.0,
        name: "db-01-restored".to_owned(),
        datastore: "datastore1".to_owned(),
        network: Some("VM Network".to_owned()),
        connect_network: false,
        keep_identity: false,
    };
    rig.restore(&order, JobState::Succeeded).await;
    target.assert_clean(&["db-01-restored"]);
    let view = target.machine("db-01-restored").expect("the machine");
    assert_eq!(view.power, simulators::esxi::Power::Off);
    for ((_, file), disk) in frozen(&source, point.job_id.expect("a job")).iter().zip(&view.disks) {
        let copy = rig.folder.path().join(format!("restored-{}", disk.key));
        target.copy_disk("db-01-restored", disk.key, &copy).expect("a copy");
        assert!(std::fs::read(file).expect("bytes") == std::fs::read(copy).expect("bytes"), "disk {}", disk.key);
    }
    rig.settled(device).await;
    rig.settled(other).await;
}
