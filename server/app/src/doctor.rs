//! `stillframe doctor`: what is missing on this machine, and what to do about it.

use crate::serve::options::data_dir_or_default;
use clap::Args;
use db::private_postgres::Programs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Below this a new server has no room for its database.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// See the program's `--help`.
#[derive(Debug, Args)]
pub struct Options {
    /// The data folder the server would use.
    #[arg(long, env = "STILLFRAME_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The address the console would use.
    #[arg(long, env = "STILLFRAME_LISTEN", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// A database is given, so none is needed here.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

struct Check {
    subject: &'static str,
    finding: Result<String, Trouble>,
}

struct Trouble {
    what: String,
    remedy: String,
}

impl Trouble {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// Prints all checks; the exit code is 0 when nothing is missing.
pub fn run(options: &Options) -> ExitCode {
    let folder = data_dir_or_default(options.data_dir.as_ref());
    let checks = [
        Check { subject: "Database", finding: database(options) },
        Check { subject: "Data folder", finding: data_folder(&folder) },
        Check { subject: "Free space", finding: free_space(&folder) },
        Check { subject: "Console", finding: console(options.listen) },
        Check { subject: "Time zones", finding: time_zones() },
        Check { subject: "Clock", finding: clock() },
    ];
    let mut troubles = 0;
    for check in &checks {
        match &check.finding {
            Ok(finding) => println!("ok       {:<12} {finding}", check.subject),
            Err(trouble) => {
                troubles += 1;
                println!("missing  {:<12} {}", check.subject, trouble.what);
                println!("                      → {}", trouble.remedy);
            }
        }
    }
    if troubles == 0 {
        println!("Nothing is missing.");
        ExitCode::SUCCESS
    } else {
        println!("{troubles} of {} checks failed.", checks.len());
        ExitCode::FAILURE
    }
}

fn database(options: &Options) -> Result<String, Trouble> {
    if options.database_url.is_some() {
        return Ok("DATABASE_URL names one; it is checked at the start".to_owned());
    }
    match Programs::find(None, std::env::var_os("PATH").as_deref()) {
        Ok(programs) => Ok(format!("Postgres {} in {}", programs.version(), programs.folder().display())),
        Err(error) => Err(Trouble::new(error.to_string(), "apt-get install postgresql")),
    }
}

fn data_folder(folder: &Path) -> Result<String, Trouble> {
    let existing = folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let remedy = "Create it for this account, or name another one with --data-dir.";
    if !existing.is_dir() {
        return Err(Trouble::new(format!("{} is not a folder", existing.display()), remedy));
    }
    rustix::fs::access(existing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| Trouble::new(format!("{} cannot be written: {error}", existing.display()), remedy))?;
    Ok(folder.display().to_string())
}

fn free_space(folder: &Path) -> Result<String, Trouble> {
    let existing = folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let space = rustix::fs::statvfs(existing)
        .map_err(|error| Trouble::new(format!("it cannot be told: {error}"), "Look at the file system."))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let text = format!("{} MB free for the database; repositories are elsewhere", free / 1_000_000);
    if free < FREE_BYTES_MIN { Err(Trouble::new(text, "Make room, or name another --data-dir.")) } else { Ok(text) }
}

fn console(listen: SocketAddr) -> Result<String, Trouble> {
    TcpListener::bind(listen).map(|_| format!("{listen} is free")).map_err(|error| {
        Trouble::new(
            format!("{listen} cannot be used: {error}"),
            "A server may run already; otherwise choose another port with --listen.",
        )
    })
}

fn time_zones() -> Result<String, Trouble> {
    jiff::tz::TimeZone::get("Europe/Vienna")
        .map(|_| format!("known; this machine is in {}", jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC")))
        .map_err(|error| Trouble::new(error.to_string(), "apt-get install tzdata"))
}

/// A clock that was never set makes schedules and certificates meaningless.
fn clock() -> Result<String, Trouble> {
    let now = domain::Clock::now(&domain::SystemClock);
    let built_after: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    if now < built_after {
        return Err(Trouble::new(format!("it says {now}"), "Set it, for example by systemd-timesyncd."));
    }
    Ok(format!("{}", now.strftime("%Y-%m-%d %H:%M UTC")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_and_a_file_in_the_way_are_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let trouble = console(taken.local_addr().unwrap()).err().unwrap();
        assert!(trouble.what.contains(&taken.local_addr().unwrap().to_string()));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(data_folder(&file.path().join("data")).err().unwrap().what.contains("is not a folder"));
    }
}
