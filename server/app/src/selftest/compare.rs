//! Byte for byte.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const BUFFER_BYTES: usize = 1 << 20;

/// Where two files differ first, or `None` when they are equal, length included.
pub fn first_difference(left: &Path, right: &Path) -> io::Result<Option<u64>> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    let (mut left_buffer, mut right_buffer) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut offset = 0;
    loop {
        let (count, other) = (fill(&mut left, &mut left_buffer)?, fill(&mut right, &mut right_buffer)?);
        if left_buffer[..count] != right_buffer[..other] {
            let common = count.min(other);
            let same = left_buffer.iter().zip(&right_buffer).take(common).take_while(|(a, b)| a == b).count();
            return Ok(Some(offset + same as u64));
        }
        if count == 0 {
            return Ok(None);
        }
        offset += count as u64;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let mut bytes = vec![7_u8; BUFFER_BYTES + 100];
        let first = write("a", &bytes);
        assert_eq!(first_difference(&first, &write("b", &bytes)).unwrap(), None);
        assert_eq!(first_difference(&first, &write("c", &bytes[..50])).unwrap(), Some(50));
        bytes[BUFFER_BYTES + 3] = 8;
        assert_eq!(first_difference(&first, &write("d", &bytes)).unwrap(), Some(BUFFER_BYTES as u64 + 3));
    }
}
