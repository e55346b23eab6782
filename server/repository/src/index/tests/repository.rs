//! Loading from a repository, and merging segments in it. The objects are made by hand.

use bytes::Bytes;
use secrecy::SecretString;

use super::*;
use crate::backend::{Fault, FaultyBackend, MemoryBackend, ObjectBackend};
use crate::core::Core;
use crate::format::crypto::Argon2Cost;
use crate::format::names;
use crate::format::pack::PackSeal;
use crate::format::segment;
use crate::index::merge::SegmentMerge;
use crate::index::merge_segments;
use crate::repository::{InitOptions, Repository};
use std::time::Duration;

fn passphrase() -> SecretString {
    SecretString::from("correct horse battery staple")
}

async fn new_repository(backend: &MemoryBackend) -> Repository {
    let cost = Argon2Cost { memory_kib: 64, passes: 1, lanes: 1 };
    let options = InitOptions { passphrase_cost: cost, ..InitOptions::new(jiff::Timestamp::UNIX_EPOCH) };
    Repository::init(Arc::new(backend.clone()), &passphrase(), options).await.unwrap().0
}

async fn open(backend: impl ObjectBackend + 'static, index: IndexOptions) -> Result<Arc<Core>> {
    let environment = Environment { index, threads: 1, ..Environment::default() };
    Ok(Repository::open_in(Arc::new(backend), &passphrase(), environment).await?.core)
}

fn small() -> IndexOptions {
    IndexOptions { cache: None, memory_chunks_max: 4 }
}

fn content(chunk: u64) -> [u8; 100] {
    number_id(chunk, 9)
}

fn id(core: &Core, chunk: u64) -> ChunkId {
    core.keys.chunk_id(ChunkKind::Data, &content(chunk))
}

/// Stores a pack of these chunks.
async fn put_pack(core: &Core, chunks: std::ops::Range<u64>) -> PackRecord {
    let seal = PackSeal::new(&core.keys, core.new_id().unwrap()).unwrap();
    let (mut object, mut entries, mut sealed) = (seal.header.to_vec(), Vec::new(), Vec::new());
    for (ordinal, chunk) in (0..).zip(chunks) {
        seal.seal_chunk(ordinal, &content(chunk), &mut sealed).unwrap();
        object.extend(&sealed);
        let (kind, codec) = (ChunkKind::Data, Codec::Raw);
        entries.push(PackEntry { id: id(core, chunk), kind, codec, length: 100, stored: 100 });
    }
    object.extend(seal.seal_footer(&entries).unwrap());
    let object_bytes = object.len() as u64;
    core.backend.put_new(&names::pack(&seal.id), vec![object.into()]).await.unwrap();
    PackRecord { id: seal.id, object_bytes, generation: seal.generation, entries }
}

async fn put_segment(core: &Core, records: &[PackRecord]) -> String {
    let id = core.new_id().unwrap();
    let bytes = segment::encode(&core.keys, id, records).unwrap();
    core.backend.put_new(&names::segment(&id), vec![bytes.into()]).await.unwrap();
    names::segment(&id)
}

async fn assert_reads(core: &Core, chunks: std::ops::Range<u64>) {
    for chunk in chunks {
        let read = core.chunk(id(core, chunk), ChunkKind::Data).await.unwrap();
        assert_eq!(read, Bytes::copy_from_slice(&content(chunk)), "chunk {chunk}");
    }
}

/// Drops it when nothing is being written or merged any more: then the cache folder is free.
async fn close(core: Arc<Core>) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while Arc::strong_count(&core.index.tiers) > 1 && std::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
}

/// Twelve packs of five chunks, a segment each.
async fn sample() -> (MemoryBackend, Vec<PackRecord>, Vec<String>) {
    let memory = MemoryBackend::new();
    let core = new_repository(&memory).await.core;
    let (mut packs, mut segments) = (Vec::new(), Vec::new());
    for pack in 0..12 {
        packs.push(put_pack(&core, pack * 5..pack * 5 + 5).await);
        segments.push(put_segment(&core, &packs[packs.len() - 1..]).await);
    }
    (memory, packs, segments)
}

#[tokio::test]
async fn opening_lists_no_packs() {
    let (memory, ..) = sample().await;
    let faulty = FaultyBackend::new(Arc::new(memory.clone()));
    let core = open(faulty.clone(), small()).await.unwrap();
    let before = faulty.operations();
    core.index.refresh(&core).await.unwrap();
    assert_eq!(faulty.operations() - before, 2 + 12, "lists of stamps and segments, and the segments");
    let before = faulty.operations();
    core.index.refresh(&core).await.unwrap();
    assert_eq!(faulty.operations() - before, 2);
    assert_reads(&core, 0..60).await;
}

#[tokio::test]
async fn packs_without_a_segment_are_found_when_a_chunk_is_missing() {
    let (memory, _, segments) = sample().await;
    for (number, segment) in segments.iter().enumerate() {
        if number % 2 == 0 {
            memory.delete(segment).await.unwrap();
        } else if number % 3 == 0 {
            memory.tamper(segment, Bytes::from_static(b"nonsense"));
        }
    }
    assert_reads(&open(memory.clone(), small()).await.unwrap(), 0..60).await;
    for object in memory.list(names::INDEX).await.unwrap() {
        memory.delete(&object.name).await.unwrap();
    }
    let core = open(memory.clone(), small()).await.unwrap();
    core.index.refresh(&core).await.unwrap();
    assert!((0..60).all(|chunk| core.index.has(&id(&core, chunk))), "without any segment all packs are read");
    // One that is nowhere is looked for once.
    let faulty = FaultyBackend::new(Arc::new(memory));
    let core = open(faulty.clone(), small()).await.unwrap();
    let looked_for = async || {
        let before = faulty.operations();
        assert!(core.index.locate(&core, &id(&core, 1000)).await.is_err());
        faulty.operations() - before
    };
    let (first, second) = (looked_for().await, looked_for().await);
    assert!(first > 12 * 3 && second <= 3 + 12, "{first}, {second}");
}

