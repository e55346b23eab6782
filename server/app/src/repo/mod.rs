//! `stillframe repo`: work on a repository with nothing but its location and its passphrase. No server, no database.
//! Owns: the subcommands' arguments and output. Must never: print a passphrase, or leave half an image behind.

mod backup;
mod gc;
mod key;
pub mod passphrase;
mod place;
mod report;
mod restore;

use clap::{Args, Subcommand};
use domain::{Clock, SystemClock};
use repository::{InitOptions, PointId, Repository, VerifyOptions};
use secrecy::SecretString;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use place::Place;

/// Work on a repository: only its location and its passphrase are needed
#[derive(Debug, Args)]
pub struct RepoCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a new repository in an empty place and print its recovery key
    Init {
        #[command(flatten)]
        place: Place,
        /// Average chunk in KiB: 64, 128, 256, 512 or 1024. Smaller finds more duplicates, larger needs less memory: 128
        /// beyond some 40 TB
        #[arg(long, default_value_t = 64)]
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
        /// Go on with a verification that was cut short
        #[arg(long)]
        resume: bool,
        /// Only packs that were not checked at or after this time, such as 2026-01-31T00:00:00Z
        #[arg(long)]
        since: Option<jiff::Timestamp>,
        /// Only so many percent of the data, what was checked longest ago first: 5 a day is all of it in 20 days
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
        percent: Option<u8>,
        /// Read at most so many MiB a second
        #[arg(long)]
        mib_per_second: Option<u64>,
        /// Write nothing into the repository, not even what was checked
        #[arg(long)]
        read_only: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Back up a raw image file as the disk of a machine
    Backup {
        #[command(flatten)]
        place: Place,
        /// The image file (or block device)
        #[arg(long)]
        disk: PathBuf,
        /// Read only what changed since the machine's last restore point: a file of lines “offset length”, in bytes
        #[arg(long)]
        changed_areas: Option<PathBuf>,
        /// The machine's name; the image's when not given
        #[arg(long)]
        machine: Option<String>,
    },
    /// Give back the space of what no restore point needs; backups may run meanwhile
    Gc(gc::GcArgs),
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
    /// What was asked for makes no sense.
    #[error("{0}")]
    Refused(String),
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
            let repository = open(&place).await?;
            let (list, verified) = (repository.points().await?, repository.verified().await?);
            if json {
                report::json(&report::Listing { list, verified }, out)
            } else {
                report::list(&list, &verified, out)
            }
        }
        Action::Show { place, point, json } => {
            let point = open(&place).await?.point(point).await?;
            if json { report::json(&point, out) } else { report::point(&point, out) }
        }
        Action::Verify { place, point, structure_only, resume, since, percent, mib_per_second, read_only, json } => {
            let options = VerifyOptions {
                points: (!point.is_empty()).then_some(point),
                structure_only,
                resume,
                since,
                percent,
                bytes_per_second_max: mib_per_second.map(|mib| mib.saturating_mul(1 << 20)),
                read_only,
            };
            verify(&place, options, json, out).await
        }
        Action::Backup { place, disk, changed_areas, machine } => {
            back_up(&place, &disk, changed_areas.as_deref(), machine, out).await
        }
        Action::Gc(args) => gc::run(&open(&args.place).await?, &args, out).await,
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

async fn back_up(
    place: &Place,
    image: &Path,
    changed_areas: Option<&Path>,
    machine: Option<String>,
    out: &mut (dyn Write + Send),
) -> Result<(), RepoError> {
    let stem = image.file_stem().unwrap_or(image.as_os_str()).to_string_lossy().into_owned();
    let job = backup::Job { image, changed_areas, machine: machine.unwrap_or(stem) };
    let progress = Arc::new(report::Percent::new("backed up"));
    let made = backup::run(&open(place).await?, job, progress).await?;
    let point = &made.point;
    let (kind, read, stored) = (point.kind.as_str(), report::size(made.bytes_read), report::size(made.bytes_stored));
    writeln!(out, "Restore point {} of {}: {kind}, {read} read, {stored} stored", point.id, point.machine.name)?;
    Ok(())
}

async fn verify(
    place: &Place,
    options: VerifyOptions,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), RepoError> {
    let progress = Arc::new(report::Percent::new("checked"));
    let found = open(place).await?.verify(options, progress, &CancellationToken::new()).await?;
    if json {
        report::json(&found, out)?;
    } else {
        report::verification(&found, out)?;
    }
    if found.damage.is_empty() { Ok(()) } else { Err(RepoError::Damaged(found.damage.len())) }
}

async fn open(place: &Place) -> Result<Repository, RepoError> {
    Ok(open_with_secret(place).await?.0)
}

/// Also what opened it: changing keys needs it again.
async fn open_with_secret(place: &Place) -> Result<(Repository, SecretString), RepoError> {
    // The location first: nobody should type a passphrase for a place that is not there.
    let backend = place.location.open().await?;
    let passphrase = place.passphrase.read()?;
    Ok((Repository::open(backend, &passphrase).await?, passphrase))
}

async fn init(place: Place, chunk_kib: u32, out: &mut (dyn Write + Send)) -> Result<(), RepoError> {
    let passphrase = place.passphrase.read_new()?;
    let backend = place.location.create().await?;
    let at = backend.place();
    let chunk_average_bytes = chunk_kib.saturating_mul(1024);
    let options = InitOptions { chunk_average_bytes, ..InitOptions::new(SystemClock.now()) };
    let (repository, key) = Repository::init(backend, &passphrase, options).await?;
    writeln!(out, "Repository {} is ready in {at}.", repository.id())?;
    key::recovery_key(&key, out)
}
