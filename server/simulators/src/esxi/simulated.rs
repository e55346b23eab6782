//! The public face: start a host, look at it, push it around.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::build;
use super::config::{HostConfig, Power};
use super::fault::SoapFault;
use super::host::{Host, Shared, SnapshotRecord, now};
use super::inject::Faults;
use super::log::RequestRecord;
use super::server;
use super::session::Door;
use crate::SimulatorError;
use crate::state::take_lock;
use crate::tls::Identity;

/// How often guests write, leases are looked at.
const TICK: Duration = Duration::from_millis(50);

/// A running simulated host. Dropping it stops it; what it holds on disk stays.
pub struct SimulatedHost {
    host: Arc<Host>,
    server: Option<JoinHandle<()>>,
    ticker: Option<JoinHandle<()>>,
}

/// A machine as its owner sees it.
#[derive(Debug, Clone)]
pub struct MachineView {
    /// Id of its managed object.
    pub moref: String,
    /// Name.
    pub name: String,
    /// Power.
    pub power: Power,
    /// Snapshots, oldest first.
    pub snapshots: Vec<SnapshotView>,
    /// Delta files are left that no snapshot needs.
    pub consolidation_needed: bool,
    /// Change tracking is switched on.
    pub tracking_enabled: bool,
    /// A lease holds it.
    pub leased: bool,
    /// Disks in order.
    pub disks: Vec<DiskView>,
}

/// A snapshot as its owner sees it.
#[derive(Debug, Clone)]
pub struct SnapshotView {
    /// Id of its managed object.
    pub moref: String,
    /// Name.
    pub name: String,
    /// Description.
    pub description: String,
}

/// A disk as its owner sees it.
#[derive(Debug, Clone)]
pub struct DiskView {
    /// Device key.
    pub key: i32,
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// Data file of the base (`…-flat.vmdk`).
    pub base_file: PathBuf,
    /// Data files from the one that is written down to the base.
    pub chain: Vec<PathBuf>,
    /// Changes are being tracked.
    pub tracking_active: bool,
    /// The change id of now.
    pub change_id: Option<String>,
}

impl SimulatedHost {
    /// Starts a host on the current tokio runtime.
    pub async fn start(config: HostConfig) -> Result<Self, SimulatorError> {
        fs::create_dir_all(&config.state_dir).map_err(SimulatorError::file("create", &config.state_dir))?;
        let lock = take_lock(&config.state_dir).await?;
        let identity = Identity::load_or_make(&config.state_dir, &config.name)?;
        let listen = config.listen;
        let listener =
            TcpListener::bind(listen).await.map_err(|source| SimulatorError::Listen { address: listen, source })?;
        let address = listener.local_addr().map_err(|source| SimulatorError::Listen { address: listen, source })?;
        // Making disks takes a while; the runtime's threads have other things to do.
        let opened = tokio::task::spawn_blocking(move || open(config, identity, address, lock)).await;
        let host = opened.map_err(|_| SimulatorError::Config { reason: "the start panicked".to_owned() })??;
        let server = tokio::spawn(server::run(Arc::clone(&host), listener));
        let ticker = tokio::spawn(tick(Arc::clone(&host)));
        tracing::info!(name = host.config.name, %address, "simulated ESXi host started");
        Ok(Self { host, server: Some(server), ticker: Some(ticker) })
    }

    /// Stops the host and waits until its connections are closed.
    pub async fn stop(mut self) {
        self.host.stop.cancel();
        for handle in [self.server.take(), self.ticker.take()].into_iter().flatten() {
            let _ = handle.await;
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.host.address
    }

    /// SHA-256 of its certificate.
    pub fn certificate_sha256(&self) -> [u8; 32] {
        self.host.identity.sha256
    }

    /// The rules by which it misbehaves.
    pub fn faults(&self) -> &Faults {
        &self.host.faults
    }

    /// The last requests, oldest first.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.host.log.all()
    }

    /// Copies of disks at their snapshots, oldest first; empty unless [`HostConfig::record_snapshots`].
    pub fn snapshot_records(&self) -> Vec<SnapshotRecord> {
        self.host.records()
    }

    /// Open sessions at `/sdk`, leases and container views: what a tidy client has given back.
    pub fn open_handles(&self) -> (usize, usize, usize) {
        (self.host.sessions.count(Door::Soap), self.host.leases.open_count(), self.host.views.open_views())
    }

    /// Ends all sessions, as a restart of the management agent does.
    pub fn drop_sessions(&self) {
        self.host.sessions.close_all(Door::Soap);
        self.host.sessions.close_all(Door::Folder);
    }

