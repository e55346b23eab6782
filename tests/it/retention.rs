//! Retention as a job: what it was to remove according to the preview goes and nothing else, whatever stops it; on a
//! location with object lock a point that is locked stays due, and keeps no other from going.

use crate::rig::{FaultyFolder, Halt, Rig, Simulated, TaskSpec, machine, same_bytes};
use db::{NewJob, PointId, RepositoryId, RetentionDraft, TaskId, TaskInput, VmId};
use domain::job::{JobKind, JobState};
use domain::retention::{Retention, Rule};
use domain::schedule::Schedule;
use std::sync::Arc;

/// What the repository itself lists.
async fn listed(rig: &Rig) -> Vec<PointId> {
    let list = rig.repository().await.points().await.expect("points");
    assert_eq!(list.damaged, []);
    list.points.into_iter().map(|point| PointId(point.id.0)).collect()
}

/// Points that are decided about and still there.
async fn expiring(rig: &Rig, location: RepositoryId) -> Vec<PointId> {
    let expiring = rig.db.expiring_points(location).await.expect("points");
    expiring.into_iter().map(|point| point.point_id).collect()
}

/// A look at the repository, as there is one every now and then, and the retention that it asks for.
async fn look(rig: &Rig, repository_id: RepositoryId) {
    let job = NewJob {
        repository_id: Some(repository_id),
        ..NewJob::new(JobKind::Reconcile, "cellar", "a test's look".to_owned())
    };
    let job_id = rig.db.enqueue(&job).await.expect("a queue").expect("a job");
    let job = rig
        .wait("the look", async || Some(rig.db.job(job_id).await.expect("a job")).filter(|job| job.state.is_final()));
    let job = job.await;
    assert_eq!(job.state, JobState::Succeeded);
    rig.retained(repository_id, job.started_at.expect("it ran")).await;
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
    assert_eq!(expiring(&rig, location).await, [made[0]]);
    assert_eq!(rig.points(vm).await.len(), 2, "nobody is offered it any more");
    assert!(!rig.db.repository(location).await.expect("a row").collect_due, "nothing went");

    // The next goes past it.
    rig.run_one(task, JobState::Succeeded).await;
    made.push(rig.points(vm).await[0].point_id);
    let log = rig.log(&rig.db.newest_retain_job(location).await.expect("jobs").expect("a job")).await;
    assert!(log.contains("Retention: 1 old restore point removed."), "{log}");
    assert!(log.contains("removed, no longer kept by “nightly” (last 2)."), "{log}");
    assert!(log.contains("1 restore point more when the location’s object lock lets go."), "{log}");
    let mut left = listed(&rig).await;
    left.sort();
    let mut wanted = vec![made[0], made[2], made[3]];
    wanted.sort();
    assert_eq!(left, wanted);

    // Looking at the repository neither brings it back nor forgets that it is due.
    look(&rig, location).await;
    assert_eq!(rig.points(vm).await.len(), 2);
    assert_eq!(expiring(&rig, location).await, [made[0]]);
    let point = rig.db.point(made[3]).await.expect("a row");
    let disk = rig.folder.path().join("now");
    host.copy_disk("web-01", 2000, &disk).expect("a copy");
    same_bytes(&rig.repository().await, point.point_id, 2000, &disk).await;

    // Its lock has ended: the next look removes it.
    storage.unlock();
    look(&rig, location).await;
    assert_eq!(expiring(&rig, location).await, []);
    assert!(rig.db.point(made[0]).await.is_err(), "its row is gone");
    assert_eq!(listed(&rig).await.len(), 2);
}

/// Gives the task another rule.
async fn change(rig: &Rig, task: TaskId, location: RepositoryId, vm: VmId, retention: Retention) {
    let spec = TaskSpec { machines: &[vm], ..TaskSpec::default() };
    let input = TaskInput { retention, ..Rig::task_input(location, spec) };
    rig.db.update_task(task, &input).await.expect("a task");
}

