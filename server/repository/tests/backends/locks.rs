//! That locks follow what points refer to, on a location that locks without being S3, under a clock the test owns.

use bytes::Bytes;
use domain::Extent;
use domain::point::PointKind;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use repository::backend::ObjectInfo;
use repository::{
    BackendError, BackendErrorKind, Error, MemoryBackend, NoProgress, ObjectBackend, ReadPlan, VerifyOptions,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::support::*;

const DAYS: i64 = 20;
const SPARE_DAYS: i64 = 5;

#[derive(Debug, Default)]
struct State {
    day: i64,
    until: BTreeMap<String, i64>,
    asked: Vec<String>,
    extended: BTreeSet<String>,
}

#[derive(Debug, Clone, Default)]
struct LockingBackend {
    inner: MemoryBackend,
    state: Arc<Mutex<State>>,
}

fn day(number: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * number)
}

impl LockingBackend {
    fn advance(&self, days: i64) {
        let mut state = self.state.lock();
        state.day += days;
        state.asked.clear();
        state.extended.clear();
    }

    /// Packs that can be deleted on the day the newest point's lock has to last to.
    fn at_risk(&self) -> Vec<String> {
        let state = self.state.lock();
        let ends_early = |(name, until): (&String, &i64)| {
            (name.starts_with("packs/") && *until < state.day + DAYS).then(|| name.clone())
        };
        state.until.iter().filter_map(ends_early).collect()
    }
}

#[async_trait::async_trait]
impl ObjectBackend for LockingBackend {
    fn place(&self) -> String {
        "memory with locks".to_owned()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        self.inner.put_new(name, parts).await?;
        let mut state = self.state.lock();
        let until = state.day + DAYS + SPARE_DAYS;
        state.until.insert(name.to_owned(), until);
        Ok(())
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        self.inner.get(name, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        self.inner.list(prefix).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        self.inner.stat(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        let until = self.state.lock().until.get(name).copied().unwrap_or_default();
        if until > self.state.lock().day {
            let (kind, verb, place) = (BackendErrorKind::Locked, "delete", self.place());
            let source = Some(Arc::new(std::io::Error::other(format!("nobody can delete it before {}", day(until)))));
            return Err(BackendError { kind, verb, name: name.to_owned(), place, source });
        }
        self.inner.delete(name).await
    }

    fn lock_needed_until(&self) -> Option<Timestamp> {
        Some(day(self.state.lock().day + DAYS))
    }

    async fn extend_lock(&self, name: &str) -> Result<Option<Timestamp>, BackendError> {
        let mut state = self.state.lock();
        let (now, spare) = (state.day, SPARE_DAYS);
        let Some(mut until) = state.until.get(name).copied() else {
            let (kind, verb, place) = (BackendErrorKind::NotFound, "lock", "memory".to_owned());
            return Err(BackendError { kind, verb, name: name.to_owned(), place, source: None });
        };
        state.asked.push(name.to_owned());
        if until < now + DAYS {
            until = now + DAYS + spare;
            state.until.insert(name.to_owned(), until);
            state.extended.insert(name.to_owned());
        }
        Ok(Some(day(until)))
    }
}

#[tokio::test]
async fn a_point_keeps_what_it_reuses_locked_as_long_as_what_is_new() {
    let backend = LockingBackend::default();
    let repository = new_repository(Arc::new(backend.clone())).await;
    // Three pages, so that there are subtrees; and a disk of another machine that nothing refers to later.
    let mut content = vec![0; (2 << 26) + (1 << 20)];
    content[..2 << 20].copy_from_slice(&noise(1, 2 << 20));
    content[1 << 26..(1 << 26) + (1 << 20)].copy_from_slice(&noise(2, 1 << 20));
    content[2 << 26..(2 << 26) + (1 << 20)].copy_from_slice(&noise(3, 1 << 20));
    full_point(&repository, point_id(1), &[Bytes::from(content.clone())]).await.unwrap();
    full_point(&repository, point_id(100), &[Bytes::from(noise(50, 1 << 20))]).await.unwrap();
    let first: BTreeSet<String> = backend.state.lock().until.keys().cloned().collect();

    for number in 2..12u128 {
        backend.advance(1);
        let at = number as usize * 8192;
        content[at..at + 4096].copy_from_slice(&noise(number as u64, 4096));
        let plan = ReadPlan::Changed { base: point_id(number - 1), areas: vec![Extent::new(at as u64, 4096)] };
        let disks = [(Bytes::from(content.clone()), plan)];
        let predecessor = Some(point_id(number - 1));
        make_point(&repository, point_id(number), &disks, PointKind::Incremental, predecessor).await.unwrap();
        let extended = backend.state.lock().extended.clone();
        let asked = backend.state.lock().asked.clone();
        // Only when the spare days of the first day's packs are spent.
        let due = number == 2 + SPARE_DAYS as u128;
        assert_eq!(extended.iter().any(|name| name.starts_with("packs/") && first.contains(name)), due, "{number}");
        assert!(due || asked.len() < 30, "point {number} asked for {asked:?}");
    }
    // What the last point does not need may go when its own time has come; nothing else may.
    let at_risk = backend.at_risk();
    assert!(at_risk.iter().any(|name| first.contains(name)), "{at_risk:?}");
    for name in at_risk {
        backend.inner.delete(&name).await.unwrap();
    }
    let repository = reopen(Arc::new(backend.clone())).await;
    assert!(read_disk(&repository, point_id(11), 2000).await.unwrap() == content);
    assert!(read_disk(&repository, point_id(100), 2000).await.is_err());
}

#[tokio::test]
async fn a_point_under_lock_stays_whole_until_its_time_has_come() {
    let backend = LockingBackend::default();
    let repository = new_repository(Arc::new(backend.clone())).await;
    let content = Bytes::from(noise(1, 1 << 20));
    full_point(&repository, point_id(1), std::slice::from_ref(&content)).await.unwrap();
    backend.advance(DAYS + SPARE_DAYS - 1);
    let Err(Error::Backend(error)) = repository.delete_point(point_id(1)).await else { panic!("it is locked") };
    assert_eq!(error.kind, BackendErrorKind::Locked);
    assert!(error.source.unwrap().to_string().contains(&day(DAYS + SPARE_DAYS).to_string()));
    let repository = reopen(Arc::new(backend.clone())).await;
    assert_eq!(repository.points().await.unwrap().points.len(), 1);
    let options = VerifyOptions::default();
    let report = repository.verify(options, Arc::new(NoProgress), &CancellationToken::new()).await.unwrap();
    assert_eq!(report.damage, []);
    assert_reads(&repository, point_id(1), &[content]).await;
    backend.advance(1);
    repository.delete_point(point_id(1)).await.unwrap();
    assert!(reopen(Arc::new(backend)).await.points().await.unwrap().points.is_empty());
}
