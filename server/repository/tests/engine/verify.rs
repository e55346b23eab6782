//! Verification that is cut short, sampled, limited to what was not checked lately; and its stamps.

use bytes::Bytes;
use domain::Clock;
use jiff::Timestamp;
use repository::{
    Environment, Error, MemoryBackend, NoProgress, ObjectBackend, Repository, VerifyOptions, VerifyProgress,
    VerifyReport,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// Seconds since 1970, set by the test.
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::Relaxed)).unwrap()
    }
}

struct Rig {
    memory: MemoryBackend,
    clock: Arc<Hand>,
}

impl Rig {
    /// A repository of some packs.
    async fn new() -> Self {
        let (memory, clock) = (MemoryBackend::new(), Arc::new(Hand(AtomicI64::new(1_000))));
        let repository = new_repository(Arc::new(memory.clone())).await;
        full_point(&repository, point_id(1), &[Bytes::from(noise(1, 12 << 20))]).await.unwrap();
        Self { memory, clock }
    }

    async fn open(&self) -> Repository {
        let environment = Environment { clock: self.clock.clone(), ..Environment::default() };
        Repository::open_in(Arc::new(self.memory.clone()), &passphrase(), environment).await.unwrap()
    }

    async fn verify(&self, at: i64, options: VerifyOptions) -> VerifyReport {
        self.clock.0.store(at, Ordering::Relaxed);
        let repository = self.open().await;
        repository.verify(options, Arc::new(NoProgress), &CancellationToken::new()).await.unwrap()
    }

    /// Cancels after `bytes` of packs were read.
    async fn cut_short(&self, at: i64, bytes: u64, options: VerifyOptions) {
        self.clock.0.store(at, Ordering::Relaxed);
        let cut = Arc::new(Cut { left: AtomicU64::new(bytes), cancel: CancellationToken::new() });
        let done = self.open().await.verify(options, cut.clone(), &cut.cancel).await;
        assert!(matches!(done, Err(Error::Cancelled)), "{done:?}");
    }

    async fn packs(&self) -> u64 {
        self.memory.list("packs/").await.unwrap().len() as u64
    }

    async fn stamps(&self) -> usize {
        self.memory.list("stamps/").await.unwrap().len()
    }
}

struct Cut {
    left: AtomicU64,
    cancel: CancellationToken,
}

impl VerifyProgress for Cut {
    fn read(&self, bytes: u64) {
        let left = self.left.load(Ordering::Relaxed).saturating_sub(bytes);
        self.left.store(left, Ordering::Relaxed);
        if left == 0 {
            self.cancel.cancel();
        }
    }
}

fn resume() -> VerifyOptions {
    VerifyOptions { resume: true, ..VerifyOptions::default() }
}

fn percent(percent: u8) -> VerifyOptions {
    VerifyOptions { percent: Some(percent), ..VerifyOptions::default() }
}

#[tokio::test]
async fn one_that_was_cut_short_goes_on_where_it_was() {
    let rig = Rig::new().await;
    let packs = rig.packs().await;
    assert!(packs > 20);
    rig.cut_short(1_000, 6 << 20, VerifyOptions::default()).await;
    let verified = rig.open().await.verified().await.unwrap();
    assert_eq!(verified.unfinished_since, Some(Timestamp::from_second(1_000).unwrap()));
    assert!(verified.packs_checked > 5 && verified.packs_checked < packs, "{verified:?}");
    rig.cut_short(2_000, 2 << 20, resume()).await;
    let before = rig.open().await.verified().await.unwrap();
    assert!(before.packs_checked > verified.packs_checked);
    assert_eq!(before.unfinished_since, verified.unfinished_since, "still the same one");
    let report = rig.verify(3_000, resume()).await;
    assert_eq!(report.resumed_from, verified.unfinished_since);
    assert_eq!((report.packs_checked, report.packs_skipped), (packs - before.packs_checked, before.packs_checked));
    let after = rig.open().await.verified().await.unwrap();
    assert_eq!((after.packs_checked, after.unfinished_since), (packs, None));
    assert_eq!(rig.stamps().await, 1, "one in place of all");
    // Nothing is left to go on with: all anew.
    assert_eq!(rig.verify(4_000, resume()).await.packs_checked, packs);
}

