//! The disks of the simulated Hyper-V host, judged from outside: qemu-img, smbclient, and an array in memory.

mod oracle;
mod qemu;
mod smb;

use std::path::Path;
use std::process::{Command, Output};

use simulators::hyperv::disk::{DiskStore, StoreOptions};

const MIB: u64 = 1 << 20;

fn store(folder: &Path) -> DiskStore {
    DiskStore::open(StoreOptions::below(folder)).unwrap()
}

/// Runs a program to its end; its absence is a failure.
fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program} is missing, run scripts/install.sh test: {error}"))
}

fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// The local file behind a Windows path.
fn local(store: &DiskStore, path: &str) -> String {
    store.drive().file(path).unwrap().to_str().unwrap().to_owned()
}
