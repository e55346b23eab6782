//! What every backend owes, as functions over the trait: one named test per line and backend. A backend's own file
//! calls `conformance!(name, place)` with an expression that makes an empty location, with `.await` if it has to.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use repository::backend::ObjectInfo;
use repository::{BackendError, BackendErrorKind, ObjectBackend};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::noise;

/// An empty location, and what must live as long as it does.
pub struct Place {
    pub backend: Arc<dyn ObjectBackend>,
    /// Takes the location away (renames the folder, removes the bucket); `None` where that cannot happen.
    pub lose: Option<Box<dyn FnOnce() + Send>>,
    #[allow(dead_code)] // held, not read
    pub keep: Box<dyn Any + Send>,
}

/// Makes a module of named tests, one per line of the suite.
macro_rules! conformance {
    ($name:ident, $place:expr) => {
        conformance!($name, $place; stores_and_reads_exactly, refuses_a_taken_name, stores_empty_and_one_byte,
            stores_64_mib, stores_many_parts, one_of_16_creators_wins_100_bytes, one_of_16_creators_wins_1_mib,
            one_of_16_creators_wins_8_mib, shows_nothing_partial, reads_ranges_to_the_byte, reads_64_at_once,
            tells_what_is_missing, lists_more_than_a_page, lists_by_prefix_and_in_order, lists_what_was_just_changed,
            takes_a_deleted_name_again, refuses_bad_names, never_lists_a_lost_location_as_empty, holds_a_whole_repository);
    };
    ($name:ident, $place:expr; $($test:ident),* $(,)?) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let place: $crate::conformance::Place = $place;
                    $crate::conformance::$test(place).await;
                }
            )*
        }
    };
}

/// Puts in flight at once while a test fills a location.
const FILL_AT_ONCE: usize = 16;
/// More than a page of any list protocol we know.
const MORE_THAN_A_PAGE: usize = 1100;

fn kind<T: std::fmt::Debug>(result: Result<T, BackendError>) -> BackendErrorKind {
    result.expect_err("it had to fail").kind
}

fn names(list: Vec<ObjectInfo>) -> Vec<String> {
    list.into_iter().map(|object| object.name).collect()
}

async fn put(backend: &dyn ObjectBackend, name: &str, bytes: impl Into<Bytes>) {
    backend.put_new(name, vec![bytes.into()]).await.unwrap();
}

pub async fn stores_and_reads_exactly(place: Place) {
    let backend = &place.backend;
    let parts = vec![Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"!")];
    backend.put_new("packs/ab/one", parts).await.unwrap();
    assert_eq!(backend.get("packs/ab/one", None).await.unwrap(), "one!");
    let info = ObjectInfo { name: "packs/ab/one".to_owned(), size: 4 };
    assert_eq!(backend.stat("packs/ab/one").await.unwrap(), info);
    assert_eq!(backend.list("").await.unwrap(), [info]);
}

pub async fn refuses_a_taken_name(place: Place) {
    let backend = &place.backend;
    put(&**backend, "a/1", "old").await;
    for again in ["new", "old"] {
        let taken = backend.put_new("a/1", vec![Bytes::from_static(again.as_bytes())]).await;
        assert_eq!(kind(taken), BackendErrorKind::AlreadyExists);
        assert_eq!(backend.get("a/1", None).await.unwrap(), "old");
    }
    assert_eq!(names(backend.list("").await.unwrap()), ["a/1"]);
}

pub async fn stores_empty_and_one_byte(place: Place) {
    let backend = &place.backend;
    backend.put_new("empty", vec![]).await.unwrap();
    put(&**backend, "one", "x").await;
    assert_eq!(backend.get("empty", None).await.unwrap(), "");
    assert_eq!(backend.get("empty", Some(0..0)).await.unwrap(), "");
    assert_eq!(kind(backend.get("empty", Some(0..1)).await), BackendErrorKind::TooShort);
    assert_eq!(backend.stat("empty").await.unwrap().size, 0);
    assert_eq!(backend.get("one", None).await.unwrap(), "x");
    assert_eq!(kind(backend.put_new("empty", vec![]).await), BackendErrorKind::AlreadyExists);
}

