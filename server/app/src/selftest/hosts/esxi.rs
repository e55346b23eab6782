//! Two simulated ESXi hosts. They keep a copy of every disk as it was at each snapshot.

use super::super::compare::first_difference;
use super::{DATA_DISK_BYTES, DATA_SEED, DATA_USED_BYTES, GENERATED_SYSTEM_BYTES, GENERATED_SYSTEM_USED_BYTES};
use super::{MACHINE, SYSTEM_DISK, SYSTEM_SEED, Side, TAIL_BYTES};
use db::{HyperVAccess, Platform};
use engine::HostAccess;
use secrecy::SecretString;
use simulators::SimulatorError;
use simulators::esxi::{DiskContent, DiskSpec, HostConfig, MachineSpec, Power, SimulatedHost, SnapshotRecord};
use std::path::{Path, PathBuf};

pub struct Pair {
    source: SimulatedHost,
    target: SimulatedHost,
}

impl Pair {
    pub async fn start(work: &Path, guest: Option<&Path>) -> Result<Self, SimulatorError> {
        let source = start(work, "simulated-source", vec![machine(guest)]).await?;
        let target = start(work, "simulated-target", Vec::new()).await?;
        Ok(Self { source, target })
    }

    pub fn access(&self, side: Side) -> HostAccess {
        let host = match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        };
        let address = host.address();
        HostAccess {
            platform: Platform::Esxi,
            host: address.ip().to_string(),
            port: address.port(),
            account: "root".to_owned(),
            password: SecretString::from("simulated"),
            certificate_sha256: Some(host.certificate_sha256()),
            hyperv: HyperVAccess::default(),
        }
    }

    pub fn system_disk_bytes(&self) -> u64 {
        let disks = self.source.machine(MACHINE).map(|machine| machine.disks).unwrap_or_default();
        disks.get(SYSTEM_DISK).map_or(TAIL_BYTES, |disk| disk.capacity_bytes)
    }

    pub fn write(&self, disk: usize, offset: u64, bytes: &[u8]) -> Result<(), SimulatorError> {
        let machine = self.source.machine(MACHINE)?;
        match machine.disks.get(disk) {
            Some(disk) if machine.power == Power::On => self.source.write(MACHINE, disk.key, offset, bytes),
            _ => Ok(()),
        }
    }

    /// The run's own snapshot is the last one: a first one may only have made change tracking take effect.
    pub fn held(&self) -> Option<SnapshotRecord> {
        self.source.snapshot_records().into_iter().rfind(|record| record.machine == MACHINE)
    }

    /// Keys may differ on the new host; the order does not.
    pub fn compare(&self, name: &str, record: &SnapshotRecord) -> Result<usize, String> {
        let machine = self.target.machine(name).map_err(|error| error.to_string())?;
        if machine.disks.len() != record.disks.len() {
            return Err(format!("{} disks restored of {}", machine.disks.len(), record.disks.len()));
        }
        for (restored, held) in machine.disks.iter().zip(&record.disks) {
            let difference = first_difference(&restored.base_file, &held.file)
                .map_err(|error| format!("disk {} cannot be compared: {error}", held.key))?;
            if let Some(offset) = difference {
                return Err(format!("disk {} differs at byte {offset}", held.key));
            }
        }
        Ok(record.disks.len())
    }

    pub fn left_behind(&self) -> Result<Option<String>, SimulatorError> {
        let machine = self.source.machine(MACHINE)?;
        let left = machine.snapshots.len();
        Ok((left > 0 || machine.consolidation_needed || machine.power != Power::On)
            .then(|| format!("{left} snapshots, power {:?}", machine.power)))
    }

    pub fn restored_disks(&self) -> Result<Vec<(i32, PathBuf)>, SimulatorError> {
        let Some(name) = self.target.machine_names().into_iter().max() else { return Ok(Vec::new()) };
        let disks = self.target.machine(&name)?.disks;
        Ok(disks.into_iter().map(|disk| (disk.key, disk.base_file)).collect())
    }

    pub async fn stop(self) {
        self.target.stop().await;
        self.source.stop().await;
    }
}

fn machine(guest: Option<&Path>) -> MachineSpec {
    let system = match guest {
        Some(path) => {
            let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
            DiskSpec::new(bytes + TAIL_BYTES, DiskContent::Raw(path.to_owned()))
        }
        None => DiskSpec::new(
            GENERATED_SYSTEM_BYTES + TAIL_BYTES,
            DiskContent::Generated { seed: SYSTEM_SEED, used_bytes: GENERATED_SYSTEM_USED_BYTES },
        ),
    };
    let data = DiskContent::Generated { seed: DATA_SEED, used_bytes: DATA_USED_BYTES };
    let disks = vec![system, DiskSpec::new(DATA_DISK_BYTES, data)];
    MachineSpec { power: Power::On, disks, ..MachineSpec::new(MACHINE) }
}

async fn start(work: &Path, name: &str, machines: Vec<MachineSpec>) -> Result<SimulatedHost, SimulatorError> {
    let config = HostConfig { machines, record_snapshots: true, ..HostConfig::new(name, work.join(name)) };
    SimulatedHost::start(config).await
}
