//! Devices and their sealed passwords.

use crate::column::{MaybeTime, Time, Word};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::events::{Event, notify};
use crate::ids::DeviceId;
use crate::sealed::Place;
use domain::finding::Finding;
use domain::job::JobError;
use domain::machine::MachineConfig;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, Transaction};

/// A device, without its password.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Device {
    /// Id.
    pub device_id: DeviceId,
    /// What it runs, and so which driver talks to it.
    #[sqlx(rename = "kind", try_from = "Word")]
    pub platform: Platform,
    /// The operator's name for it.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port of its API.
    #[sqlx(try_from = "i32")]
    pub port: u16,
    /// Account to sign in with.
    pub account: String,
    /// SHA-256 of the certificate that was confirmed; none where there is no TLS.
    pub certificate_sha256: Option<[u8; 32]>,
    /// Of Hyper-V only.
    #[sqlx(flatten)]
    pub hyperv: HyperVAccess,
    /// The host's own id, to notice another host at the same address.
    pub host_uuid: Option<String>,
    /// One of our simulators.
    pub simulated: bool,
    /// Disabled devices are left alone.
    pub enabled: bool,
    /// How a full backup is read.
    #[sqlx(try_from = "Word")]
    pub full_reads: FullReads,
    /// Backups and restores that may run on it at a time.
    #[sqlx(try_from = "i32")]
    pub max_jobs: u32,
    /// The host's own description.
    pub product: String,
    /// Version of its API.
    pub api_version: String,
    /// What the preflight found.
    #[sqlx(json)]
    pub findings: Vec<Finding>,
    /// When it was added.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// When its inventory was read last.
    #[sqlx(try_from = "MaybeTime")]
    pub synced_at: Option<Timestamp>,
    /// Why the last reading failed; none after a success.
    #[sqlx(json(nullable))]
    pub sync_error: Option<JobError>,
    /// When it failed.
    #[sqlx(try_from = "MaybeTime")]
    pub sync_failed_at: Option<Timestamp>,
}

/// What a device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// VMware ESXi.
    #[default]
    Esxi,
    /// Microsoft Hyper-V.
    HyperV,
}

impl Platform {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Esxi => "esxi",
            Self::HyperV => "hyperv",
        }
    }

    /// The platform of a machine that is described so.
    pub const fn of(machine: &MachineConfig) -> Self {
        if machine.hyperv.is_some() { Self::HyperV } else { Self::Esxi }
    }

    /// Its maker's name for it.
    pub const fn product(self) -> &'static str {
        match self {
            Self::Esxi => "VMware ESXi",
            Self::HyperV => "Microsoft Hyper-V",
        }
    }

    /// Its own word for a machine's state that is held still.
    pub const fn snapshot(self) -> &'static str {
        match self {
            Self::Esxi => "snapshot",
            Self::HyperV => "checkpoint",
        }
    }

    /// Its own word for a place that machines are kept in.
    pub const fn datastore(self) -> &'static str {
        match self {
            Self::Esxi => "datastore",
            Self::HyperV => "volume",
        }
    }

    /// Its own word for what adapters are connected to.
    pub const fn network(self) -> &'static str {
        match self {
            Self::Esxi => "network",
            Self::HyperV => "virtual switch",
        }
    }
}

/// How a Hyper-V host is reached, beyond what every host needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
pub struct HyperVAccess {
    /// What protects the messages, and how the account logs in.
    #[sqlx(try_from = "Word")]
    pub transport: Transport,
    /// Port of its file shares (SMB).
    #[sqlx(try_from = "i32")]
    pub share_port: u16,
}

impl HyperVAccess {
    /// Port of the file shares of every Windows.
    pub const SHARE_PORT: u16 = 445;

    /// Whether there is a certificate to confirm, on a host of this platform.
    pub fn has_certificate(self, platform: Platform) -> bool {
        platform != Platform::HyperV || self.transport != Transport::SealedHttp
    }
}

impl Default for HyperVAccess {
    fn default() -> Self {
        Self { transport: Transport::default(), share_port: Self::SHARE_PORT }
    }
}

/// What protects the messages to a Hyper-V host, and how the account logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TLS to the pinned certificate, NTLM within.
    #[default]
    TlsNtlm,
    /// TLS to the pinned certificate, the password within.
    TlsBasic,
    /// HTTP, every message sealed by NTLM.
    SealedHttp,
}

impl Transport {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::TlsNtlm, Self::TlsBasic, Self::SealedHttp];

    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TlsNtlm => "tls_ntlm",
            Self::TlsBasic => "tls_basic",
            Self::SealedHttp => "sealed_http",
        }
    }

    /// The port Windows listens on for it.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::TlsNtlm | Self::TlsBasic => 5986,
            Self::SealedHttp => 5985,
        }
    }
}

