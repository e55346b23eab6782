//! A machine: its configuration, its disks, its power, its snapshots.
//!
//! Owns: every change of these. One lock per machine (held by [`super::host::Host`]'s map) is the machine's stun: guest writes
//! and snapshots exclude each other, so a snapshot is one instant over all disks. Must never wait for a client under that lock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::config::{Firmware, GuestWrites, NicModel, Power};
use super::disk::Disk;
use super::disk::tracking::State;
use super::fault::SoapFault;
use super::locks::FileLocks;
use super::value::MoRef;
use crate::content::Generator;

/// Snapshots of a machine; a host refuses more.
const SNAPSHOTS_MAX: usize = 32;
/// One write of a guest, in bytes, at most.
const GUEST_WRITE_BYTES_MAX: u64 = 64 << 10;

/// Kinds of disk controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ControllerKind {
    ParaVirtual,
    LsiLogic,
    LsiLogicSas,
    BusLogic,
    Ahci,
    Nvme,
    Ide,
}

impl ControllerKind {
    pub const ALL: [Self; 7] =
        [Self::ParaVirtual, Self::LsiLogic, Self::LsiLogicSas, Self::BusLogic, Self::Ahci, Self::Nvme, Self::Ide];

    pub const fn type_name(self) -> &'static str {
        match self {
            Self::ParaVirtual => "ParaVirtualSCSIController",
            Self::LsiLogic => "VirtualLsiLogicController",
            Self::LsiLogicSas => "VirtualLsiLogicSASController",
            Self::BusLogic => "VirtualBusLogicController",
            Self::Ahci => "VirtualAHCIController",
            Self::Nvme => "VirtualNVMEController",
            Self::Ide => "VirtualIDEController",
        }
    }

    pub const fn is_scsi(self) -> bool {
        matches!(self, Self::ParaVirtual | Self::LsiLogic | Self::LsiLogicSas | Self::BusLogic)
    }

    /// The key a host gives the controller of that bus.
    pub const fn key(self, bus: i32) -> i32 {
        match self {
            Self::Ahci => 15_000 + bus,
            Self::Nvme => 31_000 + bus,
            Self::Ide => 200 + bus,
            _ => 1000 + bus,
        }
    }

    /// Units on one controller, and the key of the first disk of the bus.
    const fn slots(self) -> (i32, i32) {
        match self {
            Self::Ahci => (30, 16_000),
            Self::Nvme => (15, 32_000),
            Self::Ide => (2, 3000),
            _ => (16, 2000),
        }
    }

    /// The key a host gives the disk of that slot; `None` when there is no such slot.
    pub fn disk_key(self, bus: i32, unit: i32) -> Option<i32> {
        let (units, first) = self.slots();
        let reserved = self.is_scsi() && unit == 7;
        ((0..units).contains(&unit) && !reserved).then_some(first + bus * units + unit)
    }
}

/// A disk controller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Controller {
    pub key: i32,
    pub kind: ControllerKind,
    pub bus: i32,
}

/// A network adapter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Nic {
    pub key: i32,
    pub model: NicModel,
    pub network: String,
    pub mac: String,
    /// `assigned`, `generated` or `manual`.
    pub address_type: String,
    pub start_connected: bool,
    pub connected: bool,
}

/// A disk as a snapshot froze it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FrozenDisk {
    pub key: i32,
    pub capacity: u64,
    pub link: u32,
    pub change_id: Option<String>,
    /// False for disks that snapshots leave out.
    pub frozen: bool,
}

/// A snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub number: i32,
    pub name: String,
    pub description: String,
    pub parent: Option<i32>,
    pub created: Timestamp,
    pub power: Power,
    pub quiesced: bool,
    pub disks: Vec<FrozenDisk>,
}

/// A machine.
#[derive(Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // independent facts, not a state machine
pub(crate) struct Machine {
    /// Id of its managed object.
    pub id: String,
    pub name: String,
    pub bios_uuid: Uuid,
    pub instance_uuid: Uuid,
    pub guest_id: String,
    pub firmware: Firmware,
    pub secure_boot: bool,
    pub processors: u32,
    pub memory_mib: u64,
    pub hardware_version: String,
    pub annotation: String,
    pub extra: Vec<(String, String)>,
    pub datastore: String,
    /// Folder on the datastore.
    pub folder: String,
    /// Name of the `.vmx` without extension.
    pub stem: String,
    /// The folder on our disk.
    #[serde(skip)]
    pub dir: PathBuf,
    pub power: Power,
    pub boot_time: Option<Timestamp>,
    pub tracking_enabled: bool,
    pub controllers: Vec<Controller>,
    pub nics: Vec<Nic>,
    pub disks: Vec<Disk>,
    pub snapshots: Vec<Snapshot>,
    pub current_snapshot: Option<i32>,
    pub next_snapshot: i32,
    pub consolidation_needed: bool,
    pub writes: Option<GuestWrites>,
    /// VMware Tools run in the guest while it runs.
    #[serde(default = "has_tools")]
    pub tools: bool,
    /// Path of its resource pool; empty is the host's own.
    #[serde(default)]
    pub pool: String,
    /// An import that has not completed; such a machine is removed at the next start.
    pub importing: bool,
    /// The task that works on it.
    #[serde(skip)]
    pub busy: Option<MoRef>,
    /// A lease holds it.
    #[serde(skip)]
    pub leased: bool,
    #[serde(skip)]
    pub writer: Option<Box<Generator>>,
}

