//! Random sequences of everything that happens to a disk, against an array in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use simulators::hyperv::disk::{
    ChangesRefused, DiskId, DiskSpec, DiskStore, GuestWrites, SectorSizes, StoreOptions, TRACKING_UNIT_BYTES,
};

use super::{MIB, store};

const STEPS: usize = 120;
/// Files of a chain, so that memory is enough for all their contents.
const LINKS_MAX: usize = 7;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a disk held at a moment, and which units were written since.
#[derive(Clone)]
struct Moment {
    bytes: Vec<u8>,
    touched: BTreeSet<u64>,
}

struct Model {
    now: Vec<u8>,
    /// By frozen path, oldest first.
    frozen: Vec<(String, Moment)>,
    points: BTreeMap<String, Moment>,
}

impl Model {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.now[offset..offset + bytes.len()].copy_from_slice(bytes);
        let units = offset as u64 / TRACKING_UNIT_BYTES..((offset + bytes.len()) as u64).div_ceil(TRACKING_UNIT_BYTES);
        let moments = self.frozen.iter_mut().map(|(_, moment)| moment).chain(self.points.values_mut());
        moments.for_each(|moment| moment.touched.extend(units.clone()));
    }
}

struct Run {
    random: Random,
    options: StoreOptions,
    store: Option<DiskStore>,
    disk: DiskId,
    model: Model,
}

impl Run {
    fn new(folder: &Path, seed: u64) -> Self {
        let mut random = Random(seed);
        let options = StoreOptions { leaves_dirty_logs: seed % 2 == 1, ..StoreOptions::below(folder) };
        let store = DiskStore::open(options.clone()).unwrap();
        let logical = if random.below(2) == 0 { 512 } else { 4096 };
        let spec = DiskSpec {
            block_bytes: MIB << random.below(5),
            sectors: SectorSizes { logical, physical: 4096 },
            ..DiskSpec::dynamic(r"C:\VMs\rnd\disk.vhdx", 13 * MIB + 3 * 4096).with_pattern(seed, 4 * MIB)
        };
        let disk = store.create(&spec).unwrap();
        let mut now = vec![0; spec.size_bytes as usize];
        store.read(disk, 0, &mut now).unwrap();
        let model = Model { now, frozen: Vec::new(), points: BTreeMap::new() };
        Self { random, options, store: Some(store), disk, model }
    }

