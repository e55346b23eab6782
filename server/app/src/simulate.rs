//! `stillframe simulate`: a simulated host in the foreground.

use crate::failure::Failure;
use clap::{Args, Subcommand};
use simulators::esxi::{self, DiskContent, DiskSpec, GuestWrites, MachineSpec, Power, SimulatedHost};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Longest password that is read from a file, in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;
/// What the machine made of `--disk` files writes while it runs.
const GUEST_BYTES_PER_SECOND: u64 = 256 << 10;

/// See the program's `--help`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    platform: Platform,
}

#[derive(Debug, Subcommand)]
enum Platform {
    /// An ESXi host with three small machines, or one machine made of your disks. It ends with Ctrl-C.
    Esxi(Esxi),
}

#[derive(Debug, Args)]
struct Esxi {
    /// Where the host keeps its disks. What is there from an earlier run comes back.
    #[arg(long)]
    state_dir: PathBuf,
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:9443")]
    listen: SocketAddr,
    /// The host's name.
    #[arg(long, default_value = "simulated-esxi")]
    name: String,
    /// The one account.
    #[arg(long, default_value = "root")]
    account: String,
    /// File that holds its password; without it the password is "simulated".
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// A raw disk image; it is copied. May be given more than once: all become disks of one machine.
    #[arg(long)]
    disk: Vec<PathBuf>,
}

/// Runs until Ctrl-C or SIGTERM.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let Platform::Esxi(options) = options.platform;
    let mut config = esxi::demo_config(&options.state_dir, &options.name);
    config.listen = options.listen;
    config.account.clone_from(&options.account);
    config.password = match &options.password_file {
        Some(path) => read_password(path)?,
        None => "simulated".to_owned(),
    };
    if !options.disk.is_empty() {
        config.machines = vec![machine_of(&options.disk)];
    }
    let host =
        SimulatedHost::start(config).await.map_err(|error| Failure::new("The simulated host did not start", &error))?;
    println!("A simulated ESXi host is ready.");
    println!("  Address:      {}", host.address());
    println!("  Account:      {}", options.account);
    println!("  Certificate:  SHA-256 {}", hex::encode_upper(host.certificate_sha256()));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Failure::new("Signals cannot be received", &error))?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    host.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn machine_of(disks: &[PathBuf]) -> MachineSpec {
    let mut machine = MachineSpec::new("machine-01");
    machine.power = Power::On;
    machine.disks = disks.iter().map(|disk| DiskSpec::new(0, DiskContent::Raw(disk.clone()))).collect();
    machine.writes = Some(GuestWrites { bytes_per_second: GUEST_BYTES_PER_SECOND, seed: 1 });
    machine
}

fn read_password(path: &std::path::Path) -> Result<String, Failure> {
    let what = || format!("The password file {} cannot be used", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| Failure::new(what(), &error))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return Err(Failure::because(what(), "it must hold one line"));
    }
    Ok(password.to_owned())
}
