//! The ESXi driver against the simulated host: whole backups and restores byte for byte, and everything a host can do
//! wrong. vcsim (see `vcsim.rs`) is the judge that shares no code; this one has real disks.

use bytes::Bytes;
use domain::Extent;
use domain::machine::Quiesce;
use domain::point::Consistency;
use futures_util::StreamExt as _;
use hypervisor::esxi::{ConnectOptions, EsxiHost, Timeouts};
use hypervisor::{
    Areas, DiskReader, ErrorKind, FullReads, HostError, Hypervisor, MachineRef, RestoreRequest, Severity, Snapshot,
    SnapshotRequest, TrackingState, tls,
};
use simulators::esxi::{
    Action, Corruption, DatastoreKind, DatastoreSpec, DiskContent, DiskMode, DiskSpec, HostConfig, License,
    MachineSpec, On, Power, Rule, SimulatedHost,
};
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

/// Snapshot, open, and hand over; the snapshot is removed afterwards.
async fn first_disk(host: &EsxiHost, machine: &MachineRef) -> (Snapshot, Arc<dyn DiskReader>) {
    let snapshot = host.create_snapshot(machine, &request("1")).await.expect("a snapshot");
    let disk = host.open_disks(machine, &snapshot).await.expect("open").remove(0);
    (snapshot, disk)
}

#[tokio::test]
async fn the_host_and_its_machines_are_described() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let preflight = host.preflight().await.expect("preflight");
    assert!(preflight.product.contains("ESXi") && preflight.host_uuid.is_some(), "{preflight:?}");
    assert_eq!(preflight.findings, []);
    let inventory = host.inventory().await.expect("inventory");
    let names: Vec<&str> = inventory.machines.iter().map(|machine| machine.config.name.as_str()).collect();
    assert_eq!(names, ["web"]);
    let web = &inventory.machines[0];
    assert_eq!(web.findings, []);
    assert_eq!(web.disks.len(), 2);
    assert_eq!((web.config.disks[0].key, web.config.disks[0].capacity_bytes), (2000, 24 * MIB));
    assert!(web.tracking_enabled && web.disks[0].path.starts_with("[datastore1] web/"), "{web:?}");
    assert_eq!((inventory.datastores[0].name.as_str(), inventory.datastores[0].kind.as_str()), ("datastore1", "VMFS"));
    assert_eq!(inventory.networks[0].name, "VM Network");
    let seen = tls::probe_certificate("127.0.0.1", lab.host.address().port(), Duration::from_secs(5)).await;
    assert_eq!(seen.expect("a certificate").sha256, lab.host.certificate_sha256());
    host.close().await;
    assert_eq!(lab.host.open_handles(), (0, 0, 0), "sessions, leases and views are given back");
}

#[tokio::test]
async fn a_hundred_and_fifty_machines_come_in_pages() {
    let machine = |n: usize| MachineSpec {
        disks: vec![DiskSpec::new(MIB, DiskContent::Empty)],
        ..MachineSpec::new(format!("m{n:03}"))
    };
    let lab = Lab::with(|config| config.machines = (0..150).map(machine).collect()).await;
    let inventory = lab.connect().await.inventory().await.expect("inventory");
    assert_eq!(inventory.machines.len(), 150);
    let paged = lab.host.requests().iter().filter(|request| request.what == "ContinueRetrievePropertiesEx").count();
    assert!(paged > 0);
}

