//! What a device holds, as it was seen last.
//!
//! A machine is recognised by its instance UUID; its reference and name may change. One that is no longer there is
//! marked missing, and kept while tasks or restore points refer to it.

use crate::choice::{Joined, settle_members};
use crate::column::{MaybeTime, Time, Word, size};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::events::{Event, notify};
use crate::foreign::{ForeignInput, apply_foreign};
use crate::ids::{DeviceId, VmId};
use domain::finding::Finding;
use domain::machine::{MachineConfig, PowerState};
use jiff::Timestamp;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use std::collections::{HashMap, HashSet};

/// A machine that vanished and comes back within this time has its tags still.
const TAGS_KEPT_DAYS: i32 = 30;

/// All that a device holds, as the host reports it.
#[derive(Debug, Clone, Default)]
pub struct InventoryInput {
    /// Machines.
    pub machines: Vec<MachineInput>,
    /// Datastores.
    pub datastores: Vec<DatastoreInput>,
    /// Networks.
    pub networks: Vec<NetworkInput>,
    /// Snapshots that look like another program's.
    pub foreign: Vec<ForeignInput>,
}

/// A machine as the host reports it.
#[derive(Debug, Clone)]
pub struct MachineInput {
    /// Reference on this device.
    pub reference: String,
    /// Hardware; its `instance_uuid` recognises the machine again.
    pub config: MachineConfig,
    /// Power state.
    pub power: PowerState,
    /// Guest operating system in words.
    pub guest_name: String,
    /// First address of the guest.
    pub guest_address: Option<String>,
    /// Folder path.
    pub folder: String,
    /// Path of its resource pool; empty where there is none.
    pub pool: String,
    /// All disks, also those that cannot be backed up.
    pub disks: Vec<DiskInput>,
    /// Change tracking is switched on.
    pub tracking_enabled: bool,
    /// What speaks against a backup.
    pub findings: Vec<Finding>,
}

/// A disk and its place.
#[derive(Debug, Clone)]
pub struct DiskInput {
    /// Device key.
    pub disk_key: i32,
    /// Label.
    pub label: String,
    /// Bytes.
    pub capacity_bytes: u64,
    /// Datastore's name.
    pub datastore: String,
    /// Path in the host's notation.
    pub path: String,
    /// Host's unique id.
    pub uuid: Option<String>,
}

/// A datastore.
#[derive(Debug, Clone)]
pub struct DatastoreInput {
    /// Reference on this device.
    pub reference: String,
    /// Name.
    pub name: String,
    /// `VMFS`, `NFS` …
    pub kind: String,
    /// Bytes.
    pub capacity_bytes: u64,
    /// Bytes.
    pub free_bytes: u64,
    /// Usable.
    pub accessible: bool,
}

/// A network.
#[derive(Debug, Clone)]
pub struct NetworkInput {
    /// Reference on this device.
    pub reference: String,
    /// Name.
    pub name: String,
}

/// What differs from the time before, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InventoryChanges {
    /// New machines.
    pub added: Vec<String>,
    /// Machines with another name: before, now.
    pub renamed: Vec<(String, String)>,
    /// Machines that are no longer there, since now.
    pub missing: Vec<String>,
    /// Machines that are there again.
    pub returned: Vec<String>,
    /// Missing machines nothing refers to; their rows are gone.
    pub forgotten: Vec<String>,
    /// Machines that rules took into tasks, or let go.
    pub joined: Vec<Joined>,
}

