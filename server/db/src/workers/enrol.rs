//! How a worker on another machine comes in: a token that works once, an account of its own in Postgres, and the
//! credential key.
//!
//! Owns: those accounts and what they may do. Must never: let a worker read accounts of the console, or use the
//! server's own account in Postgres.

use crate::database::{Address, Database};
use crate::error::{Error, Result};
use crate::ids::WorkerId;
use aws_lc_rs::rand;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, PgConnection};
use std::str::FromStr;
use zeroize::Zeroizing;

/// A token works for so long.
pub const TOKEN_HOURS: u32 = 24;
/// Random bytes of an account's password.
const PASSWORD_BYTES: usize = 24;
/// Random bytes in an account's name: those of several servers lie in one Postgres.
const ACCOUNT_BYTES: usize = 6;
/// What no job reads or writes: who may sign in to the console, what they did, who may come in as a worker.
const CLOSED_TABLES: [&str; 6] = ["account", "session", "login_failure", "audit_entry", "wizard_draft", "worker_token"];
/// What a worker only reads.
const READ_TABLES: [&str; 2] = ["_sqlx_migrations", "installation"];
/// The accounts' group in SQL: roles belong to the whole cluster, so it is the database's. Names have 63 bytes at most.
macro_rules! group_name {
    () => {
        "'stillframe_workers_' || case when octet_length(current_database()) <= 44 then current_database()
             else md5(current_database()) end"
    };
}

/// Postgres's code for “insufficient privilege”.
pub(super) const NOT_ALLOWED: &str = "42501";

/// Where workers find the database.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Reach {
    /// Name, address or folder of a socket; `None`: the machine of the console.
    pub host: Option<String>,
    /// Port.
    pub port: u16,
    /// As libpq names it: `verify-ca`, `prefer` …
    pub ssl_mode: String,
    /// The only certificate that is accepted, PEM; `None`: what the system trusts, if the mode asks for it.
    pub certificate: Option<String>,
}

impl Reach {
    /// Of the database that the server was told. A server beside its database is reached where its console is.
    pub fn of_url(url: &SecretString) -> Result<Self> {
        let options = PgConnectOptions::from_str(url.expose_secret())?;
        let host = match options.get_socket() {
            Some(folder) => Some(folder.display().to_string()),
            None if matches!(options.get_host(), "localhost" | "127.0.0.1" | "::1") => None,
            None => Some(options.get_host().to_owned()),
        };
        let ssl_mode = match options.get_ssl_mode() {
            PgSslMode::Disable => "disable",
            PgSslMode::Allow => "allow",
            PgSslMode::Prefer => "prefer",
            PgSslMode::Require => "require",
            PgSslMode::VerifyCa => "verify-ca",
            PgSslMode::VerifyFull => "verify-full",
        };
        Ok(Self { host, port: options.get_port(), ssl_mode: ssl_mode.to_owned(), certificate: None })
    }
}

/// What a worker is given once, and keeps.
#[derive(Debug, Clone, Deserialize)]
pub struct Enrolment {
    /// Its name.
    pub name: String,
    /// Where the database is.
    pub reach: Reach,
    /// Name of the database.
    pub database: String,
    /// The worker's account in it.
    pub account: String,
    /// The account's password.
    pub password: SecretString,
    /// Opens sealed values, hexadecimal.
    pub credential_key: SecretString,
}

impl Enrolment {
    /// For the wire and the worker's own file. Holds secrets in clear.
    pub fn to_json(&self) -> Zeroizing<String> {
        Zeroizing::new(
            json!({
                "name": self.name,
                "reach": self.reach,
                "database": self.database,
                "account": self.account,
                "password": self.password.expose_secret(),
                "credential_key": self.credential_key.expose_secret(),
            })
            .to_string(),
        )
    }

