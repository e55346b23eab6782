//! Against Ceph's object gateway, which scripts/start-radosgw.sh starts once for all of these tests: over HTTP and HTTPS,
//! with a plain bucket, one that keeps versions, and one with object lock. What the tests do beside the backend they do
//! with curl, which signs by itself.

use bytes::Bytes;
use domain::{Clock, SystemClock};
use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use repository::{BackendErrorKind, ObjectBackend, Retention, RetentionMode, S3Backend, S3Options};
use secrecy::SecretString;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

use crate::conformance::Place;
use crate::daemon::{Daemon, free_port, wait_for};
use crate::faults;
use crate::support::noise;

const VERSIONING: &str = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
    <Status>Enabled</Status></VersioningConfiguration>";

/// Access key of a user who may store 16 MiB.
const SMALL: &str = "small";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Versions,
    Locks,
}

fn variable(name: &str) -> String {
    std::env::var_os(name)
        .unwrap_or_else(|| {
            panic!("{name} is not set: run by nextest, which starts the gateway; see scripts/install.sh test")
        })
        .into_string()
        .unwrap()
}

/// curl with the gateway's key; its output.
fn curl(arguments: &[&str]) -> String {
    curl_as(&variable("STILLFRAME_S3_ACCESS_KEY"), arguments)
}

fn curl_as(access_key: &str, arguments: &[&str]) -> String {
    let user = format!("{access_key}:{}", variable("STILLFRAME_S3_SECRET_KEY"));
    let output = Command::new("curl")
        .args(["-sS", "--fail-with-body", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user])
        .args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "curl {arguments:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    text
}

fn http() -> String {
    variable("STILLFRAME_S3_HTTP")
}

fn new_bucket(kind: Kind) -> String {
    let bucket = format!("t-{}", Uuid::new_v4());
    let url = format!("{}/{bucket}", http());
    match kind {
        Kind::Plain => drop(curl(&["-X", "PUT", &url])),
        Kind::Versions => {
            curl(&["-X", "PUT", &url]);
            curl(&["-X", "PUT", "--data-binary", VERSIONING, &format!("{url}?versioning=")]);
        }
        Kind::Locks => drop(curl(&["-X", "PUT", "-H", "x-amz-bucket-object-lock-enabled: true", &url])),
    }
    bucket
}

fn options(kind: Kind, bucket: &str) -> S3Options {
    let mut options = super::options(&http(), bucket);
    options.location.access_key = variable("STILLFRAME_S3_ACCESS_KEY");
    options.secret_key = SecretString::from(variable("STILLFRAME_S3_SECRET_KEY"));
    if kind == Kind::Locks {
        options.location.object_lock = Some(Retention { days: 1, mode: RetentionMode::Governance });
    }
    options
}

fn over_tls(mut options: S3Options) -> S3Options {
    options.location.endpoint = variable("STILLFRAME_S3_HTTPS");
    options.location.ca_pem = Some(std::fs::read_to_string(variable("STILLFRAME_S3_CA")).unwrap());
    options
}

async fn place(kind: Kind, tls: bool) -> Place {
    let bucket = new_bucket(kind);
    let options = options(kind, &bucket);
    let backend = S3Backend::open(if tls { over_tls(options) } else { options }).await.unwrap();
    let (shared, runtime) = (backend.clone(), tokio::runtime::Handle::current());
    let empty_and_remove = move || {
        runtime.block_on(async {
            for object in shared.list("").await.unwrap() {
                shared.delete(&object.name).await.unwrap();
            }
        });
        curl(&["-X", "DELETE", &format!("{}/{bucket}", http())]);
    };
    // A locked bucket cannot be removed.
    let lose: Option<Box<dyn FnOnce() + Send>> = (kind != Kind::Locks).then(|| Box::new(empty_and_remove) as _);
    Place { backend: Arc::new(backend), lose, keep: Box::new(()) }
}

conformance!(plain_bucket, super::place(super::Kind::Plain, false).await);
conformance!(bucket_with_versions_over_tls, super::place(super::Kind::Versions, true).await);
conformance!(bucket_with_locks, super::place(super::Kind::Locks, false).await);

