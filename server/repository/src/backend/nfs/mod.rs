//! An NFS export (version 3) as backend, in user space: no mount, no root. An object is a file: written under `tmp/`,
//! committed, and given its name by a hard link, because a rename would replace what is there without a word.
//! Next: `rpc` (calls), `protocol` (their contents), `session` (a mounted export), `share` (what SMB locations do the
//! same way).

mod protocol;
mod rpc;
mod session;
mod share;
mod xdr;

use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::share::{Failure, ShareBackend, folder_parts};
use super::{BackendError, BackendErrorKind, ObjectBackend, ObjectInfo};
use crate::location::NfsLocation;
use session::Session;

/// Longest wait for a connection, and for a name to be resolved.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a server, unless the options say otherwise.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest path of an export, in bytes (`MNTPATHLEN`).
const EXPORT_BYTES_MAX: usize = 1024;

/// Where an export is, and who uses it.
#[derive(Debug, Clone)]
pub struct NfsOptions {
    /// Name or address.
    pub host: String,
    /// Path of the export, as the server names it.
    pub export: String,
    /// Folder in the export, parted by `/`; empty for the export itself.
    pub folder: String,
    /// User and group the server is told.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Port of NFS; `None`: the server's port mapper is asked.
    pub port: Option<u16>,
    /// Port of the mount service; `None`: the server's port mapper is asked.
    pub mount_port: Option<u16>,
    /// Longest silence of the server that is waited for.
    pub timeout: Duration,
}

impl NfsOptions {
    /// The export itself, used as root, on ports that the server tells.
    pub fn new(host: impl Into<String>, export: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            export: export.into(),
            folder: String::new(),
            uid: 0,
            gid: 0,
            port: None,
            mount_port: None,
            timeout: TIMEOUT,
        }
    }

    /// Those of a location.
    pub fn at(location: &NfsLocation) -> Self {
        Self {
            folder: location.folder.clone(),
            uid: location.uid,
            gid: location.gid,
            port: location.port,
            mount_port: location.mount_port,
            ..Self::new(&location.address, &location.export)
        }
    }

    fn place(&self) -> String {
        let folder = self.folder.trim_matches('/');
        let slash = if folder.is_empty() || self.export.ends_with('/') { "" } else { "/" };
        format!("nfs://{}{}{slash}{folder}", self.host, self.export)
    }
}

/// Objects as files in a folder of an NFS export. Clones share its connections.
#[derive(Debug, Clone)]
pub struct NfsBackend(Arc<ShareBackend<Session>>);

impl NfsBackend {
    fn new(options: NfsOptions) -> Result<Self, BackendError> {
        let place = options.place();
        let is_good = folder_parts(&options.folder).is_some()
            && options.export.starts_with('/')
            && options.export.len() <= EXPORT_BYTES_MAX
            && !options.host.is_empty();
        let backend = ShareBackend::new(options, place);
        if !is_good {
            let text = "an address, an export that starts with / and a folder without special characters are needed";
            return Err(backend.error("open", "", Failure::new(BackendErrorKind::BadName, text)));
        }
        Ok(Self(Arc::new(backend)))
    }

    /// A folder that is there.
    pub async fn open(options: NfsOptions) -> Result<Self, BackendError> {
        let backend = Self::new(options)?;
        backend.0.open_root().await?;
        Ok(backend)
    }

    /// A folder that is made (with its parents) or is there and empty.
    pub async fn create(options: NfsOptions) -> Result<Self, BackendError> {
        let backend = Self::new(options)?;
        backend.0.create_root().await?;
        Ok(backend)
    }
}

#[async_trait::async_trait]
impl ObjectBackend for NfsBackend {
    fn place(&self) -> String {
        self.0.place().to_owned()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        self.0.put_new(name, &parts).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        self.0.get(name, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        self.0.list(prefix).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        self.0.stat(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        self.0.delete(name).await
    }
}
