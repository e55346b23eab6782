//! The fixture repositories of format version 1: made with fixed randomness, kept for ever, read by every later version. In
//! the first one each chunk is by itself, in the second one chunks share frames. And an independent reader, written from the format document, on it and on a fresh repository.

use bytes::Bytes;
use domain::point::PointKind;
use domain::{Clock, Extent, SystemClock};
use jiff::{SignedDuration, Timestamp};
use repository::backend::ObjectInfo;
use repository::{
    BackendError, BackendErrorKind, CollectOptions, Environment, Error, FolderBackend, InitOptions, MemoryBackend,
    NoProgress, ObjectBackend, ReadPlan, Repository, VerifyOptions,
};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::support::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn fixture() -> PathBuf {
    root().join("tests/fixtures/repository-v1/repository")
}

fn fixture_with_frames() -> PathBuf {
    root().join("tests/fixtures/repository-v1-frames/repository")
}

/// The two disks of a fixture's first or second point.
type Disks = fn(u128) -> [Bytes; 2];

fn fixtures() -> [(PathBuf, Disks); 2] {
    [(fixture(), disks), (fixture_with_frames(), disks_with_neighbours)]
}

/// The disks of the fixture's two points: a map with an inner node and a short last block; and a small disk.
fn disks(number: u128) -> [Bytes; 2] {
    let mut large = vec![0; (64 << 20) + 50_000];
    large[4096..60_000].copy_from_slice(&noise(1, 60_000 - 4096));
    large[1 << 20..(1 << 20) + 120_000].copy_from_slice(&text(2, 120_000));
    let end = large.len();
    large[end - 30_001..].copy_from_slice(&text(3, 30_001));
    let mut small = text(4, 10_240);
    if number == 2 {
        large[20_000..20_100].fill(0xab);
        large[40 << 20..(40 << 20) + 5000].copy_from_slice(&noise(5, 5000));
        small[..512].fill(0);
    }
    [large.into(), small.into()]
}

/// Much that compresses, so that chunks share frames; the second point refers to the middle of one.
fn disks_with_neighbours(number: u128) -> [Bytes; 2] {
    let mut large = vec![0; 4 << 20];
    large[8192..700_000].copy_from_slice(&text(11, 700_000 - 8192));
    large[2 << 20..(2 << 20) + 100_000].copy_from_slice(&noise(12, 100_000));
    let mut small = text(13, 150_000);
    if number == 2 {
        large[8192..200_000].copy_from_slice(&text(14, 200_000 - 8192));
        small[..512].fill(0);
    }
    [large.into(), small.into()]
}

/// What a host would tell: the sectors in which the second point differs from the first.
fn changes(disks: Disks) -> [Vec<Extent>; 2] {
    let (before, after) = (disks(1), disks(2));
    std::array::from_fn(|at| {
        let sectors = (0u64..).step_by(512).zip(before[at].chunks(512).zip(after[at].chunks(512)));
        let changed = sectors.filter(|(_, (before, after))| before != after);
        changed.map(|(offset, (_, after))| Extent::new(offset, after.len() as u64)).collect()
    })
}

async fn make(disks: Disks, chunk_average_bytes: u32) -> (MemoryBackend, SecretString) {
    let memory = MemoryBackend::new();
    let options = InitOptions { chunk_average_bytes, ..options() };
    let made = Repository::init_in(Arc::new(memory.clone()), &passphrase(), options, environment(1)).await;
    let (repository, recovery) = made.unwrap();
    full_point(&repository, point_id(1), &disks(1)).await.unwrap();
    let plan = |areas: Vec<Extent>| ReadPlan::Changed { base: point_id(1), areas };
    let inputs: Vec<_> = disks(2).into_iter().zip(changes(disks).map(plan)).collect();
    make_point(&repository, point_id(2), &inputs, PointKind::Incremental, Some(point_id(1))).await.unwrap();
    (memory, recovery.text())
}

