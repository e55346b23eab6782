//! The Hyper-V driver: WMI over WS-Management for control, SMB for the disks' bytes. No agent, no PowerShell.
//!
//! Owns: everything that knows Hyper-V. Layers, from below: `ntlm` (logging in, sealing) — `wire` (WS-Management) —
//! `wmi` (instances, methods, jobs) — `model`, `machine`, `guest` (rows as machines) — `inventory`, `preflight`, `snapshot`, `quiesce`, `recovery`,
//! `seal`, `tracking`, `power` (what is asked) — `bytes`, `reader` (bytes out) — `spec`, `target` (bytes in).
//! Must never: follow what a host says without checking it; send a password over a connection without TLS.
//! Read next: `snapshot.rs` and `tracking.rs`, then `wire/mod.rs`; `files/mod.rs` for the bytes of disks.

mod bytes;
pub mod files;
mod guest;
mod inventory;
mod machine;
mod model;
mod ntlm;
mod power;
mod preflight;
mod quiesce;
mod reader;
mod recovery;
#[cfg(test)]
mod script;
mod seal;
mod snapshot;
mod spec;
mod target;
mod tracking;
mod wire;
mod wmi;

pub use wire::{Timeouts, Transport};

use self::bytes::{Files, ShareFiles};
use crate::{
    DatastoreInfo, DevicePreflight, DiskReader, FullReads, HostSnapshot, Hypervisor, Inventory, MachineInfo,
    MachineRef, OwnSnapshot, RestoreRequest, RestoreTarget, Result, Sealed, ShutDown, Snapshot, SnapshotRef,
    SnapshotRequest, TrackingState,
};
use async_trait::async_trait;
use domain::point::ChangeMark;
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;
use wire::{Client, Endpoint, Login, Wsman};

/// How to reach a host. `Debug` does not show the password.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Name or address, without scheme or path.
    pub host: String,
    /// Port of WinRM, usually [`Transport::default_port`].
    pub port: u16,
    /// Port of the host's file shares, usually 445.
    pub share_port: u16,
    /// Account: `DOMAIN\user`, `user@domain` or a local user.
    pub account: String,
    /// Password.
    pub password: SecretString,
    /// SHA-256 of the host's certificate, confirmed by the operator. Not looked at without TLS.
    pub certificate_sha256: [u8; 32],
    /// How to log in, and what protects the messages.
    pub transport: Transport,
    /// What a full backup reads.
    pub full_reads: FullReads,
    /// How long to wait.
    pub timeouts: Timeouts,
}

/// A connected Hyper-V host. Logs in again when a connection ends.
pub struct HyperVHost {
    wsman: Arc<dyn Wsman>,
    client: Arc<Client>,
    files: Arc<dyn Files>,
    full_reads: FullReads,
}

impl HyperVHost {
    /// Connects, logs in, and checks that it is a Windows host that answers. Its files are reached when they are needed.
    pub async fn connect(options: ConnectOptions) -> Result<Self> {
        let endpoint = Endpoint::new(&options.host, options.port, options.transport)?;
        let login = Login {
            account: options.account.clone(),
            password: options.password.clone(),
            transport: options.transport,
            pin: options.certificate_sha256,
        };
        let files = Arc::new(ShareFiles::new(&options));
        let client = Arc::new(Client::new(endpoint, login, options.timeouts));
        let host = Self { wsman: client.clone(), client, files, full_reads: options.full_reads };
        let windows = "SELECT * FROM Win32_OperatingSystem";
        let found = wmi::query(host.wsman.as_ref(), wmi::Namespace::Cimv2, windows).await;
        found.map_err(|error| error.during(host.wsman.host(), "connect"))?;
        Ok(host)
    }

    fn doing(&self, attempt: impl Into<String>) -> impl FnOnce(wire::CallError) -> crate::HostError {
        let (host, attempt) = (self.wsman.host().to_owned(), attempt.into());
        move |error| error.during(&host, attempt)
    }
}

