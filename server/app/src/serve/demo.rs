//! Simulated hosts inside the server, for a first try. What they hold lies in `simulated/N` of the data folder, and
//! they come back on the same port at the next start.

use crate::failure::chain;
use async_trait::async_trait;
use domain::job::JobError;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use simulators::esxi::{self, SimulatedHost};
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
    host: SimulatedHost,
}

/// What a host needs to come back as it was.
#[derive(Serialize, Deserialize)]
struct Saved {
    name: String,
    port: u16,
    account: String,
    password: String,
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
    async fn add(&self) -> Result<DemoHost, JobError> {
        let failed = |why: String| {
            JobError::fail("demo.start", "A simulated host could not be started.", why, "Look at the server's log.")
        };
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
        let mut saved = Saved {
            name: format!("simulated-esxi-{number}"),
            port: 0,
            account: "root".to_owned(),
            password: new_password().map_err(failed)?,
        };
        let host = start(&folder, &saved).await.map_err(failed)?;
        saved.port = host.address().port();
        save(&folder, &saved).map_err(|error| failed(error.to_string()))?;
        let demo = DemoHost {
            name: saved.name,
            host: host.address().ip().to_string(),
            port: saved.port,
            account: saved.account,
            password: SecretString::from(saved.password),
            certificate_sha256: host.certificate_sha256(),
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

async fn start_saved(folder: &Path) -> Result<Option<SimulatedHost>, String> {
    // A host whose start was never finished belongs to no device.
    let Ok(bytes) = fs::read(folder.join("saved.json")) else { return Ok(None) };
    let saved: Saved = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    start(folder, &saved).await.map(Some)
}

async fn start(folder: &Path, saved: &Saved) -> Result<SimulatedHost, String> {
    let mut config = esxi::demo_config(folder.join("host"), &saved.name);
    config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, saved.port));
    config.account.clone_from(&saved.account);
    config.password.clone_from(&saved.password);
    SimulatedHost::start(config).await.map_err(|error| chain(&error))
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
