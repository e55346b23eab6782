//! Snapshots of other programs: what is listed, what is ours, and one run for two clicks.

use super::fixture::{LIMITS, device, lease, machine, task};
use crate::testing::database;
use crate::{ChangeKind, Error, ForeignId, ForeignInput, InventoryInput, NewChange, views};
use domain::foreign::Maker;
use domain::job::{JobKind, JobState};
use jiff::{SignedDuration, Timestamp};

fn found(reference: &str, name: &str, created_at: Timestamp) -> ForeignInput {
    let maker = Maker::of(name, true).expect("a maker");
    ForeignInput {
        machine: "ref-u1".to_owned(),
        reference: reference.to_owned(),
        name: name.to_owned(),
        maker,
        created_at,
    }
}

fn inventory(foreign: Vec<ForeignInput>) -> InventoryInput {
    InventoryInput { machines: vec![machine("web", "u1")], foreign, ..InventoryInput::default() }
}

async fn names(db: &crate::Database) -> Vec<String> {
    views::foreign_lines(db).await.unwrap().into_iter().map(|line| line.name).collect()
}

#[tokio::test]
async fn what_is_a_day_old_is_listed_until_it_is_gone_and_ours_never() {
    let db = database().await;
    let device_id = device(&db, "esx").await;
    let now = db.now().await.unwrap();
    let (old, young) = (now - SignedDuration::from_hours(25), now - SignedDuration::from_hours(23));
    db.apply_inventory(device_id, &inventory(Vec::new())).await.unwrap();
    let vm_id = db.machines_of_device(device_id).await.unwrap()[0].vm_id;
    task(&db, "nightly", &[vm_id]).await;
    let task_id = db.tasks().await.unwrap()[0].task_id;
    db.start_run(task_id, "tester", None).await.unwrap();
    let job = lease(&db).await.unwrap();
    let own = NewChange {
        device_id,
        vm_id: Some(vm_id),
        kind: ChangeKind::Snapshot,
        token: "stillframe-1-own".to_owned(),
        machine_ref: Some("ref-u1".to_owned()),
        settles_after: None,
    };
    let change = db.intend_change(job.lease(), &own).await.unwrap();
    db.change_made(change, Some("s-own")).await.unwrap();
    let all = vec![
        found("s-1", "VEEAM BACKUP TEMPORARY SNAPSHOT", old),
        found("s-2", "web - Backup", young),
        // Ours, by its name; and ours, to which the host has given a name of its own.
        found("s-3", "stillframe-1-own", old),
        found("s-own", "web - Backup - (1)", old),
        ForeignInput { machine: "ref-of-none".to_owned(), ..found("s-4", "__GX_BACKUP__", old) },
    ];
    db.apply_inventory(device_id, &inventory(all)).await.unwrap();
    assert_eq!(names(&db).await, ["VEEAM BACKUP TEMPORARY SNAPSHOT"]);
    let sum = views::left_behind(&db).await.unwrap();
    assert_eq!((sum.changes, sum.foreign), (0, 1));
    assert!(db.is_own_snapshot(device_id, "any", "s-own").await.unwrap());
    assert!(!db.is_own_snapshot(device_id, "any", "s-1").await.unwrap());
    db.change_removed(change).await.unwrap();
    assert!(!db.is_own_snapshot(device_id, "any", "s-own").await.unwrap(), "hosts give references again");
    assert!(db.is_own_snapshot(device_id, "stillframe-1-own", "s-9").await.unwrap(), "names never");
    db.set_device_enabled(device_id, false).await.unwrap();
    assert!(names(&db).await.is_empty(), "nobody could remove it");
    db.set_device_enabled(device_id, true).await.unwrap();
    db.apply_inventory(device_id, &inventory(Vec::new())).await.unwrap();
    assert!(names(&db).await.is_empty());
}

#[tokio::test]
async fn two_clicks_are_one_run_which_waits_for_the_machines_backup() {
    let db = database().await;
    let device_id = device(&db, "esx").await;
    let old = db.now().await.unwrap() - SignedDuration::from_hours(25);
    db.apply_inventory(device_id, &inventory(vec![found("s-1", "__GX_BACKUP__", old)])).await.unwrap();
    let line = views::foreign_lines(&db).await.unwrap().remove(0);
    task(&db, "nightly", &[line.vm_id]).await;
    db.start_run(db.tasks().await.unwrap()[0].task_id, "tester", None).await.unwrap();
    let backup = lease(&db).await.unwrap();

    let snapshot = db.foreign_snapshot(line.foreign_id).await.unwrap();
    let run = db.start_cleanup(&snapshot, "tester").await.unwrap();
    assert_eq!(db.start_cleanup(&snapshot, "another").await.unwrap(), run);
    assert!(db.lease_job("w", &[JobKind::Cleanup], LIMITS).await.unwrap().is_none(), "the machine is being backed up");
    db.finish(backup.lease(), crate::Outcome::Succeeded(serde_json::Value::Null)).await.unwrap();
    let job = db.lease_job("w", &[JobKind::Cleanup], LIMITS).await.unwrap().unwrap();
    assert_eq!((job.run_id, job.vm_id), (Some(run), Some(line.vm_id)));
    let order: crate::CleanupOrder = serde_json::from_value(job.payload.clone()).unwrap();
    assert_eq!(order, snapshot.order());
    assert_eq!(views::foreign_lines(&db).await.unwrap()[0].state(), Some(JobState::Running));

    db.foreign_snapshot_gone(line.vm_id, "s-1").await.unwrap();
    db.finish(job.lease(), crate::Outcome::Succeeded(serde_json::Value::Null)).await.unwrap();
    assert!(names(&db).await.is_empty());
    assert!(matches!(db.foreign_snapshot(ForeignId(line.foreign_id.0)).await, Err(Error::NotFound { .. })));
    assert_eq!(
        views::runs(&db, &views::RunFilter { kind: "cleanup".to_owned(), page: 1, ..Default::default() })
            .await
            .unwrap()
            .total,
        1
    );
}
