//! Databases for tests: one private cluster for all test processes of an account, one cloned database a test.
//!
//! The cluster lies in the system's folder for temporary files, is started by the first test that needs it and survives
//! it: the next run finds it warm. A template is migrated once for each set of migrations. Without fsync, for tests only.

use crate::database::{Address, Database, migrate, migrations_hash};
use crate::error::Result;
use crate::private_postgres::{PostgresError, PostgresOptions, PrivatePostgres, Socket};
use crate::sealed::CredentialKey;
use rustix::fs::{FlockOperation, flock};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Databases that tests left behind when they were killed are dropped after this long.
const LEFT_BEHIND_MINUTES: i64 = 60;
/// Nextest runs a test a process; each has few connections.
const SETTINGS: [&str; 5] =
    ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=300", "autovacuum=off"];

/// A migrated database of its own. Dropped with it.
#[derive(Debug)]
pub struct TestDatabase {
    /// The database.
    pub database: Database,
    name: String,
    socket: Socket,
}

impl std::ops::Deref for TestDatabase {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

/// A fresh migrated database.
pub async fn database() -> TestDatabase {
    database_with(CredentialKey::random()).await
}

/// The same, sealed with the key of a server that is to use it by [`TestDatabase::url`].
pub async fn database_with(key: CredentialKey) -> TestDatabase {
    make(key).await.expect("a database for the test")
}

/// Has Postgres look at its tables, as autovacuum does everywhere but in the tests' cluster: it plans by what it found.
pub async fn analyze(database: &Database) -> Result<()> {
    sqlx::raw_sql("analyze").execute(&database.pool).await?;
    Ok(())
}

/// A cluster's template and sockets are made by one process at a time.
struct Lock(#[allow(dead_code)] File);

impl TestDatabase {
    /// For programs that take a connection string.
    pub fn url(&self) -> String {
        let folder = self.socket.folder().display().to_string().replace('/', "%2F");
        format!("postgres://stillframe@{folder}/{}", self.name)
    }

    /// A second handle with another pool and the same key, as another process of the same server would have it.
    pub async fn second(&self) -> Database {
        Database::open(self.socket.options(&self.name), self.database.key.clone()).await.expect("a second pool")
    }

    /// For looking at rows, or making time pass for them.
    #[cfg(test)]
    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.database.pool).await.expect("the statement runs");
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (options, name) = (self.socket.options("postgres"), self.name.clone());
        // Not on the test's own runtime, which cannot wait here. A test that failed keeps its failure, not this one.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let mut connection = options.connect().await.ok()?;
                drop_database(&mut connection, &name).await.ok()
            })
        });
        let _ = dropped.join();
    }
}

async fn make(key: CredentialKey) -> Result<TestDatabase> {
    let (socket, template) = ready_template().await?;
    let mut connection = connect(&socket.options("postgres")).await?;
    let minute: i64 =
        sqlx::query_scalar("select extract(epoch from now())::bigint / 60").fetch_one(&mut connection).await?;
    let name = format!("test_{minute}_{}", Uuid::new_v4().simple());
    sqlx::query(AssertSqlSafe(format!("create database {name} template {template}"))).execute(&mut connection).await?;
    connection.close().await?;
    let database = Database::open(socket.options(&name), key).await?;
    database.check_key().await?;
    Ok(TestDatabase { database, name, socket })
}

async fn ready_template() -> Result<(Socket, String)> {
    let account = rustix::process::geteuid().as_raw();
    let folder = std::env::temp_dir().join(format!("stillframe-tests-{account}"));
    let template = format!("template_{}", migrations_hash());
    let socket = Socket::of_tests(&folder);
    if let Ok(mut connection) = connect(&socket.options("postgres")).await
        && has_template(&mut connection, &template).await?
    {
        return Ok((socket, template));
    }
    let _lock = lock(&folder).await;
    let socket = running_cluster(&folder).await?;
    let mut connection = connect(&socket.options("postgres")).await?;
    // Another process may have been faster.
    if !has_template(&mut connection, &template).await? {
        make_template(&socket, &mut connection, &template).await?;
    }
    connection.close().await?;
    Ok((socket, template))
}

async fn has_template(connection: &mut PgConnection, template: &str) -> Result<bool> {
    Ok(sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(template)
        .fetch_one(connection)
        .await?)
}

