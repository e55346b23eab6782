//! What of a disk is read although its host says that it did not change: change tracking is trusted, but checked.

use crate::extent::{self, Extent};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Samples are taken in cells of this size, aligned.
pub const CELL_BYTES: u64 = 64 * 1024;
/// So many cells of a disk at least, if it has as many.
const CELLS_MIN: u64 = 64;
/// And at most: 1 GiB.
const CELLS_MAX: u64 = 16 * 1024;

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sampling {
    /// Of a thousand cells that are in use and called unchanged, so many, but at least 64 cells; 0: none at all.
    pub per_mille: u32,
}

impl Sampling {
    /// Everything.
    pub const PER_MILLE_MAX: u32 = 1000;
    /// Its name among the server's settings.
    pub const SETTING: &'static str = "tracking_sample";

    /// How many of `unchanged` cells are read.
    pub fn cells(self, unchanged: u64) -> u64 {
        if self.per_mille == 0 {
            return 0;
        }
        let share = unchanged.saturating_mul(u64::from(self.per_mille)).div_ceil(u64::from(Self::PER_MILLE_MAX));
        share.clamp(CELLS_MIN, CELLS_MAX).min(unchanged)
    }

    /// Chooses cells of a disk of `size` bytes that lie in `used` areas and touch none of `changed`, each as likely as the
    /// other, in ascending order. `below(n)` gives a number from 0 to n − 1.
    pub fn choose(
        self,
        size: u64,
        used: &[Extent],
        changed: &[Extent],
        mut below: impl FnMut(u64) -> u64,
    ) -> Vec<Extent> {
        let runs = unchanged_cells(size, used, changed);
        let total: u64 = runs.iter().map(|(first, end)| end - first).sum();
        let mut chosen = BTreeSet::new();
        // Floyd's way: as many draws as cells, each combination as likely as the other.
        for last in total - self.cells(total)..total {
            let drawn = below(last + 1);
            if !chosen.insert(drawn) {
                chosen.insert(last);
            }
        }
        let (mut runs, mut before) = (runs.into_iter(), 0);
        let mut run = runs.next();
        let mut cells = Vec::with_capacity(chosen.len());
        for number in chosen {
            while let Some((first, end)) = run {
                if number < before + (end - first) {
                    let offset = (first + number - before) * CELL_BYTES;
                    cells.push(Extent::new(offset, CELL_BYTES.min(size - offset)));
                    break;
                }
                before += end - first;
                run = runs.next();
            }
        }
        cells
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { per_mille: 1 }
    }
}

/// Runs of cells `first .. end` that are in use and unchanged.
fn unchanged_cells(size: u64, used: &[Extent], changed: &[Extent]) -> Vec<(u64, u64)> {
    let cells = |areas: &[Extent]| -> Vec<(u64, u64)> {
        let whole = extent::coalesce(areas, CELL_BYTES, 0, size);
        whole.iter().map(|area| (area.offset / CELL_BYTES, area.end().div_ceil(CELL_BYTES))).collect()
    };
    let changed = cells(changed);
    let mut runs = Vec::new();
    let mut next = 0;
    for (mut first, end) in cells(used) {
        // Both lists ascend: what ended before this run has no part in later ones.
        while changed.get(next).is_some_and(|change| change.1 <= first) {
            next += 1;
        }
        for change in changed.get(next..).unwrap_or_default().iter().take_while(|change| change.0 < end) {
            if first < change.0 {
                runs.push((first, change.0));
            }
            first = first.max(change.1);
        }
        if first < end {
            runs.push((first, end));
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        move |bound| random.u64(..bound)
    }

    fn extents(list: &[(u64, u64)]) -> Vec<Extent> {
        list.iter().map(|&(offset, length)| Extent::new(offset, length)).collect()
    }

    proptest! {
        #[test]
        fn cells_are_distinct_in_use_and_unchanged(
            size in 1_u64..(64 << 20),
            used in proptest::collection::vec((0_u64..(64 << 20), 1_u64..(8 << 20)), 0..8),
            changed in proptest::collection::vec((0_u64..(64 << 20), 1_u64..(1 << 20)), 0..16),
            per_mille in 0_u32..=1000,
            seed: u64,
        ) {
            let within = |list: &[(u64, u64)]| extent::coalesce(&extents(list), 1, 0, size);
            let (used, changed) = (within(&used), within(&changed));
            let cells = Sampling { per_mille }.choose(size, &used, &changed, random(seed));
            let meets = |cell: &Extent, areas: &[Extent]| areas.iter().any(|area| area.intersection(cell).is_some());
            let all = (0..size.div_ceil(CELL_BYTES)).map(|n| {
                Extent::new(n * CELL_BYTES, CELL_BYTES.min(size - n * CELL_BYTES))
            });
            let unchanged: Vec<Extent> = all.filter(|cell| meets(cell, &used) && !meets(cell, &changed)).collect();
            prop_assert_eq!(cells.len() as u64, Sampling { per_mille }.cells(unchanged.len() as u64));
            prop_assert!(cells.windows(2).all(|pair| pair[0].end() <= pair[1].offset));
            prop_assert!(cells.iter().all(|cell| unchanged.contains(cell)));
        }
    }

    #[test]
    fn a_share_is_read_within_limits() {
        let cells = |per_mille, unchanged| Sampling { per_mille }.cells(unchanged);
        assert_eq!((cells(0, 1_000_000), cells(1, 10), cells(1, 1_000), cells(1, 100_000)), (0, 10, 64, 100));
        assert_eq!((cells(1000, 5_000), cells(1, u64::MAX / 2)), (5_000, CELLS_MAX));
    }

    /// One lost cell of 1024 is found by 64 of them with a chance of one in sixteen a run, and so the share of 2000 runs
    /// that find it lies within four standard deviations of that: 125 ± 43.
    #[test]
    fn a_lost_change_is_found_as_often_as_the_size_of_the_sample_says() {
        let disk = 1024 * CELL_BYTES;
        let lost = Extent::new(700 * CELL_BYTES + 4096, 4096);
        let finds = |seed| {
            let cells = Sampling::default().choose(disk, &[Extent::new(0, disk)], &[], random(seed));
            cells.iter().any(|cell| cell.intersection(&lost).is_some())
        };
        let found = (0..2000).filter(|seed| finds(seed * 7919)).count();
        assert!((82..=168).contains(&found), "{found} of 2000");
    }
}
