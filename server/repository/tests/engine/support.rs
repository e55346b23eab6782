//! Disks in memory, seeded randomness, and a repository that is quick to open.

use bytes::Bytes;
use domain::Extent;
use domain::machine::{DiskConfig, Firmware, MachineConfig};
use domain::point::{Consistency, PointKind};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use repository::{
    Argon2Cost, BlockSource, CommittedPoint, DiskFile, DiskInput, DiskSummary, Environment, Error, InitOptions,
    NoProgress, ObjectBackend, PointId, PointMetadata, PointWriter, Randomness, ReadPlan, Repository, SourceError,
};
use secrecy::SecretString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const PASSPHRASE: &str = "correct horse battery staple";

pub fn passphrase() -> SecretString {
    SecretString::from(PASSPHRASE)
}

/// BLAKE3's output for a seed and a counter: the same for ever.
#[derive(Default)]
pub struct Seeded(AtomicU64);

impl Randomness for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> repository::Result<()> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        bytes.copy_from_slice(&noise(number ^ 0x5eed_0000_0000, bytes.len()));
        Ok(())
    }
}

pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn text(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, length).into_iter().map(|byte| b"etaoin shrdlu\n"[usize::from(byte) % 14]).collect()
}

pub fn environment(threads: usize) -> Environment {
    Environment { randomness: Arc::new(Seeded::default()), threads, ..Environment::default() }
}

pub fn options() -> InitOptions {
    InitOptions {
        chunk_average_bytes: 64 * 1024,
        pack_bytes: 512 * 1024,
        passphrase_cost: Argon2Cost { memory_kib: 64, passes: 1, lanes: 1 },
        created_at: Timestamp::UNIX_EPOCH,
    }
}

pub async fn new_repository(backend: Arc<dyn ObjectBackend>) -> Repository {
    Repository::init(backend, &passphrase(), options()).await.unwrap().0
}

pub async fn reopen(backend: Arc<dyn ObjectBackend>) -> Repository {
    Repository::open(backend, &passphrase()).await.unwrap()
}

/// A disk in memory that sends pieces of an awkward length and notes what was read.
pub struct MemoryDisk {
    pub content: Bytes,
    pub piece: usize,
    pub reads: Mutex<Vec<Extent>>,
    pub fail_at: Option<u64>,
}

impl MemoryDisk {
    pub fn new(content: impl Into<Bytes>) -> Self {
        Self { content: content.into(), piece: 100_001, reads: Mutex::default(), fail_at: None }
    }
}

impl BlockSource for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.content.len() as u64
    }

    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes, SourceError>> {
        self.reads.lock().unwrap().push(range);
        let whole = self.content.slice(range.offset as usize..range.end() as usize);
        let (piece, fail_at) = (self.piece, self.fail_at);
        let starts = (0..whole.len()).step_by(piece);
        let pieces = starts.map(move |start| {
            if fail_at.is_some_and(|at| at <= range.offset + start as u64) {
                return Err("the host went away".into());
            }
            Ok(whole.slice(start..(start + piece).min(whole.len())))
        });
        futures_util::stream::iter(pieces).boxed()
    }
}

pub fn disk_config(key: i32, capacity_bytes: u64) -> DiskConfig {
    DiskConfig {
        key,
        label: format!("Hard disk {}", key - 1999),
        capacity_bytes,
        controller_key: 1000,
        unit: key - 2000,
        thin: true,
        ..DiskConfig::default()
    }
}

pub fn metadata(taken_at: i64, kind: PointKind, predecessor: Option<PointId>) -> PointMetadata {
    PointMetadata {
        machine_id: "device-1/vm-1".to_owned(),
        device: "esxi-a".to_owned(),
        machine: MachineConfig {
            name: "web-01".to_owned(),
            guest_id: "debian12_64Guest".to_owned(),
            firmware: Firmware::Efi,
            secure_boot: false,
            processors: 2,
            memory_mib: 2048,
            hardware_version: "vmx-19".to_owned(),
            instance_uuid: None,
            bios_uuid: None,
            notes: "näkymä".to_owned(),
            controllers: Vec::new(),
            disks: Vec::new(),
            ..MachineConfig::default()
        },
        taken_at: Timestamp::from_second(taken_at).unwrap(),
        kind,
        consistency: Consistency::Crash,
        marks: Vec::new(),
        warnings: Vec::new(),
        task: Some("nightly".to_owned()),
        predecessor,
    }
}

pub fn point_id(number: u128) -> PointId {
    PointId(Uuid::from_u128(number))
}

pub async fn backup(writer: &PointWriter, key: i32, content: &Bytes, plan: ReadPlan) -> Result<DiskSummary, Error> {
    backup_from(writer, key, Arc::new(MemoryDisk::new(content.clone())), plan).await
}

pub async fn backup_from(
    writer: &PointWriter,
    key: i32,
    source: Arc<MemoryDisk>,
    plan: ReadPlan,
) -> Result<DiskSummary, Error> {
    let config = disk_config(key, source.size_bytes());
    writer.backup_disk(DiskInput { config, source, plan }, Arc::new(NoProgress), &CancellationToken::new()).await
}

/// A whole point of these disks, keys 2000 and up.
pub async fn make_point(
    repository: &Repository,
    id: PointId,
    disks: &[(Bytes, ReadPlan)],
    kind: PointKind,
    predecessor: Option<PointId>,
) -> Result<CommittedPoint, Error> {
    let writer = repository.begin_point(id).await?;
    for (key, (content, plan)) in (2000..).zip(disks) {
        backup(&writer, key, content, plan.clone()).await?;
    }
    writer.commit(metadata(id.0.as_u128() as i64, kind, predecessor)).await
}

pub async fn full_point(repository: &Repository, id: PointId, disks: &[Bytes]) -> Result<CommittedPoint, Error> {
    let disks: Vec<_> = disks.iter().map(|content| (content.clone(), ReadPlan::Everything)).collect();
    make_point(repository, id, &disks, PointKind::Full, None).await
}

/// All bytes of a disk, by the stream.
pub async fn read_disk(repository: &Repository, point: PointId, key: i32) -> Result<Vec<u8>, Error> {
    let image = repository.open_disk(point, key).await?;
    let mut content = vec![0; image.size_bytes() as usize];
    let mut stream = image.stream(Extent::new(0, image.size_bytes()));
    let mut end = 0;
    while let Some(piece) = stream.next().await {
        let (offset, bytes) = piece?;
        assert!(offset >= end, "pieces ascend");
        end = offset + bytes.len() as u64;
        content[offset as usize..end as usize].copy_from_slice(&bytes);
    }
    Ok(content)
}

/// All bytes of a disk, by way of a file.
pub async fn copy_disk(repository: &Repository, point: PointId, key: i32) -> Result<Vec<u8>, Error> {
    let image = repository.open_disk(point, key).await?;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let file = Arc::new(DiskFile::create(&path, image.size_bytes()).unwrap());
    image.copy_to(file).await?;
    assert!(DiskFile::create(&path, 1).is_err(), "a file that is there stays as it is");
    Ok(std::fs::read(path).unwrap())
}

pub async fn assert_reads(repository: &Repository, point: PointId, disks: &[Bytes]) {
    for (key, content) in (2000..).zip(disks) {
        let read = read_disk(repository, point, key).await.unwrap();
        assert!(read == content.as_ref(), "point {point}, disk {key}");
        let copied = copy_disk(repository, point, key).await.unwrap();
        assert!(copied == content.as_ref(), "point {point}, disk {key}, as a file");
    }
}
