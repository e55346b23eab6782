//! The program `stillframe`: it reads the command line and the environment, and puts the libraries together.
//!
//! Owns: options, the data folder, start and stop, the terminal. Must never: decide anything a library should.
//! Read next: `serve/mod.rs`.

mod admin;
mod doctor;
mod failure;
mod repo;
mod selftest;
mod serve;
mod simulate;
mod worker;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Backs up virtual machines without an agent, and restores them.
#[derive(Debug, Parser)]
#[command(name = "stillframe", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How logs are written to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "STILLFRAME_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the console and the workers.
    Serve(serve::Options),
    /// Work for a server on another machine.
    Worker(worker::Options),
    /// Say what is missing on this machine, and what to do about it.
    Doctor(doctor::Options),
    /// Help for administrators who are locked out.
    Admin(admin::Options),
    /// Start a simulated host, to try things on.
    Simulate(simulate::Options),
    /// Work on a repository with nothing but its location and its passphrase.
    Repo(repo::RepoCommand),
    /// Back up and restore a machine on two simulated hosts, and compare every byte.
    Selftest(selftest::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logs(cli.log_format);
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed already");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new("The program could not start its threads", &error).report(),
    };
    let result = runtime.block_on(run(cli.command));
    // Work that is still blocked in a read must not keep the program alive.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(options) => serve::run(options).await,
        Command::Worker(options) => worker::run(options).await,
        Command::Doctor(options) => Ok(doctor::run(&options)),
        Command::Admin(options) => admin::run(options).await,
        Command::Simulate(options) => simulate::run(options).await,
        Command::Repo(command) => Ok(repo::run(command).await),
        Command::Selftest(options) => selftest::run(options).await,
    }
}

fn start_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_env("STILLFRAME_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
