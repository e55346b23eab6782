//! The tiers of an index: a table in memory, bounded, and runs in files, each a few times as long as all newer ones
//! together. A full table becomes a run; runs that have become too alike are merged. Both happen beside look-ups, on a
//! thread of their own.
//!
//! | what changes the view | under |
//! |---|---|
//! | adding a pack: into the active table | the view's lock, shared, for the whole pack |
//! | freezing the active table, putting a run in place of tables or runs | `changing`, and the view's lock for an instant |
//! | writing tables as a run | `spilling`: one at a time |
//! | merging runs | `merging`: one at a time; writes out full tables meanwhile |
//!
//! Must never lose a record: a table leaves the view only when the run that holds its records is in the view.

mod merging;

use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::build::{Covered, RunWriter};
use super::layout::{Sums, damaged};
use super::packs::Packs;
use super::record::{Key, Place, Record};
use super::run::Run;
use super::store::Store;
use super::table::Table;
use crate::environment::{Randomness, random};
use crate::format::names::ObjectId;
use merging::merge_from;

/// While much is added, runs may gather up to this many before they are merged.
const RUNS_GATHERED_MAX: usize = 48;
/// What a chunk takes in the table at worst: entries are 33 bytes, and less than half of them may be in use.
const TABLE_BYTES_A_CHUNK: u64 = 76;

/// How an index uses this machine.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Folder for what makes opening quick and keeps memory low; may be shared by repositories, and deleted whenever no
    /// process uses it. Without one, temporary files are used, and only once there is more than fits in memory.
    pub cache: Option<PathBuf>,
    /// Chunks held in memory, about 44 bytes each, before they are written to a file.
    pub memory_chunks_max: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self { cache: None, memory_chunks_max: 200_000 }
    }
}

/// What look-ups see.
#[derive(Clone, Default)]
pub struct View {
    active: Arc<Table>,
    frozen: Vec<Arc<Table>>,
    /// Oldest, and longest, first.
    pub runs: Vec<Arc<Run>>,
}

/// A segment that was read: the numbers of its packs.
#[derive(Debug, Clone)]
pub struct Segment {
    pub packs: Vec<Range<u32>>,
    /// A run says that it is covered.
    stored: bool,
}

impl Segment {
    pub fn new(numbers: impl IntoIterator<Item = u32>) -> Self {
        Self { packs: ranges(numbers), stored: false }
    }

    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.packs.iter().cloned().flatten()
    }
}

fn ranges(numbers: impl IntoIterator<Item = u32>) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => ranges.push(number..number + 1),
        }
    }
    ranges.shrink_to_fit();
    ranges
}

/// See the module.
pub struct Tiers {
    options: IndexOptions,
    repository: ObjectId,
    secret: u64,
    randomness: Arc<dyn Randomness>,
    view: RwLock<Arc<View>>,
    pub packs: RwLock<Packs>,
    pub segments: Mutex<HashMap<ObjectId, Segment>>,
    store: Mutex<Option<Arc<Store>>>,
    changing: Mutex<()>,
    spilling: Mutex<()>,
    merging: Mutex<()>,
    tending: AtomicBool,
    /// It is being made anew: runs do without filters.
    filling: AtomicBool,
    /// Most memory that runs took when a new one was complete and those that it replaces still there.
    #[cfg(test)]
    pub peak_bytes: std::sync::atomic::AtomicU64,
    /// Number of runs when a merge failed: not tried again before there is another.
    merge_failed_at: AtomicUsize,
    /// A merge gives up at the next look.
    stop: AtomicBool,
}

impl Tiers {
    pub fn new(options: IndexOptions, repository: ObjectId, secret: u64, randomness: Arc<dyn Randomness>) -> Self {
        Self {
            options,
            repository,
            secret,
            randomness,
            view: RwLock::default(),
            packs: RwLock::default(),
            segments: Mutex::default(),
            store: Mutex::default(),
            changing: Mutex::default(),
            spilling: Mutex::default(),
            merging: Mutex::default(),
            tending: AtomicBool::new(false),
            filling: AtomicBool::new(false),
            #[cfg(test)]
            peak_bytes: std::sync::atomic::AtomicU64::new(0),
            merge_failed_at: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        }
    }

    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Adds what `insert` gives, all of it to one table.
    pub fn add(&self, insert: impl FnOnce(&mut dyn FnMut(Key, Place))) {
        let view = self.view.read();
        insert(&mut |key, place| view.active.insert(key, place));
    }

