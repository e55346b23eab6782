//! What can go wrong between the server and its database.

use crate::ids::{JobId, RunId, VmId};
use crate::private_postgres::PostgresError;
use std::path::PathBuf;

/// Result of asking the database.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of this crate. [`Error::is_transient`] says which are worth another try.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or it broke.
    #[error("the database does not answer")]
    Unavailable(#[source] sqlx::Error),
    /// A rule of uniqueness stands against it.
    #[error("{0}")]
    Conflict(Conflict),
    /// No such row, or it was deleted.
    #[error("{what} {id} does not exist")]
    NotFound {
        /// Device, machine, task …
        what: &'static str,
        /// As asked for.
        id: String,
    },
    /// It cannot be removed while others use it.
    #[error("{what} is used by {}", by.join(", "))]
    InUse {
        /// What was to be removed.
        what: String,
        /// Names of its users, for the operator.
        by: Vec<String>,
    },
    /// Another worker holds the job now, or it has ended: nothing was written.
    #[error("the lease of job {0} is lost")]
    LostLease(JobId),
    /// The one-time setup token is wrong or used up.
    #[error("the setup token is not valid: it is printed at the server's start and works once")]
    SetupToken,
    /// A worker that was removed, or whose place another process has taken.
    #[error("the worker {0} was removed, or another process has taken its place: enrol it again if it is to go on")]
    WorkerGone(String),
    /// The database knows the account no more, or by another password.
    #[error("the database does not let this account in")]
    NotLetIn(#[source] sqlx::Error),
    /// The one-time token of a worker is wrong, used up or too old.
    #[error("the token is not valid: one works once, and for {hours} hours", hours = crate::workers::TOKEN_HOURS)]
    WorkerToken,
    /// The server's account in Postgres may not make accounts for workers.
    #[error(
        "the server's account in Postgres may not make accounts for workers: let it, with “alter role {0} createrole” \
         as an administrator of the database"
    )]
    NoAccounts(String),
    /// The database was sealed with another credential key.
    #[error(
        "this database belongs to another credential key: put the key file it was made with back into the data folder \
         (secrets/credential.key), or use a new database"
    )]
    WrongKey,
    /// A worker's program is newer than its server's.
    #[error("the database is older than this program (migration {0} is missing): update the server first")]
    Older(i64),
    /// A newer Stillframe has migrated this database.
    #[error("the database is newer than this program (migration {0}): install the newer version")]
    Newer(i64),
    /// A migration that was applied differs from the one in this program.
    #[error("migration {0} was applied in another form: this database was made by a development version")]
    Altered(i64),
    /// A migration failed.
    #[error("the database could not be brought up to date")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// A sealed value does not open: damaged, or moved from another row.
    #[error("the sealed value {table}.{column} of row {row} does not open: it was altered or belongs to another row")]
    Sealed {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
        /// Row's id.
        row: String,
    },
    /// The credential key file.
    #[error("the credential key {path}: {problem}")]
    KeyFile {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// From the file system, if it was that.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The private Postgres.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// A schedule whose next due time cannot be told.
    #[error(transparent)]
    Schedule(#[from] domain::schedule::ScheduleError),
    /// A value outside what a column takes.
    #[error("a value is outside its limits ({rule})")]
    OutOfLimits {
        /// Name of the check.
        rule: String,
    },
    /// Anything else: a mistake of ours.
    #[error("a database query failed")]
    Query(#[source] sqlx::Error),
}

/// Which rule of uniqueness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Names of devices are unique.
    #[error("another device has this name")]
    DeviceName,
    /// A device is added once.
    #[error("a device with this address and port exists already")]
    DeviceAddress,
    /// A task would start itself, after other tasks.
    #[error("these tasks would start each other in a ring")]
    TaskRing,
    /// Names of accounts are unique.
    #[error("an account with this name exists already")]
    AccountName,
    /// Names of repositories are unique.
    #[error("another repository has this name")]
    RepositoryName,
    /// A folder is one repository.
    #[error("a repository at this place exists already")]
    RepositoryPath,
    /// A repository is added once.
    #[error("this repository is added already")]
    RepositoryId,
    /// Names of tasks are unique.
    #[error("another task has this name")]
    TaskName,
    /// Names of channels are unique.
    #[error("another channel has this name")]
    ChannelName,
    /// Tokens of changes on hosts are unique.
    #[error("a change on the host with this token is journalled already")]
    ChangeToken,
    /// Names of workers are unique.
    #[error("another worker or server has this name")]
    WorkerName,
    /// An administrator exists.
    #[error("the first administrator exists already")]
    AlreadySetUp,
    /// A machine has only so many tags.
    #[error("machine {0} would have too many tags")]
    TooManyTags(VmId),
    /// The run is still going on.
    #[error("run {0} has not ended yet")]
    RunActive(RunId),
}

impl Conflict {
    fn of_constraint(name: &str) -> Option<Self> {
        Some(match name {
            "device_name" => Self::DeviceName,
            "device_address" => Self::DeviceAddress,
            "account_name" => Self::AccountName,
            "repository_name" => Self::RepositoryName,
            "repository_path" => Self::RepositoryPath,
            "repository_pkey" => Self::RepositoryId,
            "backup_task_name" => Self::TaskName,
            "notice_channel_name" => Self::ChannelName,
            "worker_name" => Self::WorkerName,
            "host_change_token" => Self::ChangeToken,
            _ => return None,
        })
    }
}

impl Error {
    pub(crate) fn not_found(what: &'static str, id: impl std::fmt::Display) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    /// Worth another try later, with nothing changed.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// No such account, or not by this password.
const AUTHORIZATION_CLASS: &str = "28";
/// Class 08: connection; 40: deadlock; 53: resources; 57: the server stops or starts.
const TRANSIENT_CLASSES: [&str; 4] = ["08", "40", "53", "57"];

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => {
                Self::Unavailable(error)
            }
            sqlx::Error::Database(inner) => {
                let code = inner.code().unwrap_or_default();
                if TRANSIENT_CLASSES.iter().any(|class| code.starts_with(class)) {
                    return Self::Unavailable(error);
                }
                if code.starts_with(AUTHORIZATION_CLASS) {
                    return Self::NotLetIn(error);
                }
                let constraint = inner.constraint().unwrap_or_default();
                if inner.is_unique_violation()
                    && let Some(conflict) = Conflict::of_constraint(constraint)
                {
                    return Self::Conflict(conflict);
                }
                if inner.is_check_violation() {
                    return Self::OutOfLimits { rule: constraint.to_owned() };
                }
                Self::Query(error)
            }
            _ => Self::Query(error),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError as M;
        match error {
            M::VersionMissing(version) | M::VersionTooNew(version, _) => Self::Newer(version),
            M::VersionMismatch(version) => Self::Altered(version),
            M::Execute(source) => match Self::from(source) {
                Self::Query(source) => Self::Migration(M::Execute(source)),
                other => other,
            },
            other => Self::Migration(other),
        }
    }
}
