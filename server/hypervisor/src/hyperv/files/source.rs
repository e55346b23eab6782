//! Files of the host as the disk crate reads them. A session lost in the middle is made again, and the file is looked at
//! before anything more is taken from it: a frozen file does not change.

use super::failure::{Failure, into_io};
use super::path::SharePath;
use super::session::{Handle, Purpose};
use super::shares::Access;
use crate::{ErrorKind, HostError};
use async_trait::async_trait;
use bytes::Bytes;
use disk::container::{ImageFolder, ImageSource};
use sha2::{Digest as _, Sha256};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Mutex as AsyncMutex;

/// Places whose bytes tell one file from another: both headers of a VHDX, which hold its ids and are different in every
/// file; in a VHD they are a part of its tables or data.
const MARKED_AT: [u64; 2] = [64 << 10, 128 << 10];
const MARKED_BYTES: u64 = 4096;

/// The images of a chain, by the paths that Windows gave them.
pub(super) struct Folder(pub Arc<Access>);

#[async_trait]
impl ImageFolder for Folder {
    async fn open(&self, path: &str) -> io::Result<Option<Arc<dyn ImageSource>>> {
        match FrozenFile::open(&self.0, path).await {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(error) if error.code == "hyperv.file_missing" => Ok(None),
            Err(error) => Err(into_io(error)),
        }
    }
}

/// What must be the same when a file is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    size_bytes: u64,
    made_at: u64,
    content: [u8; 32],
}

impl Mark {
    async fn of(handle: &Handle) -> Result<Self, Failure> {
        let mut hash = Sha256::new();
        for at in MARKED_AT {
            let length = handle.size_bytes.saturating_sub(at).min(MARKED_BYTES);
            if length > 0 {
                hash.update(handle.read(at, length as usize).await?);
            }
        }
        Ok(Self { size_bytes: handle.size_bytes, made_at: handle.made_at, content: hash.finalize().into() })
    }

    fn differs(&self, now: &Self) -> Option<Failure> {
        let text = match () {
            () if self.size_bytes != now.size_bytes => {
                format!("the file had {} bytes when it was opened, and has {} now", self.size_bytes, now.size_bytes)
            }
            () if self.made_at != now.made_at => "another file has taken its place".into(),
            () if self.content != now.content => "the file's headers have changed".into(),
            () => return None,
        };
        let hint = "The disk was not frozen; the backup has to begin again.";
        Some(Failure::new(ErrorKind::Protocol, "hyperv.file_changed", text).with_hint(hint))
    }
}

/// A file of the host that nobody writes to.
struct FrozenFile {
    access: Arc<Access>,
    place: SharePath,
    name: String,
    mark: Mark,
    handle: Mutex<Arc<Handle>>,
    /// Held while the file is opened again; set for good when that failed.
    given_up: AsyncMutex<Option<Failure>>,
}

impl FrozenFile {
    async fn open(access: &Arc<Access>, name: &str) -> Result<Self, HostError> {
        let attempt = || format!("open {name:.300}");
        let place = access.place(name, attempt)?;
        let failed = |failure| access.error_at(failure, &place, attempt());
        let opened = match open_marked(access, &place).await {
            Err(failure) if failure.wants_connection() => {
                access.session_again(failure.cure).await.map_err(failed)?;
                open_marked(access, &place).await
            }
            other => other,
        };
        let (handle, mark) = opened.map_err(failed)?;
        let (handle, given_up) = (Mutex::new(Arc::new(handle)), AsyncMutex::new(None));
        Ok(Self { access: access.clone(), place, name: name.to_owned(), mark, handle, given_up })
    }

    fn handle(&self) -> Arc<Handle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file in another session; the first to come opens it for all.
    async fn handle_again(&self, lost: &Arc<Handle>, cause: &Failure) -> Result<Arc<Handle>, Failure> {
        let mut given_up = self.given_up.lock().await;
        if let Some(failure) = &*given_up {
            return Err(failure.clone());
        }
        let now = self.handle();
        if !Arc::ptr_eq(&now, lost) && !now.session().is_dead() {
            return Ok(now);
        }
        tracing::info!(file = %self.name, %cause, "the session was lost; the file is opened again");
        let again = async {
            self.access.session_again(cause.cure).await?;
            let (handle, mark) = open_marked(&self.access, &self.place).await?;
            match self.mark.differs(&mark) {
                Some(failure) => Err(failure),
                None => Ok(Arc::new(handle)),
            }
        };
        match again.await {
            Ok(handle) => {
                *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = handle.clone();
                Ok(handle)
            }
            Err(failure) => {
                *given_up = Some(failure.clone());
                Err(failure)
            }
        }
    }

    async fn read(&self, offset: u64, length: usize) -> Result<Bytes, Failure> {
        let handle = self.handle();
        match handle.read(offset, length).await {
            Err(failure) if failure.wants_connection() => {
                self.handle_again(&handle, &failure).await?.read(offset, length).await
            }
            other => other,
        }
    }
}

async fn open_marked(access: &Access, place: &SharePath) -> Result<(Handle, Mark), Failure> {
    let handle = access.open(place, Purpose::Read).await?;
    let mark = Mark::of(&handle).await?;
    Ok((handle, mark))
}

#[async_trait]
impl ImageSource for FrozenFile {
    fn len_bytes(&self) -> u64 {
        self.mark.size_bytes
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.read(offset, length).await.map_err(|failure| {
            let attempt = format!("read {length} bytes at {offset} of {:.300}", self.name);
            into_io(self.access.error_at(failure, &self.place, attempt))
        })
    }
}