/// Only for something new in the format: the fixture of what was before is never made again.
#[tokio::test]
#[ignore = "writes the newest fixture"]
async fn write_the_fixture() {
    let (memory, recovery) = make(disks_with_neighbours, 64 << 10).await;
    let folder = FolderBackend::create(fixture_with_frames()).unwrap();
    for object in memory.list("").await.unwrap() {
        let bytes = memory.get(&object.name, None).await.unwrap();
        folder.put_new(&object.name, vec![bytes]).await.unwrap();
    }
    std::fs::remove_dir(fixture_with_frames().join("tmp")).unwrap();
    std::fs::write(fixture_with_frames().with_file_name("recovery-key.txt"), recovery.expose_secret()).unwrap();
}

#[tokio::test]
async fn the_fixtures_open_and_read() {
    for (path, disks) in fixtures() {
        let recovery = std::fs::read_to_string(path.with_file_name("recovery-key.txt")).unwrap();
        for secret in [passphrase(), SecretString::from(recovery)] {
            let backend = Arc::new(FolderBackend::open(path.clone()).unwrap());
            let repository = Repository::open(backend, &secret).await.unwrap();
            let list = repository.points().await.unwrap();
            let kinds: Vec<_> = list.points.iter().map(|point| (point.id, point.kind, point.disks)).collect();
            assert_eq!(kinds, [(point_id(1), PointKind::Full, 2), (point_id(2), PointKind::Incremental, 2)]);
            for number in 1..=2 {
                assert_reads(&repository, point_id(number), &disks(number)).await;
            }
            let point = repository.point(point_id(2)).await.unwrap();
            assert_eq!(point.machine.notes, "näkymä");
            assert_eq!(point.predecessor.unwrap().point, point_id(1));
            let options = VerifyOptions { read_only: true, ..VerifyOptions::default() };
            let report = repository.verify(options, Arc::new(NoProgress), &CancellationToken::new()).await;
            assert_eq!(report.unwrap().damage, []);
        }
    }
}

/// Golden bytes of what a writer leaves, as one hash. The texts and `config`, which holds their hashes, change with the
/// texts. A later zstd that compresses otherwise changes packs and index segments: then this has to be looked at, not only
/// written anew.
const GOLDEN: &str = "2436ea992dfe8bab86636c6a2ef29c0fbf3f838880f282a26b17e3d486f6b64a";

#[tokio::test]
async fn the_same_input_gives_the_same_bytes() {
    let (memory, _) = make(disks_with_neighbours, 64 << 10).await;
    let (mut hasher, mut count) = (blake3::Hasher::new(), 0);
    for object in memory.list("").await.unwrap().iter().filter(|object| object.name.contains('/')) {
        hasher.update(object.name.as_bytes()).update(&object.size.to_le_bytes());
        hasher.update(&memory.get(&object.name, None).await.unwrap());
        count += 1;
    }
    assert_eq!(count, 10, "2 key slots, 4 packs, 2 segments, 2 manifests");
    assert_eq!(hasher.finalize().to_hex().as_str(), GOLDEN);
}

/// A Python that has the packages the reader needs. Without one there is no second opinion: that fails the test.
fn python() -> PathBuf {
    let candidates = [root().join(".tools/venv/bin/python"), PathBuf::from("python3")];
    let found = candidates.into_iter().find(|python| {
        let imports = Command::new(python).args(["-c", "import argon2, blake3, cryptography, zstandard"]).output();
        imports.is_ok_and(|output| output.status.success())
    });
    found.expect(
        "no Python with argon2-cffi, blake3, cryptography and zstandard for the independent reader: \
         `scripts/install.sh test` installs it into .tools/venv",
    )
}

fn run_peer(repository: &Path, secret: &str, arguments: &[&std::ffi::OsStr]) -> Output {
    let scratch = tempfile::tempdir().unwrap();
    let secret_file = scratch.path().join("secret");
    std::fs::write(&secret_file, secret).unwrap();
    Command::new(python())
        .arg(root().join("tests/peers/read_repository.py"))
        .args([repository.as_os_str(), "--passphrase-file".as_ref(), secret_file.as_os_str()])
        .args(arguments)
        .output()
        .unwrap()
}

