//! The Hyper-V driver against the simulated host and its Samba, which share no code with it: whole backups and restores byte
//! for byte. What a real Windows does was never seen.

use bytes::Bytes;
use domain::Extent;
use domain::machine::Quiesce;
use domain::point::{ChangeMark, Consistency};
use futures_util::StreamExt as _;
use hypervisor::hyperv::{ConnectOptions, HyperVHost, Timeouts, Transport};
use hypervisor::{Areas, DiskReader, FullReads, Hypervisor, MachineRef, RestoreRequest, ShutDown, SnapshotRequest};
use sha2::{Digest as _, Sha256};
use simulators::hyperv::{
    Content, DISK_FOLDER, DiskKind, DiskSpec, GuestWrites, HostConfig, MachineSpec, MachineView, SimulatedHost,
};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A simulated host in a folder of its own.
struct Lab {
    host: SimulatedHost,
    _folder: TempDir,
}

/// A running machine of generation 2 with two disks, whose guest writes when it is told to.
fn web() -> MachineSpec {
    let disk = |size, seed| DiskSpec::new(size, Content::Pattern { seed, used_bytes: size / 2 });
    MachineSpec {
        on: true,
        disks: vec![disk(24 * MIB, 1), DiskSpec { kind: DiskKind::Fixed, ..disk(8 * MIB, 2) }],
        writes: Some(GuestWrites { bytes_per_second: 0, seed: 3 }),
        ..MachineSpec::new("web")
    }
}

impl Lab {
    async fn with(machines: Vec<MachineSpec>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = HostConfig::new("HV-A", folder.path().join("host"));
        config.limits.job_delay = Duration::from_millis(20);
        config.machines = machines;
        Self { host: SimulatedHost::start(config).await.expect("a simulated host"), _folder: folder }
    }

    async fn connect(&self, transport: Transport) -> HyperVHost {
        let control = match transport {
            Transport::SealedHttp => self.host.http_address(),
            Transport::TlsNtlm | Transport::TlsBasic => self.host.tls_address(),
        };
        let options = ConnectOptions {
            host: "127.0.0.1".into(),
            port: control.port(),
            share_port: self.host.smb_address().expect("its drive is served").port(),
            account: "Administrator".into(),
            password: "simulated".to_owned().into(),
            certificate_sha256: self.host.certificate_sha256(),
            transport,
            full_reads: FullReads::AllocatedAreas,
            timeouts: Timeouts { back_off: Duration::from_millis(20), ..Timeouts::default() },
        };
        HyperVHost::connect(options).await.expect("a session")
    }

    fn machine(&self, name: &str) -> MachineView {
        self.host.machine(name).expect("the machine")
    }

    fn reference(&self, name: &str) -> MachineRef {
        MachineRef(self.machine(name).id)
    }

    fn guest_writes(&self, name: &str) {
        self.host.store().guest_burst(&self.machine(name).id, 2 * MIB);
    }

    /// SHA-256 of each disk as the guest has it now.
    fn digests(&self, name: &str) -> Vec<String> {
        let disks = self.machine(name).disks;
        disks.iter().map(|disk| self.host.store().digest(disk.id).expect("a digest")).collect()
    }

    /// Nothing of a backup is left, and the client broke no rule.
    fn assert_clean(&self, name: &str) {
        let machine = self.machine(name);
        assert!(machine.snapshots.is_empty(), "{:?}", machine.snapshots);
        assert!(self.host.crimes().is_empty(), "{:?}", self.host.crimes());
        assert_eq!(self.host.open_enumerations(), 0);
    }
}

