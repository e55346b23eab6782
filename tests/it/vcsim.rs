//! The driver against vcsim, a vSphere endpoint that shares no code with this project.

use bytes::Bytes;
use domain::machine::{
    Controller, ControllerKind, DiskConfig, Firmware, MachineConfig, NetworkAdapter, PowerState, Quiesce,
};
use hypervisor::esxi::{ConnectOptions, EsxiHost, FullReads, Timeouts};
use hypervisor::{ErrorKind, Hypervisor, RestoreRequest, SnapshotRequest, tls};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// A running vcsim; it ends when its standard input does.
struct Vcsim {
    child: Child,
    stdin: Option<ChildStdin>,
    port: u16,
    account: String,
    password: String,
}

impl Vcsim {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(support::vcsim())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("vcsim starts");
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("standard output")).read_line(&mut line).expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["VCSIM", url, account, password] = words[..] else { panic!("vcsim said {line:?}") };
        let port = url.trim_end_matches("/sdk").rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        Self { port, account: account.to_owned(), password: password.to_owned(), child, stdin }
    }

    async fn options(&self) -> ConnectOptions {
        let seen =
            tls::probe_certificate("127.0.0.1", self.port, Duration::from_secs(10)).await.expect("a certificate");
        assert!(!seen.subject.is_empty() && seen.not_after > seen.not_before);
        ConnectOptions {
            host: "127.0.0.1".into(),
            port: self.port,
            account: self.account.clone(),
            password: self.password.clone().into(),
            certificate_sha256: seen.sha256,
            full_reads: FullReads::default(),
            timeouts: Timeouts::default(),
        }
    }

    async fn connect(&self) -> EsxiHost {
        EsxiHost::connect(self.options().await).await.expect("a session")
    }
}

