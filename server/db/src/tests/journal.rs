//! The journal of changes on hosts.

use super::fixture::{self, lease};
use crate::testing::database;
use crate::{ChangeKind, ChangeState, Conflict, Error, NewChange, back_off};

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
    };
    let change_id = db.intend_change(job.lease(), &change).await.unwrap();
    db.change_made(change_id, Some("vm-9")).await.unwrap();
    db.change_kept(change_id).await.unwrap();
    assert!(db.open_changes(device_id).await.unwrap().is_empty());
}
