//! A disk's content in a file, raw and sparse.

use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::deliver::DiskSink;
use crate::backend::direct;

/// A new file of a disk's size; what is not written stays a hole. Whole blocks go past the page cache where the file
/// system can: a restored disk is larger than what the cache is of use for.
pub struct DiskFile {
    file: File,
    direct: Option<File>,
    /// Through the cache one at a time: the file system allows no more, and threads that wait for it there spin.
    one_at_a_time: Mutex<()>,
}

impl DiskFile {
    /// Fails when there is such a file.
    pub fn create(path: &Path, size_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.set_len(size_bytes)?;
        let direct = OpenOptions::new().write(true).custom_flags(direct::flags()).open(path).ok();
        Ok(Self { file, direct, one_at_a_time: Mutex::default() })
    }

    /// Makes it durable.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl DiskSink for DiskFile {
    fn write_at(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        if let Some(direct) = self.direct.as_ref().filter(|_| direct::fits(offset, content)) {
            match direct.write_all_at(content, offset) {
                // Other blocks than these, or no such thing here after all.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                other => return other,
            }
        }
        let _one = self.one_at_a_time.lock();
        self.file.write_all_at(content, offset)
    }
}
