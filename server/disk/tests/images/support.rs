//! Files as sources and targets, and the programs that judge.

use async_trait::async_trait;
use bytes::Bytes;
use disk::container::{ImageFolder, ImageSource, ImageTarget, ReadOptions, VirtualDisk};
use domain::Extent;
use futures_util::TryStreamExt as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Where a [`Folder`] pretends to lie.
pub const ROOT: &str = r"C:\vms\";

/// What was read from a file.
#[derive(Debug, Default)]
pub struct Counts {
    pub reads: AtomicU64,
    pub bytes: AtomicU64,
    pub now: AtomicUsize,
    pub most: AtomicUsize,
}

/// A file of this machine.
pub struct FileSource {
    file: File,
    length: u64,
    counts: Arc<Counts>,
}

impl FileSource {
    pub fn open(path: &Path, counts: Arc<Counts>) -> io::Result<Arc<dyn ImageSource>> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Arc::new(Self { file, length, counts }))
    }
}

#[async_trait]
impl ImageSource for FileSource {
    fn len_bytes(&self) -> u64 {
        self.length
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let counts = &self.counts;
        counts.reads.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(length as u64, Ordering::Relaxed);
        let now = counts.now.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most.fetch_max(now, Ordering::Relaxed);
        // As a share would: the answer comes later, and others may be asked meanwhile.
        tokio::task::yield_now().await;
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, offset);
        counts.now.fetch_sub(1, Ordering::Relaxed);
        read.map(|()| bytes.into())
    }
}

/// A folder of this machine under a Windows path.
pub struct Folder {
    pub path: PathBuf,
    pub counts: Arc<Counts>,
}

impl Folder {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), counts: Arc::default() }
    }
}

#[async_trait]
impl ImageFolder for Folder {
    async fn open(&self, path: &str) -> io::Result<Option<Arc<dyn ImageSource>>> {
        let Some(name) = path.strip_prefix(ROOT).filter(|name| !name.contains('\\')) else { return Ok(None) };
        match FileSource::open(&self.path.join(name), self.counts.clone()) {
            Ok(source) => Ok(Some(source)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Opens the image of that name, with its parents, from a folder.
pub async fn open(folder: &Path, name: &str) -> disk::Result<VirtualDisk> {
    VirtualDisk::open(&Folder::new(folder), &format!("{ROOT}{name}"), ReadOptions::default()).await
}

/// Opens a file by its own path.
pub async fn open_file(path: &Path) -> disk::Result<VirtualDisk> {
    let source = FileSource::open(path, Arc::default()).expect("the image is there");
    VirtualDisk::open_file(&path.display().to_string(), source, ReadOptions::default()).await
}

pub async fn bytes_of(disk: &VirtualDisk, range: Extent) -> Vec<u8> {
    let pieces: Vec<Bytes> = disk.stream(range).try_collect().await.expect("the range can be read");
    pieces.concat()
}

/// Holds the disk against the raw file at these places, and its list of allocated areas against what is not zero there.
pub async fn assert_same(disk: &VirtualDisk, raw: &Path, places: &[Extent]) {
    let raw = File::open(raw).expect("the raw disk is there");
    let size = raw.metadata().expect("its length").len();
    assert_eq!(disk.size_bytes(), size);
    let whole = Extent::new(0, size);
    let allocated = disk.allocated(whole, 1).await.expect("allocated areas");
    assert_eq!(domain::extent::check_areas(&allocated, size), Ok(()));
    for place in places.iter().filter_map(|place| place.intersection(&whole)) {
        let mut expected = vec![0; place.length as usize];
        raw.read_exact_at(&mut expected, place.offset).expect("raw bytes");
        let found = bytes_of(disk, place).await;
        assert_eq!(found.len(), expected.len());
        if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
            panic!("byte {} is {} instead of {}", place.offset + at as u64, found[at], expected[at]);
        }
        for (start, piece) in (place.offset..).step_by(64).zip(expected.chunks(64)) {
            let is_data = |at: &usize| piece[*at] != 0;
            for at in (0..piece.len()).find(is_data).into_iter().chain((0..piece.len()).rfind(is_data)) {
                let at = start + at as u64;
                let next = allocated.partition_point(|area| area.end() <= at);
                assert!(allocated.get(next).is_some_and(|area| area.offset <= at), "byte {at} is not in the list");
            }
        }
    }
}

/// Reproducible bytes that do not compress.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Runs a program that must succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// A peer of this folder: a Python program.
pub fn peer(name: &str, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name);
    run("python3", &[&[text(&script)], arguments].concat())
}

/// What a writer did to its file, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    Write(u64, usize),
    Length(u64),
    Flush,
}

/// A new file of this machine.
pub struct FileTarget {
    pub path: PathBuf,
    file: File,
    pub deeds: Mutex<Vec<Deed>>,
    pub now: AtomicUsize,
    pub most: AtomicUsize,
    /// Copies of the file after every deed go here.
    pub history: Option<PathBuf>,
}

impl FileTarget {
    pub fn create(path: &Path) -> Arc<Self> {
        let file = File::options().create_new(true).write(true).open(path).expect("a new file");
        Arc::new(Self {
            path: path.to_owned(),
            file,
            deeds: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            history: None,
        })
    }

    fn note(&self, deed: Deed) {
        let mut deeds = self.deeds.lock().expect("no test panicked with it");
        deeds.push(deed);
        if let Some(folder) = &self.history {
            fs::copy(&self.path, folder.join(deeds.len().to_string())).expect("a copy");
        }
    }
}

#[async_trait]
impl ImageTarget for FileTarget {
    async fn write_at(&self, offset: u64, data: Bytes) -> io::Result<()> {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.now.fetch_sub(1, Ordering::Relaxed);
        self.file.write_all_at(&data, offset)?;
        self.note(Deed::Write(offset, data.len()));
        Ok(())
    }

    async fn set_len(&self, length_bytes: u64) -> io::Result<()> {
        self.file.set_len(length_bytes)?;
        self.note(Deed::Length(length_bytes));
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        self.note(Deed::Flush);
        Ok(())
    }
}
