//! Hosts that are not there: thousands of machines with a few blocks of data each, which answer at once.

use async_trait::async_trait;
use bytes::Bytes;
use db::Platform;
use domain::Extent;
use domain::machine::{Controller, ControllerKind, DiskConfig, Firmware, MachineConfig, PowerState};
use domain::point::{ChangeMark, Consistency};
use engine::{ConnectTarget, Connector};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use hypervisor::{
    Areas, DatastoreInfo, DevicePreflight, DiskPlace, DiskReader, HostSnapshot, Hypervisor, Inventory, MachineInfo,
    MachineRef, OwnSnapshot, RestoreRequest, RestoreTarget, Result, Sealed, ShutDown, Snapshot, SnapshotRef,
    SnapshotRequest, TrackingState,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DISK_BYTES: u64 = 16 << 20;
const USED_BYTES: u64 = 64 << 10;

/// All hosts, by their address: what each holds, and what it was asked to do.
#[derive(Default)]
pub struct Fleet {
    machines: usize,
    /// Snapshots that stand now, by name of the machine.
    standing: Mutex<HashMap<String, String>>,
    /// Snapshots that were ever made.
    pub made: AtomicU64,
    /// Most that stood at once.
    pub most: AtomicU64,
}

impl Fleet {
    /// Each host holds so many machines.
    pub fn new(machines: usize) -> Arc<Self> {
        Arc::new(Self { machines, ..Self::default() })
    }

    /// Snapshots that stand.
    pub fn standing(&self) -> usize {
        self.standing.lock().expect("the fleet").len()
    }
}

/// Connects to any of them.
pub struct FleetConnector(pub Arc<Fleet>);

#[async_trait]
impl Connector for FleetConnector {
    async fn connect(&self, target: &ConnectTarget) -> Result<Arc<dyn Hypervisor>> {
        assert_eq!(target.platform, Platform::Esxi);
        Ok(Arc::new(Synthetic { name: target.host.clone(), fleet: Arc::clone(&self.0) }))
    }

    async fn probe_certificate(&self, _: &str, _: u16) -> Result<[u8; 32]> {
        Ok([7; 32])
    }
}

struct Synthetic {
    name: String,
    fleet: Arc<Fleet>,
}

impl Synthetic {
    fn info(&self, number: usize) -> MachineInfo {
        let name = format!("{}-{number:05}", self.name);
        let disk = DiskConfig {
            key: 2000,
            label: "Hard disk 1".to_owned(),
            capacity_bytes: DISK_BYTES,
            controller_key: 1000,
            unit: 0,
            uuid: Some(format!("disk of {name}")),
            thin: true,
            ..DiskConfig::default()
        };
        let place = DiskPlace {
            key: disk.key,
            label: disk.label.clone(),
            capacity_bytes: DISK_BYTES,
            datastore: format!("datastore{}", number % 4),
            path: format!("[datastore] {name}.vmdk"),
            uuid: disk.uuid.clone(),
        };
        MachineInfo {
            reference: MachineRef(number.to_string()),
            config: MachineConfig {
                name: name.clone(),
                guest_id: "debian12_64Guest".to_owned(),
                firmware: Firmware::Bios,
                processors: 1,
                memory_mib: 512,
                hardware_version: "vmx-19".to_owned(),
                instance_uuid: Some(name),
                controllers: vec![Controller { key: 1000, kind: ControllerKind::ParavirtualScsi, bus: 0 }],
                disks: vec![disk],
                ..MachineConfig::default()
            },
            power: PowerState::On,
            guest_name: "Debian GNU/Linux 12".to_owned(),
            guest_address: None,
            folder: String::new(),
            pool: String::new(),
            disks: vec![place],
            tracking_enabled: true,
            findings: Vec::new(),
        }
    }

    fn name_of(&self, machine: &MachineRef) -> String {
        format!("{}/{}", self.name, machine.0)
    }
}

#[async_trait]
impl Hypervisor for Synthetic {
    async fn preflight(&self) -> Result<DevicePreflight> {
        Ok(DevicePreflight {
            product: "Synthetic".to_owned(),
            api_version: "1".to_owned(),
            host_uuid: Some(self.name.clone()),
            findings: Vec::new(),
        })
    }

    async fn inventory(&self) -> Result<Inventory> {
        let machines = (0..self.fleet.machines).map(|number| self.info(number)).collect();
        Ok(Inventory { machines, datastores: self.datastores().await?, networks: Vec::new(), snapshots: Vec::new() })
    }

    async fn datastores(&self) -> Result<Vec<DatastoreInfo>> {
        let store = |number: usize| DatastoreInfo {
            reference: format!("ds-{number}"),
            name: format!("datastore{number}"),
            kind: "VMFS".to_owned(),
            capacity_bytes: 1 << 40,
            free_bytes: 1 << 39,
            accessible: true,
        };
        Ok((0..4).map(store).collect())
    }

    async fn machine(&self, machine: &MachineRef) -> Result<MachineInfo> {
        Ok(self.info(machine.0.parse().expect("a number")))
    }

    async fn enable_tracking(&self, _: &MachineRef) -> Result<TrackingState> {
        Ok(TrackingState::Active)
    }

    async fn create_snapshot(&self, machine: &MachineRef, request: &SnapshotRequest) -> Result<Snapshot> {
        let mut standing = self.fleet.standing.lock().expect("the fleet");
        let before = standing.insert(self.name_of(machine), request.name.clone());
        assert!(before.is_none(), "{} is backed up twice at once", self.name_of(machine));
        self.fleet.most.fetch_max(standing.len() as u64, Ordering::Relaxed);
        self.fleet.made.fetch_add(1, Ordering::Relaxed);
        Ok(Snapshot {
            reference: SnapshotRef(request.name.clone()),
            consistency: Consistency::Crash,
            config: self.info(machine.0.parse().expect("a number")).config,
            warnings: Vec::new(),
        })
    }

    async fn seal_snapshot(&self, _: &MachineRef, snapshot: &Snapshot) -> Result<Sealed> {
        let mark = |disk: &DiskConfig| ChangeMark {
            disk_key: disk.key,
            disk_uuid: disk.uuid.clone(),
            capacity_bytes: disk.capacity_bytes,
            token: snapshot.reference.0.clone(),
        };
        Ok(Sealed { marks: snapshot.config.disks.iter().map(mark).collect(), unmarked: Vec::new() })
    }

    async fn forget_marks(&self, _: &MachineRef, _: &[ChangeMark]) -> Result<()> {
        Ok(())
    }

    async fn remove_snapshot(&self, machine: &MachineRef, _: &SnapshotRef) -> Result<()> {
        self.fleet.standing.lock().expect("the fleet").remove(&self.name_of(machine));
        Ok(())
    }

    async fn list_own_snapshots(&self, machine: &MachineRef) -> Result<Vec<OwnSnapshot>> {
        let standing = self.fleet.standing.lock().expect("the fleet");
        let own = |name: &String| OwnSnapshot { reference: SnapshotRef(name.clone()), name: name.clone() };
        Ok(standing.get(&self.name_of(machine)).map(own).into_iter().collect())
    }

    async fn list_snapshots(&self, _: &MachineRef) -> Result<Vec<HostSnapshot>> {
        Ok(Vec::new())
    }

    async fn open_disks(&self, machine: &MachineRef, snapshot: &Snapshot) -> Result<Vec<Arc<dyn DiskReader>>> {
        let seed = self.name_of(machine).bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
        let reader = |disk: &DiskConfig| Arc::new(Disk { key: disk.key, seed }) as Arc<dyn DiskReader>;
        Ok(snapshot.config.disks.iter().map(reader).collect())
    }

    async fn shut_down(&self, _: &MachineRef, _: Duration) -> Result<ShutDown> {
        unreachable!("only hot backups")
    }

    async fn power_off(&self, _: &MachineRef) -> Result<()> {
        unreachable!("only hot backups")
    }

    async fn power_on(&self, _: &MachineRef) -> Result<()> {
        unreachable!("only hot backups")
    }

    async fn create_target(&self, _: &RestoreRequest) -> Result<Box<dyn RestoreTarget>> {
        unreachable!("nothing is restored")
    }

    async fn remove_half_made(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn close(&self) {}
}

/// The first blocks hold what only this machine has; the rest is empty.
struct Disk {
    key: i32,
    seed: u64,
}

fn content(seed: u64, range: Extent) -> Bytes {
    let byte = |at: u64| {
        if at < USED_BYTES { (seed.wrapping_add(at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8 } else { 0 }
    };
    (range.offset..range.end()).map(byte).collect()
}

#[async_trait]
impl DiskReader for Disk {
    fn key(&self) -> i32 {
        self.key
    }

    fn size_bytes(&self) -> u64 {
        DISK_BYTES
    }

    fn tracks_changes(&self) -> bool {
        true
    }

    async fn changed_since(&self, _: &ChangeMark) -> Result<Areas> {
        Ok(Areas::Known(vec![Extent::new(0, 4096)]))
    }

    async fn allocated(&self) -> Result<Areas> {
        Ok(Areas::Known(vec![Extent::new(0, USED_BYTES)]))
    }

    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes>> {
        stream::iter([Ok(content(self.seed, range))]).boxed()
    }

    fn stream_areas(&self, areas: Vec<Extent>) -> BoxStream<'static, Result<(u64, Bytes)>> {
        let seed = self.seed;
        stream::iter(areas.into_iter().map(move |area| Ok((area.offset, content(seed, area))))).boxed()
    }

    fn lanes(&self) -> usize {
        1
    }
}
