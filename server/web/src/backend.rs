//! What the console asks of hosts and repositories, as a trait: the engine in the server, a double in tests.
//! Must never: carry a password anywhere but down.

use async_trait::async_trait;
use db::{ChannelId, DeviceId, HyperVAccess, Platform, RepositoryId, RunId};
use domain::job::JobError;
use engine::{Engine, RestoreOrder};
use secrecy::SecretString;

pub use engine::{HostAccess, LocationOrder, NewLocation, Preflight};

/// Hosts and repositories.
#[async_trait]
pub trait Backend: Send + Sync {
    /// SHA-256 of the certificate that answers at this address. Nothing is sent but the TLS greeting.
    async fn probe_certificate(&self, host: &str, port: u16) -> Result<[u8; 32], JobError>;

    /// Signs in and looks. Makes no lasting change.
    async fn preflight(&self, access: &HostAccess) -> Result<Preflight, JobError>;

    /// Signs in to a device that is saved, and stores what was found.
    async fn test_device(&self, device: DeviceId) -> Result<Preflight, JobError>;

    /// Makes a repository at a location, or opens the one that is there.
    async fn create_location(&self, order: LocationOrder) -> Result<NewLocation, JobError>;

    /// Queues a check that reads everything in a location back.
    async fn verify(&self, repository: RepositoryId) -> Result<(), JobError>;

    /// Queues giving back the space that no restore point of a location needs.
    async fn collect(&self, repository: RepositoryId) -> Result<(), JobError>;

    /// Sends a test message to each recipient of a channel of notices; recipients and what they answered.
    async fn test_channel(&self, channel: ChannelId) -> Result<Vec<(String, String)>, JobError>;

    /// Starts a restore.
    async fn start_restore(&self, order: &RestoreOrder, started_by: &str) -> Result<RunId, JobError>;
}

#[async_trait]
impl Backend for Engine {
    async fn probe_certificate(&self, host: &str, port: u16) -> Result<[u8; 32], JobError> {
        Self::probe_certificate(self, host, port).await
    }

    async fn preflight(&self, access: &HostAccess) -> Result<Preflight, JobError> {
        Self::preflight(self, access).await
    }

    async fn test_device(&self, device: DeviceId) -> Result<Preflight, JobError> {
        Self::test_device(self, device).await
    }

    async fn create_location(&self, order: LocationOrder) -> Result<NewLocation, JobError> {
        Self::create_location(self, order).await
    }

    async fn verify(&self, repository: RepositoryId) -> Result<(), JobError> {
        Self::verify(self, repository).await.map(drop)
    }

    async fn collect(&self, repository: RepositoryId) -> Result<(), JobError> {
        Self::collect(self, repository).await.map(drop)
    }

    async fn test_channel(&self, channel: ChannelId) -> Result<Vec<(String, String)>, JobError> {
        Self::test_channel(self, channel).await
    }

    async fn start_restore(&self, order: &RestoreOrder, started_by: &str) -> Result<RunId, JobError> {
        Self::start_restore(self, order, started_by).await
    }
}

/// A simulated host that was started inside the server.
pub struct DemoHost {
    /// Name to show.
    pub name: String,
    /// Where it listens.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Account.
    pub account: String,
    /// Its password.
    pub password: SecretString,
    /// Its certificate.
    pub certificate_sha256: [u8; 32],
    /// Of Hyper-V only.
    pub hyperv: HyperVAccess,
}

/// Starts and ends simulated hosts.
#[async_trait]
pub trait DemoHosts: Send + Sync {
    /// One more of this platform, which stays over restarts of the server.
    async fn add(&self, platform: Platform) -> Result<DemoHost, JobError>;

    /// Ends the one that listens on `port` and deletes its disks. None there is fine.
    async fn remove(&self, port: u16) -> Result<(), JobError>;
}
