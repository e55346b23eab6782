//! Start, restart, and the demo host.

use std::time::{Duration, Instant};

use simulators::esxi::{Power, SimulatedHost, demo_config};

use crate::bench::{Bench, MIB, between, import_call};

#[tokio::test]
async fn a_restart_keeps_machines_snapshots_and_tracking() {
    let mut bench = Bench::new(|config| config.machines[0].tracking = true).await;
    let thumbprint = bench.host.certificate_sha256();
    let id = bench.id("on-01");
    bench.snapshot("on-01").await;
    let change_id =
        bench.property("VirtualMachineSnapshot", &format!("{id}-snapshot-1"), "config.hardware.device").await;
    let change_id = between(&change_id, "<changeId>", "</changeId>").to_owned();
    bench.host.write("on-01", 2000, MIB, b"written after the snapshot").unwrap();
    let started = bench.call(&import_call("half-01")).await;
    assert!(started.contains("HttpNfcLease"));
    let config = bench.config.clone();
    bench.host.stop().await;
    bench.host = SimulatedHost::start(config).await.unwrap();
    assert_eq!(bench.host.certificate_sha256(), thumbprint);
    assert!(bench.host.machine("half-01").is_err(), "an unfinished import does not survive");
    let view = bench.host.machine("on-01").unwrap();
    assert_eq!(
        (view.moref.as_str(), view.snapshots.len(), view.power, view.disks[0].chain.len()),
        (id.as_str(), 1, Power::On, 2)
    );
    bench.cookie.clear();
    bench.login().await;
    let second = bench.snapshot("on-01").await;
    let areas = bench
        .call(&format!(
            "<QueryChangedDiskAreas><_this type=\"VirtualMachine\">{id}</_this><snapshot type=\"VirtualMachineSnapshot\">{second}</snapshot>\
             <deviceKey>2000</deviceKey><startOffset>0</startOffset><changeId>{change_id}</changeId></QueryChangedDiskAreas>"
        ))
        .await;
    assert!(
        areas.contains(&format!("<changedArea><start>{MIB}</start><length>65536</length></changedArea>")),
        "{areas}"
    );
    assert_eq!(areas.matches("<changedArea>").count(), 1);
}

#[tokio::test]
async fn a_second_host_on_the_same_folder_is_refused() {
    let bench = Bench::new(|_| {}).await;
    let refused = SimulatedHost::start(bench.config.clone()).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("another one uses")));
}

#[tokio::test]
async fn the_demo_host_starts_at_once_and_keeps_writing() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let host = SimulatedHost::start(demo_config(folder.path(), "demo")).await.unwrap();
    println!("demo host started in {:?}", started.elapsed());
    assert_eq!(host.machine_names(), ["web-01", "db-01", "files-01"]);
    let copy = |name: &str| {
        let path = folder.path().join(name);
        host.copy_disk("db-01", 2000, &path).unwrap();
        std::fs::read(path).unwrap()
    };
    let first = copy("first.raw");
    let deadline = Instant::now() + Duration::from_secs(10);
    while copy("second.raw") == first {
        assert!(Instant::now() < deadline, "the guest does not write");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    host.stop().await;
}
