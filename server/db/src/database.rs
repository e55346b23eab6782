//! The handle everything else hangs on: connect, migrate, check that key and database belong together.

use crate::column::Time;
use crate::error::{Error, Result};
use crate::sealed::CredentialKey;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::str::FromStr;
use std::time::Duration;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Web requests and workers are brief with their connections.
const CONNECTIONS_MAX: u32 = 20;
const ACQUIRE_SECONDS_MAX: u64 = 10;
/// No query of ours is meant to take this long; a wizard's page must not hang on a locked row.
const STATEMENT_TIMEOUT: &str = "60s";

/// Where the database is.
#[derive(Debug, Clone)]
pub enum Address {
    /// A connection string (`postgres://…`), which may hold a password.
    Url(SecretString),
    /// A private Postgres, by its socket.
    Private(crate::private_postgres::Socket),
    /// A server's database, by a worker's own account.
    Worker(Box<crate::workers::Enrolment>),
}

impl Address {
    pub(crate) fn options(&self) -> Result<PgConnectOptions> {
        let options = match self {
            Self::Url(url) => PgConnectOptions::from_str(url.expose_secret())?,
            Self::Private(socket) => socket.options("postgres"),
            Self::Worker(enrolment) => enrolment.options()?,
        };
        Ok(options.application_name("stillframe").options([("statement_timeout", STATEMENT_TIMEOUT)]))
    }
}

/// The database. Cheap to clone; its methods are spread over this crate's modules by subject.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) pool: PgPool,
    pub(crate) key: CredentialKey,
}

impl Database {
    /// Connects, brings the schema up to date and checks that the database was sealed with `key`.
    pub async fn connect(address: &Address, key: CredentialKey) -> Result<Self> {
        let database = Self::open(address.options()?, key).await?;
        MIGRATIONS.run(&database.pool).await?;
        database.check_key().await?;
        database.grant_workers().await?;
        Ok(database)
    }

    /// Connects as a worker, which alters no schema: its program must know the one that is there, no more and no less.
    pub async fn join(address: &Address, key: CredentialKey) -> Result<Self> {
        let database = Self::open(address.options()?, key).await?;
        let applied: i64 = sqlx::query_scalar("select coalesce(max(version), 0) from _sqlx_migrations where success")
            .fetch_one(&database.pool)
            .await?;
        let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
        if applied > known {
            return Err(Error::Newer(applied));
        }
        if applied < known {
            return Err(Error::Older(known));
        }
        if database.key_of_the_first().await? == database.key.fingerprint() {
            Ok(database)
        } else {
            Err(Error::WrongKey)
        }
    }

    /// Connects without looking at the schema.
    pub(crate) async fn open(options: PgConnectOptions, key: CredentialKey) -> Result<Self> {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(Duration::from_secs(ACQUIRE_SECONDS_MAX))
            .connect_with(options)
            .await
            .map_err(|error| match Error::from(error) {
                Error::Query(source) => Error::Unavailable(source),
                other => other,
            })?;
        Ok(Self { pool, key })
    }

    /// The first server to come writes its key's fingerprint; every later one must have the same key.
    pub(crate) async fn check_key(&self) -> Result<()> {
        let ours = self.key.fingerprint();
        sqlx::query("insert into installation (key_fingerprint) values ($1) on conflict do nothing")
            .bind(ours.as_slice())
            .execute(&self.pool)
            .await?;
        if self.key_of_the_first().await? == ours { Ok(()) } else { Err(Error::WrongKey) }
    }

    async fn key_of_the_first(&self) -> Result<Vec<u8>> {
        Ok(sqlx::query_scalar("select key_fingerprint from installation").fetch_one(&self.pool).await?)
    }

    /// Postgres's clock, the only one that counts for leases and due times.
    pub async fn now(&self) -> Result<Timestamp> {
        let Time(now) = sqlx::query_scalar("select now()").fetch_one(&self.pool).await?;
        Ok(now)
    }

    /// Closes all connections; calls after it fail with [`Error::Unavailable`].
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Names the set of migrations, for templates of test databases.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn migrations_hash() -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for migration in MIGRATIONS.iter() {
        hash.update(&migration.checksum);
    }
    hex::encode(&hash.finalize()[..8])
}

#[cfg(any(test, feature = "testing"))]
pub(crate) async fn migrate(pool: &PgPool) -> Result<()> {
    Ok(MIGRATIONS.run(pool).await?)
}
