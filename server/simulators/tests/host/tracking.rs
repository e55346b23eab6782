//! What resets change tracking, and what it knows where.

use reqwest::StatusCode;
use simulators::esxi::{DatastoreKind, Power};

use crate::bench::{Bench, MIB};

#[tokio::test]
async fn tracking_is_lost_by_resize_and_revert() {
    let bench = Bench::new(|config| config.machines[0].tracking = true).await;
    let before = bench.host.machine("on-01").unwrap().disks[0].change_id.clone().unwrap();
    bench.host.resize_disk("on-01", 2000, 5 * MIB).unwrap();
    let resized = bench.host.machine("on-01").unwrap().disks[0].change_id.clone().unwrap();
    assert_ne!(before.split('/').next(), resized.split('/').next());
    bench.host.create_snapshot("on-01", "user").unwrap();
    bench.host.write("on-01", 2000, 0, &[1; 512]).unwrap();
    bench.host.revert("on-01", "user").unwrap();
    let view = bench.host.machine("on-01").unwrap();
    assert_ne!(view.disks[0].change_id.as_ref().unwrap().split('/').next(), resized.split('/').next());
    assert_eq!(view.power, Power::Off);
}

#[tokio::test]
async fn other_datastores_know_less() {
    for (kind, flat) in
        [(DatastoreKind::Nfs, StatusCode::PARTIAL_CONTENT), (DatastoreKind::Vsan, StatusCode::NOT_FOUND)]
    {
        let bench = Bench::new(|config| {
            config.datastores[0].kind = kind;
            config.machines[1].tracking = true;
        })
        .await;
        let answer = bench.get("off-01/off-01-flat.vmdk", Some("bytes=0-511")).await;
        assert_eq!(answer.status(), flat);
        let id = bench.id("off-01");
        let areas = bench
            .call(&format!(
                "<QueryChangedDiskAreas><_this type=\"VirtualMachine\">{id}</_this><deviceKey>2000</deviceKey><startOffset>0</startOffset>\
                 <changeId>*</changeId></QueryChangedDiskAreas>"
            ))
            .await;
        assert!(areas.contains(&format!("<changedArea><start>0</start><length>{}</length>", 4 * MIB)), "{areas}");
    }
}