/// A machine as it was seen last.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Machine {
    /// Id.
    pub vm_id: VmId,
    /// Its device.
    pub device_id: DeviceId,
    /// Reference on the device.
    pub reference: String,
    /// What recognises it on its device.
    pub instance_uuid: String,
    /// Name.
    pub name: String,
    /// Power state.
    #[sqlx(try_from = "Word")]
    pub power: PowerState,
    /// Guest operating system in words.
    pub guest_name: String,
    /// First address of the guest.
    pub guest_address: Option<String>,
    /// Folder path.
    pub folder: String,
    /// Path of its resource pool; empty where there is none.
    pub pool: String,
    /// Virtual processors.
    #[sqlx(try_from = "i32")]
    pub processors: u32,
    /// Memory, MiB.
    #[sqlx(try_from = "i64")]
    pub memory_mib: u64,
    /// Hardware.
    #[sqlx(json)]
    pub config: MachineConfig,
    /// Change tracking is switched on.
    pub tracking_enabled: bool,
    /// What speaks against a backup.
    #[sqlx(json)]
    pub findings: Vec<Finding>,
    /// Seen last.
    #[sqlx(try_from = "Time")]
    pub seen_at: Timestamp,
    /// No longer there since.
    #[sqlx(try_from = "MaybeTime")]
    pub missing_since: Option<Timestamp>,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Disk {
    /// Its machine.
    pub vm_id: VmId,
    /// Device key.
    pub disk_key: i32,
    /// Label.
    pub label: String,
    /// Bytes.
    #[sqlx(try_from = "i64")]
    pub capacity_bytes: u64,
    /// Datastore's name.
    pub datastore: String,
    /// Path in the host's notation.
    pub path: String,
    /// Host's unique id.
    pub uuid: Option<String>,
}

/// A datastore of a device.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Datastore {
    /// Id.
    pub datastore_id: i64,
    /// Its device.
    pub device_id: DeviceId,
    /// Reference on the device.
    pub reference: String,
    /// Name.
    pub name: String,
    /// `VMFS`, `NFS` …
    pub kind: String,
    /// Bytes.
    #[sqlx(try_from = "i64")]
    pub capacity_bytes: u64,
    /// Bytes.
    #[sqlx(try_from = "i64")]
    pub free_bytes: u64,
    /// Usable.
    pub accessible: bool,
}

/// A network of a device.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Network {
    /// Id.
    pub network_id: i64,
    /// Its device.
    pub device_id: DeviceId,
    /// Reference on the device.
    pub reference: String,
    /// Name.
    pub name: String,
}

impl MachineInput {
    /// The instance UUID; the reference where the host gives none.
    fn identity(&self) -> String {
        self.config.instance_uuid.clone().filter(|uuid| !uuid.is_empty()).unwrap_or_else(|| self.reference.clone())
    }
}

impl Database {
    /// Takes over what the host reports, in one transaction, and says what changed.
    pub async fn apply_inventory(&self, device_id: DeviceId, input: &InventoryInput) -> Result<InventoryChanges> {
        let mut transaction = self.pool.begin().await?;
        // One at a time for a device, and none for a device that was just removed.
        let exists: Option<DeviceId> = sqlx::query_scalar(
            "update device set synced_at = now(), sync_error = null, sync_failed_at = null
             where device_id = $1 returning device_id",
        )
        .bind(device_id)
        .fetch_optional(&mut *transaction)
        .await?;
        if exists.is_none() {
            return Err(Error::not_found("device", device_id));
        }
        let mut changes = apply_machines(&mut transaction, device_id, &input.machines).await?;
        changes.joined = settle_members(&mut transaction, Some(device_id), None).await?;
        apply_datastores(&mut transaction, device_id, &input.datastores).await?;
        apply_networks(&mut transaction, device_id, &input.networks).await?;
        apply_foreign(&mut transaction, device_id, &input.foreign).await?;
        notify(&mut transaction, Event::DeviceChanged(device_id)).await?;
        transaction.commit().await?;
        Ok(changes)
    }

    /// Takes over one machine as the host reports it now, e.g. just before a backup.
    pub async fn apply_machine(&self, device_id: DeviceId, vm_id: VmId, input: &MachineInput) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let instance_uuid: String = sqlx::query_scalar(
            "select instance_uuid from virtual_machine where vm_id = $1 and device_id = $2 for update",
        )
        .bind(vm_id)
        .bind(device_id)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or_else(|| Error::not_found("machine", vm_id))?;
        upsert_machine(&mut transaction, device_id, &instance_uuid, input).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// A machine.
    pub async fn machine(&self, vm_id: VmId) -> Result<Machine> {
        sqlx::query_as("select * from virtual_machine where vm_id = $1")
            .bind(vm_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("machine", vm_id))
    }

