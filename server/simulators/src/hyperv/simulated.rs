//! The public face: start a host, look at it, push it around.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::build;
use super::config::{Files, HostConfig};
use super::crimes::Crime;
use super::disk::{DiskId, DiskStore, StoreOptions};
use super::host::{Addresses, Host};
use super::inject::Faults;
use super::log::RequestRecord;
use super::machine::{Machine, guid};
use super::methods::{power, snapshots};
use super::model::value::Value;
use super::samba::{Samba, SambaOptions};
use super::wire::server;
use crate::SimulatorError;
use crate::state::{now, take_lock};
use crate::tls::Identity;

/// A running simulated host. Dropping it stops it; what it holds on disk stays.
pub struct SimulatedHost {
    host: Arc<Host>,
    servers: Vec<JoinHandle<()>>,
    samba: Mutex<Option<Samba>>,
    smb_address: Option<SocketAddr>,
}

/// A machine as its owner sees it.
#[derive(Debug, Clone)]
pub struct MachineView {
    /// `Name` of its `Msvm_ComputerSystem`.
    pub id: String,
    /// Display name.
    pub name: String,
    /// 1 or 2.
    pub generation: u8,
    /// Whether it runs.
    pub on: bool,
    /// Notes, as one text of lines.
    pub notes: Vec<String>,
    /// Checkpoints, oldest first.
    pub snapshots: Vec<SnapshotView>,
    /// Reference points, oldest first: their ids.
    pub reference_points: Vec<String>,
    /// Disks that are files, in order.
    pub disks: Vec<DiskView>,
}

/// A checkpoint as its owner sees it.
#[derive(Debug, Clone)]
pub struct SnapshotView {
    /// Its GUID.
    pub id: String,
    /// Name.
    pub name: String,
    /// Made for a backup.
    pub recovery: bool,
    /// 1 application-consistent, 2 crash-consistent.
    pub consistency: u64,
}

/// A disk as its owner sees it.
#[derive(Debug, Clone)]
pub struct DiskView {
    /// In the store.
    pub id: DiskId,
    /// Windows path of the file on top.
    pub path: String,
}

impl SimulatedHost {
    /// Starts a host on the current tokio runtime.
    pub async fn start(config: HostConfig) -> Result<Self, SimulatorError> {
        fs::create_dir_all(&config.state_dir).map_err(SimulatorError::file("create", &config.state_dir))?;
        let lock = take_lock(&config.state_dir).await?;
        let identity = Identity::load_or_make(&config.state_dir, &config.name)?;
        let (tls, tls_address) = bind(config.listen_tls).await?;
        let (http, http_address) = bind(config.listen_http).await?;
        let addresses = Addresses { tls: tls_address, http: http_address };
        // Making disks takes a while; the runtime's threads have other things to do.
        let opened = tokio::task::spawn_blocking(move || open(config, identity, &addresses, lock)).await;
        let (host, samba) =
            opened.map_err(|_| SimulatorError::Config { reason: "the start panicked".to_owned() })??;
        let smb_address = samba.as_ref().map(Samba::address);
        let servers = vec![
            tokio::spawn(server::run(Arc::clone(&host), tls, true)),
            tokio::spawn(server::run(Arc::clone(&host), http, false)),
        ];
        tracing::info!(name = host.config.name, %tls_address, %http_address, "simulated Hyper-V host started");
        Ok(Self { host, servers, samba: Mutex::new(samba), smb_address })
    }

    /// Stops the host and waits until its connections are closed.
    pub async fn stop(mut self) {
        self.host.stop.cancel();
        for handle in self.servers.drain(..) {
            let _ = handle.await;
        }
        let host = Arc::clone(&self.host);
        let samba = self.samba.lock().take();
        let ended = tokio::task::spawn_blocking(move || {
            drop(samba);
            stop_guests(&host);
        });
        let _ = ended.await;
    }

    /// Where it listens with TLS.
    pub fn tls_address(&self) -> SocketAddr {
        self.host.tls_address
    }

    /// Where it listens without.
    pub fn http_address(&self) -> SocketAddr {
        self.host.http_address
    }

