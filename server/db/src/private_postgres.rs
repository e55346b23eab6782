//! A Postgres of our own in the data folder, for servers that are given no `DATABASE_URL`.
//!
//! Owns: finding the programs, making the cluster, starting, taking over what a killed server left, stopping.
//! The caller holds the data folder's lock, so whoever still runs on this cluster is an orphan.
//! Must never: listen on a network address, or run as root (Postgres refuses to).
//!
//! The socket lies in a folder that only the database's account (and root) may enter; that is what `trust` rests on.

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use rustix::process::{Pid, Signal};
use sha2::{Digest, Sha256};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const PORT: u16 = 5432;
const SUPERUSER: &str = "stillframe";
/// `sun_path` of a Unix socket, with its closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 108;
/// Oldest major version with all we use.
const MAJOR_VERSION_MIN: u32 = 13;
/// Crash recovery after a power failure may take its time.
const START_SECONDS_MAX: u64 = 300;
const STOP_SECONDS_MAX: u64 = 30;
const POLL_MILLISECONDS: u64 = 25;
/// The log starts anew when it has grown to this.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Output of a program that is repeated in an error.
const OUTPUT_CHARS_MAX: usize = 2000;

/// Settings of the cluster, for a small server that shares its machine.
const SETTINGS: [&str; 9] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=60",
    "shared_buffers=64MB",
    "max_wal_size=512MB",
    "jit=off",
    "log_timezone=UTC",
    "timezone=UTC",
    "log_line_prefix=%m [%p] ",
];

/// What can go wrong with the private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The programs are not installed.
    #[error(
        "no Postgres server was found: install the package “postgresql” (Debian: apt-get install postgresql), or set \
         DATABASE_URL to one that runs"
    )]
    NotInstalled,
    /// The cluster was made by another major version.
    #[error(
        "the database in {folder} was made by Postgres {cluster}, but only {programs} is installed: install \
         postgresql-{cluster} again, or move the data with pg_upgrade"
    )]
    Version {
        /// The cluster's folder.
        folder: PathBuf,
        /// Its version.
        cluster: String,
        /// What is installed.
        programs: String,
    },
    /// Too old.
    #[error("Postgres {0} is too old: version {MAJOR_VERSION_MIN} or newer is needed")]
    TooOld(u32),
    /// Root must drop to another account, and there is none.
    #[error("Postgres does not run as root, and neither the account “postgres” nor “nobody” exists")]
    NoAccount,
    /// The account cannot reach the folder.
    #[error(
        "the account “{account}”, under which Postgres runs, cannot enter {folder}: choose a data folder that others \
         may pass through (chmod o+x on the folders above it), or set DATABASE_URL"
    )]
    Unreachable {
        /// The folder that stops it.
        folder: PathBuf,
        /// The account.
        account: String,
    },
    /// A file operation.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// The end of what it said.
        output: String,
    },
    /// It did not come up or go down in time.
    #[error("Postgres did not {what} within {seconds} s; its log is {log}")]
    Timeout {
        /// `start` or `stop`.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
        /// Where to look.
        log: PathBuf,
    },
}

type Result<T> = std::result::Result<T, PostgresError>;

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PostgresError {
    let path = path.to_owned();
    move |source| PostgresError::File { action, path, source }
}

/// Where a private Postgres listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    folder: PathBuf,
}

impl Socket {
    /// How to connect to one of its databases; `postgres` always exists.
    pub fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.folder)
            .port(PORT)
            .username(SUPERUSER)
            .database(database)
            .disable_statement_logging()
    }
}

/// The programs of one Postgres installation.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
    major: u32,
}

impl Programs {
    /// The newest installation: Debian's version folders, then what `pg_config` names, then the search path.
    pub fn find() -> Result<Self> {
        let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join("bin"))
            .collect();
        if let Ok(output) = std::process::Command::new("pg_config").arg("--bindir").output() {
            folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        }
        folders.extend(["/usr/local/bin", "/usr/bin", "/usr/local/pgsql/bin"].map(PathBuf::from));
        folders
            .into_iter()
            .filter(|folder| folder.join("initdb").exists())
            .filter_map(|folder| Some(Self { major: major_version(&folder.join("postgres"))?, folder }))
            .max_by_key(|programs| programs.major)
            .ok_or(PostgresError::NotInstalled)
            .and_then(|found| {
                if found.major < MAJOR_VERSION_MIN { Err(PostgresError::TooOld(found.major)) } else { Ok(found) }
            })
    }

    /// Major version, e.g. 15.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Folder of the programs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15.