async fn make_template(socket: &Socket, connection: &mut PgConnection, template: &str) -> Result<()> {
    drop_left_behind(connection).await?;
    let fresh = format!("{template}_new");
    drop_database(connection, &fresh).await?;
    sqlx::query(AssertSqlSafe(format!("create database {fresh}"))).execute(&mut *connection).await?;
    let database = Database::open(socket.options(&fresh), CredentialKey::random()).await?;
    migrate(&database.pool).await?;
    database.close().await;
    sqlx::query(AssertSqlSafe(format!("alter database {fresh} rename to {template}"))).execute(connection).await?;
    Ok(())
}

async fn lock(folder: &Path) -> Lock {
    let folder: PathBuf = folder.to_owned();
    let taken = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder)?;
        let file = File::create(folder.join("lock"))?;
        flock(&file, FlockOperation::LockExclusive)?;
        std::io::Result::Ok(Lock(file))
    });
    taken.await.expect("the lock's thread lives").expect("the folder for test databases can be locked")
}

/// The cluster of an earlier test if it answers, else a new postmaster.
async fn running_cluster(folder: &Path) -> Result<Socket> {
    let socket = Socket::of_tests(folder);
    if connect(&socket.options("postgres")).await.is_ok() {
        return Ok(socket);
    }
    let options = PostgresOptions {
        data_dir: folder.to_owned(),
        path: None,
        settings: SETTINGS.iter().map(ToString::to_string).collect(),
        network: None,
    };
    let postgres = match PrivatePostgres::start(&options).await {
        Err(PostgresError::OtherVersion { folder, .. }) => {
            // Nothing in it is worth keeping.
            std::fs::remove_dir_all(folder).expect("the old cluster for tests can be removed");
            PrivatePostgres::start(&options).await?
        }
        other => other?,
    };
    let Address::Private(socket) = postgres.address() else { return Ok(socket) };
    postgres.detach();
    Ok(socket)
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    let connecting = tokio::time::timeout(Duration::from_secs(10), options.connect());
    Ok(connecting.await.map_err(|_| sqlx::Error::PoolTimedOut)??)
}

async fn drop_database(connection: &mut PgConnection, name: &str) -> Result<()> {
    sqlx::query(AssertSqlSafe(format!("drop database if exists {name} with (force)")))
        .execute(&mut *connection)
        .await?;
    // Of workers that were enrolled in it; accounts belong to the cluster.
    let roles: Vec<String> = sqlx::query_scalar(
        "select rolname::text from pg_roles
         where rolname in ('stillframe_workers_' || $1, 'stillframe_workers_' || md5($1))",
    )
    .bind(name)
    .fetch_all(&mut *connection)
    .await?;
    for role in roles {
        sqlx::query(AssertSqlSafe(format!("drop role {role}"))).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn drop_left_behind(connection: &mut PgConnection) -> Result<()> {
    let names: Vec<String> = sqlx::query_scalar(
        "select datname::text from pg_database where datname ~ '^test_[0-9]+_'
             and split_part(datname, '_', 2)::bigint < extract(epoch from now())::bigint / 60 - $1",
    )
    .bind(LEFT_BEHIND_MINUTES)
    .fetch_all(&mut *connection)
    .await?;
    for name in names {
        drop_database(connection, &name).await?;
    }
    Ok(())
}

/// A cluster for one test, which may stop and start it again. It ends with the test.
pub struct OwnCluster {
    options: PostgresOptions,
    postgres: Option<PrivatePostgres>,
    folder: tempfile::TempDir,
}

impl OwnCluster {
    /// With a migrated database.
    pub async fn start(key: CredentialKey) -> (Self, TestDatabase) {
        let folder = tempfile::tempdir().expect("a folder");
        // Postgres runs under an account of its own where the tests are root's.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("ours");
        let options = PostgresOptions {
            data_dir: folder.path().to_owned(),
            path: None,
            settings: vec!["max_connections=100".to_owned()],
            network: None,
        };
        let postgres = PrivatePostgres::start(&options).await.expect("it starts");
        let database = Database::connect(&postgres.address(), key).await.expect("a database");
        let Address::Private(socket) = postgres.address() else { unreachable!("it is private") };
        let database = TestDatabase { database, name: "postgres".to_owned(), socket };
        (Self { options, postgres: Some(postgres), folder }, database)
    }

    /// The folder of its socket, and the socket's name.
    pub fn socket(&self) -> (PathBuf, &'static str) {
        let Some(Address::Private(socket)) = self.postgres.as_ref().map(PrivatePostgres::address) else {
            return (self.folder.path().to_owned(), "");
        };
        (socket.folder().to_owned(), ".s.PGSQL.5432")
    }

    /// Stops it and starts it again.
    pub async fn restart(&mut self) {
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await.expect("it stops");
        }
        self.postgres = Some(PrivatePostgres::start(&self.options).await.expect("it starts"));
    }
}
