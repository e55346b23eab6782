//! Where runs are kept: a folder that outlives the process (the index *cache*) or files without a name that vanish with
//! it. One process has a cache folder at a time, by a lock; another one that opens the same repository does without.
//! Nothing here is needed: what is lost or damaged is made again from the repository.
//!
//! In the folder, by repository: `lock`; `state`, the runs that count, from the oldest; the runs. A run is written under
//! another name, synced and renamed, and then named in a new `state` in the same way.

use rustix::fs::{FlockOperation, flock};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::layout::{Part, Sums, damaged};
use crate::format::Fields;
use crate::format::names::ObjectId;

const MAGIC: &[u8; 8] = b"SFRUNS\0\0";
const STATE: &str = "state";
/// Most runs a state names.
const RUNS_MAX: usize = 1024;
/// Longest state file.
const STATE_BYTES_MAX: u64 = 32 + 16 * RUNS_MAX as u64;

/// See the module.
pub struct Store {
    pub repository: ObjectId,
    /// Seed of all checksums.
    pub secret: u64,
    folder: PathBuf,
    /// `None`: files are unlinked as soon as they are made.
    lock: Option<File>,
}

impl Store {
    /// The cache folder if there is one and it is free, else files that vanish.
    pub fn open(cache: Option<&Path>, repository: ObjectId, secret: u64) -> Self {
        if let Some(cache) = cache {
            let folder = cache.join(hex::encode(repository));
            match lock(&folder) {
                Ok(lock) => return Self { repository, secret, folder, lock: Some(lock) },
                Err(error) => {
                    let folder = folder.display();
                    tracing::info!(%folder, %error, "the index cache is in use or unusable: doing without for now");
                }
            }
        }
        let folder = cache.filter(|cache| cache.is_dir()).map_or_else(std::env::temp_dir, Path::to_path_buf);
        Self { repository, secret, folder, lock: None }
    }

    fn path(&self, run: &ObjectId, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", hex::encode(run)))
    }

    /// A new file for a run.
    pub fn create(&self, run: &ObjectId) -> io::Result<File> {
        let path = self.path(run, "part");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if self.lock.is_none() {
            fs::remove_file(&path)?;
        }
        Ok(file)
    }

    /// Gives a complete run its name.
    pub fn publish(&self, run: &ObjectId) -> io::Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        fs::rename(self.path(run, "part"), self.path(run, "run"))?;
        File::open(&self.folder)?.sync_all()
    }

    pub fn open_run(&self, run: &ObjectId) -> io::Result<File> {
        File::open(self.path(run, "run"))
    }

    /// Removes a run, complete or not; what does not go away now goes at the next start.
    pub fn remove(&self, run: &ObjectId) {
        if self.lock.is_some() {
            let _ = fs::remove_file(self.path(run, "run"));
            let _ = fs::remove_file(self.path(run, "part"));
        }
    }

    /// Makes these the runs that count, oldest first.
    pub fn write_state(&self, runs: &[ObjectId]) -> io::Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        if runs.len() > RUNS_MAX {
            return Err(damaged("too many runs"));
        }
        let mut bytes = Vec::with_capacity(32 + runs.len() * 16);
        bytes.extend(MAGIC);
        bytes.extend(self.repository);
        bytes.extend(runs.as_flattened());
        let checksum = Sums::new(self.secret, &self.repository).of(Part::State, &bytes);
        bytes.extend(checksum.to_le_bytes());
        let part = self.folder.join("state.part");
        let mut file = File::create(&part)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(part, self.folder.join(STATE))?;
        File::open(&self.folder)?.sync_all()
    }

    /// The runs that count, oldest first.
    pub fn read_state(&self) -> io::Result<Vec<ObjectId>> {
        let path = self.folder.join(STATE);
        if self.lock.is_none() || !path.exists() {
            return Ok(Vec::new());
        }
        if fs::metadata(&path)?.len() > STATE_BYTES_MAX {
            return Err(damaged("a state of a length that cannot be"));
        }
        let bytes = fs::read(path)?;
        let (body, checksum) = bytes.split_last_chunk().ok_or_else(|| damaged("a state cut short"))?;
        if Sums::new(self.secret, &self.repository).of(Part::State, body).to_le_bytes() != *checksum {
            return Err(damaged("a state that does not check"));
        }
        let mut fields = Fields(body);
        if fields.array() != Some(*MAGIC) || fields.array() != Some(self.repository) {
            return Err(damaged("the state of another repository"));
        }
        Ok(fields.0.as_chunks().0.to_vec())
    }

    /// Removes every file but these runs: leftovers of a process that died.
    pub fn sweep(&self, keep: &[ObjectId]) {
        if self.lock.is_none() {
            return;
        }
        let mut kept: HashSet<OsString> = ["lock".into(), STATE.into()].into();
        kept.extend(keep.iter().map(|run| format!("{}.run", hex::encode(run)).into()));
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if !kept.contains(&entry.file_name()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn lock(folder: &Path) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join("lock"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}