fn request(name: &str) -> SnapshotRequest {
    SnapshotRequest { name: format!("stillframe-{name}"), description: "test".into(), quiesce: Quiesce::Prefer }
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Reads what changed since `mark`, or what is allocated, into `copy`; returns how many bytes that were.
async fn read_into(copy: &mut Vec<u8>, disk: &Arc<dyn DiskReader>, mark: Option<&ChangeMark>) -> u64 {
    let areas = match mark {
        Some(mark) => disk.changed_since(mark).await.expect("what changed"),
        None => disk.allocated().await.expect("what is allocated"),
    };
    let Areas::Known(areas) = areas else { panic!("{areas:?}") };
    copy.resize(disk.size_bytes() as usize, 0);
    for area in &areas {
        let mut at = area.offset as usize;
        let mut stream = disk.stream(Extent::new(area.offset, area.length));
        while let Some(piece) = stream.next().await {
            let piece = piece.expect("bytes");
            copy[at..at + piece.len()].copy_from_slice(&piece);
            at += piece.len();
        }
        assert_eq!(at as u64, area.end());
    }
    domain::extent::total_bytes(&areas)
}

async fn three_backups(transport: Transport) {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(transport).await;
    let web = lab.reference("web");
    let (mut copies, mut marks): (Vec<Vec<u8>>, Vec<ChangeMark>) = (vec![Vec::new(); 2], Vec::new());
    for round in 0..3 {
        lab.guest_writes("web");
        let frozen = lab.digests("web");
        let snapshot = host.create_snapshot(&web, &request(&round.to_string())).await.expect("a checkpoint");
        assert_eq!(snapshot.consistency, Consistency::Application, "{:?}", snapshot.warnings);
        let own = host.list_own_snapshots(&web).await.expect("a list");
        assert_eq!(own.iter().map(|own| own.name.as_str()).collect::<Vec<_>>(), [format!("stillframe-{round}")]);
        lab.guest_writes("web");
        let disks = host.open_disks(&web, &snapshot).await.expect("open");
        assert_eq!(disks.len(), 2);
        for (disk, (copy, wanted)) in disks.iter().zip(copies.iter_mut().zip(&frozen)) {
            let mark = marks.iter().find(|mark| mark.disk_key == disk.key());
            let read = read_into(copy, disk, mark).await;
            assert!(mark.is_none() || read < disk.size_bytes(), "round {round} reads what changed, not {read} bytes");
            assert_eq!(digest(copy), *wanted, "round {round}, disk {}", disk.key());
        }
        let sealed = host.seal_snapshot(&web, &snapshot).await.expect("marks");
        assert_eq!(sealed.len(), 2, "{sealed:?}");
        host.remove_snapshot(&web, &snapshot.reference).await.expect("gone already");
        host.forget_marks(&web, &marks).await.expect("forgotten");
        host.forget_marks(&web, &marks).await.expect("gone already");
        marks = sealed;
        lab.assert_clean("web");
        assert_eq!(lab.machine("web").reference_points.len(), 1, "only the newest is kept");
    }
    host.close().await;
}

#[tokio::test]
async fn fulls_and_incrementals_equal_the_frozen_disks_over_tls() {
    three_backups(Transport::TlsNtlm).await;
}

#[tokio::test]
async fn fulls_and_incrementals_equal_the_frozen_disks_over_sealed_http() {
    three_backups(Transport::SealedHttp).await;
}

#[tokio::test]
async fn a_machine_is_restored_to_another_host_byte_for_byte() {
    let (source, target) = (Lab::with(vec![web()]).await, Lab::with(Vec::new()).await);
    let (from, to) = (source.connect(Transport::TlsBasic).await, target.connect(Transport::TlsNtlm).await);
    let web = source.reference("web");
    let frozen = source.digests("web");
    let snapshot = from.create_snapshot(&web, &request("r")).await.expect("a checkpoint");
    let disks = from.open_disks(&web, &snapshot).await.expect("open");
    let restore = RestoreRequest {
        config: snapshot.config.clone(),
        name: "web-restored".into(),
        datastore: DISK_FOLDER.into(),
        network: Some("LAN".into()),
        connect_network: false,
        keep_identity: false,
        token: "t1".into(),
    };
    let mut made = to.create_target(&restore).await.expect("a target");
    for disk in &disks {
        let mut content = Vec::new();
        read_into(&mut content, disk, None).await;
        made.begin_disk(disk.key()).await.expect("begun");
        for (index, piece) in
            content.chunks(300_000).enumerate().filter(|(_, piece)| piece.iter().any(|byte| *byte != 0))
        {
            made.write((index * 300_000) as u64, Bytes::copy_from_slice(piece)).await.expect("written");
        }
        made.finish_disk().await.expect("finished");
    }
    let machine = made.commit().await.expect("restored");
    from.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    source.assert_clean("web");
    let restored = target.machine("web-restored");
    assert_eq!((restored.id.as_str(), restored.generation), (machine.0.as_str(), 2));
    assert_eq!(target.digests("web-restored"), frozen);
    let info = to.machine(&machine).await.expect("the machine");
    let shape = |config: &domain::machine::MachineConfig| {
        (config.firmware, config.secure_boot, config.processors, config.memory_mib, config.adapters.len())
    };
    assert_eq!(shape(&info.config), shape(&snapshot.config));
    to.power_on(&machine).await.expect("it starts");
    target.assert_clean("web-restored");

    let mut half =
        to.create_target(&RestoreRequest { name: "half".into(), token: "t2".into(), ..restore }).await.expect("begun");
    half.begin_disk(disks[0].key()).await.expect("begun");
    half.write(0, Bytes::from(vec![1; 2_000_000])).await.expect("written");
    drop(half);
    to.remove_half_made("t2").await.expect("removed");
    to.remove_half_made("t2").await.expect("gone already");
    assert_eq!(target.host.machines().len(), 1, "the whole one stays");
}

#[tokio::test]
async fn a_machine_goes_off_and_on() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    for _ in 0..2 {
        assert_eq!(host.shut_down(&web, Duration::from_secs(30)).await.expect("asked"), ShutDown::Off);
        assert!(!lab.machine("web").on);
    }
    host.power_on(&web).await.expect("on");
    assert!(lab.machine("web").on);
    host.power_off(&web).await.expect("off");
    assert!(!lab.machine("web").on);
    lab.assert_clean("web");
}
