//! The host itself: everything the doors (`/sdk`, `/folder`, `/nfc`) share.
//!
//! Owns: the map of machines, their ids and their saved state, the records of snapshots. Locking: the map's lock is never held
//! while a machine's is taken; a machine's lock may be held while the small leaf locks (tasks, file locks, ids) are taken.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::collector::Views;
use super::config::{DatastoreKind, DatastoreSpec, HostConfig};
use super::fault::SoapFault;
use super::inject::Faults;
use super::lease::Leases;
use super::locks::FileLocks;
use super::log::RequestLog;
use super::machine::Machine;
use super::session::Sessions;
use super::task::Tasks;
use super::value::MoRef;
use crate::SimulatorError;
pub(crate) use crate::state::now;
use crate::state::write_json;
use crate::tls::Identity;

/// Machines of a host.
const MACHINES_MAX: usize = 1000;

/// Shared machines.
pub(crate) type Shared = Arc<Mutex<Machine>>;

/// What the disks of a machine held at a snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotRecord {
    /// Machine by name, at that time.
    pub machine: String,
    /// Id of the machine's managed object.
    pub machine_id: String,
    /// Name of the snapshot.
    pub snapshot: String,
    /// Id of the snapshot's managed object.
    pub snapshot_id: String,
    /// One per disk.
    pub disks: Vec<DiskRecord>,
}

/// A frozen copy of a disk.
#[derive(Debug, Clone)]
pub struct DiskRecord {
    /// Device key.
    pub key: i32,
    /// A sparse raw copy, kept until its owner removes it.
    pub file: PathBuf,
}

/// What a host remembers of itself.
#[derive(Serialize, Deserialize)]
struct SavedHost {
    uuid: Uuid,
    next_machine: u64,
}

/// A simulated host, inside.
pub(crate) struct Host {
    pub config: HostConfig,
    pub uuid: Uuid,
    pub identity: Identity,
    pub address: SocketAddr,
    pub runtime: Handle,
    pub tasks: Tasks,
    pub leases: Leases,
    pub sessions: Sessions,
    pub views: Views,
    pub locks: FileLocks,
    pub faults: Faults,
    pub log: RequestLog,
    pub stop: CancellationToken,
    pub writes_paused: AtomicBool,
    pub booted: Timestamp,
    machines: Mutex<BTreeMap<u64, Shared>>,
    next_machine: AtomicU64,
    records: Mutex<Vec<SnapshotRecord>>,
    next_record: AtomicU64,
    _lock: File,
}

