//! pypsrp judges the Hyper-V simulator.

use std::path::{Path, PathBuf};
use std::process::Command;

use simulators::hyperv::{
    Content, DiskSpec, Files, GuestWrites, HostConfig, MachineSpec, Quirks, SimulatedHost, WireRule,
};

const GIB: u64 = 1 << 30;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The project's own Python environment, made by `scripts/install.sh`, has pypsrp; its absence is a failure, not a reason to skip.
fn run(script: &str, arguments: &[String]) {
    let own = root().join(".tools/venv/bin/python");
    let mut command = Command::new(if own.exists() { own } else { PathBuf::from("python3") });
    let output = command.arg(root().join("tests/peers").join(script)).args(arguments).output();
    let output = output.expect("python is missing: run scripts/install.sh");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    assert!(output.status.success() && text.contains("ok\n"), "{command:?} failed:\n{text}");
}

fn machines() -> Vec<MachineSpec> {
    let disk = || DiskSpec::new(GIB, Content::Zeros);
    let writes = Some(GuestWrites { bytes_per_second: 16 << 20, seed: 7 });
    let stiff = Quirks { no_consistency: true, ..Quirks::default() };
    vec![
        MachineSpec { on: true, disks: vec![disk(), disk()], writes, ..MachineSpec::new("web-01") },
        MachineSpec { generation: 1, disks: vec![disk()], ..MachineSpec::new("old-01") },
        MachineSpec { on: true, disks: vec![disk()], quirks: stiff, ..MachineSpec::new("stiff-01") },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pypsrp_checkpoints_and_asks_for_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = HostConfig::new("hv-a", folder.path().join("state"));
    config.files = Files::Closed;
    config.machines = machines();
    config.limits.ranges_per_answer = 3;
    let host = SimulatedHost::start(config.clone()).await.unwrap();
    let ports = [host.tls_address(), host.http_address()].map(|address| address.port().to_string());
    let arguments = [ports.as_slice(), &[config.account, config.password]].concat();
    tokio::task::spawn_blocking(move || run("hyperv_pypsrp.py", &arguments)).await.unwrap();
    let crimes = host.crimes();
    for rule in [
        WireRule::FilterOnClass,
        WireRule::WrappedReference,
        WireRule::InstanceForm,
        WireRule::ServiceSelector,
        WireRule::SingleBackslash,
        WireRule::Envelope,
        WireRule::ClearBody,
        WireRule::ClearPassword,
        WireRule::BrokenSeal,
    ] {
        assert!(crimes.iter().any(|crime| crime.rule == rule), "{rule:?} was not noticed");
    }
    assert!(host.requests().iter().any(|request| request.sealed && request.what == "CreateSnapshot"));
    let web = host.machine("web-01").unwrap();
    assert!(web.snapshots.is_empty() && web.reference_points.is_empty(), "{web:?}");
    host.stop().await;
}
