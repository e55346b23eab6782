//! Restores to another host, and what is left of those that fail.

use super::{Lab, assert_same, request};
use bytes::Bytes;
use hypervisor::esxi::EsxiHost;
use hypervisor::{HostError, Hypervisor, MachineRef, RestoreRequest, Snapshot};
use simulators::esxi::{Action, On, Rule};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

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
