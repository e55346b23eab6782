//! Simulated hosts inside the server, for a first try. What they hold lies in `simulated/N` of the data folder, and
//! they come back on the same port at the next start.

use crate::failure::chain;
use async_trait::async_trait;
use db::{HyperVAccess, Platform};
use domain::job::JobError;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use simulators::hyperv::samba::Encryption;
use simulators::hyperv::{self, Files};
use simulators::{SimulatorError, esxi};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;
use web::{DemoHost, DemoHosts};

const HOSTS_MAX: usize = 8;
/// Folders of hosts that were started at some time.
const FOLDERS_MAX: u32 = 1000;
const PASSWORD_BYTES: usize = 12;

/// The hosts that run.
pub struct SimulatedHosts {
    folder: PathBuf,
    running: Mutex<Vec<Running>>,
}

struct Running {
    folder: PathBuf,
    host: Host,
}

enum Host {
    Esxi(esxi::SimulatedHost),
    HyperV(hyperv::SimulatedHost),
}

impl Host {
    /// Of its API.
    fn address(&self) -> SocketAddr {
        match self {
            Self::Esxi(host) => host.address(),
            Self::HyperV(host) => host.tls_address(),
        }
    }

    fn certificate_sha256(&self) -> [u8; 32] {
        match self {
            Self::Esxi(host) => host.certificate_sha256(),
            Self::HyperV(host) => host.certificate_sha256(),
        }
    }

    fn share_port(&self) -> u16 {
        match self {
            Self::HyperV(host) => host.smb_address().map_or(0, |address| address.port()),
            Self::Esxi(_) => 0,
        }
    }

    async fn stop(self) {
        match self {
            Self::Esxi(host) => host.stop().await,
            Self::HyperV(host) => host.stop().await,
        }
    }
}

/// What a host needs to come back as it was.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(default)]
    platform: Platform,
    name: String,
    port: u16,
    /// Of the files of a Hyper-V host.
    #[serde(default)]
    share_port: u16,
    account: String,
    password: String,
}

impl Saved {
    /// A host that was never started: its ports are chosen at the start.
    fn new(platform: Platform, number: u32) -> Result<Self, String> {
        let (name, account) = match platform {
            Platform::Esxi => (format!("simulated-esxi-{number}"), "root"),
            // A computer name has 15 letters at most.
            Platform::HyperV => (format!("SIM-HYPERV-{number}"), "Administrator"),
        };
        Ok(Self { platform, name, port: 0, share_port: 0, account: account.to_owned(), password: new_password()? })
    }
}

impl SimulatedHosts {
    /// Starts those of earlier runs. One that cannot start is reported, not fatal: its device page says it is unreachable.
    pub async fn restart(folder: PathBuf) -> Self {
        let mut running = Vec::new();
        let mut entries: Vec<PathBuf> =
            fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries {
            match start_saved(&entry).await {
                Ok(Some(host)) => running.push(Running { folder: entry, host }),
                Ok(None) => {}
                Err(reason) => tracing::warn!(folder = %entry.display(), reason, "a simulated host did not start"),
            }
        }
        Self { folder, running: Mutex::new(running) }
    }

    /// Ends them all.
    pub async fn stop(&self) {
        for running in self.running.lock().await.drain(..) {
            running.host.stop().await;
        }
    }
}

#[async_trait]
impl DemoHosts for SimulatedHosts {
    async fn add(&self, platform: Platform) -> Result<DemoHost, JobError> {
        let mut running = self.running.lock().await;
        if running.len() >= HOSTS_MAX {
            return Err(JobError::fail(
                "demo.limit",
                "No further simulated host was started.",
                format!("{HOSTS_MAX} run already, which is the limit."),
                "Remove a simulated device first.",
            ));
        }
        let number = (1..=FOLDERS_MAX).find(|number| !self.folder.join(number.to_string()).exists());
        let number = number.ok_or_else(|| failed(format!("{} is full.", self.folder.display())))?;
        let folder = self.folder.join(number.to_string());
        let mut saved = Saved::new(platform, number).map_err(failed)?;
        let host = match start(&folder, &saved).await {
            Ok(host) => host,
            Err(error) => {
                // Or the next attempt would count it as a host.
                let _ = fs::remove_dir_all(&folder);
                return Err(not_started(&error));
            }
        };
        (saved.port, saved.share_port) = (host.address().port(), host.share_port());
        save(&folder, &saved).map_err(|error| failed(error.to_string()))?;
        let demo = DemoHost {
            name: saved.name,
            host: host.address().ip().to_string(),
            port: saved.port,
            account: saved.account,
            password: SecretString::from(saved.password),
            certificate_sha256: host.certificate_sha256(),
            hyperv: match platform {
                Platform::Esxi => HyperVAccess::default(),
                Platform::HyperV => HyperVAccess { share_port: saved.share_port, ..HyperVAccess::default() },
            },
        };
        running.push(Running { folder, host });
        Ok(demo)
    }