    /// Machines of a device, by name.
    pub async fn machines_of_device(&self, device_id: DeviceId) -> Result<Vec<Machine>> {
        Ok(sqlx::query_as("select * from virtual_machine where device_id = $1 order by lower(name), vm_id")
            .bind(device_id)
            .fetch_all(&self.pool)
            .await?)
    }

    /// The machine that has this instance UUID on the device.
    pub async fn machine_by_uuid(&self, device_id: DeviceId, instance_uuid: &str) -> Result<Option<Machine>> {
        Ok(sqlx::query_as("select * from virtual_machine where device_id = $1 and instance_uuid = $2")
            .bind(device_id)
            .bind(instance_uuid)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Disks of a machine, by key.
    pub async fn disks(&self, vm_id: VmId) -> Result<Vec<Disk>> {
        Ok(sqlx::query_as("select * from virtual_disk where vm_id = $1 order by disk_key")
            .bind(vm_id)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Datastores of a device, by name.
    pub async fn datastores(&self, device_id: DeviceId) -> Result<Vec<Datastore>> {
        Ok(sqlx::query_as("select * from datastore where device_id = $1 order by lower(name), datastore_id")
            .bind(device_id)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Networks of a device, by name.
    pub async fn networks(&self, device_id: DeviceId) -> Result<Vec<Network>> {
        Ok(sqlx::query_as("select * from network where device_id = $1 order by lower(name), network_id")
            .bind(device_id)
            .fetch_all(&self.pool)
            .await?)
    }
}

type Tx<'a> = Transaction<'a, Postgres>;

struct Known {
    name: String,
    missing: bool,
}

async fn apply_machines(
    transaction: &mut Tx<'_>,
    device_id: DeviceId,
    machines: &[MachineInput],
) -> Result<InventoryChanges> {
    let known: Vec<(String, String, bool)> = sqlx::query_as(
        "select instance_uuid, name, missing_since is not null from virtual_machine where device_id = $1",
    )
    .bind(device_id)
    .fetch_all(&mut **transaction)
    .await?;
    let known: HashMap<String, Known> =
        known.into_iter().map(|(uuid, name, missing)| (uuid, Known { name, missing })).collect();
    let mut changes = InventoryChanges::default();
    let mut seen = HashSet::new();
    for machine in machines {
        let mut identity = machine.identity();
        if seen.contains(&identity) {
            // Two machines with one UUID: copied by hand on the datastore. Both are shown.
            identity = format!("{identity}#{}", machine.reference);
        }
        match known.get(&identity) {
            None => changes.added.push(machine.config.name.clone()),
            Some(before) => {
                if before.name != machine.config.name {
                    changes.renamed.push((before.name.clone(), machine.config.name.clone()));
                }
                if before.missing {
                    changes.returned.push(machine.config.name.clone());
                }
            }
        }
        upsert_machine(transaction, device_id, &identity, machine).await?;
        seen.insert(identity);
    }
    let seen: Vec<String> = seen.into_iter().collect();
    mark_missing(transaction, device_id, &seen, &mut changes).await?;
    Ok(changes)
}

async fn upsert_machine(
    transaction: &mut Tx<'_>,
    device_id: DeviceId,
    identity: &str,
    machine: &MachineInput,
) -> Result<()> {
    let vm_id: VmId = sqlx::query_scalar(
        "insert into virtual_machine (device_id, instance_uuid, reference, name, power, guest_name, guest_address,
             folder, processors, memory_mib, config, tracking_enabled, findings, pool)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         on conflict (device_id, instance_uuid) do update set reference = excluded.reference, name = excluded.name,
             power = excluded.power, guest_name = excluded.guest_name, guest_address = excluded.guest_address,
             folder = excluded.folder, processors = excluded.processors, memory_mib = excluded.memory_mib,
             config = excluded.config, tracking_enabled = excluded.tracking_enabled, findings = excluded.findings,
             pool = excluded.pool, seen_at = now(), missing_since = null
         returning vm_id",
    )
    .bind(device_id)
    .bind(identity)
    .bind(&machine.reference)
    .bind(&machine.config.name)
    .bind(machine.power.as_str())
    .bind(&machine.guest_name)
    .bind(&machine.guest_address)
    .bind(&machine.folder)
    .bind(i32::try_from(machine.config.processors).unwrap_or(i32::MAX))
    .bind(size(machine.config.memory_mib))
    .bind(Json(&machine.config))
    .bind(machine.tracking_enabled)
    .bind(Json(&machine.findings))
    .bind(&machine.pool)
    .fetch_one(&mut **transaction)
    .await?;
    apply_disks(transaction, vm_id, &machine.disks).await
}

async fn apply_disks(transaction: &mut Tx<'_>, vm_id: VmId, disks: &[DiskInput]) -> Result<()> {
    sqlx::query("delete from virtual_disk where vm_id = $1").bind(vm_id).execute(&mut **transaction).await?;
    for disk in disks {
        sqlx::query(
            "insert into virtual_disk (vm_id, disk_key, label, capacity_bytes, datastore, path, uuid)
             values ($1, $2, $3, $4, $5, $6, $7) on conflict (vm_id, disk_key) do nothing",
        )
        .bind(vm_id)
        .bind(disk.disk_key)
        .bind(&disk.label)
        .bind(size(disk.capacity_bytes))
        .bind(&disk.datastore)
        .bind(&disk.path)
        .bind(&disk.uuid)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

async fn mark_missing(
    transaction: &mut Tx<'_>,
    device_id: DeviceId,
    seen: &[String],
    changes: &mut InventoryChanges,
) -> Result<()> {
    changes.missing = sqlx::query_scalar(
        "update virtual_machine set missing_since = now()
         where device_id = $1 and missing_since is null and not (instance_uuid = any($2)) returning name",
    )
    .bind(device_id)
    .bind(seen)
    .fetch_all(&mut **transaction)
    .await?;
    changes.forgotten = sqlx::query_scalar(
        "delete from virtual_machine v where device_id = $1 and missing_since is not null
             and (tags = '{}' or missing_since < now() - make_interval(days => $2))
             and not exists (select from restore_point p where p.vm_id = v.vm_id)
             and not exists (select from backup_task_machine m join backup_task t using (task_id)
                             where m.vm_id = v.vm_id and t.deleted_at is null)
             and not exists (select from job j where j.vm_id = v.vm_id and j.state in ('queued', 'running'))
         returning name",
    )
    .bind(device_id)
    .bind(TAGS_KEPT_DAYS)
    .fetch_all(&mut **transaction)
    .await?;
    Ok(())
}

async fn apply_datastores(transaction: &mut Tx<'_>, device_id: DeviceId, stores: &[DatastoreInput]) -> Result<()> {
    for store in stores {
        sqlx::query(
            "insert into datastore (device_id, reference, name, kind, capacity_bytes, free_bytes, accessible)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (device_id, reference) do update set name = excluded.name, kind = excluded.kind,
                 capacity_bytes = excluded.capacity_bytes, free_bytes = excluded.free_bytes,
                 accessible = excluded.accessible",
        )
        .bind(device_id)
        .bind(&store.reference)
        .bind(&store.name)
        .bind(&store.kind)
        .bind(size(store.capacity_bytes))
        .bind(size(store.free_bytes))
        .bind(store.accessible)
        .execute(&mut **transaction)
        .await?;
    }
    let seen: Vec<&str> = stores.iter().map(|store| store.reference.as_str()).collect();
    sqlx::query("delete from datastore where device_id = $1 and not (reference = any($2))")
        .bind(device_id)
        .bind(seen)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn apply_networks(transaction: &mut Tx<'_>, device_id: DeviceId, networks: &[NetworkInput]) -> Result<()> {
    for network in networks {
        sqlx::query(
            "insert into network (device_id, reference, name) values ($1, $2, $3)
             on conflict (device_id, reference) do update set name = excluded.name",
        )
        .bind(device_id)
        .bind(&network.reference)
        .bind(&network.name)
        .execute(&mut **transaction)
        .await?;
    }
    let seen: Vec<&str> = networks.iter().map(|network| network.reference.as_str()).collect();
    sqlx::query("delete from network where device_id = $1 and not (reference = any($2))")
        .bind(device_id)
        .bind(seen)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