    /// Bytes of memory that grow with the number of chunks.
    pub fn memory_bytes(&self) -> u64 {
        let view = self.view();
        let tables = view.frozen.iter().chain([&view.active]).map(|table| table.len() as u64 * TABLE_BYTES_A_CHUNK);
        let runs = view.runs.iter().map(|run| run.memory_bytes());
        tables.chain(runs).sum::<u64>() + self.packs.read().memory_bytes()
    }

    /// Is the table in memory over its bound?
    pub fn is_full(&self) -> bool {
        self.view.read().active.len() > self.options.memory_chunks_max
    }

    /// Is a file of a run not what was written?
    pub fn is_broken(&self) -> bool {
        self.view().runs.iter().any(|run| run.is_broken())
    }

    pub fn keeps_a_cache(&self) -> bool {
        self.options.cache.is_some()
    }

    fn store(&self) -> Arc<Store> {
        let open = || Arc::new(Store::open(self.options.cache.as_deref(), self.repository, self.secret));
        Arc::clone(self.store.lock().get_or_insert_with(open))
    }

    /// Takes over what the cache folder holds; nothing when it is not sound.
    pub fn open_cache(&self) {
        let store = self.store();
        let runs = store.read_state().and_then(|ids| ids.iter().map(|id| self.open_run(&store, id)).collect());
        let runs: Vec<Arc<Run>> = runs.unwrap_or_else(|error: io::Error| {
            tracing::warn!(%error, "the index cache cannot be used and is made again");
            let _ = store.write_state(&[]);
            Vec::new()
        });
        store.sweep(&runs.iter().map(|run| run.id).collect::<Vec<_>>());
        {
            let (mut packs, mut segments) = (self.packs.write(), self.segments.lock());
            for run in &runs {
                (0..run.packs()).filter_map(|local| run.number(local)).for_each(|number| packs.set_stored(number));
                for covered in &run.segments {
                    let numbers = covered.packs.iter().cloned().flatten().filter_map(|local| run.number(local));
                    segments.insert(covered.segment, Segment { packs: ranges(numbers), stored: true });
                }
            }
        }
        let _changing = self.changing.lock();
        let mut view = self.view.write();
        *view = Arc::new(View { runs, ..(**view).clone() });
    }

    fn open_run(&self, store: &Store, id: &ObjectId) -> io::Result<Arc<Run>> {
        let insert = |pack, generation| self.packs.write().insert(pack, generation);
        let run = Run::open(store.open_run(id)?, self.secret, &self.repository, *id, insert)?;
        run.load_filters()?;
        Ok(Arc::new(run))
    }

    /// Throws the runs away. What they held has to be added again.
    pub fn reset(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let (_merging, _spilling, _changing) = (self.merging.lock(), self.spilling.lock(), self.changing.lock());
        self.stop.store(false, Ordering::Relaxed);
        let store = self.store();
        let _ = store.write_state(&[]);
        store.sweep(&[]);
        {
            let mut view = self.view.write();
            *view = Arc::new(View { runs: Vec::new(), ..(**view).clone() });
        }
        self.segments.lock().retain(|_, segment| !segment.stored);
        self.packs.write().forget_stored();
    }

