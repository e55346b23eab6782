//! Backs up, verifies and restores raw image files, to be measured from outside (`time`, `perf`):
//!
//! ```text
//! bench full    REPOSITORY IMAGE            a full backup; makes the repository if need be
//! bench changed REPOSITORY IMAGE AREAS      from the last point; AREAS: lines of 64 KiB block numbers
//! bench verify  REPOSITORY
//! bench restore REPOSITORY OUTPUT           the last point, sparse
//! ```

use bytes::Bytes;
use domain::machine::{DiskConfig, Firmware, MachineConfig};
use domain::point::{Consistency, PointKind};
use domain::{Clock, Extent, SystemClock};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use repository::{
    BlockSource, DiskInput, FolderBackend, InitOptions, NoProgress, PointId, PointMetadata, ReadPlan, Repository,
    SourceError, VerifyOptions,
};
use secrecy::SecretString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const PIECE_BYTES: u64 = 1 << 20;
const AREA_BYTES: u64 = 64 << 10;
const DISK: i32 = 2000;

struct Image(Arc<File>, u64);

impl Image {
    fn open(path: &str) -> Outcome<Arc<Self>> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Arc::new(Self(Arc::new(file), size)))
    }
}

impl BlockSource for Image {
    fn size_bytes(&self) -> u64 {
        self.1
    }

    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let file = Arc::clone(&self.0);
        let read = move |start: u64| {
            let file = Arc::clone(&file);
            async move {
                let length = PIECE_BYTES.min(range.end() - start) as usize;
                let piece = tokio::task::spawn_blocking(move || {
                    let mut buffer = vec![0; length];
                    file.read_exact_at(&mut buffer, start).map(|()| Bytes::from(buffer))
                });
                Ok::<Bytes, SourceError>(piece.await??)
            }
        };
        let starts = (range.offset..range.end()).step_by(PIECE_BYTES as usize);
        futures_util::stream::iter(starts).map(read).buffered(2).boxed()
    }
}

async fn open(path: &str, may_create: bool) -> Outcome<Repository> {
    let passphrase = SecretString::from("bench");
    if may_create && !Path::new(path).join("config").exists() {
        let backend = Arc::new(FolderBackend::create(path)?);
        return Ok(Repository::init(backend, &passphrase, InitOptions::new(SystemClock.now())).await?.0);
    }
    Ok(Repository::open(Arc::new(FolderBackend::open(path)?), &passphrase).await?)
}

async fn last_point(repository: &Repository) -> Outcome<PointId> {
    Ok(repository.points().await?.points.last().ok_or("no point")?.id)
}

async fn backup(repository: &Repository, image: Arc<Image>, plan: ReadPlan, kind: PointKind) -> Outcome {
    let capacity_bytes = image.1;
    let predecessor = last_point(repository).await.ok();
    let writer = repository.begin_point(PointId(Uuid::now_v7())).await?;
    let config = DiskConfig {
        key: DISK,
        label: "Hard disk 1".to_owned(),
        capacity_bytes,
        controller_key: 1000,
        unit: 0,
        uuid: None,
        thin: true,
    };
    let input = DiskInput { config, source: image, plan };
    let summary = writer.backup_disk(input, Arc::new(NoProgress), &CancellationToken::new()).await?;
    let machine = MachineConfig {
        name: "bench".to_owned(),
        guest_id: "otherLinux64Guest".to_owned(),
        firmware: Firmware::Bios,
        secure_boot: false,
        processors: 1,
        memory_mib: 1024,
        hardware_version: "vmx-19".to_owned(),
        instance_uuid: None,
        bios_uuid: None,
        notes: String::new(),
        controllers: Vec::new(),
        disks: Vec::new(),
        adapters: Vec::new(),
    };
    let metadata = PointMetadata {
        machine_id: "bench/1".to_owned(),
        device: "bench".to_owned(),
        machine,
        taken_at: SystemClock.now(),
        kind,
        consistency: Consistency::Offline,
        marks: Vec::new(),
        warnings: Vec::new(),
        task: None,
        predecessor,
    };
    writer.commit(metadata).await?;
    println!("{summary:?}");
    Ok(())
}

fn areas(path: &str, size: u64) -> Outcome<Vec<Extent>> {
    let mut areas = Vec::new();
    for line in std::fs::read_to_string(path)?.split_whitespace() {
        areas.push(Extent::new(line.parse::<u64>()? * AREA_BYTES, AREA_BYTES));
    }
    Ok(domain::extent::coalesce(&areas, AREA_BYTES, 0, size))
}

async fn restore(repository: &Repository, output: &str) -> Outcome {
    let disk = repository.open_disk(last_point(repository).await?, DISK).await?;
    let file = File::create_new(output)?;
    file.set_len(disk.size_bytes())?;
    let mut stream = disk.stream(Extent::new(0, disk.size_bytes()));
    while let Some((offset, bytes)) = stream.try_next().await? {
        file.write_all_at(&bytes, offset)?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["full", path, image] => {
            backup(&open(path, true).await?, Image::open(image)?, ReadPlan::Everything, PointKind::Full).await
        }
        ["changed", path, image, list] => {
            let (repository, image) = (open(path, false).await?, Image::open(image)?);
            let plan = ReadPlan::Changed { base: last_point(&repository).await?, areas: areas(list, image.1)? };
            backup(&repository, image, plan, PointKind::Incremental).await
        }
        ["verify", path] => {
            let repository = open(path, false).await?;
            let report =
                repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await?;
            println!("{report:?}");
            Ok(())
        }
        ["restore", path, output] => restore(&open(path, false).await?, output).await,
        _ => Err("see the head of examples/bench.rs".into()),
    }
}
