//! What the console asks for: the engine's functions on hosts and repositories, with answers made for its pages.
//!
//! Owns: the public face of this crate. Must never: give out a password or passphrase, or keep the console waiting for
//! a job; what takes long is queued. Read next: `runtime/` for what happens to it then.

use crate::config::EngineConfig;
use crate::core::Core;
use crate::reconcile::index;
use crate::repositories::{Locations, RealLocations, place};
use crate::restore::{RestoreOrder, refuse_platform};
use crate::runtime::housekeeping;
use crate::sessions::{ConnectTarget, Connector};
use crate::{errors, inventory, notices, space};
use db::{
    ChannelId, Database, DeviceId, FullReads, HyperVAccess, JobId, NewJob, NewRepository, NewRestore, Platform,
    RepositoryId, RunId, WorkerKind,
};
use domain::job::{JobError, JobKind};
use domain::{Clock, SystemClock};
use repository::{InitOptions, Location, LocationSecret};
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::Arc;

pub use db::Preflight;

/// Verifications wait behind backups.
const VERIFY_PRIORITY: i32 = -5;

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Core>);

/// A host's address and how to sign in, before it is a device.
#[derive(Debug, Clone)]
pub struct HostAccess {
    /// What it runs.
    pub platform: Platform,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Account.
    pub account: String,
    /// Its password.
    pub password: SecretString,
    /// SHA-256 of the only certificate that is accepted; none where there is no TLS.
    pub certificate_sha256: Option<[u8; 32]>,
    /// Of Hyper-V only.
    pub hyperv: HyperVAccess,
}

/// A location to make a repository at, or to take one over from.
#[derive(Debug, Clone)]
pub struct LocationOrder {
    /// The operator's name for it.
    pub name: String,
    /// Where.
    pub location: Location,
    /// The share's password or the bucket's secret key.
    pub secret: Option<SecretString>,
    /// Passphrase of the repository.
    pub passphrase: SecretString,
}

impl LocationOrder {
    /// A folder of this server.
    pub fn folder(name: &str, path: impl Into<PathBuf>, passphrase: SecretString) -> Self {
        Self { name: name.to_owned(), location: Location::Folder { path: path.into() }, secret: None, passphrase }
    }
}

/// A location that was made or taken over.
#[derive(Debug)]
pub struct NewLocation {
    /// Its row.
    pub repository_id: RepositoryId,
    /// Opens it when the passphrase is lost; to be shown once. `None` when an existing repository was opened.
    pub recovery_key: Option<SecretString>,
    /// Points found in it.
    pub points: u64,
}

impl Engine {
    /// With real hosts, folders and time.
    pub fn new(db: Database, config: EngineConfig) -> Self {
        Self::with_parts(db, config, Arc::new(SystemClock), Arc::new(crate::drivers::Drivers), Arc::new(RealLocations))
    }

    /// With parts of the caller's choice, for tests.
    pub fn with_parts(
        db: Database,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
        connector: Arc<dyn Connector>,
        locations: Arc<dyn Locations>,
    ) -> Self {
        Self(Core::new(db, config, clock, connector, locations))
    }

    pub(crate) fn core(&self) -> Arc<Core> {
        Arc::clone(&self.0)
    }

    /// SHA-256 of the certificate that answers at this address. Nothing is sent but the TLS greeting.
    pub async fn probe_certificate(&self, host: &str, port: u16) -> Result<[u8; 32], JobError> {
        let what = format!("The certificate of {host}:{port} could not be read.");
        self.0.sessions.probe_certificate(host, port).await.map_err(|error| errors::host(&what, &error))
    }

