//! Where a repository lies: what an operator enters, without its secret, and the backend made of it.
//!
//! Must never hold, print or serialise a secret: [`LocationSecret`] travels beside. Next: `backend`.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::{
    BackendError, BackendErrorKind, FolderBackend, NfsBackend, NfsOptions, ObjectBackend, S3Backend, S3Options,
    SmbBackend, SmbOptions,
};

/// A storage location, as it is stored in a database or configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Location {
    /// A folder of this machine, or mounted on it.
    Folder {
        /// Absolute path.
        path: PathBuf,
    },
    /// A bucket of S3-compatible storage.
    S3(S3Location),
    /// An SMB share, without mounting it.
    Smb(SmbLocation),
    /// An NFS export, without mounting it.
    Nfs(NfsLocation),
}

/// See [`Location::S3`]. Its secret is the secret access key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Location {
    /// `https://host[:port]`, or `http://` where the network is trusted.
    pub endpoint: String,
    /// E.g. `eu-central-1`; what the storage calls itself, `us-east-1` if it does not care.
    pub region: String,
    /// An existing bucket.
    pub bucket: String,
    /// Folder in the bucket, `/` between parts; empty for the whole bucket.
    #[serde(default)]
    pub prefix: String,
    /// The access key's id.
    pub access_key: String,
    /// The bucket goes into the path, not into the host name.
    #[serde(default)]
    pub path_style: bool,
    /// The only authorities trusted for its certificate, PEM; `None` for those of the system.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// Lock on everything that is needed to restore.
    #[serde(default)]
    pub object_lock: Option<Retention>,
}

/// Object lock: nobody can delete an object for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Days from the moment a restore point is made; 1 to 36500.
    pub days: u32,
    /// Who may shorten it.
    pub mode: RetentionMode,
}

/// Who may lift a lock before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionMode {
    /// Accounts with a special permission.
    Governance,
    /// Nobody.
    Compliance,
}

/// See [`Location::Smb`]. Its secret is the account's password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmbLocation {
    /// Host name or address.
    pub address: String,
    /// Usually 445.
    #[serde(default = "smb_port")]
    pub port: u16,
    /// Name of the share.
    pub share: String,
    /// Folder in the share, `/` between parts; empty for the whole share.
    #[serde(default)]
    pub folder: String,
    /// Account.
    pub account: String,
    /// Its domain; empty for an account of the server's own.
    #[serde(default)]
    pub domain: String,
    /// Whether the session has to be encrypted.
    #[serde(default)]
    pub encryption: SmbEncryption,
}

/// Encryption of an SMB session. It is always signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmbEncryption {
    /// Where the server asks for it.
    #[default]
    Auto,
    /// Always, or there is no connection.
    Required,
}

/// See [`Location::Nfs`]. It has no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NfsLocation {
    /// Host name or address.
    pub address: String,
    /// Path of the export, as the server names it.
    pub export: String,
    /// Folder in the export, `/` between parts; empty for the whole export.
    #[serde(default)]
    pub folder: String,
    /// User the server is told.
    #[serde(default)]
    pub uid: u32,
    /// Group the server is told.
    #[serde(default)]
    pub gid: u32,
    /// Port of NFS; `None`: the server's port mapper is asked.
    #[serde(default)]
    pub port: Option<u16>,
    /// Port of the mount service; `None`: the server's port mapper is asked.
    #[serde(default)]
    pub mount_port: Option<u16>,
}

const fn smb_port() -> u16 {
    445
}

/// The password or key that belongs to a location.
#[derive(Debug, Clone)]
pub struct LocationSecret(pub SecretString);

impl From<SecretString> for LocationSecret {
    fn from(secret: SecretString) -> Self {
        Self(secret)
    }
}

