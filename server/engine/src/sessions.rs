//! One session per device, shared by all jobs of the process.
//!
//! Owns: who is connected where, and the seam behind which a driver is chosen.
//! Must never: keep a session for an address, account, password or certificate that was changed since.

use async_trait::async_trait;
use db::{DeviceId, FullReads, HyperVAccess, Platform};
use hypervisor::{HostError, Hypervisor};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashMap;
use std::sync::Arc;

/// All that is needed to connect to a device.
#[derive(Debug, Clone)]
pub struct ConnectTarget {
    /// What it runs.
    pub platform: Platform,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Account.
    pub account: String,
    /// Password.
    pub password: SecretString,
    /// SHA-256 of the pinned certificate; none where there is no TLS.
    pub certificate_sha256: Option<[u8; 32]>,
    /// Of Hyper-V only.
    pub hyperv: HyperVAccess,
    /// How fulls are read.
    pub full_reads: FullReads,
}

impl ConnectTarget {
    fn same_as(&self, other: &Self) -> bool {
        (self.platform, &self.host, self.port, &self.account)
            == (other.platform, &other.host, other.port, &other.account)
            && (self.certificate_sha256, self.hyperv) == (other.certificate_sha256, other.hyperv)
            && self.full_reads == other.full_reads
            && self.password.expose_secret() == other.password.expose_secret()
    }
}

/// Connects to hosts. The server uses the driver of the platform; tests script their own.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Signs in.
    async fn connect(&self, target: &ConnectTarget) -> Result<Arc<dyn Hypervisor>, HostError>;

    /// SHA-256 of the certificate that answers there.
    async fn probe_certificate(&self, host: &str, port: u16) -> Result<[u8; 32], HostError>;
}

/// The sessions of this process.
pub struct Sessions {
    connector: Arc<dyn Connector>,
    by_device: Mutex<HashMap<DeviceId, Slot>>,
}

/// Locked while signing in, so that jobs that start together make one session.
type Slot = Arc<tokio::sync::Mutex<Option<Session>>>;

struct Session {
    target: ConnectTarget,
    host: Arc<dyn Hypervisor>,
}

impl Sessions {
    /// No session yet.
    pub fn new(connector: Arc<dyn Connector>) -> Self {
        Self { connector, by_device: Mutex::default() }
    }

    /// The device's session; made, or made anew when the device was changed.
    pub async fn get(&self, device_id: DeviceId, target: &ConnectTarget) -> Result<Arc<dyn Hypervisor>, HostError> {
        let slot = Arc::clone(self.by_device.lock().entry(device_id).or_default());
        let mut session = slot.lock().await;
        if let Some(held) = session.as_ref() {
            if held.target.same_as(target) {
                return Ok(Arc::clone(&held.host));
            }
            held.host.close().await;
        }
        *session = None;
        let host = self.connector.connect(target).await?;
        *session = Some(Session { target: target.clone(), host: Arc::clone(&host) });
        Ok(host)
    }

    /// A session outside the cache, for a device that is not saved yet.
    pub async fn connect_once(&self, target: &ConnectTarget) -> Result<Arc<dyn Hypervisor>, HostError> {
        self.connector.connect(target).await
    }

    /// See [`Connector::probe_certificate`].
    pub async fn probe_certificate(&self, host: &str, port: u16) -> Result<[u8; 32], HostError> {
        self.connector.probe_certificate(host, port).await
    }

    /// Signs out everywhere.
    pub async fn close_all(&self) {
        self.keep_only(&[]).await;
    }

    /// Signs out of all other devices: those that were disabled or removed. A job that still holds a session signs in
    /// again by itself.
    pub async fn keep_only(&self, devices: &[DeviceId]) {
        let slots: Vec<Slot> = {
            let mut by_device = self.by_device.lock();
            by_device.extract_if(|device, _| !devices.contains(device)).map(|(_, slot)| slot).collect()
        };
        for slot in slots {
            if let Some(session) = slot.lock().await.take() {
                session.host.close().await;
            }
        }
    }
}
