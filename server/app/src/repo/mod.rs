//! `stillframe repo`: work on a repository with nothing but its folder and its passphrase. No server, no database.
//! Owns: the subcommands' arguments and output. Must never: print a passphrase, or leave half an image behind.

mod key;
mod passphrase;
mod report;
mod restore;

use clap::{Args, Subcommand};
use domain::{Clock, SystemClock};
use repository::{FolderBackend, InitOptions, PointId, Repository, VerifyOptions};
use secrecy::SecretString;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use passphrase::PassphraseSource;

/// Work on a repository: only its folder and its passphrase are needed
#[derive(Debug, Args)]
pub struct RepoCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Args)]
struct Place {
    /// The repository's folder
    #[arg(long)]
    path: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseSource,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a new repository in an empty folder and print its recovery key
    Init {
        #[command(flatten)]
        place: Place,
        /// Average chunk in KiB: 64, 128, 256, 512 or 1024. Smaller finds more duplicates, larger needs less memory
        #[arg(long, default_value_t = 128)]
        chunk_kib: u32,
    },
    /// List the restore points, oldest first
    List {
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a restore point: its machine and disks
    Show {
        #[command(flatten)]
        place: Place,
        /// The restore point's id
        #[arg(long)]
        point: PointId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read and check everything restore points need; fails if anything is damaged
    Verify {
        #[command(flatten)]
        place: Place,
        /// Only this restore point; may be given several times
        #[arg(long)]
        point: Vec<PointId>,
        /// Leave out the disks' data: manifests, maps, index and lists of packs only
        #[arg(long)]
        structure_only: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a disk of a restore point to a new raw image file, sparse
    Restore {
        #[command(flatten)]
        place: Place,
        /// The restore point's id
        #[arg(long)]
        point: PointId,
        /// The disk's key, as `show` prints it
        #[arg(long)]
        disk: i32,
        /// The image file; must not exist
        #[arg(long)]
        output: PathBuf,
    },
    /// Show what an empty server that takes the repository over would find: machines, restore points, disks
    Adopt {
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    Key(key::KeyCommand),
}

/// What a subcommand fails with: already in words.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// The repository refused or failed.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// A file of ours could not be read or written.
    #[error("cannot {doing} {path}")]
    File { doing: &'static str, path: String, source: io::Error },
    /// The passphrase could not be read or is unfit.
    #[error("{0}")]
    Passphrase(String),
    /// Output could not be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// Verification found damage.
    #[error("the repository is damaged: {0} objects, see above")]
    Damaged(usize),
}

impl From<repository::BackendError> for RepoError {
    fn from(error: repository::BackendError) -> Self {
        Self::Repository(error.into())
    }
}

/// Runs a subcommand on standard output; 0 when all is well, else 1 and a line on standard error.
pub async fn run(command: RepoCommand) -> ExitCode {
    match execute(command, &mut io::stdout()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stillframe repo: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its sources, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string does not fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// Runs a subcommand with its output in `out`.
pub async fn execute(command: RepoCommand, out: &mut (dyn Write + Send)) -> Result<(), RepoError> {
    match command.action {
        Action::Init { place, chunk_kib } => init(place, chunk_kib, out).await,
        Action::List { place, json } => {
            let list = open(&place).await?.points().await?;
            if json { report::json(&list, out) } else { report::list(&list, out) }
        }
        Action::Show { place, point, json } => {
            let point = open(&place).await?.point(point).await?;
            if json { report::json(&point, out) } else { report::point(&point, out) }
        }
        Action::Verify { place, point, structure_only, json } => {
            let repository = open(&place).await?;
            let points = (!point.is_empty()).then_some(point);
            let progress = Arc::new(report::Percent::new("checked"));
            let options = VerifyOptions { points, structure_only };
            let found = repository.verify(options, progress, &CancellationToken::new()).await?;
            if json {
                report::json(&found, out)?;
            } else {
                report::verification(&found, out)?;
            }
            if found.damage.is_empty() { Ok(()) } else { Err(RepoError::Damaged(found.damage.len())) }
        }
        Action::Adopt { place, json } => {
            let catalogue = open(&place).await?.catalogue().await?;
            if json { report::json(&catalogue, out) } else { report::catalogue(&catalogue, out) }
        }
        Action::Key(command) => key::execute(command, out).await,
        Action::Restore { place, point, disk, output } => {
            let image = open(&place).await?.open_disk(point, disk).await?;
            let bytes = restore::to_file(&image, &output).await?;
            writeln!(
                out,
                "{}: {} written, {} in all",
                output.display(),
                report::size(bytes),
                report::size(image.size_bytes())
            )?;
            Ok(())
        }
    }
}

async fn open(place: &Place) -> Result<Repository, RepoError> {
    Ok(open_with_secret(place).await?.0)
}

/// Also what opened it: changing keys needs it again.
async fn open_with_secret(place: &Place) -> Result<(Repository, SecretString), RepoError> {
    // The folder first: nobody should type a passphrase for a folder that is not there.
    let backend = Arc::new(FolderBackend::open(&place.path)?);
    let passphrase = place.passphrase.read()?;
    Ok((Repository::open(backend, &passphrase).await?, passphrase))
}

async fn init(place: Place, chunk_kib: u32, out: &mut (dyn Write + Send)) -> Result<(), RepoError> {
    let passphrase = place.passphrase.read_new()?;
    let backend = Arc::new(FolderBackend::create(&place.path)?);
    let chunk_average_bytes = chunk_kib.saturating_mul(1024);
    let options = InitOptions { chunk_average_bytes, ..InitOptions::new(SystemClock.now()) };
    let (repository, key) = Repository::init(backend, &passphrase, options).await?;
    writeln!(out, "Repository {} is ready in {}.", repository.id(), place.path.display())?;
    key::recovery_key(&key, out)
}
