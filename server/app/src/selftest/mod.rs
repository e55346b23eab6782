//! `stillframe selftest`: the main job on two simulated hosts, with the real engine, database and repository, every
//! restored byte compared. The user's check of an installation, and ours.
//!
//! Read next: `stage.rs` (what is set up), `hosts/` (the platforms), `steps.rs` (what is done and expected), `report.rs` (the table).

mod compare;
mod guest;
mod hosts;
mod report;
mod stage;
mod steps;

use crate::failure::Failure;
use clap::{Args, ValueEnum};
use db::Platform;
use report::Report;
use stage::Stage;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// See the program's `--help`.
#[derive(Debug, Args)]
pub struct Options {
    /// Which hosts are simulated. Without it: both, one after the other; Hyper-V only where Samba is installed.
    #[arg(long, value_enum)]
    platform: Option<Choice>,
    /// A raw disk image with a bootable guest; it becomes the first disk of the machine (as a copy). Without it that
    /// disk is generated.
    #[arg(long)]
    guest: Option<PathBuf>,
    /// Leave everything in place, and print where the restored disks are.
    #[arg(long)]
    keep: bool,
    /// Where to work; needs about three times the size of the disks. Without it: a new folder for temporary files.
    #[arg(long)]
    work_dir: Option<PathBuf>,
}

/// As on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Esxi,
    Hyperv,
}

/// Exit code 0 only if everything held.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let work = WorkDir::make(&options)?;
    println!("Self-test on simulated hosts, in {}", work.path.display());
    let platforms = match options.platform {
        Some(Choice::Esxi) => vec![Platform::Esxi],
        Some(Choice::Hyperv) => vec![Platform::HyperV],
        None if simulators::hyperv::samba::is_installed() => vec![Platform::Esxi, Platform::HyperV],
        None => {
            println!("Hyper-V is left out: its simulated hosts need Samba (Debian and Ubuntu: apt install samba).");
            vec![Platform::Esxi]
        }
    };
    let mut held = true;
    for platform in platforms {
        held &= run_on(platform, &work.path.join(platform.as_str()), &options).await?;
    }
    work.remove_unless(options.keep);
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// True when everything held.
async fn run_on(platform: Platform, work: &Path, options: &Options) -> Result<bool, Failure> {
    println!("\n{}", platform.product());
    std::fs::create_dir_all(work).map_err(|error| Failure::new("No folder to work in could be made", &error))?;
    let stage = Stage::set_up(platform, work, options.guest.as_deref()).await?;
    let mut report = Report::start();
    let outcome = steps::run(&stage, &mut report).await;
    if let Err(failure) = &outcome {
        report.failed(failure);
    }
    let kept = if options.keep { stage.hosts.restored_disks(work) } else { Ok(Vec::new()) };
    stage.take_down().await;
    for (disk, path) in kept.map_err(|error| Failure::new("The restored disks cannot be read", &error))? {
        println!("restored disk {disk}: {}", path.display());
    }
    Ok(report.finish())
}

struct WorkDir {
    path: PathBuf,
    ours: bool,
}

impl WorkDir {
    fn make(options: &Options) -> Result<Self, Failure> {
        let what = "No folder to work in could be made";
        let (path, ours) = if let Some(path) = &options.work_dir {
            (path.clone(), false)
        } else {
            let folder = tempfile::Builder::new().prefix("stillframe-selftest-").tempdir();
            (folder.map_err(|error| Failure::new(what, &error))?.keep(), true)
        };
        std::fs::create_dir_all(&path).map_err(|error| Failure::new(what, &error))?;
        let empty = std::fs::read_dir(&path).map_err(|error| Failure::new(what, &error))?.next().is_none();
        if !empty {
            return Err(Failure::because(what, format!("{} is not empty", path.display())));
        }
        let path = path.canonicalize().map_err(|error| Failure::new(what, &error))?;
        Ok(Self { path, ours })
    }

    fn remove_unless(self, keep: bool) {
        if keep {
            println!("kept: {}", self.path.display());
        } else if self.ours {
            let _ = std::fs::remove_dir_all(&self.path);
        } else {
            for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}
