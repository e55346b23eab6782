//! Disk files, their locks, and snapshots.

use std::path::Path;

use reqwest::StatusCode;
use simulators::esxi::{DiskContent, DiskSpec, MachineSpec};

use crate::bench::{Bench, MIB, vm_call};

#[tokio::test]
async fn disk_files_are_locked_and_served_by_range() {
    let bench = Bench::new(|config| {
        config.machines.push(MachineSpec {
            disks: vec![DiskSpec::new(64 * MIB, DiskContent::Generated { seed: 9, used_bytes: 64 * MIB })],
            ..MachineSpec::new("large-01")
        });
    })
    .await;
    let none = bench.http.get(bench.url("/folder/off-01/off-01.vmdk?dcPath=ha-datacenter&dsName=datastore1"));
    assert_eq!(none.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let flat = "off-01/off-01-flat.vmdk";
    let part = bench.get(flat, Some("bytes=4096-8191")).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], format!("bytes 4096-8191/{}", 4 * MIB).as_str());
    assert!(part.headers().get("accept-ranges").is_none());
    let base = bench.host.machine("off-01").unwrap().disks[0].base_file.clone();
    assert_eq!(part.bytes().await.unwrap()[..], std::fs::read(&base).unwrap()[4096..8192]);
    assert_eq!(bench.get(flat, Some("bytes=0-1,4-5")).await.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let small = bench.get("off-01/off-01.vmdk", Some("bytes=0-9")).await;
    assert_eq!(small.status(), StatusCode::OK, "a small file may come whole");
    assert!(small.text().await.unwrap().contains("createType=\"vmfs\""));
    let live = bench.get("on-01/on-01-flat.vmdk", Some("bytes=0-511")).await;
    assert_eq!(live.status(), StatusCode::INTERNAL_SERVER_ERROR, "the live link of a running machine");
    let slow = bench.get("large-01/large-01-flat.vmdk", None).await; // its body is not read yet
    let second = bench.get("large-01/large-01-flat.vmdk", Some("bytes=0-511")).await;
    assert_eq!(second.status(), StatusCode::INTERNAL_SERVER_ERROR, "one reader per file");
    let id = bench.id("large-01");
    let info = bench.task(&vm_call("PowerOnVM_Task", &id)).await;
    assert!(info.contains("FileLocked"), "{info}");
    assert_eq!(slow.bytes().await.unwrap().len() as u64, 64 * MIB);
    assert!(bench.task(&vm_call("PowerOnVM_Task", &id)).await.contains("<state>success"));
    assert_eq!(bench.get("../host.json", None).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_snapshot_freezes_the_disk_and_its_removal_keeps_the_writes() {
    let bench = Bench::new(|config| config.record_snapshots = true).await;
    bench.host.write("on-01", 2000, 100, b"before").unwrap();
    let snapshot = bench.snapshot("on-01").await;
    bench.host.write("on-01", 2000, 100, b"after!").unwrap();
    bench.host.write("on-01", 2000, 3 * MIB + 511, b"edge").unwrap();
    let view = bench.host.machine("on-01").unwrap();
    assert_eq!(view.disks[0].chain.len(), 2);
    let record = bench.host.snapshot_records().pop().unwrap();
    assert_eq!((record.snapshot.as_str(), &record.snapshot_id), ("n", &snapshot));
    let oracle = std::fs::read(&record.disks[0].file).unwrap();
    assert_eq!(&oracle[100..106], b"before");
    let hot = bench.get("on-01/on-01-flat.vmdk", None).await.bytes().await.unwrap();
    assert!(hot[..] == oracle[..], "the frozen base is the disk at its snapshot");
    // qemu reads the chain by its descriptors: delta over base.
    let now = tempfile::tempdir().unwrap();
    let (expected, converted) = (now.path().join("now.raw"), now.path().join("qemu.raw"));
    bench.host.copy_disk("on-01", 2000, &expected).unwrap();
    let descriptor = view.disks[0].chain[0].with_file_name("on-01-000001.vmdk");
    qemu_img_convert(&descriptor, &converted);
    assert!(std::fs::read(&converted).unwrap() == std::fs::read(&expected).unwrap());
    assert!(bench.remove_snapshot(&snapshot).await.contains("<state>success"));
    let view = bench.host.machine("on-01").unwrap();
    assert_eq!((view.disks[0].chain.len(), view.snapshots.len(), view.consolidation_needed), (1, 0, false));
    assert!(std::fs::read(&view.disks[0].base_file).unwrap() == std::fs::read(&expected).unwrap());
}

fn qemu_img_convert(from: &Path, to: &Path) {
    let output = std::process::Command::new("qemu-img")
        .args(["convert", "-f", "vmdk", "-O", "raw"])
        .args([from, to])
        .output()
        .expect("qemu-img is missing: run scripts/install.sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn snapshots_in_any_order_keep_every_state() {
    let bench = Bench::new(|_| {}).await;
    let mut snapshots = Vec::new();
    for round in 0..4u8 {
        bench.host.write("on-01", 2000, u64::from(round) * 4096, &[round + 1; 4096]).unwrap();
        bench.host.write("on-01", 2000, MIB, &[round + 1; 512]).unwrap();
        snapshots.push(bench.snapshot("on-01").await);
    }
    bench.host.write("on-01", 2000, MIB, &[9; 512]).unwrap();
    for index in [1, 2, 0, 3] {
        assert!(bench.remove_snapshot(&snapshots[index]).await.contains("<state>success"));
    }
    let disk = &bench.host.machine("on-01").unwrap().disks[0];
    let bytes = std::fs::read(&disk.base_file).unwrap();
    assert_eq!(disk.chain.len(), 1);
    assert_eq!((bytes[0], bytes[4096], bytes[8192], bytes[12288], bytes[MIB as usize]), (1, 2, 3, 4, 9));
}
