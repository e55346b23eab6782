//! A Samba of a test's own: configuration, accounts and data in a temporary folder, a free port of the loopback
//! address, everything killed when the test ends or dies.

use repository::{SmbBackend, SmbOptions};
use rustix::process::Signal;
use secrecy::SecretString;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

use crate::daemon::{Daemon, free_port, run, wait_for};

pub const PASSWORD: &str = "pass:word with spaces";
const STARTS_MAX: usize = 5;

/// A server with the shares `plain`, `encrypted` and `readonly` on folders of the same names.
pub struct Samba {
    pub port: u16,
    daemon: Option<Daemon>,
    folder: TempDir,
    account: String,
}

impl Samba {
    /// A server; `global` is added to its configuration.
    pub fn start(global: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("stillframe-smb-").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let account = String::from_utf8(run("id", &["-un"], "").stdout).unwrap().trim().to_owned();
        for name in ["plain", "encrypted", "readonly", "state"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut samba = Self { port: 0, daemon: None, folder, account };
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
             interfaces = 127.0.0.1\nbind interfaces only = yes\ndisable netbios = yes\nserver min protocol = SMB2_10\n\
             map to guest = never\nload printers = no\ndisable spoolss = yes\nprintcap name = /dev/null\n\
             passdb backend = smbpasswd:{state}/smbpasswd\nlog file = {state}/log\nlogging = file\nlog level = 1\n",
            self.port
        );
        for key in
            ["private dir", "lock directory", "state directory", "cache directory", "pid directory", "ncalrpc dir"]
        {
            writeln!(text, "{key} = {state}").unwrap();
        }
        writeln!(text, "{global}").unwrap();
        let root = self.folder.path().display();
        for (name, more) in [("plain", ""), ("encrypted", "smb encrypt = required"), ("readonly", "read only = yes")] {
            writeln!(text, "[{name}]\npath = {root}/{name}\nread only = no\n{more}").unwrap();
        }
        std::fs::write(self.conf(), text).unwrap();
        let input = format!("{PASSWORD}\n{PASSWORD}\n");
        let added = run("smbpasswd", &["-c", &self.conf(), "-a", "-s", &self.account], &input);
        assert!(added.status.success(), "smbpasswd: {added:?}");
    }

    /// Starts the process; false when it ends at once.
    pub fn launch(&mut self) -> bool {
        let arguments = ["--foreground", "--no-process-group", "-s", &self.conf()];
        let mut daemon = Daemon::start("smbd", &arguments, &self.state().join("output"));
        let is_up = wait_for(&mut daemon, (Ipv4Addr::LOCALHOST, self.port).into());
        self.daemon = is_up.then_some(daemon);
        is_up
    }

    fn conf(&self) -> String {
        self.state().join("smb.conf").display().to_string()
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.state().join(name)).unwrap_or_default();
        format!("{}\n{}", read("output"), read("log"))
    }

    /// The folder behind a share.
    pub fn folder_of(&self, share: &str) -> PathBuf {
        self.folder.path().join(share)
    }

    pub fn options(&self, share: &str) -> SmbOptions {
        SmbOptions {
            port: self.port,
            folder: "vm/repository".to_owned(),
            ..SmbOptions::new("127.0.0.1", share, self.account.clone(), SecretString::from(PASSWORD))
        }
    }

    pub async fn create(&self, share: &str) -> SmbBackend {
        match SmbBackend::create(self.options(share)).await {
            Ok(backend) => backend,
            Err(error) => panic!("{error}: {:?}\n{}", error.source, self.log()),
        }
    }

    pub fn signal(&self, signal: Signal) {
        self.daemon.as_ref().unwrap().signal(signal);
    }

    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// What the server says of its sessions.
    pub fn status(&self) -> String {
        String::from_utf8(run("smbstatus", &["-s", &self.conf()], "").stdout).unwrap()
    }
}