    /// As [`Enrolment::to_json`] wrote it.
    pub fn from_json(text: &str) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    pub(crate) fn options(&self) -> Result<PgConnectOptions> {
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(self.reach.host.as_deref().unwrap_or("localhost"))
            .port(self.reach.port)
            .database(&self.database)
            .username(&self.account)
            .password(self.password.expose_secret())
            .ssl_mode(self.reach.ssl_mode.parse()?);
        if let Some(folder) = self.reach.host.as_deref().filter(|host| host.starts_with('/')) {
            options = options.socket(folder);
        }
        if let Some(certificate) = &self.reach.certificate {
            options = options.ssl_root_cert_from_pem(certificate.as_bytes().to_vec());
        }
        Ok(options)
    }
}

impl Address {
    /// Of a worker: its own account in the server's database.
    pub fn of_worker(enrolment: &Enrolment) -> Self {
        Self::Worker(Box::new(enrolment.clone()))
    }
}

impl Database {
    /// Lets whoever knows the token with this SHA-256 become a worker, once, within [`TOKEN_HOURS`]; `replaces` names
    /// the one whose place it takes.
    pub async fn issue_worker_token(
        &self,
        token_sha256: [u8; 32],
        replaces: Option<WorkerId>,
        created_by: &str,
    ) -> Result<()> {
        sqlx::query("delete from worker_token where expires_at <= now()").execute(&self.pool).await?;
        sqlx::query(
            "insert into worker_token (token_hash, worker_id, created_by, expires_at)
             values ($1, $2, $3, now() + make_interval(hours => $4))",
        )
        .bind(token_sha256.as_slice())
        .bind(replaces)
        .bind(created_by)
        .bind(TOKEN_HOURS.cast_signed())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Uses a token up and makes a worker with an account of its own in Postgres, all or nothing. With a token that
    /// replaces one, that one's name is kept, and its account goes.
    /// [`Error::WorkerToken`] for a token that is none, [`Error::NoAccounts`] if the server may not make accounts.
    pub async fn enrol_worker(&self, token_sha256: [u8; 32], name: &str, reach: Reach) -> Result<Enrolment> {
        let mut transaction = self.pool.begin().await?;
        let token: Option<(Option<WorkerId>, String)> = sqlx::query_as(
            "delete from worker_token where token_hash = $1 and expires_at > now() returning worker_id, created_by",
        )
        .bind(token_sha256.as_slice())
        .fetch_optional(&mut *transaction)
        .await?;
        let (replaces, by) = token.ok_or(Error::WorkerToken)?;
        let account = format!("stillframe_worker_{}", random_hex(ACCOUNT_BYTES));
        let password = SecretString::from(random_hex(PASSWORD_BYTES));
        let (name, old): (String, Option<String>) = match replaces {
            Some(worker_id) => {
                sqlx::query_as(
                    "update worker w set account = $2, enrolled_by = $3, enrolled_at = now(), draining = false
                     from worker o where o.worker_id = w.worker_id and w.worker_id = $1 returning w.name, o.account",
                )
                .bind(worker_id)
                .bind(&account)
                .bind(&by)
                .fetch_one(&mut *transaction)
                .await?
            }
            None => {
                sqlx::query_as(
                    "insert into worker (name, kind, account, enrolled_by) values ($1, 'worker', $2, $3)
                     returning name, null::text",
                )
                .bind(name)
                .bind(&account)
                .bind(&by)
                .fetch_one(&mut *transaction)
                .await?
            }
        };
        let made = make_account(&mut transaction, &account, &password, old.as_deref()).await;
        if made.as_ref().is_err_and(|error| code_of(error).as_deref() == Some(NOT_ALLOWED)) {
            let us = self.pool.connect_options().get_username().to_owned();
            return Err(Error::NoAccounts(us));
        }
        let left = made?;
        let database: String = sqlx::query_scalar("select current_database()").fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        self.cut_off(&left).await;
        Ok(Enrolment { name, reach, database, account, password, credential_key: self.key.export() })
    }

    /// Forgets a worker that is no server, or a server that is gone; its account in Postgres goes with it. What was leased
    /// to it is returned by the reaper. Folders that only it sees stay bound to it.
    pub async fn remove_worker(&self, worker_id: WorkerId) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let account: Option<Option<String>> =
            sqlx::query_scalar("delete from worker where worker_id = $1 returning account")
                .bind(worker_id)
                .fetch_optional(&mut *transaction)
                .await?;
        let account = account.ok_or_else(|| Error::not_found("worker", worker_id))?;
        let left = match &account {
            Some(account) => drop_account(&mut transaction, account).await?,
            None => Vec::new(),
        };
        transaction.commit().await?;
        self.cut_off(&left).await;
        Ok(())
    }

