//! `stillframe simulate`: a simulated host in the foreground.

use crate::failure::Failure;
use clap::{Args, Subcommand};
use simulators::esxi::{self, DiskContent, DiskSpec, GuestWrites, MachineSpec, Power};
use simulators::hyperv::{self, Files};
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
    /// A Hyper-V host with three small machines, or one machine made of your disks. It ends with Ctrl-C.
    Hyperv(Hyperv),
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

#[derive(Debug, Args)]
struct Hyperv {
    /// Where the host keeps its disks. What is there from an earlier run comes back.
    #[arg(long)]
    state_dir: PathBuf,
    /// Where it listens for WS-Management with TLS (a real host: port 5986).
    #[arg(long, default_value = "127.0.0.1:15986")]
    listen_tls: SocketAddr,
    /// Where it listens for WS-Management with sealed messages (a real host: port 5985).
    #[arg(long, default_value = "127.0.0.1:15985")]
    listen_http: SocketAddr,
    /// Port of 127.0.0.1 where its drive is served as C$ (a real host: port 445); 0 takes a free one.
    #[arg(long, default_value_t = 15445)]
    smb_port: u16,
    /// The host's name, at most 15 letters, digits and hyphens.
    #[arg(long, default_value = "SIM-HYPERV")]
    name: String,
    /// The one account.
    #[arg(long, default_value = "Administrator")]
    account: String,
    /// File that holds its password; without it the password is "simulated".
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// A raw disk image; it is copied. May be given more than once: all become disks of one machine of generation 2.
    #[arg(long)]
    disk: Vec<PathBuf>,
}

/// Runs until Ctrl-C or SIGTERM.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    match options.platform {
        Platform::Esxi(options) => run_esxi(options).await,
        Platform::Hyperv(options) => run_hyperv(options).await,
    }
}

async fn run_esxi(options: Esxi) -> Result<ExitCode, Failure> {
    let mut config = esxi::demo_config(&options.state_dir, &options.name);
    config.listen = options.listen;
    config.account.clone_from(&options.account);
    config.password = password(options.password_file.as_deref())?;
    if !options.disk.is_empty() {
        config.machines = vec![machine_of(&options.disk)];
    }
    let host = esxi::SimulatedHost::start(config).await;
    let host = host.map_err(|error| Failure::new("The simulated host did not start", &error))?;
    println!("A simulated ESXi host is ready.");
    println!("  Address:      {}", host.address());
    println!("  Account:      {}", options.account);
    println!("  Certificate:  SHA-256 {}", hex::encode_upper(host.certificate_sha256()));
    until_told_to_end().await?;
    host.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn run_hyperv(options: Hyperv) -> Result<ExitCode, Failure> {
    let mut config = hyperv::demo_config(&options.state_dir, &options.name);
    config.listen_tls = options.listen_tls;
    config.listen_http = options.listen_http;
    let port = Some(options.smb_port).filter(|port| *port > 0);
    config.files = Files::Served { port, encryption: hyperv::samba::Encryption::Offered };
    config.account.clone_from(&options.account);
    config.password = password(options.password_file.as_deref())?;
    if !options.disk.is_empty() {
        let disk = |path: &PathBuf| hyperv::DiskSpec::new(0, hyperv::Content::Raw(path.clone()));
        config.machines = vec![hyperv::MachineSpec {
            on: true,
            secure_boot: false,
            disks: options.disk.iter().map(disk).collect(),
            writes: Some(GuestWrites { bytes_per_second: GUEST_BYTES_PER_SECOND, seed: 1 }),
            ..hyperv::MachineSpec::new("machine-01")
        }];
    }
    let host = hyperv::SimulatedHost::start(config).await;
    let host = host.map_err(|error| Failure::new("The simulated host did not start", &error))?;
    println!("A simulated Hyper-V host is ready.");
    println!("  With TLS:     {}", host.tls_address());
    println!("  Sealed HTTP:  {}", host.http_address());
    if let Some(address) = host.smb_address() {
        println!("  Drive C$:     {address} (SMB)");
    }
    println!("  Account:      {}", options.account);
    println!("  Certificate:  SHA-256 {}", hex::encode_upper(host.certificate_sha256()));
    until_told_to_end().await?;
    host.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn until_told_to_end() -> Result<(), Failure> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Failure::new("Signals cannot be received", &error))?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn machine_of(disks: &[PathBuf]) -> MachineSpec {
    let mut machine = MachineSpec::new("machine-01");
    machine.power = Power::On;
    machine.disks = disks.iter().map(|disk| DiskSpec::new(0, DiskContent::Raw(disk.clone()))).collect();
    machine.writes = Some(GuestWrites { bytes_per_second: GUEST_BYTES_PER_SECOND, seed: 1 });
    machine
}

fn password(file: Option<&std::path::Path>) -> Result<String, Failure> {
    file.map_or_else(|| Ok("simulated".to_owned()), read_password)
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
