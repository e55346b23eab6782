//! Which megabytes of a file are taken, so that no two structures claim the same one.

use super::layout::{MIB, malformed};
use crate::Result;
use domain::Extent;

/// A bit for every MiB of the file.
pub(super) struct Occupancy {
    words: Vec<u64>,
    file_bytes: u64,
}

impl Occupancy {
    /// Of a file of `file_bytes`, which the caller has bounded. The header section is taken.
    pub fn new(file_bytes: u64) -> Self {
        let words = file_bytes.div_ceil(MIB).div_ceil(64) as usize;
        let mut found = Self { words: vec![0; words], file_bytes };
        if let Some(first) = found.words.first_mut() {
            *first = 1;
        }
        found
    }

    /// Takes `area`, which begins at a whole MiB; fails when it is not all in the file, or taken in part.
    pub fn claim(&mut self, area: Extent, what: impl Fn() -> String) -> Result<()> {
        let (offset, length) = (area.offset, area.length);
        if offset.checked_add(length).is_none_or(|end| end > self.file_bytes) {
            let file = self.file_bytes;
            return Err(malformed(format!("{} ({offset}+{length}) passes the end of the file at {file}", what())));
        }
        for index in offset / MIB..(offset + length).div_ceil(MIB) {
            let Some(word) = self.words.get_mut((index / 64) as usize) else { break };
            let bit = 1 << (index % 64);
            if *word & bit != 0 {
                return Err(malformed(format!("{} ({offset}+{length}) lies on another structure", what())));
            }
            *word |= bit;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_claimed_twice() {
        let mut file = Occupancy::new(100 * MIB + 5);
        let mut claim = |at: u64, length: u64| file.claim(Extent::new(at, length), || "it".into()).is_ok();
        assert!(!claim(0, MIB));
        assert!(claim(MIB, MIB));
        assert!(claim(60 * MIB, 10 * MIB));
        assert!(!claim(69 * MIB, 2 * MIB));
        assert!(claim(100 * MIB, 5));
        assert!(!claim(100 * MIB, 5));
        assert!(!claim(99 * MIB, MIB + 6));
        assert!(!claim(u64::MAX - 5, 10));
    }
}
