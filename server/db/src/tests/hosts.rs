//! Devices, their inventory, repositories.

use super::fixture::{self, GIB, machine, new_device};
use crate::testing::database;
use crate::{
    Conflict, DatastoreInput, DeviceUpdate, Error, Event, FullReads, HyperVAccess, InventoryInput, NetworkInput,
    NewDevice, NewRepository, Platform, Preflight, RepositoryId, Transport,
};
use domain::finding::{Finding, Severity};
use domain::job::{JobError, JobKind};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

fn update(name: &str, password: Option<&str>) -> DeviceUpdate {
    DeviceUpdate {
        name: name.to_owned(),
        host: "other.test".to_owned(),
        port: 8443,
        account: "backup".to_owned(),
        password: password.map(SecretString::from),
        certificate_sha256: Some([8; 32]),
        hyperv: HyperVAccess { transport: Transport::SealedHttp, share_port: 1445 },
        full_reads: FullReads::Everything,
        max_jobs: 5,
    }
}

fn inventory(machines: &[(&str, &str)]) -> InventoryInput {
    InventoryInput {
        machines: machines.iter().map(|(name, uuid)| machine(name, uuid)).collect(),
        ..InventoryInput::default()
    }
}

#[tokio::test]
async fn a_device_is_added_once_and_changed() {
    let db = database().await;
    let device_id = fixture::device(&db, "one").await;
    let same_name = db.insert_device(&new_device("One")).await;
    assert!(matches!(same_name, Err(Error::Conflict(Conflict::DeviceName))));
    let mut same_address = new_device("two");
    same_address.host = "ONE.test".to_owned();
    assert!(matches!(db.insert_device(&same_address).await, Err(Error::Conflict(Conflict::DeviceAddress))));

    db.update_device(device_id, &update("renamed", None)).await.unwrap();
    assert_eq!(db.device_password(device_id).await.unwrap().expose_secret(), "password of one");
    db.update_device(device_id, &update("renamed", Some("new"))).await.unwrap();
    assert_eq!(db.device_password(device_id).await.unwrap().expose_secret(), "new");
    let finding = Finding {
        severity: Severity::Blocker,
        code: "free_licence".to_owned(),
        message: "m".to_owned(),
        hint: "h".to_owned(),
    };
    let preflight = Preflight {
        product: "ESXi 8".to_owned(),
        api_version: "8.0".to_owned(),
        host_uuid: Some("uuid".to_owned()),
        findings: vec![finding.clone()],
    };
    db.record_preflight(device_id, &preflight).await.unwrap();
    db.set_device_enabled(device_id, false).await.unwrap();
    let error = JobError::retry("esxi.unreachable", "w", "y", "h");
    db.record_sync_failure(device_id, &error).await.unwrap();
    let device = db.device(device_id).await.unwrap();
    assert_eq!((device.name.as_str(), device.port, device.max_jobs), ("renamed", 8443, 5));
    assert_eq!((device.full_reads, device.certificate_sha256), (FullReads::Everything, Some([8; 32])));
    assert_eq!(device.hyperv, update("renamed", None).hyperv);
    assert_eq!((device.enabled, device.findings, device.sync_error), (false, vec![finding], Some(error)));
    assert!(device.synced_at.is_none() && device.sync_failed_at.is_some());
    let mut too_many = update("renamed", None);
    too_many.max_jobs = 0;
    assert!(matches!(db.update_device(device_id, &too_many).await, Err(Error::OutOfLimits { .. })));
}

#[tokio::test]
async fn a_device_says_what_it_runs() {
    let db = database().await;
    let esxi = fixture::device(&db, "one").await;
    let hyperv = HyperVAccess { transport: Transport::SealedHttp, share_port: 1445 };
    let sealed = || NewDevice { certificate_sha256: None, hyperv, ..new_device("two") };
    let device_id = db.insert_device(&NewDevice { platform: Platform::HyperV, ..sealed() }).await.unwrap();
    assert_eq!(db.device(esxi).await.unwrap().platform, Platform::Esxi);
    let device = db.device(device_id).await.unwrap();
    assert_eq!((device.platform, device.hyperv, device.certificate_sha256), (Platform::HyperV, hyperv, None));
    let tls = HyperVAccess { transport: Transport::TlsNtlm, ..hyperv };
    for without in [sealed(), NewDevice { platform: Platform::HyperV, hyperv: tls, ..sealed() }] {
        let refused = db.insert_device(&NewDevice { name: "three".to_owned(), port: 1, ..without }).await;
        assert!(refused.is_err(), "TLS without a confirmed certificate");
    }
}

