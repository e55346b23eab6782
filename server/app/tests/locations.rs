//! `stillframe repo` on every kind of location, as the program that people run: Samba, nfs-ganesha, an S3 server of the
//! tests' own and Ceph's gateway.

#[path = "../../repository/tests/backends/daemon.rs"]
#[allow(dead_code)] // shared with the tests of the backends, which use the rest
mod daemon;
#[path = "../../repository/tests/backends/ganesha.rs"]
#[allow(dead_code)]
mod ganesha;
#[path = "../../repository/tests/backends/samba.rs"]
#[allow(dead_code)]
mod samba;
#[path = "../../repository/tests/backends/s3/server.rs"]
#[allow(dead_code)]
mod server;

use ganesha::{Ganesha, MOUNT_PORT, NFS_PORT};
use samba::{PASSWORD, Samba};
use server::Server;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const PASSPHRASE: &str = "correct horse battery staple";

/// The program at one location.
struct Program {
    place: Vec<String>,
    secret: Option<String>,
    scratch: TempDir,
}

impl Program {
    fn at(place: &[&str], secret: Option<&str>) -> Self {
        let place = place.iter().map(ToString::to_string).collect();
        Self { place, secret: secret.map(str::to_owned), scratch: tempfile::tempdir().unwrap() }
    }

    /// What it prints, or what it says is wrong.
    fn run(&self, verb: &[&str], more: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stillframe"));
        command.arg("repo").args(verb).args(&self.place).args(more).stdin(Stdio::null());
        command.env("STILLFRAME_PASSPHRASE", PASSPHRASE).env_remove("STILLFRAME_LOCATION_SECRET");
        if let Some(secret) = &self.secret {
            command.env("STILLFRAME_LOCATION_SECRET", secret);
        }
        let output = command.output().unwrap();
        let (said, wrong) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        if let Some(secret) = &self.secret {
            assert!(!said.contains(secret) && !wrong.contains(secret), "{said}{wrong}");
        }
        if output.status.success() { Ok(said) } else { Err(wrong) }
    }