fn major_version(program: &Path) -> Option<u32> {
    let output = std::process::Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The account Postgres runs under.
#[derive(Debug, Clone)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// Ours, unless we are root: then `postgres`, else `nobody`.
    fn choose() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let find = |name: &str| {
            accounts.lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next()? == name).then_some(())?;
                let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
                Some(Self { name: name.to_owned(), uid, gid })
            })
        };
        find("postgres").or_else(|| find("nobody")).map(Some).ok_or(PostgresError::NoAccount)
    }

    /// Every folder above must let the account pass.
    fn can_reach(&self, folder: &Path) -> Result<()> {
        for above in folder.ancestors().skip(1) {
            let Ok(meta) = fs::metadata(above) else { continue };
            let bit = if meta.uid() == self.uid {
                0o100
            } else if meta.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            if meta.mode() & bit == 0 {
                return Err(PostgresError::Unreachable { folder: above.to_owned(), account: self.name.clone() });
            }
        }
        Ok(())
    }
}

/// A running private Postgres. [`PrivatePostgres::stop`] ends it; dropping it asks it to end.
#[derive(Debug)]
pub struct PrivatePostgres {
    child: Option<Child>,
    socket: Socket,
    log: PathBuf,
}

impl PrivatePostgres {
    /// Makes the cluster in `data_dir/postgres` if there is none, ends an orphan that still runs on it, and starts it.
    /// Returns once it takes connections.
    pub async fn start(data_dir: &Path) -> Result<Self> {
        let data_dir = &fs::canonicalize(data_dir).map_err(file("open the data folder", data_dir))?;
        let programs = Programs::find()?;
        let place = Place::prepare(data_dir)?;
        if place.cluster.join("PG_VERSION").exists() {
            place.check_version(&programs)?;
            place.end_orphan().await?;
        } else {
            place.make_cluster(&programs).await?;
        }
        let child = place.spawn(&programs)?;
        let mut postgres = Self { child: Some(child), socket: place.socket.clone(), log: place.log.clone() };
        postgres.wait_until_ready().await?;
        Ok(postgres)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        let options = self.socket.options("postgres");
        loop {
            if let Ok(connection) = options.connect().await {
                drop(connection);
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() {
                return Err(PostgresError::Program { program: "postgres", output: tail(&read_lossy(&self.log)) });
            }
            if Instant::now() > deadline {
                return Err(self.timeout("start", START_SECONDS_MAX));
            }
            sleep(Duration::from_millis(POLL_MILLISECONDS)).await;
        }
    }

    fn timeout(&self, what: &'static str, seconds: u64) -> PostgresError {
        PostgresError::Timeout { what, seconds, log: self.log.clone() }
    }

    /// Ends it cleanly ("fast": open transactions are rolled back), and waits.
    pub async fn stop(mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        for signal in [Signal::INT, Signal::QUIT] {
            signal_child(&child, signal);
            let wait = Duration::from_secs(STOP_SECONDS_MAX);
            if tokio::time::timeout(wait, child.wait()).await.is_ok() {
                return Ok(());
            }
        }
        Err(self.timeout("stop", 2 * STOP_SECONDS_MAX))
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            signal_child(child, Signal::INT);
        }
    }
}