#[tokio::test]
async fn full_and_incremental_reads_equal_the_frozen_disks() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    let mut marks = Vec::new();
    for round in 0..3u64 {
        lab.host.guest_burst("web", 2 * MIB).expect("guest writes");
        let snapshot = host.create_snapshot(&web, &request(&round.to_string())).await.expect("a snapshot");
        assert_eq!(snapshot.consistency, Consistency::Crash);
        lab.host.guest_burst("web", 2 * MIB).expect("the guest writes on while it is read");
        let disks = host.open_disks(&web, &snapshot).await.expect("open");
        assert_eq!(disks.len(), 2);
        for (index, disk) in disks.iter().enumerate() {
            let file = lab.folder.path().join(format!("copy-{index}"));
            let areas = match marks.get(index) {
                None => known(disk.allocated().await.expect("allocated")),
                Some(mark) => known(disk.changed_since(mark).await.expect("changed")),
            };
            assert!(
                domain::extent::total_bytes(&areas) < disk.size_bytes(),
                "round {round} reads less than everything"
            );
            copy(disk, &areas, &file).await;
            assert_same(&file, &lab.frozen(&snapshot, disk.key()));
        }
        marks = disks.iter().map(|disk| disk.mark().expect("tracking is active")).collect();
        host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
        assert!(lab.host.machine("web").expect("web").snapshots.is_empty());
    }
    let whole = host.create_snapshot(&web, &request("whole")).await.expect("a snapshot");
    for disk in host.open_disks(&web, &whole).await.expect("open") {
        let file = lab.folder.path().join("whole");
        copy(&disk, &[Extent::new(0, disk.size_bytes())], &file).await;
        assert_same(&file, &lab.frozen(&whole, disk.key()));
        fs::remove_file(file).expect("removed");
    }
}

#[tokio::test]
async fn more_areas_than_fit_in_an_answer_are_paged() {
    let lab = Lab::with(|config| {
        config.machines[0].disks = vec![DiskSpec::new(512 * MIB, DiskContent::Empty)];
        config.limits.tracking_unit_bytes = 64 << 10;
    })
    .await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    let (snapshot, disk) = first_disk(&host, &web).await;
    let mark = disk.mark().expect("a mark");
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    for n in 0..4000u64 {
        lab.host.write("web", 2000, n * (128 << 10), &[(n % 250) as u8 + 1; 512]).expect("a write");
    }
    let (snapshot, disk) = first_disk(&host, &web).await;
    let areas = known(disk.changed_since(&mark).await.expect("changed"));
    assert_eq!(areas.len(), 4000);
    let asked = lab.host.requests().iter().filter(|request| request.what == "QueryChangedDiskAreas").count();
    assert!(asked >= 2, "{asked} answers");
    let file = lab.folder.path().join("copy");
    copy(&disk, &areas, &file).await;
    assert_same(&file, &lab.frozen(&snapshot, 2000));
}

#[tokio::test]
async fn areas_that_do_not_add_up_are_refused() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    let (snapshot, disk) = first_disk(&host, &web).await;
    let mark = disk.mark().expect("a mark");
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    lab.host.guest_burst("web", 4 * MIB).expect("guest writes");
    let (_, disk) = first_disk(&host, &web).await;
    for corruption in
        [Corruption::Overlap, Corruption::PastEnd, Corruption::Empty, Corruption::NoProgress, Corruption::Descending]
    {
        lab.fault(Rule::once(On::method("QueryChangedDiskAreas"), Action::CorruptAreas(corruption)));
        let error = disk.changed_since(&mark).await.expect_err("refused");
        assert_eq!((error.code, error.kind), ("esxi.areas_invalid", ErrorKind::Protocol), "{corruption:?}: {error}");
    }
    assert!(matches!(disk.changed_since(&mark).await, Ok(Areas::Known(_))));
}

