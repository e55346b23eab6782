//! A seeded, deterministic simulation of writers, deleters, collectors, verification and restores on a faulty location,
//! in virtual time on one thread. Owns: the location and its faults (`storage`), what must be true (`oracle`), a day and
//! what is looked at in its evening (`world`). A seed that fails is told, and replays: `make simulate SEED=n`.

mod disks;
mod oracle;
mod storage;
mod world;

use jiff::Timestamp;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::faults::Planted;
use crate::{Argon2Cost, Environment, InitOptions, MemoryBackend, ObjectBackend, Repository};
use storage::Dice;
use world::{Figures, Template, World};

/// Seeds of `make test`.
const SEEDS: u64 = 2500;
/// A planted fault has to be found within so many.
const SEEDS_UNTIL_FOUND: u64 = 6000;

fn template() -> Arc<Template> {
    static TEMPLATE: OnceLock<Arc<Template>> = OnceLock::new();
    let make = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let memory = MemoryBackend::new();
            let options = InitOptions {
                chunk_average_bytes: 64 << 10,
                pack_bytes: 64 << 10,
                passphrase_cost: Argon2Cost { memory_kib: 64, passes: 1, lanes: 1 },
                created_at: Timestamp::UNIX_EPOCH,
            };
            let environment = Environment { randomness: Arc::new(Dice::new(0)), threads: 0, ..Environment::default() };
            let place: Arc<dyn ObjectBackend> = Arc::new(memory.clone());
            let (repository, _) = Repository::init_in(place, &"passphrase".into(), options, environment).await.unwrap();
            let mut objects = Vec::new();
            for object in memory.list("").await.unwrap() {
                let bytes = memory.get(&object.name, None).await.unwrap();
                objects.push((object.name, bytes));
            }
            Arc::new(Template { objects, repository })
        })
    };
    Arc::clone(TEMPLATE.get_or_init(make))
}

/// Lives through one seed: what was wrong, if anything.
fn live_through(seed: u64, planted: Option<Planted>) -> (Figures, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let template = template();
    let is_traced = asked("SIMULATE_TRACE").is_some();
    let day = async move { World::new(seed, template, planted, is_traced).run().await };
    let day = AssertUnwindSafe(|| runtime.block_on(day));
    catch_unwind(day).unwrap_or_else(|_| (Figures::default(), vec!["it panicked".to_owned()]))
}

/// Goes through seeds on all processors until one fails: how many were done, the sums, and the failure.
fn search(seeds: std::ops::Range<u64>, planted: Option<Planted>) -> (u64, Figures, Option<(u64, Vec<String>)>) {
    let (next, done) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let (sums, failure) = (Mutex::new(Figures::default()), Mutex::new(None));
    template();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failure.lock().unwrap().is_some() {
                        return;
                    }
                    let (figures, violations) = live_through(seed, planted);
                    done.fetch_add(1, Ordering::Relaxed);
                    sums.lock().unwrap().add(figures);
                    if !violations.is_empty() {
                        failure.lock().unwrap().get_or_insert((seed, violations));
                    }
                }
            });
        }
    });
    (done.into_inner(), sums.into_inner().unwrap(), failure.into_inner().unwrap())
}

/// `name` from the environment; only simulations are steered by it.
#[allow(clippy::disallowed_methods)] // a test's own switch, not the program's
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_committed_is_lost_whatever_happens() {
    if let Some(seed) = asked("SIMULATE_SEED") {
        let (figures, violations) = live_through(seed, None);
        println!("seed {seed}: {figures:?}");
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        return;
    }
    let start = std::time::Instant::now();
    let (done, sums, failure) = search(0..asked("SIMULATE_SEEDS").unwrap_or(SEEDS), None);
    println!("{done} seeds in {:.0} s: {sums:?}", start.elapsed().as_secs_f64());
    if let Some((seed, violations)) = failure {
        panic!("seed {seed} (again with: make simulate SEED={seed}): {violations:#?}");
    }
    assert!(sums.committed > done && sums.packs_deleted > done, "too little happens: {sums:?}");
}

#[test]
fn a_seed_gives_the_same_day_again() {
    for seed in 0..20 {
        assert_eq!(format!("{:?}", live_through(seed, None)), format!("{:?}", live_through(seed, None)), "seed {seed}");
    }
}

/// The simulation is worth what it finds.
fn finds(planted: Planted) {
    let (done, _, failure) = search(0..SEEDS_UNTIL_FOUND, Some(planted));
    let (seed, violations) = failure.unwrap_or_else(|| panic!("{planted:?} was not found within {done} seeds"));
    println!("{planted:?}: seed {seed}, after {done}: {}", violations[0]);
}

macro_rules! finds {
    ($($test:ident: $planted:ident,)*) => {
        $(#[test]
        fn $test() {
            finds(Planted::$planted);
        })*
    };
}

finds! {
    finds_data_that_is_not_synced: NoDataSync,
    finds_folders_that_are_not_synced: NoFolderSync,
    finds_a_manifest_before_its_packs: ManifestBeforePacks,
    finds_a_commit_without_a_lease: CommitWithoutLease,
    finds_voids_that_are_ignored: VoidsIgnored,
    finds_epochs_that_are_ignored: EpochsIgnored,
    finds_a_collector_that_does_not_look_again: NoMarkAgain,
    finds_a_collector_that_does_not_wait: NoWaiting,
    finds_a_base_that_is_not_held: BaseNotHeld,
    finds_an_epoch_that_goes_first: EpochDroppedFirst,
}
