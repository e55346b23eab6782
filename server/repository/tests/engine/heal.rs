//! A chunk that is bad is stored again by the next backup that reads it, and every point that needs it is whole again.

use bytes::Bytes;
use domain::Extent;
use domain::point::PointKind;
use repository::{Damage, MemoryBackend, NoProgress, ObjectBackend, ReadPlan, Repository, VerifyOptions, VerifyReport};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::support::*;

fn content() -> Bytes {
    [noise(1, 700_000), vec![0; 200_000], text(2, 400_000)].concat().into()
}

async fn verify(repository: &Repository) -> VerifyReport {
    repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await.unwrap()
}

async fn sample() -> (MemoryBackend, Bytes) {
    let memory = MemoryBackend::new();
    let repository = new_repository(Arc::new(memory.clone())).await;
    let content = content();
    full_point(&repository, point_id(1), std::slice::from_ref(&content)).await.unwrap();
    (memory, content)
}

/// Packs by size, the largest first: those of data come before those of maps.
async fn packs(memory: &MemoryBackend) -> Vec<String> {
    let mut packs = memory.list("packs/").await.unwrap();
    packs.sort_by_key(|object| std::cmp::Reverse(object.size));
    packs.into_iter().map(|object| object.name).collect()
}

async fn flip(memory: &MemoryBackend, name: &str, at: usize) {
    let mut bytes = memory.get(name, None).await.unwrap().to_vec();
    bytes[at] ^= 0x20;
    memory.tamper(name, bytes.into());
}

fn affected(damage: &[Damage]) -> Vec<(repository::PointId, i32)> {
    damage.iter().flat_map(|damage| &damage.affected).map(|affected| (affected.point, affected.disk)).collect()
}

/// Verify names what is lost; a full in another process stores it again; everything is well from then on.
async fn heals(memory: MemoryBackend, content: Bytes, object: &str) {
    let report = verify(&reopen(Arc::new(memory.clone())).await).await;
    assert!(report.damage.iter().any(|damage| damage.object == object), "{report:?}");
    assert!(affected(&report.damage).contains(&(point_id(1), 2000)), "{report:?}");
    assert!(report.damage.iter().flat_map(|damage| &damage.affected).all(|affected| !affected.extents.is_empty()));

    let repository = reopen(Arc::new(memory.clone())).await;
    assert!(read_disk(&repository, point_id(1), 2000).await.is_err());
    let repository = reopen(Arc::new(memory.clone())).await;
    let made = full_point(&repository, point_id(2), std::slice::from_ref(&content)).await.unwrap();
    assert!(made.bytes_stored > 0 && made.bytes_stored < 1_000_000, "only what is bad: {}", made.bytes_stored);

    for repository in [repository, reopen(Arc::new(memory.clone())).await] {
        assert_reads(&repository, point_id(1), std::slice::from_ref(&content)).await;
        assert_reads(&repository, point_id(2), std::slice::from_ref(&content)).await;
    }
    for _ in 0..2 {
        let report = verify(&reopen(Arc::new(memory.clone())).await).await;
        assert_eq!(report.damage, []);
    }
    // The bad twin is ignored for ever: nothing is stored again, and the next one reads the good place.
    let again = full_point(&reopen(Arc::new(memory.clone())).await, point_id(3), std::slice::from_ref(&content)).await;
    assert_eq!(again.unwrap().bytes_stored, 0);
}

#[tokio::test]
async fn a_flipped_byte_in_a_data_pack() {
    let (memory, content) = sample().await;
    let name = packs(&memory).await.remove(0);
    flip(&memory, &name, 5000).await;
    heals(memory, content, &name).await;
}

#[tokio::test]
async fn a_flipped_byte_in_a_map_pack() {
    let (memory, content) = sample().await;
    let name = packs(&memory).await.pop().unwrap();
    flip(&memory, &name, 100).await;
    heals(memory, content, &name).await;
}

#[tokio::test]
async fn a_missing_pack() {
    for number in [0, 2] {
        let (memory, content) = sample().await;
        let name = packs(&memory).await.remove(number);
        memory.delete(&name).await.unwrap();
        heals(memory, content, &name).await;
    }
}

/// Nobody verified since: the first who refers to it fails at its commit, and tells the others.
#[tokio::test]
async fn a_missing_pack_that_nobody_knows_of() {
    let (memory, content) = sample().await;
    let name = packs(&memory).await.remove(0);
    memory.delete(&name).await.unwrap();
    let backup = |number| {
        let (memory, content) = (memory.clone(), content.clone());
        async move { full_point(&reopen(Arc::new(memory)).await, point_id(number), &[content]).await }
    };
    let error = backup(2).await.unwrap_err();
    assert!(matches!(&error, repository::Error::ReferredGone { object, .. } if *object == name), "{error}");
    assert!(backup(3).await.unwrap().bytes_stored > 0);
    assert_eq!(backup(4).await.unwrap().bytes_stored, 0);
    for number in [1, 3, 4] {
        assert_reads(&reopen(Arc::new(memory.clone())).await, point_id(number), std::slice::from_ref(&content)).await;
    }
}

