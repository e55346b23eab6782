//! A flipped byte in every kind of object, and missing objects: noticed, named, and told what they affect.

use bytes::Bytes;
use domain::Extent;
use domain::point::PointKind;
use repository::{Error, MemoryBackend, NoProgress, ObjectBackend, ReadPlan, Repository, VerifyOptions, VerifyReport};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::support::*;

fn content(seed: u64) -> Bytes {
    [noise(seed, 300_000), vec![0; 200_000], text(seed, 200_000)].concat().into()
}

/// Two points of two disks; the second shares most with the first.
async fn sample() -> (MemoryBackend, [Bytes; 2]) {
    let memory = MemoryBackend::new();
    let repository = new_repository(Arc::new(memory.clone())).await;
    let disks = [content(1), content(2)];
    full_point(&repository, point_id(1), &disks).await.unwrap();
    let changed = |base| ReadPlan::Changed { base: point_id(base), areas: vec![Extent::new(0, 4096)] };
    let inputs: Vec<_> = disks.iter().cloned().map(|disk| (disk, changed(1))).collect();
    make_point(&repository, point_id(2), &inputs, PointKind::Incremental, Some(point_id(1))).await.unwrap();
    (memory, disks)
}

async fn verify(repository: &Repository) -> VerifyReport {
    repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await.unwrap()
}

async fn flipped(memory: &MemoryBackend, name: &str, at: usize) -> MemoryBackend {
    let copy = memory.snapshot();
    let mut bytes = copy.get(name, None).await.unwrap().to_vec();
    bytes[at] ^= 0x04;
    copy.tamper(name, bytes.into());
    copy
}