fn versions(bucket: &str) -> String {
    curl(&[&format!("{}/{bucket}?versions=", http())])
}

#[tokio::test]
async fn what_the_buckets_do_is_found_out() {
    let mut found = Vec::new();
    for kind in [Kind::Plain, Kind::Versions, Kind::Locks] {
        let bucket = new_bucket(kind);
        let backend = S3Backend::open(options(kind, &bucket)).await.unwrap();
        let can = backend.capabilities();
        found.push((can.refuses_to_replace, can.keeps_versions, can.locks));
        assert_eq!(backend.list("").await.unwrap(), [], "the probe shows in no list");
        assert_eq!(versions(&bucket).contains("<Key>"), kind == Kind::Locks, "and stays only where it is locked");
    }
    // Ceph 16 does not look at If-None-Match where it keeps versions.
    assert_eq!(found, [(true, false, false), (false, true, false), (false, true, true)]);
}

#[tokio::test]
async fn deleting_frees_every_version() {
    let bucket = new_bucket(Kind::Versions);
    let backend = S3Backend::open(options(Kind::Versions, &bucket)).await.unwrap();
    backend.put_new("packs/a", vec![Bytes::from_static(b"a")]).await.unwrap();
    curl(&["-X", "PUT", "--data-binary", "later", &format!("{}/{bucket}/machines/backups/packs/a", http())]);
    backend.delete("packs/a").await.unwrap();
    let left = versions(&bucket);
    assert!(!left.contains("<Key>"), "{left}");
}

#[tokio::test]
async fn a_locked_object_outlives_who_has_the_key() {
    let bucket = new_bucket(Kind::Locks);
    let backend = S3Backend::open(options(Kind::Locks, &bucket)).await.unwrap();
    for name in ["packs/ab/1", "index/1", "points/1", "keys/1", "config"] {
        backend.put_new(name, vec![Bytes::from_static(b"true")]).await.unwrap();
        let error = backend.delete(name).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Locked, "{error}");
        let until = backend.extend_lock(name).await.unwrap().unwrap();
        let reason = error.source.unwrap().to_string();
        assert!(reason.contains(&until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()), "{reason} {until}");
        let url = format!("{}/{bucket}/machines/backups/{name}", http());
        curl(&["-X", "PUT", "--data-binary", "a longer lie", &url]);
        curl(&["-X", "DELETE", &url]);
    }
    backend.put_new("leases/1", vec![Bytes::from_static(b"x")]).await.unwrap();
    backend.delete("leases/1").await.unwrap();
    // Another process sees them as they were.
    let backend = S3Backend::open(options(Kind::Locks, &bucket)).await.unwrap();
    let listed = backend.list("").await.unwrap();
    assert_eq!(listed.len(), 5, "{listed:?}");
    for object in listed {
        assert_eq!(object.size, 4);
        assert_eq!(backend.get(&object.name, None).await.unwrap(), "true");
        assert_eq!(backend.get(&object.name, Some(1..3)).await.unwrap(), "ru");
        assert_eq!(backend.stat(&object.name).await.unwrap().size, 4);
        let taken = backend.put_new(&object.name, vec![Bytes::from_static(b"new")]).await.unwrap_err();
        assert_eq!(taken.kind, BackendErrorKind::AlreadyExists);
    }
}

