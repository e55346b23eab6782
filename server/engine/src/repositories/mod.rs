//! Repositories as the engine uses them: open ones kept open, new ones made, folders checked.
//!
//! Owns: which repositories this process has open, and the seam behind which storage is chosen.
//! Must never: open a repository for another id than the one that was asked for. Read next: `place.rs`.

pub mod place;

use crate::throttle::Throttles;
use async_trait::async_trait;
use domain::Clock;
use domain::bandwidth::Bandwidth;
use domain::job::JobError;
use parking_lot::Mutex;
use repository::{
    BackendError, BackendErrorKind, Environment, IndexOptions, InitOptions, Location, LocationSecret, ObjectBackend,
    PacedBackend, RecoveryKey, Repository,
};
use secrecy::SecretString;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// Chooses the storage behind a location. The server uses [`RealLocations`]; tests put faults in between.
#[async_trait]
pub trait Locations: Send + Sync {
    /// An existing location.
    async fn open(
        &self,
        location: &Location,
        secret: Option<&LocationSecret>,
    ) -> Result<Arc<dyn ObjectBackend>, BackendError>;
    /// A new location.
    async fn create(
        &self,
        location: &Location,
        secret: Option<&LocationSecret>,
    ) -> Result<Arc<dyn ObjectBackend>, BackendError>;
}

/// Folders, shares, exports and buckets.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealLocations;

#[async_trait]
impl Locations for RealLocations {
    async fn open(
        &self,
        location: &Location,
        secret: Option<&LocationSecret>,
    ) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        location.open(secret).await
    }

    async fn create(
        &self,
        location: &Location,
        secret: Option<&LocationSecret>,
    ) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        location.create(secret).await
    }
}

/// Where a repository is and what opens it.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its id, which must be found there.
    pub id: Uuid,
    /// Name for people.
    pub name: String,
    /// Where.
    pub location: Location,
    /// The location's own password or key.
    pub secret: Option<LocationSecret>,
    /// Passphrase or recovery key.
    pub passphrase: SecretString,
    /// How fast its bytes may go.
    pub bandwidth: Bandwidth,
}

/// The repositories of this process.
pub struct Repositories {
    locations: Arc<dyn Locations>,
    environment: Environment,
    throttles: Throttles<Uuid>,
    by_id: Mutex<HashMap<Uuid, Slot>>,
}

/// Locked while opening: deriving the key takes a second and much memory.
type Slot = Arc<tokio::sync::Mutex<Option<Held>>>;

/// An open repository and the connection below it.
struct Held {
    repository: Repository,
    backend: Arc<dyn ObjectBackend>,
}

impl Repositories {
    /// None open yet. `index_cache` is a folder of this server: it may be deleted while no server runs.
    pub fn new(locations: Arc<dyn Locations>, index_cache: PathBuf, clock: Arc<dyn Clock>) -> Self {
        let index = IndexOptions { cache: Some(index_cache), ..IndexOptions::default() };
        let environment = Environment { index, ..Environment::default() };
        Self { locations, environment, throttles: Throttles::new(clock), by_id: Mutex::default() }
    }

    /// The repository, opened if it is not. An open one whose location has gone fails here, not in the middle of a job.
    pub async fn get(&self, place: &Place) -> Result<Repository, JobError> {
        let what = format!("The repository “{}” in {} could not be opened.", place.name, place.location);
        let throttle = self.throttles.of(place.id, place.bandwidth.clone());
        let slot = Arc::clone(self.by_id.lock().entry(place.id).or_default());
        let mut held = slot.lock().await;
        if let Some(open) = held.as_ref() {
            // An unmounted share leaves an empty folder: nothing may be written into that.
            if open.backend.stat(CONFIG).await.is_ok() {
                // After a rotation of the keys by somebody else it is opened again, with the passphrase that is known.
                if open.repository.keys_are_current().await.unwrap_or(true) {
                    return Ok(open.repository.clone());
                }
            }
            *held = None;
        }
        let backend = self.locations.open(&place.location, place.secret.as_ref()).await;
        let backend = backend.map_err(|error| missing(&what, error))?;
        let backend: Arc<dyn ObjectBackend> = Arc::new(PacedBackend::new(backend, throttle));
        let repository = Repository::open_in(Arc::clone(&backend), &place.passphrase, self.environment.clone())
            .await
            .map_err(|error| crate::errors::repository(&what, &error))?;
        if repository.id() != place.id {
            return Err(JobError::fail(
                "repository.replaced",
                what,
                "Another repository lies there now.",
                "Put the repository back, or add the one that is there under a name of its own.",
            ));
        }
        *held = Some(Held { repository: repository.clone(), backend });
        Ok(repository)
    }

    /// Whether something like a repository is at a location: then it is opened, not made. A location that is not
    /// there yet holds none.
    pub async fn holds_one(&self, location: &Location, secret: Option<&LocationSecret>) -> Result<bool, JobError> {
        let what = format!("The location {location} could not be opened.");
        let backend = match self.locations.open(location, secret).await {
            Err(error) if is_missing(error.kind) => return Ok(false),
            other => other.map_err(|error| missing(&what, error))?,
        };
        match backend.stat(CONFIG).await {
            Ok(_) => Ok(true),
            Err(error) if is_missing(error.kind) => Ok(false),
            Err(error) => Err(missing(&what, error)),
        }
    }

    /// Makes a repository at a checked location.
    pub async fn create(
        &self,
        location: &Location,
        secret: Option<&LocationSecret>,
        passphrase: &SecretString,
        options: InitOptions,
    ) -> Result<(Repository, RecoveryKey), JobError> {
        let what = format!("The repository in {location} could not be made.");
        let backend = self.locations.create(location, secret).await.map_err(|error| missing(&what, error))?;
        let (repository, key) =
            Repository::init_in(Arc::clone(&backend), passphrase, options, self.environment.clone())
                .await
                .map_err(|error| crate::errors::repository(&what, &error))?;
        Ok((repository, key))
    }

    /// Opens a repository that another server, or an earlier life of this one, made.
    pub async fn adopt(
        &self,
        location: &Location,
        secret: Option<&LocationSecret>,
        passphrase: &SecretString,
    ) -> Result<Repository, JobError> {
        let what = format!("The repository in {location} could not be opened.");
        let backend = self.locations.open(location, secret).await.map_err(|error| missing(&what, error))?;
        let repository = Repository::open_in(Arc::clone(&backend), passphrase, self.environment.clone())
            .await
            .map_err(|error| crate::errors::repository(&what, &error))?;
        Ok(repository)
    }
}

/// The object that only a repository has.
const CONFIG: &str = "config";

const fn is_missing(kind: BackendErrorKind) -> bool {
    matches!(kind, BackendErrorKind::NotFound | BackendErrorKind::NoLocation)
}

/// The location itself could not be opened or made.
fn missing(what: &str, error: BackendError) -> JobError {
    if is_missing(error.kind) {
        return JobError::fail("repository.not_found", what, crate::errors::chain(&error), crate::errors::FOLDER_HINT);
    }
    if error.kind == BackendErrorKind::AlreadyExists {
        return JobError::fail(
            "repository.not_empty",
            what,
            crate::errors::chain(&error),
            "Choose an empty or a new folder.",
        );
    }
    crate::errors::repository(what, &repository::Error::Backend(error))
}