    /// Where its drive is served as `C$`, to the same account.
    pub fn smb_address(&self) -> Option<SocketAddr> {
        self.smb_address
    }

    /// Cuts every SMB session there is; the drive is served again on the same port. Takes as long as a server's start.
    pub fn cut_files(&self) -> Result<(), SimulatorError> {
        let mut samba = self.samba.lock();
        if let Some(mut running) = samba.take() {
            running.kill();
            *samba = serve_files(&self.host.config, self.smb_address.map(|address| address.port()))?;
        }
        Ok(())
    }

    /// Ends the service of the drive: no file can be reached any more.
    pub fn stop_files(&self) {
        drop(self.samba.lock().take());
    }

    /// The service of the drive hangs, or goes on.
    pub fn pause_files(&self, paused: bool) {
        if let Some(samba) = self.samba.lock().as_ref() {
            samba.pause(paused);
        }
    }

    /// Somebody gives a machine another name.
    pub fn rename(&self, machine: &str, name: &str) -> Result<(), SimulatorError> {
        let id = self.find(machine)?;
        let changed = self.host.change_machine(id, |machine| {
            machine.settings.values.insert("ElementName".to_owned(), name.into());
        });
        changed.map(drop)
    }

    /// Something in the guest answers the integration service for backups, or nothing does any more.
    pub fn set_freezing(&self, machine: &str, answers: bool) -> Result<(), SimulatorError> {
        let id = self.find(machine)?;
        self.host.change_machine(id, |machine| machine.quirks.no_consistency = !answers).map(drop)
    }

    /// Somebody removes a machine; its files stay.
    pub fn destroy(&self, machine: &str) -> Result<(), SimulatorError> {
        let id = self.find(machine)?;
        self.host.store.stop_guest(&guid(id))?;
        self.host.change(|state| state.machines.retain(|machine| machine.id != id))
    }

    /// Another program's backup makes its checkpoint.
    pub fn make_foreign_checkpoint(&self, machine: &str, name: &str) -> Result<(), SimulatorError> {
        self.leave_checkpoint(machine, name, true, Duration::ZERO)
    }

    /// A checkpoint of that name and age, as another program's backup leaves it (`recovery`), or as a user made it.
    pub fn leave_checkpoint(
        &self,
        machine: &str,
        name: &str,
        recovery: bool,
        age: Duration,
    ) -> Result<(), SimulatorError> {
        let refused =
            |reason: String| SimulatorError::Refused { operation: "checkpoint", machine: machine.to_owned(), reason };
        let id = self.find(machine)?;
        let made = snapshots::make_named(&self.host, id, name, recovery);
        let snapshot = made.map_err(|error| refused(error.description))?;
        let created = now().checked_sub(age).map_err(|error| refused(error.to_string()))?;
        let changed = self.host.change_machine(id, |machine| {
            if let Some(known) = machine.snapshots.iter_mut().find(|known| known.id == snapshot) {
                known.created = created;
            }
        });
        changed.map(drop)
    }

    /// SHA-256 of its certificate.
    pub fn certificate_sha256(&self) -> [u8; 32] {
        self.host.identity.sha256
    }

    /// Faults on demand.
    pub fn faults(&self) -> &Faults {
        &self.host.faults
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.host.log.all()
    }

    /// What clients did that they must not do.
    pub fn crimes(&self) -> Vec<Crime> {
        self.host.crimes.all()
    }

    /// Enumerations that nobody pulled to their end.
    pub fn open_enumerations(&self) -> usize {
        self.host.contexts.count()
    }

    /// All machines, by age.
    pub fn machines(&self) -> Vec<MachineView> {
        self.host.read(|state| state.machines.iter().map(view).collect())
    }

    /// A machine by name.
    pub fn machine(&self, name: &str) -> Option<MachineView> {
        self.machines().into_iter().find(|machine| machine.name == name)
    }

    /// Whether a job holds a machine.
    pub fn is_busy(&self, name: &str) -> bool {
        self.find(name).is_ok_and(|id| self.host.jobs.busy(id))
    }

