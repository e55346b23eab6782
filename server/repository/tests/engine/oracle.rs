//! Random disks and changes against plain memory.

use bytes::Bytes;
use domain::Extent;
use domain::extent::coalesce;
use domain::point::PointKind;
use proptest::prelude::*;
use repository::{MemoryBackend, ReadPlan, Repository};
use std::sync::Arc;

use crate::support::*;

#[derive(Debug, Clone)]
enum Fill {
    Noise(u64),
    Text(u64),
    Zeros,
    CopyFrom(u64),
}

#[derive(Debug, Clone)]
struct Change {
    at: u64,
    length: u64,
    fill: Fill,
}

fn changes(count: usize) -> impl Strategy<Value = Vec<Change>> {
    let fill = prop_oneof![
        any::<u64>().prop_map(Fill::Noise),
        any::<u64>().prop_map(Fill::Text),
        Just(Fill::Zeros),
        any::<u64>().prop_map(Fill::CopyFrom),
    ];
    let length = prop_oneof![1u64..5000, 1u64..400_000, Just(4096), Just(65_536)];
    let change = (any::<u64>(), length, fill, any::<bool>()).prop_map(|(at, length, fill, aligned)| Change {
        at: if aligned { at / 4096 * 4096 } else { at },
        length,
        fill,
    });
    prop::collection::vec(change, 0..count)
}

/// Applies changes and says which bytes they touched, as a host would: in no useful grain, ascending, apart.
fn apply(content: &mut [u8], changes: &[Change]) -> Vec<Extent> {
    let size = content.len() as u64;
    let mut areas = Vec::new();
    for change in changes {
        let at = change.at % size;
        let length = change.length.min(size - at) as usize;
        let bytes = match change.fill {
            Fill::Noise(seed) => noise(seed, length),
            Fill::Text(seed) => text(seed, length),
            Fill::Zeros => vec![0; length],
            Fill::CopyFrom(from) => {
                let from = (from % size).min(size - length as u64) / 4096 * 4096;
                content[from as usize..from as usize + length].to_vec()
            }
        };
        content[at as usize..at as usize + length].copy_from_slice(&bytes);
        areas.push(Extent::new(at, length as u64));
    }
    coalesce(&areas, 1, 0, size)
}

fn sizes() -> impl Strategy<Value = u64> {
    let odd = prop_oneof![Just(0u64), Just(512), 1u64..5000];
    (prop_oneof![4 => 1u64..40, 4 => 200u64..900, 1 => Just((64 << 20) / 4096 + 30)], odd)
        .prop_map(|(blocks, odd)| blocks * 4096 + odd)
}

async fn check_random_access(repository: &Repository, number: u128, content: &Bytes, places: &[(u64, u64)]) {
    let image = repository.open_disk(point_id(number), 2000).await.unwrap();
    let size = content.len() as u64;
    for (at, length) in places {
        let at = at % size;
        let length = (*length).min(size - at) as usize;
        let read = image.read_at(at, length).await.unwrap();
        assert!(read == content.slice(at as usize..at as usize + length));
    }
    let data = image.data_extents().await.unwrap();
    let mut end = 0;
    for extent in &data {
        let gap = &content[end as usize..extent.offset as usize];
        assert!(gap.iter().all(|byte| *byte == 0));
        end = extent.end();
    }
    assert!(content[end as usize..].iter().all(|byte| *byte == 0));
}