impl Host {
    /// Takes the state folder and loads what is there. Answers whether the host is fresh.
    pub fn open(
        config: HostConfig,
        identity: Identity,
        address: SocketAddr,
        lock: File,
    ) -> Result<(Self, bool), SimulatorError> {
        let path = config.state_dir.join("host.json");
        let saved: Option<SavedHost> = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|source| SimulatorError::State { path, source })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(SimulatorError::file("read", path)(error)),
        };
        let fresh = saved.is_none();
        // Different hosts start at different ids, so that ids of one mean nothing to another.
        let seed = config.name.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let saved = saved.unwrap_or(SavedHost { uuid: Uuid::new_v4(), next_machine: 1 + seed % 89 * 10 });
        let host = Self {
            uuid: saved.uuid,
            identity,
            address,
            runtime: Handle::current(),
            tasks: Tasks::default(),
            leases: Leases::default(),
            sessions: Sessions::new(config.limits.session_idle, config.limits.sessions_max),
            views: Views::default(),
            locks: FileLocks::default(),
            faults: Faults::default(),
            log: RequestLog::default(),
            stop: CancellationToken::new(),
            writes_paused: AtomicBool::new(false),
            booted: now(),
            machines: Mutex::new(BTreeMap::new()),
            next_machine: AtomicU64::new(saved.next_machine),
            records: Mutex::new(Vec::new()),
            next_record: AtomicU64::new(1),
            _lock: lock,
            config,
        };
        for datastore in &host.config.datastores {
            let root = host.datastore_root(datastore);
            fs::create_dir_all(&root).map_err(SimulatorError::file("create", root))?;
        }
        host.load_machines()?;
        host.save_host()?;
        Ok((host, fresh))
    }

    fn load_machines(&self) -> Result<(), SimulatorError> {
        let folder = self.config.state_dir.join("machines");
        fs::create_dir_all(&folder).map_err(SimulatorError::file("create", &folder))?;
        let entries = fs::read_dir(&folder).map_err(SimulatorError::file("list", &folder))?;
        for path in
            entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"))
        {
            let machine = self.load_machine(&path)?;
            if machine.importing {
                let shared = Arc::new(Mutex::new(machine));
                Self::delete_files(&shared.lock());
                let _ = fs::remove_file(&path);
                continue;
            }
            if let Ok(number) = machine.id.parse() {
                self.machines.lock().insert(number, Arc::new(Mutex::new(machine)));
            }
        }
        Ok(())
    }

    /// Loads a saved machine and opens its disks.
    pub fn load_machine(&self, path: &Path) -> Result<Machine, SimulatorError> {
        let bytes = fs::read(path).map_err(SimulatorError::file("read", path))?;
        let mut machine: Machine =
            serde_json::from_slice(&bytes).map_err(|source| SimulatorError::State { path: path.to_owned(), source })?;
        machine.dir = self.machine_dir(&machine.datastore, &machine.folder)?;
        let dir = machine.dir.clone();
        for disk in &mut machine.disks {
            for (old, new) in disk.open(&dir)? {
                let frozen = machine.snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.disks);
                frozen
                    .filter(|frozen| frozen.key == disk.key && frozen.link == old)
                    .for_each(|frozen| frozen.link = new);
            }
        }
        Ok(machine)
    }

    fn save_host(&self) -> Result<(), SimulatorError> {
        let saved = SavedHost { uuid: self.uuid, next_machine: self.next_machine.load(Ordering::SeqCst) };
        write_json(&self.config.state_dir.join("host.json"), &saved)
    }

    /// Path of a machine's saved state.
    pub fn state_path(&self, id: &str) -> PathBuf {
        self.config.state_dir.join("machines").join(format!("{id}.json"))
    }

    /// Saves a machine after a change.
    pub fn save(&self, machine: &Machine) -> Result<(), SimulatorError> {
        write_json(&self.state_path(&machine.id), machine)
    }

    /// A new machine id.
    pub fn new_machine_id(&self) -> Result<String, SimulatorError> {
        let number = self.next_machine.fetch_add(1, Ordering::SeqCst);
        self.save_host()?;
        Ok(number.to_string())
    }

    /// Adds a machine to the inventory.
    pub fn insert(&self, machine: Machine) -> Result<Shared, SoapFault> {
        let number = machine.id.parse().map_err(|_| SoapFault::system("bad machine id"))?;
        self.save(&machine)?;
        let mut machines = self.machines.lock();
        if machines.len() >= MACHINES_MAX {
            return Err(SoapFault::system("too many machines"));
        }
        let shared = Arc::new(Mutex::new(machine));
        machines.insert(number, Arc::clone(&shared));
        Ok(shared)
    }

    /// Takes a machine out of the inventory; its files stay.
    pub fn remove(&self, id: &str) {
        if let Ok(number) = id.parse::<u64>() {
            self.machines.lock().remove(&number);
        }
        let _ = fs::remove_file(self.state_path(id));
    }

    /// Deletes a machine's files and folder.
    pub fn delete_files(machine: &Machine) {
        for path in machine.disks.iter().flat_map(super::disk::Disk::all_paths) {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_dir_all(&machine.dir);
    }

    /// All machines, by age.
    pub fn machines(&self) -> Vec<Shared> {
        self.machines.lock().values().cloned().collect()
    }

    /// A machine by the id of its managed object.
    pub fn machine(&self, id: &str) -> Option<Shared> {
        self.machines.lock().get(&id.parse::<u64>().ok()?).cloned()
    }

    /// A machine by name.
    pub fn machine_named(&self, name: &str) -> Option<Shared> {
        self.machines().into_iter().find(|machine| machine.lock().name == name)
    }

    /// The machine of a reference, or the fault that says it is gone.
    pub fn find_machine(&self, reference: &MoRef) -> Result<Shared, SoapFault> {
        self.machine(&reference.id).ok_or_else(|| SoapFault::not_found(reference))
    }

    /// Splits a snapshot's id into its machine and number.
    pub fn find_snapshot(&self, reference: &MoRef) -> Result<(Shared, i32), SoapFault> {
        let gone = || SoapFault::not_found(reference);
        let (machine, number) = reference.id.split_once("-snapshot-").ok_or_else(gone)?;
        let number = number.parse().map_err(|_| gone())?;
        let machine = self.machine(machine).ok_or_else(gone)?;
        let known = machine.lock().snapshot(number).is_some();
        if known { Ok((machine, number)) } else { Err(gone()) }
    }

    pub fn datastore(&self, name: &str) -> Option<&DatastoreSpec> {
        self.config.datastores.iter().find(|datastore| datastore.name == name)
    }

    pub fn datastore_kind(&self, name: &str) -> DatastoreKind {
        self.datastore(name).map_or(DatastoreKind::Vmfs, |datastore| datastore.kind)
    }

    /// Folder of a datastore.
    pub fn datastore_root(&self, datastore: &DatastoreSpec) -> PathBuf {
        self.config.state_dir.join("datastores").join(&datastore.name)
    }

    /// Folder of a machine. The folder's name is one plain path element.
    pub fn machine_dir(&self, datastore: &str, folder: &str) -> Result<PathBuf, SimulatorError> {
        let bad = |reason: &str| SimulatorError::Config { reason: format!("[{datastore}] {folder}: {reason}") };
        let spec = self.datastore(datastore).ok_or_else(|| bad("no such datastore"))?;
        if folder.is_empty() || folder.starts_with('.') || folder.contains(['/', '\\', '\0']) {
            return Err(bad("not a folder name"));
        }
        Ok(self.datastore_root(spec).join(folder))
    }

    /// The file of a path below a datastore; `None` when it would lead outside.
    pub fn datastore_file(&self, datastore: &str, path: &str) -> Option<PathBuf> {
        let mut file = self.datastore_root(self.datastore(datastore)?);
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if part.starts_with('.') || part.contains(['\\', '\0']) {
                return None;
            }
            file.push(part);
        }
        Some(file)
    }

    /// Parses `[datastore] path` into the datastore's name and the path.
    pub fn split_path(text: &str) -> Option<(&str, &str)> {
        let (datastore, path) = text.trim().strip_prefix('[')?.split_once(']')?;
        Some((datastore, path.trim()))
    }

    /// Copies what the disks hold at a snapshot, if the host was asked to keep such records.
    pub fn record_snapshot(&self, machine: &Machine, number: i32) -> Result<(), SimulatorError> {
        let Some(snapshot) = machine.snapshot(number).filter(|_| self.config.record_snapshots) else { return Ok(()) };
        let folder =
            self.config.state_dir.join("records").join(self.next_record.fetch_add(1, Ordering::SeqCst).to_string());
        fs::create_dir_all(&folder).map_err(SimulatorError::file("create", &folder))?;
        let mut disks = Vec::new();
        for frozen in &snapshot.disks {
            let Some(disk) = machine.disk(frozen.key) else { continue };
            let file = folder.join(format!("disk-{}.raw", frozen.key));
            disk.image(frozen.link).copy_to(&file).map_err(SimulatorError::file("record into", &file))?;
            disks.push(DiskRecord { key: frozen.key, file });
        }
        self.records.lock().push(SnapshotRecord {
            machine: machine.name.clone(),
            machine_id: machine.id.clone(),
            snapshot: snapshot.name.clone(),
            snapshot_id: machine.snapshot_ref(number).id,
            disks,
        });
        Ok(())
    }

    pub fn records(&self) -> Vec<SnapshotRecord> {
        self.records.lock().clone()
    }
}
