//! The tiers against a plain map; the cache folder: opened again, flipped, taken, foreign.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::key_of;
use super::synthetic::{PACK_CHUNKS, SyntheticIndex};
use super::tiers::{IndexOptions, Tiers};
use super::{Index, packs::Trust};
use crate::environment::{Environment, Randomness};
use crate::error::Result;
use crate::format::crypto::{GenerationSecrets, Keys, Secrets};
use crate::format::names::ObjectId;
use crate::format::pack::PackEntry;
use crate::format::segment::PackRecord;
use crate::format::stamp::Bad;
use crate::format::{ChunkId, ChunkKind, Codec};
use zeroize::Zeroizing;

fn keys(data_key: u8) -> Keys {
    let secrets = Secrets::new(GenerationSecrets {
        data_key: Zeroizing::new([data_key; 32]),
        signing_seed: Zeroizing::new([8; 32]),
    });
    Keys::new([9; 16], &secrets).unwrap()
}

fn index(cache: Option<&Path>, memory_chunks_max: usize) -> Index {
    let options = IndexOptions { cache: cache.map(Path::to_path_buf), memory_chunks_max };
    let index = Index::new(&keys(7), &Environment { index: options, ..Environment::default() });
    if cache.is_some() {
        index.tiers.open_cache();
    }
    index
}

