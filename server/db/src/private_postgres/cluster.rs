//! The life of the private server process.

use sqlx::postgres::PgConnectOptions;
use std::path::PathBuf;

/// Where the private Postgres listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    folder: PathBuf,
}

impl Socket {
    pub(crate) fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.folder).username("stillframe").database(database)
    }
}

/// A running private Postgres.
#[derive(Debug)]
pub struct PrivatePostgres {}
