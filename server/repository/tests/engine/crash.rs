//! A writer that dies at any operation of the storage, or whose operation fails, leaves every committed point readable
//! and nothing uncommitted in sight.

use bytes::Bytes;
use domain::Extent;
use domain::point::PointKind;
use repository::backend::{Fault, FaultyBackend};
use repository::{BackendErrorKind, Error, MemoryBackend, NoProgress, ReadPlan, VerifyOptions};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::support::*;

fn day_one() -> Bytes {
    [noise(1, 3 << 20), vec![0; 1 << 20], text(2, 1 << 20)].concat().into()
}

fn day_two() -> Bytes {
    let mut content = day_one().to_vec();
    content[1 << 20..2 << 20].copy_from_slice(&noise(3, 1 << 20));
    content.into()
}

fn plan() -> ReadPlan {
    ReadPlan::Changed { base: point_id(1), areas: vec![Extent::new(1 << 20, 1 << 20)] }
}

async fn second_point(backend: &FaultyBackend) -> Result<(), Error> {
    let repository = repository::Repository::open(Arc::new(backend.clone()), &passphrase()).await?;
    let input = [(day_two(), plan())];
    make_point(&repository, point_id(2), &input, PointKind::Incremental, Some(point_id(1))).await.map(drop)
}

async fn check_after(memory: &MemoryBackend, fault: Fault, operation: u64) -> usize {
    let repository = reopen(Arc::new(memory.clone())).await;
    let list = repository.points().await.unwrap();
    let at = format!("{fault:?} at operation {operation}");
    assert!(list.damaged.is_empty(), "{at}: {list:?}");
    assert_reads(&repository, point_id(1), &[day_one()]).await;
    if list.points.len() == 2 {
        assert_reads(&repository, point_id(2), &[day_two()]).await;
    }
    let report = repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await;
    assert_eq!(report.unwrap().damage, [], "{at}");
    // The next attempt, with another id, works.
    let input = [(day_two(), plan())];
    make_point(&repository, point_id(3), &input, PointKind::Incremental, Some(point_id(1))).await.unwrap();
    assert_reads(&repository, point_id(3), &[day_two()]).await;
    list.points.len()
}

#[tokio::test]
async fn a_crash_after_any_operation() {
    let memory = MemoryBackend::new();
    full_point(&new_repository(Arc::new(memory.clone())).await, point_id(1), &[day_one()]).await.unwrap();
    let probe = FaultyBackend::new(Arc::new(memory.snapshot()));
    second_point(&probe).await.unwrap();
    let operations = probe.operations();
    assert!(operations > 8, "{operations}");
    let kinds = [
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::Fail(BackendErrorKind::OutOfSpace),
        Fault::Fail(BackendErrorKind::Other),
        Fault::FailAfter(BackendErrorKind::Other),
    ];
    let mut committed = 0;
    for fault in kinds {
        for operation in 0..operations {
            let copy = memory.snapshot();
            let faulty = FaultyBackend::new(Arc::new(copy.clone()));
            faulty.inject(operation, fault);
            let outcome = second_point(&faulty).await;
            let points = check_after(&copy, fault, operation).await;
            if outcome.is_ok() {
                assert_eq!(points, 2, "a commit that was reported stands: {fault:?} at operation {operation}");
            }
            committed += usize::from(points == 2);
        }
    }
    // The manifest's creation took effect and its reply was lost: once per "after" fault, or later operations than it.
    assert!(committed >= 2, "{committed}");
}

#[tokio::test]
async fn no_space_in_mid_pack_says_so() {
    let memory = MemoryBackend::new();
    full_point(&new_repository(Arc::new(memory.clone())).await, point_id(1), &[day_one()]).await.unwrap();
    let faulty = FaultyBackend::new(Arc::new(memory));
    faulty.inject_at_change(1, Fault::Fail(BackendErrorKind::OutOfSpace));
    let error = second_point(&faulty).await.unwrap_err();
    assert!(error.is_out_of_space(), "{error:?}");
    assert!(error.to_string().contains("no space left"), "{error}");
}

#[tokio::test]
async fn a_failing_source_says_where() {
    let repository = new_repository(Arc::new(MemoryBackend::new())).await;
    let writer = repository.begin_point(point_id(1)).await.unwrap();
    let source = Arc::new(MemoryDisk { fail_at: Some(2_000_000), ..MemoryDisk::new(day_one()) });
    let error = backup_from(&writer, 2000, source, ReadPlan::Everything).await.unwrap_err();
    let Error::Source { disk: 2000, offset, source } = error else { panic!("{error:?}") };
    assert!((1_900_000..=2_100_000).contains(&offset), "{offset}");
    assert_eq!(source.to_string(), "the host went away");
    // The same writer can try the disk again.
    backup(&writer, 2000, &day_one(), ReadPlan::Everything).await.unwrap();
    writer.commit(metadata(1, PointKind::Full, None)).await.unwrap();
    assert_reads(&repository, point_id(1), &[day_one()]).await;
}

#[tokio::test]
async fn a_short_or_long_answer_of_the_source_is_refused() {
    struct Wrong(i64);
    impl repository::BlockSource for Wrong {
        fn size_bytes(&self) -> u64 {
            1 << 20
        }
        fn stream(
            &self,
            range: Extent,
        ) -> futures_util::stream::BoxStream<'static, Result<Bytes, repository::SourceError>> {
            let bytes = Bytes::from(noise(0, (range.length as i64 + self.0) as usize));
            Box::pin(futures_util::stream::iter([Ok(bytes)]))
        }
    }
    let repository = new_repository(Arc::new(MemoryBackend::new())).await;
    let writer = repository.begin_point(point_id(1)).await.unwrap();
    for difference in [-1, 1] {
        let input = repository::DiskInput {
            config: disk_config(2000, 1 << 20),
            source: Arc::new(Wrong(difference)),
            plan: ReadPlan::Everything,
        };
        let done = writer.backup_disk(input, Arc::new(NoProgress), &CancellationToken::new()).await;
        assert!(matches!(done, Err(Error::SourceLength { wanted: 1_048_576, .. })), "{done:?}");
    }
}

#[tokio::test]
async fn areas_that_make_no_sense_are_refused() {
    let repository = new_repository(Arc::new(MemoryBackend::new())).await;
    full_point(&repository, point_id(1), &[day_one()]).await.unwrap();
    let writer = repository.begin_point(point_id(2)).await.unwrap();
    let size = day_one().len() as u64;
    let bad = [
        vec![Extent::new(0, 10), Extent::new(5, 10)],
        vec![Extent::new(size - 1, 2)],
        vec![Extent::new(u64::MAX, 2)],
        vec![Extent::new(0, 0)],
    ];
    for areas in bad {
        for plan in [ReadPlan::Allocated(areas.clone()), ReadPlan::Changed { base: point_id(1), areas: areas.clone() }]
        {
            let done = backup(&writer, 2000, &day_one(), plan).await;
            assert!(matches!(done, Err(Error::Plan { disk: 2000, .. })), "{areas:?}: {done:?}");
        }
    }
    // Another size than the base's, and a disk the base does not have.
    let grown = Bytes::from([day_one(), Bytes::from_static(&[0; 4096])].concat());
    for (key, content) in [(2000, grown), (2001, day_one())] {
        let done = backup(&writer, key, &content, ReadPlan::Changed { base: point_id(1), areas: Vec::new() }).await;
        assert!(matches!(done, Err(Error::Plan { .. })), "{done:?}");
    }
}