#[tokio::test]
async fn a_device_in_use_is_not_removed_and_says_by_what() {
    let db = database().await;
    let (device_id, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    let Err(Error::InUse { by, .. }) = db.remove_device(device_id).await else { panic!("it is in use") };
    assert_eq!(by, ["task “nightly”"]);
    assert_eq!(db.tasks_of_device(device_id).await.unwrap(), ["nightly"]);
    db.start_run(task_id, "anna", None).await.unwrap();
    let job = fixture::lease(&db).await.unwrap();
    let Err(Error::InUse { by, .. }) = db.remove_device(device_id).await else { panic!("it is in use") };
    assert_eq!(by, ["task “nightly”", "the running backup of “one-000”"]);
    db.finish(job.lease(), crate::Outcome::Succeeded(serde_json::json!({}))).await.unwrap();
    db.delete_task(task_id).await.unwrap();
    db.enqueue_housekeeping(JobKind::Inventory, device_id).await.unwrap().unwrap();
    db.remove_device(device_id).await.unwrap();
    assert!(matches!(db.device(device_id).await, Err(Error::NotFound { .. })));
    assert!(db.devices().await.unwrap().is_empty());
    assert_eq!(db.job(job.job_id).await.unwrap().title, "one-000", "the history stays");
}

#[tokio::test]
async fn machines_are_recognised_by_their_uuid() {
    let db = database().await;
    let device_id = fixture::device(&db, "one").await;
    let mut events = {
        let events = db.events().await.unwrap();
        (events.subscribe(), events)
    };
    let changes = db.apply_inventory(device_id, &inventory(&[("a", "1"), ("b", "2")])).await.unwrap();
    assert_eq!(changes.added, ["a", "b"]);
    assert_eq!(events.0.recv().await.unwrap(), Event::DeviceChanged(device_id));
    let a = db.machine_by_uuid(device_id, "1").await.unwrap().unwrap();
    let task_id = fixture::task(&db, "nightly", &[a.vm_id]).await;

    let changes = db.apply_inventory(device_id, &inventory(&[("c", "1")])).await.unwrap();
    assert_eq!(changes.renamed, [("a".to_owned(), "c".to_owned())]);
    assert_eq!((changes.missing, changes.forgotten), (vec!["b".to_owned()], vec!["b".to_owned()]));
    let changes = db.apply_inventory(device_id, &inventory(&[])).await.unwrap();
    assert_eq!((changes.missing, changes.forgotten.len()), (vec!["c".to_owned()], 0), "a task has it");
    assert!(db.machine(a.vm_id).await.unwrap().missing_since.is_some());
    let changes = db.apply_inventory(device_id, &inventory(&[("c", "1")])).await.unwrap();
    assert_eq!(changes.returned, ["c"]);
    assert_eq!(db.task_machines(task_id).await.unwrap(), [a.vm_id]);
    assert!(db.device(device_id).await.unwrap().synced_at.is_some());
}

#[tokio::test]
async fn two_machines_with_one_uuid_are_both_shown() {
    let db = database().await;
    let device_id = fixture::device(&db, "one").await;
    let mut copy = machine("copy", "1");
    copy.reference = "ref-copy".to_owned();
    let mut nameless = machine("nameless", "1");
    nameless.config.instance_uuid = None;
    let input = InventoryInput { machines: vec![machine("a", "1"), copy, nameless], ..InventoryInput::default() };
    db.apply_inventory(device_id, &input).await.unwrap();
    let changes = db.apply_inventory(device_id, &input).await.unwrap();
    assert_eq!(changes, crate::InventoryChanges::default());
    assert_eq!(db.machines_of_device(device_id).await.unwrap().len(), 3);
}

#[tokio::test]
async fn disks_datastores_and_networks_follow_the_host() {
    let db = database().await;
    let device_id = fixture::device(&db, "one").await;
    let mut input = inventory(&[("a", "1")]);
    for name in ["x", "y"] {
        input.datastores.push(DatastoreInput {
            reference: name.to_owned(),
            name: name.to_owned(),
            kind: "VMFS".to_owned(),
            capacity_bytes: GIB,
            free_bytes: GIB / 2,
            accessible: true,
        });
        input.networks.push(NetworkInput { reference: name.to_owned(), name: name.to_owned() });
    }
    db.apply_inventory(device_id, &input).await.unwrap();
    let machine = db.machines_of_device(device_id).await.unwrap().remove(0);
    assert_eq!(db.disks(machine.vm_id).await.unwrap()[0].capacity_bytes, GIB);
    assert_eq!(db.datastores(device_id).await.unwrap().len(), 2);

    let mut grown = input.machines.remove(0);
    grown.disks[0].capacity_bytes = 2 * GIB;
    grown.power = domain::machine::PowerState::Off;
    db.apply_machine(device_id, machine.vm_id, &grown).await.unwrap();
    assert_eq!(db.disks(machine.vm_id).await.unwrap()[0].capacity_bytes, 2 * GIB);
    assert_eq!(db.machine(machine.vm_id).await.unwrap().power, domain::machine::PowerState::Off);
    input.machines.push(grown);
    input.datastores.pop();
    input.networks.remove(0);
    input.datastores[0].free_bytes = 1;
    db.apply_inventory(device_id, &input).await.unwrap();
    let stores = db.datastores(device_id).await.unwrap();
    assert_eq!((stores.len(), stores[0].free_bytes), (1, 1));
    assert_eq!(db.networks(device_id).await.unwrap()[0].name, "y");
    let gone = crate::DeviceId(device_id.0 + 1);
    assert!(matches!(db.apply_inventory(gone, &input).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_repository_is_added_once_and_removed_when_unused() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    let repository_id = db.task(task_id).await.unwrap().repository_id;
    let known = db.repository(repository_id).await.unwrap();
    let other = RepositoryId(Uuid::new_v4());
    let again = NewRepository::folder(other, "other", &known.path, SecretString::from("p"));
    assert!(matches!(db.insert_repository(&again).await, Err(Error::Conflict(Conflict::RepositoryPath))));
    let moved = NewRepository { repository_id, path: "/elsewhere".to_owned(), ..again };
    assert!(matches!(db.insert_repository(&moved).await, Err(Error::Conflict(Conflict::RepositoryId))));
    assert_eq!(db.repository_passphrase(repository_id).await.unwrap().expose_secret(), "open sesame");
    assert!(db.repository_secret(repository_id).await.unwrap().is_none());
    db.mark_collect_due(repository_id).await.unwrap();
    assert!(db.repository(repository_id).await.unwrap().collect_due);
    // A point that goes while a collection runs makes the next one due.
    for (removed_meanwhile, unfinished, due) in [(false, false, false), (true, false, true), (false, true, true)] {
        db.begin_collection(repository_id).await.unwrap();
        if removed_meanwhile {
            db.mark_collect_due(repository_id).await.unwrap();
        }
        db.record_collected(repository_id, 7, unfinished).await.unwrap();
        let collected = db.repository(repository_id).await.unwrap();
        assert_eq!((collected.collected_bytes, collected.collect_due), (Some(7), due));
    }

    db.record_repository_error(repository_id, &JobError::fail("repository.missing", "w", "y", "h")).await.unwrap();
    assert!(db.repository(repository_id).await.unwrap().check_error.is_some());
    db.record_repository_usage(repository_id, Some(3), Some(2), 1).await.unwrap();
    db.rename_repository(repository_id, "first").await.unwrap();
    let known = db.repository(repository_id).await.unwrap();
    assert_eq!((known.capacity_bytes, known.used_bytes, known.check_error), (Some(3), Some(1), None));

    let Err(Error::InUse { by, .. }) = db.remove_repository(repository_id).await else { panic!("it is in use") };
    assert_eq!(by, ["task “nightly”"]);
    db.delete_task(task_id).await.unwrap();
    db.remove_repository(repository_id).await.unwrap();
    assert!(db.repositories().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_secret_of_a_share_is_sealed_beside_its_location() {
    let db = database().await;
    let repository_id = RepositoryId(Uuid::new_v4());
    let new = NewRepository {
        kind: "smb".to_owned(),
        location: serde_json::json!({ "kind": "smb", "address": "nas", "share": "vm", "account": "backup" }),
        secret: Some(SecretString::from("of the share")),
        ..NewRepository::folder(repository_id, "nas", "//nas/vm", SecretString::from("p"))
    };
    db.insert_repository(&new).await.unwrap();
    assert_eq!(db.repository_secret(repository_id).await.unwrap().unwrap().expose_secret(), "of the share");
    let row = db.repository(repository_id).await.unwrap();
    assert_eq!((row.kind.as_str(), &row.location), ("smb", &new.location));
    let stored: String = sqlx::query_scalar("select r::text from repository r").fetch_one(&db.pool).await.unwrap();
    assert!(!stored.contains("of the share"), "{stored}");
}