#[tokio::test]
async fn lost_tracking_and_a_grown_disk_make_everything_be_read() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    let (snapshot, disk) = first_disk(&host, &web).await;
    let mark = disk.mark().expect("a mark");
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");

    let (snapshot, disk) = first_disk(&host, &web).await;
    lab.fault(Rule::once(On::method("QueryChangedDiskAreas"), Action::RefuseChangeTracking));
    let Areas::Unknown(reason) = disk.changed_since(&mark).await.expect("no error") else { panic!("known") };
    assert!(reason.contains("FileFault"), "{reason}");
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");

    lab.host.reset_tracking("web").expect("reset");
    let (snapshot, disk) = first_disk(&host, &web).await;
    assert!(matches!(disk.changed_since(&mark).await, Ok(Areas::Unknown(_))), "another uuid");
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");

    lab.host.power_off("web").expect("off");
    lab.host.resize_disk("web", 2000, 32 * MIB).expect("grown");
    let (snapshot, disk) = first_disk(&host, &web).await;
    assert_eq!((disk.size_bytes(), snapshot.consistency), (32 * MIB, Consistency::Offline));
    let Areas::Unknown(reason) = disk.changed_since(&mark).await.expect("no error") else { panic!("known") };
    assert!(reason.contains("bytes") || reason.contains("reset") || reason.contains("not active"), "{reason}");
}

#[tokio::test]
async fn tracking_is_switched_on_and_active_after_the_next_stun() {
    let lab = Lab::with(|config| config.machines[0].tracking = false).await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    lab.fault(Rule::once(On::method("ReconfigVM_Task"), Action::RefuseChangeTracking));
    assert!(matches!(host.enable_tracking(&web).await, Ok(TrackingState::Refused(_))));
    assert_eq!(host.enable_tracking(&web).await.expect("on"), TrackingState::SwitchedOn);
    assert_eq!(host.enable_tracking(&web).await.expect("on"), TrackingState::Active);
    let (snapshot, _) = first_disk(&host, &web).await;
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    let (_, disk) = first_disk(&host, &web).await;
    assert!(disk.mark().is_some());
}

#[tokio::test]
async fn allocated_areas_are_asked_for_on_vmfs_only() {
    let lab = Lab::with(|config| {
        config.datastores = vec![DatastoreSpec { kind: DatastoreKind::Nfs, ..DatastoreSpec::vmfs("nfs1") }];
    })
    .await;
    let host = lab.connect().await;
    let (_, disk) = first_disk(&host, &lab.machine("web")).await;
    assert!(matches!(disk.allocated().await, Ok(Areas::Unknown(reason)) if reason.contains("VMFS")));
    let lab = Lab::new().await;
    let options = ConnectOptions { full_reads: FullReads::Everything, ..lab.options() };
    let host = EsxiHost::connect(options).await.expect("a session");
    let (_, disk) = first_disk(&host, &lab.machine("web")).await;
    assert!(matches!(disk.allocated().await, Ok(Areas::Unknown(_))));
}

#[tokio::test]
async fn a_wrong_connection_names_its_cause() {
    let lab = Lab::new().await;
    let kind = async |options: ConnectOptions| EsxiHost::connect(options).await.err().map(|error| error.kind);
    let good = lab.options();
    let bad = ConnectOptions { password: "x".to_owned().into(), ..good.clone() };
    assert_eq!(kind(bad).await, Some(ErrorKind::Login));
    let bad = ConnectOptions { certificate_sha256: [0; 32], ..good.clone() };
    assert_eq!(kind(bad).await, Some(ErrorKind::CertificateChanged));
    let bad = ConnectOptions { port: 1, ..good.clone() };
    assert_eq!(kind(bad).await, Some(ErrorKind::Unreachable));
    let bad = ConnectOptions { host: "no-such-host.invalid".into(), ..good.clone() };
    assert_eq!(kind(bad).await, Some(ErrorKind::Unreachable));
    let bad = ConnectOptions { host: "169.254.169.254".into(), ..good };
    assert_eq!(kind(bad).await, Some(ErrorKind::Unreachable));
}

#[tokio::test]
async fn a_session_that_ended_is_opened_again() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    lab.host.drop_sessions();
    assert_eq!(host.inventory().await.expect("logged in again").machines.len(), 1);
    lab.fault(Rule::always(On::method("CurrentTime"), Action::Drop));
    lab.fault(Rule::once(On::method("RetrievePropertiesEx"), Action::Status(503)));
    assert_eq!(host.inventory().await.expect("tried again").machines.len(), 1);
}

