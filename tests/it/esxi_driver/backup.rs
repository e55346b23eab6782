//! Snapshots, changed areas and reads, byte for byte.

use super::{Lab, MIB, assert_same, copy, first_disk, known, mark_of, request};
use domain::Extent;
use domain::machine::Quiesce;
use domain::point::Consistency;
use hypervisor::esxi::{ConnectOptions, EsxiHost};
use hypervisor::{Areas, ErrorKind, FullReads, Hypervisor, SnapshotRequest, TrackingState};
use simulators::esxi::{Action, Corruption, DatastoreKind, DatastoreSpec, DiskContent, DiskSpec, On, Rule};
use std::fs;

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
        marks = host.seal_snapshot(&web, &snapshot).await.expect("marks").marks;
        assert_eq!(marks.len(), disks.len(), "tracking is active");
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
    let (snapshot, _) = first_disk(&host, &web).await;
    let mark = mark_of(&host, &web, &snapshot).await;
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
    let (snapshot, _) = first_disk(&host, &web).await;
    let mark = mark_of(&host, &web, &snapshot).await;
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
    let (snapshot, _) = first_disk(&host, &web).await;
    let mark = mark_of(&host, &web, &snapshot).await;
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
    assert!(disk.tracks_changes());
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
async fn a_guest_that_has_to_be_quiesced_is_or_there_is_no_snapshot() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    let required = SnapshotRequest { quiesce: Quiesce::Require, ..request("q") };
    let snapshot = host.create_snapshot(&web, &required).await.expect("a snapshot");
    assert_eq!(snapshot.consistency, Consistency::Application);
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    for (fault, code, kind) in [
        ("ApplicationQuiesceFault", "esxi.quiesce_failed", ErrorKind::Refused),
        ("OperationNotSupportedByGuest", "esxi.cannot_quiesce", ErrorKind::Unsupported),
    ] {
        let refuse = Action::TaskFails { name: fault.into(), message: "VSS".into() };
        lab.fault(Rule::once(On::method("CreateSnapshot_Task"), refuse));
        let error = host.create_snapshot(&web, &required).await.expect_err("refused");
        assert_eq!((error.code, error.kind), (code, kind), "{error}");
        assert!(error.reason.contains("VSS") && error.hint.contains("if possible"), "{error:?}");
    }
    lab.host.set_tools("web", false).expect("stopped");
    let error = host.create_snapshot(&web, &required).await.expect_err("refused");
    assert_eq!((error.code, error.kind), ("esxi.cannot_quiesce", ErrorKind::Unsupported), "{error}");
    assert!(lab.host.machine("web").expect("the machine").snapshots.is_empty());
    lab.host.power_off("web").expect("off");
    let snapshot = host.create_snapshot(&web, &required).await.expect("a snapshot");
    assert_eq!(snapshot.consistency, Consistency::Offline, "nothing to quiesce");
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