    /// Writes the tables in memory as a run.
    pub fn spill(&self) -> io::Result<()> {
        let _one = self.spilling.lock();
        let tables = {
            let _changing = self.changing.lock();
            let mut view = self.view.write();
            let frozen = [&view.frozen[..], &[Arc::clone(&view.active)]].concat();
            let frozen: Vec<_> = frozen.into_iter().filter(|table| table.len() > 0).collect();
            *view = Arc::new(View { active: Arc::default(), frozen: frozen.clone(), runs: view.runs.clone() });
            frozen
        };
        let mut records = Vec::with_capacity(tables.iter().map(|table| table.len()).sum());
        for table in &tables {
            table.collect(&mut records);
        }
        if records.is_empty() {
            return Ok(());
        }
        records.sort_unstable();
        let mut numbers: Vec<u32> = records.iter().map(|record| record.place.pack()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let segments = self.segments_complete_with(&mut numbers);
        let store = self.store();
        let local = |number: u32| numbers.binary_search(&number).ok().map(|at| at as u32);
        let run = self.write_run(&store, records.len() as u64, &numbers, &segments, |writer| {
            records.iter().try_for_each(|record| {
                let number = local(record.place.pack()).ok_or_else(|| damaged("a pack without a number"))?;
                writer.push(Record { key: record.key, place: record.place.with_pack(number) })
            })
        })?;
        self.load_filters(&run)?;
        self.install(&store, run, &[], &tables)?;
        let mut packs = self.packs.write();
        for record in &records {
            packs.set_stored(record.place.pack());
        }
        drop(packs);
        self.note_stored(&segments);
        Ok(())
    }

    /// The segments whose packs are all in runs, or in the one that is going to hold `numbers`. Adds their packs to these.
    fn segments_complete_with(&self, numbers: &mut Vec<u32>) -> Vec<Covered> {
        let (packs, segments) = (self.packs.read(), self.segments.lock());
        let is_stored = |number: u32| {
            numbers.binary_search(&number).is_ok() || packs.get(number).is_some_and(super::packs::Pack::is_stored)
        };
        let complete: Vec<_> = segments
            .iter()
            .filter(|(_, segment)| !segment.stored && segment.numbers().all(is_stored))
            .map(|(id, segment)| (*id, segment.packs.clone()))
            .collect();
        drop((packs, segments));
        numbers.extend(complete.iter().flat_map(|(_, packs)| packs.iter().cloned().flatten()));
        numbers.sort_unstable();
        numbers.dedup();
        complete.into_iter().filter_map(|(segment, packs)| covered(segment, &packs, numbers)).collect()
    }

    fn note_stored(&self, covered: &[Covered]) {
        let mut segments = self.segments.lock();
        for covered in covered {
            if let Some(segment) = segments.get_mut(&covered.segment) {
                segment.stored = true;
            }
        }
    }

    /// Writes a run of what `feed` gives, with `numbers` (ascending) as its packs.
    fn write_run(
        &self,
        store: &Store,
        records_max: u64,
        numbers: &[u32],
        segments: &[Covered],
        feed: impl FnOnce(&mut RunWriter<'_>) -> io::Result<()>,
    ) -> io::Result<Run> {
        let id: ObjectId = random(&*self.randomness).map_err(io::Error::other)?;
        let write = || {
            let file = store.create(&id)?;
            let mut writer = RunWriter::new(&file, Sums::new(self.secret, &id), records_max);
            feed(&mut writer)?;
            let packs = numbers.iter().filter_map(|number| self.packs.read().get(*number).copied());
            writer.finish(self.repository, id, packs.map(|pack| (pack.id, pack.generation)), segments)?;
            store.publish(&id)?;
            let mut numbers = numbers.iter().copied();
            Run::open(file, self.secret, &self.repository, id, |_, _| numbers.next())
        };
        let written = write();
        if written.is_err() {
            store.remove(&id);
        }
        #[cfg(test)]
        self.peak_bytes.fetch_max(self.view().runs.iter().map(|run| run.memory_bytes()).sum(), Ordering::Relaxed);
        written
    }

    fn load_filters(&self, run: &Run) -> io::Result<()> {
        if self.filling.load(Ordering::Relaxed) { Ok(()) } else { run.load_filters() }
    }

    /// Much is going to be added before anything is looked up. Until [`Self::filled`], runs have no filters, which are most
    /// of an index's memory: of those that are merged, the old ones would stand beside what merging takes.
    pub fn fill(&self) {
        self.filling.store(true, Ordering::Relaxed);
    }

    /// Loads the filters; before that merges what is due, if most of the index was made anew.
    pub fn filled(&self) -> io::Result<()> {
        let records = |runs: &[Arc<Run>], all: bool| -> u64 {
            runs.iter().filter(|run| all || !run.has_filters()).map(|run| run.records).sum()
        };
        let view = self.view();
        let is_new = records(&view.runs, false) > records(&view.runs, true) / 2;
        drop(view);
        let merged = if is_new { self.work() } else { Ok(()) };
        self.filling.store(false, Ordering::Relaxed);
        self.view().runs.iter().try_for_each(|run| run.load_filters())?;
        merged
    }

    /// Puts a run in the place of runs or tables, in the cache folder first.
    fn install(&self, store: &Store, run: Run, runs: &[Arc<Run>], tables: &[Arc<Table>]) -> io::Result<Arc<Run>> {
        let _changing = self.changing.lock();
        let mut view = (*self.view()).clone();
        let at = view.runs.iter().position(|old| runs.iter().any(|run| Arc::ptr_eq(run, old)));
        let run = Arc::new(run);
        view.runs.retain(|old| !runs.iter().any(|run| Arc::ptr_eq(run, old)));
        view.runs.insert(at.unwrap_or(view.runs.len()), Arc::clone(&run));
        view.frozen.retain(|old| !tables.iter().any(|table| Arc::ptr_eq(table, old)));
        if let Err(error) = store.write_state(&view.runs.iter().map(|run| run.id).collect::<Vec<_>>()) {
            store.remove(&run.id);
            return Err(error);
        }
        *self.view.write() = Arc::new(view);
        for run in runs {
            store.remove(&run.id);
        }
        Ok(run)
    }

    /// Does what is due on a thread of its own, unless one is at it already.
    pub fn tend(self: &Arc<Self>) {
        if !self.is_full() && !self.is_merge_due() || self.tending.swap(true, Ordering::AcqRel) {
            return;
        }
        let tiers = Arc::clone(self);
        let work = move || {
            if let Err(error) = tiers.work() {
                tracing::warn!(%error, "the index cannot write its files and stays in memory for now");
            }
            tiers.tending.store(false, Ordering::Release);
        };
        if std::thread::Builder::new().name("repository-index".to_owned()).spawn(work).is_err() {
            self.tending.store(false, Ordering::Release);
        }
    }

    /// Writes a full table while much is added: runs gather, and are merged many at a time.
    pub fn gather(&self) -> io::Result<()> {
        if self.is_full() {
            self.spill()?;
            if self.view().runs.len() > RUNS_GATHERED_MAX {
                self.merge()?;
            }
        }
        Ok(())
    }

    /// Writes a full table, merges what is due.
    pub fn work(&self) -> io::Result<()> {
        loop {
            if self.is_full() {
                self.spill()?;
            }
            if self.stop.load(Ordering::Relaxed) || !self.is_merge_due() {
                return Ok(());
            }
            let runs = self.view().runs.len();
            self.merge().inspect_err(|_| self.merge_failed_at.store(runs, Ordering::Relaxed))?;
        }
    }

    fn is_merge_due(&self) -> bool {
        let runs = &self.view().runs;
        runs.len() - merge_from(runs) >= 2 && runs.len() != self.merge_failed_at.load(Ordering::Relaxed)
    }

    /// The index is being dropped: nothing long is begun or finished.
    pub fn close(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl View {
    /// Adds the places of a key to `found`, from the oldest.
    pub fn find(&self, key: &Key, found: &mut Vec<Place>) {
        self.runs.iter().for_each(|run| run.find(key, found));
        self.frozen.iter().for_each(|table| table.find(key, found));
        self.active.find(key, found);
    }

    /// The same, tier by tier, until `choose` likes something.
    pub fn find_map<T>(&self, key: &Key, choose: impl Fn(&[Place]) -> Option<T>) -> Option<T> {
        let mut found = Vec::new();
        let choose = |found: &mut Vec<Place>| {
            let chosen = if found.is_empty() { None } else { choose(found) };
            found.clear();
            chosen
        };
        for table in self.frozen.iter().chain([&self.active]) {
            table.find(key, &mut found);
            let chosen = choose(&mut found);
            if chosen.is_some() {
                return chosen;
            }
        }
        self.runs.iter().find_map(|run| {
            run.find(key, &mut found);
            choose(&mut found)
        })
    }
}

/// A segment with its packs by their place in `numbers`; `None` when one is not there.
fn covered(segment: ObjectId, packs: &[Range<u32>], numbers: &[u32]) -> Option<Covered> {
    let local = |number| numbers.binary_search(&number).ok().map(|at| at as u32);
    let packs = packs.iter().map(|range| {
        let (first, last) = (local(range.start)?, local(range.end - 1)?);
        (last - first == range.end - 1 - range.start).then_some(first..last + 1)
    });
    Some(Covered { segment, packs: packs.collect::<Option<_>>()? })
}