fn read_with_peer(repository: &Path, secret: &str, number: u128, disks: Disks) {
    let scratch = tempfile::tempdir().unwrap();
    for (key, content) in (2000..).zip(disks(number)) {
        let output = scratch.path().join(format!("{key}.raw"));
        let (point, key_text) = (point_id(number).to_string(), key.to_string());
        let words = ["restore", "--point", &point, "--disk", &key_text, "--output"];
        let mut arguments: Vec<&std::ffi::OsStr> = words.iter().map(AsRef::as_ref).collect();
        arguments.push(output.as_os_str());
        let run = run_peer(repository, secret, &arguments);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        assert!(std::fs::read(output).unwrap() == content.as_ref(), "point {number}, disk {key}");
    }
}

/// What the independent reader's verification found: points with a fault, in its words.
fn verify_with_peer(repository: &Path, secret: &str) -> Vec<String> {
    let run = run_peer(repository, secret, &[OsStr::new("verify")]);
    let found: serde_json::Value = serde_json::from_slice(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&run.stderr)));
    let faults: Vec<String> = serde_json::from_value(found["faults"].clone()).unwrap();
    assert_eq!(run.status.success(), faults.is_empty());
    faults
}

#[tokio::test]
async fn an_independent_reader_agrees() {
    for (path, disks) in fixtures() {
        let recovery = std::fs::read_to_string(path.with_file_name("recovery-key.txt")).unwrap();
        for number in 1..=2 {
            read_with_peer(&path, PASSPHRASE, number, disks);
        }
        read_with_peer(&path, &recovery, 2, disks);
    }
    // A fresh one, without its index segments.
    let folder = tempfile::tempdir().unwrap();
    let repository = new_repository(Arc::new(FolderBackend::create(folder.path()).unwrap())).await;
    full_point(&repository, point_id(1), &disks(1)).await.unwrap();
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    read_with_peer(folder.path(), PASSPHRASE, 1, disks);
}

#[tokio::test]
async fn an_independent_reader_follows_rotated_keys() {
    let folder = tempfile::tempdir().unwrap();
    let repository = new_repository(Arc::new(FolderBackend::create(folder.path()).unwrap())).await;
    full_point(&repository, point_id(1), &disks(1)).await.unwrap();
    let second = SecretString::from("the second one");
    let cost = options().passphrase_cost;
    let key = repository.rotate_keys(&passphrase(), &second, cost).await.unwrap().text();
    let inputs = disks(2).map(|disk| (disk, ReadPlan::Everything));
    make_point(&repository, point_id(2), &inputs, PointKind::Full, Some(point_id(1))).await.unwrap();
    for number in 1..=2 {
        read_with_peer(folder.path(), second.expose_secret(), number, disks);
        read_with_peer(folder.path(), key.expose_secret(), number, disks);
    }
    assert_eq!(verify_with_peer(folder.path(), second.expose_secret()), [""; 0]);
    let refused = run_peer(folder.path(), PASSPHRASE, &["list".as_ref()]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("opens no key slot"));
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    read_with_peer(folder.path(), second.expose_secret(), 2, disks);
}

/// Whatever byte of a pack's chunks decays, both name the same restore points.
#[tokio::test]
async fn an_independent_verification_agrees() {
    for (path, _) in fixtures() {
        verifications_agree(&path).await;
    }
}