async fn run(
    size_a: u64,
    size_b: u64,
    first: Vec<Change>,
    rounds: Vec<(Vec<Change>, Vec<Change>)>,
    places: &[(u64, u64)],
) {
    let repository = new_repository(Arc::new(MemoryBackend::new())).await;
    let mut disks = [vec![0u8; size_a as usize], vec![0u8; size_b as usize]];
    let allocated: Vec<_> = disks.iter_mut().map(|disk| apply(disk, &first)).collect();
    let mut history: Vec<Vec<Bytes>> = vec![disks.iter().cloned().map(Bytes::from).collect()];
    let inputs: Vec<_> = history[0].iter().cloned().zip(allocated.into_iter().map(ReadPlan::Allocated)).collect();
    make_point(&repository, point_id(1), &inputs, PointKind::Full, None).await.unwrap();
    for (round, changes) in (1u128..).zip(rounds) {
        let areas = [apply(&mut disks[0], &changes.0), apply(&mut disks[1], &changes.1)];
        let now: Vec<Bytes> = disks.iter().cloned().map(Bytes::from).collect();
        let plan = |areas: &Vec<Extent>| ReadPlan::Changed { base: point_id(round), areas: areas.clone() };
        let inputs: Vec<_> = now.iter().cloned().zip(areas.iter().map(plan)).collect();
        let id = point_id(round + 1);
        let kind = PointKind::Incremental;
        let changed = make_point(&repository, id, &inputs, kind, Some(point_id(round))).await.unwrap();
        let full = full_point(&repository, point_id(1000 + round), &now).await.unwrap();
        for (a, b) in changed.point.disks.iter().zip(&full.point.disks) {
            assert_eq!(a.map_root, b.map_root, "an increment gives the map a full would give");
        }
        history.push(now);
    }
    for (number, disks) in (1u128..).zip(&history) {
        assert_reads(&repository, point_id(number), disks).await;
        check_random_access(&repository, number, &disks[0], places).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_point_equals_what_the_disks_held(
        size_a in sizes(), size_b in sizes(), first in changes(12),
        rounds in prop::collection::vec((changes(8), changes(8)), 1..4),
        places in prop::collection::vec((any::<u64>(), 0u64..200_000), 5),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(size_a, size_b, first, rounds, &places));
    }
}

#[tokio::test]
async fn a_small_change_reads_little() {
    let repository = new_repository(Arc::new(MemoryBackend::new())).await;
    let mut content = noise(7, 32 << 20);
    full_point(&repository, point_id(1), &[content.clone().into()]).await.unwrap();
    content[20_000_000..20_000_100].fill(7);
    let areas = vec![Extent::new(20_000_000, 100)];
    let writer = repository.begin_point(point_id(2)).await.unwrap();
    let now = Bytes::from(content);
    let done = backup(&writer, 2000, &now, ReadPlan::Changed { base: point_id(1), areas }).await.unwrap();
    writer.commit(metadata(2, PointKind::Incremental, Some(point_id(1)))).await.unwrap();
    assert!(done.bytes_read <= 3 * 256 * 1024, "{done:?}");
    assert!(done.chunks_new >= 1 && done.bytes_stored <= 4 * 256 * 1024, "{done:?}");
    assert_reads(&repository, point_id(2), &[now]).await;
}

#[tokio::test]
async fn the_same_disk_again_stores_nothing() {
    let repository = new_repository(Arc::new(MemoryBackend::new())).await;
    let content = Bytes::from(noise(8, 8 << 20));
    full_point(&repository, point_id(1), std::slice::from_ref(&content)).await.unwrap();
    let again = full_point(&repository, point_id(2), &[content]).await.unwrap();
    assert_eq!(again.bytes_stored, 0);
    assert_eq!(again.bytes_read, 8 << 20);
}

#[tokio::test]
async fn a_vast_thin_disk_costs_what_it_holds() {
    // 40 TiB: three levels of map; only what is allocated is asked for.
    struct Thin;
    impl repository::BlockSource for Thin {
        fn size_bytes(&self) -> u64 {
            40 << 40
        }
        fn stream(
            &self,
            range: Extent,
        ) -> futures_util::stream::BoxStream<'static, Result<Bytes, repository::SourceError>> {
            assert!(range.length <= 1 << 20);
            let bytes = Bytes::from(noise(range.offset, range.length as usize));
            Box::pin(futures_util::stream::iter([Ok(bytes)]))
        }
    }
    let repository = new_repository(Arc::new(MemoryBackend::new())).await;
    let places = [5u64 << 30, (17 << 40) + 4096, (40 << 40) - 8192];
    let areas: Vec<_> = places.iter().map(|&at| Extent::new(at, 8192)).collect();
    let writer = repository.begin_point(point_id(1)).await.unwrap();
    let input = repository::DiskInput {
        config: disk_config(2000, 40 << 40),
        source: Arc::new(Thin),
        plan: ReadPlan::Allocated(areas.clone()),
    };
    let cancel = tokio_util::sync::CancellationToken::new();
    let done = writer.backup_disk(input, Arc::new(repository::NoProgress), &cancel).await.unwrap();
    assert_eq!(done.bytes_read, 3 * 8192);
    writer.commit(metadata(1, PointKind::Full, None)).await.unwrap();
    let image = repository.open_disk(point_id(1), 2000).await.unwrap();
    for at in places {
        assert_eq!(image.read_at(at, 8192).await.unwrap(), noise(at, 8192));
    }
    assert_eq!(image.read_at(1 << 40, 4096).await.unwrap(), vec![0; 4096]);
}