fn signal_child(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Where everything of the cluster lies.
struct Place {
    account: Option<Account>,
    cluster: PathBuf,
    log: PathBuf,
    socket: Socket,
}

impl Place {
    fn prepare(data_dir: &Path) -> Result<Self> {
        let account = Account::choose()?;
        let folder = data_dir.join("postgres");
        if let Some(account) = &account {
            // The database's account only passes through; secrets have folders of their own.
            let mode = fs::metadata(data_dir).map_err(file("look at", data_dir))?.mode() & 0o7777;
            fs::set_permissions(data_dir, fs::Permissions::from_mode(mode | 0o011))
                .map_err(file("set the mode of", data_dir))?;
            account.can_reach(&folder)?;
        }
        let socket_folder = socket_folder(data_dir, &folder);
        let place = Self {
            cluster: folder.join("cluster"),
            log: folder.join("postgres.log"),
            socket: Socket { folder: socket_folder.clone() },
            account,
        };
        place.own_folder(&folder)?;
        place.own_folder(&socket_folder)?;
        Ok(place)
    }

    /// A folder that only the database's account may enter.
    fn own_folder(&self, folder: &Path) -> Result<()> {
        match rustix::fs::mkdir(folder, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(file("make", folder)(error.into())),
        }
        let meta = fs::symlink_metadata(folder).map_err(file("look at", folder))?;
        let ours = rustix::process::geteuid().as_raw();
        let owner = self.account.as_ref().map_or(ours, |account| account.uid);
        if !meta.is_dir() || (meta.uid() != ours && meta.uid() != owner) {
            let error = io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to someone else");
            return Err(file("use", folder)(error));
        }
        if let Some(account) = &self.account {
            let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
            rustix::fs::chownat(CWD, folder, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| file("give away", folder)(error.into()))?;
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(file("set the mode of", folder))
    }

    fn check_version(&self, programs: &Programs) -> Result<()> {
        let path = self.cluster.join("PG_VERSION");
        let version = fs::read_to_string(&path).map_err(file("read", &path))?.trim().to_owned();
        if version == programs.major.to_string() {
            return Ok(());
        }
        Err(PostgresError::Version {
            folder: self.cluster.clone(),
            cluster: version,
            programs: programs.major.to_string(),
        })
    }

    /// A program under the database's account.
    fn command(&self, program: &Path) -> Command {
        let mut command = match &self.account {
            // Where /dev/null is not for everyone, initdb needs the groups we have; the standard library drops them.
            Some(account) if !null_is_for_everyone() => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid));
                command.arg("--keep-groups").arg(program);
                command
            }
            Some(account) => {
                let mut command = Command::new(program);
                command.uid(account.uid).gid(account.gid);
                command
            }
            None => Command::new(program),
        };
        command.env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin").current_dir("/").stdin(Stdio::null());
        // A Ctrl-C on the terminal is for the server, which then stops the database in order.
        command.process_group(0);
        command
    }

    /// Makes the cluster under another name first, so that a half-made one is never taken for whole.
    async fn make_cluster(&self, programs: &Programs) -> Result<()> {
        let fresh = self.cluster.with_extension("new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(file("remove", &fresh))?;
        }
        let output = self
            .command(&programs.folder.join("initdb"))
            .arg("--pgdata")
            .arg(&fresh)
            .args(["--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C.UTF-8"])
            .args(["--auth-local", "trust", "--auth-host", "reject", "--data-checksums", "--no-instructions"])
            .output()
            .await
            .map_err(file("start", &programs.folder.join("initdb")))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            return Err(PostgresError::Program { program: "initdb", output: tail(&String::from_utf8_lossy(&said)) });
        }
        fs::rename(&fresh, &self.cluster).map_err(file("name", &self.cluster))
    }

    fn spawn(&self, programs: &Programs) -> Result<Child> {
        if fs::metadata(&self.log).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
            let _ = fs::remove_file(&self.log);
        }
        let log =
            fs::OpenOptions::new().create(true).append(true).open(&self.log).map_err(file("open", &self.log))?;
        let log_again = log.try_clone().map_err(file("open", &self.log))?;
        let program = programs.folder.join("postgres");
        let mut command = self.command(&program);
        command.arg("-D").arg(&self.cluster).arg("-k").arg(&self.socket.folder).args(["-p", &PORT.to_string()]);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.stdout(log).stderr(log_again).spawn().map_err(file("start", &program))
    }

    /// Ends a Postgres that runs on this cluster although its server is gone (`kill -9`).
    async fn end_orphan(&self) -> Result<()> {
        let Some(pid) = self.orphan() else { return Ok(()) };
        tracing::warn!(pid = pid.as_raw_nonzero().get(), "taking over the database that a killed server left running");
        for signal in [Signal::INT, Signal::QUIT] {
            let _ = rustix::process::kill_process(pid, signal);
            let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
            while Instant::now() < deadline {
                if self.orphan().is_none() {
                    return Ok(());
                }
                sleep(Duration::from_millis(POLL_MILLISECONDS)).await;
            }
        }
        Err(PostgresError::Timeout { what: "stop", seconds: 2 * STOP_SECONDS_MAX, log: self.log.clone() })
    }

    /// The process that the cluster's lock file names, if it really works in this cluster.
    fn orphan(&self) -> Option<Pid> {
        let lock = fs::read_to_string(self.cluster.join("postmaster.pid")).ok()?;
        let pid: i32 = lock.lines().next()?.trim().parse().ok()?;
        // Postgres works in its cluster's folder; a foreign process that has the old number does not.
        let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        (works_in == self.cluster).then(|| Pid::from_raw(pid)).flatten()
    }
}

