//! Giving space back: what is freed is what was said, what is needed stays, and who is at work is waited for. The races are
//! in the crate's simulation.

use bytes::Bytes;
use repository::backend::{Fault, FaultyBackend};
use repository::{
    CollectOptions, CollectReport, Error, LeaseKind, MemoryBackend, NoProgress, ObjectBackend, ReadPlan, Repository,
    VerifyOptions,
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::support::*;

fn content(seed: u64) -> Bytes {
    [noise(seed, 1 << 20), text(seed, 1 << 20)].concat().into()
}

async fn collect(repository: &Repository) -> Result<CollectReport, Error> {
    repository.collect(CollectOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await
}

/// Collects and holds the report against what the location has.
async fn collect_and_weigh(repository: &Repository) -> CollectReport {
    let before = repository.usage().await.unwrap().total_bytes() as i64;
    let report = collect(repository).await.unwrap();
    let after = repository.usage().await.unwrap().total_bytes() as i64;
    assert_eq!(report.freed_bytes, before - after, "{report:?}");
    report
}

async fn two_points() -> (MemoryBackend, Repository) {
    let memory = MemoryBackend::new();
    let repository = new_repository(Arc::new(memory.clone())).await;
    full_point(&repository, point_id(1), &[content(1)]).await.unwrap();
    full_point(&repository, point_id(2), &[content(2)]).await.unwrap();
    (memory, repository)
}

#[tokio::test]
async fn what_no_point_needs_is_given_back() {
    let (memory, repository) = two_points().await;
    let reader = reopen(Arc::new(memory.clone())).await;
    assert_reads(&reader, point_id(2), &[content(2)]).await;
    let idle = collect_and_weigh(&repository).await;
    assert_eq!((idle.freed_bytes, idle.packs_deleted), (0, 0), "{idle:?}");
    repository.delete_point(point_id(1)).await.unwrap();
    let report = collect_and_weigh(&repository).await;
    assert!(report.freed_bytes > 1 << 20 && report.packs_deleted >= 3, "{report:?}");
    for repository in [&repository, &reader, &reopen(Arc::new(memory.clone())).await] {
        assert_reads(repository, point_id(2), &[content(2)]).await;
    }
    assert_eq!(collect_and_weigh(&repository).await.packs_deleted, 0);
    for prefix in ["leases/", "epochs/", "challenges/", "voids/"] {
        assert_eq!(memory.list(prefix).await.unwrap(), [], "{prefix}");
    }
    // What was deleted is not taken for there: neither by who saw it go nor by who did not.
    full_point(&reader, point_id(3), &[content(1)]).await.unwrap();
    assert_reads(&repository, point_id(3), &[content(1)]).await;
}

#[tokio::test]
async fn packs_of_which_little_is_needed_are_rewritten() {
    let memory = MemoryBackend::new();
    let repository = new_repository(Arc::new(memory.clone())).await;
    let whole = content(1);
    let part = whole.slice(..300 << 10);
    full_point(&repository, point_id(1), std::slice::from_ref(&whole)).await.unwrap();
    full_point(&repository, point_id(2), std::slice::from_ref(&part)).await.unwrap();
    let reader = reopen(Arc::new(memory.clone())).await;
    assert_reads(&reader, point_id(2), std::slice::from_ref(&part)).await;
    repository.delete_point(point_id(1)).await.unwrap();
    let report = collect_and_weigh(&repository).await;
    assert!(report.packs_rewritten >= 1 && report.bytes_rewritten > 100 << 10, "{report:?}");
    let left = repository.usage().await.unwrap().pack_bytes;
    assert!(left < 360 << 10, "{left}");
    assert_reads(&repository, point_id(2), std::slice::from_ref(&part)).await;
    assert_reads(&reopen(Arc::new(memory)).await, point_id(2), &[part]).await;
    let again = collect_and_weigh(&repository).await;
    assert_eq!((again.packs_rewritten, again.freed_bytes), (0, 0), "it comes to an end");
}

#[tokio::test]
async fn a_running_backup_is_waited_for_and_keeps_what_it_refers_to() {
    let (memory, repository) = two_points().await;
    let other = reopen(Arc::new(memory.clone())).await;
    let writer = other.begin_point(point_id(3)).await.unwrap();
    repository.delete_point(point_id(1)).await.unwrap();
    let report = collect_and_weigh(&repository).await;
    assert_eq!(report.packs_deleted, 0, "{report:?}");
    let [waiting] = &report.waiting_for[..] else { panic!("{report:?}") };
    assert_eq!((waiting.kind, waiting.point), (LeaseKind::Write, Some(point_id(3))));
    assert!(report.bytes_waiting > 1 << 20, "{report:?}");
    // It began before they were condemned: it refers to them.
    let summary = backup(&writer, 2000, &content(1), ReadPlan::Everything).await.unwrap();
    assert_eq!(summary.bytes_stored, 0);
    // Who begins now does not.
    let late = reopen(Arc::new(memory.clone())).await;
    let late = full_point(&late, point_id(4), &[content(1)]).await.unwrap();
    assert!(late.bytes_stored > 1 << 20, "{late:?}");
    writer.commit(metadata(3, domain::point::PointKind::Full, None)).await.unwrap();
    let report = collect_and_weigh(&repository).await;
    assert!(report.packs_deleted >= 3 && report.waiting_for.is_empty(), "{report:?}");
    for (number, seed) in [(2, 2), (3, 1), (4, 1)] {
        assert_reads(&repository, point_id(number), &[content(seed)]).await;
        assert_reads(&other, point_id(number), &[content(seed)]).await;
    }
    let report = repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await;
    assert_eq!(report.unwrap().damage, []);
}

#[tokio::test]
async fn a_held_point_stays_readable_after_its_deletion() {
    let (memory, repository) = two_points().await;
    let reader = reopen(Arc::new(memory)).await;
    let hold = reader.hold(&[point_id(1)]).await.unwrap();
    let image = reader.open_disk(point_id(1), 2000).await.unwrap();
    repository.delete_point(point_id(1)).await.unwrap();
    assert_eq!(collect_and_weigh(&repository).await.packs_deleted, 0);
    assert_eq!(image.read_at(0, content(1).len()).await.unwrap(), content(1));
    assert!(hold.is_valid() && hold.points().len() == 1);
    hold.release().await;
    assert!(matches!(reader.hold(&[point_id(1)]).await, Err(Error::NoSuchPoint(_))));
    assert!(collect_and_weigh(&repository).await.packs_deleted >= 3);
}

#[tokio::test]
async fn a_collection_may_stop_anywhere() {
    let (memory, repository) = two_points().await;
    // Something dead, something sparse.
    full_point(&repository, point_id(3), &[content(1).slice(..200 << 10)]).await.unwrap();
    repository.delete_point(point_id(1)).await.unwrap();
    let probe = FaultyBackend::new(Arc::new(memory.snapshot()));
    let first = Repository::open(Arc::new(probe.clone()), &passphrase()).await.unwrap();
    probe.inject(u64::MAX, Fault::CrashBefore);
    assert!(collect(&first).await.unwrap().packs_rewritten >= 1);
    let operations = probe.operations();
    for operation in 0..operations {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let copy = memory.snapshot();
            let faulty = FaultyBackend::new(Arc::new(copy.clone()));
            let dying = Repository::open(Arc::new(faulty.clone()), &passphrase()).await.unwrap();
            faulty.inject(operation, fault);
            assert!(collect(&dying).await.is_err() || operation + 3 > operations, "{fault:?} at {operation}");
            let next = reopen(Arc::new(copy)).await;
            let options = CollectOptions { beside_others: true, ..CollectOptions::default() };
            next.collect(options, Arc::new(NoProgress), &CancellationToken::new()).await.unwrap();
            assert_reads(&next, point_id(2), &[content(2)]).await;
            assert_reads(&next, point_id(3), &[content(1).slice(..200 << 10)]).await;
            let left = next.usage().await.unwrap().pack_bytes;
            assert!(left < 2 << 20, "{fault:?} at {operation}: {left} bytes");
        }
    }
}

#[tokio::test]
async fn nothing_is_deleted_when_a_manifest_or_a_map_cannot_be_read() {
    let (memory, repository) = two_points().await;
    repository.delete_point(point_id(1)).await.unwrap();
    let name = format!("points/{}", point_id(2));
    let sound = memory.get(&name, None).await.unwrap();
    let mut bytes = sound.to_vec();
    bytes[100] ^= 1;
    memory.tamper(&name, bytes.into());
    let packs = memory.list("packs/").await.unwrap();
    assert!(matches!(collect(&repository).await, Err(Error::Damaged { object, .. }) if object == name));
    memory.tamper(&name, sound);
    let smallest = packs.iter().min_by_key(|pack| pack.size).unwrap();
    let kept = memory.get(&smallest.name, None).await.unwrap();
    for pack in &packs {
        let copy = memory.snapshot();
        let mut bytes = copy.get(&pack.name, None).await.unwrap().to_vec();
        bytes[60] ^= 1;
        copy.tamper(&pack.name, bytes.into());
        let repository = reopen(Arc::new(copy.clone())).await;
        let before = copy.list("packs/").await.unwrap();
        // A damaged map node of what stays: nothing goes. Damage elsewhere keeps nobody from anything.
        if collect(&repository).await.is_err() {
            assert_eq!(copy.list("packs/").await.unwrap(), before);
        }
    }
    memory.tamper(&smallest.name, kept);
    assert!(collect(&repository).await.unwrap().packs_deleted >= 3);
}
