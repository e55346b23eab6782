//! What every job and every call of the console shares in this process.

use crate::config::EngineConfig;
use crate::errors;
use crate::repositories::{Locations, Place, Repositories};
use crate::sessions::{ConnectTarget, Connector, Sessions};
use db::{Database, Device};
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
        let repositories = Repositories::new(locations, config.data_dir.join("cache").join("index"));
        Arc::new(Self { db, config, clock, sessions, repositories })
    }

    /// The shared session of a device that is enabled.
    pub(crate) async fn host(&self, what: &str, device: &Device) -> Result<Arc<dyn Hypervisor>, JobError> {
        if !device.enabled {
            return Err(disabled(what, &device.name));
        }
        let target = self.connect_target(what, device).await?;
        self.sessions.get(device.device_id, &target).await.map_err(|error| errors::host(what, &error))
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
        let location = serde_json::from_value(row.location.clone()).map_err(|error| {
            let why = format!("What is stored of the location {} cannot be read: {error}.", row.path);
            JobError::fail("repository.location", what, why, "Remove the location and add it again.")
        })?;
        let place = Place { id: id.0, name: row.name.clone(), location, secret: secret.map(Into::into), passphrase };
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
