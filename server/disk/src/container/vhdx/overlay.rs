//! What the log would have written, held over the file without touching it.

use super::layout::LOG_SECTOR;
use crate::container::source::{ImageSource, read_exact};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use domain::Extent;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Sectors of data and runs of zeros by their offset in the file. They never overlap; all lie on multiples of 4 KiB.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    patches: BTreeMap<u64, Patch>,
}

#[derive(Debug)]
enum Patch {
    /// That many bytes.
    Zeros(u64),
    /// One sector of the log.
    Data(Bytes),
}

impl Patch {
    fn length(&self) -> u64 {
        match self {
            Self::Zeros(length) => *length,
            Self::Data(data) => data.len() as u64,
        }
    }
}

impl Overlay {
    /// Zeros over `area`, which the caller has aligned and bounded.
    pub fn zero(&mut self, area: Extent) {
        if area.length > 0 {
            self.cut(area);
            self.patches.insert(area.offset, Patch::Zeros(area.length));
        }
    }

    /// A sector of the log at the aligned `offset`.
    pub fn data(&mut self, offset: u64, sector: Bytes) {
        self.cut(Extent::new(offset, LOG_SECTOR as u64));
        self.patches.insert(offset, Patch::Data(sector));
    }

    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// Takes away what older writes left in `area`; zeros that reach beyond it keep their outer parts.
    fn cut(&mut self, area: Extent) {
        while let Some((&offset, length)) =
            self.patches.range(..area.end()).next_back().map(|(at, patch)| (at, patch.length()))
        {
            if offset + length <= area.offset {
                break;
            }
            self.patches.remove(&offset);
            if offset < area.offset {
                self.patches.insert(offset, Patch::Zeros(area.offset - offset));
            }
            if offset + length > area.end() {
                self.patches.insert(area.end(), Patch::Zeros(offset + length - area.end()));
            }
        }
    }

    fn touches(&self, area: Extent) -> bool {
        let last = self.patches.range(..area.end()).next_back();
        last.is_some_and(|(&offset, patch)| offset + patch.length() > area.offset)
    }

    /// Writes the patches over `bytes`, which stand at `offset` in the file.
    pub fn apply(&self, offset: u64, bytes: &mut [u8]) {
        let area = Extent::new(offset, bytes.len() as u64);
        let first = self.patches.range(..=offset).next_back().map_or(offset, |(&at, _)| at);
        for (&at, patch) in self.patches.range(first..area.end()) {
            let Some(part) = Extent::new(at, patch.length()).intersection(&area) else { continue };
            let (from, to) = ((part.offset - offset) as usize, (part.end() - offset) as usize);
            let Some(target) = bytes.get_mut(from..to) else { continue };
            match patch {
                Patch::Zeros(_) => target.fill(0),
                Patch::Data(data) => {
                    let skip = (part.offset - at) as usize;
                    if let Some(piece) = data.get(skip..skip + target.len()) {
                        target.copy_from_slice(piece);
                    }
                }
            }
        }
    }
}

/// A file as it would be after its log was replayed.
pub(super) struct Replayed {
    pub file: Arc<dyn ImageSource>,
    pub overlay: Overlay,
    /// At least as long as the file; what the file lacks is zero.
    pub len_bytes: u64,
}

#[async_trait]
impl ImageSource for Replayed {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let area = Extent::new(offset, length as u64);
        if offset.checked_add(area.length).is_none_or(|end| end > self.len_bytes) {
            let reason = format!("{length} bytes at {offset} pass the end at {}", self.len_bytes);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
        }
        let there = self.file.len_bytes().saturating_sub(offset).min(area.length) as usize;
        let bytes = match there {
            0 => Bytes::new(),
            there => read_exact(self.file.as_ref(), offset, there).await?,
        };
        if there == length && !self.overlay.touches(area) {
            return Ok(bytes);
        }
        let mut patched = BytesMut::from(bytes);
        patched.resize(length, 0);
        self.overlay.apply(offset, &mut patched);
        Ok(patched.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn patches_are_the_writes_in_their_order(
            writes in prop::collection::vec((0u64..24, prop_oneof![Just(0u64), 1u64..12], 1u8..), 0..30),
            from in 0usize..90_000, length in 0usize..40_000,
        ) {
            let mut plain = vec![9; 40 * LOG_SECTOR];
            let mut overlay = Overlay::default();
            let mut covered = vec![false; plain.len()];
            for (sector, zero_sectors, value) in writes {
                let at = sector as usize * LOG_SECTOR;
                let length = if zero_sectors > 0 { zero_sectors as usize * LOG_SECTOR } else { LOG_SECTOR };
                if zero_sectors > 0 {
                    overlay.zero(Extent::new(at as u64, length as u64));
                } else {
                    overlay.data(at as u64, vec![value; LOG_SECTOR].into());
                }
                plain[at..at + length].fill(if zero_sectors > 0 { 0 } else { value });
                covered[at..at + length].fill(true);
            }
            let mut bytes = vec![9; length];
            overlay.apply(from as u64, &mut bytes);
            prop_assert_eq!(&bytes, &plain[from..from + length]);
            let area = Extent::new(from as u64, length as u64);
            if covered[from..from + length].contains(&true) {
                prop_assert!(overlay.touches(area));
            }
        }
    }
}