/// Each of these passes without the caller noticing.
#[tokio::test]
async fn passing_trouble_in_mid_copy_is_survived() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let (snapshot, disk) = first_disk(&host, &lab.machine("web")).await;
    let expected = fs::read(lab.frozen(&snapshot, 2000)).expect("the frozen disk");
    let whole = Extent::new(0, disk.size_bytes());
    for (name, action) in [
        ("401", Action::Status(401)),
        ("403", Action::Status(403)),
        ("500", Action::Status(500)),
        ("503", Action::Status(503)),
        ("dropped", Action::Drop),
        ("truncated", Action::TruncateBody(5 * MIB + 77)),
        ("stalled", Action::Stall(Duration::from_millis(300))),
    ] {
        lab.fault(Rule::once(On::path(FLAT), action));
        let bytes = read(&disk, whole).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(bytes == expected, "{name}");
    }
    // Truncated again and again, with another session in between: it goes on from the byte it reached.
    for n in 0..5 {
        lab.fault(Rule::once(On::path(FLAT), Action::TruncateBody(3 * MIB)).after(n * 2));
        lab.fault(Rule::once(On::path(FLAT), Action::Status(401)).after(n * 2 + 1));
    }
    assert!(read(&disk, whole).await.expect("survived") == expected);
    let resumed = lab.host.requests().iter().filter(|request| request.range.is_some_and(|(from, _)| from > 0)).count();
    assert!(resumed > 0);
}

/// Each of these must end in an error, never in wrong or missing bytes.
#[tokio::test]
async fn wrong_answers_to_a_range_are_errors() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let (_, disk) = first_disk(&host, &lab.machine("web")).await;
    let range = Extent::new(MIB, 10 * MIB);
    for (action, code) in [
        (Action::WrongStatus, "esxi.range_ignored"),
        (Action::IgnoreRange, "esxi.range_ignored"),
        (Action::ShiftContentRange(512), "esxi.wrong_range"),
        (Action::Status(404), "esxi.not_found"),
    ] {
        // Not once: the request that meets it may be refused for the lock that the one before left, and come again.
        lab.fault(Rule::always(On::path(FLAT), action.clone()));
        assert_eq!(refused(&disk, range).await.code, code, "{action:?}");
        lab.host.faults().clear();
    }
    lab.fault(Rule::always(On::path(FLAT), Action::Status(500)));
    let error = refused(&disk, range).await;
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.reason.contains("tries"), "{error}");
    lab.host.faults().clear();
    let past = Extent::new(disk.size_bytes() - 512, 1024);
    assert_eq!(refused(&disk, past).await.code, "esxi.range_past_end");
    assert!(read(&disk, range).await.is_ok());
}

#[tokio::test]
async fn a_host_that_is_gone_in_mid_copy_is_an_error() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let (_, disk) = first_disk(&host, &lab.machine("web")).await;
    let mut stream = disk.stream(Extent::new(0, disk.size_bytes()));
    assert!(stream.next().await.expect("a piece").is_ok());
    lab.fault(Rule::always(On::path("/"), Action::Drop));
    lab.host.stop().await;
    let mut outcome = Ok(());
    while let Some(piece) = stream.next().await {
        outcome = piece.map(|_| ());
    }
    // What was read ahead may have been all of it; then the next read fails.
    if outcome.is_ok() {
        outcome = read(&disk, Extent::new(0, MIB)).await.map(|_| ());
    }
    let error = outcome.expect_err("the host is gone");
    assert!(error.kind.is_transient(), "{error:?}");
}

