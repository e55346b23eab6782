//! The life of the private server process: made once, started, taken over when orphaned, stopped.
//!
//! | at start there is | then |
//! |---|---|
//! | no cluster | one is made beside and renamed into place: a crash leaves none or a whole one |
//! | a cluster, nothing running | started; Postgres recovers by itself from whatever happened |
//! | a postmaster running in that folder | an orphan of a server that was killed: stopped, then started anew |
//! | a `postmaster.pid` of a process that is something else by now | the file is removed |

use super::account::Account;
use super::error::PostgresError;
use super::programs::Programs;
use super::socket::{ROLE, Socket};
use crate::database::Address;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{ConnectOptions, Connection};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Small when idle, and enough for twenty connections of ours and a person with psql.
const SETTINGS: [&str; 10] = [
    "unix_socket_permissions=0700",
    "max_connections=60",
    "shared_buffers=64MB",
    "max_wal_size=256MB",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_logical_replication_workers=0",
    "max_parallel_workers_per_gather=0",
    "jit=off",
    "cluster_name=stillframe",
];
/// The second where the C library knows no UTF-8 form of the first: upper and lower case are then ASCII's only.
const LOCALES: [&str; 2] = ["C.UTF-8", "C"];

/// Recovery after a crash replays at most `max_wal_size`.
const START_SECONDS_MAX: u64 = 120;
const FAST_STOP_SECONDS_MAX: u64 = 30;
const IMMEDIATE_STOP_SECONDS_MAX: u64 = 10;
/// Backends of a postmaster that was killed hold its shared memory until they notice.
const STARTS_MAX: u32 = 5;
const POLL: Duration = Duration::from_millis(20);
const LOG_BYTES_MAX: u64 = 16 << 20;
const LOG_TAIL_BYTES: u64 = 2000;

/// How to run it.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The server's data folder; everything of Postgres lies in its `postgres`. Whoever starts it has locked the folder.
    pub data_dir: PathBuf,
    /// Value of PATH.
    pub path: Option<OsString>,
    /// Further settings, `name=value`.
    pub settings: Vec<String>,
    /// Lets workers on other machines in; `None`: nothing listens on a network.
    pub network: Option<Network>,
}

/// How workers on other machines reach it: by TLS, each with an account of its own and its password.
#[derive(Debug, Clone)]
pub struct Network {
    /// Address and port. The port is never 0.
    pub listen: SocketAddr,
    /// Certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: SecretString,
}

impl Network {
    /// Enough for the pools of some workers.
    const CONNECTIONS_MAX: &'static str = "max_connections=400";
}

/// A running private Postgres. Stopped by [`PrivatePostgres::stop`]; dropping it asks for the stop without waiting.
#[derive(Debug)]
pub struct PrivatePostgres {
    child: Option<Child>,
    socket: Socket,
    cluster: PathBuf,
    log: PathBuf,
}

/// Paths and programs of one start.
struct Setup {
    account: Account,
    programs: Programs,
    socket: Socket,
    cluster: PathBuf,
    log: PathBuf,
    settings: Vec<String>,
    network: Option<Network>,
}