#[tokio::test]
async fn a_lock_is_extended_only_when_it_ends_too_soon() {
    let bucket = new_bucket(Kind::Locks);
    let backend = S3Backend::open(options(Kind::Locks, &bucket)).await.unwrap();
    backend.put_new("packs/ab/1", vec![Bytes::from_static(b"x")]).await.unwrap();
    let retention = || curl(&[&format!("{}/{bucket}/machines/backups/packs/ab/1?retention=", http())]);
    let first = retention();
    let until = backend.extend_lock("packs/ab/1").await.unwrap().unwrap();
    assert!(until >= backend.lock_needed_until().unwrap());
    assert_eq!(retention(), first, "a lock that lasts is left alone");
    let mut longer = options(Kind::Locks, &bucket);
    longer.location.object_lock = Some(Retention { days: 40, mode: RetentionMode::Governance });
    let longer = S3Backend::open(longer).await.unwrap();
    let extended = longer.extend_lock("packs/ab/1").await.unwrap().unwrap();
    assert!(extended >= longer.lock_needed_until().unwrap() && extended > until);
    let day = extended.strftime("%Y-%m-%d").to_string();
    assert!(retention().contains(&day), "{} {day}", retention());
    // Back in the first process, which does not know yet.
    assert!(backend.extend_lock("packs/ab/1").await.unwrap().unwrap() >= until);
    let missing = backend.extend_lock("packs/ab/2").await.unwrap_err();
    assert_eq!(missing.kind, BackendErrorKind::NotFound);
}

/// A gateway of the test's own before the same storage.
struct Gateway {
    port: u16,
    daemon: Option<Daemon>,
    scratch: TempDir,
}

impl Gateway {
    fn start() -> Self {
        let mut gateway = Self { port: free_port(), daemon: None, scratch: tempfile::tempdir().unwrap() };
        assert!(gateway.launch(), "radosgw does not start");
        gateway
    }

    fn launch(&mut self) -> bool {
        let (program, port) = (variable("STILLFRAME_S3_GATEWAY"), self.port.to_string());
        let mut daemon = Daemon::start(&program, &[&port], &self.scratch.path().join("output"));
        let is_up = wait_for(&mut daemon, (Ipv4Addr::LOCALHOST, self.port).into());
        self.daemon = is_up.then_some(daemon);
        is_up
    }

    fn kill(&mut self) {
        self.daemon = None;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_in_mid_upload_is_told_and_used_again_when_it_is_back() {
    let mut gateway = Gateway::start();
    let mut options = options(Kind::Plain, &new_bucket(Kind::Plain));
    options.location.endpoint = format!("http://127.0.0.1:{}", gateway.port);
    let backend = Arc::new(S3Backend::open(options).await.unwrap());
    let shared = Arc::clone(&backend) as Arc<dyn ObjectBackend>;
    faults::while_storing(shared, Duration::from_secs(5), || gateway.kill()).await;
    assert!(gateway.launch(), "it comes back");
    faults::works_again(&*backend).await;
}

/// A user's quota is to it what a full disk is to others.
#[tokio::test]
async fn a_used_up_quota() {
    let bucket = format!("t-{}", Uuid::new_v4());
    curl_as(SMALL, &["-X", "PUT", &format!("{}/{bucket}", http())]);
    let mut options = options(Kind::Plain, &bucket);
    options.location.access_key = SMALL.to_owned();
    let backend = S3Backend::open(options).await.unwrap();
    let put = async |name, mib: usize| backend.put_new(name, vec![noise(mib as u64, mib << 20).into()]).await;
    put("small", 1).await.unwrap();
    let error = put("packs/large", 24).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::OutOfSpace, "{error:?}");
    assert!(backend.get("small", None).await.unwrap() == noise(1, 1 << 20));
    assert_eq!(backend.stat("packs/large").await.unwrap_err().kind, BackendErrorKind::NotFound);
    put("packs/fits", 2).await.unwrap();
}

async fn refused(options: S3Options) -> (BackendErrorKind, String) {
    let error = S3Backend::open(options).await.unwrap_err();
    let source = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
    (error.kind, source)
}

#[tokio::test]
async fn what_cannot_be_relied_on_is_refused() {
    for kind in [Kind::Plain, Kind::Versions] {
        let mut asked = options(kind, &new_bucket(kind));
        asked.location.object_lock = Some(Retention { days: 1, mode: RetentionMode::Compliance });
        let (kind, reason) = refused(asked).await;
        assert_eq!(kind, BackendErrorKind::Unsuitable, "{reason}");
    }
    let mut odd = options(Kind::Plain, "there-is-no-such-bucket");
    assert_eq!(refused(odd.clone()).await.0, BackendErrorKind::NoLocation);
    odd.location.prefix = "../up".to_owned();
    assert_eq!(refused(odd.clone()).await.0, BackendErrorKind::Unsuitable);
    odd.location.prefix = String::new();
    odd.location.endpoint = "ftp://localhost".to_owned();
    assert_eq!(refused(odd).await.0, BackendErrorKind::Unsuitable);
}

struct Shifted(SignedDuration);

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.0
    }
}

