//! The self-test as a user runs it, with a guest that boots: the restored disk must boot as well.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use support::stillframe;

fn from_environment(name: &str) -> PathBuf {
    let path = std::env::var_os(name).map(PathBuf::from);
    path.unwrap_or_else(|| panic!("{name} is not set: run the tests by `make tests`, or see scripts/test-env.sh"))
}

/// `restored disk 2000: PATH` of the self-test's output.
fn restored_disk(said: &str, key: i32) -> Option<PathBuf> {
    let start = format!("restored disk {key}: ");
    said.lines().find_map(|line| line.strip_prefix(&start)).map(PathBuf::from)
}

/// The self-test on this platform, and the boot of the system disk that it restored last.
fn backed_up_and_booted(platform: &str, system_disk: i32, machine: &[&str]) {
    let guest = from_environment("STILLFRAME_GUEST");
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let output = Command::new(stillframe())
        .args(["selftest", "--platform", platform, "--keep", "--guest"])
        .arg(&guest)
        .arg("--work-dir")
        .arg(folder.path().join("work"))
        .env_remove("DATABASE_URL")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let logged = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{logged}");
    assert!(said.contains(" 0 failed."), "{said}");
    println!("{said}");
    let disk = restored_disk(&said, system_disk).expect("the self-test names the restored disk");
    let boot = Command::new(from_environment("STILLFRAME_BOOT")).args(machine).arg(&disk).output();
    let boot = boot.expect("the boot program starts");
    let serial = [boot.stdout, boot.stderr].concat();
    assert!(boot.status.success(), "the restored disk does not boot:\n{}", String::from_utf8_lossy(&serial));
}

#[test]
fn a_guest_is_backed_up_while_it_changes_and_the_restored_disk_boots() {
    backed_up_and_booted("esxi", 2000, &["--controller", "pvscsi"]);
}

/// A machine of generation 1, as its host would start it.
#[test]
fn on_hyperv_a_guest_is_backed_up_while_it_changes_and_the_restored_disk_boots() {
    backed_up_and_booted("hyperv", 1, &["--controller", "ide"]);
}