impl fmt::Display for Location {
    /// What to call it in messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { path } => write!(f, "{}", path.display()),
            Self::S3(s3) if s3.prefix.is_empty() => write!(f, "{}/{}", s3.endpoint, s3.bucket),
            Self::S3(s3) => write!(f, "{}/{}/{}", s3.endpoint, s3.bucket, s3.prefix),
            Self::Smb(smb) => write!(f, "//{}/{}/{}", smb.address, smb.share, smb.folder),
            Self::Nfs(nfs) => write!(f, "{}:{}/{}", nfs.address, nfs.export, nfs.folder),
        }
    }
}

impl Location {
    /// As it is serialised: `folder`, `s3`, `smb` or `nfs`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "folder",
            Self::S3(_) => "s3",
            Self::Smb(_) => "smb",
            Self::Nfs(_) => "nfs",
        }
    }

    /// Opens a location that is there, whether it holds a repository or not.
    pub async fn open(&self, secret: Option<&LocationSecret>) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        self.backend(secret, false).await
    }

    /// The same for a new repository: a folder is made; what is there must be empty.
    pub async fn create(&self, secret: Option<&LocationSecret>) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        self.backend(secret, true).await
    }

    async fn backend(
        &self,
        secret: Option<&LocationSecret>,
        create: bool,
    ) -> Result<Arc<dyn ObjectBackend>, BackendError> {
        match self {
            Self::Folder { path } => {
                let path = path.clone();
                let work = move || if create { FolderBackend::create(path) } else { FolderBackend::open(path) };
                let opened = tokio::task::spawn_blocking(work).await;
                Ok(Arc::new(opened.unwrap_or_else(|_| Err(self.unfit("the storage thread stopped")))?))
            }
            Self::Smb(smb) => {
                let LocationSecret(password) = secret.ok_or_else(|| self.unfit("an SMB share needs a password"))?;
                let options = SmbOptions::at(smb, password.clone());
                Ok(Arc::new(if create {
                    SmbBackend::create(options).await?
                } else {
                    SmbBackend::open(options).await?
                }))
            }
            Self::Nfs(nfs) => {
                let options = NfsOptions::at(nfs);
                Ok(Arc::new(if create {
                    NfsBackend::create(options).await?
                } else {
                    NfsBackend::open(options).await?
                }))
            }
            Self::S3(s3) => {
                let LocationSecret(key) = secret.ok_or_else(|| self.unfit("a bucket needs a secret key"))?;
                let options = S3Options::new(s3.clone(), key.clone());
                Ok(Arc::new(if create { S3Backend::create(options).await? } else { S3Backend::open(options).await? }))
            }
        }
    }

    fn unfit(&self, reason: &'static str) -> BackendError {
        BackendError {
            kind: BackendErrorKind::Unsuitable,
            verb: "open",
            name: String::new(),
            place: self.to_string(),
            source: Some(Arc::new(std::io::Error::other(reason))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_of_a_location_stays_readable() {
        let s3 = r#"{"kind":"s3","endpoint":"https://s3.example.org","region":"us-east-1","bucket":"backups",
            "access_key":"AK","object_lock":{"days":30,"mode":"compliance"}}"#;
        let location: Location = serde_json::from_str(s3).unwrap();
        let Location::S3(s3) = &location else { panic!("{location:?}") };
        assert_eq!(s3.object_lock, Some(Retention { days: 30, mode: RetentionMode::Compliance }));
        assert_eq!(location.to_string(), "https://s3.example.org/backups");
        let smb = r#"{"kind":"smb","address":"nas","share":"vm","account":"backup"}"#;
        let Location::Smb(smb) = serde_json::from_str(smb).unwrap() else { panic!("not SMB") };
        assert_eq!((smb.port, smb.encryption), (445, SmbEncryption::Auto));
        let text = r#"{"kind":"folder","path":"/backups"}"#;
        let location: Location = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&location).unwrap(), text);
    }

    #[tokio::test]
    async fn a_folder_is_made_and_opened() {
        let parent = tempfile::tempdir().unwrap();
        let location = Location::Folder { path: parent.path().join("new") };
        assert_eq!(location.open(None).await.unwrap_err().kind, BackendErrorKind::NotFound);
        location.create(None).await.unwrap();
        location.open(None).await.unwrap();
    }
}
