//! The ESXi driver: SOAP for control, `/folder` for reading, import leases for restoring. No agent, no VDDK.
//!
//! Owns: everything that knows vSphere. Layers, from below: `xml`, `soap`, `fault` (words) — `transport`, `session`
//! (a logged-in connection) — `property`, `task` (the two ways a host answers) — `inventory`, `machine`, `preflight`,
//! `snapshot`, `tracking` (what is asked) — `folder`, `reader` (bytes out) — `spec`, `lease`, `upload`, `target`
//! (bytes in).
//! Must never: follow what a host says without checking it; every length, offset and name comes from outside.
//! Read next: `snapshot.rs`, then `reader.rs` and `target.rs`.

mod fault;
mod folder;
mod inventory;
mod lease;
mod machine;
mod power;
mod preflight;
mod property;
mod reader;
#[cfg(test)]
mod script;
mod session;
mod snapshot;
mod soap;
mod spec;
mod target;
mod task;
mod tracking;
mod transport;
mod upload;
mod xml;

pub use transport::Timeouts;

use crate::tls::Pin;
use crate::{
    DatastoreInfo, DevicePreflight, DiskReader, HostSnapshot, Hypervisor, Inventory, MachineInfo, MachineRef,
    OwnSnapshot, RestoreRequest, RestoreTarget, Result, Sealed, ShutDown, Snapshot, SnapshotRef, SnapshotRequest,
    TrackingState,
};
use async_trait::async_trait;
use domain::point::ChangeMark;
use folder::Folder;
use secrecy::SecretString;
use session::{Session, Vim as _};
use std::sync::Arc;
use std::time::Duration;
use transport::Address;

/// What a full backup reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FullReads {
    /// What the host reports as allocated, where that is reliable; else everything.
    #[default]
    AllocatedAreas,
    /// Everything. Slower, and independent of the host's list.
    Everything,
}

/// How to reach a host. `Debug` does not show the password.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Name or address, without scheme or path.
    pub host: String,
    /// Port of the web client, usually 443.
    pub port: u16,
    /// Account.
    pub account: String,
    /// Password.
    pub password: SecretString,
    /// SHA-256 of the host's certificate, confirmed by the operator.
    pub certificate_sha256: [u8; 32],
    /// What a full backup reads.
    pub full_reads: FullReads,
    /// How long to wait.
    pub timeouts: Timeouts,
}

/// A connected ESXi host. Logs in again when its session ends; [`Hypervisor::close`] logs out.
pub struct EsxiHost {
    session: Arc<Session>,
    folder: Arc<Folder>,
    full_reads: FullReads,
}

impl EsxiHost {
    /// Connects, checks that it is an ESXi host of a supported version, and logs in.
    pub async fn connect(options: ConnectOptions) -> Result<Self> {
        let ConnectOptions { host, port, account, password, certificate_sha256, full_reads, timeouts } = options;
        let address = Address::new(&host, port)?;
        let session = Session::open(address, Pin::Sha256(certificate_sha256), account, password, timeouts).await?;
        Ok(Self { folder: Arc::new(Folder::new(session.clone())), session, full_reads })
    }
}

#[async_trait]
impl Hypervisor for EsxiHost {
    async fn preflight(&self) -> Result<DevicePreflight> {
        let found = preflight::preflight(self.session.as_ref()).await;
        found.map_err(|error| error.during(self.session.host(), "look at the host"))
    }

    async fn inventory(&self) -> Result<Inventory> {
        let found = inventory::inventory(self.session.as_ref()).await;
        found.map_err(|error| error.during(self.session.host(), "read the inventory"))
    }

    async fn datastores(&self) -> Result<Vec<DatastoreInfo>> {
        let found = inventory::datastores(self.session.as_ref()).await;
        found.map_err(|error| error.during(self.session.host(), "look at the datastores"))
    }

    async fn machine(&self, machine: &MachineRef) -> Result<MachineInfo> {
        let found = inventory::machine(self.session.as_ref(), machine).await;
        found.map_err(|error| error.during(self.session.host(), format!("look at machine {}", machine.0)))
    }

    async fn enable_tracking(&self, machine: &MachineRef) -> Result<TrackingState> {
        tracking::enable(self.session.as_ref(), machine).await
    }

    async fn create_snapshot(&self, machine: &MachineRef, request: &SnapshotRequest) -> Result<Snapshot> {
        snapshot::create(self.session.as_ref(), machine, request).await
    }

    async fn seal_snapshot(&self, _: &MachineRef, snapshot: &Snapshot) -> Result<Sealed> {
        reader::marks(self.session.as_ref(), snapshot).await
    }

    async fn forget_marks(&self, _: &MachineRef, _: &[ChangeMark]) -> Result<()> {
        Ok(())
    }

    async fn remove_snapshot(&self, machine: &MachineRef, snapshot: &SnapshotRef) -> Result<()> {
        snapshot::remove(self.session.as_ref(), machine, snapshot).await
    }

    async fn list_own_snapshots(&self, machine: &MachineRef) -> Result<Vec<OwnSnapshot>> {
        snapshot::list_own(self.session.as_ref(), machine).await
    }

    async fn list_snapshots(&self, machine: &MachineRef) -> Result<Vec<HostSnapshot>> {
        snapshot::list(self.session.as_ref(), machine).await
    }

    async fn open_disks(&self, machine: &MachineRef, snapshot: &Snapshot) -> Result<Vec<Arc<dyn DiskReader>>> {
        reader::open(&self.session, &self.folder, machine, snapshot, self.full_reads).await
    }

    async fn shut_down(&self, machine: &MachineRef, patience: Duration) -> Result<ShutDown> {
        power::shut_down(self.session.as_ref(), machine, patience).await
    }

    async fn power_off(&self, machine: &MachineRef) -> Result<()> {
        power::power_off(self.session.as_ref(), machine).await
    }

    async fn power_on(&self, machine: &MachineRef) -> Result<()> {
        power::power_on(self.session.as_ref(), machine).await
    }

    async fn create_target(&self, request: &RestoreRequest) -> Result<Box<dyn RestoreTarget>> {
        target::create(&self.session, request).await
    }

    async fn remove_half_made(&self, token: &str) -> Result<()> {
        target::remove_half_made(&self.session, token).await
    }

    async fn close(&self) {
        self.session.close().await;
    }
}
