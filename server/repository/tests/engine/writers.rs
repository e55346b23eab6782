//! Several writers at once, cancellation, giving up.

use bytes::Bytes;
use domain::Extent;
use domain::point::PointKind;
use repository::{Error, MemoryBackend, NoProgress, ObjectBackend, ReadPlan, VerifyOptions};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_in_two_processes_and_two_disks_each() {
    let memory = MemoryBackend::new();
    let first = new_repository(Arc::new(memory.clone())).await;
    let second = reopen(Arc::new(memory.clone())).await;
    let shared = noise(1, 4 << 20);
    let disk = |seed| Bytes::from([shared.clone(), noise(seed, 2 << 20), text(seed, 1 << 20)].concat());
    let run = |repository: repository::Repository, number: u128| {
        let disks = [disk(number as u64 * 10), disk(number as u64 * 10 + 1)];
        async move {
            let writer = repository.begin_point(point_id(number)).await.unwrap();
            let (a, b) = tokio::join!(
                backup(&writer, 2000, &disks[0], ReadPlan::Everything),
                backup(&writer, 2001, &disks[1], ReadPlan::Everything)
            );
            a.unwrap();
            b.unwrap();
            writer.commit(metadata(number as i64, PointKind::Full, None)).await.unwrap();
            disks
        }
    };
    let (a, b, c) = tokio::join!(run(first.clone(), 1), run(second, 2), run(first.clone(), 3));
    let fresh = reopen(Arc::new(memory)).await;
    for (number, disks) in [(1, a), (2, b), (3, c)] {
        assert_reads(&first, point_id(number), &disks).await;
        assert_reads(&fresh, point_id(number), &disks).await;
    }
    let report = fresh.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await.unwrap();
    assert_eq!(report.damage, []);
    assert_eq!(report.points, 3);
}

#[tokio::test]
async fn one_id_makes_one_point() {
    let memory = MemoryBackend::new();
    let repository = new_repository(Arc::new(memory.clone())).await;
    let first = repository.begin_point(point_id(1)).await.unwrap();
    let second = repository.begin_point(point_id(1)).await.unwrap();
    let (a, b) = (Bytes::from(noise(1, 100_000)), Bytes::from(noise(2, 100_000)));
    backup(&first, 2000, &a, ReadPlan::Everything).await.unwrap();
    backup(&second, 2000, &b, ReadPlan::Everything).await.unwrap();
    first.commit(metadata(1, PointKind::Full, None)).await.unwrap();
    let late = second.commit(metadata(1, PointKind::Full, None)).await;
    assert!(matches!(late, Err(Error::PointExists(_))), "{late:?}");
    assert!(matches!(repository.begin_point(point_id(1)).await, Err(Error::PointExists(_))));
    assert_reads(&repository, point_id(1), &[a]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_in_mid_disk() {
    struct Endless(CancellationToken);
    impl repository::BlockSource for Endless {
        fn size_bytes(&self) -> u64 {
            1 << 40
        }
        fn stream(
            &self,
            _: Extent,
        ) -> futures_util::stream::BoxStream<'static, Result<Bytes, repository::SourceError>> {
            let cancel = self.0.clone();
            let piece = move |number| {
                if number == 20 {
                    cancel.cancel();
                }
                Ok(Bytes::from(noise(number, 1 << 20)))
            };
            Box::pin(futures_util::stream::iter((0..).map(piece)))
        }
    }
    let memory = MemoryBackend::new();
    let repository = new_repository(Arc::new(memory.clone())).await;
    let cancel = CancellationToken::new();
    let writer = repository.begin_point(point_id(1)).await.unwrap();
    let input = repository::DiskInput {
        config: disk_config(2000, 1 << 40),
        source: Arc::new(Endless(cancel.clone())),
        plan: ReadPlan::Everything,
    };
    let done = writer.backup_disk(input, Arc::new(NoProgress), &cancel).await;
    assert!(matches!(done, Err(Error::Cancelled)), "{done:?}");
    writer.abandon().await;
    assert_eq!(repository.points().await.unwrap().points, []);
    assert!(memory.list("points/").await.unwrap().is_empty());
    // What became durable is found again by the next attempt.
    let content: Bytes = (0..16).flat_map(|number| noise(number, 1 << 20)).collect::<Vec<u8>>().into();
    let writer = repository.begin_point(point_id(2)).await.unwrap();
    let again = backup(&writer, 2000, &content, ReadPlan::Everything).await.unwrap();
    writer.commit(metadata(2, PointKind::Full, None)).await.unwrap();
    assert!(again.chunks_new < again.chunks, "{again:?}");
    assert_reads(&repository, point_id(2), &[content]).await;
}

#[tokio::test]
async fn a_deleted_point_is_gone_and_the_others_stay() {
    let repository = new_repository(Arc::new(MemoryBackend::new())).await;
    let content = Bytes::from(noise(1, 1 << 20));
    full_point(&repository, point_id(1), std::slice::from_ref(&content)).await.unwrap();
    let plan = ReadPlan::Changed { base: point_id(1), areas: Vec::new() };
    let input = [(content.clone(), plan)];
    make_point(&repository, point_id(2), &input, PointKind::Incremental, Some(point_id(1))).await.unwrap();
    repository.delete_point(point_id(1)).await.unwrap();
    assert!(matches!(repository.delete_point(point_id(1)).await, Err(Error::NoSuchPoint(_))));
    let list = repository.points().await.unwrap();
    assert_eq!(list.points.iter().map(|point| point.id).collect::<Vec<_>>(), [point_id(2)]);
    // One who was about to follow it is not kept from it.
    let input = [(content.clone(), ReadPlan::Changed { base: point_id(2), areas: Vec::new() })];
    let done = make_point(&repository, point_id(3), &input, PointKind::Incremental, Some(point_id(1))).await.unwrap();
    assert_eq!(done.point.predecessor, None);
    repository.delete_point(point_id(3)).await.unwrap();
    assert_reads(&repository, point_id(2), &[content]).await;
    let report = repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await;
    assert_eq!(report.unwrap().damage, [], "a point that retention removed is no damage");
    let usage = repository.usage().await.unwrap();
    assert_eq!(usage.points, 1);
    assert!(usage.pack_bytes > 1 << 20);
}
