//! Checkpoints, tracking, what survives a restart.

use crate::bench::{Bench, IMAGES, MIB, SNAPSHOTS, all_between, between, machine_reference, reference, return_value};

/// Path of the frozen file and tracking id of each disk of the newest reference point, by the disk's place.
async fn tracking(bench: &Bench, name: &str) -> Vec<(String, String)> {
    let id = bench.id(name);
    let point = bench
        .wql(&format!("select * from Msvm_VirtualSystemReferencePoint where VirtualSystemIdentifier='{id}'"))
        .await;
    let point = point.rsplit("<p:Msvm_VirtualSystemReferencePoint ").next().unwrap();
    let disks = all_between(point, "<p:VirtualDiskIdentifiers>", "<");
    let ids = all_between(point, "<p:ResilientChangeTrackingIdentifiers>", "<");
    assert_eq!(disks.len(), ids.len());
    let place = |disk: &str| disk.split_once('\\').unwrap().1.to_owned();
    disks.iter().map(|disk| place(disk)).zip(ids.iter().map(|id| (*id).to_owned())).collect()
}

/// Frozen paths of the newest checkpoint's disks, by place.
async fn frozen(bench: &Bench, name: &str) -> Vec<(String, String)> {
    let id = bench.host.machine(name).unwrap().snapshots.last().unwrap().id.clone();
    let query = format!("select * from Msvm_StorageAllocationSettingData where InstanceID like 'Microsoft:{id}%'");
    let text = bench.wql(&query).await;
    let places = all_between(&text, "<p:InstanceID>", "<");
    let places = places.iter().map(|id| id.split_once('\\').unwrap().1.to_owned());
    places.zip(all_between(&text, "<p:HostResource>", "<").iter().map(|path| (*path).to_owned())).collect()
}

#[tokio::test]
async fn changes_are_told_from_conversion_to_checkpoint_even_after_a_restart() {
    let bench = Bench::new(|_| {}).await;
    let disks = bench.host.machine("on-01").unwrap().disks;
    bench.done(&bench.snapshot("on-01", 1).await).await;
    bench.host.store().write(disks[0].id, 5 * MIB, &[7; 4096]).unwrap();
    bench.done(&bench.on_snapshot("on-01", "ConvertToReferencePoint").await).await;
    let view = bench.host.machine("on-01").unwrap();
    assert!(view.snapshots.is_empty() && view.reference_points.len() == 1, "{view:?}");
    assert!(view.disks.iter().all(|disk| disk.path.contains(".vhdx")), "{view:?}");
    let bench = bench.restart().await;
    let view = bench.host.machine("on-01").unwrap();
    assert!(view.on && view.reference_points.len() == 1, "{view:?}");
    bench.host.store().write(disks[1].id, 3 * MIB, &[8; 4096]).unwrap();
    bench.done(&bench.snapshot("on-01", 2).await).await;
    bench.host.store().write(disks[1].id, 9 * MIB, &[9; 4096]).unwrap();
    let tracking = tracking(&bench, "on-01").await;
    let frozen = frozen(&bench, "on-01").await;
    let mut found = Vec::new();
    for (place, path) in &frozen {
        let limit = &tracking.iter().find(|(own, _)| own == place).unwrap().1;
        let other = &tracking.iter().find(|(own, _)| own != place).unwrap().1;
        let answer = bench.changes(path, limit, 16 * MIB).await;
        assert_eq!(between(&answer, "<p:ProcessedByteLength>", "<"), (16 * MIB).to_string());
        found.extend(
            all_between(&answer, "<p:ChangedByteOffsets>", "<").into_iter().map(|at| at.parse::<u64>().unwrap() / MIB),
        );
        assert_eq!(return_value(&bench.changes(path, other, 16 * MIB).await), "32768", "the other disk's id");
        assert_eq!(return_value(&bench.changes(path, limit, 17 * MIB).await), "32773", "past the end");
    }
    found.sort_unstable();
    assert_eq!(found, [3, 5], "what came before the conversion counts, what came after the checkpoint does not");
    let point = &bench.host.machine("on-01").unwrap().reference_points[0];
    let service = "Msvm_VirtualSystemReferencePointService";
    let parameters = reference("AffectedReferencePoint", "Msvm_VirtualSystemReferencePoint", &[("InstanceID", point)]);
    bench.done(&bench.invoke(service, "DestroyReferencePoint", &parameters).await).await;
    assert_eq!(return_value(&bench.invoke(service, "DestroyReferencePoint", &parameters).await), "32773");
    let (path, limit) = (&frozen[0].1, &tracking.iter().find(|(own, _)| *own == frozen[0].0).unwrap().1);
    assert_eq!(return_value(&bench.changes(path, limit, 16 * MIB).await), "32768", "a forgotten id");
    bench.done(&bench.on_snapshot("on-01", "DestroySnapshot").await).await;
    assert!(bench.host.machine("on-01").unwrap().disks.iter().all(|disk| disk.path.contains(".vhdx")));
}

