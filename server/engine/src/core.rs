//! What every job and every call of the console shares in this process.

use crate::config::EngineConfig;
use crate::errors;
use crate::repositories::{Locations, Place, Repositories};
use crate::sessions::{ConnectTarget, Connector, Sessions};
use crate::throttle::{Throttle, Throttles};
use db::{Database, Device, DeviceId};
use domain::Clock;
use domain::job::JobError;
use hypervisor::Hypervisor;
use repository::Repository;
use std::sync::Arc;

/// The engine's parts.
pub struct Core {
    pub(crate) db: Database,
    pub(crate) config: EngineConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sessions: Sessions,
    pub(crate) repositories: Repositories,
    throttles: Throttles<DeviceId>,
}

impl Core {
    pub(crate) fn new(
        db: Database,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
        connector: Arc<dyn Connector>,
        locations: Arc<dyn Locations>,
    ) -> Arc<Self> {
        let sessions = Sessions::new(connector);
        let cache = config.data_dir.join("cache").join("index");
        let repositories = Repositories::new(locations, cache, Arc::clone(&clock));
        let throttles = Throttles::new(Arc::clone(&clock));
        Arc::new(Self { db, config, clock, sessions, repositories, throttles })
    }

    /// The shared session of a device that is enabled.
    pub(crate) async fn host(&self, what: &str, device: &Device) -> Result<Arc<dyn Hypervisor>, JobError> {
        if !device.enabled {
            return Err(disabled(what, &device.name));
        }
        let target = self.connect_target(what, device).await?;
        self.sessions.get(device.device_id, &target).await.map_err(|error| errors::host(what, &error))
    }

    /// What the bytes of a device wait for.
    pub(crate) async fn throttle(&self, what: &str, device_id: DeviceId) -> Result<Arc<Throttle>, JobError> {
        let bandwidth = self.db.device_bandwidth(device_id).await;
        Ok(self.throttles.of(device_id, bandwidth.map_err(|error| errors::database(what, &error))?))
    }

    pub(crate) async fn connect_target(&self, what: &str, device: &Device) -> Result<ConnectTarget, JobError> {
        let password =
            self.db.device_password(device.device_id).await.map_err(|error| errors::database(what, &error))?;
        Ok(ConnectTarget {
            platform: device.platform,
            host: device.host.clone(),
            port: device.port,
            account: device.account.clone(),
            password,
            certificate_sha256: device.certificate_sha256,
            hyperv: device.hyperv,
            full_reads: device.full_reads,
        })
    }

    /// The repository, open.
    pub(crate) async fn repository(&self, what: &str, row: &db::Repository) -> Result<Repository, JobError> {
        let id = row.repository_id;
        let passphrase = self.db.repository_passphrase(id).await.map_err(|error| errors::database(what, &error))?;
        let secret = self.db.repository_secret(id).await.map_err(|error| errors::database(what, &error))?;
        let bandwidth = self.db.repository_bandwidth(id).await.map_err(|error| errors::database(what, &error))?;
        let location = serde_json::from_value(row.location.clone()).map_err(|error| {
            let why = format!("What is stored of the location {} cannot be read: {error}.", row.path);
            JobError::fail("repository.location", what, why, "Remove the location and add it again.")
        })?;
        let (name, secret) = (row.name.clone(), secret.map(Into::into));
        let place = Place { id: id.0, name, location, secret, passphrase, bandwidth };
        self.repositories.get(&place).await
    }
}

pub(crate) fn disabled(what: &str, name: &str) -> JobError {
    JobError::fail(
        "device.disabled",
        what,
        format!("The device “{name}” is disabled."),
        "Enable it on its page, then try again.",
    )
}