#[tokio::test]
async fn ranges_of_one_disk_wait_for_each_other() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let (snapshot, disk) = first_disk(&host, &lab.machine("web")).await;
    let expected = fs::read(lab.frozen(&snapshot, 2000)).expect("the frozen disk");
    let reads = (0..8).map(|n| {
        let disk = disk.clone();
        async move { read(&disk, Extent::new(n * 3 * MIB, 3 * MIB)).await }
    });
    for (n, bytes) in futures_util::future::join_all(reads).await.into_iter().enumerate() {
        assert!(bytes.expect("read") == expected[n * 3 * MIB as usize..][..3 * MIB as usize]);
    }
    let locked = lab.host.requests().iter().filter(|request| request.status == 500).count();
    assert_eq!(locked, 0, "no second reader was ever sent");
    // A stream that is dropped lets the next one in at once.
    let mut dropped = disk.stream(Extent::new(0, disk.size_bytes()));
    assert!(dropped.next().await.expect("a piece").is_ok());
    drop(dropped);
    assert!(read(&disk, Extent::new(0, MIB)).await.is_ok());
}

#[tokio::test]
async fn snapshot_trouble_ends_clean() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    let fails = |name: &str| Action::TaskFails { name: name.into(), message: "no".into() };
    lab.fault(Rule::once(On::method("CreateSnapshot_Task"), fails("SnapshotFault")));
    let error = host.create_snapshot(&web, &request("a")).await.expect_err("refused");
    assert_eq!((error.kind, error.code), (ErrorKind::Refused, "esxi.snapshot_refused"));
    lab.fault(Rule::once(On::method("CreateSnapshot_Task"), fails("NoDiskSpace")));
    let error = host.create_snapshot(&web, &request("a")).await.expect_err("refused");
    assert_eq!(error.kind, ErrorKind::NoSpace);

    lab.fault(Rule::once(On::method("CreateSnapshot_Task"), Action::DropAfter));
    let snapshot = host.create_snapshot(&web, &request("b")).await.expect("found by its name");
    lab.fault(Rule::once(On::method("RemoveSnapshot_Task"), Action::DropAfter));
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    assert_eq!(host.list_own_snapshots(&web).await.expect("a list"), []);

    let snapshot = host.create_snapshot(&web, &request("c")).await.expect("a snapshot");
    lab.fault(Rule::once(On::method("RemoveSnapshot_Task"), Action::ConsolidationNeeded));
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed and consolidated");
    assert!(!lab.host.machine("web").expect("web").consolidation_needed);

    let snapshot = host.create_snapshot(&web, &request("d")).await.expect("a snapshot");
    lab.fault(Rule::once(On::method("RemoveSnapshot_Task"), Action::ConsolidationNeeded));
    lab.fault(Rule::once(On::method("ConsolidateVMDisks_Task"), Action::ConsolidationNeeded));
    let error = host.remove_snapshot(&web, &snapshot.reference).await.expect_err("still needed");
    assert_eq!(error.code, "esxi.consolidation_needed");
    let snapshot = host.create_snapshot(&web, &request("e")).await.expect("consolidates first");
    assert!(!lab.host.machine("web").expect("web").consolidation_needed);
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    host.remove_snapshot(&web, &snapshot.reference).await.expect("gone already");
    lab.host.destroy("web").expect("deleted");
    host.remove_snapshot(&web, &snapshot.reference).await.expect("the machine is gone, too");
    assert_eq!(host.machine(&web).await.expect_err("gone").kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_guest_that_cannot_be_quiesced_gives_a_crash_consistent_point() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    let quiesced = SnapshotRequest { quiesce: Quiesce::Prefer, ..request("q") };
    let snapshot = host.create_snapshot(&web, &quiesced).await.expect("a snapshot");
    assert_eq!((snapshot.consistency, snapshot.warnings.as_slice()), (Consistency::Application, [].as_slice()));
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    let refuse = Action::TaskFails { name: "ApplicationQuiesceFault".into(), message: "VSS".into() };
    lab.fault(Rule::once(On::method("CreateSnapshot_Task"), refuse));
    let snapshot = host.create_snapshot(&web, &quiesced).await.expect("a snapshot");
    assert_eq!(snapshot.consistency, Consistency::Crash);
    assert!(snapshot.warnings[0].contains("VSS"), "{:?}", snapshot.warnings);
}

