//! Merging runs: what comes of the newest ones that have become too alike.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Tiers, covered};
use crate::index::build::{Covered, RunWriter};
use crate::index::record::Record;
use crate::index::run::{Cursor, Run};

/// A run is merged with the newer ones when it is not this much longer than all of them together.
const MERGE_RATIO: u64 = 3;
/// Records merged between two looks at what else there is to do.
const RECORDS_BETWEEN_LOOKS: u64 = 1 << 16;
/// Not in the merged run.
const DROPPED: u32 = u32::MAX;

impl Tiers {
    /// Merges the newest runs that have become too alike, if there are any.
    pub fn merge(&self) -> io::Result<()> {
        let _one = self.merging.lock();
        let view = self.view();
        let inputs = view.runs.get(merge_from(&view.runs)..).unwrap_or_default().to_vec();
        drop(view);
        if inputs.len() < 2 {
            return Ok(());
        }
        let numbers = self.live_numbers(&inputs);
        let segments = self.segments_of(&inputs, &numbers);
        let store = self.store();
        let records_max = inputs.iter().map(|run| run.records).sum();
        let run = self.write_run(&store, records_max, &numbers, &segments, |writer| {
            let locals: Vec<Vec<u32>> = inputs.iter().map(|run| locals(run, &numbers)).collect();
            self.feed_merged(&inputs, &locals, writer)
        })?;
        let run = self.install(&store, run, &inputs, &[])?;
        // The old filters go before the new ones come: they are most of the memory.
        drop(inputs);
        self.load_filters(&run)
    }

    /// Numbers of the packs of these runs that are not gone, ascending.
    fn live_numbers(&self, inputs: &[Arc<Run>]) -> Vec<u32> {
        let packs = self.packs.read();
        let mut seen = vec![0u64; packs.len().div_ceil(64)];
        for number in inputs.iter().flat_map(|run| (0..run.packs()).filter_map(|local| run.number(local))) {
            if packs.get(number).is_some_and(|pack| !pack.is_gone()) {
                seen[number as usize / 64] |= 1 << (number % 64);
            }
        }
        let words = (0u32..).zip(&seen);
        words
            .flat_map(|(word, bits)| (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit))
            .collect()
    }

    /// What the runs cover and is still there.
    fn segments_of(&self, inputs: &[Arc<Run>], numbers: &[u32]) -> Vec<Covered> {
        let segments = self.segments.lock();
        let mut seen = HashSet::new();
        let ids = inputs.iter().flat_map(|run| run.segments.iter().map(|covered| covered.segment));
        ids.filter(|id| seen.insert(*id)).filter_map(|id| covered(id, &segments.get(&id)?.packs, numbers)).collect()
    }

    fn feed_merged(&self, inputs: &[Arc<Run>], locals: &[Vec<u32>], writer: &mut RunWriter<'_>) -> io::Result<()> {
        let mut cursors: Vec<Cursor<'_>> = inputs.iter().map(|run| Cursor::new(run)).collect();
        let mut heap = BinaryHeap::with_capacity(cursors.len());
        for (from, cursor) in cursors.iter_mut().enumerate() {
            heap.extend(cursor.next()?.map(|record| Reverse((record, from))));
        }
        let (mut same, mut merged) = (Vec::new(), 0u64);
        while let Some(mut top) = heap.peek_mut() {
            let Reverse((record, from)) = *top;
            match cursors.get_mut(from).map_or(Ok(None), Cursor::next)? {
                Some(next) => {
                    *top = Reverse((next, from));
                    drop(top);
                }
                None => drop(std::collections::binary_heap::PeekMut::pop(top)),
            }
            let local = locals.get(from).and_then(|list| list.get(record.place.pack() as usize)).copied();
            if same.first().is_some_and(|first: &Record| first.key != record.key) {
                same.sort_unstable();
                same.drain(..).try_for_each(|record| writer.push(record))?;
            }
            if let Some(local) = local.filter(|local| *local != DROPPED) {
                same.push(Record { key: record.key, place: record.place.with_pack(local) });
            }
            merged += 1;
            if merged.is_multiple_of(RECORDS_BETWEEN_LOOKS) {
                self.look_up_from_merging()?;
            }
        }
        same.sort_unstable();
        same.drain(..).try_for_each(|record| writer.push(record))
    }

    fn look_up_from_merging(&self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.is_full() { self.spill() } else { Ok(()) }
    }
}

/// The oldest run to merge with all newer ones.
pub(super) fn merge_from(runs: &[Arc<Run>]) -> usize {
    let (mut from, mut newer) = (runs.len(), 0);
    for (at, run) in runs.iter().enumerate().rev() {
        if newer > 0 && run.records >= MERGE_RATIO * newer {
            break;
        }
        (from, newer) = (at, newer + run.records);
    }
    from
}

/// For each pack of a run its place in `numbers`.
fn locals(run: &Run, numbers: &[u32]) -> Vec<u32> {
    let local = |number: u32| numbers.binary_search(&number).map_or(DROPPED, |at| at as u32);
    (0..run.packs()).map(|own| run.number(own).map_or(DROPPED, local)).collect()
}
