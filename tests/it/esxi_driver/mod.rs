//! The ESXi driver against the simulated host: whole backups and restores byte for byte, and everything a host can do
//! wrong. vcsim (see `vcsim.rs`) is the judge that shares no code; this one has real disks.

mod backup;
mod describe;
mod power;
mod restore;
mod trouble;

use domain::Extent;
use domain::machine::Quiesce;
use domain::point::ChangeMark;
use futures_util::StreamExt as _;
use hypervisor::esxi::{ConnectOptions, EsxiHost, Timeouts};
use hypervisor::{Areas, DiskReader, FullReads, HostError, Hypervisor, MachineRef, Snapshot, SnapshotRequest};
use simulators::esxi::{DiskContent, DiskSpec, HostConfig, MachineSpec, Power, Rule, SimulatedHost};
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const FLAT: &str = "-flat.vmdk";

/// A simulated host in a folder of its own.
struct Lab {
    host: SimulatedHost,
    folder: TempDir,
}

fn generated(size: u64, seed: u64) -> DiskSpec {
    DiskSpec::new(size, DiskContent::Generated { seed, used_bytes: size / 2 })
}

/// A running machine `web` with two disks and active change tracking.
fn web() -> MachineSpec {
    MachineSpec {
        power: Power::On,
        disks: vec![generated(24 * MIB, 1), generated(8 * MIB, 2)],
        tracking: true,
        ..MachineSpec::new("web")
    }
}

impl Lab {
    async fn with(change: impl FnOnce(&mut HostConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = HostConfig::new("esxi-a", folder.path().join("host"));
        config.record_snapshots = true;
        config.machines = vec![web()];
        change(&mut config);
        Self { host: SimulatedHost::start(config).await.expect("a simulated host"), folder }
    }

    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    fn options(&self) -> ConnectOptions {
        ConnectOptions {
            host: "127.0.0.1".into(),
            port: self.host.address().port(),
            account: "root".into(),
            password: "simulated".to_owned().into(),
            certificate_sha256: self.host.certificate_sha256(),
            full_reads: FullReads::AllocatedAreas,
            timeouts: Timeouts {
                back_off: Duration::from_millis(20),
                stall: Duration::from_secs(5),
                ..Timeouts::default()
            },
        }
    }

    async fn connect(&self) -> EsxiHost {
        EsxiHost::connect(self.options()).await.expect("a session")
    }

    fn fault(&self, rule: Rule) {
        self.host.faults().add(rule);
    }

    fn machine(&self, name: &str) -> MachineRef {
        MachineRef(self.host.machine(name).expect("the machine").moref)
    }

    /// What a disk held at a snapshot.
    fn frozen(&self, snapshot: &Snapshot, key: i32) -> PathBuf {
        let records = self.host.snapshot_records();
        let record = records.iter().find(|record| record.snapshot_id == snapshot.reference.0).expect("a record");
        record.disks.iter().find(|disk| disk.key == key).expect("the disk").file.clone()
    }
}

fn request(name: &str) -> SnapshotRequest {
    SnapshotRequest { name: format!("stillframe-{name}"), description: "test".into(), quiesce: Quiesce::Off }
}

async fn read(disk: &Arc<dyn DiskReader>, range: Extent) -> Result<Vec<u8>, HostError> {
    let mut bytes = Vec::new();
    let mut stream = disk.stream(range);
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    assert!(stream.next().await.is_none());
    assert_eq!(bytes.len() as u64, range.length);
    Ok(bytes)
}

/// The error of a read that must fail. Does not show the bytes of one that did not.
async fn refused(disk: &Arc<dyn DiskReader>, range: Extent) -> HostError {
    read(disk, range).await.map(|_| ()).expect_err("the read must fail")
}

/// Writes `areas` of a disk into the copy of it at `file`.
async fn copy(disk: &Arc<dyn DiskReader>, areas: &[Extent], file: &Path) {
    let mut out = fs::OpenOptions::new().write(true).create(true).truncate(false).open(file).expect("a copy");
    out.set_len(disk.size_bytes()).expect("its size");
    for area in areas {
        let bytes = read(disk, *area).await.expect("the area");
        out.seek(SeekFrom::Start(area.offset)).expect("its place");
        out.write_all(&bytes).expect("its bytes");
    }
}

fn known(areas: Areas) -> Vec<Extent> {
    match areas {
        Areas::Known(areas) => areas,
        Areas::Unknown(reason) => panic!("the host should know: {reason}"),
    }
}

fn assert_same(one: &Path, other: &Path) {
    assert!(
        fs::read(one).expect("one") == fs::read(other).expect("the other"),
        "{} differs from {}",
        one.display(),
        other.display()
    );
}

/// The mark of the snapshot's first disk.
async fn mark_of(host: &EsxiHost, machine: &MachineRef, snapshot: &Snapshot) -> ChangeMark {
    host.seal_snapshot(machine, snapshot).await.expect("marks").marks.into_iter().next().expect("a mark")
}

async fn first_disk(host: &EsxiHost, machine: &MachineRef) -> (Snapshot, Arc<dyn DiskReader>) {
    let snapshot = host.create_snapshot(machine, &request("1")).await.expect("a snapshot");
    let disk = host.open_disks(machine, &snapshot).await.expect("open").remove(0);
    (snapshot, disk)
}