#[tokio::test]
async fn what_cannot_be_backed_up_is_said_beforehand() {
    let with_mode = |name: &str, mode| MachineSpec {
        disks: vec![generated(MIB, 1), DiskSpec { mode, ..generated(MIB, 2) }],
        ..MachineSpec::new(name)
    };
    let lab = Lab::with(|config| {
        config.datastores.push(DatastoreSpec { kind: DatastoreKind::Vsan, ..DatastoreSpec::vmfs("vsan1") });
        config.machines = vec![
            with_mode("independent", DiskMode::IndependentPersistent),
            with_mode("rdm", DiskMode::RawDevicePhysical),
            with_mode("rdm-virtual", DiskMode::RawDeviceVirtual),
            MachineSpec { snapshots: vec!["before update".into()], ..with_mode("own-snapshot", DiskMode::Persistent) },
            MachineSpec { datastore: Some("vsan1".into()), ..with_mode("vsan", DiskMode::Persistent) },
            with_mode("fine", DiskMode::Persistent),
        ];
    })
    .await;
    let inventory = lab.connect().await.inventory().await.expect("inventory");
    for (name, code) in [
        ("independent", Some("independent_disk")),
        ("rdm", Some("rdm")),
        ("rdm-virtual", Some("rdm")),
        ("own-snapshot", Some("snapshots_exist")),
        ("vsan", Some("no_flat_file")),
        ("fine", None),
    ] {
        let machine = inventory.machines.iter().find(|machine| machine.config.name == name).expect("the machine");
        let blocker = machine.findings.iter().find(|finding| finding.severity == Severity::Blocker);
        assert_eq!(blocker.map(|finding| finding.code.as_str()), code, "{name}: {:?}", machine.findings);
    }
}

#[tokio::test]
async fn a_free_licence_is_found_at_once_and_named_in_one_sentence() {
    let lab = Lab::with(|config| config.license = License::Free).await;
    let host = lab.connect().await;
    let preflight = host.preflight().await.expect("preflight");
    assert_eq!(
        (preflight.findings[0].severity, preflight.findings[0].code.as_str()),
        (Severity::Blocker, "free_licence")
    );
    assert_eq!(host.inventory().await.expect("inventory works").machines.len(), 1);
    let error = host.create_snapshot(&lab.machine("web"), &request("x")).await.expect_err("forbidden");
    assert_eq!((error.kind, error.code), (ErrorKind::Licence, "esxi.free_licence"));
    assert!(error.hint.contains("free licence"), "{error:?}");
}

/// Sends a machine's disks as they were at the snapshot to another host.
async fn restore(to: &EsxiHost, request: &RestoreRequest, disks: &[(i32, PathBuf)]) -> Result<MachineRef, HostError> {
    let mut target = to.create_target(request).await?;
    for (key, file) in disks {
        target.begin_disk(*key).await?;
        let bytes = Bytes::from(fs::read(file).expect("the copy"));
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(at + 300_000);
            target.write(at as u64, bytes.slice(at..end)).await?;
            // Leave some out: what is skipped reads as zero, and these bytes are zero.
            at = end + bytes[end..].iter().take(200_000).take_while(|byte| **byte == 0).count();
        }
        target.finish_disk().await?;
    }
    target.commit().await
}

fn restore_request(snapshot: &Snapshot, token: &str) -> RestoreRequest {
    RestoreRequest {
        config: snapshot.config.clone(),
        name: "web-restored".into(),
        datastore: "datastore1".into(),
        network: Some("VM Network".into()),
        connect_network: false,
        keep_identity: false,
        token: token.into(),
    }
}

