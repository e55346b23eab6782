//! The simulated location: what is visible, what a crash may keep of it, what a lagging list shows; and the processes
//! that use it, each with its own handle, clock and misfortunes. All in virtual time, all by the dice.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

use crate::backend::{BackendError, BackendErrorKind, MemoryBackend, ObjectBackend, ObjectInfo};
use crate::error::Result as RepositoryResult;
use crate::{Randomness, faults::Planted};

/// Everything random in a simulation, from its seed.
pub struct Dice(Mutex<u64>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// Splitmix64.
    pub fn next(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not zero.
    pub fn below(&self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub fn millis(&self, end: u64) -> Duration {
        Duration::from_millis(self.below(end))
    }

    pub fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| &of[self.below(of.len() as u64) as usize])
    }
}

impl Randomness for Dice {
    fn fill(&self, bytes: &mut [u8]) -> RepositoryResult<()> {
        bytes.chunks_mut(8).for_each(|part| part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]));
        Ok(())
    }
}

/// What kind of location, and how bad a day.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub lag: Duration,
    /// A folder: the machine may crash and lose what is not synced. Else a server: requests may arrive late.
    pub is_folder: bool,
    /// One operation in so many fails, is lost, or takes its process along; 0 for none.
    pub fault_one_in: u64,
    pub planted: Option<Planted>,
    /// Every operation is told.
    pub is_traced: bool,
}

struct Object {
    bytes: Bytes,
    /// Its name survives a crash.
    is_named: bool,
    /// Its bytes do.
    is_written: bool,
    since: Instant,
}

struct Removal {
    object: Object,
    is_durable: bool,
    since: Instant,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    removed: BTreeMap<String, Removal>,
}

/// See the module.
pub struct Storage {
    pub dice: Arc<Dice>,
    pub rules: Rules,
    state: Mutex<State>,
}

impl Storage {
    /// Begins with what is in `template`.
    pub fn new(dice: Arc<Dice>, rules: Rules, template: &[(String, Bytes)]) -> Arc<Self> {
        let storage = Self { dice, rules, state: Mutex::default() };
        for (name, bytes) in template {
            let object = Object { bytes: bytes.clone(), is_named: true, is_written: true, since: Instant::now() };
            storage.state.lock().objects.insert(name.clone(), object);
        }
        Arc::new(storage)
    }