/// Bytes to flip: all of a small object, samples and both ends of a large one.
fn places(length: usize) -> Vec<usize> {
    if length <= 600 {
        return (0..length).collect();
    }
    let ends = (0..80).chain(length - 80..length);
    ends.chain((80..length - 80).step_by(length / 23)).collect()
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_found_by_verify() {
    let (memory, _) = sample().await;
    let repository = reopen(Arc::new(memory.clone())).await;
    assert_eq!(verify(&repository).await.damage, []);
    let mut kinds = std::collections::BTreeSet::new();
    for object in memory.list("").await.unwrap() {
        if object.name == "config" || object.name.starts_with("keys/") {
            continue; // these keep the repository from opening, see `keys`; verify checks them below
        }
        kinds.insert(object.name.split('/').next().unwrap().to_owned());
        for at in places(object.size as usize) {
            let repository = reopen(Arc::new(flipped(&memory, &object.name, at).await)).await;
            let report = verify(&repository).await;
            let named = report.damage.iter().any(|damage| damage.object == object.name);
            assert!(named, "{} byte {at}: {:?}", object.name, report.damage);
        }
    }
    assert_eq!(kinds.len(), 6, "{kinds:?}");
}

#[tokio::test]
async fn verify_checks_what_opening_read_again() {
    let (memory, _) = sample().await;
    let repository = reopen(Arc::new(memory.clone())).await;
    for object in memory.list("").await.unwrap() {
        if object.name == "config" || object.name.starts_with("keys/") {
            let sound = memory.get(&object.name, None).await.unwrap();
            let mut bytes = sound.to_vec();
            bytes[50] ^= 1;
            memory.tamper(&object.name, bytes.into());
            let report = verify(&repository).await;
            assert_eq!(report.damage.iter().map(|damage| &damage.object).collect::<Vec<_>>(), [&object.name]);
            memory.tamper(&object.name, sound);
        }
    }
}

#[tokio::test]
async fn damage_in_a_pack_is_told_by_machine_disk_and_bytes() {
    let (memory, disks) = sample().await;
    let packs = memory.list("packs/").await.unwrap();
    let largest = packs.iter().max_by_key(|object| object.size).unwrap();
    let damaged = flipped(&memory, &largest.name, 5000).await;
    let repository = reopen(Arc::new(damaged)).await;
    let report = verify(&repository).await;
    let [damage] = &report.damage[..] else { panic!("{report:?}") };
    assert_eq!(damage.object, largest.name);
    // The first chunks of disk 2000, in both points.
    let points: Vec<_> = damage.affected.iter().map(|affected| (affected.point, affected.disk)).collect();
    assert_eq!(points, [(point_id(1), 2000), (point_id(2), 2000)]);
    let affected = &damage.affected[0];
    assert_eq!((affected.machine.as_str(), affected.label.as_str()), ("web-01", "Hard disk 1"));
    let [extent] = affected.extents[..] else { panic!("{affected:?}") };
    assert!(extent.offset < 300_000 && extent.length < 300_000, "{extent:?}");
    // Reading says the same, and the rest is readable.
    let Err(error) = read_disk(&repository, point_id(2), 2000).await else { panic!("read a damaged chunk") };
    let Error::DiskDamaged { point, ref machine, disk: 2000, extent: at, .. } = error else { panic!("{error:?}") };
    assert_eq!((point, machine.as_str(), at), (point_id(2), "web-01", extent));
    let Err(error) = copy_disk(&repository, point_id(2), 2000).await else { panic!("copied a damaged chunk") };
    assert!(matches!(error, Error::DiskDamaged { disk: 2000, extent: at, .. } if at == extent), "{error:?}");
    let image = repository.open_disk(point_id(2), 2000).await.unwrap();
    let after = image.read_at(extent.end(), disks[0].len() - extent.end() as usize).await.unwrap();
    assert_eq!(after, disks[0].slice(extent.end() as usize..));
    assert!(image.read_at(extent.offset, 1).await.is_err());
    assert_reads_second(&repository, &disks).await;
}

async fn assert_reads_second(repository: &Repository, disks: &[Bytes; 2]) {
    for point in [point_id(1), point_id(2)] {
        assert!(read_disk(repository, point, 2001).await.unwrap() == disks[1].as_ref());
    }
}

#[tokio::test]
async fn every_missing_pack_is_named_with_what_it_takes_along() {
    let (memory, _) = sample().await;
    let mut lost = 0;
    for object in memory.list("packs/").await.unwrap() {
        let copy = memory.snapshot();
        copy.delete(&object.name).await.unwrap();
        let report = verify(&reopen(Arc::new(copy)).await).await;
        for damage in &report.damage {
            assert_eq!(damage.object, object.name, "{report:?}");
            assert!(damage.affected.iter().all(|affected| !affected.extents.is_empty()));
            lost += damage.affected.len();
        }
    }
    assert!(lost >= 4);
}

#[tokio::test]
async fn missing_or_damaged_segments_are_rebuilt_from_packs() {
    let (memory, disks) = sample().await;
    for object in memory.list("index/").await.unwrap() {
        let damaged = flipped(&memory, &object.name, 100).await;
        let repository = reopen(Arc::new(damaged)).await;
        assert_reads(&repository, point_id(1), &disks).await;
        assert_reads(&repository, point_id(2), &disks).await;
        memory.delete(&object.name).await.unwrap();
    }
    let repository = reopen(Arc::new(memory.clone())).await;
    assert_reads(&repository, point_id(2), &disks).await;
    assert_eq!(verify(&repository).await.damage, []);
    // And the next point is deduplicated against what they said.
    let again = full_point(&repository, point_id(3), &disks).await.unwrap();
    assert_eq!(again.bytes_stored, 0);
}

#[tokio::test]
async fn after_a_pack_is_lost_a_full_heals_what_it_still_can() {
    let (memory, disks) = sample().await;
    let packs = memory.list("packs/").await.unwrap();
    let largest = packs.iter().max_by_key(|object| object.size).unwrap();
    memory.delete(&largest.name).await.unwrap();
    let repository = reopen(Arc::new(memory)).await;
    assert!(read_disk(&repository, point_id(2), 2000).await.is_err());
    full_point(&repository, point_id(3), &disks).await.unwrap();
    assert_reads(&repository, point_id(3), &disks).await;
    assert_reads(&repository, point_id(1), &disks).await;
    assert_reads(&repository, point_id(2), &disks).await;
}

#[tokio::test]
async fn a_damaged_manifest_hides_no_other_point() {
    let (memory, disks) = sample().await;
    let name = format!("points/{}", point_id(1));
    let repository = reopen(Arc::new(flipped(&memory, &name, 200).await)).await;
    let list = repository.points().await.unwrap();
    assert_eq!(list.points.len(), 1);
    assert_eq!(list.damaged[0].object, name);
    assert!(matches!(repository.point(point_id(1)).await, Err(Error::Damaged { .. })));
    assert_reads(&repository, point_id(2), &disks).await;
}

#[tokio::test]
async fn a_swapped_manifest_shows() {
    let (memory, _) = sample().await;
    let names = [1, 2].map(|number| format!("points/{}", point_id(number)));
    let second = memory.get(&names[1], None).await.unwrap();
    memory.tamper(&names[0], second);
    let repository = reopen(Arc::new(memory.clone())).await;
    assert_eq!(repository.points().await.unwrap().damaged[0].object, names[0]);
    // One made again under the same id, by someone who has the keys, differs from what its successor recorded.
    memory.delete(&names[0]).await.unwrap();
    let repository = reopen(Arc::new(memory)).await;
    full_point(&repository, point_id(1), &[content(1), content(2)]).await.unwrap();
    let report = verify(&repository).await;
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert_eq!(report.damage[0].object, names[0]);
}
