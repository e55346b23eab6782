//! A folder of a file system as backend. An object is a file: written under `tmp/`, synced, renamed without replacing,
//! its folder synced. What a crash leaves is a file in `tmp/`, which no list shows and the next writer removes: a file
//! being written is locked (`flock`), so that one that is not has lost its writer.

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock};
use rustix::io::pread;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{BackendError, BackendErrorKind, ObjectBackend, ObjectInfo, direct, valid_name};

const TEMPORARY_FOLDER: &str = "tmp";
/// Parts handed to one `writev`.
const WRITE_PARTS_MAX: usize = 512;

/// Younger temporary files are left alone.
const SWEEP_GRACE: Duration = Duration::from_secs(60);

static TEMPORARY_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Objects as files under one folder. Clones share it.
#[derive(Debug, Clone)]
pub struct FolderBackend {
    root: Arc<PathBuf>,
    /// Set when leftovers were looked for.
    swept: Arc<OnceLock<()>>,
}

impl FolderBackend {
    /// A folder that is there.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, BackendError> {
        let backend = Self { root: Arc::new(path.into()), swept: Arc::default() };
        let is_folder = fs::metadata(backend.root.as_path()).and_then(|meta| {
            if meta.is_dir() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotADirectory, "not a folder")) }
        });
        is_folder.map_err(|error| backend.error("open", "", error))?;
        Ok(backend)
    }

    /// A folder that is made (with its parents) or is there and empty.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, BackendError> {
        let backend = Self { root: Arc::new(path.into()), swept: Arc::default() };
        fs::create_dir_all(backend.root.as_path()).map_err(|error| backend.error("create", "", error))?;
        let mut entries = fs::read_dir(backend.root.as_path()).map_err(|error| backend.error("open", "", error))?;
        if entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found")) {
            let error = io::Error::new(io::ErrorKind::AlreadyExists, "the folder is not empty");
            return Err(backend.error("create", "", error));
        }
        Ok(backend)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn error(&self, verb: &'static str, name: &str, error: io::Error) -> BackendError {
        let kind = match error.kind() {
            io::ErrorKind::NotFound if verb != "open" && !self.root.is_dir() => BackendErrorKind::NoLocation,
            io::ErrorKind::NotFound => BackendErrorKind::NotFound,
            // A folder where an object was asked for, or an object where a folder was.
            io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory if verb != "open" => BackendErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => BackendErrorKind::AlreadyExists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                BackendErrorKind::OutOfSpace
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => BackendErrorKind::Forbidden,
            io::ErrorKind::UnexpectedEof => BackendErrorKind::TooShort,
            io::ErrorKind::InvalidInput => BackendErrorKind::BadName,
            _ => BackendErrorKind::Other,
        };
        let place = self.root.display().to_string();
        BackendError { kind, verb, name: name.to_owned(), place, source: Some(Arc::new(error)) }
    }

    fn path_of(&self, name: &str) -> io::Result<PathBuf> {
        if !valid_name(name) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an object name"));
        }
        Ok(self.root.join(name))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        verb: &'static str,
        name: &str,
        work: impl FnOnce(&Self, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BackendError> {
        let (this, owned) = (self.clone(), name.to_owned());
        let done = tokio::task::spawn_blocking(move || work(&this, &owned)).await;
        let result = done.unwrap_or_else(|_| Err(io::Error::other("the storage thread stopped")));
        result.map_err(|error| self.error(verb, name, error))
    }

    fn write_object(&self, name: &str, parts: &[Bytes]) -> io::Result<()> {
        let target = self.path_of(name)?;
        if target.symlink_metadata().is_ok() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        self.make_folder(&self.root.join(TEMPORARY_FOLDER))?;
        self.swept.get_or_init(|| sweep(&self.root.join(TEMPORARY_FOLDER)));
        let parent = target.parent().unwrap_or(&self.root);
        self.make_folder(parent)?;
        let number = TEMPORARY_NUMBER.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{}-{}-{number}.part", name.replace('/', "-"), std::process::id());
        let temporary = self.root.join(TEMPORARY_FOLDER).join(unique);
        let written = write_synced(&temporary, parts).and_then(|()| publish(&temporary, &target));
        if written.is_err() {
            // Nothing else can be done about a temporary file that does not go away; the first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written?;
        sync_folder(parent)
    }

    /// Makes a folder below the root durable: it, and each parent that was new.
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        // The root itself is never made here: a location that was unmounted must not come back as an empty folder.
        let parent = folder.parent().unwrap_or(&self.root);
        if folder != self.root.as_path() && parent != self.root.as_path() {
            self.make_folder(parent)?;
        }
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        sync_folder(parent)
    }

    fn read_range(&self, name: &str, range: Option<Range<u64>>) -> io::Result<Bytes> {
        let path = self.path_of(name)?;
        let Some(range) = range else { return Ok(fs::read(path)?.into()) };
        let length = range.end.checked_sub(range.start).ok_or(io::ErrorKind::InvalidInput)?;
        let file = File::open(&path)?;
        // Before room is made for them.
        if range.end > file.metadata()?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(read) = direct::read(&path, &range)? {
            return Ok(read);
        }
        let mut buffer = Vec::with_capacity(length as usize);
        while (buffer.len() as u64) < length {
            let at = range.start + buffer.len() as u64;
            if rustix::io::retry_on_intr(|| pread(&file, spare_capacity(&mut buffer), at))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        buffer.truncate(length as usize); // the allocator may have given more
        Ok(buffer.into())
    }

    fn list_prefix(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        let start = prefix.trim_end_matches('/');
        if start.is_empty() {
            fs::read_dir(self.root.as_path())?; // a missing location is an error, not an empty list
            self.walk(String::new(), &mut found)?;
        } else {
            if !valid_name(start) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            if !self.root.is_dir() {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.walk(start.to_owned(), &mut found)?;
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn walk(&self, folder: String, found: &mut Vec<ObjectInfo>) -> io::Result<()> {
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(self.root.join(&folder)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            for entry in entries {
                let entry = entry?;
                let Ok(part) = entry.file_name().into_string() else { continue };
                let name = if folder.is_empty() { part } else { format!("{folder}/{part}") };
                if !valid_name(&name) || name == TEMPORARY_FOLDER || name == "lost+found" {
                    continue;
                }
                let meta = match entry.metadata() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // deleted meanwhile
                    other => other?,
                };
                if meta.is_dir() {
                    folders.push(name);
                } else if meta.is_file() {
                    found.push(ObjectInfo { name, size: meta.len() });
                }
            }
        }
        Ok(())
    }
}

fn write_synced(path: &Path, parts: &[Bytes]) -> io::Result<()> {
    let first = parts.first().map(Bytes::as_ref).unwrap_or_default();
    let (file, is_direct) = direct::create(path, first)?;
    // Where locks are not supported, nobody sweeps either.
    let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
    let passed = if is_direct { direct::write(&file, first)? } else { 0 };
    write_rest(&file, parts, passed)?;
    file.sync_all()
}

/// Writes the parts but for their first `passed` bytes, which are there.
fn write_rest(mut file: &File, parts: &[Bytes], mut passed: usize) -> io::Result<()> {
    file.seek(io::SeekFrom::Start(passed as u64))?;
    for group in parts.chunks(WRITE_PARTS_MAX) {
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(group.len());
        for part in group {
            let skip = passed.min(part.len());
            passed -= skip;
            slices.push(IoSlice::new(part.get(skip..).unwrap_or_default()));
        }
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0); // skips empty parts
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut rest, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Removes temporary files whose writer is gone. What cannot be looked at stays.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(file) = OpenOptions::new().write(true).open(entry.path()) else { continue };
        let old = file.metadata().and_then(|meta| meta.modified()?.elapsed().map_err(io::Error::other));
        // The grace covers the moment between a writer's creating and locking its file.
        let left =
            old.is_ok_and(|age| age > SWEEP_GRACE) && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if left {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Gives the temporary file its name, never replacing another.
fn publish(temporary: &Path, target: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, temporary, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Not every file system knows the flag (NFS, some FUSE): a hard link does not replace either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            fs::hard_link(temporary, target)?;
            fs::remove_file(temporary)
        }
        Err(error) => Err(error.into()),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems refuse to sync a folder; they make names durable by themselves.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

#[async_trait::async_trait]
impl ObjectBackend for FolderBackend {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        self.blocking("store", name, move |this, name| this.write_object(name, &parts)).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        self.blocking("read", name, move |this, name| this.read_range(name, range)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        self.blocking("list", prefix, Self::list_prefix).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        let stat = |this: &Self, name: &str| {
            let meta = fs::metadata(this.path_of(name)?)?;
            if !meta.is_file() {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(ObjectInfo { name: name.to_owned(), size: meta.len() })
        };
        self.blocking("look up", name, stat).await
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        let delete = |this: &Self, name: &str| {
            let path = this.path_of(name)?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && this.root.is_dir() => return Ok(()),
                other => other?,
            }
            path.parent().map_or(Ok(()), sync_folder)
        };
        self.blocking("delete", name, delete).await
    }

    async fn sync(&self, name: &str) -> Result<(), BackendError> {
        let sync = |this: &Self, name: &str| {
            let path = this.path_of(name.trim_end_matches('/'))?;
            let folder = if name.ends_with('/') { path.as_path() } else { path.parent().unwrap_or(&this.root) };
            match sync_folder(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()), // nothing there to lose
                other => other,
            }
        };
        self.blocking("sync", name, sync).await
    }
}