async fn verifications_agree(fixture: &Path) {
    assert_eq!(verify_with_peer(fixture, PASSPHRASE), [""; 0]);
    let folder = tempfile::tempdir().unwrap();
    copy_folder(fixture, folder.path());
    let backend = FolderBackend::open(folder.path()).unwrap();
    let mut lost = 0;
    for object in backend.list("packs/").await.unwrap() {
        let path = folder.path().join(&object.name);
        let sound = std::fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        bytes[60] ^= 0x20;
        std::fs::write(&path, &bytes).unwrap();
        let repository = reopen(Arc::new(FolderBackend::open(folder.path()).unwrap())).await;
        let report = repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await;
        let damage = report.unwrap().damage;
        let ours: BTreeSet<String> = damage
            .iter()
            .flat_map(|damage| damage.affected.iter().map(|affected| affected.point.to_string()))
            .collect();
        let faults = verify_with_peer(folder.path(), PASSPHRASE);
        let theirs: BTreeSet<String> =
            faults.iter().filter_map(|fault| fault.strip_prefix("point ")?.get(..36).map(str::to_owned)).collect();
        assert_eq!(ours, theirs, "{}: {damage:?} {faults:?}", object.name);
        lost += ours.len();
        std::fs::write(&path, sound).unwrap();
    }
    assert!(lost >= 4, "{lost}");
    // Nor does either give up over an index segment and a pack that only it covered.
    for folder_name in ["index", "packs"] {
        for object in backend.list(&format!("{folder_name}/")).await.unwrap() {
            let path = folder.path().join(&object.name);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[50] ^= 0x20;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let faults = verify_with_peer(folder.path(), PASSPHRASE);
    assert!(faults.iter().any(|fault| fault.starts_with("index/")), "{faults:?}");
    assert_eq!(faults.iter().filter(|fault| fault.starts_with("point ")).count(), 2, "{faults:?}");
}

/// Clocks of a day later.
struct Tomorrow;

impl Clock for Tomorrow {
    fn now(&self) -> Timestamp {
        SystemClock.now() + SignedDuration::from_hours(24)
    }
}

/// A folder, seen by a writer whose manifest is on its way for a day, while others give it up; it cannot take it back.
#[derive(Debug)]
struct LateFolder(Arc<FolderBackend>);

#[async_trait::async_trait]
impl ObjectBackend for LateFolder {
    fn place(&self) -> String {
        self.0.place()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        if name.starts_with("points/") {
            let later = Environment { clock: Arc::new(Tomorrow), ..Environment::default() };
            let others = Repository::open_in(Arc::clone(&self.0) as _, &passphrase(), later).await.unwrap();
            let (options, progress) = (CollectOptions::default(), Arc::new(NoProgress));
            let report = others.collect(options, progress, &CancellationToken::new()).await.unwrap();
            assert_eq!(report.leases_voided, 1, "{report:?}");
        }
        self.0.put_new(name, parts).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        self.0.get(name, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        self.0.list(prefix).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        self.0.stat(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        let (kind, verb, place) = (BackendErrorKind::Unreachable, "delete", self.place());
        Err(BackendError { kind, verb, name: name.to_owned(), place, source: None })
    }
}

/// A real void: the writer was declared dead, and its manifest came all the same.
#[tokio::test]
async fn an_independent_reader_honours_a_void() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Arc::new(FolderBackend::create(folder.path()).unwrap());
    let repository = new_repository(Arc::clone(&backend) as _).await;
    full_point(&repository, point_id(1), &disks(1)).await.unwrap();
    let late = reopen(Arc::new(LateFolder(Arc::clone(&backend)))).await;
    let lost = full_point(&late, point_id(2), &disks(2)).await;
    assert!(matches!(lost, Err(Error::LeaseLost { .. })), "{lost:?}");
    assert_eq!(backend.list("points/").await.unwrap().len(), 2, "the manifest is there");
    let voids = backend.list("voids/").await.unwrap();
    let [void] = &voids[..] else { panic!("{voids:?}") };

    let listed = || {
        let run = run_peer(folder.path(), PASSPHRASE, &["list".as_ref()]);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let lines = String::from_utf8(run.stdout).unwrap();
        (1..=2).filter(|number| lines.contains(&point_id(*number).to_string())).collect::<Vec<u128>>()
    };
    assert_eq!(listed(), [1]);
    assert_eq!(repository.points().await.unwrap().points.len(), 1);
    assert_eq!(verify_with_peer(folder.path(), PASSPHRASE), [""; 0]);
    read_with_peer(folder.path(), PASSPHRASE, 1, disks);
    let output = folder.path().join("disk.raw");
    let point = point_id(2).to_string();
    let words = ["restore", "--point", &point, "--disk", "2000", "--output"].map(OsStr::new);
    let refused = run_peer(folder.path(), PASSPHRASE, &[&words[..], &[output.as_os_str()]].concat());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("its lease is void"), "{refused:?}");
    assert!(!output.exists());
    // Nothing but the void speaks against it; one that does not open is none.
    let path = folder.path().join(&void.name);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(listed(), [1, 2]);
    read_with_peer(folder.path(), PASSPHRASE, 2, disks);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