    /// Signs in and looks. Makes no lasting change.
    pub async fn preflight(&self, access: &HostAccess) -> Result<Preflight, JobError> {
        let what = format!("Signing in to {} failed.", access.host);
        let target = ConnectTarget {
            platform: access.platform,
            host: access.host.clone(),
            port: access.port,
            account: access.account.clone(),
            password: access.password.clone(),
            certificate_sha256: access.certificate_sha256,
            hyperv: access.hyperv,
            full_reads: FullReads::default(),
        };
        let host = self.0.sessions.connect_once(&target).await.map_err(|error| errors::host(&what, &error))?;
        let found = host.preflight().await.map_err(|error| errors::host(&what, &error));
        host.close().await;
        found.map(inventory::preflight_row)
    }

    /// Signs in to a saved device and keeps what was found.
    pub async fn test_device(&self, device_id: DeviceId) -> Result<Preflight, JobError> {
        let what = "The device could not be tested.";
        let database = |error: db::Error| errors::database(what, &error);
        let device = self.0.db.device(device_id).await.map_err(database)?;
        let what = format!("Signing in to {} failed.", device.name);
        let target = self.0.connect_target(&what, &device).await?;
        // A session of its own: the test shows that signing in works now, not that it did once.
        let found = async {
            let host = self.0.sessions.connect_once(&target).await?;
            let found = host.preflight().await;
            host.close().await;
            found
        };
        match found.await {
            Ok(found) => {
                let found = inventory::preflight_row(found);
                self.0.db.record_preflight(device_id, &found).await.map_err(database)?;
                Ok(found)
            }
            Err(error) => {
                let error = errors::host(&what, &error);
                self.0.db.record_sync_failure(device_id, &error).await.map_err(database)?;
                Err(error)
            }
        }
    }

    /// Queues the reading of a device's inventory. `None` when it is queued already.
    pub async fn sync_device(&self, device_id: DeviceId) -> Result<Option<JobId>, JobError> {
        let queued = self.0.db.enqueue_housekeeping(JobKind::Inventory, device_id).await;
        queued.map_err(|error| errors::database("The inventory could not be queued.", &error))
    }

    /// Makes a repository at a location; when one is there already, opens it and takes up its points.
    pub async fn create_location(&self, order: LocationOrder) -> Result<NewLocation, JobError> {
        let what = format!("The location “{}” could not be added.", order.name);
        let location = self.checked(&order.location)?;
        let secret = order.secret.clone().map(LocationSecret::from);
        let order = LocationOrder { location, ..order };
        let (repositories, secret) = (&self.0.repositories, secret.as_ref());
        let new = if repositories.holds_one(&order.location, secret).await? {
            let repository = repositories.adopt(&order.location, secret, &order.passphrase).await?;
            let repository_id = RepositoryId(repository.id());
            self.insert_location(&what, repository_id, &order).await?;
            let pass = index::adopt(&self.0, &what, &repository, repository_id).await?;
            NewLocation { repository_id, recovery_key: None, points: pass.adopted as u64 }
        } else {
            if let Location::Folder { path } = &order.location {
                place::prepare_folder(path)?;
            }
            let options = InitOptions::new(self.0.clock.now());
            let made = repositories.create(&order.location, secret, &order.passphrase, options).await;
            let (repository, key) = made?;
            let repository_id = RepositoryId(repository.id());
            self.insert_location(&what, repository_id, &order).await?;
            NewLocation { repository_id, recovery_key: Some(key.text().clone()), points: 0 }
        };
        if let Ok(row) = self.0.db.repository(new.repository_id).await
            && let Ok(repository) = self.0.repository(&what, &row).await
        {
            space::note(&self.0, &repository, &row).await;
        }
        Ok(new)
    }

    /// The location with what only this server can check: a folder of its own, links resolved.
    fn checked(&self, location: &Location) -> Result<Location, JobError> {
        let Location::Folder { path } = location else { return Ok(location.clone()) };
        let path = place::check_folder(&path.to_string_lossy(), &self.0.config.data_dir)?;
        Ok(Location::Folder { path })
    }