    /// Names of the machines.
    pub fn machine_names(&self) -> Vec<String> {
        self.host.machines().iter().map(|machine| machine.lock().name.clone()).collect()
    }

    /// A machine by name.
    pub fn machine(&self, name: &str) -> Result<MachineView, SimulatorError> {
        let shared = self.find(name)?;
        let machine = shared.lock();
        let disks = machine.disks.iter().map(|disk| DiskView {
            key: disk.key,
            capacity_bytes: disk.capacity,
            base_file: disk.data_path(0),
            chain: disk.chain(disk.top).into_iter().map(|link| disk.data_path(link)).collect(),
            tracking_active: machine.tracking_active(disk.key),
            change_id: disk.tracking.change_id(),
        });
        let snapshots = machine.snapshots.iter().map(|snapshot| SnapshotView {
            moref: machine.snapshot_ref(snapshot.number).id,
            name: snapshot.name.clone(),
            description: snapshot.description.clone(),
        });
        Ok(MachineView {
            moref: machine.id.clone(),
            name: machine.name.clone(),
            power: machine.power,
            snapshots: snapshots.collect(),
            consolidation_needed: machine.consolidation_needed,
            tracking_enabled: machine.tracking_enabled,
            leased: machine.leased,
            disks: disks.collect(),
        })
    }

    /// Powers a machine on.
    pub fn power_on(&self, name: &str) -> Result<(), SimulatorError> {
        self.change(name, "power on", |host, machine| machine.power_on(&host.locks, now()))
    }

    /// Powers a machine off.
    pub fn power_off(&self, name: &str) -> Result<(), SimulatorError> {
        self.change(name, "power off", |_, machine| machine.power_off())
    }

    /// Renames a machine.
    pub fn rename(&self, name: &str, new: &str) -> Result<(), SimulatorError> {
        self.change(name, "rename", |_, machine| {
            new.clone_into(&mut machine.name);
            Ok(())
        })
    }

    /// Somebody moves a machine to another resource pool, e.g. `Production/Web`.
    pub fn move_to_pool(&self, name: &str, pool: &str) -> Result<(), SimulatorError> {
        self.change(name, "move", |_, machine| {
            pool.clone_into(&mut machine.pool);
            Ok(())
        })
    }

    /// VMware Tools are started or stopped in the guest.
    pub fn set_tools(&self, name: &str, tools: bool) -> Result<(), SimulatorError> {
        self.change(name, "set the tools of", |_, machine| {
            machine.tools = tools;
            Ok(())
        })
    }

    /// Deletes a machine and its files, whatever state it is in.
    pub fn destroy(&self, name: &str) -> Result<(), SimulatorError> {
        let shared = self.find(name)?;
        let mut machine = shared.lock();
        machine.power = Power::Off;
        self.host.remove(&machine.id);
        Host::delete_files(&machine);
        Ok(())
    }

    /// Grows a disk, which starts its change tracking over. The machine must have no snapshots.
    pub fn resize_disk(&self, name: &str, key: i32, bytes: u64) -> Result<(), SimulatorError> {
        self.change(name, "resize", |_, machine| match machine.disks.iter_mut().find(|disk| disk.key == key) {
            Some(disk) => Ok(disk.grow(bytes.next_multiple_of(1024))?),
            None => Err(SoapFault::invalid_argument("key")),
        })
    }

    /// Makes a snapshot as a user would; answers its id.
    pub fn create_snapshot(&self, name: &str, snapshot: &str) -> Result<String, SimulatorError> {
        let mut id = String::new();
        self.change(name, "snapshot", |_, machine| {
            let number = machine.create_snapshot(snapshot, "", false, now())?;
            id = machine.snapshot_ref(number).id;
            Ok(())
        })?;
        Ok(id)
    }

    /// A snapshot of that name and age, as another program's backup leaves it; answers its id.
    pub fn leave_snapshot(&self, name: &str, snapshot: &str, age: Duration) -> Result<String, SimulatorError> {
        let mut id = String::new();
        self.change(name, "snapshot", |_, machine| {
            let created = now().checked_sub(age).map_err(|_| SoapFault::invalid_argument("age"))?;
            let number = machine.create_snapshot(snapshot, "", false, created)?;
            id = machine.snapshot_ref(number).id;
            Ok(())
        })?;
        Ok(id)
    }

    /// Somebody gives a snapshot another name.
    pub fn rename_snapshot(&self, name: &str, from: &str, to: &str) -> Result<(), SimulatorError> {
        self.change(name, "rename", |_, machine| {
            let found = machine.snapshots.iter_mut().find(|snapshot| snapshot.name == from);
            to.clone_into(&mut found.ok_or_else(|| SoapFault::invalid_argument("snapshot"))?.name);
            Ok(())
        })
    }

