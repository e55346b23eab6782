//! What stands against a private Postgres, with the remedy.

use std::io;
use std::path::PathBuf;

/// Errors of the private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// Not installed.
    #[error(
        "PostgreSQL is not installed: `initdb` and `postgres` were looked for in {looked}. Install it \
         (Debian: `apt-get install postgresql`), or set DATABASE_URL to a database server"
    )]
    NotInstalled {
        /// Where it was looked for.
        looked: String,
    },
    /// The cluster was made by another major version.
    #[error(
        "the database in {folder} was made by PostgreSQL {cluster}, but the newest installed is {installed}: install \
         PostgreSQL {cluster}, or move the data with pg_upgrade"
    )]
    OtherVersion {
        /// Cluster's folder.
        folder: PathBuf,
        /// Its version.
        cluster: String,
        /// What there is.
        installed: String,
    },
    /// The server runs as root and no account to drop to exists.
    #[error("PostgreSQL refuses to run as root, and neither the account `postgres` nor `nobody` exists")]
    NoAccount,
    /// The account Postgres runs under cannot reach the data folder.
    #[error(
        "the account `{account}` that PostgreSQL runs under may not pass through {folder}: allow it (chmod o+x), or choose another data folder"
    )]
    Unreachable {
        /// Account.
        account: String,
        /// The folder that stops it.
        folder: PathBuf,
    },
    /// A program ended badly.
    #[error("{program} failed: {message}")]
    Program {
        /// `initdb` or `postgres`.
        program: &'static str,
        /// Last lines of what it said.
        message: String,
    },
    /// It does not answer in time.
    #[error("PostgreSQL did not answer within {seconds} s; its log is {log}, which ends: {message}")]
    NoAnswer {
        /// Waited.
        seconds: u64,
        /// Log file.
        log: PathBuf,
        /// Last lines of it.
        message: String,
    },
    /// Another process uses the cluster.
    #[error("process {pid} uses the database in {folder} and does not end: stop it first")]
    InUse {
        /// Its number.
        pid: i32,
        /// Cluster's folder.
        folder: PathBuf,
    },
    /// A file or folder.
    #[error("{what} {path}")]
    File {
        /// What was tried, in words that end before the path.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl PostgresError {
    pub(super) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