/// How a full backup is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FullReads {
    /// Trust the host's list of allocated areas where it is reliable.
    #[default]
    Allocated,
    /// Never trust it.
    Everything,
}

impl FullReads {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allocated => "allocated",
            Self::Everything => "everything",
        }
    }
}

/// What the preflight told.
#[derive(Debug, Clone, Default)]
pub struct Preflight {
    /// The host's own description.
    pub product: String,
    /// Version of its API.
    pub api_version: String,
    /// The host's own id.
    pub host_uuid: Option<String>,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// A device to add.
#[derive(Debug)]
pub struct NewDevice {
    /// What it runs.
    pub platform: Platform,
    /// The operator's name for it.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port of its API.
    pub port: u16,
    /// Account.
    pub account: String,
    /// Sealed before it is written.
    pub password: SecretString,
    /// SHA-256 of the certificate the operator confirmed; none where there is no TLS.
    pub certificate_sha256: Option<[u8; 32]>,
    /// Of Hyper-V only.
    pub hyperv: HyperVAccess,
    /// One of our simulators.
    pub simulated: bool,
    /// What the preflight told.
    pub preflight: Preflight,
}

/// What an operator may change.
#[derive(Debug)]
pub struct DeviceUpdate {
    /// Name.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Account.
    pub account: String,
    /// `None` keeps the password.
    pub password: Option<SecretString>,
    /// Certificate.
    pub certificate_sha256: Option<[u8; 32]>,
    /// Of Hyper-V only.
    pub hyperv: HyperVAccess,
    /// How a full backup is read.
    pub full_reads: FullReads,
    /// Backups and restores at a time.
    pub max_jobs: u32,
}

fn password_place(device_id: DeviceId) -> Place {
    Place::new("device", "password_sealed", device_id)
}

impl Database {
    /// Adds a device.
    pub async fn insert_device(&self, new: &NewDevice) -> Result<DeviceId> {
        let mut transaction = self.pool.begin().await?;
        // The id is part of what seals the password, so it is drawn first.
        let device_id: DeviceId = sqlx::query_scalar("select nextval(pg_get_serial_sequence('device', 'device_id'))")
            .fetch_one(&mut *transaction)
            .await?;
        sqlx::query(
            "insert into device (device_id, kind, name, host, port, account, password_sealed, certificate_sha256,
                 simulated, product, api_version, host_uuid, findings, transport, share_port)
             overriding system value values ($1, $13, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $14, $15)",
        )
        .bind(device_id)
        .bind(&new.name)
        .bind(&new.host)
        .bind(i32::from(new.port))
        .bind(&new.account)
        .bind(self.key.seal(&password_place(device_id), &new.password)?)
        .bind(new.certificate_sha256.as_ref().map(<[u8; 32]>::as_slice))
        .bind(new.simulated)
        .bind(&new.preflight.product)
        .bind(&new.preflight.api_version)
        .bind(&new.preflight.host_uuid)
        .bind(Json(&new.preflight.findings))
        .bind(new.platform.as_str())
        .bind(new.hyperv.transport.as_str())
        .bind(i32::from(new.hyperv.share_port))
        .execute(&mut *transaction)
        .await?;
        notify(&mut transaction, Event::DeviceChanged(device_id)).await?;
        transaction.commit().await?;
        Ok(device_id)
    }

    /// A device.
    pub async fn device(&self, device_id: DeviceId) -> Result<Device> {
        sqlx::query_as("select * from device where device_id = $1")
            .bind(device_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("device", device_id))
    }

    /// All devices, by name.
    pub async fn devices(&self) -> Result<Vec<Device>> {
        Ok(sqlx::query_as("select * from device order by lower(name)").fetch_all(&self.pool).await?)
    }

    /// The password, opened. For signing in to the host, nothing else.
    pub async fn device_password(&self, device_id: DeviceId) -> Result<SecretString> {
        let sealed: Vec<u8> = sqlx::query_scalar("select password_sealed from device where device_id = $1")
            .bind(device_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("device", device_id))?;
        self.key.open(&password_place(device_id), &sealed)
    }