    async fn remove(&self, port: u16) -> Result<(), JobError> {
        let mut running = self.running.lock().await;
        let Some(place) = running.iter().position(|running| running.host.address().port() == port) else {
            return Ok(());
        };
        let Running { folder, host } = running.swap_remove(place);
        host.stop().await;
        fs::remove_dir_all(&folder).map_err(|error| {
            let path = folder.display();
            let why = format!("The folder {path} could not be deleted: {error}.");
            JobError::fail(
                "demo.remove",
                "The simulated host's disks are still there.",
                why,
                "Delete the folder yourself.",
            )
        })
    }
}

fn failed(why: String) -> JobError {
    JobError::fail("demo.start", "A simulated host could not be started.", why, "Look at the server's log.")
}

fn not_started(error: &SimulatorError) -> JobError {
    match error {
        SimulatorError::Program { program, reason } => JobError::fail(
            "demo.no_samba",
            "A simulated Hyper-V host could not be started.",
            format!("Samba serves its disks, and its program {program} could not be used: {reason}."),
            "Install Samba on this server (Debian and Ubuntu: apt install samba). Only simulated hosts need it.",
        ),
        _ => failed(chain(error)),
    }
}

async fn start_saved(folder: &Path) -> Result<Option<Host>, String> {
    // A host whose start was never finished belongs to no device.
    let Ok(bytes) = fs::read(folder.join("saved.json")) else { return Ok(None) };
    let saved: Saved = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    start(folder, &saved).await.map(Some).map_err(|error| chain(&error))
}

async fn start(folder: &Path, saved: &Saved) -> Result<Host, SimulatorError> {
    let (folder, listen) = (folder.join("host"), SocketAddr::from((Ipv4Addr::LOCALHOST, saved.port)));
    match saved.platform {
        Platform::Esxi => {
            let mut config = esxi::demo_config(folder, &saved.name);
            config.listen = listen;
            config.account.clone_from(&saved.account);
            config.password.clone_from(&saved.password);
            esxi::SimulatedHost::start(config).await.map(Host::Esxi)
        }
        Platform::HyperV => {
            let mut config = hyperv::demo_config(folder, &saved.name);
            config.listen_tls = listen;
            let port = Some(saved.share_port).filter(|port| *port > 0);
            config.files = Files::Served { port, encryption: Encryption::Offered };
            config.account.clone_from(&saved.account);
            config.password.clone_from(&saved.password);
            hyperv::SimulatedHost::start(config).await.map(Host::HyperV)
        }
    }
}

fn save(folder: &Path, saved: &Saved) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(folder.join("saved.json"))?;
    file.write_all(&serde_json::to_vec_pretty(saved)?)?;
    file.sync_all()
}

fn new_password() -> Result<String, String> {
    let mut bytes = [0; PASSWORD_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_comes_back_on_its_ports_and_goes_with_its_device() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("simulated");
        let hosts = SimulatedHosts::restart(folder.clone()).await;
        let (esxi, hyperv) = (hosts.add(Platform::Esxi).await.unwrap(), hosts.add(Platform::HyperV).await.unwrap());
        assert_ne!((esxi.port, &esxi.name), (hyperv.port, &hyperv.name));
        assert!(esxi.hyperv == HyperVAccess::default() && hyperv.hyperv.share_port > 0);
        hosts.stop().await;

        let hosts = SimulatedHosts::restart(folder.clone()).await;
        let ports = |running: &Running| (running.host.address().port(), running.host.share_port());
        let back: Vec<_> = hosts.running.lock().await.iter().map(ports).collect();
        assert_eq!(back, [(esxi.port, 0), (hyperv.port, hyperv.hyperv.share_port)]);
        hosts.remove(hyperv.port).await.unwrap();
        assert!(folder.join("1").exists() && !folder.join("2").exists(), "its disks are gone");
        hosts.stop().await;
    }

    #[test]
    fn a_missing_samba_is_said_in_words() {
        let error = not_started(&SimulatorError::Program { program: "smbd", reason: "it is not installed".to_owned() });
        assert_eq!(error.code, "demo.no_samba");
        assert!(error.why.contains("smbd") && error.why.contains("not installed"), "{error}");
        assert!(error.hint.contains("apt install samba"), "{error}");
        assert_eq!(not_started(&SimulatorError::Config { reason: "no".to_owned() }).code, "demo.start");
    }

    #[test]
    fn hosts_of_earlier_versions_are_esxi() {
        let saved = r#"{"name":"simulated-esxi-1","port":9443,"account":"root","password":"x"}"#;
        let saved: Saved = serde_json::from_str(saved).unwrap();
        assert_eq!((saved.platform, saved.share_port), (Platform::Esxi, 0));
    }
}