#[tokio::test]
async fn a_machine_is_restored_to_another_host_byte_for_byte() {
    let (source, target) = (Lab::new().await, Lab::with(|config| config.machines = vec![]).await);
    let (from, to) = (source.connect().await, target.connect().await);
    let snapshot = from.create_snapshot(&source.machine("web"), &request("r")).await.expect("a snapshot");
    let disks: Vec<(i32, PathBuf)> = [2000, 2001].map(|key| (key, source.frozen(&snapshot, key))).to_vec();
    let made = restore(&to, &restore_request(&snapshot, "t1"), &disks).await.expect("restored");
    let machine = to.machine(&made).await.expect("the machine");
    assert_eq!(machine.config.name, "web-restored");
    assert!(machine.tracking_enabled && !machine.config.adapters[0].connect_at_power_on);
    assert_eq!(machine.config.disks.len(), 2);
    for (disk, (_, frozen)) in machine.config.disks.iter().zip(&disks) {
        let copy = target.folder.path().join(format!("restored-{}", disk.key));
        target.host.copy_disk("web-restored", disk.key, &copy).expect("a copy");
        assert_same(&copy, frozen);
    }
    to.close().await;
    assert_eq!(target.host.open_handles(), (0, 0, 0));
}

#[tokio::test]
async fn a_failed_restore_leaves_nothing() {
    let source = Lab::new().await;
    let target = Lab::with(|config| {
        config.machines = vec![];
        config.limits.lease_timeout = Duration::from_secs(5);
    })
    .await;
    let (from, to) = (source.connect().await, target.connect().await);
    let snapshot = from.create_snapshot(&source.machine("web"), &request("r")).await.expect("a snapshot");
    let request = restore_request(&snapshot, "t2");
    target.fault(Rule::once(On::method("ImportVApp"), Action::LeaseFails));
    assert!(to.create_target(&request).await.is_err());
    assert_eq!(target.host.machine_names(), Vec::<String>::new());

    let mut half = to.create_target(&request).await.expect("a lease");
    half.begin_disk(2000).await.expect("begun");
    half.write(0, Bytes::from(vec![1; 2_000_000])).await.expect("written");
    half.abandon().await.expect("removed");
    assert_eq!(target.host.machine_names(), Vec::<String>::new());

    target.fault(Rule::once(On::path("/nfc/"), Action::Status(500)));
    let mut half = to.create_target(&request).await.expect("a lease");
    half.begin_disk(2000).await.expect("begun");
    let wrote = half.write(0, Bytes::from(vec![1; 9_000_000])).await;
    assert!(wrote.is_err() || half.finish_disk().await.is_err());
    half.abandon().await.expect("removed");

    // A worker that dies in between: its lease ends, and the reconciler removes what carries the token. Until the lease
    // ends the host says that the machine is busy.
    let mut half = to.create_target(&request).await.expect("a lease");
    half.begin_disk(2000).await.expect("begun");
    half.finish_disk().await.expect("an empty disk");
    drop(half);
    let removed = async {
        while let Err(error) = to.remove_half_made("t2").await {
            assert!(error.kind.is_transient(), "{error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), removed).await.expect("removed");
    assert_eq!(target.host.machine_names(), Vec::<String>::new());
    to.remove_half_made("t2").await.expect("nothing left");
}

#[tokio::test]
async fn a_snapshot_with_another_one_beside_it_is_not_read() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    lab.host.create_snapshot("web", "by hand").expect("a user's snapshot");
    let snapshot = host.create_snapshot(&web, &request("1")).await.expect("a snapshot");
    let error = host.open_disks(&web, &snapshot).await.err().expect("refused");
    assert_eq!(error.code, "esxi.snapshots_exist");
}

#[tokio::test]
async fn a_host_of_six_zero_is_spoken_to_in_its_own_version() {
    let lab = Lab::with(|config| config.api_version = "6.0".into()).await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    let (snapshot, disk) = first_disk(&host, &web).await;
    let file = lab.folder.path().join("copy");
    copy(&disk, &[Extent::new(0, disk.size_bytes())], &file).await;
    assert_same(&file, &lab.frozen(&snapshot, 2000));
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
}