pub async fn stores_64_mib(place: Place) {
    let backend = &place.backend;
    let content = Bytes::from(noise(1, 64 << 20));
    let parts = vec![content.slice(..60_000_001), content.slice(60_000_001..)];
    backend.put_new("packs/large", parts).await.unwrap();
    assert_eq!(backend.stat("packs/large").await.unwrap().size, 64 << 20);
    assert!(backend.get("packs/large", None).await.unwrap() == content);
    assert!(backend.get("packs/large", Some(5..(63 << 20))).await.unwrap() == content.slice(5..63 << 20));
}

pub async fn stores_many_parts(place: Place) {
    let content = Bytes::from(noise(2, 300_000));
    let parts: Vec<Bytes> = (0..3000).map(|part| content.slice(part * 100..part * 100 + 100)).collect();
    place.backend.put_new("parts", parts).await.unwrap();
    assert!(place.backend.get("parts", None).await.unwrap() == content);
}

async fn one_of_16_creators_wins(place: Place, size: usize) {
    let tries: Vec<_> = (0..16u8)
        .map(|number| {
            let backend = Arc::clone(&place.backend);
            tokio::spawn(async move { backend.put_new("race/it", vec![vec![number; size].into()]).await })
        })
        .collect();
    let mut winners = Vec::new();
    for (number, attempt) in tries.into_iter().enumerate() {
        match attempt.await.unwrap() {
            Ok(()) => winners.push(number as u8),
            Err(error) => assert_eq!(error.kind, BackendErrorKind::AlreadyExists, "{error}"),
        }
    }
    let [winner] = winners[..] else { panic!("one had to win: {winners:?}") };
    assert!(place.backend.get("race/it", None).await.unwrap() == vec![winner; size], "the winner's bytes");
    assert_eq!(names(place.backend.list("").await.unwrap()), ["race/it"]);
}

pub async fn one_of_16_creators_wins_100_bytes(place: Place) {
    one_of_16_creators_wins(place, 100).await;
}

pub async fn one_of_16_creators_wins_1_mib(place: Place) {
    one_of_16_creators_wins(place, 1 << 20).await;
}

pub async fn one_of_16_creators_wins_8_mib(place: Place) {
    one_of_16_creators_wins(place, 8 << 20).await;
}

