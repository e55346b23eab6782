//! A private Samba that serves the host's drive as `C$`: real SMB over the real VHDX files.
//!
//! Owns: its configuration, its one account and its process group, all in a folder of their own. Listens on loopback only. It
//! ends with its handle; when the simulator dies without a word, the pipe on its standard input closes and it ends as well.
//!
//! Must never: touch the system's Samba, or put the password on a command line.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use uuid::Uuid;

use crate::SimulatorError;

/// Longest wait for the server to answer.
const START_WAIT: Duration = Duration::from_secs(20);
/// Wait between two looks at it.
const START_POLL: Duration = Duration::from_millis(20);
/// Starts with another free port before giving up.
const STARTS_MAX: usize = 5;
/// Ports to choose from: below those that the system gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Folders where Debian keeps the programs, beside those of the search path.
const PROGRAM_FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/bin"];
/// The programs that are used.
const PROGRAMS: [&str; 2] = ["smbd", "pdbedit"];
/// End of the server's own words that an error repeats, in bytes.
const OUTPUT_BYTES_MAX: usize = 1000;

/// Whether there is a Samba to start.
pub fn is_installed() -> bool {
    PROGRAMS.into_iter().all(|program| run(program, &["--version"], "").is_ok())
}

/// Whether clients have to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// As they like; they always have to sign.
    Offered,
    /// A client that cannot is refused.
    Required,
}

/// What a server is made of.
#[derive(Clone)]
pub struct SambaOptions {
    /// Folder behind `C$`.
    pub drive_dir: PathBuf,
    /// Folder of everything the server keeps.
    pub state_dir: PathBuf,
    /// Port on loopback; unset takes a free one.
    pub port: Option<u16>,
    /// `NetBIOS` name of the host, which is also the domain of its account.
    pub host_name: String,
    /// The one account.
    pub account: String,
    /// Its password.
    pub password: String,
    /// Whether clients have to encrypt.
    pub encryption: Encryption,
}

impl std::fmt::Debug for SambaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SambaOptions")
            .field("drive_dir", &self.drive_dir)
            .field("state_dir", &self.state_dir)
            .field("port", &self.port)
            .field("account", &self.account)
            .field("encryption", &self.encryption)
            .finish_non_exhaustive()
    }
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Samba {
    port: u16,
    child: Child,
    /// Held open; its end is the server's.
    lifeline: Option<ChildStdin>,
}