    /// Changes what an operator may change.
    pub async fn update_device(&self, device_id: DeviceId, update: &DeviceUpdate) -> Result<()> {
        let sealed =
            update.password.as_ref().map(|password| self.key.seal(&password_place(device_id), password)).transpose()?;
        let mut transaction = self.pool.begin().await?;
        let changed = sqlx::query(
            "update device set name = $2, host = $3, port = $4, account = $5,
                 password_sealed = coalesce($6, password_sealed), certificate_sha256 = $7, full_reads = $8,
                 max_jobs = $9, transport = $10, share_port = $11
             where device_id = $1",
        )
        .bind(device_id)
        .bind(&update.name)
        .bind(&update.host)
        .bind(i32::from(update.port))
        .bind(&update.account)
        .bind(sealed)
        .bind(update.certificate_sha256.as_ref().map(<[u8; 32]>::as_slice))
        .bind(update.full_reads.as_str())
        .bind(i32::try_from(update.max_jobs).unwrap_or(i32::MAX))
        .bind(update.hyperv.transport.as_str())
        .bind(i32::from(update.hyperv.share_port))
        .execute(&mut *transaction)
        .await?;
        if changed.rows_affected() == 0 {
            return Err(Error::not_found("device", device_id));
        }
        notify(&mut transaction, Event::DeviceChanged(device_id)).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Enables or disables a device.
    pub async fn set_device_enabled(&self, device_id: DeviceId, enabled: bool) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let changed = sqlx::query("update device set enabled = $2 where device_id = $1")
            .bind(device_id)
            .bind(enabled)
            .execute(&mut *transaction)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(Error::not_found("device", device_id));
        }
        notify(&mut transaction, Event::DeviceChanged(device_id)).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Keeps what a preflight told.
    pub async fn record_preflight(&self, device_id: DeviceId, preflight: &Preflight) -> Result<()> {
        let mut connection = self.pool.acquire().await?;
        sqlx::query(
            "update device set product = $2, api_version = $3, host_uuid = coalesce($4, host_uuid), findings = $5
             where device_id = $1",
        )
        .bind(device_id)
        .bind(&preflight.product)
        .bind(&preflight.api_version)
        .bind(&preflight.host_uuid)
        .bind(Json(&preflight.findings))
        .execute(&mut *connection)
        .await?;
        notify(&mut connection, Event::DeviceChanged(device_id)).await
    }

    /// Keeps why the inventory could not be read.
    pub async fn record_sync_failure(&self, device_id: DeviceId, error: &JobError) -> Result<()> {
        let mut connection = self.pool.acquire().await?;
        sqlx::query("update device set sync_error = $2, sync_failed_at = now() where device_id = $1")
            .bind(device_id)
            .bind(Json(error))
            .execute(&mut *connection)
            .await?;
        notify(&mut connection, Event::DeviceChanged(device_id)).await
    }

    /// Removes a device with its machines. [`Error::InUse`] names the tasks, running jobs and changes on the host
    /// that stand against it. Restore points stay, without a machine.
    pub async fn remove_device(&self, device_id: DeviceId) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let name: String = sqlx::query_scalar("select name from device where device_id = $1 for update")
            .bind(device_id)
            .fetch_optional(&mut *transaction)
            .await?
            .ok_or_else(|| Error::not_found("device", device_id))?;
        let by = users_of(&mut transaction, device_id).await?;
        if !by.is_empty() {
            return Err(Error::InUse { what: format!("device “{name}”"), by });
        }
        end_queued_jobs(&mut transaction, device_id).await?;
        sqlx::query("delete from device where device_id = $1").bind(device_id).execute(&mut *transaction).await?;
        notify(&mut transaction, Event::DeviceChanged(device_id)).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Names of the tasks that have machines of this device.
    pub async fn tasks_of_device(&self, device_id: DeviceId) -> Result<Vec<String>> {
        let mut connection = self.pool.acquire().await?;
        task_names(&mut connection, device_id).await
    }
}

async fn task_names(connection: &mut PgConnection, device_id: DeviceId) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "select distinct t.name from backup_task t
         join backup_task_machine m using (task_id) join virtual_machine v using (vm_id)
         where v.device_id = $1 and t.deleted_at is null order by t.name",
    )
    .bind(device_id)
    .fetch_all(connection)
    .await?)
}

async fn users_of(transaction: &mut Transaction<'_, Postgres>, device_id: DeviceId) -> Result<Vec<String>> {
    let mut by: Vec<String> =
        task_names(transaction, device_id).await?.iter().map(|name| format!("task “{name}”")).collect();
    let running: Vec<String> = sqlx::query_scalar(
        "select kind || ' of “' || title || '”' from job where device_id = $1 and state = 'running' order by job_id",
    )
    .bind(device_id)
    .fetch_all(&mut **transaction)
    .await?;
    by.extend(running.iter().map(|job| format!("the running {job}")));
    let open: i64 = sqlx::query_scalar(
        "select count(*) from host_change where device_id = $1 and state in ('intended', 'made', 'removing')",
    )
    .bind(device_id)
    .fetch_one(&mut **transaction)
    .await?;
    if open > 0 {
        by.push(format!("{open} changes on the host that are not undone yet"));
    }
    Ok(by)
}

async fn end_queued_jobs(transaction: &mut Transaction<'_, Postgres>, device_id: DeviceId) -> Result<()> {
    let jobs: Vec<crate::ids::JobId> =
        sqlx::query_scalar("select job_id from job where device_id = $1 and state = 'queued' for update")
            .bind(device_id)
            .fetch_all(&mut **transaction)
            .await?;
    crate::jobs::cancel_queued(transaction, &jobs, "Its device was removed.").await
}
