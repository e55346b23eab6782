//! `repo backup`: an image file as a restore point, by the pipeline that backs up machines. For disks of hosts that no
//! driver knows, and for measuring. Must never: write to the image.

use bytes::Bytes;
use domain::machine::{DiskConfig, Firmware, MachineConfig};
use domain::point::{Consistency, PointKind};
use domain::{Clock, Extent, SystemClock};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use repository::{
    BlockSource, CommittedPoint, DiskInput, PointId, PointMetadata, Progress, ReadPlan, Repository, SourceError,
};
use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::RepoError;

/// Bytes of one read.
const PIECE_BYTES: u64 = 1 << 20;
/// Reads ahead of the pipeline.
const PIECES_AHEAD: usize = 4;
/// Buffers kept for the next reads.
const IDLE_BUFFERS_MAX: usize = 24;
/// Most changed areas that are taken from a file.
const AREAS_MAX: usize = 1 << 22;
/// Longest file of changed areas.
const AREAS_BYTES_MAX: u64 = 256 << 20;
/// The key of the only disk.
const DISK_KEY: i32 = 2000;

/// What of the image, and as whose.
pub struct Job<'a> {
    pub image: &'a Path,
    pub changed_areas: Option<&'a Path>,
    pub machine: String,
}

/// Makes the restore point.
pub async fn run(
    repository: &Repository,
    job: Job<'_>,
    progress: Arc<dyn Progress>,
) -> Result<CommittedPoint, RepoError> {
    let failed = |source| RepoError::File { doing: "read", path: job.image.display().to_string(), source };
    let image = Image::open(job.image).map_err(failed)?;
    let machine_id = format!("image/{}", job.machine);
    let points = repository.points().await?.points;
    let before = points.iter().rev().find(|point| point.machine_id == machine_id).map(|point| point.id);
    let (plan, kind) = match (job.changed_areas, before) {
        (None, _) => (ReadPlan::Allocated(image.data_extents().map_err(failed)?), PointKind::Full),
        (Some(path), Some(base)) => {
            (ReadPlan::Changed { base, areas: read_areas(path, image.size)? }, PointKind::Incremental)
        }
        (Some(_), None) => {
            let text = format!("{} has no restore point here that areas could have changed since", job.machine);
            return Err(RepoError::Refused(text));
        }
    };
    let writer = repository.begin_point(PointId(Uuid::now_v7())).await?;
    let config = disk_config(image.size);
    let input = DiskInput { config, source: Arc::new(image), plan };
    writer.backup_disk(input, progress, &CancellationToken::new()).await?;
    Ok(writer.commit(metadata(job.machine, machine_id, kind, before)).await?)
}

fn disk_config(capacity_bytes: u64) -> DiskConfig {
    let label = "Hard disk 1".to_owned();
    DiskConfig { key: DISK_KEY, label, capacity_bytes, controller_key: 1000, thin: true, ..DiskConfig::default() }
}

/// What is not known of a machine of which there is only a disk is left at what fits most.
fn metadata(name: String, machine_id: String, kind: PointKind, predecessor: Option<PointId>) -> PointMetadata {
    let machine = MachineConfig {
        name,
        guest_id: "otherGuest64".to_owned(),
        firmware: Firmware::Bios,
        secure_boot: false,
        processors: 1,
        memory_mib: 1024,
        hardware_version: "vmx-13".to_owned(),
        instance_uuid: None,
        bios_uuid: None,
        notes: String::new(),
        controllers: Vec::new(),
        disks: Vec::new(),
        ..MachineConfig::default()
    };
    PointMetadata {
        machine_id,
        device: "image file".to_owned(),
        machine,
        taken_at: SystemClock.now(),
        kind,
        consistency: Consistency::Offline,
        marks: Vec::new(),
        warnings: Vec::new(),
        task: None,
        predecessor,
    }
}

/// Lines of `offset length` in bytes.
fn read_areas(path: &Path, size: u64) -> Result<Vec<Extent>, RepoError> {
    let shown = path.display();
    let failed = |source| RepoError::File { doing: "read", path: shown.to_string(), source };
    if path.metadata().map_err(failed)?.len() > AREAS_BYTES_MAX {
        return Err(RepoError::Refused(format!("{shown} is longer than any list of changed areas")));
    }
    let mut areas = Vec::new();
    for (number, line) in std::fs::read_to_string(path).map_err(failed)?.lines().enumerate() {
        let mut words = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(offset)), Some(Ok(length)), None) = (words.next(), words.next(), words.next()) else {
            return Err(RepoError::Refused(format!("{shown} line {}: not “offset length”", number + 1)));
        };
        if areas.len() == AREAS_MAX {
            return Err(RepoError::Refused(format!("{shown} has more than {AREAS_MAX} lines")));
        }
        areas.push(Extent::new(offset, length));
    }
    domain::extent::check_areas(&areas, size).map_err(|error| RepoError::Refused(format!("{shown}: {error}")))?;
    Ok(areas)
}

/// An image file as a disk. Its holes are zeros, its memory goes round.
struct Image {
    file: Arc<File>,
    size: u64,
    buffers: Arc<Buffers>,
}

impl Image {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut size = file.metadata()?.len();
        if size == 0 {
            size = seek(&file, SeekFrom::End(0))?; // a block device
        }
        // Only advice: without it reading is slower.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        Ok(Self { file: Arc::new(file), size, buffers: Arc::default() })
    }

    /// What the file system stores; all of it where that cannot be told.
    fn data_extents(&self) -> io::Result<Vec<Extent>> {
        let (mut extents, mut at) = (Vec::new(), 0);
        while at < self.size {
            let start = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL | Errno::NOTSUP) => return Ok(vec![Extent::new(0, self.size)]),
                Err(error) => return Err(error.into()),
            };
            let end = seek(&self.file, SeekFrom::Hole(start))?.min(self.size);
            if end <= start {
                break;
            }
            extents.push(Extent::new(start, end - start));
            at = end;
        }
        Ok(extents)
    }
}

impl BlockSource for Image {
    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let (sender, receiver) = tokio::sync::mpsc::channel(PIECES_AHEAD);
        let (file, buffers) = (Arc::clone(&self.file), Arc::clone(&self.buffers));
        tokio::task::spawn_blocking(move || {
            let mut at = range.offset;
            while at < range.end() {
                // Pieces end at multiples of their length, so that chunks seldom lie across two.
                let end = (at / PIECE_BYTES + 1).saturating_mul(PIECE_BYTES).min(range.end());
                let mut buffer = Buffers::take(&buffers, (end - at) as usize);
                let read = file.read_exact_at(&mut buffer.bytes, at);
                let piece = read.map(|()| Bytes::from_owner(buffer)).map_err(SourceError::from);
                at = end;
                let failed = piece.is_err();
                if sender.blocking_send(piece).is_err() || failed {
                    return; // nobody listens any more
                }
            }
        });
        ReceiverStream::new(receiver).boxed()
    }
}

/// Memory of pieces that were stored, for the next ones: fresh memory costs as much as reading does.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl Buffers {
    fn take(home: &Arc<Self>, length: usize) -> Buffer {
        let mut bytes = home.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        bytes.resize(length, 0);
        Buffer { bytes, home: Arc::clone(home) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_BUFFERS_MAX {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}
