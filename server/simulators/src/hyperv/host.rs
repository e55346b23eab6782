//! The host itself: what the wire and the methods share.
//!
//! Owns: the machines and switches and their saved state. Locking: the state's lock is a leaf; disks are never touched under
//! it. A machine's job holds the machine (`Jobs::busy`) while it works on the disks without the lock.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::config::HostConfig;
use super::crimes::Crimes;
use super::disk::DiskStore;
use super::inject::Faults;
use super::jobs::Jobs;
use super::log::RequestLog;
use super::machine::Machine;
use super::wire::enumerate::Contexts;
use crate::SimulatorError;
use crate::state::{now, write_json};
use crate::tls::Identity;

/// Machines of a host.
pub(crate) const MACHINES_MAX: usize = 1000;

/// A virtual switch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Switch {
    pub id: Uuid,
    pub name: String,
}

/// What a host remembers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    pub machines: Vec<Machine>,
    pub switches: Vec<Switch>,
    /// Of the MAC addresses it gives.
    pub next_mac: u32,
}

impl State {
    pub fn machine(&self, id: Uuid) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.id == id)
    }

    pub fn machine_mut(&mut self, id: Uuid) -> Option<&mut Machine> {
        self.machines.iter_mut().find(|machine| machine.id == id)
    }

    /// The next dynamic MAC address.
    pub fn mac(&mut self) -> String {
        self.next_mac += 1;
        format!("00155D{:06X}", 0x00_4000 + self.next_mac)
    }
}

/// A simulated host, inside.
pub(crate) struct Host {
    pub config: HostConfig,
    pub identity: Identity,
    pub tls_address: SocketAddr,
    pub http_address: SocketAddr,
    pub runtime: Handle,
    pub store: DiskStore,
    pub jobs: Jobs,
    pub contexts: Contexts,
    pub faults: Faults,
    pub log: RequestLog,
    pub crimes: Crimes,
    pub stop: CancellationToken,
    pub booted: Timestamp,
    state: Mutex<State>,
    /// There was no state from an earlier run.
    pub fresh: bool,
    _lock: File,
}

/// The sockets of a host, bound.
pub(crate) struct Addresses {
    pub tls: SocketAddr,
    pub http: SocketAddr,
}

impl Host {
    /// Loads what is in the state folder.
    pub fn open(
        config: HostConfig,
        identity: Identity,
        addresses: &Addresses,
        store: DiskStore,
        lock: File,
    ) -> Result<Self, SimulatorError> {
        let path = config.state_dir.join("hyperv.json");
        let saved: Option<State> = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|source| SimulatorError::State { path, source })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(SimulatorError::file("read", path)(error)),
        };
        Ok(Self {
            identity,
            tls_address: addresses.tls,
            http_address: addresses.http,
            runtime: Handle::current(),
            store,
            jobs: Jobs::default(),
            contexts: Contexts::default(),
            faults: Faults::default(),
            log: RequestLog::default(),
            crimes: Crimes::default(),
            stop: CancellationToken::new(),
            booted: now(),
            fresh: saved.is_none(),
            state: Mutex::new(saved.unwrap_or_default()),
            _lock: lock,
            config,
        })
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    /// Changes the state and saves it.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, SimulatorError> {
        let mut state = self.state.lock();
        let changed = change(&mut state);
        write_json(&self.config.state_dir.join("hyperv.json"), &*state)?;
        Ok(changed)
    }

    /// A machine as it is now.
    pub fn machine(&self, id: Uuid) -> Option<Machine> {
        self.read(|state| state.machine(id).cloned())
    }

    /// Changes a machine; false when it is gone.
    pub fn change_machine(&self, id: Uuid, change: impl FnOnce(&mut Machine)) -> Result<bool, SimulatorError> {
        self.change(|state| match state.machine_mut(id) {
            Some(machine) => {
                machine.changed = now();
                change(machine);
                true
            }
            None => false,
        })
    }

    /// Tells the disks of a machine whether it runs.
    pub fn apply_power(&self, id: Uuid) -> Result<(), SimulatorError> {
        let Some(machine) = self.machine(id) else { return Ok(()) };
        let name = super::machine::guid(id);
        if machine.on {
            let disks: Vec<_> = machine.settings.disks().into_iter().map(|(_, disk)| disk).collect();
            self.store.run_guest(&name, &disks, machine.writes)
        } else {
            self.store.stop_guest(&name)
        }
    }
}

/// Shared host.
pub(crate) type SharedHost = Arc<Host>;
