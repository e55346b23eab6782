//! An SMB share as backend, in user space: no mount, no root. Signatures always; encryption where the options, the
//! share or the server want it. An object is a file: written under `tmp/`, flushed, renamed without replacing.
//! Next: `handshake` (signing in), `session` (requests), `share` (what NFS locations do the same way).

mod failure;
mod handshake;
mod session;
mod share;

use bytes::Bytes;
use secrecy::SecretString;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::share::{Failure, ShareBackend, folder_parts};
use super::{BackendError, BackendErrorKind, ObjectBackend, ObjectInfo};
use crate::location::{SmbEncryption, SmbLocation};
use session::Session;

/// Where SMB servers listen.
pub const SMB_PORT: u16 = 445;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a server, unless the options say otherwise.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Where a share is, and who uses it.
#[derive(Clone)]
pub struct SmbOptions {
    /// Name or address.
    pub host: String,
    /// Usually `SMB_PORT`.
    pub port: u16,
    /// Name of the share.
    pub share: String,
    /// Folder in the share, parted by `/`; empty for the share itself.
    pub folder: String,
    /// Account.
    pub account: String,
    /// Domain or workgroup of the account; may be empty.
    pub domain: String,
    /// Password.
    pub password: SecretString,
    /// When the session is encrypted.
    pub encryption: SmbEncryption,
    /// Longest silence of the server that is waited for.
    pub timeout: Duration,
}

impl SmbOptions {
    /// The share itself, at the usual port, encrypted when the server wants it.
    pub fn new(
        host: impl Into<String>,
        share: impl Into<String>,
        account: impl Into<String>,
        password: SecretString,
    ) -> Self {
        Self {
            host: host.into(),
            port: SMB_PORT,
            share: share.into(),
            folder: String::new(),
            account: account.into(),
            domain: String::new(),
            password,
            encryption: SmbEncryption::Auto,
            timeout: TIMEOUT,
        }
    }

    /// Those of a location.
    pub fn at(location: &SmbLocation, password: SecretString) -> Self {
        Self {
            port: location.port,
            folder: location.folder.clone(),
            domain: location.domain.clone(),
            encryption: location.encryption,
            ..Self::new(&location.address, &location.share, &location.account, password)
        }
    }

    fn place(&self) -> String {
        let port = if self.port == SMB_PORT { String::new() } else { format!(":{}", self.port) };
        let folder = self.folder.trim_matches(['/', '\\']);
        let slash = if folder.is_empty() { "" } else { "/" };
        format!("smb://{}{port}/{}{slash}{folder}", self.host, self.share)
    }
}

impl fmt::Debug for SmbOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmbOptions")
            .field("place", &self.place())
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

/// Objects as files in a folder of an SMB share. Clones share its connection.
#[derive(Debug, Clone)]
pub struct SmbBackend(Arc<ShareBackend<Session>>);

impl SmbBackend {
    fn new(options: SmbOptions) -> Result<Self, BackendError> {
        let place = options.place();
        let is_good = folder_parts(&options.folder).is_some()
            && folder_parts(&options.share).is_some_and(|parts| parts.len() == 1)
            && !options.host.is_empty()
            && !options.account.is_empty();
        let backend = ShareBackend::new(options, place);
        if !is_good {
            let text = "an address, a share, a folder without special characters, and an account are needed";
            return Err(backend.error("open", "", Failure::new(BackendErrorKind::BadName, text)));
        }
        Ok(Self(Arc::new(backend)))
    }

    /// A folder that is there.
    pub async fn open(options: SmbOptions) -> Result<Self, BackendError> {
        let backend = Self::new(options)?;
        backend.0.open_root().await?;
        Ok(backend)
    }

    /// A folder that is made (with its parents) or is there and empty.
    pub async fn create(options: SmbOptions) -> Result<Self, BackendError> {
        let backend = Self::new(options)?;
        backend.0.create_root().await?;
        Ok(backend)
    }

    /// The cipher of the session, when it is encrypted: `AES-128-GCM` and the like.
    pub async fn cipher(&self) -> Result<Option<&'static str>, BackendError> {
        let session = self.0.session().await;
        session.map(|(_, session)| session.cipher()).map_err(|failure| self.0.error("open", "", failure))
    }
}

#[async_trait::async_trait]
impl ObjectBackend for SmbBackend {
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
