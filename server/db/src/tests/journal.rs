//! The journal of changes on hosts.

use super::fixture::{self, GIB, lease};
use crate::testing::{TestDatabase, database};
use crate::{ChangeId, ChangeKind, ChangeState, Conflict, Error, Job, NewChange, NewPoint, PointId, back_off, views};
use domain::point::{ChangeMark, PointKind};
use std::time::Duration;
use uuid::Uuid;

#[tokio::test]
async fn a_change_is_written_before_followed_and_left_to_the_reconciler_when_its_job_dies() {
    let db = database().await;
    let (device_id, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    db.start_run(task_id, "anna", None).await.unwrap();
    let job = lease(&db).await.unwrap();
    let change = NewChange {
        device_id,
        vm_id: Some(machines[0]),
        kind: ChangeKind::Snapshot,
        token: "stillframe-1".to_owned(),
        machine_ref: Some("ref-1".to_owned()),
        settles_after: None,
    };
    let change_id = db.intend_change(job.lease(), &change).await.unwrap();
    let twice = db.intend_change(job.lease(), &change).await;
    assert!(matches!(twice, Err(Error::Conflict(Conflict::ChangeToken))));
    let open = db.open_changes(device_id).await.unwrap();
    assert_eq!((open[0].state, open[0].owner_alive), (ChangeState::Intended, true));
    assert!(db.devices_to_reconcile().await.unwrap().is_empty());
    db.change_made(change_id, Some("snapshot-7")).await.unwrap();
    assert!(db.knows_change("stillframe-1").await.unwrap() && !db.knows_change("stillframe-x").await.unwrap());

    db.execute("update job set lease_expires_at = now()").await;
    assert_eq!(db.devices_to_reconcile().await.unwrap(), [device_id], "as soon as the lease has run out");
    db.reap(back_off).await.unwrap();
    let late = NewChange { token: "stillframe-2".to_owned(), ..change };
    assert!(matches!(db.intend_change(job.lease(), &late).await, Err(Error::LostLease(_))));
    let open = db.open_changes(device_id).await.unwrap().remove(0);
    assert_eq!((open.state, open.owner_alive), (ChangeState::Made, false));
    assert_eq!((open.object_ref.as_deref(), open.token.as_str()), (Some("snapshot-7"), "stillframe-1"));
    let Err(Error::InUse { .. }) = db.remove_device(device_id).await else { panic!("something is left on it") };

    db.change_removing(change_id).await.unwrap();
    db.change_failed(change_id, "the host is away").await.unwrap();
    let open = db.open_changes(device_id).await.unwrap().remove(0);
    assert_eq!((open.state, open.last_error.as_deref()), (ChangeState::Removing, Some("the host is away")));
    db.change_removed(change_id).await.unwrap();
    db.change_made(change_id, None).await.unwrap();
    db.change_kept(change_id).await.unwrap();
    assert!(db.open_changes(device_id).await.unwrap().is_empty(), "removed stays removed");
    assert!(db.devices_to_reconcile().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restored_machine_is_kept() {
    let db = database().await;
    let (device_id, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    db.start_run(task_id, "anna", None).await.unwrap();
    let job = lease(&db).await.unwrap();
    let change = NewChange {
        device_id,
        vm_id: None,
        kind: ChangeKind::Import,
        token: "stillframe-restore-1".to_owned(),
        machine_ref: None,
        settles_after: None,
    };
    let change_id = db.intend_change(job.lease(), &change).await.unwrap();
    db.change_made(change_id, Some("vm-9")).await.unwrap();
    db.change_kept(change_id).await.unwrap();
    assert!(db.open_changes(device_id).await.unwrap().is_empty());
}

/// A running job on a machine, with a way to write down that the machine is shut down.
async fn shut_down(db: &TestDatabase, job: &Job, token: &str, settles_after: Duration) -> ChangeId {
    let change = NewChange {
        device_id: job.device_id.unwrap(),
        vm_id: job.vm_id,
        kind: ChangeKind::Power,
        token: token.to_owned(),
        machine_ref: Some("ref-1".to_owned()),
        settles_after: Some(settles_after),
    };
    db.intend_change(job.lease(), &change).await.unwrap()
}

async fn running_job(db: &TestDatabase) -> Job {
    let (_, machines) = fixture::device_with_machines(db, "one", 1).await;
    let task_id = fixture::task(db, "nightly", &machines).await;
    db.start_run(task_id, "anna", None).await.unwrap();
    lease(db).await.unwrap()
}

#[tokio::test]
async fn a_shutdown_that_was_asked_for_may_still_come_until_it_was_seen() {
    let db = database().await;
    let job = running_job(&db).await;
    let device_id = job.device_id.unwrap();
    let change_id = shut_down(&db, &job, "p-1", Duration::from_secs(3600)).await;
    assert!(db.open_changes(device_id).await.unwrap()[0].may_come);
    assert_eq!(views::left_behind(&db).await.unwrap().changes, 0, "its job runs");
    db.execute("update job set state = 'failed'").await;
    assert_eq!(views::left_behind(&db).await.unwrap().changes, 0, "the machine runs, as far as is known");
    assert_eq!(db.devices_to_reconcile().await.unwrap(), [device_id], "but it is watched");
    db.execute("update host_change set settles_at = now()").await;
    assert!(!db.open_changes(device_id).await.unwrap()[0].may_come, "its time is over");
    db.execute("update host_change set settles_at = now() + interval '1 h'").await;
    db.change_made(change_id, None).await.unwrap();
    assert!(!db.open_changes(device_id).await.unwrap()[0].may_come, "it came");
    assert_eq!(views::left_behind(&db).await.unwrap().changes, 1);
    let page = views::device_page(&db, device_id).await.unwrap().unwrap();
    assert_eq!(page.left_behind, 1);
}

#[tokio::test]
async fn a_machine_is_switched_on_by_one_and_for_all_requests_before() {
    let db = database().await;
    let job = running_job(&db).await;
    let device_id = job.device_id.unwrap();
    let dead = shut_down(&db, &job, "p-1", Duration::from_secs(3600)).await;
    db.execute("update job set lease_expires_at = now()").await;
    db.reap(|_| Duration::ZERO).await.unwrap();
    assert!(db.claim_power(dead).await.unwrap() && db.claim_power(dead).await.unwrap(), "as often as it takes");
    let again = lease(&db).await.unwrap();
    let own = shut_down(&db, &again, "p-2", Duration::from_secs(3600)).await;
    assert!(!db.claim_power(dead).await.unwrap(), "the machine is off for a job that lives");
    assert!(db.claim_power(own).await.unwrap());
    db.power_restored(own).await.unwrap();
    assert!(db.open_changes(device_id).await.unwrap().is_empty(), "the request of the dead attempt is spent too");
    assert!(!db.claim_power(own).await.unwrap());
}

#[tokio::test]
async fn marks_are_idle_when_neither_the_newest_point_nor_the_last_full_needs_them() {
    let db = database().await;
    let job = running_job(&db).await;
    let (device_id, vm_id) = (job.device_id.unwrap(), job.vm_id.unwrap());
    let repository_id = job.repository_id.unwrap();
    let mut points = Vec::new();
    let kinds = [PointKind::Full, PointKind::Differential, PointKind::Full, PointKind::Differential];
    for (second, kind) in (1..).zip(kinds.into_iter().chain([PointKind::Incremental; 2])) {
        let point_id = PointId(Uuid::new_v4());
        let change = NewChange {
            device_id,
            vm_id: Some(vm_id),
            kind: ChangeKind::Marks,
            token: format!("m-{point_id}"),
            machine_ref: Some("ref-1".to_owned()),
            settles_after: None,
        };
        let change_id = db.intend_change(job.lease(), &change).await.unwrap();
        db.marks_intended(change_id, &["rct 0".to_owned()]).await.unwrap();
        assert_eq!(db.open_changes(device_id).await.unwrap()[0].marks_before, Some(vec!["rct 0".to_owned()]));
        let mark = ChangeMark { disk_key: 2000, disk_uuid: None, capacity_bytes: GIB, token: format!("rct {second}") };
        db.marks_made(change_id, point_id, std::slice::from_ref(&mark)).await.unwrap();
        assert_eq!(db.open_changes(device_id).await.unwrap()[0].marks, [mark]);
        let point = fixture::point(&job, point_id, second, kind);
        db.insert_point(job.lease(), &NewPoint { repository_id, ..point }).await.unwrap();
        db.change_kept(change_id).await.unwrap();
        points.push(change_id);
    }
    let idle = db.idle_marks(vm_id).await.unwrap();
    let ids: Vec<_> = idle.iter().map(|change| change.change_id).collect();
    assert_eq!(ids, [points[0], points[1], points[3], points[4]]);
    assert_eq!(idle[0].marks[0].token, "rct 1");
    assert_eq!(db.known_marks(vm_id).await.unwrap().len(), 6);
    for change in &idle[1..] {
        db.marks_forgotten(change.change_id).await.unwrap();
    }
    assert_eq!(db.known_marks(vm_id).await.unwrap().len(), 3, "what was let go of is not known any more");
    db.change_failed(idle[0].change_id, "the host is away").await.unwrap();
    assert_eq!(db.idle_marks(vm_id).await.unwrap().len(), 1, "it is tried again");
    assert!(db.open_changes(device_id).await.unwrap().is_empty(), "kept marks are nothing left behind");
}