    fn file(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    /// Every verb, once.
    fn every_verb(&self) {
        let made = self.run(&["init"], &[]).unwrap();
        assert!(made.contains("is ready in") && made.contains("Recovery key"), "{made}");
        let content: Vec<u8> = (0..700_000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
        let (image, output) = (self.file("vm.raw"), self.file("out.raw"));
        std::fs::write(&image, &content).unwrap();
        let backed_up = self.run(&["backup"], &["--disk", &image]).unwrap();
        let point = backed_up.split_whitespace().nth(2).unwrap();
        assert!(self.run(&["list"], &[]).unwrap().contains(point));
        assert!(self.run(&["show"], &["--point", point]).unwrap().contains("Disk 2000"));
        assert!(self.run(&["verify"], &[]).unwrap().contains("All is well."));
        assert!(self.run(&["gc"], &[]).unwrap().contains("0 deleted"));
        assert!(self.run(&["key", "list"], &[]).unwrap().contains("recovery key"));
        assert!(self.run(&["adopt"], &[]).unwrap().contains("Machines: 1. Restore points: 1."));
        self.run(&["restore"], &["--point", point, "--disk", "2000", "--output", &output]).unwrap();
        assert!(std::fs::read(output).unwrap() == content);
        // What is there is not made again.
        let again = self.run(&["init"], &[]).unwrap_err();
        assert!(again.contains("exists already"), "{again}");
    }

    /// The same location with other words.
    fn with(&self, place: &[&str]) -> Self {
        Self::at(place, self.secret.as_deref())
    }

    fn refused(&self, says: &str) {
        let wrong = self.run(&["list"], &[]).unwrap_err();
        assert!(wrong.contains(says), "{:?}: {wrong}", self.place);
    }
}

fn folder_holds_a_repository(folder: &Path) {
    assert!(folder.join("config").exists() && folder.join("points").exists(), "{}", folder.display());
}

#[test]
fn a_folder_by_either_name() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("new").display().to_string();
    let by_location = Program::at(&["--location", &path], None);
    by_location.every_verb();
    assert!(by_location.with(&["--path", &path]).run(&["list"], &[]).unwrap().contains("vm"));
    by_location.with(&["--path", &path, "--location", &path]).refused("cannot be used with");
    by_location.with(&[]).refused("--path");
    by_location.with(&["--path", &path, "--encrypt"]).refused("--encrypt is for smb:// addresses");
}

#[test]
fn an_smb_share() {
    let samba = Samba::start("");
    let account = samba.options("plain").account;
    let address = format!("smb://{account}@127.0.0.1:{}/plain/vm/repository", samba.port);
    let program = Program::at(&["--location", &address], Some(PASSWORD));
    program.every_verb();
    folder_holds_a_repository(&samba.folder_of("plain").join("vm/repository"));
    assert!(program.with(&["--location", &address, "--encrypt"]).run(&["list"], &[]).unwrap().contains("vm"));
    Program::at(&["--location", &address], Some("not the password"))
        .refused("the account or its secret is not accepted");
    Program::at(&["--location", &address], None).refused("STILLFRAME_LOCATION_SECRET");
    program.with(&["--location", &address.replace("/vm/repository", "/none")]).refused("the location is not there");
}

#[test]
fn an_nfs_export_and_a_folder_in_it() {
    let ganesha = Ganesha::start();
    let folder = ganesha.folder_of("export").join("vm/repository");
    let address = format!("nfs://{}:{NFS_PORT}{}", ganesha.address, folder.display());
    let mount_port = MOUNT_PORT.to_string();
    // Which part of the path is the export, only the server knows; before the first `init` the folder is not even there.
    let program = Program::at(&["--location", &address, "--mount-port", &mount_port], None);
    program.every_verb();
    folder_holds_a_repository(&folder);
    let elsewhere = address.replace("/vm/repository", "/none");
    program.with(&["--location", &elsewhere, "--mount-port", &mount_port]).refused("the location is not there");
    let secure = address.replace("/export/vm", "/secure/vm");
    program.with(&["--location", &secure, "--mount-port", &mount_port]).refused("insecure");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_bucket() {
    let server = Server::start().await;
    let (endpoint, state) = (server.endpoint.clone(), server.state.clone());
    let testing = move || {
        let s3 = ["--location", "s3://bucket/machines/backups", "--endpoint", &endpoint, "--access-key", "key"];
        let program = Program::at(&s3, Some("a secret of the tests"));
        program.every_verb();
        assert!(state.lock().objects.contains_key("machines/backups/config"));
        Program::at(&s3, None).refused("no secret key of key: set STILLFRAME_LOCATION_SECRET");
        program.with(&s3[..2]).refused("--endpoint is missing");
        program.with(&s3[..4]).refused("--access-key is missing");
    };
    tokio::task::spawn_blocking(testing).await.unwrap();
}

/// Ceph checks signatures and knows locks.
#[test]
fn a_bucket_of_a_gateway_with_locks() {
    let variable = |name: &str| {
        let set = std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run by nextest"));
        set.into_string().unwrap()
    };
    let [http, https, ca, key, secret] =
        ["HTTP", "HTTPS", "CA", "ACCESS_KEY", "SECRET_KEY"].map(|name| variable(&format!("STILLFRAME_S3_{name}")));
    let bucket = format!("t-{}", uuid::Uuid::new_v4());
    let url = format!("{http}/{bucket}");
    let user = format!("{key}:{secret}");
    let signed =
        ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"];
    let locks = ["-X", "PUT", "-H", "x-amz-bucket-object-lock-enabled: true", &url];
    let made = daemon::run("curl", &[&["-sS", "--fail-with-body"][..], &signed, &locks].concat(), "");
    assert!(made.status.success(), "{made:?}");
    let address = format!("s3://{bucket}/machines");
    let s3 = ["--location", &address, "--endpoint", &https, "--access-key", &key, "--ca-file", &ca, "--lock-days", "1"];
    let program = Program::at(&s3, Some(&secret));
    program.every_verb();
    let points = program.run(&["list", "--json"], &[]).unwrap();
    assert!(points.contains("\"points\""), "{points}");
    program.with(&s3[..6]).refused("certificate");
    Program::at(&s3, Some("another")).refused("the account or its secret is not accepted");
}

#[test]
fn what_is_no_location_is_told_before_anything_is_asked() {
    let at = |place: &[&str]| Program::at(place, Some("hidden"));
    for (address, says) in [
        ("ftp://nas/backups", "ftp:// is no storage this program knows"),
        ("smb://nas/share", "smb://ACCOUNT@HOST/SHARE/FOLDER"),
        ("smb://me@nas", "smb://ACCOUNT@HOST/SHARE/FOLDER"),
        ("smb://me:hidden@nas/share", "a password does not belong on the command line"),
        ("smb://me@nas:99999/share", "HOST or HOST:PORT"),
        ("//nas/share", "smb://ACCOUNT@HOST/SHARE"),
        ("nfs://nas", "nfs://HOST/EXPORT/FOLDER"),
        ("nfs://me:hidden@nas/export", "HOST or HOST:PORT"),
        ("s3://me:hidden@bucket/prefix", "s3://BUCKET/PREFIX"),
    ] {
        at(&["--location", address]).refused(says);
    }
    let s3 = ["--location", "s3://bucket", "--access-key", "key", "--endpoint"];
    at(&[&s3[..], &["https://me:hidden@s3.example.org"]].concat()).refused("https://HOST");
    at(&[&s3[..], &["s3.example.org"]].concat()).refused("https://HOST");
    at(&["--location", "nfs://nas/export", "--endpoint", "https://s3.example.org"]).refused("--endpoint is for s3://");
}
