//! Retention on a location with object lock: a point that is locked stays due, and keeps no other from going.

use crate::rig::{FaultyFolder, Rig, Simulated, TaskSpec, machine, same_bytes};
use db::{NewJob, PointId, RepositoryId};
use domain::job::{JobKind, JobState};
use std::sync::Arc;

/// What the repository itself lists.
async fn listed(rig: &Rig) -> Vec<PointId> {
    let list = rig.repository().await.points().await.expect("points");
    assert_eq!(list.damaged, []);
    list.points.into_iter().map(|point| PointId(point.id.0)).collect()
}

/// A look at the repository, as there is one every now and then.
async fn look(rig: &Rig, repository_id: RepositoryId) {
    let job = NewJob {
        repository_id: Some(repository_id),
        ..NewJob::new(JobKind::Reconcile, "cellar", "a test's look".to_owned())
    };
    let job_id = rig.db.enqueue(&job).await.expect("a queue").expect("a job");
    let job = rig
        .wait("the look", async || Some(rig.db.job(job_id).await.expect("a job")).filter(|job| job.state.is_final()));
    assert_eq!(job.await.state, JobState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_point_stays_due_and_the_others_go() {
    let storage = FaultyFolder::endless();
    let rig = Rig::with_locations(Arc::new(storage.clone())).await;
    let host = Simulated::quiet(rig.folder.path(), "esx-1", vec![machine("web-01", &[(8, 4)])]).await;
    let device = rig.device(&host).await;
    let vm = rig.vm(device, "web-01").await;
    let location = rig.location().await;
    let task = rig.task(location, TaskSpec { machines: &[vm], keep: 2, ..TaskSpec::default() }).await;
    let mut made = Vec::new();
    for _ in 0..2 {
        rig.run_one(task, JobState::Succeeded).await;
        made.push(rig.points(vm).await[0].point_id);
    }
    storage.lock(&format!("points/{}", made[0]));

    // The rule lets go of the first, which is locked: the backup is none the worse for it, and nothing is lost of it.
    rig.run_one(task, JobState::Succeeded).await;
    made.push(rig.points(vm).await[0].point_id);
    assert_eq!(listed(&rig).await.len(), 3);
    assert_eq!(rig.db.expiring_points(location).await.expect("points"), [made[0]]);
    assert_eq!(rig.points(vm).await.len(), 2, "nobody is offered it any more");
    assert!(!rig.db.repository(location).await.expect("a row").collect_due, "nothing went");

    // The next goes past it.
    let job = rig.run_one(task, JobState::Succeeded).await;
    made.push(rig.points(vm).await[0].point_id);
    assert!(rig.log(&job).await.contains("Retention: 1 old restore point removed."), "{}", rig.log(&job).await);
    let mut left = listed(&rig).await;
    left.sort();
    let mut wanted = vec![made[0], made[2], made[3]];
    wanted.sort();
    assert_eq!(left, wanted);

    // Looking at the repository neither brings it back nor forgets that it is due.
    look(&rig, location).await;
    assert_eq!(rig.points(vm).await.len(), 2);
    assert_eq!(rig.db.expiring_points(location).await.expect("points"), [made[0]]);
    let point = rig.db.point(made[3]).await.expect("a row");
    let disk = rig.folder.path().join("now");
    host.copy_disk("web-01", 2000, &disk).expect("a copy");
    same_bytes(&rig.repository().await, point.point_id, 2000, &disk).await;

    // Its lock has ended: the next look removes it.
    storage.unlock();
    look(&rig, location).await;
    assert_eq!(rig.db.expiring_points(location).await.expect("points"), []);
    assert!(rig.db.point(made[0]).await.is_err(), "its row is gone");
    assert_eq!(listed(&rig).await.len(), 2);
}
