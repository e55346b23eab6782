//! The server: lock → database → simulated hosts → workers → console, and the same backwards at the end.
//!
//! Owns: the order of start and stop, and what is printed. Read next: `data_dir.rs`, `tls.rs`, `demo.rs`.

pub mod data_dir;
mod demo;
mod listen;
pub mod options;
mod tls;
mod token;

pub use options::Options;

use crate::failure::Failure;
use data_dir::DataDir;
use db::private_postgres::{Network, PostgresOptions, PrivatePostgres};
use db::{Address, CredentialKey, Database, Reach};
use demo::SimulatedHosts;
use domain::{Clock, SystemClock};
use engine::{Engine, EngineConfig, Workers};
use listen::Listener;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    // The address first: a port that is taken, or plain HTTP where it is not safe, needs no database to be refused.
    let listener = Listener::bind(&options)?;
    let data = DataDir::open_and_lock(&options.data_dir())?;
    let secure = listener.make_secure(&options, &data)?;
    let (database, mut postgres) = open_database(&options, &data).await?;
    let workers_reach = reach(&options, &data)?;
    let demo = Arc::new(SimulatedHosts::restart(data.path().join("simulated")).await);
    let config =
        EngineConfig { server_name: server_name(), ..EngineConfig::new(data.path().to_owned(), worker_name(&data)) };
    let engine = Engine::new(database.clone(), config);
    let workers =
        Workers::start(&engine).await.map_err(|error| Failure::new("The workers could not be started", &error))?;
    let stopping = CancellationToken::new();
    let state = web::AppState {
        db: database.clone(),
        backend: Arc::new(engine),
        demo: demo.clone(),
        clock: Arc::new(SystemClock),
        version: env!("CARGO_PKG_VERSION"),
        server_name: server_name(),
        secure: listener.is_tls(),
        certificate_sha256: secure.as_ref().map(|tls| tls.fingerprint),
        time_zone: jiff::tz::TimeZone::system(),
        stopping: stopping.clone(),
        workers_reach,
        facts: facts(&options, &data),
    };
    let serving = listener.serve(secure, web::router(state))?;
    announce(&serving, &database).await?;
    let ended = tokio::select! {
        () = signals.any() => Ok(()),
        result = serving.ended() => result.map_err(|error| Failure::new("The console stopped", &error)),
        () = postgres_ended(postgres.as_mut()) => Err(Failure::because("The server stopped", "its database ended")
            .hint("Its log is postgres/postgres.log in the data folder.")),
    };
    tracing::info!("stopping: running jobs put away their snapshots first");
    stopping.cancel();
    serving.stop().await;
    workers.stop().await;
    demo.stop().await;
    database.close().await;
    if let Some(postgres) = postgres {
        postgres.stop().await.map_err(|error| Failure::new("The database did not stop", &error))?;
    }
    ended.map(|()| ExitCode::SUCCESS)
}

async fn postgres_ended(postgres: Option<&mut PrivatePostgres>) {
    match postgres {
        Some(postgres) => postgres.ended().await,
        None => std::future::pending().await,
    }
}

pub async fn open_database(options: &Options, data: &DataDir) -> Result<(Database, Option<PrivatePostgres>), Failure> {
    let key = CredentialKey::load_or_create(data.path())
        .map_err(|error| Failure::new("The credential key could not be read", &error))?;
    let (address, postgres) = if let Some(url) = options.database_url() {
        (Address::Url(url), None)
    } else {
        let options = PostgresOptions {
            data_dir: data.path().to_owned(),
            path: std::env::var_os("PATH"),
            settings: Vec::new(),
            network: network(options, data)?,
        };
        let postgres = PrivatePostgres::start(&options)
            .await
            .map_err(|error| Failure::new("The private database did not start", &error))?;
        (postgres.address(), Some(postgres))
    };
    match Database::connect(&address, key).await {
        Ok(database) => Ok((database, postgres)),
        Err(error) => {
            if let Some(postgres) = postgres {
                let _ = postgres.stop().await;
            }
            Err(Failure::new("The database could not be opened", &error))
        }
    }
}

/// How workers on other machines get into the private database, if they may.
fn network(options: &Options, data: &DataDir) -> Result<Option<Network>, Failure> {
    let Some(listen) = options.workers_listen else { return Ok(None) };
    if listen.port() == 0 {
        let why = "workers have to find it again: its port cannot be 0";
        return Err(Failure::because(format!("The address {listen} cannot be used for workers"), why));
    }
    let (certificate, key) = tls::of_database(data)?;
    Ok(Some(Network { listen, certificate, key }))
}

/// The authority that `sslrootcert=FILE` names: a worker has no such file.
fn root_certificate(url: &SecretString) -> Result<Option<String>, Failure> {
    let Ok(url) = url::Url::parse(url.expose_secret()) else { return Ok(None) };
    let Some((_, path)) = url.query_pairs().find(|(name, _)| name == "sslrootcert") else { return Ok(None) };
    std::fs::read_to_string(path.as_ref())
        .map(Some)
        .map_err(|error| Failure::new(format!("{path}, which DATABASE_URL names, cannot be read"), &error))
}

/// Where workers find the database: what an enrolled one is told.
fn reach(options: &Options, data: &DataDir) -> Result<Option<Reach>, Failure> {
    if let Some(url) = options.database_url() {
        let reach = Reach::of_url(&url).map_err(|error| Failure::new("DATABASE_URL cannot be used", &error))?;
        return Ok(Some(Reach { certificate: root_certificate(&url)?, ..reach }));
    }
    Ok(network(options, data)?.map(|network| Reach {
        host: (!network.listen.ip().is_unspecified() && !network.listen.ip().is_loopback())
            .then(|| network.listen.ip().to_string()),
        port: network.listen.port(),
        ssl_mode: "verify-ca".to_owned(),
        certificate: Some(network.certificate),
    }))
}

/// The same at each start on this data folder, and another on every other.
fn worker_name(data: &DataDir) -> String {
    let folder = Sha256::digest(data.path().as_os_str().as_encoded_bytes());
    format!("{}-{}", server_name().replace('/', "-"), hex::encode(&folder[..4]))
}

pub fn server_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "stillframe".to_owned() } else { name.to_owned() }
}

fn facts(options: &Options, data: &DataDir) -> Vec<(String, String)> {
    let database =
        if options.database_url().is_some() { "the one DATABASE_URL names" } else { "private, in the data folder" };
    vec![
        ("Data folder".to_owned(), data.path().display().to_string()),
        ("Database".to_owned(), database.to_owned()),
        ("Process".to_owned(), std::process::id().to_string()),
        ("Started".to_owned(), SystemClock.now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string()),
    ]
}

/// What a newcomer needs to see. The token is printed here and nowhere else.
async fn announce(serving: &listen::Serving, database: &Database) -> Result<(), Failure> {
    println!("Stillframe {}", env!("CARGO_PKG_VERSION"));
    for address in serving.addresses() {
        println!("  Address:      {address}");
    }
    if let Some(fingerprint) = serving.fingerprint() {
        println!("  Certificate:  SHA-256 {fingerprint}");
        if serving.self_signed() {
            println!("                self-signed: compare this with what the browser shows, then accept it");
        }
    }
    if let Some(token) = token::issue(database).await? {
        println!("  Setup token:  {token}");
        println!("                works once, for the first administrator; a new one is made at each start until then");
    }
    println!("Ready. Ctrl-C stops it.");
    Ok(())
}

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::new("Signals cannot be received", &error));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    pub async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