    /// Gives the workers' accounts what a new version's tables need. Nothing is done where there are no workers.
    pub(crate) async fn grant_workers(&self) -> Result<()> {
        let mut connection = self.pool.acquire().await?;
        let exists: bool =
            sqlx::query_scalar(concat!("select exists (select from pg_roles where rolname = ", group_name!(), ")"))
                .fetch_one(&mut *connection)
                .await?;
        if exists { grant(&mut connection).await } else { Ok(()) }
    }

    /// Ends the connections that an account had which is gone. It cannot connect again; this makes it end at once.
    async fn cut_off(&self, processes: &[i32]) {
        let ended = sqlx::query("select pg_terminate_backend(pid) from unnest($1::integer[]) pid")
            .bind(processes)
            .execute(&self.pool)
            .await;
        if let Err(error) = ended {
            tracing::warn!(%error, "connections of a removed worker's account were not ended");
        }
    }
}

pub(super) fn code_of(error: &Error) -> Option<String> {
    match error {
        Error::Query(sqlx::Error::Database(inner)) => inner.code().map(std::borrow::Cow::into_owned),
        _ => None,
    }
}

fn random_hex(bytes: usize) -> String {
    let mut random = Zeroizing::new(vec![0; bytes]);
    rand::fill(random.as_mut_slice()).expect("the system has randomness");
    hex::encode(random.as_slice())
}

/// Postgres quotes names and passwords itself: parameters are not possible in these statements.
async fn run(connection: &mut PgConnection, form: &'static str, values: &[&str]) -> Result<()> {
    let statement: String = sqlx::query_scalar("select format($1, variadic $2::text[])")
        .bind(form)
        .bind(values)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

async fn group(connection: &mut PgConnection) -> Result<String> {
    Ok(sqlx::query_scalar(concat!("select ", group_name!())).fetch_one(connection).await?)
}

/// Also drops the account it takes the place of; see [`drop_account`] for the answer.
async fn make_account(
    connection: &mut PgConnection,
    account: &str,
    password: &SecretString,
    old: Option<&str>,
) -> Result<Vec<i32>> {
    let group = group(connection).await?;
    let exists: bool = sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)")
        .bind(&group)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        run(connection, "create role %I nologin", &[&group]).await?;
    }
    grant(connection).await?;
    run(connection, "create role %I login password %L in role %I", &[account, password.expose_secret(), &group])
        .await?;
    match old {
        Some(old) => drop_account(connection, old).await,
        None => Ok(Vec::new()),
    }
}

/// Says which of the server's processes serve the account: once it is gone they cannot be told any more.
async fn drop_account(connection: &mut PgConnection, account: &str) -> Result<Vec<i32>> {
    let processes = sqlx::query_scalar("select pid from pg_stat_activity where usename = $1")
        .bind(account)
        .fetch_all(&mut *connection)
        .await?;
    run(connection, "drop role if exists %I", &[account]).await?;
    Ok(processes)
}

/// Jobs read and write most tables; the rest is closed to workers.
async fn grant(connection: &mut PgConnection) -> Result<()> {
    let group = group(connection).await?;
    let schema: String = sqlx::query_scalar("select current_schema()").fetch_one(&mut *connection).await?;
    run(connection, "grant usage on schema %I to %I", &[&schema, &group]).await?;
    let all = "grant select, insert, update, delete on all tables in schema %I to %I";
    run(connection, all, &[&schema, &group]).await?;
    run(connection, "grant usage on all sequences in schema %I to %I", &[&schema, &group]).await?;
    for table in CLOSED_TABLES {
        run(connection, "revoke all on %I from %I", &[table, &group]).await?;
    }
    for table in READ_TABLES {
        run(connection, "revoke insert, update, delete on %I from %I", &[table, &group]).await?;
    }
    Ok(())
}
