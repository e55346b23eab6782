//! A host's shares over one session, which is made again when it is lost.

use super::failure::{Cure, Failure, Outcome};
use super::frozen::FrozenDisk;
use super::path::SharePath;
use super::session::{Handle, Purpose, Session};
use super::upload::DiskUpload;
use super::{HOLDER_PATIENCE, PAUSE_FIRST, PAUSE_LONGEST, ShareOptions};
use crate::{HostError, Result};
use disk::container::vhdx::VhdxOptions;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// The files of one host. Cheap to clone; every call is safe to run beside others.
#[derive(Clone)]
pub struct Shares(pub(super) Arc<Access>);

/// How the session's messages are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// What signs, e.g. `AES-128-GMAC`.
    pub signing: &'static str,
    /// What encrypts, e.g. `AES-128-GCM`; `None` where messages are only signed.
    pub cipher: Option<&'static str>,
}

impl Shares {
    /// Connects and signs in. No share is joined yet.
    pub async fn connect(options: ShareOptions) -> Result<Self> {
        let access = Access { options, session: Mutex::new(None) };
        let shares = Self(Arc::new(access));
        shares.0.session().await.map_err(|failure| shares.0.error(failure, "sign in for the files"))?;
        Ok(shares)
    }

    /// How messages are protected now; joining a share may add encryption.
    pub async fn protection(&self) -> Result<Protection> {
        let session = self.0.session().await.map_err(|failure| self.0.error(failure, "sign in for the files"))?;
        Ok(Protection { signing: session.signing_name(), cipher: session.cipher_name() })
    }

    /// Opens a frozen disk: the image at this Windows path and all its parents. Reads tables, no data.
    pub async fn open_disk(&self, path: &str) -> Result<FrozenDisk> {
        FrozenDisk::open(&self.0, path).await
    }

    /// Begins a new disk; fails when there is a file of that name. Its folder must be there.
    pub async fn create_disk(&self, path: &str, options: VhdxOptions) -> Result<DiskUpload> {
        DiskUpload::create(&self.0, path, options).await
    }

    /// Removes a file; one that is gone already is fine.
    pub async fn remove(&self, path: &str) -> Result<()> {
        let attempt = || format!("remove {path:.300}");
        let place = self.0.place(path, attempt)?;
        self.0.remove(&place).await.map_err(|failure| self.0.error_at(failure, &place, attempt()))
    }

    /// Makes a folder with its parents; one that is there already is fine.
    pub async fn make_folder(&self, path: &str) -> Result<()> {
        let attempt = || format!("make the folder {path:.300}");
        let place = self.0.place(path, attempt)?;
        let every = place.folders().chain((!place.path.is_empty()).then_some(place.path.as_str()));
        for path in every {
            let folder = SharePath { share: place.share.clone(), path: path.to_owned() };
            let made = self.0.open_and_close(&folder, Purpose::MakeFolder).await;
            made.map_err(|failure| self.0.error_at(failure, &place, attempt()))?;
        }
        Ok(())
    }

    /// Whether there is a file or folder of that name.
    pub async fn exists(&self, path: &str) -> Result<bool> {
        let attempt = || format!("look for {path:.300}");
        let place = self.0.place(path, attempt)?;
        match self.0.open_and_close(&place, Purpose::LookUp).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_not_found() => Ok(false),
            Err(failure) => Err(self.0.error_at(failure, &place, attempt())),
        }
    }

    /// Bytes that may still be written to the volume of this folder or file.
    pub async fn free_bytes(&self, path: &str) -> Result<u64> {
        let attempt = || format!("ask for the free space at {path:.300}");
        let place = self.0.place(path, attempt)?;
        let free = async { self.0.open_again(&place, Purpose::LookUp).await?.free_bytes().await };
        free.await.map_err(|failure| self.0.error_at(failure, &place, attempt()))
    }

    /// Ends the session. Disks that are still open make another when they are read.
    pub async fn close(&self) {
        *self.0.session.lock().await = None;
    }
}

/// What disks and uploads share: the options and the session of the moment.
pub(super) struct Access {
    options: ShareOptions,
    session: Mutex<Option<Arc<Session>>>,
}

impl Access {
    /// The session, made now where there is none.
    pub async fn session(&self) -> Outcome<Arc<Session>> {
        let mut current = self.session.lock().await;
        if let Some(session) = current.as_ref().filter(|session| !session.is_dead()) {
            return Ok(session.clone());
        }
        let session = Arc::new(Session::connect(&self.options).await?);
        *current = Some(session.clone());
        Ok(session)
    }

    /// The session, after one was lost. A host that starts again is waited for; a silent one gets one try.
    pub async fn session_again(&self, lost: Cure) -> Outcome<Arc<Session>> {
        let (start, mut pause) = (Instant::now(), PAUSE_FIRST);
        loop {
            match self.session().await {
                Err(failure) if failure.cure == Cure::Reconnect && lost == Cure::Reconnect => {
                    if start.elapsed() + pause > self.options.reconnect_patience {
                        return Err(failure);
                    }
                }
                other => return other,
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }

    pub async fn open(&self, place: &SharePath, purpose: Purpose) -> Outcome<Handle> {
        self.session().await?.open(place, purpose).await
    }

    async fn open_and_close(&self, place: &SharePath, purpose: Purpose) -> Outcome<()> {
        self.open_again(place, purpose).await?.close().await
    }

    /// Opens it; once more when it turns out that the connection was lost meanwhile.
    pub async fn open_again(&self, place: &SharePath, purpose: Purpose) -> Outcome<Handle> {
        match self.open(place, purpose).await {
            Err(failure) if failure.wants_connection() => {
                self.session_again(failure.cure).await?;
                self.open(place, purpose).await
            }
            other => other,
        }
    }

    /// Removes a file; waits for a while where somebody still holds it.
    pub async fn remove(&self, place: &SharePath) -> Outcome<()> {
        let (start, mut pause) = (Instant::now(), PAUSE_FIRST);
        loop {
            match self.open_and_close(place, Purpose::Delete).await {
                Err(failure) if failure.is_not_found() => return Ok(()),
                Err(failure) if failure.cure == Cure::Wait && start.elapsed() + pause < HOLDER_PATIENCE => {}
                other => return other,
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }

    pub fn patience(&self) -> Duration {
        self.options.patience
    }

    /// Where a Windows path leads.
    pub fn place(&self, path: &str, attempt: impl Fn() -> String) -> Result<SharePath> {
        SharePath::parse(path, self.options.bare_host()).map_err(|failure| self.error(failure, attempt()))
    }

    pub fn error(&self, failure: Failure, attempt: impl Into<String>) -> HostError {
        failure.during(&self.options.name(), attempt)
    }

    /// The same, of a file, with what its place has to do with it.
    pub fn error_at(&self, failure: Failure, place: &SharePath, attempt: impl Into<String>) -> HostError {
        let mut error = self.error(failure, attempt);
        if place.is_clustered() {
            error.hint.push_str(" The volume is a cluster's; the host asked must be the one that owns it.");
        }
        error
    }
}
