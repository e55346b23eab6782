//! `stillframe serve` as a process.

use crate::programs::stillframe;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

const START_SECONDS_MAX: u64 = 120;
const STOP_SECONDS_MAX: u64 = 60;

/// How to start it.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Data folder.
    pub data_dir: PathBuf,
    /// Another database than a private one.
    pub database_url: Option<String>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

/// `stillframe worker` as a process. Killed when dropped.
pub struct Worker(Child);

impl Worker {
    /// Starts it and waits until it is ready.
    pub fn start(data_dir: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(stillframe())
            .args(["worker", "--data-dir"])
            .arg(data_dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the worker starts");
        let (sender, lines) = mpsc::channel();
        forward(child.stdout.take().expect("piped"), sender.clone());
        forward(child.stderr.take().expect("piped"), sender);
        let worker = Self(child);
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        let mut said = Vec::new();
        loop {
            let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("the worker did not get ready; it said:\n{}", said.join("\n")));
            if line.starts_with("Ready.") {
                // What it says from now on is of no interest, but it must be able to say it.
                std::thread::spawn(move || lines.iter().for_each(drop));
                return worker;
            }
            said.push(line);
        }
    }

    /// Runs it where it is expected to end by itself: exit status and everything it said.
    pub fn refused(data_dir: &Path, arguments: &[&str]) -> (ExitStatus, String) {
        let mut command = Command::new(stillframe());
        command.args(["worker", "--data-dir"]).arg(data_dir).args(arguments).stdin(Stdio::null());
        let output = command.output().expect("the worker starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8_lossy(&said).into_owned())
    }

    /// Waits for its end.
    pub fn ended(mut self) -> ExitStatus {
        self.0.wait().expect("it ends")
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running server on a free port of the loopback interface, over plain HTTP. Killed when dropped.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    /// `http://127.0.0.1:PORT`.
    pub address: String,
    /// Printed while no administrator exists.
    pub setup_token: Option<String>,
}

fn command(options: &Options) -> Command {
    let mut command = Command::new(stillframe());
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--plain-http", "--data-dir"])
        .arg(&options.data_dir)
        .args(&options.arguments)
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(url) = &options.database_url {
        command.env("DATABASE_URL", url);
    }
    command
}

impl Server {
    /// Starts it and waits until it is ready.
    pub fn start(options: &Options) -> Self {
        let mut child = command(options).spawn().expect("the server starts");
        let (sender, lines) = mpsc::channel();
        forward(child.stdout.take().expect("piped"), sender.clone());
        forward(child.stderr.take().expect("piped"), sender);
        let mut server = Self { child, lines, address: String::new(), setup_token: None };
        server.read_announcement();
        server
    }

    /// On a fresh data folder in `folder`, with the mode the private database needs.
    pub fn fresh(folder: &Path) -> (Self, Options) {
        let options = Options { data_dir: data_dir(folder), ..Options::default() };
        (Self::start(&options), options)
    }

    /// Runs it where it is expected to refuse: exit status and everything it said.
    pub fn refused(options: &Options, plain: bool) -> (ExitStatus, String) {
        let mut command = Command::new(stillframe());
        command.arg("serve").arg("--data-dir").arg(&options.data_dir).args(&options.arguments);
        if plain {
            command.args(["--plain-http", "--listen", "127.0.0.1:0"]);
        }
        if let Some(url) = &options.database_url {
            command.env("DATABASE_URL", url);
        }
        let output = command.stdin(Stdio::null()).output().expect("the server starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8_lossy(&said).into_owned())
    }

    fn read_announcement(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the server did not get ready; it said:\n{}", said.join("\n"));
            };
            if let Some(address) = line.trim().strip_prefix("Address:") {
                address.trim().trim_end_matches('/').clone_into(&mut self.address);
            }
            if let Some(token) = line.trim().strip_prefix("Setup token:") {
                self.setup_token = Some(token.trim().to_owned());
            }
            let ready = line.starts_with("Ready.");
            said.push(line);
            if ready {
                return;
            }
        }
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(mut self) -> ExitStatus {
        Command::new("kill").args(["-TERM", &self.id().to_string()]).status().expect("kill works");
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server did not stop on SIGTERM");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything it has said since the announcement.
    pub fn said(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, so that its database ends too; the test does not wait for that.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
            let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
            while self.child.try_wait().is_ok_and(|status| status.is_none()) {
                if Instant::now() > deadline {
                    let _ = self.child.kill();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn forward(stream: impl std::io::Read + Send + 'static, sender: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}

/// A data folder that the private database's own account can reach.
fn data_dir(folder: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).expect("the folder is ours");
    folder.join("data")
}