    /// What a machine finds that starts again after its power failed.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        let removed = std::mem::take(&mut state.removed);
        for (name, removal) in removed {
            if !removal.is_durable && !state.objects.contains_key(&name) && self.dice.one_in(2) {
                state.objects.insert(name, removal.object);
            }
        }
        let names: Vec<String> = state.objects.keys().cloned().collect();
        for name in names {
            let Some(object) = state.objects.get_mut(&name) else { continue };
            if !object.is_written && self.dice.one_in(2) {
                let kept = self.dice.below(object.bytes.len() as u64 + 1) as usize;
                object.bytes.truncate(kept); // torn
            }
            object.is_written = true;
            let is_lost = !object.is_named && self.dice.one_in(2);
            object.is_named = true;
            if is_lost {
                state.objects.remove(&name);
            }
        }
    }

    /// An independent copy, for looking at it afterwards.
    pub fn snapshot(&self) -> MemoryBackend {
        let memory = MemoryBackend::new();
        for (name, object) in &self.state.lock().objects {
            memory.tamper(name, object.bytes.clone());
        }
        memory
    }

    fn show(&self, name: &str, bytes: Bytes) -> bool {
        let mut state = self.state.lock();
        if state.objects.contains_key(name) {
            return false;
        }
        let is_written = self.rules.planted != Some(Planted::NoDataSync);
        let object = Object { bytes, is_named: false, is_written, since: Instant::now() };
        state.removed.remove(name);
        state.objects.insert(name.to_owned(), object);
        true
    }

    fn hide(&self, name: &str) {
        let mut state = self.state.lock();
        if let Some(object) = state.objects.remove(name) {
            let removal = Removal { object, is_durable: false, since: Instant::now() };
            state.removed.insert(name.to_owned(), removal);
        }
    }

    /// Syncs the folder, as far as this name or prefix goes.
    fn settle(&self, name: &str) {
        let concerned = |other: &str| other == name || (name.ends_with('/') && other.starts_with(name));
        let mut state = self.state.lock();
        state.objects.iter_mut().filter(|(other, _)| concerned(other)).for_each(|(_, object)| object.is_named = true);
        state.removed.iter_mut().filter(|(other, _)| concerned(other)).for_each(|(_, gone)| gone.is_durable = true);
    }

    fn shown(&self, prefix: &str) -> Vec<ObjectInfo> {
        let state = self.state.lock();
        let lags = |since: Instant| since.elapsed() < self.rules.lag && self.dice.one_in(2);
        let there = state.objects.iter().filter(|(name, _)| name.starts_with(prefix));
        let there = there.filter(|(_, object)| !lags(object.since)).map(|(name, object)| (name, object.bytes.len()));
        let gone = state.removed.iter().filter(|(name, _)| name.starts_with(prefix));
        let gone = gone.filter(|(_, gone)| lags(gone.since)).map(|(name, gone)| (name, gone.object.bytes.len()));
        let mut shown: Vec<ObjectInfo> =
            there.chain(gone).map(|(name, size)| ObjectInfo { name: name.clone(), size: size as u64 }).collect();
        shown.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        shown.dedup_by(|a, b| a.name == b.name);
        shown
    }

    fn bytes(&self, name: &str) -> Option<Bytes> {
        self.state.lock().objects.get(name).map(|object| object.bytes.clone())
    }
}

/// A process: its clock, and what befalls it.
pub struct Process {
    pub name: String,
    is_dead: AtomicBool,
    paused_until: Mutex<Option<Instant>>,
    pub skew: Mutex<SignedDuration>,
    start: Instant,
    pub is_lucky: bool,
}

impl Process {
    pub fn new(name: String, start: Instant, skew: SignedDuration, is_lucky: bool) -> Arc<Self> {
        let (is_dead, paused_until) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Self { name, is_dead, paused_until, skew: Mutex::new(skew), start, is_lucky })
    }

    pub fn kill(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
    }

    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    /// Stands still for so long; comes back and knows nothing of it.
    pub fn pause(&self, time: Duration) {
        *self.paused_until.lock() = Some(Instant::now() + time);
    }

    /// Where a process that is paused or dead stays.
    async fn gate(&self) {
        loop {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            let until = *self.paused_until.lock();
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return,
            }
        }
    }
}

impl domain::Clock for Process {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.start.elapsed()).unwrap();
        Timestamp::from_second(1_800_000_000).unwrap() + passed + *self.skew.lock()
    }
}

/// A process's view of the location.
#[derive(Clone)]
pub struct Handle {
    pub storage: Arc<Storage>,
    pub process: Arc<Process>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.process.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Luck {
    Good,
    Fails,
    ReplyLost,
    ArrivesLate,
    DiesBefore,
    DiesAfter,
}

impl Handle {
    fn error(&self, kind: BackendErrorKind, verb: &'static str, name: &str) -> BackendError {
        BackendError { kind, verb, name: name.to_owned(), place: self.process.name.clone(), source: None }
    }

    async fn wait(&self) {
        self.process.gate().await;
        let dice = &self.storage.dice;
        let time = match dice.below(100) {
            0 => dice.millis(180_000),
            1..10 => dice.millis(3000),
            _ => dice.millis(30),
        };
        sleep(time).await;
        self.process.gate().await;
    }

    fn luck(&self) -> Luck {
        let many = self.storage.rules.fault_one_in;
        if many == 0 || self.process.is_lucky || !self.storage.dice.one_in(many) {
            return Luck::Good;
        }
        match self.storage.dice.below(6) {
            0 | 1 => Luck::Fails,
            2 => Luck::ReplyLost,
            3 if !self.storage.rules.is_folder => Luck::ArrivesLate,
            4 => Luck::DiesBefore,
            _ => Luck::DiesAfter,
        }
    }

