//! A device with machines, a repository and a task, as tests need them.

use crate::testing::TestDatabase;
use crate::{
    DeviceId, DiskInput, HyperVAccess, InventoryInput, Job, LeaseLimits, MachineInput, Method, NewDevice, NewPoint,
    NewRepository, Platform, PointId, Preflight, RepositoryId, TaskId, TaskInput, VmId,
};
use domain::job::JobKind;
use domain::machine::{Firmware, MachineConfig, PowerState, Quiesce};
use domain::mode::{Mode, Shutdown};
use domain::point::{ChangeMark, Consistency, PointKind};
use domain::retention::Retention;
use domain::schedule::Schedule;
use jiff::Timestamp;
use secrecy::SecretString;
use uuid::Uuid;

pub(super) const LIMITS: LeaseLimits = LeaseLimits { copies: 100 };
pub(super) const GIB: u64 = 1 << 30;

pub(super) fn new_device(name: &str) -> NewDevice {
    NewDevice {
        platform: Platform::Esxi,
        name: name.to_owned(),
        host: format!("{name}.test"),
        port: 443,
        account: "root".to_owned(),
        password: SecretString::from(format!("password of {name}")),
        certificate_sha256: Some([7; 32]),
        hyperv: HyperVAccess::default(),
        simulated: true,
        preflight: Preflight { product: "ESXi".to_owned(), ..Preflight::default() },
    }
}

pub(super) fn config(name: &str, uuid: &str) -> MachineConfig {
    MachineConfig {
        name: name.to_owned(),
        guest_id: "debian12_64Guest".to_owned(),
        firmware: Firmware::Bios,
        secure_boot: false,
        processors: 2,
        memory_mib: 2048,
        hardware_version: "vmx-19".to_owned(),
        instance_uuid: Some(uuid.to_owned()),
        bios_uuid: None,
        notes: String::new(),
        controllers: Vec::new(),
        disks: Vec::new(),
        ..MachineConfig::default()
    }
}

pub(super) fn machine(name: &str, uuid: &str) -> MachineInput {
    MachineInput {
        reference: format!("ref-{uuid}"),
        config: config(name, uuid),
        power: PowerState::On,
        guest_name: "Debian 12".to_owned(),
        guest_address: None,
        folder: String::new(),
        pool: String::new(),
        disks: vec![DiskInput {
            disk_key: 2000,
            label: "Hard disk 1".to_owned(),
            capacity_bytes: GIB,
            datastore: "datastore1".to_owned(),
            path: format!("[datastore1] {name}/{name}.vmdk"),
            uuid: None,
        }],
        tracking_enabled: false,
        findings: Vec::new(),
    }
}

pub(super) async fn device(db: &TestDatabase, name: &str) -> DeviceId {
    db.insert_device(&new_device(name)).await.unwrap()
}

/// A device with so many machines `name-0`, `name-1` …
pub(super) async fn device_with_machines(db: &TestDatabase, name: &str, count: usize) -> (DeviceId, Vec<VmId>) {
    let device_id = device(db, name).await;
    let machines = (0..count).map(|n| machine(&format!("{name}-{n:03}"), &format!("{name}-uuid-{n}"))).collect();
    db.apply_inventory(device_id, &InventoryInput { machines, ..InventoryInput::default() }).await.unwrap();
    let machines = db.machines_of_device(device_id).await.unwrap().iter().map(|machine| machine.vm_id).collect();
    (device_id, machines)
}

pub(super) async fn repository(db: &TestDatabase) -> RepositoryId {
    let repository_id = RepositoryId(Uuid::new_v4());
    let (name, path) = (format!("repository {repository_id}"), format!("/backup/{repository_id}"));
    let new = NewRepository::folder(repository_id, &name, &path, SecretString::from("open sesame"));
    db.insert_repository(&new).await.unwrap();
    repository_id
}

pub(super) fn task_input(name: &str, repository_id: RepositoryId, machines: &[VmId]) -> TaskInput {
    TaskInput {
        name: name.to_owned(),
        repository_id,
        schedule: Schedule::Manual,
        retention: Retention::KeepLast { count: 3 },
        method: Method::Incremental,
        full_every: 7,
        quiesce: Quiesce::Prefer,
        mode: Mode::Hot,
        shutdown: Shutdown::default(),
        goal_minutes: None,
        machines: machines.to_vec(),
        priority: 0,
        choice: domain::choice::Choice::default(),
        excluded_disks: Vec::new(),
    }
}

pub(super) async fn task(db: &TestDatabase, name: &str, machines: &[VmId]) -> TaskId {
    let repository_id = repository(db).await;
    db.create_task(&task_input(name, repository_id, machines)).await.unwrap()
}

/// A point of the job's machine, made at that second.
pub(super) fn point(job: &Job, point_id: PointId, second: i64, kind: PointKind) -> NewPoint {
    NewPoint {
        point_id,
        repository_id: job.repository_id.unwrap(),
        vm_id: job.vm_id,
        task_id: None,
        job_id: Some(job.job_id),
        machine_name: "one-000".to_owned(),
        machine_key: format!("{}/one-uuid-0", job.device_id.unwrap()),
        taken_at: Timestamp::from_second(second).unwrap(),
        kind,
        consistency: Consistency::Crash,
        size_bytes: GIB,
        bytes_read: 2,
        bytes_stored: 1,
        config: config("one-000", "one-uuid-0"),
        marks: vec![ChangeMark { disk_key: 2000, disk_uuid: None, capacity_bytes: GIB, token: format!("52 {second}") }],
        warnings: vec!["careful".to_owned()],
        simulated: true,
    }
}

/// Leases the next backup or restore.
pub(super) async fn lease(db: &TestDatabase) -> Option<Job> {
    db.lease_job("worker", &[JobKind::Backup, JobKind::Restore], LIMITS).await.unwrap()
}