    async fn insert_location(
        &self,
        what: &str,
        repository_id: RepositoryId,
        order: &LocationOrder,
    ) -> Result<(), JobError> {
        let malformed = |error: serde_json::Error| JobError::fail("job.malformed", what, error.to_string(), "");
        let location = serde_json::to_value(&order.location).map_err(malformed)?;
        let of_worker =
            self.0.config.worker_kind == WorkerKind::Worker && matches!(order.location, Location::Folder { .. });
        let row = NewRepository {
            seen_by: of_worker.then(|| self.0.config.worker_name.clone()),
            repository_id,
            name: order.name.clone(),
            kind: order.location.kind().to_owned(),
            path: order.location.to_string(),
            location,
            secret: order.secret.clone(),
            passphrase: order.passphrase.clone(),
        };
        self.0.db.insert_repository(&row).await.map_err(|error| match error {
            db::Error::Conflict(conflict) => {
                JobError::fail("repository.known", what, format!("It cannot be added: {conflict}."), "")
            }
            error => errors::database(what, &error),
        })
    }

    /// Queues a verification of the repository.
    pub async fn verify(&self, id: RepositoryId) -> Result<Option<JobId>, JobError> {
        let what = "The verification could not be queued.";
        let row = self.0.db.repository(id).await.map_err(|error| errors::database(what, &error))?;
        let job = NewJob {
            repository_id: Some(id),
            priority: VERIFY_PRIORITY,
            max_attempts: 1,
            ..NewJob::new(JobKind::Verify, &row.name, format!("repository:{id}:verify"))
        };
        self.0.db.enqueue(&job).await.map_err(|error| errors::database(what, &error))
    }

    /// Queues giving back what no restore point needs. `None` when it is queued already.
    pub async fn collect(&self, id: RepositoryId) -> Result<Option<JobId>, JobError> {
        let what = "Giving space back could not be queued.";
        let row = self.0.db.repository(id).await.map_err(|error| errors::database(what, &error))?;
        housekeeping::collect(&self.0, id, &row.name).await.map_err(|error| errors::database(what, &error))
    }

    /// Sends a test message to each recipient of a channel of notices, and says what each answered.
    pub async fn test_channel(&self, channel_id: ChannelId) -> Result<Vec<(String, String)>, JobError> {
        notices::test(&self.0, channel_id).await
    }

    /// Queues a comparison of a repository's points with the rules. `None` when it is queued already.
    pub async fn retain(&self, id: RepositoryId) -> Result<Option<JobId>, JobError> {
        let what = "Retention could not be queued.";
        let row = self.0.db.repository(id).await.map_err(|error| errors::database(what, &error))?;
        housekeeping::retain(&self.0, id, &row.name).await.map_err(|error| errors::database(what, &error))
    }

    /// Queues a restore. A host of another platform is refused; what else stands against it on the target is found by
    /// the job, before it makes anything.
    pub async fn start_restore(&self, order: &RestoreOrder, started_by: &str) -> Result<RunId, JobError> {
        let what = format!("The restore of “{}” could not be started.", order.name);
        let database = |error: db::Error| errors::database(&what, &error);
        let point = self.0.db.point(db::PointId(order.point_id)).await.map_err(database)?;
        let device = self.0.db.device(DeviceId(order.device_id)).await.map_err(database)?;
        if !device.enabled {
            return Err(crate::core::disabled(&what, &device.name));
        }
        refuse_platform(&what, &point.config, &device)?;
        let payload = serde_json::to_value(order)
            .map_err(|error| JobError::fail("job.malformed", what.as_str(), error.to_string(), ""))?;
        let restore = NewRestore {
            title: format!("Restore of {} to {}", point.machine_name, device.name),
            machine_name: order.name.clone(),
            started_by: started_by.to_owned(),
            vm_id: point.vm_id,
            device_id: device.device_id,
            repository_id: point.repository_id,
            payload,
        };
        let (run_id, _) = self.0.db.start_restore(&restore).await.map_err(database)?;
        Ok(run_id)
    }
}
