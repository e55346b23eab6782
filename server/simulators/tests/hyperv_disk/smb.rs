//! The drive over SMB, with smbclient for a client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use simulators::hyperv::disk::{DiskSpec, DiskStore, GuestWrites, StoreOptions};
use simulators::hyperv::samba::{Encryption, Samba, SambaOptions};

use super::{MIB, local, succeed};

const PASSWORD: &str = "p:ass w%rd";

fn serve(folder: &Path, encryption: Encryption) -> Samba {
    let options = SambaOptions {
        drive_dir: folder.join("drive_c"),
        state_dir: folder.join("samba"),
        port: None,
        host_name: "HYPERV01".to_owned(),
        account: "Administrator".to_owned(),
        password: PASSWORD.to_owned(),
        encryption,
    };
    Samba::start(&options).unwrap()
}

fn client(samba: &Samba, account: &str, password: &str, more: &[&str], command: &str) -> Output {
    let output = Command::new("smbclient")
        .args(["-s", "/dev/null", "-p", &samba.port().to_string(), "//127.0.0.1/C$", "-c", command])
        .args(["-U", account, "--password", password])
        .args(more)
        .output();
    output.expect("smbclient is missing, run scripts/install.sh test")
}

fn get(samba: &Samba, remote: &str, target: &Path) {
    let output = client(samba, "Administrator", PASSWORD, &[], &format!("get \"{remote}\" {}", target.display()));
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_frozen_file_does_not_move_while_its_guest_writes() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { records_digests: true, ..StoreOptions::below(folder.path()) };
    let store = DiskStore::open(options).unwrap();
    let disk = store.create(&DiskSpec::dynamic(r"C:\VMs\Web\Web.vhdx", 96 * MIB).with_pattern(1, 20 * MIB)).unwrap();
    let samba = serve(folder.path(), Encryption::Offered);
    let writes = GuestWrites { bytes_per_second: 40 * MIB, seed: 5 };
    store.run_guest("web", &[disk], Some(writes)).unwrap();
    store.guest_burst("web", 4 * MIB);
    let frozen = store.checkpoint(&[disk]).unwrap().remove(0);
    let expected = store.recorded_digest(&frozen).unwrap();
    let copy = folder.path().join("copy.vhdx");
    for _ in 0..3 {
        store.guest_burst("web", MIB);
        get(&samba, r"vms\web\WEB.vhdx", &copy);
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(local(&store, &frozen)).unwrap());
    }
    let raw = folder.path().join("frozen.raw");
    store.copy_raw(&frozen, &raw).unwrap();
    succeed("qemu-img", &["compare", "-f", "vhdx", "-F", "raw", copy.to_str().unwrap(), raw.to_str().unwrap()]);
    let now = store.digest(disk).unwrap();
    assert_ne!(now, expected);
    let converted = store.convert(disk, &frozen).unwrap();
    assert_eq!(store.recorded_digest(&converted.tracking_id).unwrap(), expected);
    store.stop_guest("web").unwrap();
    // What changed since, and nothing else, tells the two contents apart.
    let (path, size) = (store.path(disk).unwrap(), store.size(disk).unwrap());
    let mut old = std::fs::read(&raw).unwrap();
    for (offset, length) in store.changes(&converted.tracking_id, &path, 0, size).unwrap() {
        let range = offset as usize..(offset + length) as usize;
        store.read(disk, offset, &mut old[range]).unwrap();
    }
    let mut new = vec![0; size as usize];
    store.read(disk, 0, &mut new).unwrap();
    assert!(old == new);
}

#[test]
fn a_file_that_is_uploaded_becomes_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(StoreOptions::below(folder.path())).unwrap();
    let samba = serve(folder.path(), Encryption::Offered);
    let [raw, file] = ["source.raw", "source.vhdx"].map(|name| folder.path().join(name));
    std::fs::write(&raw, vec![0x5A; 5 << 20]).unwrap();
    let [raw, file] = [&raw, &file].map(|path| path.to_str().unwrap());
    succeed("qemu-img", &["convert", "-f", "raw", "-O", "vhdx", raw, file]);
    let command = format!("mkdir restored; put {file} restored\\disk.vhdx");
    let output = client(&samba, "HYPERV01\\administrator", PASSWORD, &[], &command);
    assert!(output.status.success(), "{output:?}");
    let disk = store.attach(r"C:\Restored\disk.vhdx").unwrap();
    assert_eq!(store.path(disk).unwrap(), r"C:\restored\disk.vhdx");
    let mut read = vec![0; 5 << 20];
    store.read(disk, 0, &mut read).unwrap();
    assert!(read == std::fs::read(raw).unwrap());
    assert!(store.attach(r"C:\restored\disk.vhdx").is_err(), "it is a disk already");
    std::fs::write(folder.path().join("drive_c/no.vhdx"), vec![1; 1 << 20]).unwrap();
    assert!(store.attach(r"C:\no.vhdx").unwrap_err().to_string().contains("not a VHDX file"));
}

#[test]
fn who_does_not_sign_encrypt_or_know_the_password_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("drive_c")).unwrap();
    let mut samba = serve(folder.path(), Encryption::Required);
    let try_with = |samba: &Samba, account: &str, password: &str, more: &[&str]| {
        client(samba, account, password, more, "ls").status.success()
    };
    let (encrypted, signed) = (["--client-protection=encrypt"], ["--client-protection=sign"]);
    assert!(try_with(&samba, "Administrator", PASSWORD, &encrypted));
    assert!(!try_with(&samba, "Administrator", "wrong", &encrypted));
    assert!(!try_with(&samba, "Guest", PASSWORD, &encrypted));
    let unable = ["--option=client smb encrypt=off", "--option=client max protocol=SMB2_10"];
    assert!(!try_with(&samba, "Administrator", PASSWORD, &unable), "encryption is required");
    samba.kill();
    let samba = serve(folder.path(), Encryption::Offered);
    assert!(try_with(&samba, "Administrator", PASSWORD, &signed));
    assert!(try_with(&samba, "Administrator", PASSWORD, &unable));
    assert_eq!(security_mode(&samba), 0b11, "signing is offered and required");
}

/// Asks for SMB 2.1 by hand; answers `SecurityMode` (MS-SMB2 2.2.4).
fn security_mode(samba: &Samba) -> u8 {
    let mut request = vec![0; 64];
    request[..4].copy_from_slice(b"\xFESMB");
    request[4] = 64;
    request[14] = 1; // credits asked for
    let mut negotiate = vec![36, 0, 1, 0, 1, 0, 0, 0];
    negotiate.resize(36, 0);
    negotiate.extend_from_slice(&0x0210u16.to_le_bytes());
    request.extend(negotiate);
    let mut stream = TcpStream::connect(samba.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(&[&(request.len() as u32).to_be_bytes(), request.as_slice()].concat()).unwrap();
    let mut answer = [0; 4 + 64 + 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[4..8], b"\xFESMB");
    assert_eq!(u16::from_le_bytes([answer[72], answer[73]]), 0x0210);
    answer[70]
}