impl PrivatePostgres {
    /// Makes the cluster if there is none, takes an orphan over, starts Postgres and waits until it answers.
    pub async fn start(options: &PostgresOptions) -> Result<Self, PostgresError> {
        let options = options.clone();
        let setup = tokio::task::spawn_blocking(move || prepare(options))
            .await
            .map_err(|error| PostgresError::Program { program: "initdb", message: error.to_string() })??;
        let mut last = None;
        for _ in 0..STARTS_MAX {
            let child = spawn_server(&setup)?;
            let mut postgres = Self {
                child: Some(child),
                socket: setup.socket.clone(),
                cluster: setup.cluster.clone(),
                log: setup.log.clone(),
            };
            match postgres.wait_ready().await {
                Ok(()) => return Ok(postgres),
                Err(error @ PostgresError::Program { .. }) => {
                    last = Some(error);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(PostgresError::NoAccount))
    }

    /// Where to connect.
    pub fn address(&self) -> Address {
        Address::Private(self.socket.clone())
    }

    /// Number of the postmaster's process.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Waits until the process has ended, which it should not while nobody stops it.
    pub async fn ended(&mut self) {
        while let Some(child) = &mut self.child {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                self.child = None;
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Stops it: open transactions are rolled back, everything committed is on disk.
    pub async fn stop(mut self) -> Result<(), PostgresError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = Pid::from_child(&child);
        for (signal, seconds) in [(Signal::INT, FAST_STOP_SECONDS_MAX), (Signal::QUIT, IMMEDIATE_STOP_SECONDS_MAX)] {
            // An error means that it has ended meanwhile.
            let _ = kill_process(pid, signal);
            let deadline = Instant::now() + Duration::from_secs(seconds);
            while Instant::now() < deadline {
                if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                    return Ok(());
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Err(PostgresError::InUse { pid: pid.as_raw_nonzero().get(), folder: self.cluster.clone() })
    }

    /// Lets it run on without us.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn detach(mut self) {
        self.child = None;
    }

    async fn wait_ready(&mut self) -> Result<(), PostgresError> {
        let options = self.socket.options("postgres").disable_statement_logging();
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        while Instant::now() < deadline {
            if let Ok(connection) = options.connect().await {
                // A good-bye that fails is of no consequence.
                let _ = connection.close().await;
                return Ok(());
            }
            if let Some(child) = &mut self.child
                && matches!(child.try_wait(), Ok(Some(_)) | Err(_))
            {
                self.child = None;
                return Err(PostgresError::Program { program: "postgres", message: log_tail(&self.log) });
            }
            tokio::time::sleep(POLL).await;
        }
        Err(PostgresError::NoAnswer { seconds: START_SECONDS_MAX, log: self.log.clone(), message: log_tail(&self.log) })
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            let _ = kill_process(Pid::from_child(child), Signal::INT);
        }
    }
}

fn prepare(options: PostgresOptions) -> Result<Setup, PostgresError> {
    let data_dir = options.data_dir.canonicalize().map_err(PostgresError::file("cannot find", &options.data_dir))?;
    let folder = data_dir.join("postgres");
    std::fs::create_dir_all(&folder).map_err(PostgresError::file("cannot make", &folder))?;
    let cluster = folder.join("cluster");
    let version = cluster_version(&cluster)?;
    let programs = Programs::find(version.as_deref(), options.path.as_deref())?;
    if let Some(version) = version
        && version != programs.version()
    {
        let installed = programs.version().to_owned();
        return Err(PostgresError::OtherVersion { folder: cluster, cluster: version, installed });
    }
    let account = Account::choose()?;
    account.reach(&data_dir, &folder)?;
    let log = folder.join("postgres.log");
    if std::fs::metadata(&log).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        std::fs::remove_file(&log).map_err(PostgresError::file("cannot remove the old log", &log))?;
    }
    let socket = Socket::prepare(&folder, &account, options.network.as_ref().map(|network| network.listen.port()))?;
    let setup = Setup { account, programs, socket, cluster, log, settings: options.settings, network: options.network };
    if cluster_version(&setup.cluster)?.is_none() {
        make_cluster(&setup, &folder)?;
    }
    stop_orphan(&setup.cluster)?;
    write_access(&setup)?;
    Ok(setup)
}

/// `None` when there is no cluster.
fn cluster_version(cluster: &Path) -> Result<Option<String>, PostgresError> {
    let file = cluster.join("PG_VERSION");
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PostgresError::file("cannot read", file)(error)),
    }
}

fn make_cluster(setup: &Setup, folder: &Path) -> Result<(), PostgresError> {
    let fresh = folder.join("cluster.new");
    let mut message = String::new();
    for locale in LOCALES {
        remove_folder(&fresh)?;
        std::fs::create_dir(&fresh).map_err(PostgresError::file("cannot make", &fresh))?;
        setup.account.give(&fresh)?;
        let mut command = Command::new(setup.programs.initdb());
        command
            .arg("--pgdata")
            .arg(&fresh)
            .args(["--username", ROLE, "--encoding=UTF8", "--auth=peer", "--data-checksums", "--locale", locale])
            .env_clear()
            .env("PATH", setup.programs.folder())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = setup
            .account
            .spawn(command)
            .and_then(Child::wait_with_output)
            .map_err(PostgresError::file("cannot run", setup.programs.initdb()))?;
        if output.status.success() {
            return std::fs::rename(&fresh, &setup.cluster)
                .map_err(PostgresError::file("cannot put in place", &setup.cluster));
        }
        message = tail(&String::from_utf8_lossy(&output.stderr));
    }
    remove_folder(&fresh)?;
    Err(PostgresError::Program { program: "initdb", message })
}

