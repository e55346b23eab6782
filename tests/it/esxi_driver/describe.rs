//! What the driver says about a host and its machines before anything is done.

use super::{Lab, MIB, generated, request};
use hypervisor::{ErrorKind, Hypervisor, Severity, tls};
use simulators::esxi::{DatastoreKind, DatastoreSpec, DiskContent, DiskMode, DiskSpec, License, MachineSpec};
use std::time::Duration;

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
async fn a_machines_pool_is_a_path_without_the_hosts_own() {
    let lab = Lab::with(|config| {
        config.pools = vec!["Production/Web/Empty".into(), "Test".into()];
        let machine = |name: &str, pool: &str| MachineSpec { pool: pool.into(), ..MachineSpec::new(name) };
        config.machines = vec![machine("deep", "Production/Web"), machine("high", "Production"), machine("root", "")];
    })
    .await;
    let host = lab.connect().await;
    let inventory = host.inventory().await.expect("inventory");
    let pools: Vec<(&str, &str)> =
        inventory.machines.iter().map(|it| (it.config.name.as_str(), it.pool.as_str())).collect();
    assert_eq!(pools, [("deep", "Production/Web"), ("high", "Production"), ("root", "")]);
    assert_eq!(inventory.networks.len(), 1, "pools are no networks: {:?}", inventory.networks);
    lab.host.move_to_pool("root", "Test").expect("moved");
    let moved = host.inventory().await.expect("inventory").machines;
    assert_eq!(moved.iter().find(|it| it.config.name == "root").expect("the machine").pool, "Test");
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
