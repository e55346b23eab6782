//! What an image says about a range of the disk: here it is in my file, it is zero, or ask my parent.

use domain::Extent;

/// Where bytes of the disk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the image's own file, from this byte on.
    File(u64),
    /// Nowhere: they are zero.
    Zero,
    /// In the parent; in the base image of a chain the same as zero.
    Parent,
}

/// A range of the disk that lies in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub range: Extent,
    pub place: Place,
}

/// Segments in ascending order without gaps; neighbours that lie side by side in one place become one.
#[derive(Debug, Default)]
pub(super) struct Segments(pub Vec<Segment>);

impl Segments {
    pub fn push(&mut self, range: Extent, place: Place) {
        if range.length == 0 {
            return;
        }
        if let Some(last) = self.0.last_mut()
            && last.range.end() == range.offset
            && place == continued(last)
        {
            last.range.length += range.length;
        } else {
            self.0.push(Segment { range, place });
        }
    }

    /// The sectors of `range` by their bits: set ones lie in the file from `file_offset` on, clear ones in the parent.
    /// `range` is cut anywhere; bit `first` of `bits` is the sector that holds its first byte.
    pub fn push_bits(&mut self, range: Extent, file_offset: u64, sector_bytes: u64, bits: Bits<'_>, first: u64) {
        let start = range.offset / sector_bytes;
        let sectors = range.end().div_ceil(sector_bytes) - start;
        let mut at = 0;
        while at < sectors {
            let set = bits.get(first + at);
            let mut end = at + 1;
            while end < sectors {
                match bits.whole_byte(first + end) {
                    Some(byte) if end + 8 <= sectors && byte == if set { 0xff } else { 0 } => end += 8,
                    _ if bits.get(first + end) == set => end += 1,
                    _ => break,
                }
            }
            let run = Extent::new((start + at) * sector_bytes, (end - at) * sector_bytes);
            if let Some(part) = run.intersection(&range) {
                let place = Place::File(file_offset + (part.offset - range.offset));
                self.push(part, if set { place } else { Place::Parent });
            }
            at = end;
        }
    }
}

fn continued(last: &Segment) -> Place {
    match last.place {
        Place::File(offset) => Place::File(offset.saturating_add(last.range.length)),
        other => other,
    }
}

/// A bitmap of sectors. A bit past its end is clear.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits<'a> {
    pub bytes: &'a [u8],
    /// VHD counts from the highest bit of a byte, VHDX from the lowest.
    pub highest_first: bool,
}

impl Bits<'_> {
    fn get(&self, index: u64) -> bool {
        let byte = self.bytes.get((index / 8) as usize).copied().unwrap_or(0);
        let shift = if self.highest_first { 7 - index % 8 } else { index % 8 };
        byte >> shift & 1 == 1
    }

    /// The byte whose first bit is `index`.
    fn whole_byte(&self, index: u64) -> Option<u8> {
        if index.is_multiple_of(8) { self.bytes.get((index / 8) as usize).copied() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_become_one() {
        let mut found = Segments::default();
        found.push(Extent::new(0, 10), Place::File(100));
        found.push(Extent::new(10, 10), Place::File(110));
        found.push(Extent::new(20, 5), Place::File(130));
        found.push(Extent::new(25, 5), Place::Zero);
        found.push(Extent::new(30, 0), Place::Parent);
        found.push(Extent::new(30, 5), Place::Zero);
        let lengths: Vec<u64> = found.0.iter().map(|segment| segment.range.length).collect();
        assert_eq!(lengths, [20, 5, 10]);
    }

    proptest! {
        #[test]
        fn bits_become_runs(
            bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 1..12),
            from in 0u64..3000, length in 1u64..6000, base in 0u64..20, highest_first: bool,
        ) {
            let bits = Bits { bytes: &bytes, highest_first };
            let range = Extent::new(from, length);
            let mut found = Segments::default();
            found.push_bits(range, 70_000, 512, bits, base);
            let mut at = from;
            for segment in &found.0 {
                prop_assert_eq!(segment.range.offset, at);
                for byte in segment.range.offset..segment.range.end() {
                    let index = base + byte / 512 - from / 512;
                    let value = bytes.get((index / 8) as usize).copied().unwrap_or(0);
                    let set = if highest_first { value << (index % 8) & 0x80 != 0 } else { value >> (index % 8) & 1 != 0 };
                    prop_assert_eq!(set, segment.place != Place::Parent);
                }
                if let Place::File(offset) = segment.place {
                    prop_assert_eq!(offset - 70_000, segment.range.offset - from);
                }
                at = segment.range.end();
            }
            prop_assert_eq!(at, range.end());
        }
    }
}
