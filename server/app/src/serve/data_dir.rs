//! The data folder and its lock: one server a folder.

use crate::failure::Failure;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder, locked for as long as this lives. A killed server's lock goes with its process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder if needed and takes its lock.
    pub fn open_and_lock(path: &Path) -> Result<Self, Failure> {
        let what = || format!("The data folder {} cannot be used", path.display());
        // Passable, not readable, for others: the private database runs under an account of its own.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)
            .map_err(|error| Failure::new(what(), &error).hint("Name another one with --data-dir."))?;
        let path = fs::canonicalize(path).map_err(|error| Failure::new(what(), &error))?;
        let lock = take_lock(&path.join("server.lock")).map_err(|error| match error {
            LockError::Held(holder) => {
                Failure::because(what(), format!("another Stillframe server uses it (process {holder})"))
                    .hint("Stop that one first, or name another folder with --data-dir.")
            }
            LockError::File(error) => Failure::new(what(), &error),
        })?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

enum LockError {
    Held(String),
    File(std::io::Error),
}

impl From<rustix::io::Errno> for LockError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::File(error.into())
    }
}

impl From<std::io::Error> for LockError {
    fn from(error: std::io::Error) -> Self {
        Self::File(error)
    }
}

/// Locks the file and writes our process number into it, for the next one to name.
fn take_lock(path: &Path) -> Result<File, LockError> {
    let mut file =
        File::from(rustix::fs::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?);
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            let holder = holder.trim();
            return Err(LockError::Held(if holder.is_empty() { "unknown".to_owned() } else { holder.to_owned() }));
        }
        Err(error) => return Err(error.into()),
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_is_refused_and_told_who_holds_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open_and_lock(&folder.path().join("data")).unwrap();
        let refused = format!("{:?}", DataDir::open_and_lock(first.path()).unwrap_err());
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        let path = first.path().to_owned();
        drop(first);
        DataDir::open_and_lock(&path).unwrap();
    }
}
