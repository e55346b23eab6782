//! Where the private Postgres listens: a folder nobody else may enter.

use super::account::Account;
use super::error::PostgresError;
use rustix::fs::Mode;
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Role the server connects as; it owns the cluster.
pub(super) const ROLE: &str = "stillframe";
/// Names the socket's file, while nothing listens on a network.
const PORT: u16 = 5432;
/// Linux takes 108 bytes with the closing zero, others 104; `/.s.PGSQL.65535` comes after the folder.
const FOLDER_BYTES_MAX: usize = 104 - 1 - "/.s.PGSQL.65535".len();

/// The folder with the private Postgres's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    folder: PathBuf,
    port: u16,
}

impl Socket {
    /// Makes the folder: beside the cluster, or in a short place when that path is too long for a socket.
    /// Postgres names the file after the port it listens on for workers.
    pub(super) fn prepare(beside: &Path, account: &Account, port: Option<u16>) -> Result<Self, PostgresError> {
        let inside = beside.join("socket");
        let folder = if inside.as_os_str().len() <= FOLDER_BYTES_MAX { inside } else { short_folder(beside) };
        match rustix::fs::mkdir(&folder, Mode::RWXU) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => check_own(&folder, account)?,
            Err(error) => return Err(PostgresError::file("cannot make the socket's folder", &folder)(error.into())),
        }
        account.give(&folder)?;
        Ok(Self { folder, port: port.unwrap_or(PORT) })
    }

    /// Of the cluster in this folder, which is short enough.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn of_tests(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("postgres/socket"), port: PORT }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.folder)
            .port(self.port)
            .ssl_mode(PgSslMode::Disable)
            .username(ROLE)
            .database(database)
    }
}

/// In /run where we may, else in /tmp; the name follows from the long one.
fn short_folder(long: &Path) -> PathBuf {
    let hash = Sha256::digest(long.as_os_str().as_bytes());
    let base = if rustix::process::geteuid().is_root() { "/run" } else { "/tmp" };
    Path::new(base).join(format!("stillframe-{}", hex::encode(&hash[..8])))
}

/// In a folder open to everyone another account may have been faster.
fn check_own(folder: &Path, account: &Account) -> Result<(), PostgresError> {
    let metadata =
        std::fs::symlink_metadata(folder).map_err(PostgresError::file("cannot look at the socket's folder", folder))?;
    if !metadata.is_dir() || !account.trusts(metadata.uid()) {
        let source = std::io::Error::new(std::io::ErrorKind::PermissionDenied, "it belongs to another account");
        return Err(PostgresError::file("cannot use the socket's folder", folder)(source));
    }
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700))
        .map_err(PostgresError::file("cannot close the socket's folder", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_data_folder_gets_a_short_socket() {
        let long = Path::new("/srv").join("x".repeat(120));
        let short = short_folder(&long);
        assert!(short.as_os_str().len() <= FOLDER_BYTES_MAX);
        assert_ne!(short, short_folder(Path::new("/srv/other")));
    }
}
