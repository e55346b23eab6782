//! `stillframe worker`: a process on another machine that takes jobs of a server, by the same database.
//!
//! Owns: the order of its start and stop. Must never: keep house for the server, or listen on a network.
//! Read next: `enrol.rs` for how it comes in.

mod enrol;

use crate::failure::Failure;
use crate::repo::passphrase::PassphraseSource;
use crate::serve::data_dir::DataDir;
use crate::serve::{Signals, options::data_dir_or_default, server_name};
use clap::{Args, Subcommand};
use db::{Address, CredentialKey, Database, Enrolment, WorkerKind};
use domain::tag::Tags;
use engine::{Engine, EngineConfig, LocationOrder, Workers};
use secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// As in the console.
const LOCATION_NAME_CHARS_MAX: usize = 200;

/// See the program's `--help`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    kept: Kept,
    #[command(flatten)]
    entry: enrol::Entry,
    /// It takes the jobs of devices with one of these tags, and no others: `site-b,fast`. Without tags it takes those of
    /// devices without one.
    #[arg(long, env = "STILLFRAME_WORKER_TAGS", default_value = "")]
    tags: String,
    /// With tags: it takes the jobs of devices without a tag as well.
    #[arg(long)]
    also_untagged: bool,
    /// Jobs at the same time, of all kinds.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    slots: u8,
}

/// Where a worker keeps what it was given.
#[derive(Debug, Args)]
struct Kept {
    /// What the worker keeps: its account in the database, the key of stored passwords, an index cache.
    /// Without it: /var/lib/stillframe-worker for root, else stillframe-worker in the account's data folder.
    #[arg(long, env = "STILLFRAME_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a repository in a folder of this machine, or take over the one that is there: this worker alone works on it.
    AddLocation {
        #[command(flatten)]
        kept: Kept,
        /// Its name in the console.
        #[arg(long)]
        name: String,
        /// The folder.
        #[arg(long)]
        path: PathBuf,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
}

impl Kept {
    fn folder(&self) -> PathBuf {
        let server = data_dir_or_default(self.data_dir.as_ref());
        match (&self.data_dir, server.file_name()) {
            (None, Some(name)) => server.with_file_name(format!("{}-worker", name.to_string_lossy())),
            _ => server,
        }
    }
}

/// Runs until SIGTERM or SIGINT, or until it was removed in the console.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    match options.action {
        Some(Action::AddLocation { kept, name, path, passphrase }) => {
            add_location(&kept.folder(), &name, path, &passphrase).await
        }
        None => work(options).await,
    }
}

async fn work(options: Options) -> Result<ExitCode, Failure> {
    let tags = Tags::parse(&options.tags).map_err(|error| Failure::new("The tags cannot be used", &error))?;
    let mut signals = Signals::new()?;
    let data = DataDir::open_and_lock(&options.kept.folder())?;
    let enrolment = options.entry.enrolment(data.path()).await?;
    let config = EngineConfig {
        tags: tags.words(),
        also_untagged: options.also_untagged,
        slots: usize::from(options.slots),
        ..config_of(data.path(), &enrolment)
    };
    let name = enrolment.name.clone();
    let database = join(&enrolment).await?;
    let engine = Engine::new(database.clone(), config);
    let workers =
        Workers::start(&engine).await.map_err(|error| Failure::new("The worker could not be started", &error))?;
    println!("Stillframe worker {}, version {}", name, env!("CARGO_PKG_VERSION"));
    println!("Ready. Ctrl-C stops it.");
    let ended = tokio::select! {
        () = signals.any() => Ok(ExitCode::SUCCESS),
        () = workers.gone() => Err(Failure::new("The worker stopped", &db::Error::WorkerGone(name))),
    };
    tracing::info!("stopping: running jobs put away their snapshots first");
    workers.stop().await;
    database.close().await;
    ended
}

fn config_of(data: &Path, enrolment: &Enrolment) -> EngineConfig {
    EngineConfig {
        worker_kind: WorkerKind::Worker,
        server_name: server_name(),
        ..EngineConfig::new(data.to_owned(), enrolment.name.clone())
    }
}

async fn join(enrolment: &Enrolment) -> Result<Database, Failure> {
    let key = CredentialKey::import(&enrolment.credential_key)
        .ok_or_else(|| Failure::because("The key of stored passwords cannot be used", "it is damaged"))?;
    Database::join(&Address::of_worker(enrolment), key).await.map_err(|error| {
        let place = enrolment.reach.host.as_deref().unwrap_or("localhost");
        let what = format!("The server's database at {place}, port {}, cannot be used", enrolment.reach.port);
        let failure = Failure::new(what, &error);
        match error {
            db::Error::NotLetIn(_) => failure.hint(
                "Was the worker removed in the console? Then add it again there, and start it with the new token.",
            ),
            db::Error::Unavailable(_) => {
                failure.hint("Does the server run, and does a firewall let this machine reach it?")
            }
            _ => failure,
        }
    })
}

async fn add_location(
    data: &Path,
    name: &str,
    path: PathBuf,
    passphrase: &PassphraseSource,
) -> Result<ExitCode, Failure> {
    let what = || format!("The location “{name}” could not be added");
    if name.trim().is_empty() || name.chars().count() > LOCATION_NAME_CHARS_MAX {
        return Err(Failure::because(what(), format!("a name has 1 to {LOCATION_NAME_CHARS_MAX} characters")));
    }
    let enrolment = enrol::kept(data)?.ok_or_else(|| {
        Failure::because(what(), format!("no worker was enrolled with the data folder {}", data.display()))
            .hint("Start it once with the command that the console shows, then try again.")
    })?;
    let passphrase = passphrase.read_new().map_err(|error| Failure::new(what(), &error))?;
    let database = join(&enrolment).await?;
    let engine = Engine::new(database.clone(), config_of(data, &enrolment));
    let made = engine.create_location(LocationOrder::folder(name, path, passphrase)).await;
    database.close().await;
    let made = made.map_err(|error| Failure::because(what(), error.to_string()).hint(error.hint))?;
    match made.recovery_key {
        Some(key) => {
            println!("The location “{name}” is made. Its recovery key opens it when the passphrase is lost:");
            println!("  {}", key.expose_secret());
            println!("Keep it somewhere else; it is not shown again.");
        }
        None => println!("The location “{name}” is taken over, with {} restore points.", made.points),
    }
    Ok(ExitCode::SUCCESS)
}