const fn has_tools() -> bool {
    true
}

impl Machine {
    pub fn moref(&self) -> MoRef {
        MoRef::new("VirtualMachine", &self.id)
    }

    pub fn snapshot_ref(&self, number: i32) -> MoRef {
        MoRef::new("VirtualMachineSnapshot", format!("{}-snapshot-{number}", self.id))
    }

    pub fn snapshot(&self, number: i32) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.number == number)
    }

    pub fn running(&self) -> bool {
        self.power == Power::On
    }

    /// `[datastore] folder/file`.
    pub fn datastore_path(&self, file: &str) -> String {
        format!("[{}] {}/{file}", self.datastore, self.folder)
    }

    /// The datastore path of a file of ours.
    pub fn shown_path(&self, path: &Path) -> String {
        self.datastore_path(&path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default())
    }

    pub fn disk(&self, key: i32) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.key == key)
    }

    pub fn controller(&self, key: i32) -> Option<&Controller> {
        self.controllers.iter().find(|controller| controller.key == key)
    }

    /// Data files of all disks.
    pub fn data_paths(&self) -> Vec<PathBuf> {
        self.disks.iter().flat_map(Disk::data_paths).collect()
    }

    /// Refuses when a lease holds the machine.
    pub fn check_unleased(&self) -> Result<(), SoapFault> {
        if self.leased { Err(SoapFault::locked(&self.datastore_path(&format!("{}.vmx", self.stem)))) } else { Ok(()) }
    }

    /// Freezes all disks; answers the snapshot's number.
    pub fn create_snapshot(
        &mut self,
        name: &str,
        description: &str,
        quiesced: bool,
        now: Timestamp,
    ) -> Result<i32, SoapFault> {
        if self.snapshots.len() >= SNAPSHOTS_MAX {
            return Err(SoapFault::new("SnapshotFault", "Too many snapshots."));
        }
        let mut disks = Vec::new();
        for disk in &mut self.disks {
            let frozen = disk.mode.in_snapshots();
            let change_id = frozen.then(|| disk.tracking.change_id()).flatten();
            let link = if frozen { disk.freeze()? } else { disk.top };
            if frozen {
                disk.tracking.next_epoch()?;
            }
            disks.push(FrozenDisk { key: disk.key, capacity: disk.capacity, link, change_id, frozen });
        }
        let number = self.next_snapshot;
        self.next_snapshot += 1;
        self.snapshots.push(Snapshot {
            number,
            name: name.to_owned(),
            description: description.to_owned(),
            parent: self.current_snapshot,
            created: now,
            power: self.power,
            quiesced,
            disks,
        });
        self.current_snapshot = Some(number);
        Ok(number)
    }

    /// Takes snapshots out of the tree: one, or with all its descendants. Their files stay until [`Self::consolidate`].
    pub fn forget_snapshots(&mut self, number: i32, with_children: bool) {
        let parent = self.snapshot(number).and_then(|snapshot| snapshot.parent);
        let mut gone = BTreeSet::from([number]);
        if with_children {
            // Children have higher numbers than their parents.
            for snapshot in &self.snapshots {
                if snapshot.parent.is_some_and(|parent| gone.contains(&parent)) {
                    gone.insert(snapshot.number);
                }
            }
        }
        self.snapshots.retain(|snapshot| !gone.contains(&snapshot.number));
        for snapshot in &mut self.snapshots {
            if snapshot.parent.is_some_and(|parent| gone.contains(&parent)) {
                snapshot.parent = parent;
            }
        }
        if self.current_snapshot.is_some_and(|current| gone.contains(&current)) {
            self.current_snapshot = parent;
        }
    }

    /// Merges what no snapshot needs. A file with a reader stops it: `consolidationNeeded` stays set.
    pub fn consolidate(&mut self, locks: &FileLocks) -> Result<(), SoapFault> {
        self.consolidation_needed = true;
        for index in 0..self.disks.len() {
            let Some(disk) = self.disks.get_mut(index) else { continue };
            let key = disk.key;
            let snapshots = self.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
            let mut frozen: BTreeSet<u32> =
                snapshots.filter(|frozen| frozen.key == key && frozen.frozen).map(|frozen| frozen.link).collect();
            let (renamed, blocked) = disk.collapse(&mut frozen, &|path| locks.is_held(path))?;
            for (old, new) in renamed {
                let all = self.snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.disks);
                for frozen in all.filter(|frozen| frozen.key == key && frozen.link == old) {
                    frozen.link = new;
                }
            }
            if let Some(path) = blocked {
                return Err(SoapFault::locked(&self.shown_path(&path)));
            }
        }
        self.consolidation_needed = false;
        Ok(())
    }

    /// A stun: tracking that waited for one begins.
    pub fn stun(&mut self) -> Result<(), SoapFault> {
        for disk in self.disks.iter_mut().filter(|disk| disk.tracking.state == State::Pending) {
            disk.tracking.activate()?;
        }
        Ok(())
    }

    /// Switches change tracking on or off. On a running machine it begins with the next stun only.
    pub fn set_tracking(&mut self, enabled: bool) -> Result<(), SoapFault> {
        self.tracking_enabled = enabled;
        let running = self.running();
        for disk in self.disks.iter_mut().filter(|disk| disk.mode.in_snapshots()) {
            match (enabled, disk.tracking.state) {
                (false, _) => disk.tracking.stop(),
                (true, State::Off) if running => disk.tracking.state = State::Pending,
                (true, State::Off) => disk.tracking.activate()?,
                (true, _) => {}
            }
        }
        Ok(())
    }

    /// Goes back to a snapshot. Change tracking starts over.
    pub fn revert(&mut self, number: i32) -> Result<(), SoapFault> {
        let Some(snapshot) = self.snapshot(number).cloned() else {
            return Err(SoapFault::not_found(&self.snapshot_ref(number)));
        };
        for disk in &mut self.disks {
            let Some(frozen) = snapshot.disks.iter().find(|frozen| frozen.key == disk.key && frozen.frozen) else {
                continue;
            };
            disk.revert(frozen.link)?;
        }
        self.current_snapshot = Some(number);
        // Without memory in the snapshot the machine comes back powered off.
        self.power = Power::Off;
        Ok(())
    }

    /// Powers on. Fails when a disk file has a reader or a lease holds the machine.
    pub fn power_on(&mut self, locks: &FileLocks, now: Timestamp) -> Result<(), SoapFault> {
        if self.running() {
            return Err(SoapFault::power_state("poweredOn", Some("poweredOn")));
        }
        self.check_unleased()?;
        if let Some(path) = self.disks.iter().map(|disk| disk.data_path(disk.top)).find(|path| locks.is_held(path)) {
            return Err(SoapFault::locked(&self.shown_path(&path)));
        }
        self.stun()?;
        for disk in &mut self.disks {
            disk.tracking.next_epoch()?;
        }
        self.power = Power::On;
        self.boot_time = Some(now);
        Ok(())
    }

    /// Powers off.
    pub fn power_off(&mut self) -> Result<(), SoapFault> {
        if !self.running() {
            return Err(SoapFault::power_state("poweredOff", Some("poweredOff")));
        }
        self.power = Power::Off;
        self.boot_time = None;
        Ok(())
    }

    /// What the guest writes in one tick: `bytes` at most, at places and with contents that its seed decides.
    pub fn guest_tick(&mut self, bytes: u64) {
        if self.writes.is_some() && self.running() {
            self.guest_write(bytes);
        }
    }

    /// Lets its guest write so much, whether it writes by itself or not.
    pub fn guest_write(&mut self, bytes: u64) {
        let seed = self.writes.map_or(1, |writes| writes.seed);
        let mut generator = self.writer.take().unwrap_or_else(|| Box::new(Generator::new(seed)));
        let mut rest = bytes;
        while rest > 0 && !self.disks.is_empty() {
            let index = generator.random().below(self.disks.len() as u64) as usize;
            let length = (4096 << generator.random().below(5)).min(GUEST_WRITE_BYTES_MAX);
            let Some(disk) = self.disks.get_mut(index) else { break };
            // Most writes hit the first eighth, as logs and hot tables do.
            let part = if generator.random().below(5) < 4 { disk.capacity / 8 } else { disk.capacity };
            let offset = generator.random().below(part.saturating_sub(length)) / 4096 * 4096;
            let length = length.min(disk.capacity.saturating_sub(offset)).min(rest.max(4096));
            let mut buffer = vec![0; length as usize];
            generator.fill(&mut buffer);
            if let Err(error) = disk.write(offset, &buffer, true) {
                tracing::warn!(machine = self.name, %error, "guest write failed");
                break;
            }
            rest = rest.saturating_sub(length.max(1));
        }
        self.writer = Some(generator);
    }
}