    /// Switches a machine on or off, as somebody at the console would.
    pub fn set_power(&self, name: &str, on: bool) -> Result<(), SimulatorError> {
        let machine = self.find(name)?;
        power::set(&self.host, machine, on).map_err(|error| SimulatorError::Refused {
            operation: "power",
            machine: name.to_owned(),
            reason: error.description,
        })
    }

    /// The disks.
    pub fn store(&self) -> &DiskStore {
        &self.host.store
    }

    /// SHA-256 of each disk at a machine's newest reference point, in order, if the host keeps digests.
    pub fn recorded_digests(&self, name: &str) -> Option<Vec<String>> {
        let point = self.host.read(|state| {
            let machine = state.machines.iter().find(|machine| machine.name() == name)?;
            machine.points.last().map(|point| point.tracking.clone())
        })?;
        point.iter().map(|(_, tracking_id)| self.store().recorded_digest(tracking_id)).collect()
    }

    fn find(&self, name: &str) -> Result<Uuid, SimulatorError> {
        let found = self.host.read(|state| state.machines.iter().find(|machine| machine.name() == name).map(|m| m.id));
        found.ok_or_else(|| SimulatorError::Unknown { name: name.to_owned() })
    }
}

impl Drop for SimulatedHost {
    fn drop(&mut self) {
        self.host.stop.cancel();
        stop_guests(&self.host);
    }
}

fn stop_guests(host: &Host) {
    let ids: Vec<Uuid> = host.read(|state| state.machines.iter().map(|machine| machine.id).collect());
    for id in ids {
        if let Err(error) = host.store.stop_guest(&guid(id)) {
            tracing::warn!(%error, "a simulated guest was not stopped");
        }
    }
}

async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), SimulatorError> {
    let failed = |source| SimulatorError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn open(
    config: HostConfig,
    identity: Identity,
    addresses: &Addresses,
    lock: fs::File,
) -> Result<(Arc<Host>, Option<Samba>), SimulatorError> {
    let options = StoreOptions {
        records_digests: config.records_digests,
        leaves_dirty_logs: config.leaves_dirty_logs,
        ..StoreOptions::below(&config.state_dir)
    };
    let store = DiskStore::open(options)?;
    let host = Host::open(config, identity, addresses, store, lock)?;
    if host.fresh {
        build::fill(&host)?;
    } else {
        let ids: Vec<Uuid> = host.read(|state| state.machines.iter().map(|machine| machine.id).collect());
        for id in ids {
            host.apply_power(id)?;
        }
    }
    let samba = serve_files(&host.config, None)?;
    Ok((Arc::new(host), samba))
}

fn serve_files(config: &HostConfig, again: Option<u16>) -> Result<Option<Samba>, SimulatorError> {
    let Files::Served { port, encryption } = config.files else { return Ok(None) };
    let options = SambaOptions {
        drive_dir: StoreOptions::below(&config.state_dir).drive_dir,
        state_dir: config.state_dir.join("samba"),
        port: again.or(port),
        host_name: config.name.clone(),
        account: config.account.clone(),
        password: config.password.clone(),
        encryption,
    };
    Samba::start(&options).map(Some)
}

fn view(machine: &Machine) -> MachineView {
    let notes = machine.settings.values.get("Notes").map(|value| value.items().iter().map(Value::plain).collect());
    let snapshots = machine.snapshots.iter().map(|snapshot| SnapshotView {
        id: guid(snapshot.id),
        name: snapshot.settings.values.get("ElementName").map(Value::plain).unwrap_or_default(),
        recovery: snapshot.recovery,
        consistency: snapshot.consistency,
    });
    let disk = |part: &super::machine::Part| {
        let backing = part.backing.as_ref()?;
        Some(DiskView { id: backing.disk?, path: backing.path.clone() })
    };
    MachineView {
        id: guid(machine.id),
        name: machine.name().to_owned(),
        generation: machine.generation,
        on: machine.on,
        notes: notes.unwrap_or_default(),
        snapshots: snapshots.collect(),
        reference_points: machine.points.iter().map(|point| guid(point.id)).collect(),
        disks: machine.settings.parts.iter().filter_map(disk).collect(),
    }
}