    /// Goes back to a snapshot by name, which starts change tracking over and leaves the machine off.
    pub fn revert(&self, name: &str, snapshot: &str) -> Result<(), SimulatorError> {
        self.change(name, "revert", |_, machine| {
            let number = machine.snapshots.iter().find(|known| known.name == snapshot).map(|known| known.number);
            machine.revert(number.ok_or_else(|| SoapFault::invalid_argument("snapshot"))?)
        })
    }

    /// Starts change tracking over, as a crash of the host does.
    pub fn reset_tracking(&self, name: &str) -> Result<(), SimulatorError> {
        self.change(name, "reset tracking", |_, machine| {
            for disk in &mut machine.disks {
                disk.tracking.reset()?;
            }
            Ok(())
        })
    }

    /// Writes to a disk as the guest would, or as somebody with the machine off.
    pub fn write(&self, name: &str, key: i32, offset: u64, bytes: &[u8]) -> Result<(), SimulatorError> {
        let shared = self.find(name)?;
        let mut machine = shared.lock();
        let running = machine.running();
        let disk = machine.disks.iter_mut().find(|disk| disk.key == key);
        let disk = disk.ok_or_else(|| SimulatorError::Unknown { name: format!("{name}, disk {key}") })?;
        disk.write(offset, bytes, running).map_err(SimulatorError::file("write to", format!("{name}, disk {key}")))
    }

    /// Copies what a disk holds now into a new sparse file.
    pub fn copy_disk(&self, name: &str, key: i32, target: &Path) -> Result<(), SimulatorError> {
        let shared = self.find(name)?;
        let machine = shared.lock();
        let disk = machine.disk(key).ok_or_else(|| SimulatorError::Unknown { name: format!("{name}, disk {key}") })?;
        disk.image(disk.top).copy_to(target).map_err(SimulatorError::file("copy into", target))
    }

    /// Holds the guests' writes back (or lets them go on).
    pub fn pause_guest_writes(&self, paused: bool) {
        self.host.writes_paused.store(paused, Ordering::SeqCst);
    }

    /// Lets the guest of a machine that runs write so many bytes at once, by its own generator.
    pub fn guest_burst(&self, name: &str, bytes: u64) -> Result<(), SimulatorError> {
        let machine = self.find(name)?;
        let mut machine = machine.lock();
        if !machine.running() {
            return Err(SimulatorError::Refused {
                operation: "a burst of writes",
                machine: name.to_owned(),
                reason: "it is off".to_owned(),
            });
        }
        machine.guest_write(bytes);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Shared, SimulatorError> {
        self.host.machine_named(name).ok_or_else(|| SimulatorError::Unknown { name: name.to_owned() })
    }

    fn change(
        &self,
        name: &str,
        operation: &'static str,
        act: impl FnOnce(&Host, &mut super::machine::Machine) -> Result<(), SoapFault>,
    ) -> Result<(), SimulatorError> {
        let shared = self.find(name)?;
        let mut machine = shared.lock();
        act(&self.host, &mut machine).map_err(|fault| SimulatorError::Refused {
            operation,
            machine: name.to_owned(),
            reason: format!("{}: {}", fault.kind(), fault.message),
        })?;
        self.host.save(&machine)
    }
}

impl Drop for SimulatedHost {
    fn drop(&mut self) {
        self.host.stop.cancel();
    }
}

fn open(
    config: HostConfig,
    identity: Identity,
    address: SocketAddr,
    lock: fs::File,
) -> Result<Arc<Host>, SimulatorError> {
    server::warm_up();
    let (host, fresh) = Host::open(config, identity, address, lock)?;
    if fresh {
        for spec in &host.config.machines {
            build::from_spec(&host, spec)?;
        }
    }
    Ok(Arc::new(host))
}

/// Guest writes and lease time-outs.
async fn tick(host: Arc<Host>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = host.stop.cancelled() => return,
        }
        let own = Arc::clone(&host);
        let ticked = tokio::task::spawn_blocking(move || {
            own.leases.tick(&own);
            if own.writes_paused.load(Ordering::SeqCst) {
                return;
            }
            for machine in own.machines() {
                let mut machine = machine.lock();
                if let Some(writes) = machine.writes.filter(|_| machine.running()) {
                    machine.guest_tick(writes.bytes_per_second * TICK.as_millis() as u64 / 1000);
                }
            }
        });
        let _ = ticked.await;
    }
}
