//! What the Hyper-V driver's tests share: a simulated host in a folder of its own, and reading its disks.

use domain::machine::Quiesce;
use domain::point::ChangeMark;
use futures_util::StreamExt as _;
use hypervisor::hyperv::{ConnectOptions, HyperVHost, Timeouts, Transport};
use hypervisor::{Areas, DiskReader, FullReads, MachineRef, SnapshotRequest};
use sha2::{Digest as _, Sha256};
use simulators::hyperv::{
    Content, DiskKind, DiskSpec, GuestWrites, HostConfig, MachineSpec, MachineView, SimulatedHost,
};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;
pub const SECOND: Duration = Duration::from_secs(1);

/// A simulated host in a folder of its own.
pub struct Lab {
    pub host: SimulatedHost,
    _folder: TempDir,
}

/// A running machine of generation 2 with two disks, whose guest writes when it is told to.
pub fn web() -> MachineSpec {
    let disk = |size, seed| DiskSpec::new(size, Content::Pattern { seed, used_bytes: size / 2 });
    MachineSpec {
        on: true,
        disks: vec![disk(24 * MIB, 1), DiskSpec { kind: DiskKind::Fixed, ..disk(8 * MIB, 2) }],
        writes: Some(GuestWrites { bytes_per_second: 0, seed: 3 }),
        ..MachineSpec::new("web")
    }
}

impl Lab {
    pub async fn with(machines: Vec<MachineSpec>) -> Self {
        Self::with_config(machines, |_| {}).await
    }

    pub async fn with_config(machines: Vec<MachineSpec>, change: impl FnOnce(&mut HostConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = HostConfig::new("HV-A", folder.path().join("host"));
        config.limits.job_delay = Duration::from_millis(20);
        config.machines = machines;
        change(&mut config);
        Self { host: SimulatedHost::start(config).await.expect("a simulated host"), _folder: folder }
    }

    /// How to reach the host, with a test's patience.
    pub fn options(&self, transport: Transport) -> ConnectOptions {
        let control = match transport {
            Transport::SealedHttp => self.host.http_address(),
            Transport::TlsNtlm | Transport::TlsBasic => self.host.tls_address(),
        };
        ConnectOptions {
            host: "127.0.0.1".into(),
            port: control.port(),
            share_port: self.host.smb_address().expect("its drive is served").port(),
            account: "Administrator".into(),
            password: "simulated".to_owned().into(),
            certificate_sha256: self.host.certificate_sha256(),
            transport,
            full_reads: FullReads::AllocatedAreas,
            timeouts: Timeouts { settle: 10 * SECOND, back_off: SECOND / 50, ..Timeouts::default() },
        }
    }

    pub async fn connect(&self, transport: Transport) -> HyperVHost {
        HyperVHost::connect(self.options(transport)).await.expect("a session")
    }

    /// The same, with other waiting times.
    pub async fn connect_with(&self, change: impl FnOnce(&mut Timeouts)) -> HyperVHost {
        let mut options = self.options(Transport::TlsNtlm);
        change(&mut options.timeouts);
        HyperVHost::connect(options).await.expect("a session")
    }

    pub fn machine(&self, name: &str) -> MachineView {
        self.host.machine(name).expect("the machine")
    }

    pub fn reference(&self, name: &str) -> MachineRef {
        MachineRef(self.machine(name).id)
    }

    pub fn guest_writes(&self, name: &str) {
        self.host.store().guest_burst(&self.machine(name).id, 2 * MIB);
    }

    /// SHA-256 of each disk as the guest has it now.
    pub fn digests(&self, name: &str) -> Vec<String> {
        let disks = self.machine(name).disks;
        disks.iter().map(|disk| self.host.store().digest(disk.id).expect("a digest")).collect()
    }

    /// Nothing of a backup is left, and the client broke no rule.
    pub fn assert_clean(&self, name: &str) {
        let machine = self.machine(name);
        assert!(machine.snapshots.is_empty(), "{:?}", machine.snapshots);
        assert!(self.host.crimes().is_empty(), "{:?}", self.host.crimes());
        assert_eq!(self.host.open_enumerations(), 0);
    }
}

pub fn request(name: &str) -> SnapshotRequest {
    SnapshotRequest { name: format!("stillframe-{name}"), description: "test".into(), quiesce: Quiesce::Prefer }
}

pub fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Reads what changed since `mark`, or what is allocated, into `copy`; returns how many bytes that were.
pub async fn read_into(copy: &mut Vec<u8>, disk: &Arc<dyn DiskReader>, mark: Option<&ChangeMark>) -> u64 {
    let areas = match mark {
        Some(mark) => disk.changed_since(mark).await.expect("what changed"),
        None => disk.allocated().await.expect("what is allocated"),
    };
    let Areas::Known(areas) = areas else { panic!("{areas:?}") };
    copy.resize(disk.size_bytes() as usize, 0);
    for area in &areas {
        let mut at = area.offset as usize;
        let mut stream = disk.stream(*area);
        while let Some(piece) = stream.next().await {
            let piece = piece.expect("bytes");
            copy[at..at + piece.len()].copy_from_slice(&piece);
            at += piece.len();
        }
        assert_eq!(at as u64, area.end());
    }
    domain::extent::total_bytes(&areas)
}