impl Drop for Vcsim {
    /// The end of its input lets it remove its folders; one that does not end is killed.
    fn drop(&mut self) {
        drop(self.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn restore_request(name: &str, token: &str, datastore: &str) -> RestoreRequest {
    let disk = |key, unit, capacity_bytes| DiskConfig {
        key,
        label: format!("Hard disk {}", unit + 1),
        capacity_bytes,
        controller_key: 1000,
        unit,
        thin: true,
        ..DiskConfig::default()
    };
    RestoreRequest {
        config: MachineConfig {
            name: "original".into(),
            guest_id: "otherGuest64".into(),
            firmware: Firmware::Efi,
            secure_boot: false,
            processors: 2,
            memory_mib: 256,
            hardware_version: "vmx-19".into(),
            instance_uuid: None,
            bios_uuid: None,
            notes: "First line & <second>".into(),
            controllers: vec![Controller { key: 1000, kind: ControllerKind::ParavirtualScsi, bus: 0 }],
            disks: vec![disk(2000, 0, 64 << 20), disk(2001, 1, 8 << 20)],
            adapters: vec![NetworkAdapter {
                key: 4000,
                model: "VirtualVmxnet3".into(),
                network: "VM Network".into(),
                mac: None,
                connect_at_power_on: true,
                vlan: None,
            }],
            hyperv: None,
        },
        name: name.into(),
        datastore: datastore.into(),
        network: None,
        connect_network: false,
        keep_identity: false,
        token: token.into(),
    }
}

#[tokio::test]
async fn a_session_is_refused_for_the_right_reason() {
    let vcsim = Vcsim::start(&[]);
    let good = vcsim.options().await;
    let kind = |result: Result<EsxiHost, hypervisor::HostError>| result.err().map(|error| error.kind);
    let wrong_password = ConnectOptions { password: "wrong".to_owned().into(), ..good.clone() };
    assert_eq!(kind(EsxiHost::connect(wrong_password).await), Some(ErrorKind::Login));
    let other_certificate = ConnectOptions { certificate_sha256: [7; 32], ..good.clone() };
    assert_eq!(kind(EsxiHost::connect(other_certificate).await), Some(ErrorKind::CertificateChanged));
    let closed_port = ConnectOptions { port: 1, ..good.clone() };
    assert_eq!(kind(EsxiHost::connect(closed_port).await), Some(ErrorKind::Unreachable));
    let host = EsxiHost::connect(good).await.expect("the right one");
    host.close().await;
}

#[tokio::test]
async fn a_vcenter_is_told_apart() {
    let vcsim = Vcsim::start(&["-vcenter"]);
    let error = EsxiHost::connect(vcsim.options().await).await.err().expect("no ESXi host");
    assert_eq!((error.kind, error.code), (ErrorKind::Unsupported, "esxi.vcenter"));
}

#[tokio::test]
async fn the_inventory_is_read() {
    let vcsim = Vcsim::start(&["-machines", "3"]);
    let host = vcsim.connect().await;
    let preflight = host.preflight().await.expect("preflight");
    assert!(preflight.product.contains("ESXi") && preflight.host_uuid.is_some(), "{preflight:?}");
    assert_eq!(preflight.findings, []);
    let inventory = host.inventory().await.expect("inventory");
    assert_eq!(inventory.machines.len(), 3);
    assert_eq!(inventory.datastores.len(), 1);
    assert!(inventory.datastores[0].accessible && inventory.datastores[0].capacity_bytes > 0);
    assert!(inventory.networks.iter().any(|network| network.name == "VM Network"), "{:?}", inventory.networks);
    for machine in &inventory.machines {
        assert_eq!(machine.power, PowerState::On);
        assert_eq!(machine.config.disks.len(), 1, "{machine:?}");
        assert_eq!(machine.disks[0].datastore, inventory.datastores[0].name);
        assert!(machine.config.memory_mib > 0 && !machine.config.adapters.is_empty());
        let again = host.machine(&machine.reference).await.expect("the machine alone");
        assert_eq!(again.config, machine.config);
    }
    host.close().await;
}

#[tokio::test]
async fn resource_pools_are_read_as_paths() {
    let vcsim = Vcsim::start(&["-machines", "3", "-pools"]);
    let host = vcsim.connect().await;
    let inventory = host.inventory().await.expect("inventory");
    let mut pools: Vec<&str> = inventory.machines.iter().map(|machine| machine.pool.as_str()).collect();
    pools.sort_unstable();
    assert_eq!(pools, ["", "", "Production/Web"], "the host's own pool is not shown");
    assert!(!inventory.networks.iter().any(|network| network.name == "Web"), "{:?}", inventory.networks);
    host.close().await;
}

#[tokio::test]
async fn a_snapshot_is_made_found_and_removed() {
    let vcsim = Vcsim::start(&[]);
    let host = vcsim.connect().await;
    let machine = host.inventory().await.expect("inventory").machines.remove(0);
    let request = SnapshotRequest {
        name: "stillframe-1".into(),
        description: "a <description>".into(),
        quiesce: Quiesce::Prefer,
    };
    let snapshot = host.create_snapshot(&machine.reference, &request).await.expect("a snapshot");
    assert_eq!(snapshot.config.disks, machine.config.disks);
    let own = host.list_own_snapshots(&machine.reference).await.expect("a list");
    assert_eq!(own.len(), 1);
    assert_eq!((&own[0].reference, own[0].name.as_str()), (&snapshot.reference, "stillframe-1"));
    host.remove_snapshot(&machine.reference, &snapshot.reference).await.expect("removed");
    assert_eq!(host.list_own_snapshots(&machine.reference).await.expect("a list"), []);
    host.remove_snapshot(&machine.reference, &snapshot.reference).await.expect("gone already is fine");
    host.close().await;
}

#[tokio::test]
async fn a_machine_is_imported_by_lease() {
    let vcsim = Vcsim::start(&["-machines", "1"]);
    let host = vcsim.connect().await;
    let datastore = host.inventory().await.expect("inventory").datastores.remove(0).name;
    let request = restore_request("restored", "token-1", &datastore);
    let mut target = host.create_target(&request).await.expect("a lease");
    for key in [2000, 2001] {
        target.begin_disk(key).await.expect("begun");
        for step in 0..4u8 {
            let data = Bytes::from(vec![step + 1; 100_000]);
            target.write(u64::from(step) * 1_000_000, data).await.expect("written");
        }
        target.finish_disk().await.expect("taken");
    }
    let made = target.commit().await.expect("complete");
    let machine = host.machine(&made).await.expect("the machine");
    assert_eq!(machine.config.name, "restored");
    assert_eq!(machine.power, PowerState::Off);
    assert_eq!((machine.config.processors, machine.config.memory_mib), (2, 256));
    assert_eq!(machine.config.firmware, Firmware::Efi);
    assert_eq!(machine.config.notes, "First line & <second>\n\nRestored by Stillframe (token-1)");
    let sizes: Vec<u64> = machine.config.disks.iter().map(|disk| disk.capacity_bytes).collect();
    assert_eq!(sizes, [64 << 20, 8 << 20]);
    assert!(!machine.config.adapters[0].connect_at_power_on);
    host.remove_half_made("another token").await.expect("nothing to remove");
    assert!(host.machine(&made).await.is_ok());
    host.remove_half_made("token-1").await.expect("removed");
    assert_eq!(host.machine(&made).await.expect_err("gone").kind, ErrorKind::NotFound);
    host.close().await;
}

#[tokio::test]
async fn an_abandoned_import_leaves_nothing() {
    let vcsim = Vcsim::start(&["-machines", "1"]);
    let host = vcsim.connect().await;
    let datastore = host.inventory().await.expect("inventory").datastores.remove(0).name;
    let mut target = host.create_target(&restore_request("half", "token-2", &datastore)).await.expect("a lease");
    target.begin_disk(2000).await.expect("begun");
    target.write(0, Bytes::from_static(&[1; 4096])).await.expect("written");
    target.abandon().await.expect("removed");
    assert_eq!(host.inventory().await.expect("inventory").machines.len(), 1);
    let mut target = host.create_target(&restore_request("half", "token-3", &datastore)).await.expect("a lease");
    target.begin_disk(2000).await.expect("begun");
    target.finish_disk().await.expect("an empty disk");
    assert_eq!(target.commit().await.expect_err("a disk is missing").code, "esxi.disk_missing");
    assert_eq!(host.inventory().await.expect("inventory").machines.len(), 1);
    let missing = restore_request("x", "token-4", "no-such-datastore");
    assert_eq!(host.create_target(&missing).await.err().expect("refused").code, "esxi.datastore");
    host.close().await;
}
