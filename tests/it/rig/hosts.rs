//! Simulated hosts, and a connector whose patience is a test's.

use async_trait::async_trait;
use db::Platform;
use engine::drivers::{esxi_options, hyperv_options};
use engine::{ConnectTarget, Connector, HostAccess};
use hypervisor::esxi::{self, EsxiHost};
use hypervisor::hyperv::{self, HyperVHost};
use hypervisor::{HostError, Hypervisor, tls};
use simulators::esxi::{DiskContent, DiskSpec, HostConfig, MachineSpec, Power, SimulatedHost};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const COMPARE_BYTES: usize = 1 << 20;

/// The drivers with short patience.
pub struct QuickConnector;

#[async_trait]
impl Connector for QuickConnector {
    async fn connect(&self, target: &ConnectTarget) -> Result<Arc<dyn Hypervisor>, HostError> {
        let esxi = esxi::Timeouts {
            connect: SECOND,
            call: 10 * SECOND,
            stall: 5 * SECOND,
            create_snapshot: 20 * SECOND,
            remove_snapshot: 20 * SECOND,
            back_off: SECOND / 50,
            ..esxi::Timeouts::default()
        };
        let hyperv = hyperv::Timeouts {
            connect: 2 * SECOND,
            call: 10 * SECOND,
            job: 20 * SECOND,
            create_snapshot: 20 * SECOND,
            remove_snapshot: 20 * SECOND,
            settle: 5 * SECOND,
            files_silent: 5 * SECOND,
            files_lost: 5 * SECOND,
            back_off: SECOND / 50,
        };
        Ok(match target.platform {
            Platform::Esxi => {
                let options = esxi::ConnectOptions { timeouts: esxi, ..esxi_options(target) };
                Arc::new(EsxiHost::connect(options).await?)
            }
            Platform::HyperV => {
                let options = hyperv::ConnectOptions { timeouts: hyperv, ..hyperv_options(target) };
                Arc::new(HyperVHost::connect(options).await?)
            }
        })
    }

    async fn probe_certificate(&self, host: &str, port: u16) -> Result<[u8; 32], HostError> {
        Ok(tls::probe_certificate(host, port, SECOND).await?.sha256)
    }
}

/// A simulated host that can become a device.
pub trait Host {
    fn name(&self) -> &str;

    /// How to sign in to it.
    fn access(&self) -> HostAccess;
}

/// A simulated ESXi host with its name.
pub struct Simulated {
    pub name: String,
    host: SimulatedHost,
}

impl Deref for Simulated {
    type Target = SimulatedHost;

    fn deref(&self) -> &SimulatedHost {
        &self.host
    }
}

impl Simulated {
    /// Starts it with its state below `folder`.
    pub async fn start(folder: &Path, name: &str, machines: Vec<MachineSpec>) -> Self {
        Self::with(HostConfig {
            machines,
            record_snapshots: true,
            ..HostConfig::new(name, folder.join("hosts").join(name))
        })
        .await
    }

    /// Without copies of disks at their snapshots.
    pub async fn quiet(folder: &Path, name: &str, machines: Vec<MachineSpec>) -> Self {
        Self::with(HostConfig { machines, ..HostConfig::new(name, folder.join("hosts").join(name)) }).await
    }

    pub async fn with(config: HostConfig) -> Self {
        let name = config.name.clone();
        Self { name, host: SimulatedHost::start(config).await.expect("a simulated host") }
    }

    pub async fn stop(self) {
        self.host.stop().await;
    }

    /// No machine has a snapshot, a delta file or a lease.
    pub fn is_clean(&self) -> bool {
        self.machine_names().iter().filter_map(|name| self.machine(name).ok()).all(|view| {
            let plain = view.disks.iter().all(|disk| disk.chain.len() == 1);
            view.snapshots.is_empty() && !view.consolidation_needed && !view.leased && plain
        })
    }

    /// No snapshot, no delta file, no machine but these.
    pub fn assert_clean(&self, machines: &[&str]) {
        let mut names = self.machine_names();
        names.sort();
        assert_eq!(names, machines, "machines of {}", self.name);
        for name in names {
            let view = self.machine(&name).expect("a machine");
            assert!(view.snapshots.is_empty(), "{name} has {:?}", view.snapshots);
            assert!(!view.consolidation_needed, "{name} needs consolidation");
            assert!(!view.leased, "{name} is leased");
            assert!(view.disks.iter().all(|disk| disk.chain.len() == 1), "{name} has deltas: {:?}", view.disks);
        }
    }

    /// Bytes that `/folder` answered, since request number `from`.
    pub fn folder_bytes(&self, from: usize) -> u64 {
        let reads = self.requests();
        let ranges = reads.iter().skip(from).filter(|read| read.what.contains("/folder")).filter_map(|read| read.range);
        ranges.map(|(first, last)| last - first + 1).sum()
    }
}

impl Host for Simulated {
    fn name(&self) -> &str {
        &self.name
    }

    fn access(&self) -> HostAccess {
        HostAccess {
            platform: Platform::Esxi,
            host: "127.0.0.1".to_owned(),
            port: self.host.address().port(),
            account: "root".to_owned(),
            password: "simulated".into(),
            certificate_sha256: Some(self.host.certificate_sha256()),
            hyperv: db::HyperVAccess::default(),
        }
    }
}

/// A machine with these disks: size and used bytes, in MiB.
pub fn machine(name: &str, disks: &[(u64, u64)]) -> MachineSpec {
    let seed = name.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let disks = disks.iter().zip(1..).map(|(&(size, used), number)| disk(size << 20, used << 20, seed + number));
    MachineSpec { power: Power::On, disks: disks.collect(), ..MachineSpec::new(name) }
}

fn disk(size_bytes: u64, used_bytes: u64, seed: u64) -> DiskSpec {
    DiskSpec::new(size_bytes, DiskContent::Generated { seed, used_bytes })
}

/// What the machine's disks held at the last snapshot of a job, by key.
pub fn frozen(host: &Simulated, job: db::JobId) -> Vec<(i32, PathBuf)> {
    let prefix = format!("stillframe-{job}-");
    let records = host.snapshot_records();
    let record = records.into_iter().rev().find(|record| record.snapshot.starts_with(&prefix)).expect("a record");
    record.disks.into_iter().map(|disk| (disk.key, disk.file)).collect()
}

/// Compares a disk of a point with a raw file.
pub async fn same_bytes(repository: &repository::Repository, point: db::PointId, key: i32, file: &Path) {
    let image = repository.open_disk(repository::PointId(point.0), key).await.expect("a disk");
    let expected = std::fs::read(file).expect("the frozen copy");
    assert_eq!(image.size_bytes(), expected.len() as u64, "size of disk {key}");
    for (index, piece) in expected.chunks(COMPARE_BYTES).enumerate() {
        let offset = (index * COMPARE_BYTES) as u64;
        let found = image.read_at(offset, piece.len()).await.expect("bytes");
        assert!(found == piece, "disk {key} of point {point} differs in the MiB at {offset}");
    }
}
