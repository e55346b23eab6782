//! Files past the page cache (`O_DIRECT`): packs are written once, and read once in a long while. A copy in the cache would
//! cost as much time as compressing them does, drive out what is of use there, and let a verification check memory instead
//! of the disk. Where a file system has no such thing, the callers go through the cache.

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Where memory and file have to begin; a multiple of what any common disk asks for.
const ALIGNMENT_BYTES: usize = 4096;
/// Shorter ones go through the page cache.
const WRITE_BYTES_MIN: usize = 1 << 20;
/// Shorter ones go through the page cache, which reads ahead.
const READ_BYTES_MIN: u64 = 256 << 10;

fn is_aligned(part: &[u8]) -> bool {
    part.as_ptr().addr().is_multiple_of(ALIGNMENT_BYTES)
}

/// To open a file so.
pub fn flags() -> i32 {
    OFlags::DIRECT.bits().cast_signed()
}

/// Whether `part` can be written to `offset` of such a file.
pub fn fits(offset: u64, part: &[u8]) -> bool {
    is_aligned(part) && offset.is_multiple_of(ALIGNMENT_BYTES as u64) && part.len().is_multiple_of(ALIGNMENT_BYTES)
}

/// A new file, ready for [`write`] if `part` is long, lies right in memory, and the file system can.
pub fn create(path: &Path, part: &[u8]) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    if part.len() < WRITE_BYTES_MIN || !is_aligned(part) {
        return Ok((options.open(path)?, false));
    }
    match options.clone().custom_flags(flags()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
        other => return Ok((other?, true)),
    }
    // Some file systems make the file before they refuse.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok((options.open(path)?, false)),
    }
}

/// Writes the whole blocks of `part` to the start of such a file: so many bytes. From then on it is a file like any other.
pub fn write(file: &File, part: &[u8]) -> io::Result<usize> {
    let whole = part.len() / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
    let mut written = 0;
    while let Some(rest) = part.get(written..whole).filter(|rest| !rest.is_empty() && is_aligned(rest)) {
        match file.write_at(rest, written as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Other blocks than these, or no such thing here.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    fcntl_setfl(file, fcntl_getfl(file)? - OFlags::DIRECT)?;
    Ok(written)
}

/// The bytes of `range`, which must be within the file; `None` when they are few or the file system cannot.
pub fn read(path: &Path, range: &Range<u64>) -> io::Result<Option<Bytes>> {
    let block = ALIGNMENT_BYTES as u64;
    if range.end.saturating_sub(range.start) < READ_BYTES_MIN {
        return Ok(None);
    }
    let file = match OpenOptions::new().read(true).custom_flags(flags()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        other => other?,
    };
    let start = range.start / block * block;
    let length = (range.end.next_multiple_of(block) - start) as usize;
    let mut memory = vec![0u8; length + ALIGNMENT_BYTES];
    let lead = memory.as_ptr().addr().next_multiple_of(ALIGNMENT_BYTES) - memory.as_ptr().addr();
    let (wanted, mut got) = ((range.end - start) as usize, 0);
    while got < wanted {
        let Some(room) = memory.get_mut(lead + got..lead + length) else { return Ok(None) };
        match file.read_at(room, start + got as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let skipped = lead + (range.start - start) as usize;
    Ok(Some(Bytes::from(memory).slice(skipped..lead + wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On whatever file system the temporary folder is, with or without such a thing.
    #[test]
    fn what_is_written_in_whole_blocks_is_read_in_any_range() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..3_000_001u32).map(|number| (number % 251) as u8).collect();
        let mut memory: Vec<u8> = Vec::with_capacity(content.len() + ALIGNMENT_BYTES);
        let lead = memory.as_ptr().addr().next_multiple_of(ALIGNMENT_BYTES) - memory.as_ptr().addr();
        memory.resize(lead, 0);
        memory.extend(&content);
        let part = &memory[lead..];
        let (file, direct) = create(&path, part).unwrap();
        let written = if direct { write(&file, part).unwrap() } else { 0 };
        assert!(written == 0 || written == content.len() / ALIGNMENT_BYTES * ALIGNMENT_BYTES, "{written}");
        file.write_all_at(&part[written..], written as u64).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
        for range in [0..3_000_001, 1..3_000_000, 4096..1_000_000, 2_500_000..3_000_001] {
            if let Some(read) = read(&path, &range).unwrap() {
                assert!(read == content[range.start as usize..range.end as usize], "{range:?}");
            }
        }
        assert!(read(&path, &(0..1000)).unwrap().is_none(), "too short to be worth it");
        assert!(create(&path, part).is_err(), "nothing is replaced");
    }
}
