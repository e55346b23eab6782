//! The index of restore points.

use super::fixture::{self, lease};
use crate::testing::{TestDatabase, database};
use crate::{Error, Job, NewPoint, Outcome, PointId, RepositoryId, TaskId, VmId};
use domain::point::PointKind;
use uuid::Uuid;

struct Scene {
    db: TestDatabase,
    job: Job,
    vm_id: VmId,
    task_id: TaskId,
    repository_id: RepositoryId,
}

async fn scene() -> Scene {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    let repository_id = db.task(task_id).await.unwrap().repository_id;
    db.start_run(task_id, "anna", None).await.unwrap();
    let job = lease(&db).await.unwrap();
    Scene { db, job, vm_id: machines[0], task_id, repository_id }
}

impl Scene {
    fn point(&self, second: i64, kind: PointKind) -> NewPoint {
        let point = fixture::point(&self.job, PointId(Uuid::new_v4()), second, kind);
        NewPoint { repository_id: self.repository_id, task_id: Some(self.task_id), ..point }
    }

    /// As retention marks it.
    async fn expire(&self, point: PointId) {
        let marked = sqlx::query("update restore_point set expiring_since = now() where point_id = $1").bind(point);
        assert_eq!(marked.execute(&self.db.database.pool).await.unwrap().rows_affected(), 1);
    }

    async fn add(&self, second: i64, kind: PointKind) -> PointId {
        let point = self.point(second, kind);
        self.db.insert_point(self.job.lease(), &point).await.unwrap();
        point.point_id
    }
}

#[tokio::test]
async fn a_point_is_kept_whole_and_the_newest_gives_its_marks() {
    let scene = scene().await;
    let (db, vm_id) = (&scene.db, scene.vm_id);
    assert!(db.newest_point(vm_id, scene.repository_id).await.unwrap().is_none());
    scene.add(10, PointKind::Full).await;
    let new = scene.point(20, PointKind::Incremental);
    db.insert_point(scene.job.lease(), &new).await.unwrap();
    db.insert_point(scene.job.lease(), &new).await.unwrap();
    let newest = db.newest_point(vm_id, scene.repository_id).await.unwrap().unwrap();
    assert_eq!((newest.point_id, &newest.marks, &newest.config), (new.point_id, &new.marks, &new.config));
    assert_eq!((newest.taken_at, newest.kind, newest.consistency), (new.taken_at, new.kind, new.consistency));
    assert_eq!(db.points_of_machine(vm_id).await.unwrap().len(), 2);
    assert_eq!(db.points_of_repository(scene.repository_id).await.unwrap()[0], newest);
    assert_eq!(db.points_since_full(vm_id, scene.repository_id).await.unwrap(), 1);
    let full = scene.add(30, PointKind::Full).await;
    assert_eq!(db.points_since_full(vm_id, scene.repository_id).await.unwrap(), 0);
    scene.add(40, PointKind::Differential).await;
    scene.add(50, PointKind::Differential).await;
    assert_eq!(db.points_since_full(vm_id, scene.repository_id).await.unwrap(), 2);
    assert_eq!(db.newest_full(vm_id, scene.repository_id).await.unwrap().unwrap().point_id, full);
    scene.expire(full).await;
    assert_ne!(db.newest_full(vm_id, scene.repository_id).await.unwrap().unwrap().point_id, full, "it is about to go");
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_adds_no_point() {
    let scene = scene().await;
    let point = scene.point(10, PointKind::Full);
    scene.db.finish(scene.job.lease(), Outcome::Succeeded(serde_json::json!({}))).await.unwrap();
    let late = scene.db.insert_point(scene.job.lease(), &point).await;
    assert!(matches!(late, Err(Error::LostLease(_))));
    assert!(scene.db.points_of_machine(scene.vm_id).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_retention_gives_up_is_no_longer_offered_and_goes() {
    let scene = scene().await;
    let db = &scene.db;
    let old = scene.add(10, PointKind::Full).await;
    let new = scene.add(20, PointKind::Incremental).await;
    scene.expire(old).await;
    assert_eq!(db.points_of_machine(scene.vm_id).await.unwrap().len(), 1);
    let expiring = db.expiring_points(scene.repository_id).await.unwrap();
    assert_eq!(
        expiring.iter().map(|point| (point.point_id, point.machine_name.as_str())).collect::<Vec<_>>(),
        [(old, "one-000")]
    );
    db.delete_point(old).await.unwrap();
    db.delete_point(old).await.unwrap();
    assert!(matches!(db.point(old).await, Err(Error::NotFound { .. })));
    db.record_verified(new, Some("a chunk is damaged")).await.unwrap();
    let checked = db.point(new).await.unwrap();
    assert_eq!(checked.verify_error.as_deref(), Some("a chunk is damaged"));
    assert!(checked.verified_at.is_some());
}

#[tokio::test]
async fn rows_are_rebuilt_from_manifests() {
    let scene = scene().await;
    let db = &scene.db;
    let kept = scene.point(10, PointKind::Full);
    db.insert_point(scene.job.lease(), &kept).await.unwrap();
    scene.add(20, PointKind::Full).await;
    let mut found = scene.point(30, PointKind::Incremental);
    found.vm_id = None;
    found.task_id = Some(TaskId(i64::MAX));
    found.job_id = None;
    let (added, removed) = db.import_points(scene.repository_id, &[kept, found.clone()]).await.unwrap();
    assert_eq!((added, removed), (1, 1));
    let row = db.point(found.point_id).await.unwrap();
    assert_eq!((row.vm_id, row.task_id), (Some(scene.vm_id), None));
}

#[tokio::test]
async fn a_point_that_was_adopted_learns_its_task_with_its_row() {
    let scene = scene().await;
    let db = &scene.db;
    let point = scene.point(10, PointKind::Full);
    let manifest = NewPoint { vm_id: None, task_id: None, job_id: None, ..point.clone() };
    assert_eq!(db.adopt_points(scene.repository_id, std::slice::from_ref(&manifest)).await.unwrap(), 1);
    assert_eq!(db.adopt_points(scene.repository_id, &[manifest]).await.unwrap(), 0);
    let adopted = db.point(point.point_id).await.unwrap();
    assert_eq!((adopted.vm_id, adopted.task_id), (Some(scene.vm_id), None), "the machine is found by its key");
    db.insert_point(scene.job.lease(), &point).await.unwrap();
    assert_eq!(db.point(point.point_id).await.unwrap().task_id, Some(scene.task_id));
}
