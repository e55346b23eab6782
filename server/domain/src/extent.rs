//! Byte ranges of a disk, and lists of them as hosts report them.

use serde::{Deserialize, Serialize};

/// A half-open byte range `offset .. offset + length` of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// Why a list of areas from a host cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// An area of no bytes.
    #[error("area {index} at byte {offset} has no length")]
    Empty { index: usize, offset: u64 },
    /// An area that ends after the disk does, or whose end overflows.
    #[error("area {index} ({offset}+{length}) passes the end of the disk at byte {size}")]
    PastEnd { index: usize, offset: u64, length: u64, size: u64 },
    /// Areas must be in ascending order and may touch but not overlap.
    #[error("area {index} at byte {offset} overlaps or precedes the area before it, which ends at byte {previous_end}")]
    Overlap { index: usize, offset: u64, previous_end: u64 },
}

impl Extent {
    /// The range `offset .. offset + length`.
    pub const fn new(offset: u64, length: u64) -> Self {
        Self { offset, length }
    }

    /// First byte after the range. Saturates, so that hostile numbers cannot wrap.
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// The part that both ranges cover, if any.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let offset = self.offset.max(other.offset);
        let end = self.end().min(other.end());
        (offset < end).then(|| Self::new(offset, end - offset))
    }
}

/// Checks areas as a host reported them: each has a length, none overlaps or goes back, none passes `size` bytes.
pub fn check_areas(areas: &[Extent], size: u64) -> Result<(), ExtentError> {
    let mut previous_end = 0;
    for (index, area) in areas.iter().enumerate() {
        let Extent { offset, length } = *area;
        if length == 0 {
            return Err(ExtentError::Empty { index, offset });
        }
        match offset.checked_add(length) {
            Some(end) if end <= size => {}
            _ => return Err(ExtentError::PastEnd { index, offset, length, size }),
        }
        if index > 0 && offset < previous_end {
            return Err(ExtentError::Overlap { index, offset, previous_end });
        }
        previous_end = area.end();
    }
    Ok(())
}

/// Sorts, widens each area outwards to `granularity` bytes (clipped to `size`), and joins areas that overlap, touch,
/// or lie at most `max_gap` bytes apart. Total bytes and order are what a sequential reader wants.
pub fn coalesce(areas: &[Extent], granularity: u64, max_gap: u64, size: u64) -> Vec<Extent> {
    let granularity = granularity.max(1);
    let mut widened: Vec<Extent> = areas
        .iter()
        .filter(|area| area.length > 0 && area.offset < size)
        .map(|area| {
            let start = area.offset / granularity * granularity;
            let end = area.end().div_ceil(granularity).saturating_mul(granularity).min(size);
            Extent::new(start, end - start)
        })
        .collect();
    widened.sort_unstable();
    let mut joined: Vec<Extent> = Vec::with_capacity(widened.len());
    for area in widened {
        match joined.last_mut() {
            Some(last) if area.offset <= last.end().saturating_add(max_gap) => {
                last.length = last.end().max(area.end()) - last.offset;
            }
            _ => joined.push(area),
        }
    }
    joined
}

/// Sum of the lengths, in bytes.
pub fn total_bytes(areas: &[Extent]) -> u64 {
    areas.iter().map(|area| area.length).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn areas_of_a_host_are_checked() {
        assert_eq!(check_areas(&[Extent::new(0, 10), Extent::new(10, 5)], 15), Ok(()));
        assert!(matches!(check_areas(&[Extent::new(3, 0)], 15), Err(ExtentError::Empty { .. })));
        assert!(matches!(check_areas(&[Extent::new(10, 6)], 15), Err(ExtentError::PastEnd { .. })));
        assert!(matches!(check_areas(&[Extent::new(u64::MAX, 2)], 15), Err(ExtentError::PastEnd { .. })));
        assert!(matches!(check_areas(&[Extent::new(0, 6), Extent::new(5, 2)], 15), Err(ExtentError::Overlap { .. })));
    }

    proptest! {
        #[test]
        fn coalesced_areas_cover_the_same_bytes(
            raw in prop::collection::vec((0u64..5_000, 0u64..300), 0..40), granularity in 1u64..64, gap in 0u64..200,
        ) {
            let size = 5_100;
            let areas: Vec<Extent> = raw.iter().map(|&(offset, length)| Extent::new(offset, length)).collect();
            let joined = coalesce(&areas, granularity, gap, size);
            prop_assert_eq!(check_areas(&joined, size), Ok(()));
            for area in areas.iter().filter(|area| area.length > 0) {
                let end = area.end().min(size);
                prop_assert!(joined.iter().any(|j| j.offset <= area.offset && end <= j.end()));
            }
            for pair in joined.windows(2) {
                prop_assert!(pair[1].offset > pair[0].end() + gap);
            }
        }
    }
}
