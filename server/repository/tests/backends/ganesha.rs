//! An nfs-ganesha of a test's own: export and state in a temporary folder, on a loopback address of its own, so that it
//! listens where NFS servers do. It wants a port mapper at start: it gets one of its own, whose socket is in a `/run`
//! that only the two of them see. Needs root.

use repository::{NfsBackend, NfsOptions};
use rustix::process::Signal;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use crate::daemon::{Daemon, SmallDisk, wait_for};

pub const NFS_PORT: u16 = 2049;
pub const MOUNT_PORT: u16 = 20048;
const STARTS_MAX: usize = 3;
/// Runs in a mount namespace of its own; `$1` is the folder, `$2` the address.
const START: &str = "mount -t tmpfs none /run && { rpcbind -f -h \"$2\" & } && \
    for try in $(seq 200); do test -S /run/rpcbind.sock && break; sleep 0.05; done && \
    exec ganesha.nfsd -F -f \"$1/ganesha.conf\" -L \"$1/log\" -p \"$1/pid\"";

/// A server with the exports `<folder>/export` (anyone), `<folder>/secure` (privileged ports only) and
/// `<folder>/readonly`.
pub struct Ganesha {
    pub address: Ipv4Addr,
    daemon: Option<Daemon>,
    _disk: Option<SmallDisk>,
    folder: TempDir,
}

impl Ganesha {
    pub fn start() -> Self {
        Self::start_with(|_| None)
    }

    /// The same after the folder was prepared, with a disk that is gone with the server.
    pub fn start_with(prepare: impl FnOnce(&Path) -> Option<SmallDisk>) -> Self {
        assert!(rustix::process::geteuid().is_root(), "the tests of NFS need root, for nfs-ganesha and its namespace");
        let folder = tempfile::Builder::new().prefix("stillframe-nfs-").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["export", "secure", "readonly", "recovery"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let disk = prepare(folder.path());
        let mut ganesha = Self { address: Ipv4Addr::LOCALHOST, daemon: None, _disk: disk, folder };
        for _ in 0..STARTS_MAX {
            let [a, b, c, ..] = *uuid::Uuid::new_v4().as_bytes();
            ganesha.address = Ipv4Addr::new(127, a, b, c.clamp(2, 250));
            ganesha.configure();
            if ganesha.launch() {
                return ganesha;
            }
        }
        panic!("nfs-ganesha does not start (scripts/install.sh test): {}", ganesha.log());
    }

    fn configure(&self) {
        let (root, address) = (self.folder.path().display(), self.address);
        let mut text = format!(
            "NFS_CORE_PARAM {{ NFS_Port = {NFS_PORT}; MNT_Port = {MOUNT_PORT}; Bind_addr = {address}; Protocols = 3; \
             Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; mount_path_pseudo = false; }}\n\
             MDCACHE {{ Dir_Chunk = 0; }}\n\
             NFSV4 {{ Graceless = true; RecoveryRoot = {root}/recovery; }}\n"
        );
        let exports =
            [("export", "RW", "false"), ("secure", "RW", "true"), ("readonly", "RO", "false")].into_iter().enumerate();
        for (number, (name, access, privileged)) in exports {
            let id = number + 1;
            writeln!(
                text,
                "EXPORT {{ Export_Id = {id}; Path = {root}/{name}; Pseudo = /{name}; Access_Type = {access}; \
                 Squash = No_Root_Squash; Attr_Expiration_Time = 0; SecType = sys; Protocols = 3; Transports = TCP; \
                 PrivilegedPort = {privileged}; FSAL {{ Name = VFS; }} }}"
            )
            .unwrap();
        }
        std::fs::write(self.folder.path().join("ganesha.conf"), text).unwrap();
    }

    /// Starts the processes; false when they end at once.
    pub fn launch(&mut self) -> bool {
        let root = self.folder.path().display().to_string();
        let arguments = ["--mount", "sh", "-c", START, "sh", &root, &self.address.to_string()];
        let mut daemon = Daemon::start("unshare", &arguments, &self.folder.path().join("output"));
        let is_up = wait_for(&mut daemon, (self.address, NFS_PORT).into())
            && wait_for(&mut daemon, (self.address, MOUNT_PORT).into());
        self.daemon = is_up.then_some(daemon);
        is_up
    }

    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        format!("{}\n{}", read("output"), read("log"))
    }

    /// The folder behind an export.
    pub fn folder_of(&self, export: &str) -> PathBuf {
        self.folder.path().join(export)
    }

    pub fn options(&self, export: &str) -> NfsOptions {
        NfsOptions {
            folder: "vm/repository".to_owned(),
            port: Some(NFS_PORT),
            mount_port: Some(MOUNT_PORT),
            ..NfsOptions::new(self.address.to_string(), self.folder_of(export).display().to_string())
        }
    }

    pub async fn create(&self, export: &str) -> NfsBackend {
        match NfsBackend::create(self.options(export)).await {
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
}