impl Samba {
    /// Starts a server and waits until it answers: not for an executor's own threads.
    pub fn start(options: &SambaOptions) -> Result<Self, SimulatorError> {
        let state = &options.state_dir;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(state);
        made.map_err(SimulatorError::file("make", state))?;
        let user = user_name()?;
        for _ in 0..STARTS_MAX {
            let port = options.port.map_or_else(free_port, Ok)?;
            configure(options, &user, port)?;
            let mut samba = Self::launch(state, port)?;
            if samba.wait_until_up()? {
                return Ok(samba);
            }
        }
        let output = fs::read_to_string(state.join("output")).unwrap_or_default();
        let tail: String = output.chars().rev().take(OUTPUT_BYTES_MAX).collect();
        let reason = format!("it does not start: {}", tail.chars().rev().collect::<String>().trim());
        Err(SimulatorError::Program { program: "smbd", reason })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Cuts every session there is, as a host's restart does: all processes end. [`Samba::start`] makes a new one.
    pub fn kill(&mut self) {
        self.lifeline.take();
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }

    /// Its processes stop where they are, as on a host that hangs, or go on.
    pub fn pause(&self, paused: bool) {
        let _ = kill_process_group(Pid::from_child(&self.child), if paused { Signal::STOP } else { Signal::CONT });
    }

    fn launch(state: &Path, port: u16) -> Result<Self, SimulatorError> {
        let path = state.join("output");
        let output = OpenOptions::new().append(true).create(true).open(&path);
        let output = output.map_err(SimulatorError::file("open", &path))?;
        let errors = output.try_clone().map_err(SimulatorError::file("open", &path))?;
        let mut child = spawn("smbd", |command| {
            command.args(["--foreground", "--no-process-group", "-s"]).arg(state.join("smb.conf"));
            command.stdin(Stdio::piped()).process_group(0);
            let streams = (output.try_clone()?, errors.try_clone()?);
            command.stdout(streams.0).stderr(streams.1);
            Ok(())
        })?;
        let lifeline = child.stdin.take();
        Ok(Self { port, child, lifeline })
    }

    /// False when it ended instead.
    fn wait_until_up(&mut self) -> Result<bool, SimulatorError> {
        let start = Instant::now();
        while start.elapsed() < START_WAIT {
            if self.child.try_wait().map_err(SimulatorError::file("wait for", "smbd"))?.is_some() {
                return Ok(false);
            }
            if TcpStream::connect_timeout(&self.address(), START_POLL).is_ok() {
                return Ok(true);
            }
            std::thread::sleep(START_POLL);
        }
        Ok(false)
    }
}

impl Drop for Samba {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a program from the search path, or from where Debian keeps it.
/// Where a program may be, in the order of trying.
fn places(program: &'static str) -> impl Iterator<Item = PathBuf> {
    let own = PROGRAM_FOLDERS.iter().map(move |folder| Path::new(folder).join(program));
    std::iter::once(PathBuf::from(program)).chain(own)
}

fn spawn(program: &'static str, prepare: impl Fn(&mut Command) -> io::Result<()>) -> Result<Child, SimulatorError> {
    for place in places(program) {
        let mut command = Command::new(place);
        prepare(&mut command).map_err(SimulatorError::file("prepare", program))?;
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            spawned => return spawned.map_err(SimulatorError::file("start", program)),
        }
    }
    Err(SimulatorError::Program { program, reason: "it is not installed (Debian: package samba)".to_owned() })
}

/// Runs a program to its end; answers what it says.
fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, SimulatorError> {
    let mut child = spawn(program, |command| {
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(())
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(SimulatorError::file("run", program))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().chars().take(OUTPUT_BYTES_MAX).collect();
        return Err(SimulatorError::Program { program, reason });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The account of this process: the one that the files belong to.
fn user_name() -> Result<String, SimulatorError> {
    Ok(run("id", &["-un"], "")?.trim().to_owned())
}

fn free_port() -> Result<u16, SimulatorError> {
    let seed = Uuid::new_v4().as_u128();
    let count = u128::from(PORTS.end - PORTS.start);
    let mut candidates = (0..count).map(|step| PORTS.start + ((seed + step) % count) as u16);
    let free = candidates.find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
    free.ok_or_else(|| SimulatorError::Config { reason: "no free port for its Samba".to_owned() })
}

/// Writes the configuration and makes the account.
fn configure(options: &SambaOptions, user: &str, port: u16) -> Result<(), SimulatorError> {
    let state = path_text(&options.state_dir)?;
    let drive = path_text(&options.drive_dir)?;
    for text in [&options.account, &options.host_name] {
        if text.is_empty() || text.contains(|c: char| c.is_control() || "\"%\\;=".contains(c)) {
            let reason = "account or host name has characters that its Samba does not take".to_owned();
            return Err(SimulatorError::Config { reason });
        }
    }
    let host = &options.host_name;
    let encryption = match options.encryption {
        Encryption::Offered => "default",
        Encryption::Required => "required",
    };
    let mut text = format!(
        "[global]\nserver role = standalone\nworkgroup = WORKGROUP\nnetbios name = {host}\nserver string = simulated\n\
         smb ports = {port}\ninterfaces = 127.0.0.1\nbind interfaces only = yes\ndisable netbios = yes\n\
         server min protocol = SMB2_10\nserver signing = mandatory\nserver smb encrypt = {encryption}\n\
         server multi channel support = no\nmap to guest = never\nload printers = no\ndisable spoolss = yes\n\
         printcap name = /dev/null\nusershare max shares = 0\npassdb backend = smbpasswd:{state}/accounts\n\
         username map = {state}/users\nlog file = {state}/log\nlogging = file\nlog level = 0\nmax log size = 1000\n"
    );
    for key in ["private dir", "lock directory", "state directory", "cache directory", "pid directory", "ncalrpc dir"] {
        let _ = writeln!(text, "{key} = {state}");
    }
    // Nothing is cached by clients: files of running machines change under them.
    let _ = write!(
        text,
        "[C$]\npath = {drive}\nread only = no\nbrowseable = no\nforce user = {user}\ncase sensitive = no\n\
         preserve case = yes\noplocks = no\nlevel2 oplocks = no\nsmb2 leases = no\nkernel oplocks = no\n\
         durable handles = no\nposix locking = no\nkernel share modes = no\nwide links = no\n\
         store dos attributes = no\nmap archive = no\nmap hidden = no\nmap system = no\nmap readonly = no\n"
    );
    let files = [("smb.conf", text), ("users", format!("{user} = \"{}\"\n", options.account))];
    for (name, text) in files {
        let path = options.state_dir.join(name);
        fs::write(&path, text).map_err(SimulatorError::file("write", &path))?;
    }
    let accounts = options.state_dir.join("accounts");
    match fs::remove_file(&accounts) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(SimulatorError::file("remove", &accounts)(error));
        }
        _ => {}
    }
    if options.password.is_empty() || options.password.contains(char::is_control) {
        return Err(SimulatorError::Config { reason: "its Samba does not take the password".to_owned() });
    }
    let configuration = format!("{state}/smb.conf");
    let twice = format!("{0}\n{0}\n", options.password);
    run("pdbedit", &["-s", &configuration, "-a", "-t", "-u", user], &twice).map(drop)
}

/// A path that a configuration file can say.
fn path_text(path: &Path) -> Result<&str, SimulatorError> {
    let text = path.to_str().filter(|text| !text.contains(|c: char| c.is_control() || c == '%'));
    text.filter(|text| text.starts_with('/')).ok_or_else(|| SimulatorError::Config {
        reason: format!("its Samba does not take the folder {}", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use rustix::process::test_kill_process_group;

    use super::*;

    fn options(folder: &Path) -> SambaOptions {
        let drive_dir = folder.join("drive_c");
        fs::create_dir_all(&drive_dir).unwrap();
        SambaOptions {
            drive_dir,
            state_dir: folder.join("samba"),
            port: None,
            host_name: "HYPERV01".to_owned(),
            account: "Administrator".to_owned(),
            password: "pass word: 1".to_owned(),
            encryption: Encryption::Offered,
        }
    }

    fn is_up(address: SocketAddr) -> bool {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    }

    #[test]
    fn it_ends_when_the_simulator_dies_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let mut samba = Samba::start(&options(folder.path())).unwrap();
        assert!(is_up(samba.address()));
        samba.lifeline.take();
        let start = Instant::now();
        samba.child.wait().unwrap();
        while is_up(samba.address()) || test_kill_process_group(Pid::from_child(&samba.child)).is_ok() {
            assert!(start.elapsed() < START_WAIT, "a process goes on without its simulator");
            std::thread::sleep(START_POLL);
        }
    }

    #[test]
    fn it_starts_again_on_the_same_folder_and_ends_with_its_handle() {
        let folder = tempfile::tempdir().unwrap();
        let samba = Samba::start(&options(folder.path())).unwrap();
        let first = samba.address();
        drop(samba);
        assert!(!is_up(first));
        let samba = Samba::start(&options(folder.path())).unwrap();
        assert!(is_up(samba.address()));
    }

    #[test]
    fn what_a_configuration_cannot_say_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut bad = options(folder.path());
        bad.account = "a\nguest ok = yes".to_owned();
        assert!(matches!(Samba::start(&bad), Err(SimulatorError::Config { .. })));
        let mut bad = options(folder.path());
        bad.password = String::new();
        assert!(matches!(Samba::start(&bad), Err(SimulatorError::Config { .. })));
        assert!(!format!("{bad:?}{:?}", options(folder.path())).contains("pass word"));
    }
}
