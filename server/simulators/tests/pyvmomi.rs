//! pyvmomi and qemu-img judge the simulator.

use std::path::{Path, PathBuf};
use std::process::Command;

use simulators::esxi::{DiskContent, DiskSpec, GuestWrites, HostConfig, MachineSpec, Power, SimulatedHost};

const MIB: u64 = 1 << 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The project's own Python environment, made by `scripts/install.sh`, has pyvmomi; its absence is a failure, not a reason to skip.
fn python(script: &str) -> Command {
    let own = root().join(".tools/venv/bin/python");
    let mut command = Command::new(if own.exists() { own } else { PathBuf::from("python3") });
    command.arg(root().join("tests/peers").join(script));
    command
}

fn run(mut command: Command) {
    let output = command.output().expect("python is missing: run scripts/install.sh");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    assert!(output.status.success() && text.contains("ok\n"), "{command:?} failed:\n{text}");
}

#[test]
fn the_schema_table_is_what_pyvmomi_knows() {
    let mut command = python("pyvmomi_schema.py");
    command.arg("--check").arg(root().join("server/simulators/src/esxi/schema.txt"));
    run(command);
}

/// Writes 4 KiB into every other 64 KiB of a file, so that its allocated areas do not fit one answer.
fn scattered(path: &Path, size: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for offset in (0..size).step_by(128 << 10) {
        file.write_all_at(&[7; 4096], offset).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pyvmomi_backs_up_and_restores() {
    let folder = tempfile::tempdir().unwrap();
    scattered(&folder.path().join("scattered.raw"), 300 * MIB);
    let web = DiskSpec::new(70 * MIB + 1024, DiskContent::Generated { seed: 1, used_bytes: 12 * MIB });
    let busy = DiskSpec::new(0, DiskContent::Raw(folder.path().join("scattered.raw")));
    let mut config = HostConfig::new("esx-a", folder.path().join("state"));
    config.machines = vec![
        MachineSpec { disks: vec![web], ..MachineSpec::new("web-01") },
        MachineSpec {
            power: Power::On,
            disks: vec![busy],
            writes: Some(GuestWrites { bytes_per_second: 2 * MIB, seed: 3 }),
            ..MachineSpec::new("busy-01")
        },
    ];
    let host = SimulatedHost::start(config.clone()).await.unwrap();
    host.copy_disk("web-01", 2000, &folder.path().join("web-01.raw")).unwrap();
    let mut command = python("pyvmomi_check.py");
    command.arg(host.address().port().to_string()).arg(&config.account).arg(&config.password).arg(folder.path());
    tokio::task::spawn_blocking(move || run(command)).await.unwrap();
    assert_eq!(host.open_handles(), (0, 0, 0), "sessions, leases and views are given back");
    host.stop().await;
}
