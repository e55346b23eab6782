//! How much at once, and whose turn it is.

use super::fixture::{self, GIB, LIMITS, machine};
use crate::testing::{TestDatabase, database};
use crate::{DeviceId, DeviceLimits, DiskInput, Error, InventoryInput, Job, MachineInput, NewRestore, TaskId, VmId};
use crate::{Outcome, TaskInput};
use domain::job::JobKind;
use serde_json::json;

/// A device whose machines lie on datastores of these names.
async fn device_on(db: &TestDatabase, name: &str, datastores: &[&str]) -> (DeviceId, Vec<VmId>) {
    let device = fixture::device(db, name).await;
    let of = |(number, datastore): (usize, &&str)| {
        let name = format!("{name}-{number:02}");
        let disk = |disk_key| DiskInput {
            disk_key,
            label: format!("Hard disk {disk_key}"),
            capacity_bytes: GIB,
            datastore: (*datastore).to_owned(),
            path: String::new(),
            uuid: None,
        };
        MachineInput { disks: vec![disk(2000), disk(2001)], ..machine(&name, &name) }
    };
    let machines = datastores.iter().enumerate().map(of).collect();
    db.apply_inventory(device, &InventoryInput { machines, ..InventoryInput::default() }).await.unwrap();
    db.execute("update device set max_jobs = 64").await;
    let machines = db.machines_of_device(device).await.unwrap().iter().map(|machine| machine.vm_id).collect();
    (device, machines)
}

async fn run(db: &TestDatabase, name: &str, machines: &[VmId], priority: i32) -> TaskId {
    let repository = fixture::repository(db).await;
    let input = TaskInput { priority, ..fixture::task_input(name, repository, machines) };
    let task = db.create_task(&input).await.unwrap();
    db.start_run(task, "anna", None).await.unwrap();
    task
}

async fn lease_all(db: &TestDatabase) -> Vec<Job> {
    let mut jobs = Vec::new();
    while let Some(job) = db.lease_job("w", &JobKind::ALL, LIMITS).await.unwrap() {
        jobs.push(job);
    }
    jobs
}

fn titles(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().map(|job| job.title.as_str()).collect()
}

#[tokio::test]
async fn a_datastore_has_its_own_limit_whatever_the_device_may() {
    let db = database().await;
    let (device, machines) = device_on(&db, "one", &["a", "a", "a", "b"]).await;
    let limits = DeviceLimits { per_datastore: 2, reserve_percent: 7 };
    db.set_device_limits(device, limits).await.unwrap();
    assert_eq!(db.device_limits(device).await.unwrap(), limits);
    let task = run(&db, "nightly", &machines, 0).await;
    let jobs = lease_all(&db).await;
    assert_eq!(titles(&jobs), ["one-00", "one-01", "one-03"], "two disks of a machine count once");
    // A restore to a datastore counts there as well.
    let restore = |datastore: &str| NewRestore {
        title: "Restore".to_owned(),
        machine_name: format!("to {datastore}"),
        started_by: "anna".to_owned(),
        vm_id: None,
        device_id: device,
        repository_id: jobs[0].repository_id.unwrap(),
        payload: json!({ "datastore": datastore }),
    };
    db.start_restore(&restore("a")).await.unwrap();
    db.start_restore(&restore("b")).await.unwrap();
    assert_eq!(titles(&lease_all(&db).await), ["to b"]);
    db.finish(jobs[0].lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    assert_eq!(titles(&lease_all(&db).await), ["to a"], "restores go before backups");
    db.finish(jobs[1].lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    assert_eq!(titles(&lease_all(&db).await), ["one-02"]);
    let wrong = db.set_device_limits(device, DeviceLimits { per_datastore: 0, reserve_percent: 0 }).await;
    assert!(matches!(wrong, Err(Error::OutOfLimits { .. })), "{wrong:?}");
    let none = db.set_device_limits(DeviceId(i64::MAX), limits).await;
    assert!(matches!(none, Err(Error::NotFound { .. })));
    assert!(db.task(task).await.is_ok());
}

#[tokio::test]
async fn a_repository_has_a_limit_over_all_devices() {
    let db = database().await;
    let (_, one) = device_on(&db, "one", &["a", "b"]).await;
    let (_, two) = device_on(&db, "two", &["a", "b"]).await;
    let both: Vec<VmId> = one.into_iter().chain(two).collect();
    let task = run(&db, "nightly", &both, 0).await;
    let repository = db.task(task).await.unwrap().repository_id;
    db.set_repository_max_jobs(repository, 3).await.unwrap();
    assert_eq!(db.repository_max_jobs(repository).await.unwrap(), 3);
    assert_eq!(lease_all(&db).await.len(), 3);
    assert!(matches!(db.set_repository_max_jobs(repository, 65).await, Err(Error::OutOfLimits { .. })));
}

#[tokio::test]
async fn a_large_run_does_not_keep_a_small_one_waiting_and_priority_goes_first() {
    let db = database().await;
    let (_, large) = device_on(&db, "large", &["a"; 20]).await;
    let (_, small) = device_on(&db, "small", &["b"; 2]).await;
    let (_, urgent) = device_on(&db, "urgent", &["c"; 2]).await;
    db.execute("update device set max_jobs_datastore = 64").await;
    run(&db, "large", &large, 0).await;
    run(&db, "small", &small, 0).await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(db.lease_job("w", &JobKind::ALL, LIMITS).await.unwrap().unwrap());
    }
    assert_eq!(titles(&jobs), ["large-00", "small-00", "large-01", "small-01"]);
    run(&db, "urgent", &urgent, 1).await;
    run(&db, "later", &large[10..], -1).await;
    let next = lease_all(&db).await;
    assert_eq!(titles(&next)[..3], ["urgent-00", "urgent-01", "large-02"]);
}