#[tokio::test]
async fn users_checkpoints_make_chains_and_are_no_reference_points() {
    let bench = Bench::new(|config| config.machines[0].checkpoints = vec!["one".to_owned(), "two".to_owned()]).await;
    let view = bench.host.machine("on-01").unwrap();
    assert_eq!(view.snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(bench.host.store().chain(view.disks[0].id).unwrap().len(), 3);
    assert_eq!(return_value(&bench.on_snapshot("on-01", "ConvertToReferencePoint").await), "32773");
    bench.done(&bench.snapshot("on-01", 1).await).await;
    let path = frozen(&bench, "on-01").await[0].1.clone();
    assert!(path.contains(".avhdx"), "{path}");
    bench.done(&bench.on_snapshot("on-01", "ConvertToReferencePoint").await).await;
    bench.done(&bench.on_snapshot("on-01", "DestroySnapshot").await).await;
    let view = bench.host.machine("on-01").unwrap();
    assert_eq!(view.snapshots.len(), 1);
    assert_eq!(bench.host.store().chain(view.disks[0].id).unwrap().len(), 2);
    for disk in &view.disks {
        assert_eq!(bench.host.store().path(disk.id).unwrap(), disk.path);
    }
}

#[tokio::test]
async fn kinds_and_levels_that_there_are_not_are_refused() {
    let bench = Bench::new(|config| config.machines[0].quirks.no_consistency = true).await;
    let (state, code) = bench.finish(&bench.snapshot("on-01", 1).await).await;
    assert_eq!((state.as_str(), code.as_str()), ("10", "32768"));
    assert_eq!(return_value(&bench.snapshot("on-01", 3).await), "32773");
    let system = machine_reference("AffectedSystem", &bench.id("on-01"));
    let parameters = format!("{system}<p:SnapshotType>4</p:SnapshotType>");
    assert_eq!(return_value(&bench.invoke(SNAPSHOTS, "CreateSnapshot", &parameters).await), "32773");
    assert!(bench.host.machine("on-01").unwrap().snapshots.is_empty());
}

#[tokio::test]
async fn jobs_of_the_image_service_are_storage_jobs() {
    let bench = Bench::new(|_| {}).await;
    let path = bench.host.machine("off-01").unwrap().disks[0].path.clone();
    let started = bench.invoke(IMAGES, "ValidateVirtualHardDisk", &format!("<p:Path>{path}</p:Path>")).await;
    let id = between(&started, "<w:Selector Name=\"InstanceID\">", "<");
    let (status, text) = bench.get("Msvm_ConcreteJob", &[("InstanceID", id)]).await;
    assert!(status == 500 && text.contains("a:DestinationUnreachable"), "{text}");
    bench.done(&started).await;
    let described = bench.invoke(IMAGES, "GetVirtualHardDiskSettingData", &format!("<p:Path>{path}</p:Path>")).await;
    let described = described.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    let size = between(&described, "NAME=\"MaxInternalSize\" TYPE=\"uint64\"><VALUE>", "<");
    assert_eq!(size, (16 * MIB).to_string());
    let missing = bench.invoke(IMAGES, "GetVirtualHardDiskSettingData", "<p:Path>C:\\none.vhdx</p:Path>").await;
    assert_eq!(return_value(&missing), "32773");
}