#[async_trait]
impl Hypervisor for HyperVHost {
    async fn preflight(&self) -> Result<DevicePreflight> {
        let found = preflight::preflight(self.wsman.as_ref(), self.files.as_ref()).await;
        found.map_err(self.doing("look at the host"))
    }

    async fn inventory(&self) -> Result<Inventory> {
        inventory::inventory(self.wsman.as_ref()).await.map_err(self.doing("read the inventory"))
    }

    async fn datastores(&self) -> Result<Vec<DatastoreInfo>> {
        inventory::volumes(self.wsman.as_ref()).await.map_err(self.doing("look at the volumes"))
    }

    async fn machine(&self, machine: &MachineRef) -> Result<MachineInfo> {
        let found = inventory::machine(self.wsman.as_ref(), machine).await;
        found.map_err(self.doing(format!("look at machine {}", machine.0)))
    }

    /// Tracking needs no switch: it begins with the first reference point.
    async fn enable_tracking(&self, machine: &MachineRef) -> Result<TrackingState> {
        let info = self.machine(machine).await?;
        Ok(machine::no_tracking(&info.config).map_or(TrackingState::Active, TrackingState::Refused))
    }

    async fn create_snapshot(&self, machine: &MachineRef, request: &SnapshotRequest) -> Result<Snapshot> {
        snapshot::create(self.wsman.as_ref(), machine, request).await
    }

    async fn seal_snapshot(&self, machine: &MachineRef, snapshot: &Snapshot) -> Result<Sealed> {
        seal::seal(self.wsman.as_ref(), machine, snapshot).await
    }

    async fn forget_marks(&self, machine: &MachineRef, marks: &[ChangeMark]) -> Result<()> {
        tracking::forget(self.wsman.as_ref(), machine, marks).await
    }

    async fn kept_for_marks(&self, machine: &MachineRef) -> Result<Option<Vec<String>>> {
        tracking::kept(self.wsman.as_ref(), machine).await.map(Some)
    }

    async fn forget_unheard(&self, machine: &MachineRef, before: &[String], ours: &[ChangeMark]) -> Result<()> {
        tracking::forget_unheard(self.wsman.as_ref(), machine, before, ours).await
    }

    async fn remove_snapshot(&self, machine: &MachineRef, snapshot: &SnapshotRef) -> Result<()> {
        snapshot::remove(self.wsman.as_ref(), machine, snapshot).await
    }

    async fn list_own_snapshots(&self, machine: &MachineRef) -> Result<Vec<OwnSnapshot>> {
        recovery::list_own(self.wsman.as_ref(), machine).await
    }

    async fn list_snapshots(&self, machine: &MachineRef) -> Result<Vec<HostSnapshot>> {
        recovery::list(self.wsman.as_ref(), machine).await
    }

    async fn open_disks(&self, machine: &MachineRef, snapshot: &Snapshot) -> Result<Vec<Arc<dyn DiskReader>>> {
        reader::open(&self.wsman, self.files.as_ref(), machine, snapshot, self.full_reads).await
    }

    async fn shut_down(&self, machine: &MachineRef, patience: Duration) -> Result<ShutDown> {
        power::shut_down(self.wsman.as_ref(), machine, patience).await
    }

    async fn power_off(&self, machine: &MachineRef) -> Result<()> {
        power::power_off(self.wsman.as_ref(), machine).await
    }

    async fn power_on(&self, machine: &MachineRef) -> Result<()> {
        power::power_on(self.wsman.as_ref(), machine).await
    }

    async fn create_target(&self, request: &RestoreRequest) -> Result<Box<dyn RestoreTarget>> {
        target::create(&self.wsman, &self.files, request).await
    }

    async fn remove_half_made(&self, token: &str) -> Result<()> {
        target::remove_half_made(self.wsman.as_ref(), self.files.as_ref(), token).await
    }

    async fn close(&self) {
        self.client.close();
        self.files.close().await;
    }
}