/// In the cluster's folder if the path fits into a socket address, else in the folder for temporary files.
fn socket_folder(data_dir: &Path, folder: &Path) -> PathBuf {
    let near = folder.join("socket");
    let longest = near.join(format!(".s.PGSQL.{PORT}"));
    if longest.as_os_str().len() < SOCKET_PATH_BYTES_MAX {
        return near;
    }
    let hash = hex::encode(&Sha256::digest(data_dir.as_os_str().as_encoded_bytes())[..8]);
    PathBuf::from("/tmp").join(format!("stillframe-{hash}"))
}

fn null_is_for_everyone() -> bool {
    fs::metadata("/dev/null").is_ok_and(|meta| meta.mode() & 0o006 == 0o006)
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The end of a text, for an error.
fn tail(text: &str) -> String {
    let text = text.trim();
    let skip = text.chars().count().saturating_sub(OUTPUT_CHARS_MAX);
    text.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(socket: &Socket) -> i32 {
        let mut connection = socket.options("postgres").connect().await.unwrap();
        sqlx::query_scalar("select 41 + 1").fetch_one(&mut connection).await.unwrap()
    }

    #[tokio::test]
    async fn it_starts_stops_and_starts_again_with_its_data() {
        let data = tempfile::tempdir().unwrap();
        let postgres = PrivatePostgres::start(data.path()).await.unwrap();
        assert_eq!(answer(postgres.socket()).await, 42);
        let mut connection = postgres.socket().options("postgres").connect().await.unwrap();
        sqlx::query("create table kept (x integer)").execute(&mut connection).await.unwrap();
        drop(connection);
        let socket = postgres.socket().clone();
        postgres.stop().await.unwrap();
        assert!(socket.options("postgres").connect().await.is_err());
        let postgres = PrivatePostgres::start(data.path()).await.unwrap();
        let mut connection = postgres.socket().options("postgres").connect().await.unwrap();
        sqlx::query("select x from kept").execute(&mut connection).await.unwrap();
        drop(connection);
        postgres.stop().await.unwrap();
    }

    #[tokio::test]
    async fn an_orphan_is_taken_over() {
        let data = tempfile::tempdir().unwrap();
        let mut first = PrivatePostgres::start(data.path()).await.unwrap();
        // Forget the child as a killed server does; keep it only to reap it.
        let mut child = first.child.take().unwrap();
        drop(first);
        let second = PrivatePostgres::start(data.path());
        let (second, ended) = tokio::join!(second, child.wait());
        assert!(ended.unwrap().success());
        let second = second.unwrap();
        assert_eq!(answer(second.socket()).await, 42);
        second.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_cluster_of_another_version_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let cluster = data.path().join("postgres/cluster");
        fs::create_dir_all(&cluster).unwrap();
        fs::write(cluster.join("PG_VERSION"), "9\n").unwrap();
        assert!(matches!(PrivatePostgres::start(data.path()).await, Err(PostgresError::Version { .. })));
    }

    #[test]
    fn a_long_path_gets_its_socket_elsewhere() {
        let long = PathBuf::from(format!("/{}", "x".repeat(120)));
        let folder = socket_folder(&long, &long.join("postgres"));
        assert!(folder.starts_with("/tmp"));
        assert!(socket_folder(Path::new("/var/lib/s"), Path::new("/var/lib/s/postgres")).ends_with("postgres/socket"));
    }
}
