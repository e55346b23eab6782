//! What a backup costs through the whole of it: simulated host, HTTPS, driver, engine, repository in a folder.
//! Run by hand, in release: `cargo test --release -p it --test it -- --ignored --nocapture bench`.

use crate::rig::{Rig, Simulated, TaskSpec, machine};
use domain::job::JobState;
use std::process::Command;
use std::time::Instant;

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 4096;
const USED_MIB: u64 = 2048;
const CHANGED_MIB: u64 = 128;

fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / MIB as f64 / seconds
}

/// One stream by `curl`, a client that is not ours, of as many bytes as the disk holds data.
fn plain_read(host: &Simulated) -> f64 {
    let url = format!("https://{}/folder/bench/bench-flat.vmdk?dcPath=ha-datacenter&dsName=datastore1", host.address());
    let range = format!("0-{}", USED_MIB * MIB - 1);
    let arguments =
        ["-sk", "-u", "root:simulated", "-r", &range, "-o", "/dev/null", "-w", "%{time_total} %{size_download}"];
    let output = Command::new("curl").args(arguments).arg(url).output().expect("curl is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (seconds, bytes) = said.split_once(' ').expect("two figures");
    let bytes: u64 = bytes.parse().expect("bytes");
    assert_eq!(bytes, USED_MIB * MIB, "the whole range");
    rate(bytes, seconds.parse().expect("seconds"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, in release and on a quiet machine"]
async fn bench_full_incremental_and_plain_read() {
    let rig = Rig::start().await;
    let mut spec = machine("bench", &[(DISK_MIB, USED_MIB)]);
    spec.power = simulators::esxi::Power::Off;
    let host = Simulated::quiet(rig.folder.path(), "esx-1", vec![spec]).await;
    let device = rig.device(&host).await;
    let vm = rig.vm(device, "bench").await;
    let location = rig.location().await;
    let task = rig.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
    plain_read(&host); // warms the page cache
    let plain = plain_read(&host);
    println!("plain read, one HTTPS stream (curl): {plain:.0} MiB/s");
    host.power_on("bench").expect("on");
    for name in ["full", "incremental", "incremental"] {
        let started = Instant::now();
        rig.run_one(task, JobState::Succeeded).await;
        let (seconds, point) = (started.elapsed().as_secs_f64(), rig.points(vm).await.remove(0));
        let speed = rate(point.bytes_read, seconds);
        println!(
            "{name}: {} MiB read, {} MiB stored, {seconds:.1} s with snapshot and commit, {speed:.0} MiB/s, {:.2} of the plain read",
            point.bytes_read / MIB,
            point.bytes_stored / MIB,
            speed / plain
        );
        host.guest_burst("bench", CHANGED_MIB * MIB).expect("writes");
    }
}
