//! Two simulated Hyper-V hosts, whose disks a Samba serves. They note the digest of every disk at each checkpoint.

use super::{DATA_DISK_BYTES, DATA_SEED, DATA_USED_BYTES, GENERATED_SYSTEM_BYTES, GENERATED_SYSTEM_USED_BYTES};
use super::{MACHINE, SYSTEM_DISK, SYSTEM_SEED, Side, TAIL_BYTES};
use db::{HyperVAccess, Platform, Transport};
use engine::HostAccess;
use secrecy::SecretString;
use simulators::SimulatorError;
use simulators::hyperv::{Content, DiskSpec, HostConfig, MachineSpec, MachineView, SimulatedHost};
use std::path::{Path, PathBuf};

/// Another way in for each host, so that both are tried.
const TRANSPORTS: [Transport; 2] = [Transport::TlsNtlm, Transport::SealedHttp];

pub struct Pair {
    source: SimulatedHost,
    target: SimulatedHost,
}

impl Pair {
    pub async fn start(work: &Path, guest: Option<&Path>) -> Result<Self, SimulatorError> {
        let source = start(work, "SIM-SOURCE", vec![machine(guest)]).await?;
        let target = start(work, "SIM-TARGET", Vec::new()).await?;
        Ok(Self { source, target })
    }

    pub fn access(&self, side: Side) -> HostAccess {
        let [source, target] = TRANSPORTS;
        let (host, transport) = match side {
            Side::Source => (&self.source, source),
            Side::Target => (&self.target, target),
        };
        let sealed = transport == Transport::SealedHttp;
        let control = if sealed { host.http_address() } else { host.tls_address() };
        HostAccess {
            platform: Platform::HyperV,
            host: control.ip().to_string(),
            port: control.port(),
            account: "Administrator".to_owned(),
            password: SecretString::from("simulated"),
            certificate_sha256: (!sealed).then(|| host.certificate_sha256()),
            hyperv: HyperVAccess { transport, share_port: host.smb_address().map_or(0, |address| address.port()) },
        }
    }

    pub fn system_disk_bytes(&self) -> u64 {
        let disks = found(&self.source, MACHINE).map(|machine| machine.disks).unwrap_or_default();
        disks.get(SYSTEM_DISK).and_then(|disk| self.source.store().size(disk.id).ok()).unwrap_or(TAIL_BYTES)
    }

    pub fn write(&self, disk: usize, offset: u64, bytes: &[u8]) -> Result<(), SimulatorError> {
        let machine = found(&self.source, MACHINE)?;
        match machine.disks.get(disk) {
            Some(disk) if machine.on => self.source.store().write(disk.id, offset, bytes),
            _ => Ok(()),
        }
    }

    pub fn held(&self) -> Option<Vec<String>> {
        self.source.recorded_digests(MACHINE)
    }

    pub fn compare(&self, name: &str, held: &[String]) -> Result<usize, String> {
        let disks = found(&self.target, name).map_err(|error| error.to_string())?.disks;
        if disks.len() != held.len() {
            return Err(format!("{} disks restored of {}", disks.len(), held.len()));
        }
        for (number, (disk, held)) in (1..).zip(disks.iter().zip(held)) {
            let restored = self.target.store().digest(disk.id).map_err(|error| error.to_string())?;
            if restored != *held {
                return Err(format!("disk {number} has SHA-256 {restored} instead of {held}"));
            }
        }
        Ok(held.len())
    }

    pub fn left_behind(&self) -> Result<Option<String>, SimulatorError> {
        let machine = found(&self.source, MACHINE)?;
        let mut files = 0;
        for disk in &machine.disks {
            files += self.source.store().chain(disk.id)?.len() - 1;
        }
        // One for the newest point and one for the last full, which later runs ask with.
        let (checkpoints, marks) = (machine.snapshots.len(), machine.reference_points.len());
        let crimes = self.source.crimes().len() + self.target.crimes().len();
        let well = checkpoints == 0 && files == 0 && marks <= 2 && crimes == 0 && machine.on;
        Ok((!well).then(|| {
            format!(
                "{checkpoints} checkpoints, {files} differencing files, {marks} reference points, {crimes} wrong \
                 requests, running: {}",
                machine.on
            )
        }))
    }

    /// Raw copies, as other programs read them.
    pub fn restored_disks(&self, work: &Path) -> Result<Vec<(i32, PathBuf)>, SimulatorError> {
        let Some(machine) = self.target.machines().into_iter().max_by(|one, two| one.name.cmp(&two.name)) else {
            return Ok(Vec::new());
        };
        let mut restored = Vec::new();
        for (number, disk) in (1..).zip(&machine.disks) {
            let path = work.join(format!("restored-{number}.raw"));
            self.target.store().copy_raw(&disk.path, &path)?;
            restored.push((number, path));
        }
        Ok(restored)
    }

    pub async fn stop(self) {
        self.target.stop().await;
        self.source.stop().await;
    }
}

fn found(host: &SimulatedHost, name: &str) -> Result<MachineView, SimulatorError> {
    host.machine(name).ok_or_else(|| SimulatorError::Unknown { name: name.to_owned() })
}

fn machine(guest: Option<&Path>) -> MachineSpec {
    let system = match guest {
        Some(path) => {
            let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
            DiskSpec::new(bytes + TAIL_BYTES, Content::Raw(path.to_owned()))
        }
        None => DiskSpec::new(
            GENERATED_SYSTEM_BYTES + TAIL_BYTES,
            Content::Pattern { seed: SYSTEM_SEED, used_bytes: GENERATED_SYSTEM_USED_BYTES },
        ),
    };
    let data = Content::Pattern { seed: DATA_SEED, used_bytes: DATA_USED_BYTES };
    let disks = vec![system, DiskSpec::new(DATA_DISK_BYTES, data)];
    // Of generation 1: its BIOS and IDE are what every emulator has, to start the restored disk in.
    MachineSpec { on: true, generation: 1, disks, ..MachineSpec::new(MACHINE) }
}

async fn start(work: &Path, name: &str, machines: Vec<MachineSpec>) -> Result<SimulatedHost, SimulatorError> {
    let config = HostConfig { machines, records_digests: true, ..HostConfig::new(name, work.join(name)) };
    SimulatedHost::start(config).await
}