fn remove_folder(folder: &Path) -> Result<(), PostgresError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PostgresError::file("cannot remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// The account the server runs under may connect by the socket, as the one role; workers' accounts by TLS with their
/// password, if they may at all. Written at each start: the server may run under another account by now.
fn write_access(setup: &Setup) -> Result<(), PostgresError> {
    let mut access = "local all all peer map=server\n".to_owned();
    let mut files = vec![("pg_ident.conf", Zeroizing::new(format!("server \"{}\" {ROLE}\n", setup.account.server)))];
    if let Some(network) = &setup.network {
        access.push_str("hostssl postgres +stillframe_workers_postgres all scram-sha-256\n");
        files.push(("server.crt", Zeroizing::new(network.certificate.clone())));
        files.push(("server.key", Zeroizing::new(network.key.expose_secret().to_owned())));
    }
    files.push(("pg_hba.conf", Zeroizing::new(access)));
    for (name, text) in files {
        let path = setup.cluster.join(name);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(PostgresError::file("cannot write", &path))?;
        setup.account.give(&path)?;
    }
    Ok(())
}

fn spawn_server(setup: &Setup) -> Result<Child, PostgresError> {
    let open = || OpenOptions::new().create(true).append(true).open(&setup.log);
    let log = open().map_err(PostgresError::file("cannot open the log", &setup.log))?;
    let mut command = Command::new(setup.programs.postgres());
    command.arg("-D").arg(&setup.cluster).arg("-k").arg(setup.socket.folder()).arg("-p");
    command.arg(setup.socket.port().to_string());
    let listen = setup.network.as_ref().map(|network| network.listen.ip().to_string()).unwrap_or_default();
    command.args(["-c", &format!("listen_addresses={listen}")]);
    for setting in SETTINGS.into_iter().chain(setup.settings.iter().map(String::as_str)) {
        command.args(["-c", setting]);
    }
    if setup.network.is_some() {
        command.args(["-c", "ssl=on", "-c", "ssl_min_protocol_version=TLSv1.2", "-c", Network::CONNECTIONS_MAX]);
    }
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        // Ctrl-C on the terminal is for the server, which stops Postgres last.
        .process_group(0);
    setup.account.spawn(command).map_err(PostgresError::file("cannot run", setup.programs.postgres()))
}

/// Ends a postmaster that runs in this folder, and removes the file of one that is gone for certain.
fn stop_orphan(cluster: &Path) -> Result<(), PostgresError> {
    let file = cluster.join("postmaster.pid");
    let Some(pid) = recorded_pid(&file) else { return Ok(()) };
    if !runs_in(pid, cluster) {
        // Its number may belong to something else by now, which Postgres could take for a postmaster.
        return match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(PostgresError::file("cannot remove", file)(error))
            }
            _ => Ok(()),
        };
    }
    tracing::info!(pid = pid.as_raw_nonzero().get(), "taking over the database of a server that was killed");
    for (signal, seconds) in [(Signal::INT, FAST_STOP_SECONDS_MAX), (Signal::QUIT, IMMEDIATE_STOP_SECONDS_MAX)] {
        let _ = kill_process(pid, signal);
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < deadline {
            if !runs_in(pid, cluster) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }
    Err(PostgresError::InUse { pid: pid.as_raw_nonzero().get(), folder: cluster.to_owned() })
}

fn recorded_pid(file: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(file).ok()?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
}

/// A postmaster's working folder is its cluster: no other process is taken for it.
fn runs_in(pid: Pid, cluster: &Path) -> bool {
    std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).is_ok_and(|folder| folder == cluster)
}

fn log_tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    tail(&read().unwrap_or_default())
}

/// The last lines, in one.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.iter().rev().take(4).rev().copied().collect::<Vec<_>>().join(" / ")
}
