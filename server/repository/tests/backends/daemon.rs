//! Servers that tests start: each a process group that dies with the test.

use rustix::process::{Pid, Signal, kill_process_group};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a server to answer.
const START_WAIT: Duration = Duration::from_secs(20);
/// Below the ports that the system gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A process and its children, killed when this goes.
pub struct Daemon {
    child: Child,
    group: Pid,
}

impl Daemon {
    /// Starts a program in a process group of its own, which the kernel kills should this thread die first.
    pub fn start(program: &str, arguments: &[&str], log: &Path) -> Self {
        let output = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .expect("setpriv (util-linux) has to be installed");
        let group = Pid::from_child(&child);
        Self { child, group }
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port of the loopback address that nobody listens on now; differs between tests that run at the same time.
pub fn free_port() -> u16 {
    let seed = uuid::Uuid::new_v4().as_u128();
    let count = u128::from(PORTS.end - PORTS.start);
    let candidates = (0..count).map(|step| PORTS.start + ((seed + step) % count) as u16);
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    candidates.into_iter().find(is_free).expect("a free port")
}

/// Waits until someone accepts connections there; false when the process ends before that.
pub fn wait_for(daemon: &mut Daemon, address: SocketAddr) -> bool {
    let start = Instant::now();
    while start.elapsed() < START_WAIT {
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
            return true;
        }
        if daemon.has_ended() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
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
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A file system of 16 MiB on a folder; needs the right to mount.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn tmpfs(folder: &Path) -> Self {
        Self::mount(folder, &["-t", "tmpfs", "-o", "size=16m", "none"])
    }

    /// For servers that need file handles.
    pub fn ext4(folder: &Path) -> Self {
        let image = folder.with_extension("image");
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let image = image.to_str().unwrap();
        let made = run("mkfs.ext4", &["-q", "-m", "0", image], "");
        assert!(made.status.success(), "{made:?}");
        Self::mount(folder, &["-o", "loop", image])
    }

    /// From now on nothing can be changed on it.
    pub fn make_read_only(&self) {
        let made = run("mount", &["-o", "remount,ro", self.0.to_str().unwrap()], "");
        assert!(made.status.success(), "{made:?}");
    }

    fn mount(folder: &Path, arguments: &[&str]) -> Self {
        let path = folder.to_str().unwrap();
        let mounted = run("mount", &[arguments, &[path]].concat(), "");
        assert!(mounted.status.success(), "this test needs the right to mount: {mounted:?}");
        Self(folder.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