fn number_id<const N: usize>(number: u64, salt: u8) -> [u8; N] {
    let mut out = [0; N];
    blake3::Hasher::new().update(&[salt]).update(&number.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn pack_id(pack: u64) -> ObjectId {
    number_id(pack, 1)
}

fn chunk_id(chunk: u64) -> ChunkId {
    ChunkId(number_id(chunk, 2))
}

fn record(pack: u64, chunks: impl IntoIterator<Item = u64>) -> PackRecord {
    let entry = |chunk: u64| PackEntry {
        id: chunk_id(chunk),
        kind: if chunk.is_multiple_of(7) { ChunkKind::Map } else { ChunkKind::Data },
        codec: Codec::Raw,
        length: 1000 + chunk as u32 % 1000,
        stored: 1000 + chunk as u32 % 1000,
    };
    PackRecord {
        id: pack_id(pack),
        object_bytes: 1 << 20,
        generation: 0,
        entries: chunks.into_iter().map(entry).collect(),
    }
}

/// What should be in an index: packs of each chunk.
#[derive(Default)]
struct Oracle(HashMap<u64, BTreeSet<u64>>);

impl Oracle {
    fn add(&mut self, index: &Index, pack: u64, chunks: impl IntoIterator<Item = u64> + Clone) {
        index.insert(&record(pack, chunks.clone()));
        for chunk in chunks {
            self.0.entry(chunk).or_default().insert(pack);
        }
    }

    fn check(&self, index: &Index) {
        for (chunk, packs) in &self.0 {
            let id = chunk_id(*chunk);
            let places = index.places(&id);
            let found: BTreeSet<ObjectId> = places.iter().map(|place| place.pack).collect();
            let wanted: BTreeSet<ObjectId> = packs.iter().map(|pack| pack_id(*pack)).collect();
            assert_eq!(found, wanted, "chunk {chunk}");
            assert_eq!(places.len(), packs.len(), "chunk {chunk}: {places:?}");
            assert!(places.iter().all(|place| place.length == 1000 + *chunk as u32 % 1000));
            assert_eq!(index.has(&id), !packs.is_empty());
        }
        for chunk in 1 << 40..(1 << 40) + 1000 {
            assert!(!index.has(&chunk_id(chunk)));
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { files.extend(super::tests::files(&entry)) } else { files.push(entry) }
    }
    files.sort();
    files
}

/// Many small packs, some chunks in several, tables written and merged on the way.
fn fill(index: &Index) -> Oracle {
    let mut oracle = Oracle::default();
    for pack in 0..120 {
        let own = pack * 100..pack * 100 + 90;
        let shared = pack / 3 * 300..pack / 3 * 300 + 5;
        oracle.add(index, pack, own.chain(shared.filter(move |chunk| chunk / 100 != pack)));
        if pack % 2 == 0 {
            index.tiers.gather().unwrap();
        }
        if pack % 41 == 0 {
            index.tiers.work().unwrap();
        }
    }
    oracle
}

#[test]
fn tiers_hold_what_a_plain_map_holds() {
    for memory in [50, 700, 100_000] {
        let index = index(None, memory);
        let oracle = fill(&index);
        oracle.check(&index);
        index.tiers.work().unwrap();
        oracle.check(&index);
        let runs = index.tiers.view().runs.len();
        assert!(runs <= 4, "{runs} runs with {memory} in memory");
        assert_eq!(runs == 0, memory == 100_000);
    }
}

#[test]
fn a_pack_that_is_gone_leaves_at_the_next_merge() {
    let index = index(None, 50);
    let mut oracle = fill(&index);
    let gone: HashSet<u64> = (0..120).step_by(3).collect();
    for pack in &gone {
        let number = index.tiers.packs.read().number(&pack_id(*pack)).unwrap();
        index.tiers.packs.write().set_present(number, false, false);
    }
    for packs in oracle.0.values_mut() {
        packs.retain(|pack| !gone.contains(pack));
    }
    oracle.check(&index);
    let records = |index: &Index| index.tiers.view().runs.iter().map(|run| run.records).sum::<u64>();
    let before = records(&index);
    for pack in 1000..1400 {
        oracle.add(&index, pack, pack * 100..pack * 100 + 90);
        index.tiers.gather().unwrap();
    }
    index.tiers.spill().unwrap();
    index.tiers.work().unwrap();
    oracle.check(&index);
    assert!(records(&index) < before + 400 * 90, "records of packs that are gone are dropped");
    // And one that comes back is taken again.
    oracle.add(&index, 0, 0..90);
    oracle.check(&index);
}

#[test]
fn condemned_bad_and_absent_places_are_for_reading_only() {
    let index = index(None, 10);
    for pack in 0..4 {
        index.insert(&record(pack, 0..20));
        index.tiers.gather().unwrap();
    }
    let id = chunk_id(3);
    assert_eq!(index.places(&id).len(), 4);
    index.condemn([&pack_id(0), &pack_id(9)]);
    index.set_bad(pack_id(1), Bad::Chunks([3].into()));
    index.forget(&pack_id(2));
    let order: Vec<ObjectId> = index.places(&id).iter().map(|place| place.pack).collect();
    assert_eq!(order, [3, 0, 1, 2].map(pack_id));
    assert!(index.has(&id));
    assert_eq!(index.usable_pack(&id), Some(pack_id(3)));
    index.forget(&pack_id(3));
    assert!(!index.has(&id), "nothing new may refer to any of them");
    assert_eq!(index.known(&id).unwrap().pack, pack_id(0), "condemned, but there");
    assert!(index.has(&chunk_id(4)), "only chunk 3 of pack 1 is bad");
    // A pack that was condemned before it was known.
    index.insert(&record(9, [100]));
    assert!(!index.has(&chunk_id(100)));
    let trust = |pack: u64| {
        let packs = index.tiers.packs.read();
        let mut places = Vec::new();
        index.tiers.view().find(&key_of(&id), &mut places);
        let number = packs.number(&pack_id(pack)).unwrap();
        places.iter().find(|place| place.pack() == number).map(|place| packs.trust(*place))
    };
    assert_eq!((trust(0), trust(1)), (Some(Trust::Condemned), Some(Trust::Bad)));
}

#[test]
fn a_cache_folder_is_taken_over_and_says_which_segments_it_covers() {
    let folder = tempfile::tempdir().unwrap();
    let first = index(Some(folder.path()), 300);
    let mut oracle = Oracle::default();
    for segment in 0..20 {
        let packs: Vec<u64> = (segment * 3..segment * 3 + 3).collect();
        for pack in &packs {
            oracle.add(&first, *pack, pack * 100..pack * 100 + 60);
        }
        let records: Vec<PackRecord> = packs.iter().map(|pack| record(*pack, [])).collect();
        first.cover(number_id(segment, 3), &records);
        first.tiers.gather().unwrap();
    }
    first.tiers.work().unwrap();
    // Another process (or handle) that opens it meanwhile does without.
    let second = index(Some(folder.path()), 300);
    assert!(second.tiers.view().runs.is_empty() && second.tiers.segments.lock().is_empty());
    for pack in 0..20 {
        second.insert(&record(pack, pack * 100..pack * 100 + 60));
        second.tiers.gather().unwrap();
    }
    assert!(second.has(&chunk_id(101)));
    drop((first, second));

    let again = index(Some(folder.path()), 300);
    let covered: HashSet<ObjectId> = again.tiers.segments.lock().keys().copied().collect();
    assert!((15..=20).contains(&covered.len()), "{}", covered.len());
    oracle.0.retain(|chunk, _| covered.contains(&number_id(chunk / 300, 3)));
    oracle.check(&again);
    // What is not covered is read again, and added again.
    for segment in (0..20).filter(|segment| !covered.contains(&number_id(*segment, 3))) {
        (segment * 3..segment * 3 + 3).for_each(|pack| oracle.add(&again, pack, pack * 100..pack * 100 + 60));
    }
    again.tiers.spill().unwrap();
    again.tiers.work().unwrap();
    oracle.check(&again);
    let runs = again.tiers.view().runs.len();
    assert_eq!(files(folder.path()).len(), 2 + runs, "lock, state, runs: {:?}", files(folder.path()));
}

fn keep(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

/// A small cache, closed.
fn sample_cache() -> (tempfile::TempDir, Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let index = index(Some(folder.path()), 100_000);
    let mut oracle = Oracle::default();
    for pack in 0..4 {
        oracle.add(&index, pack, pack * 100..pack * 100 + 90);
        index.cover(number_id(pack, 3), &[record(pack, [])]);
        index.tiers.spill().unwrap();
    }
    assert_eq!(index.tiers.view().runs.len(), 4);
    (folder, oracle)
}

#[test]
fn a_flipped_byte_anywhere_in_the_cache_is_never_believed() {
    let (sound, oracle) = sample_cache();
    let mut noticed = 0;
    for file in files(sound.path()).into_iter().filter(|file| !file.ends_with("lock")) {
        let length = fs::metadata(&file).unwrap().len() as usize;
        for at in (0..length.min(300)).step_by(5).chain((300..length).step_by(509)) {
            let folder = tempfile::tempdir().unwrap();
            keep(sound.path(), folder.path());
            let flipped = folder.path().join(file.strip_prefix(sound.path()).unwrap());
            let mut bytes = fs::read(&flipped).unwrap();
            bytes[at] ^= 0x10;
            fs::write(&flipped, bytes).unwrap();
            let index = index(Some(folder.path()), 100_000);
            let empty = index.tiers.view().runs.is_empty();
            if empty {
                assert!(index.tiers.segments.lock().is_empty(), "then nothing is taken from it");
            } else {
                for chunk in oracle.0.keys() {
                    let places = index.places(&chunk_id(*chunk));
                    assert!(places.iter().all(|place| place.length == 1000 + *chunk as u32 % 1000));
                    assert!(places.len() == 1 || index.tiers.is_broken(), "{} byte {at}", file.display());
                }
            }
            if index.tiers.is_broken() {
                index.tiers.reset();
                assert!(index.tiers.view().runs.is_empty() && index.tiers.segments.lock().is_empty());
                (0..4).for_each(|pack| assert!(index.insert(&record(pack, pack * 100..pack * 100 + 90))));
                oracle.check(&index);
                noticed += 1;
            }
            noticed += usize::from(empty);
        }
    }
    assert!(noticed > 100, "{noticed}");
}

#[test]
fn a_cache_of_other_keys_or_another_repository_is_not_used() {
    let (folder, _) = sample_cache();
    let mine = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let options = || IndexOptions { cache: Some(folder.path().to_owned()), memory_chunks_max: 100 };
    let other_keys = Index::new(&keys(6), &Environment { index: options(), ..Environment::default() });
    let copy = tempfile::tempdir().unwrap();
    keep(folder.path(), copy.path());
    other_keys.tiers.open_cache();
    assert!(other_keys.tiers.view().runs.is_empty());
    drop(other_keys);
    // The same secret, another repository: the folder was renamed.
    let renamed = copy.path().join(hex::encode([1; 16]));
    fs::rename(copy.path().join(mine.file_name().unwrap()), &renamed).unwrap();
    let options = IndexOptions { cache: Some(copy.path().to_owned()), memory_chunks_max: 100 };
    let environment = Environment::default();
    let secret = keys(7).chunk_id(ChunkKind::Map, b"stillframe index cache");
    let secret = u64::from_le_bytes(*secret.0.first_chunk().unwrap());
    let other = Tiers::new(options, [1; 16], secret, environment.randomness);
    other.open_cache();
    assert!(other.view().runs.is_empty());
}

#[test]
fn leftovers_of_a_process_that_died_are_removed() {
    let (folder, oracle) = sample_cache();
    let run = files(folder.path()).into_iter().find(|file| file.extension().is_some_and(|end| end == "run")).unwrap();
    for name in ["00112233445566778899aabbccddeeff.part", "ffeeddccbbaa99887766554433221100.run", "state.part"] {
        fs::copy(&run, run.with_file_name(name)).unwrap();
    }
    let index = index(Some(folder.path()), 100);
    oracle.check(&index);
    assert_eq!(files(folder.path()).len(), 2 + 4);
}

#[test]
fn without_room_for_files_it_stays_in_memory() {
    struct NoRandomness;
    impl Randomness for NoRandomness {
        fn fill(&self, _: &mut [u8]) -> Result<()> {
            Err(crate::error::Error::Internal("random numbers"))
        }
    }
    let options = IndexOptions { cache: None, memory_chunks_max: 100 };
    let environment = Environment { index: options, randomness: Arc::new(NoRandomness), ..Environment::default() };
    let index = Index::new(&keys(7), &environment);
    let mut oracle = Oracle::default();
    for pack in 0..20 {
        oracle.add(&index, pack, pack * 100..pack * 100 + 90);
        let _ = index.tiers.gather();
    }
    assert!(index.tiers.spill().is_err());
    oracle.check(&index);
}

#[test]
fn adding_looking_up_writing_and_merging_at_the_same_time() {
    let index = Arc::new(index(None, 2000));
    let packs = 400u64;
    let adders: Vec<_> = (0..2)
        .map(|half| {
            let index = Arc::clone(&index);
            std::thread::spawn(move || {
                for pack in (half..packs).step_by(2) {
                    index.add(&record(pack, pack * 100..pack * 100 + 100));
                    // What was added is there at once and stays, whatever is being written or merged.
                    for earlier in (half..=pack).step_by(14) {
                        assert!(index.has(&chunk_id(earlier * 100 + pack % 100)), "{earlier} after {pack}");
                    }
                }
            })
        })
        .collect();
    for adder in adders {
        adder.join().unwrap();
    }
    index.tiers.work().unwrap();
    assert!((0..packs * 100).all(|chunk| index.has(&chunk_id(chunk))));
    assert!(!index.tiers.view().runs.is_empty());
}

/// A million chunks: bytes of memory and of files a chunk, by what the structures hold.
#[test]
fn a_million_chunks_take_few_bytes_each() {
    let folder = tempfile::tempdir().unwrap();
    let packs = 1_000_000 / PACK_CHUNKS;
    let index = SyntheticIndex::open(Some(folder.path()), 100_000).unwrap();
    index.add(0..packs).unwrap();
    index.settle(true).unwrap();
    let chunks = packs * PACK_CHUNKS;
    assert!((0..chunks).step_by(97).all(|chunk| index.is_where_it_was_put(chunk)));
    let wrong = (0..20_000).filter(|chunk| index.has(chunks + chunk)).count();
    assert_eq!(wrong, 0);
    let (memory, while_made) = (index.memory_bytes(), index.peak_bytes());
    assert!(memory < chunks * 3 / 2, "{memory} bytes of memory for {chunks} chunks");
    assert!(memory > chunks * 9 / 8, "filters of nine bits a chunk, {memory} bytes for {chunks} chunks");
    assert!(while_made < chunks / 8, "made without filters, {while_made} bytes for {chunks} chunks");
    let disk: u64 = files(folder.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(disk < chunks * 36, "{disk} bytes of files");
    let segments = index.segments();
    drop(index);
    let again = SyntheticIndex::open(Some(folder.path()), 100_000).unwrap();
    assert_eq!(again.segments(), segments);
    assert!((0..chunks).step_by(997).all(|chunk| again.is_where_it_was_put(chunk)));
}

mod repository;
