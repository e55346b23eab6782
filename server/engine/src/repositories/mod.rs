//! Repositories as the engine uses them: open ones kept open, new ones made, folders checked.
//!
//! Owns: which repositories this process has open, and the seam behind which storage is chosen.
//! Must never: open a repository for another id than the one that was asked for. Read next: `place.rs`.

pub mod place;

use async_trait::async_trait;
use domain::job::JobError;
use parking_lot::Mutex;
use repository::{BackendError, BackendErrorKind, FolderBackend, InitOptions, ObjectBackend, RecoveryKey, Repository};
use secrecy::SecretString;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Chooses the storage behind a location. The server uses [`Folders`]; tests put faults in between.
#[async_trait]
pub trait Locations: Send + Sync {
    /// An existing location.
    async fn open(&self, path: &str) -> Result<Arc<dyn ObjectBackend>, BackendError>;
    /// A new location.
    async fn create(&self, path: &str) -> Result<Arc<dyn ObjectBackend>, BackendError>;
}

/// Local folders.
#[derive(Debug, Clone, Copy, Default)]
pub struct Folders;

#[async_trait]
impl Locations for Folders {
    async fn open(&self, path: &str) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        Ok(Arc::new(FolderBackend::open(path)?))
    }

    async fn create(&self, path: &str) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        Ok(Arc::new(FolderBackend::create(path)?))
    }
}

/// Where a repository is and what opens it.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its id, which must be found there.
    pub id: Uuid,
    /// Name for people.
    pub name: String,
    /// Folder.
    pub path: String,
    /// Passphrase or recovery key.
    pub passphrase: SecretString,
}

/// The repositories of this process.
pub struct Repositories {
    locations: Arc<dyn Locations>,
    by_id: Mutex<HashMap<Uuid, Slot>>,
}

/// Locked while opening: deriving the key takes a second and much memory.
type Slot = Arc<tokio::sync::Mutex<Option<Repository>>>;

impl Repositories {
    /// None open yet.
    pub fn new(locations: Arc<dyn Locations>) -> Self {
        Self { locations, by_id: Mutex::default() }
    }

    /// The repository, opened if it is not. An open one whose folder has gone fails here, not in the middle of a job.
    pub async fn get(&self, place: &Place) -> Result<Repository, JobError> {
        let what = format!("The repository “{}” in {} could not be opened.", place.name, place.path);
        let slot = Arc::clone(self.by_id.lock().entry(place.id).or_default());
        let mut held = slot.lock().await;
        let backend = self.locations.open(&place.path).await.map_err(|error| missing(&what, error))?;
        if let Some(repository) = held.as_ref() {
            // An unmounted share leaves an empty folder: nothing may be written into that.
            if backend.stat("config").await.is_ok() {
                // After a rotation of the keys by somebody else it is opened again, with the passphrase that is known.
                if repository.keys_are_current().await.unwrap_or(true) {
                    return Ok(repository.clone());
                }
            }
            *held = None;
        }
        let repository = Repository::open(backend, &place.passphrase)
            .await
            .map_err(|error| crate::errors::repository(&what, &error))?;
        if repository.id() != place.id {
            return Err(JobError::fail(
                "repository.replaced",
                what,
                "Another repository lies in that folder now.",
                "Put the repository back, or add the one that is there under a name of its own.",
            ));
        }
        *held = Some(repository.clone());
        Ok(repository)
    }

    /// Makes a repository in a checked folder.
    pub async fn create(
        &self,
        path: &Path,
        passphrase: &SecretString,
        options: InitOptions,
    ) -> Result<(Repository, RecoveryKey), JobError> {
        let path = path.display().to_string();
        let what = format!("The repository in {path} could not be made.");
        let backend = self.locations.create(&path).await.map_err(|error| missing(&what, error))?;
        let (repository, key) = Repository::init(backend, passphrase, options)
            .await
            .map_err(|error| crate::errors::repository(&what, &error))?;
        self.keep(&repository);
        Ok((repository, key))
    }

    /// Opens a repository that another server, or an earlier life of this one, made.
    pub async fn adopt(&self, path: &Path, passphrase: &SecretString) -> Result<Repository, JobError> {
        let path = path.display().to_string();
        let what = format!("The repository in {path} could not be opened.");
        let backend = self.locations.open(&path).await.map_err(|error| missing(&what, error))?;
        let repository =
            Repository::open(backend, passphrase).await.map_err(|error| crate::errors::repository(&what, &error))?;
        self.keep(&repository);
        Ok(repository)
    }

    fn keep(&self, repository: &Repository) {
        let slot = Arc::new(tokio::sync::Mutex::new(Some(repository.clone())));
        self.by_id.lock().insert(repository.id(), slot);
    }
}

/// The folder itself could not be opened or made.
fn missing(what: &str, error: BackendError) -> JobError {
    if error.kind == BackendErrorKind::NotFound {
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
