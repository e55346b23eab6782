//! Devices and what they hold.

use crate::column::{MaybeTime, Time, Word};
use crate::devices::{HyperVAccess, Platform, Transport};
use crate::ids::{DeviceId, VmId};
use crate::journal::left_behind;
use crate::{Database, Result};
use domain::finding::Finding;
use domain::job::JobError;
use domain::machine::PowerState;
use jiff::Timestamp;

/// A device in the list.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeviceLine {
    /// Its id.
    pub device_id: DeviceId,
    /// What it runs.
    #[sqlx(rename = "kind", try_from = "Word")]
    pub platform: Platform,
    /// How it is reached; of Hyper-V only.
    #[sqlx(try_from = "Word")]
    pub transport: Transport,
    /// Name.
    pub name: String,
    /// Address.
    pub host: String,
    /// Port.
    pub port: i32,
    /// Not a real host.
    pub simulated: bool,
    /// Used by tasks and synchronised.
    pub enabled: bool,
    /// Product in words.
    pub product: String,
    /// Worst first.
    #[sqlx(json)]
    pub findings: Vec<Finding>,
    /// Inventory was read.
    #[sqlx(try_from = "MaybeTime")]
    pub synced_at: Option<Timestamp>,
    /// Why the last reading failed.
    #[sqlx(json(nullable))]
    pub sync_error: Option<JobError>,
    /// An inventory job waits or runs.
    pub syncing: bool,
    /// Machines.
    pub machines: i64,
    /// Machines in a task.
    pub in_tasks: i64,
}

/// All devices, by name.
pub async fn devices(db: &Database) -> Result<Vec<DeviceLine>> {
    let lines = sqlx::query_as(
        "select d.device_id, d.kind, d.transport, d.name, d.host, d.port, d.simulated, d.enabled, d.product, d.findings, d.synced_at,
                d.sync_error,
                exists (select 1 from job j where j.device_id = d.device_id and j.kind = 'inventory'
                        and j.state in ('queued', 'running')) as syncing,
                coalesce(v.machines, 0) as machines, coalesce(v.in_tasks, 0) as in_tasks
         from device d left join (
             select v.device_id, count(*) as machines,
                    count(*) filter (where exists (
                        select 1 from backup_task_machine m join backup_task t using (task_id)
                        where m.vm_id = v.vm_id and t.deleted_at is null)) as in_tasks
             from virtual_machine v where v.missing_since is null group by v.device_id) v using (device_id)
         order by lower(d.name)",
    )
    .fetch_all(&db.pool)
    .await?;
    Ok(lines)
}

/// A device on its page. Its password is not among the facts.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DevicePage {
    /// Its id.
    pub device_id: DeviceId,
    /// Name.
    pub name: String,
    /// Address.
    pub host: String,
    /// Port.
    pub port: i32,
    /// Account.
    pub account: String,
    /// What it runs.
    #[sqlx(rename = "kind", try_from = "Word")]
    pub platform: Platform,
    /// SHA-256 of the pinned certificate; none where there is no TLS.
    pub certificate_sha256: Option<[u8; 32]>,
    /// Of Hyper-V only.
    #[sqlx(flatten)]
    pub hyperv: HyperVAccess,
    /// The host's own id.
    pub host_uuid: Option<String>,
    /// Not a real host.
    pub simulated: bool,
    /// Used.
    pub enabled: bool,
    /// `allocated` or `everything`.
    pub full_reads: String,
    /// Jobs at the same time.
    pub max_jobs: i32,
    /// Product in words.
    pub product: String,
    /// API version.
    pub api_version: String,
    /// Worst first.
    #[sqlx(json)]
    pub findings: Vec<Finding>,
    /// Added.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// Inventory was read.
    #[sqlx(try_from = "MaybeTime")]
    pub synced_at: Option<Timestamp>,
    /// Why the last reading failed.
    #[sqlx(json(nullable))]
    pub sync_error: Option<JobError>,
    /// When.
    #[sqlx(try_from = "MaybeTime")]
    pub sync_failed_at: Option<Timestamp>,
    /// An inventory job waits or runs.
    pub syncing: bool,
    /// Changes of ours that are still on the host.
    pub left_behind: i64,
    /// Machines of it.
    #[sqlx(skip)]
    pub machines: Vec<DeviceMachine>,
    /// Datastores.
    #[sqlx(skip)]
    pub datastores: Vec<DatastoreLine>,
    /// Networks.
    #[sqlx(skip)]
    pub networks: Vec<NetworkLine>,
}

/// A machine on a device's page.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeviceMachine {
    /// Its id.
    pub vm_id: VmId,
    /// Name.
    pub name: String,
    /// Power.
    #[sqlx(try_from = "Word")]
    pub power: PowerState,
    /// Guest.
    pub guest_name: String,
    /// Bytes of its disks.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Worst first.
    #[sqlx(json)]
    pub findings: Vec<Finding>,
    /// In a task.
    pub in_task: bool,
    /// No longer on the device.
    #[sqlx(try_from = "MaybeTime")]
    pub missing_since: Option<Timestamp>,
}

/// A datastore.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DatastoreLine {
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

impl DatastoreLine {
    /// Bytes.
    pub const fn used_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.free_bytes)
    }
}

/// A network.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct NetworkLine {
    /// Name.
    pub name: String,
}

/// Machines shown on a device's page; the list of machines shows all.
const DEVICE_MACHINES_MAX: i64 = 200;

/// A device with all it holds.
pub async fn device_page(db: &Database, device: DeviceId) -> Result<Option<DevicePage>> {
    let page: Option<DevicePage> = sqlx::query_as(concat!(
        "select d.device_id, d.name, d.host, d.port, d.account, d.kind, d.certificate_sha256, d.transport, d.share_port,
                d.host_uuid, d.simulated, d.enabled, d.full_reads, d.max_jobs, d.product, d.api_version, d.findings, d.created_at, d.synced_at, d.sync_error,
                d.sync_failed_at,
                exists (select 1 from job j where j.device_id = d.device_id and j.kind = 'inventory'
                        and j.state in ('queued', 'running')) as syncing,
                (select count(*) from host_change c left join job j using (job_id)
                 where c.device_id = d.device_id and ",
        left_behind!(),
        ") as left_behind
         from device d where d.device_id = $1"
    ))
    .bind(device)
    .fetch_optional(&db.pool)
    .await?;
    let Some(mut page) = page else { return Ok(None) };
    page.machines = sqlx::query_as(
        "select v.vm_id, v.name, v.power, v.guest_name, v.findings, v.missing_since,
                coalesce((select sum(k.capacity_bytes) from virtual_disk k where k.vm_id = v.vm_id), 0)::bigint as size_bytes,
                exists (select 1 from backup_task_machine m join backup_task t using (task_id)
                        where m.vm_id = v.vm_id and t.deleted_at is null) as in_task
         from virtual_machine v where v.device_id = $1
         order by v.missing_since is not null, lower(v.name), v.vm_id limit $2",
    )
    .bind(device)
    .bind(DEVICE_MACHINES_MAX)
    .fetch_all(&db.pool)
    .await?;
    page.datastores = sqlx::query_as(
        "select name, kind, capacity_bytes, free_bytes, accessible from datastore where device_id = $1 order by lower(name)",
    )
    .bind(device)
    .fetch_all(&db.pool)
    .await?;
    page.networks = sqlx::query_as("select name from network where device_id = $1 order by lower(name)")
        .bind(device)
        .fetch_all(&db.pool)
        .await?;
    Ok(Some(page))
}