    fn store(&self) -> &DiskStore {
        self.store.as_ref().unwrap()
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=9 => self.write(),
            10..=12 if self.model.frozen.len() + 1 < LINKS_MAX => self.checkpoint(),
            13 | 14 => self.end_checkpoint(false),
            15 | 16 => self.end_checkpoint(true),
            17 => self.forget(),
            18 => self.restart(),
            _ => self.check(),
        }
    }

    fn write(&mut self) {
        let size = self.model.now.len() as u64;
        let length = match self.random.below(4) {
            0 => 1 + self.random.below(2000),
            1 => 4096 << self.random.below(5),
            2 => 1 + self.random.below(3 * MIB),
            _ => 2 * MIB,
        };
        let offset = match self.random.below(3) {
            0 => self.random.below(size / MIB) * MIB,
            1 => self.random.below(size),
            _ => self.random.below(size / 4096) * 4096,
        };
        let length = length.min(size - offset) as usize;
        let fill = if self.random.below(4) == 0 { 0 } else { self.random.below(255) as u8 + 1 };
        let mut bytes = vec![fill; length];
        if fill != 0 {
            bytes.iter_mut().step_by(100).zip((0..=u8::MAX).cycle()).for_each(|(byte, number)| *byte = number);
        }
        self.store().write(self.disk, offset, &bytes).unwrap();
        self.model.write(offset as usize, &bytes);
    }

    fn checkpoint(&mut self) {
        let frozen = self.store().checkpoint(&[self.disk]).unwrap().remove(0);
        let moment = Moment { bytes: self.model.now.clone(), touched: BTreeSet::new() };
        self.model.frozen.push((frozen, moment));
    }

    fn end_checkpoint(&mut self, converts: bool) {
        if self.model.frozen.is_empty() {
            return;
        }
        let index = self.random.below(self.model.frozen.len() as u64) as usize;
        let path = self.model.frozen[index].0.clone();
        let merged = if converts {
            let converted = self.store().convert(self.disk, &path).unwrap();
            let (_, moment) = self.model.frozen[index].clone();
            self.model.points.insert(converted.tracking_id, moment);
            converted.merged
        } else {
            self.store().merge(self.disk, &path.to_uppercase()).unwrap()
        };
        self.model.frozen.remove(index);
        // The next checkpoint froze the file that is gone; it names the other one now.
        if let Some((frozen, _)) = self.model.frozen.get_mut(index) {
            assert_eq!(*frozen, merged.gone);
            *frozen = merged.into;
        }
    }

    fn forget(&mut self) {
        if let Some(id) = self.model.points.keys().next().cloned() {
            self.model.points.remove(&id);
            assert!(self.store().forget(&id).unwrap());
            assert!(!self.store().forget(&id).unwrap());
            let path = self.store().path(self.disk).unwrap();
            assert_eq!(self.store().changes(&id, &path, 0, 512), Err(ChangesRefused::UnknownId));
        }
    }

    fn restart(&mut self) {
        let store = self.store.take();
        if self.random.below(2) == 0 {
            drop(store);
        } else {
            std::mem::forget(store); // as a kill does: nothing is closed
        }
        self.store = Some(DiskStore::open(self.options.clone()).unwrap());
    }

    fn check(&self) {
        let size = self.model.now.len() as u64;
        let mut read = vec![0xEE; size as usize];
        self.store().read(self.disk, 0, &mut read).unwrap();
        assert!(read == self.model.now);
        let raw = self.options.state_dir.join("frozen.raw");
        for (path, moment) in &self.model.frozen {
            self.store().copy_raw(path, &raw).unwrap();
            assert!(std::fs::read(&raw).unwrap() == moment.bytes, "{path}");
        }
        let top = self.store().path(self.disk).unwrap();
        for (id, point) in &self.model.points {
            let units = |changes: Vec<(u64, u64)>| -> BTreeSet<u64> {
                let units = changes
                    .into_iter()
                    .map(|(at, count)| at / TRACKING_UNIT_BYTES..(at + count).div_ceil(TRACKING_UNIT_BYTES));
                units.flatten().collect()
            };
            assert_eq!(units(self.store().changes(id, &top, 0, size).unwrap()), point.touched);
            for (path, moment) in &self.model.frozen {
                match self.store().changes(id, path, 0, size) {
                    // What differs between two moments was written between them.
                    Ok(changes) => Self::covers(&units(changes), &point.bytes, &moment.bytes, &point.touched),
                    Err(error) => assert_eq!(error, ChangesRefused::OlderFile),
                }
            }
        }
    }

    fn covers(units: &BTreeSet<u64>, before: &[u8], after: &[u8], touched: &BTreeSet<u64>) {
        let unit = TRACKING_UNIT_BYTES as usize;
        let pairs = before.chunks(unit).zip(after.chunks(unit)).zip(0u64..);
        let differing: BTreeSet<u64> = pairs.filter(|((a, b), _)| a != b).map(|(_, index)| index).collect();
        assert!(differing.is_subset(units), "a change is missing");
        assert!(units.is_subset(touched), "more is told than was written");
    }
}

fn random_run(seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::new(folder.path(), seed);
    for _ in 0..STEPS {
        run.step();
    }
    run.check();
    while !run.model.frozen.is_empty() {
        run.end_checkpoint(false);
    }
    run.check();
    assert_eq!(run.store().path(run.disk).unwrap(), r"C:\VMs\rnd\disk.vhdx");
}

#[test]
fn everything_that_happens_to_a_disk_is_what_happens_to_an_array() {
    for seed in 1..=6 {
        println!("seed {seed}");
        random_run(seed);
    }
}