#[tokio::test]
async fn wrong_keys_clocks_and_authorities_are_told_apart() {
    let bucket = new_bucket(Kind::Plain);
    let good = options(Kind::Plain, &bucket);
    let backend = S3Backend::open(good.clone()).await.unwrap();
    backend.put_new("a", vec![]).await.unwrap();

    let wrong_secret = S3Options { secret_key: SecretString::from("not the secret"), ..good.clone() };
    let (kind, reason) = refused(wrong_secret).await;
    assert_eq!(kind, BackendErrorKind::Unauthorized, "{reason}");
    assert!(!reason.contains("not the secret"), "{reason}");
    let mut wrong_account = good.clone();
    wrong_account.location.access_key = "nobody".to_owned();
    assert_eq!(refused(wrong_account).await.0, BackendErrorKind::Unauthorized);
    for minutes in [-60, 60] {
        let skewed = S3Options { clock: Arc::new(Shifted(SignedDuration::from_mins(minutes))), ..good.clone() };
        let (kind, reason) = refused(skewed).await;
        assert_eq!(kind, BackendErrorKind::ClockSkew, "{reason}");
        assert!(reason.contains("GMT"), "the storage's own time is told: {reason}");
    }
    let tls = over_tls(good.clone());
    S3Backend::open(tls.clone()).await.unwrap().stat("a").await.unwrap();
    let mut wrong_authority = tls.clone();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    wrong_authority.location.ca_pem = Some(other.cert.pem());
    let (kind, reason) = refused(wrong_authority).await;
    assert_eq!(kind, BackendErrorKind::Unreachable);
    assert!(reason.contains("certificate"), "{reason}");
    let mut system_authorities = tls;
    system_authorities.location.ca_pem = None;
    assert_eq!(refused(system_authorities).await.0, BackendErrorKind::Unreachable);
    let mut closed = good;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    closed.location.endpoint = format!("http://127.0.0.1:{port}");
    let (kind, reason) = refused(closed).await;
    assert_eq!(kind, BackendErrorKind::Unreachable);
    assert!(reason.to_lowercase().contains("refused"), "{reason}");
}

/// `cargo nextest run -p repository --test backends --run-ignored only gateway_speed --no-capture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn gateway_speed() {
    let content = Bytes::from(noise(1, 64 << 20));
    for (tls, kind) in [(false, Kind::Plain), (true, Kind::Plain), (false, Kind::Locks)] {
        let bucket = new_bucket(kind);
        let options = options(kind, &bucket);
        let backend = S3Backend::open(if tls { over_tls(options) } else { options }).await.unwrap();
        let started = std::time::Instant::now();
        let puts = (0..8).map(|number| {
            let (backend, parts) = (backend.clone(), vec![content.clone()]);
            async move { backend.put_new(&format!("packs/{number}"), parts).await.unwrap() }
        });
        stream::iter(puts).buffer_unordered(4).collect::<Vec<()>>().await;
        let put = 512.0 / started.elapsed().as_secs_f64();
        let started = std::time::Instant::now();
        let gets = (0..128u64).map(|number| {
            let backend = backend.clone();
            async move {
                let start = number % 16 * (4 << 20);
                backend.get(&format!("packs/{}", number / 16), Some(start..start + (4 << 20))).await.unwrap().len()
            }
        });
        let read: usize = stream::iter(gets).buffer_unordered(8).fold(0, |sum, bytes| async move { sum + bytes }).await;
        let get = (read >> 20) as f64 / started.elapsed().as_secs_f64();
        println!(
            "locks {}, TLS {tls}: put 64 MiB x 4 {put:.0} MiB/s, get 4 MiB x 8 {get:.0} MiB/s",
            kind == Kind::Locks
        );
    }
}