#[tokio::test]
async fn a_pack_cut_short() {
    let (memory, content) = sample().await;
    let name = packs(&memory).await.remove(0);
    let bytes = memory.get(&name, None).await.unwrap();
    memory.tamper(&name, bytes.slice(..200_000));
    heals(memory, content, &name).await;
}

#[tokio::test]
async fn an_increment_that_reads_the_bad_chunk_heals_it() {
    let (memory, content) = sample().await;
    let name = packs(&memory).await.remove(0);
    flip(&memory, &name, 5000).await;
    let report = verify(&reopen(Arc::new(memory.clone())).await).await;
    let [ref damage] = report.damage[..] else { panic!("{report:?}") };
    let [extent] = damage.affected[0].extents[..] else { panic!("{report:?}") };
    let repository = reopen(Arc::new(memory.clone())).await;
    let elsewhere = vec![Extent::new(content.len() as u64 - 4096, 4096)];
    let changed = |base, areas| vec![(content.clone(), ReadPlan::Changed { base: point_id(base), areas })];
    make_point(&repository, point_id(2), &changed(1, elsewhere), PointKind::Incremental, None).await.unwrap();
    let report = verify(&reopen(Arc::new(memory.clone())).await).await;
    assert_eq!(affected(&report.damage), [(point_id(1), 2000), (point_id(2), 2000)], "it was not read");
    let here = vec![Extent::new(extent.offset, 1)];
    make_point(&repository, point_id(3), &changed(2, here), PointKind::Incremental, None).await.unwrap();
    let report = verify(&reopen(Arc::new(memory.clone())).await).await;
    assert_eq!((report.damage, report.bad_chunks_not_needed), (vec![], 1));
    for number in 1..=3 {
        assert_reads(&repository, point_id(number), std::slice::from_ref(&content)).await;
    }
}

#[tokio::test]
async fn a_reader_that_met_a_bad_chunk_keeps_it_from_being_referred_to() {
    let (memory, content) = sample().await;
    let name = packs(&memory).await.remove(0);
    flip(&memory, &name, 5000).await;
    let repository = reopen(Arc::new(memory.clone())).await;
    assert!(read_disk(&repository, point_id(1), 2000).await.is_err());
    let made = full_point(&repository, point_id(2), std::slice::from_ref(&content)).await.unwrap();
    assert!(made.bytes_stored > 0);
    assert_reads(&repository, point_id(1), std::slice::from_ref(&content)).await;
}

#[tokio::test]
async fn what_no_point_needs_is_no_damage() {
    let (memory, content) = sample().await;
    let repository = reopen(Arc::new(memory.clone())).await;
    let other = Bytes::from(noise(9, 300_000));
    let before = packs(&memory).await;
    full_point(&repository, point_id(2), std::slice::from_ref(&other)).await.unwrap();
    repository.delete_point(point_id(2)).await.unwrap();
    let name = packs(&memory).await.into_iter().find(|name| !before.contains(name)).unwrap();
    flip(&memory, &name, 5000).await;
    let report = verify(&reopen(Arc::new(memory.clone())).await).await;
    assert_eq!((report.damage, report.bad_chunks_not_needed), (vec![], 1));
    // Nor is it referred to later.
    let repository = reopen(Arc::new(memory.clone())).await;
    full_point(&repository, point_id(3), std::slice::from_ref(&other)).await.unwrap();
    assert_reads(&repository, point_id(3), &[other]).await;
    assert_reads(&repository, point_id(1), &[content]).await;
}

#[tokio::test]
async fn a_good_medium_again_is_believed() {
    let (memory, content) = sample().await;
    let name = packs(&memory).await.remove(0);
    let sound = memory.get(&name, None).await.unwrap();
    memory.delete(&name).await.unwrap();
    assert!(!verify(&reopen(Arc::new(memory.clone())).await).await.damage.is_empty());
    memory.tamper(&name, sound); // brought back from a copy
    let repository = reopen(Arc::new(memory.clone())).await;
    assert_reads(&repository, point_id(1), std::slice::from_ref(&content)).await;
    assert_eq!(verify(&repository).await.damage, []);
    let again = full_point(&reopen(Arc::new(memory.clone())).await, point_id(2), std::slice::from_ref(&content)).await;
    assert_eq!(again.unwrap().bytes_stored, 0);
}