/// While a large object is written, whoever looks sees none of it or all.
pub async fn shows_nothing_partial(place: Place) {
    const SIZE: u64 = 24 << 20;
    let content = Bytes::from(noise(3, SIZE as usize));
    let (backend, written, done) = (Arc::clone(&place.backend), content.clone(), Arc::new(AtomicBool::new(false)));
    let ended = Arc::clone(&done);
    let writer = tokio::spawn(async move {
        let result = backend.put_new("packs/slow", vec![written]).await;
        ended.store(true, Ordering::Release);
        result
    });
    loop {
        let last = done.load(Ordering::Acquire);
        for object in place.backend.list("").await.unwrap() {
            assert_eq!((object.name.as_str(), object.size), ("packs/slow", SIZE));
        }
        match place.backend.get("packs/slow", Some(SIZE - 10..SIZE)).await {
            Ok(tail) => assert_eq!(tail, content.slice(SIZE as usize - 10..)),
            Err(error) => assert!(error.kind == BackendErrorKind::NotFound && !last, "{error}"),
        }
        if last {
            break;
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap().unwrap();
}

pub async fn reads_ranges_to_the_byte(place: Place) {
    let backend = &place.backend;
    let content = Bytes::from(noise(4, 10_000));
    put(&**backend, "a", content.clone()).await;
    for (start, end) in [(0, 1), (0, 10_000), (9_999, 10_000), (1, 9_999), (5_000, 5_000), (10_000, 10_000)] {
        let read = backend.get("a", Some(start..end)).await.unwrap();
        assert!(read == content.slice(start as usize..end as usize), "{start}..{end}");
    }
    for (start, end) in [(0, 10_001), (9_999, 10_001), (10_000, 10_001), (10_001, 10_001), (20_000, 30_000)] {
        assert_eq!(kind(backend.get("a", Some(start..end)).await), BackendErrorKind::TooShort, "{start}..{end}");
    }
    #[allow(clippy::reversed_empty_ranges)] // what a defect would ask for
    let backwards = backend.get("a", Some(10..5)).await;
    assert!(backwards.is_err());
}

pub async fn reads_64_at_once(place: Place) {
    let content = Bytes::from(noise(5, 4 << 20));
    put(&*place.backend, "packs/shared", content.clone()).await;
    let reads = (0..64usize).map(|number| {
        let (backend, content) = (Arc::clone(&place.backend), content.clone());
        async move {
            let range = number * 60_000..number * 60_000 + 200_000 + number;
            let read = backend.get("packs/shared", Some(range.start as u64..range.end as u64)).await.unwrap();
            assert!(read == content.slice(range), "read {number}");
        }
    });
    assert_eq!(stream::iter(reads).buffer_unordered(64).count().await, 64);
}

pub async fn tells_what_is_missing(place: Place) {
    let backend = &place.backend;
    put(&**backend, "a/1", "x").await;
    for name in ["a/2", "b/1", "a/1x", "a"] {
        assert_eq!(kind(backend.get(name, None).await), BackendErrorKind::NotFound, "{name}");
        assert_eq!(kind(backend.get(name, Some(0..1)).await), BackendErrorKind::NotFound, "{name}");
        assert_eq!(kind(backend.stat(name).await), BackendErrorKind::NotFound, "{name}");
    }
    for name in ["a/2", "b/1"] {
        backend.delete(name).await.unwrap();
    }
    assert_eq!(names(backend.list("").await.unwrap()), ["a/1"]);
}

pub async fn lists_more_than_a_page(place: Place) {
    let puts = (0..MORE_THAN_A_PAGE).map(|number| {
        let backend = Arc::clone(&place.backend);
        async move { put(&*backend, &format!("many/{:02x}/{number:05}", number % 7), vec![7; number % 5]).await }
    });
    stream::iter(puts).buffer_unordered(FILL_AT_ONCE).collect::<Vec<()>>().await;
    let mut wanted: Vec<ObjectInfo> = (0..MORE_THAN_A_PAGE)
        .map(|number| ObjectInfo { name: format!("many/{:02x}/{number:05}", number % 7), size: number as u64 % 5 })
        .collect();
    wanted.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(place.backend.list("many/").await.unwrap() == wanted);
    assert!(place.backend.list("").await.unwrap() == wanted);
}

pub async fn lists_by_prefix_and_in_order(place: Place) {
    let backend = &place.backend;
    for name in ["b-1", "ab", "a/10", "a/1", "a.b", "a-b/1", "B/1", "a/1.x", "c/d/e/f", "c/d2"] {
        put(&**backend, name, "x").await;
    }
    assert_eq!(names(backend.list("a/").await.unwrap()), ["a/1", "a/1.x", "a/10"]);
    assert_eq!(names(backend.list("c/d/").await.unwrap()), ["c/d/e/f"]);
    assert_eq!(names(backend.list("c/").await.unwrap()), ["c/d/e/f", "c/d2"]);
    assert_eq!(names(backend.list("d/").await.unwrap()), [] as [&str; 0]);
    let all = ["B/1", "a-b/1", "a.b", "a/1", "a/1.x", "a/10", "ab", "b-1", "c/d/e/f", "c/d2"];
    assert_eq!(names(backend.list("").await.unwrap()), all);
}

pub async fn lists_what_was_just_changed(place: Place) {
    let backend = &place.backend;
    for round in 0..20 {
        let name = format!("leases/{round}");
        put(&**backend, &name, "x").await;
        assert_eq!(names(backend.list("leases/").await.unwrap()), [name.as_str()]);
        backend.delete(&name).await.unwrap();
        assert_eq!(names(backend.list("leases/").await.unwrap()), [] as [&str; 0]);
        assert_eq!(kind(backend.stat(&name).await), BackendErrorKind::NotFound);
    }
}

pub async fn takes_a_deleted_name_again(place: Place) {
    let backend = &place.backend;
    put(&**backend, "a/1", "first").await;
    backend.delete("a/1").await.unwrap();
    backend.delete("a/1").await.unwrap();
    put(&**backend, "a/1", "second").await;
    assert_eq!(backend.get("a/1", None).await.unwrap(), "second");
}

pub async fn refuses_bad_names(place: Place) {
    let backend = &place.backend;
    let long = "x".repeat(201);
    for name in ["../x", "/x", "a//b", ".x", "a/..", "", "a b", "a/", "ü", "a\\b", "a%2e", long.as_str()] {
        assert_eq!(kind(backend.put_new(name, vec![]).await), BackendErrorKind::BadName, "{name:?}");
        assert!(backend.get(name, None).await.is_err(), "{name:?}");
        assert!(backend.stat(name).await.is_err(), "{name:?}");
    }
    assert_eq!(backend.list("").await.unwrap(), []);
}

pub async fn never_lists_a_lost_location_as_empty(mut place: Place) {
    let Some(lose) = place.lose.take() else { return };
    let backend = &place.backend;
    put(&**backend, "a/1", "x").await;
    tokio::task::spawn_blocking(lose).await.unwrap();
    for prefix in ["", "a/", "b/"] {
        assert_eq!(kind(backend.list(prefix).await), BackendErrorKind::NoLocation, "{prefix:?}");
    }
    assert_eq!(kind(backend.get("a/1", None).await), BackendErrorKind::NoLocation);
    assert_eq!(kind(backend.stat("a/1").await), BackendErrorKind::NoLocation);
    assert_eq!(kind(backend.delete("a/1").await), BackendErrorKind::NoLocation);
    assert_eq!(kind(backend.put_new("a/2", vec![]).await), BackendErrorKind::NoLocation);
}

/// Init, a full, an increment, verify, restore, delete, and a look from a second process's eyes.
pub async fn holds_a_whole_repository(place: Place) {
    use crate::support::*;
    use domain::Extent;
    use domain::point::PointKind;
    use repository::{Error, NoProgress, ReadPlan, VerifyOptions};

    let repository = new_repository(Arc::clone(&place.backend)).await;
    let first = Bytes::from([noise(1, 3 << 20), vec![0; 1 << 20], text(2, 1 << 20)].concat());
    full_point(&repository, point_id(1), std::slice::from_ref(&first)).await.unwrap();
    let mut second = first.to_vec();
    second[100_000..200_000].copy_from_slice(&noise(9, 100_000));
    let second = Bytes::from(second);
    let plan = ReadPlan::Changed { base: point_id(1), areas: vec![Extent::new(98_304, 102_400)] };
    let repository = reopen(Arc::clone(&place.backend)).await;
    let kind = PointKind::Incremental;
    make_point(&repository, point_id(2), &[(second.clone(), plan)], kind, Some(point_id(1))).await.unwrap();
    let repository = reopen(Arc::clone(&place.backend)).await;
    let cancel = tokio_util::sync::CancellationToken::new();
    let report = repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &cancel).await.unwrap();
    assert_eq!(report.damage, []);
    assert_reads(&repository, point_id(1), std::slice::from_ref(&first)).await;
    assert_reads(&repository, point_id(2), std::slice::from_ref(&second)).await;
    let deleted = repository.delete_point(point_id(1)).await;
    let repository = reopen(Arc::clone(&place.backend)).await;
    let left = repository.points().await.unwrap().points.len();
    match deleted {
        Err(Error::Backend(error)) if place.backend.lock_needed_until().is_some() => {
            assert_eq!((error.kind, left), (BackendErrorKind::Locked, 2));
            assert!(error.source.unwrap().to_string().contains("before 20"), "it says until when");
            assert_reads(&repository, point_id(1), std::slice::from_ref(&first)).await;
        }
        other => assert_eq!((other.unwrap(), left), ((), 1)),
    }
    let report = repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &cancel).await.unwrap();
    assert_eq!(report.damage, []);
    assert_reads(&repository, point_id(2), &[second]).await;
}