#[tokio::test]
async fn what_vanished_is_not_deduplicated_against() {
    for in_memory in [4, 1000] {
        let folder = tempfile::tempdir().unwrap();
        let options = IndexOptions { cache: Some(folder.path().to_owned()), memory_chunks_max: in_memory };
        let (memory, packs, segments) = sample().await;
        let core = open(memory.clone(), options.clone()).await.unwrap();
        core.index.refresh(&core).await.unwrap();
        assert!(core.index.has(&id(&core, 0)));
        // Collected by another process: first the segment, then the pack.
        memory.delete(&segments[0]).await.unwrap();
        core.index.refresh(&core).await.unwrap();
        assert!(core.index.has(&id(&core, 0)), "the pack is still there");
        memory.delete(&names::pack(&packs[0].id)).await.unwrap();
        core.index.refresh(&core).await.unwrap();
        assert!(!core.index.has(&id(&core, 0)));
        assert!(core.index.known(&id(&core, 0)).is_none());
        assert_reads(&core, 5..60).await;
        close(core).await;
        // The same behind the back of a cache that is opened later.
        memory.delete(&segments[1]).await.unwrap();
        memory.delete(&names::pack(&packs[1].id)).await.unwrap();
        let core = open(memory.clone(), options).await.unwrap();
        core.index.refresh(&core).await.unwrap();
        assert!((0..10).all(|chunk| !core.index.has(&id(&core, chunk))));
        assert!((10..60).all(|chunk| core.index.has(&id(&core, chunk))));
    }
}

#[tokio::test]
async fn a_cache_saves_reading_segments_and_heals_when_it_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let options = || IndexOptions { cache: Some(folder.path().to_owned()), memory_chunks_max: 4 };
    let (memory, ..) = sample().await;
    let core = open(memory.clone(), options()).await.unwrap();
    core.index.refresh(&core).await.unwrap();
    core.index.tiers.spill().unwrap();
    core.index.tiers.work().unwrap();
    close(core).await;
    let faulty = FaultyBackend::new(Arc::new(memory.clone()));
    let core = open(faulty.clone(), options()).await.unwrap();
    let before = faulty.operations();
    core.index.refresh(&core).await.unwrap();
    assert_eq!(faulty.operations() - before, 2);
    assert_reads(&core, 0..60).await;
    // A block that rots while it is in use.
    for run in files(folder.path()).into_iter().filter(|file| file.extension().is_some_and(|end| end == "run")) {
        let file = fs::OpenOptions::new().write(true).open(run).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xaa; 300], 4096).unwrap();
    }
    assert_reads(&core, 0..60).await;
    assert!(!core.index.tiers.is_broken());
    assert!((0..60).all(|chunk| core.index.has(&id(&core, chunk))));
}

#[tokio::test]
async fn small_segments_become_few() {
    let (memory, packs, _) = sample().await;
    let core = open(memory.clone(), small()).await.unwrap();
    memory.delete(&names::pack(&packs[3].id)).await.unwrap();
    let condemned = packs[4].id;
    let report = merge_segments(&core, Duration::ZERO, |pack| *pack != condemned).await.unwrap();
    assert_eq!((report.segments_deleted, report.segments_written), (12, 1));
    let listed = memory.list(names::INDEX).await.unwrap();
    assert_eq!(listed.iter().map(|object| object.size).collect::<Vec<_>>(), [report.bytes_written]);
    let left = segment::decode(&core.keys, &listed[0].name, &memory.get(&listed[0].name, None).await.unwrap());
    let left: HashSet<ObjectId> = left.unwrap().iter().map(|record| record.id).collect();
    assert_eq!(left.len(), 10);
    assert!(!left.contains(&condemned) && !left.contains(&packs[3].id));
    assert_eq!(
        merge_segments(&core, Duration::ZERO, |_| true).await.unwrap(),
        SegmentMerge::default(),
        "nothing is left to do"
    );
    for core in [core, open(memory, small()).await.unwrap()] {
        core.index.refresh(&core).await.unwrap();
        assert!((0..60).filter(|chunk| !(15..25).contains(chunk)).all(|chunk| core.index.has(&id(&core, chunk))));
        assert!(!core.index.has(&id(&core, 15)));
    }
}

#[tokio::test]
async fn a_crash_while_segments_are_merged_loses_none() {
    let (memory, ..) = sample().await;
    let probe = FaultyBackend::new(Arc::new(memory.snapshot()));
    let core = open(probe.clone(), small()).await.unwrap();
    let before = probe.operations();
    merge_segments(&core, Duration::ZERO, |_| true).await.unwrap();
    let operations = probe.operations();
    assert!(operations - before >= 12 * 3 + 2);
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for operation in before..operations {
            let copy = memory.snapshot();
            let faulty = FaultyBackend::new(Arc::new(copy.clone()));
            let core = open(faulty.clone(), small()).await.unwrap();
            faulty.inject(operation, fault);
            let _ = merge_segments(&core, Duration::ZERO, |_| true).await;
            let core = open(copy.clone(), small()).await.unwrap();
            core.index.refresh(&core).await.unwrap();
            // Known from segments alone: at every moment each pack is named by one.
            let known = (0..60).all(|chunk| core.index.known(&id(&core, chunk)).is_some());
            assert!(known, "{fault:?} at operation {operation}");
            merge_segments(&core, Duration::ZERO, |_| true).await.unwrap();
            assert_reads(&open(copy, small()).await.unwrap(), 0..60).await;
        }
    }
}