#[tokio::test]
async fn what_was_bad_before_the_cut_is_told_by_the_one_that_goes_on() {
    let rig = Rig::new().await;
    let packs = rig.memory.list("packs/").await.unwrap();
    for object in packs.iter().filter(|object| object.size > 100_000) {
        let mut bytes = rig.memory.get(&object.name, None).await.unwrap().to_vec();
        bytes[100] ^= 1;
        rig.memory.tamper(&object.name, bytes.into());
    }
    let whole = rig.verify(1_000, VerifyOptions { read_only: true, ..VerifyOptions::default() }).await;
    assert_eq!(rig.stamps().await, 0, "read only");
    assert!(whole.damage.len() > 20);
    rig.cut_short(1_000, 6 << 20, VerifyOptions::default()).await;
    let rest = rig.verify(2_000, resume()).await;
    assert!(rest.packs_skipped > 0);
    assert_eq!(
        rest.damage.iter().map(|damage| &damage.object).collect::<Vec<_>>(),
        whole.damage.iter().map(|damage| &damage.object).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn samples_cover_all_in_their_time() {
    let rig = Rig::new().await;
    let packs = rig.packs().await;
    let mut checked = 0;
    for day in 1..=4 {
        let report = rig.verify(day * 86_400, percent(25)).await;
        assert!(report.packs_checked > 0 && report.packs_checked < packs / 2, "{report:?}");
        checked += report.packs_checked;
        assert_eq!(report.packs_checked + report.packs_left + report.packs_skipped, packs);
    }
    assert!(checked >= packs);
    let verified = rig.open().await.verified().await.unwrap();
    assert_eq!(verified.packs_checked, packs);
    assert_eq!(verified.oldest, Some(Timestamp::from_second(86_400).unwrap()));
    // The fifth day begins again with the first day's.
    let fifth = rig.verify(5 * 86_400, percent(25)).await;
    assert!(fifth.packs_checked > 0);
    let verified = rig.open().await.verified().await.unwrap();
    assert_eq!(verified.oldest, Some(Timestamp::from_second(2 * 86_400).unwrap()));
    assert!(matches!(
        rig.open().await.verify(percent(0), Arc::new(NoProgress), &CancellationToken::new()).await,
        Err(Error::Limit { value: 0, .. })
    ));
}

#[tokio::test]
async fn only_what_was_not_checked_lately() {
    let rig = Rig::new().await;
    let packs = rig.packs().await;
    rig.verify(1_000, VerifyOptions::default()).await;
    let repository = rig.open().await;
    full_point(&repository, point_id(2), &[Bytes::from(noise(2, 1 << 20))]).await.unwrap();
    let new = rig.packs().await - packs;
    let since = |at| VerifyOptions { since: Some(Timestamp::from_second(at).unwrap()), ..VerifyOptions::default() };
    let report = rig.verify(2_000, since(1_000)).await;
    assert_eq!((report.packs_checked, report.packs_skipped), (new, packs));
    let report = rig.verify(3_000, since(1_500)).await;
    assert_eq!((report.packs_checked, report.packs_skipped), (packs, new));
}

#[tokio::test]
async fn a_location_that_takes_no_stamps_can_be_verified() {
    let rig = Rig::new().await;
    let faulty = repository::backend::FaultyBackend::new(Arc::new(rig.memory.clone()));
    let repository = reopen(Arc::new(faulty.clone())).await;
    faulty.inject_at_change(0, repository::backend::Fault::Fail(repository::BackendErrorKind::Forbidden));
    let report = repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await;
    assert_eq!(report.unwrap().damage, []);
    assert_eq!(rig.stamps().await, 0);
}

#[tokio::test]
async fn chosen_points_are_read_and_nothing_is_stamped() {
    let rig = Rig::new().await;
    let repository = rig.open().await;
    full_point(&repository, point_id(2), &[Bytes::from(noise(2, 1 << 20))]).await.unwrap();
    let options = VerifyOptions { points: Some(vec![point_id(2)]), ..VerifyOptions::default() };
    let report = rig.verify(1_000, options).await;
    assert!(report.bytes_read > 1 << 20 && report.bytes_read < 2 << 20, "{report:?}");
    assert_eq!((report.points, report.damage), (1, vec![]));
    assert_eq!(rig.stamps().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_speed_is_kept() {
    let rig = Rig::new().await;
    let start = tokio::time::Instant::now();
    let limited = VerifyOptions { bytes_per_second_max: Some(1 << 20), ..VerifyOptions::default() };
    assert_eq!(rig.verify(1_000, limited).await.damage, []);
    let seconds = start.elapsed().as_secs();
    assert!((10..=13).contains(&seconds), "12 MiB at 1 MiB a second took {seconds} s");
}
