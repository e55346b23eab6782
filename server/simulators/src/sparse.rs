//! Sparse files and lists of ranges: where data is, what is zero.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;

/// Whether a block holds zeros only.
pub(crate) fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Units as runs of offset and length, clipped to the capacity.
pub(crate) fn runs(units: &BTreeSet<u64>, unit: u64, capacity: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &index in units {
        let start = index * unit;
        let end = (start + unit).min(capacity);
        match runs.last_mut() {
            Some((first, length)) if *first + *length == start => *length = end - *first,
            _ if start < end => runs.push((start, end - start)),
            _ => {}
        }
    }
    runs
}

/// Ranges of a sparse file that hold data: first byte and first byte after.
pub(crate) fn data_ranges(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL) => return Ok(vec![(0, size)]), // no holes on this file system
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start)).map_err(io::Error::from)?.min(size);
        if start >= end {
            break;
        }
        ranges.push((start, end));
        at = end;
    }
    Ok(ranges)
}
