//! A Samba of a test's own that shares a folder as `C$`: configuration, account and data in a temporary folder, a free port
//! of the loopback address, everything killed when the test ends or dies.

use hypervisor::hyperv::files::ShareOptions;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use secrecy::SecretString;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const PASSWORD: &str = "pass:word with spaces";
/// Longest wait for a server to answer.
const START_WAIT: Duration = Duration::from_secs(20);
const STARTS_MAX: usize = 5;
/// Below the ports that the system gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

pub struct Samba {
    pub port: u16,
    pub account: String,
    daemon: Option<Child>,
    folder: TempDir,
}

impl Samba {
    /// A server with the shares `C$`, `sealed$` (encrypted) and `private$` (of somebody else); `global` is added to its
    /// configuration.
    pub fn start(global: &str) -> Self {
        Self::start_in(&std::env::temp_dir(), global)
    }

    /// The same, with its data below `parent`.
    pub fn start_in(parent: &Path, global: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("stillframe-smb-").tempdir_in(parent).expect("a temporary folder");
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("its permissions");
        let account = String::from_utf8(run("id", &["-un"], "").stdout).expect("a name").trim().to_owned();
        for name in ["c", "sealed", "state"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let mut samba = Self { port: 0, account, daemon: None, folder };
        for _ in 0..STARTS_MAX {
            samba.port = free_port();
            samba.configure(global);
            if samba.launch() {
                return samba;
            }
        }
        panic!("smbd does not start: {}", samba.log());
    }

    fn configure(&self, global: &str) {
        let state = self.state();
        let state = state.display();
        let mut text = format!(
            "[global]\nserver role = standalone\nworkgroup = TEST\nnetbios name = TEST\nsmb ports = {}\n\
             interfaces = 127.0.0.1\nbind interfaces only = yes\ndisable netbios = yes\nmap to guest = never\n\
             load printers = no\ndisable spoolss = yes\nprintcap name = /dev/null\nserver signing = mandatory\n\
             passdb backend = smbpasswd:{state}/smbpasswd\nlog file = {state}/log\nlogging = file\nlog level = 1\n",
            self.port
        );
        for key in
            ["private dir", "lock directory", "state directory", "cache directory", "pid directory", "ncalrpc dir"]
        {
            writeln!(text, "{key} = {state}").expect("text");
        }
        let root = self.folder.path().display();
        writeln!(text, "{global}").expect("text");
        for (name, folder, more) in [
            ("C$", "c", ""),
            ("sealed$", "sealed", "smb encrypt = required"),
            ("private$", "sealed", "valid users = somebody-else"),
        ] {
            writeln!(text, "[{name}]\npath = {root}/{folder}\nread only = no\n{more}").expect("text");
        }
        fs::write(self.conf(), text).expect("smb.conf");
        let input = format!("{PASSWORD}\n{PASSWORD}\n");
        let added = run("smbpasswd", &["-c", &self.conf(), "-a", "-s", &self.account], &input);
        assert!(added.status.success(), "smbpasswd: {added:?}");
    }

    /// Starts the process, in a group of its own that the kernel ends should this thread die first; false when it ends at
    /// once.
    pub fn launch(&mut self) -> bool {
        let log = fs::File::options().append(true).create(true).open(self.state().join("output")).expect("a log");
        let mut daemon = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "smbd", "--foreground", "--no-process-group", "-s", &self.conf()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("setpriv (util-linux) has to be installed");
        let start = Instant::now();
        while start.elapsed() < START_WAIT && daemon.try_wait().expect("its state").is_none() {
            let address = (Ipv4Addr::LOCALHOST, self.port).into();
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                self.daemon = Some(daemon);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.daemon = Some(daemon);
        self.kill();
        false
    }

    /// Ends all its processes.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill_process_group(Pid::from_child(&daemon), Signal::KILL);
            let _ = daemon.wait();
        }
    }

    /// Kills the processes that serve sessions, as a crash would; new ones come with new sessions. How many there were.
    #[allow(dead_code)] // not by the example
    pub fn kill_sessions(&self) -> usize {
        let said = run("smbstatus", &["-s", &self.conf(), "-p"], "");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let pids: Vec<i32> = said
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter_map(|word| word.parse().ok())
            .collect();
        pids.iter().filter_map(|&pid| Pid::from_raw(pid)).for_each(|pid| {
            let _ = kill_process(pid, Signal::KILL);
        });
        pids.len()
    }

    /// Takes the share away from all who have joined it; they may join it again.
    #[allow(dead_code)] // not by the example
    pub fn close_share(&self) {
        let said = run("smbcontrol", &["-s", &self.conf(), "smbd", "close-share", "C$"], "");
        assert!(said.status.success(), "{said:?}");
    }

    fn conf(&self) -> String {
        self.state().join("smb.conf").display().to_string()
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.state().join(name)).unwrap_or_default();
        format!("{}\n{}", read("output"), read("log"))
    }

    /// The folder behind `C$`.
    #[allow(dead_code)] // not by the example
    pub fn drive(&self) -> PathBuf {
        self.folder.path().join("c")
    }

    /// The folder behind `sealed$`.
    #[allow(dead_code)] // not by the example
    pub fn sealed(&self) -> PathBuf {
        self.folder.path().join("sealed")
    }

    pub fn options(&self) -> ShareOptions {
        let password = SecretString::from(PASSWORD);
        ShareOptions { port: self.port, ..ShareOptions::new("127.0.0.1", self.account.clone(), password) }
    }
}

impl Drop for Samba {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port of the loopback address that nobody listens on now; differs between tests that run at the same time.
fn free_port() -> u16 {
    let seed = uuid::Uuid::new_v4().as_u128();
    let count = u128::from(PORTS.end - PORTS.start);
    let mut candidates = (0..count).map(|step| PORTS.start + ((seed + step) % count) as u16);
    candidates.find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()).expect("a free port")
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} has to be installed (scripts/install.sh test): {error}"));
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("input");
    child.wait_with_output().expect("its output")
}
