//! Limits of speed: a lower bound of time is certain whatever the machine does meanwhile.

use crate::rig::{Rig, Simulated, TaskSpec, frozen, machine, same_bytes};
use db::Method;
use domain::bandwidth::Bandwidth;
use domain::job::JobState;
use engine::RestoreOrder;
use std::time::{Duration, Instant};

const USED_MIB: u64 = 8;
const MIB_PER_SECOND: u32 = 4;

/// All but the first piece waits, and none is longer than half of it.
const AT_LEAST: Duration = Duration::from_millis(USED_MIB / 2 * 1000 / MIB_PER_SECOND as u64);

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_no_faster_than_their_device_or_location_may() {
    let rig = Rig::start().await;
    let host = Simulated::start(rig.folder.path(), "esx-1", vec![machine("web-01", &[(16, USED_MIB)])]).await;
    let device = rig.device(&host).await;
    let vm = rig.vm(device, "web-01").await;
    let location = rig.location().await;
    let spec = TaskSpec { machines: &[vm], method: Method::Full, ..TaskSpec::default() };
    let task = rig.task(location, spec).await;
    let slow = Bandwidth::parse(&MIB_PER_SECOND.to_string(), "UTC").expect("a limit");
    let limits = [(slow.clone(), Bandwidth::default()), (Bandwidth::default(), slow.clone())];
    for (of_device, of_location) in limits {
        rig.db.set_device_bandwidth(device, &of_device).await.expect("a limit");
        rig.db.set_repository_bandwidth(location, &of_location).await.expect("a limit");
        // What is not there yet: a location stores nothing twice.
        host.guest_burst("web-01", 64 << 20).expect("writes");
        let begun = Instant::now();
        let job = rig.run_one(task, JobState::Succeeded).await;
        assert!(begun.elapsed() >= AT_LEAST, "{:?} for {USED_MIB} MiB", begun.elapsed());
        let point = rig.points(vm).await.into_iter().next().expect("a point");
        for (key, file) in frozen(&host, job.job_id) {
            same_bytes(&rig.repository().await, point.point_id, key, &file).await;
        }
    }
    rig.db.set_device_bandwidth(device, &slow).await.expect("a limit");
    rig.db.set_repository_bandwidth(location, &Bandwidth::default()).await.expect("no limit");
    let order = RestoreOrder {
        point_id: rig.points(vm).await[0].point_id.0,
        device_id: device.0,
        name: "slowly".to_owned(),
        datastore: "datastore1".to_owned(),
        network: None,
        connect_network: false,
        keep_identity: false,
    };
    let begun = Instant::now();
    rig.restore(&order, JobState::Succeeded).await;
    assert!(begun.elapsed() >= AT_LEAST, "{:?} for {USED_MIB} MiB", begun.elapsed());
}