#[test]
fn tracking_ids_belong_to_their_disk_and_ranges_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let [one, other] =
        [r"C:\one.vhdx", r"C:\other.vhdx"].map(|path| store.create(&DiskSpec::dynamic(path, 8 * MIB)).unwrap());
    let frozen = store.checkpoint(&[other, one]).unwrap();
    assert_eq!(frozen, [r"C:\other.vhdx", r"C:\one.vhdx"]);
    store.write(one, 10_000, &vec![1; 20_000]).unwrap();
    let id = store.convert(one, &frozen[1]).unwrap().tracking_id;
    store.write(one, 5 * MIB, &[1; 1]).unwrap();
    let changes = |path: &str, offset, length| store.changes(&id, path, offset, length);
    assert_eq!(changes(r"\\?\c:\ONE.vhdx", 0, 8 * MIB), Ok(vec![(8192, 24_576), (5 * MIB, 4096)]));
    assert_eq!(changes(r"C:\one.vhdx", 9000, 1000), Ok(vec![(9000, 1000)]));
    assert_eq!(changes(r"C:\one.vhdx", 0, 8 * MIB + 1), Err(ChangesRefused::OutOfRange));
    assert_eq!(changes(r"C:\other.vhdx", 0, 512), Err(ChangesRefused::OtherDisk));
    assert!(matches!(changes(r"C:\third.vhdx", 0, 512), Err(ChangesRefused::NoSuchDisk { .. })));
    assert!(store.convert(one, r"C:\one.vhdx").is_err(), "no checkpoint froze it");
    store.remove(other).unwrap();
    assert!(!folder.path().join("drive_c/other.vhdx").exists());
    store.detach(one).unwrap();
    assert!(folder.path().join("drive_c/one.vhdx").exists());
    assert_eq!(store.disks(), []);
}

#[test]
fn guests_write_the_same_for_a_seed_and_nothing_when_they_are_off() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    store.pause_guests(true);
    let spec = |name: &str| DiskSpec::dynamic(format!(r"C:\{name}.vhdx"), 16 * MIB).with_pattern(1, 2 * MIB);
    let disks = ["a", "b"].map(|name| store.create(&spec(name)).unwrap());
    for (name, disk) in ["a", "b"].into_iter().zip(disks) {
        store.run_guest(name, &[disk], Some(GuestWrites { bytes_per_second: MIB, seed: 77 })).unwrap();
        store.guest_burst(name, 2 * MIB);
    }
    let [a, b] = disks.map(|disk| store.digest(disk).unwrap());
    assert_eq!(a, b);
    store.stop_guest("a").unwrap();
    store.guest_burst("a", MIB);
    store.guest_burst("b", MIB);
    assert_eq!(store.digest(disks[0]).unwrap(), a);
    assert_ne!(store.digest(disks[1]).unwrap(), b);
}

#[test]
fn a_merge_that_was_cut_off_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = store(folder.path());
    let disk = first.create(&DiskSpec::dynamic(r"C:\cut.vhdx", 8 * MIB).with_pattern(2, MIB)).unwrap();
    let frozen = first.checkpoint(&[disk]).unwrap().remove(0);
    first.write(disk, 2 * MIB, &vec![7; 100_000]).unwrap();
    first.checkpoint(&[disk]).unwrap();
    first.write(disk, 3 * MIB, &vec![8; 100_000]).unwrap();
    let expected = first.digest(disk).unwrap();
    // What a death in mid-merge leaves: the note that it was under way, a parent that has changed, all the files.
    drop(first);
    let entries = std::fs::read_dir(folder.path().join("disks")).unwrap().flatten();
    let state = entries.map(|entry| entry.path()).find(|path| path.extension().unwrap() == "json").unwrap();
    let saved = std::fs::read_to_string(&state).unwrap().replace("\"merging\": null", "\"merging\": 0");
    assert!(saved.contains("\"merging\": 0"));
    let copies = folder.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let drive = folder.path().join("drive_c");
    for file in std::fs::read_dir(&drive).unwrap().flatten().filter(|file| file.file_name() != "cut.vhdx") {
        std::fs::copy(file.path(), copies.join(file.file_name())).unwrap();
    }
    let second = store(folder.path());
    second.merge(disk, &frozen).unwrap();
    drop(second);
    for file in std::fs::read_dir(&copies).unwrap().flatten() {
        std::fs::copy(file.path(), drive.join(file.file_name())).unwrap();
    }
    std::fs::write(&state, saved).unwrap();
    let third = store(folder.path());
    assert_eq!(third.digest(disk).unwrap(), expected);
    assert_eq!(third.chain(disk).unwrap().len(), 2);
}