/// What the console says before such a rule is saved.
async fn preview(rig: &Rig, task: TaskId, location: RepositoryId, vm: VmId, retention: &Retention) -> Vec<PointId> {
    let draft = RetentionDraft {
        task_id: Some(task),
        repository_id: location,
        retention: retention.clone(),
        schedule: Schedule::Manual,
        machines: vec![vm],
    };
    let (machines, _) = rig.db.retention_with(&draft, 10).await.expect("a preview");
    let now = rig.db.now().await.expect("the time");
    let verdicts = machines.iter().flat_map(|machine| machine.decide(now));
    verdicts.filter(domain::retention::Verdict::goes).map(|verdict| verdict.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_killed_between_any_two_steps_goes_on_and_does_what_the_preview_said() {
    let storage = FaultyFolder::endless();
    let mut rig = Rig::with_locations(Arc::new(storage.clone())).await;
    let host = Simulated::quiet(rig.folder.path(), "esx-1", vec![machine("web-01", &[(8, 4)])]).await;
    let device = rig.device(&host).await;
    let vm = rig.vm(device, "web-01").await;
    let location = rig.location().await;
    let task = rig.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
    let (all, one) =
        (Retention::KeepLast { count: 100 }, Retention::from(Rule { last: 1, yearly: 1, ..Rule::default() }));
    // Between marks and the first manifest; manifest and row; row and the next manifest; that manifest and its row.
    for (number, place) in [(0, Halt::Before), (0, Halt::After), (1, Halt::Before), (1, Halt::After)] {
        change(&rig, task, location, vm, all.clone()).await;
        while rig.points(vm).await.len() < 4 {
            rig.run_one(task, JobState::Succeeded).await;
        }
        // Newest first; one is kept by hand.
        let points: Vec<PointId> = rig.points(vm).await.iter().map(|point| point.point_id).collect();
        rig.db.pin_point(points[3], "tester", "").await.expect("pinned");
        let said = preview(&rig, task, location, vm, &one).await;
        assert_eq!(said, points[1..3], "newest first");
        change(&rig, task, location, vm, one.clone()).await;

        rig.stop().await;
        rig.engine.retain(location).await.expect("queued");
        // The oldest goes first.
        storage.halt(&format!("points/{}", points[2 - number]), place);
        let mortal = rig.mortal(Arc::new(storage.clone()));
        storage.halted().await;
        mortal.kill();
        assert_eq!(rig.points(vm).await.len(), 2, "what is marked is offered to nobody");
        assert_eq!(expiring(&rig, location).await.len(), 2 - number, "a row goes after its manifest only");
        let killed = rig.db.newest_retain_job(location).await.expect("jobs").expect("a job");
        assert_eq!(killed.state, JobState::Running);

        rig.start_workers().await;
        let done = rig.wait("the next attempt", async || {
            Some(rig.db.job(killed.job_id).await.expect("a job")).filter(|job| job.state.is_final())
        });
        let done = done.await;
        let log = rig.log(&done).await;
        assert_eq!((done.state, done.attempt), (JobState::Succeeded, 2), "{log}");
        assert_eq!(log.matches("removed, no longer kept by “nightly” (last 1 · 1 yearly).").count(), 2, "{log}");
        assert_eq!(expiring(&rig, location).await, []);
        let mut left = listed(&rig).await;
        left.sort_unstable();
        let mut wanted = vec![points[0], points[3]];
        wanted.sort_unstable();
        assert_eq!(left, wanted, "{place:?} {number}");
        assert_eq!(rig.points(vm).await.len(), 2);
        // It is due, or was begun by the start just now.
        rig.wait("collection", async || {
            let row = rig.db.repository(location).await.expect("a row");
            (row.collect_due || row.collected_at.is_some()).then_some(())
        })
        .await;
        rig.db.unpin_point(points[3]).await.expect("unpinned");
    }
}