    /// A change: `visible` shows it, the sync follows, then the reply.
    async fn change(
        &self,
        verb: &'static str,
        name: &str,
        visible: impl FnOnce(&Storage) -> bool + Send + 'static,
    ) -> Result<(), BackendError> {
        self.wait().await;
        let luck = self.luck();
        if luck != Luck::Good {
            self.trace(verb, name, &format!("{luck:?}"));
        }
        match luck {
            Luck::Fails => return Err(self.error(BackendErrorKind::Other, verb, name)),
            Luck::DiesBefore => self.process.kill(),
            Luck::ArrivesLate => {
                let (storage, owned, time) =
                    (Arc::clone(&self.storage), name.to_owned(), self.storage.dice.millis(7_200_000));
                tokio::spawn(async move {
                    sleep(time).await;
                    visible(&storage);
                    storage.settle(&owned);
                });
                sleep(Duration::from_secs(30)).await;
                return Err(self.error(BackendErrorKind::Other, verb, name));
            }
            _ => {}
        }
        self.process.gate().await;
        self.trace(verb, name, "visible");
        if !visible(&self.storage) {
            return Err(self.error(BackendErrorKind::AlreadyExists, verb, name));
        }
        self.wait().await;
        if self.storage.rules.planted != Some(Planted::NoFolderSync) {
            self.storage.settle(name);
        }
        if luck == Luck::DiesAfter {
            self.process.kill();
        }
        self.wait().await;
        if luck == Luck::ReplyLost {
            return Err(self.error(BackendErrorKind::Other, verb, name));
        }
        Ok(())
    }

    fn trace(&self, verb: &str, name: &str, what: &str) {
        if self.storage.rules.is_traced {
            let at = self.process.start.elapsed().as_secs_f64();
            eprintln!("{at:10.3} {}: {verb} {name}: {what}", self.process.name);
        }
    }

    async fn look(&self, verb: &'static str, name: &str) -> Result<(), BackendError> {
        self.wait().await;
        self.trace(verb, name, "");
        match self.luck() {
            Luck::Good | Luck::ArrivesLate => Ok(()),
            Luck::Fails | Luck::ReplyLost => Err(self.error(BackendErrorKind::Other, verb, name)),
            Luck::DiesBefore | Luck::DiesAfter => {
                self.process.kill();
                self.process.gate().await;
                Ok(())
            }
        }
    }
}

#[async_trait::async_trait]
impl ObjectBackend for Handle {
    fn place(&self) -> String {
        "the simulation".to_owned()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        let (owned, bytes) = (name.to_owned(), Bytes::from(parts.concat()));
        self.change("store", name, move |storage| storage.show(&owned, bytes)).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        self.look("read", name).await?;
        let bytes = self.storage.bytes(name).ok_or_else(|| self.error(BackendErrorKind::NotFound, "read", name))?;
        let range = range.unwrap_or(0..bytes.len() as u64);
        if range.start > range.end || range.end > bytes.len() as u64 {
            return Err(self.error(BackendErrorKind::TooShort, "read", name));
        }
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        self.look("list", prefix).await?;
        Ok(self.storage.shown(prefix))
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        self.look("look up", name).await?;
        let bytes = self.storage.bytes(name).ok_or_else(|| self.error(BackendErrorKind::NotFound, "look up", name))?;
        Ok(ObjectInfo { name: name.to_owned(), size: bytes.len() as u64 })
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        let owned = name.to_owned();
        let hide = move |storage: &Storage| {
            storage.hide(&owned);
            true
        };
        self.change("delete", name, hide).await
    }

    async fn sync(&self, name: &str) -> Result<(), BackendError> {
        self.look("sync", name).await?;
        self.storage.settle(name);
        Ok(())
    }

    fn list_lag(&self) -> Duration {
        self.storage.rules.lag
    }
}
