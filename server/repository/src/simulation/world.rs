//! One simulated day: processes back up, delete, collect, restore and verify at once while things go wrong, and then
//! the repository is held against what it must be.

use bytes::Bytes;
use domain::machine::{DiskConfig, Firmware, MachineConfig};
use domain::point::{Consistency, PointKind};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::core::Core;
use crate::faults::Planted;
use crate::lease::{LEASE_MARGIN, LEASE_VALID};
use crate::simulation::disks::Disk;
use crate::simulation::oracle::{Entry, Oracle, State};
use crate::simulation::storage::{Dice, Handle, Process, Rules, Storage};
use crate::{
    CollectOptions, DiskInput, Environment, Error, NoProgress, PointId, PointMetadata, ReadPlan, Repository,
    VerifyOptions,
};

const MACHINES: usize = 2;
/// In this time everything begins.
const DAY: Duration = Duration::from_secs(4 * 3600);

/// A repository that was just made: its objects, and a handle whose keys all processes share.
pub struct Template {
    pub objects: Vec<(String, Bytes)>,
    pub repository: Repository,
}

/// A process of that day, and what runs in it.
type Running = (Arc<Process>, Vec<JoinHandle<()>>);

/// See the module.
pub struct World {
    dice: Arc<Dice>,
    storage: Arc<Storage>,
    oracle: Oracle,
    template: Arc<Template>,
    /// The disks of each machine as they are now.
    machines: Mutex<Vec<BTreeMap<i32, Disk>>>,
    start: Instant,
    are_clocks_wild: bool,
    processes: Mutex<Vec<Running>>,
}

/// What a seed came to, to see that enough happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    pub committed: u64,
    pub lost: u64,
    pub deleted: u64,
    pub collected: u64,
    pub packs_deleted: u64,
}

impl Figures {
    pub fn add(&mut self, other: Self) {
        self.committed += other.committed;
        self.lost += other.lost;
        self.deleted += other.deleted;
        self.collected += other.collected;
        self.packs_deleted += other.packs_deleted;
    }
}

impl World {
    pub fn new(seed: u64, template: Arc<Template>, planted: Option<Planted>, is_traced: bool) -> Arc<Self> {
        let dice = Arc::new(Dice::new(seed));
        let is_folder = dice.one_in(2);
        let rules = Rules {
            lag: Duration::from_secs([0, 0, 5, 90][dice.below(4) as usize] * u64::from(!is_folder)),
            is_folder,
            fault_one_in: [0, 400, 80][dice.below(3) as usize],
            planted,
            is_traced,
        };
        let storage = Storage::new(Arc::clone(&dice), rules, &template.objects);
        let machine = |_| (2000..2001 + dice.below(2) as i32).map(|key| (key, Disk::new(&dice))).collect();
        let machines = (0..MACHINES).map(machine).collect();
        Arc::new(Self {
            storage,
            oracle: Oracle::default(),
            template,
            machines: Mutex::new(machines),
            start: Instant::now(),
            are_clocks_wild: dice.one_in(4),
            processes: Mutex::default(),
            dice,
        })
    }

    /// A handle of a process, on the keys of the template.
    fn open(&self, process: &Arc<Process>) -> Repository {
        let backend = Arc::new(Handle { storage: Arc::clone(&self.storage), process: Arc::clone(process) });
        let environment = Environment {
            randomness: Arc::clone(&self.dice) as _,
            threads: 0,
            clock: Arc::clone(process) as _,
            who: process.name.clone(),
            planted: self.storage.rules.planted,
            ..Environment::default()
        };
        let core = &self.template.repository.core;
        let core = Core::sharing(backend, Arc::clone(&core.keys), core.config.clone(), environment);
        Repository { core: core.unwrap() }
    }

    fn lucky(&self, name: &str) -> Arc<Process> {
        Process::new(name.to_owned(), self.start, SignedDuration::ZERO, true)
    }

    fn skew(&self) -> SignedDuration {
        let most = if self.are_clocks_wild { 4 * 3600 } else { LEASE_MARGIN.as_secs() as i64 / 4 };
        SignedDuration::from_secs(self.dice.below(2 * most as u64) as i64 - most)
    }

    /// The whole day. What was wrong, if anything.
    pub async fn run(self: Arc<Self>) -> (Figures, Vec<String>) {
        let figures = Arc::new(Mutex::new(Figures::default()));
        let processes = 2 + self.dice.below(2);
        for number in 0..processes {
            self.spawn_process(&format!("process {number}"), &figures);
        }
        let watcher = tokio::spawn(Arc::clone(&self).watch());
        self.misfortunes(&figures).await;
        loop {
            let running = self.processes.lock().pop();
            let Some((process, lanes)) = running else { break };
            for lane in lanes {
                // Tasks of the dead never end.
                while !lane.is_finished() && !process.is_dead() {
                    sleep(Duration::from_secs(60)).await;
                }
                lane.abort();
            }
        }
        watcher.abort();
        if self.oracle.violations().is_empty() {
            self.evening().await;
        }
        let figures = *figures.lock();
        (figures, self.oracle.violations())
    }

    fn spawn_process(self: &Arc<Self>, name: &str, figures: &Arc<Mutex<Figures>>) {
        let process = Process::new(name.to_owned(), self.start, self.skew(), false);
        let repository = self.open(&process);
        let lanes = (0..=self.dice.below(3)).map(|_| {
            let (world, repository, figures) = (Arc::clone(self), repository.clone(), Arc::clone(figures));
            tokio::spawn(async move { world.lane(repository, figures).await })
        });
        let lanes = lanes.collect();
        self.processes.lock().push((process, lanes));
    }

    async fn lane(self: Arc<Self>, repository: Repository, figures: Arc<Mutex<Figures>>) {
        for _ in 0..2 + self.dice.below(3) {
            sleep(self.dice.millis(DAY.as_millis() as u64 / 4)).await;
            match self.dice.below(20) {
                0..10 => self.back_up(&repository, &figures).await,
                10..13 => self.delete(&repository, &figures).await,
                13..17 => self.collect(&repository, &figures).await,
                17 => self.verify(&repository).await,
                _ => self.restore(&repository).await,
            }
        }
    }

    /// Pauses, kills, power cuts, clocks that jump.
    async fn misfortunes(self: &Arc<Self>, figures: &Arc<Mutex<Figures>>) {
        if self.storage.rules.fault_one_in == 0 && self.dice.one_in(3) {
            return;
        }
        let mut number = 100;
        for _ in 0..self.dice.below(6) {
            sleep(self.dice.millis(DAY.as_millis() as u64 / 4)).await;
            let alive: Vec<_> = self.processes.lock().iter().map(|(process, _)| Arc::clone(process)).collect();
            let Some(victim) = self.dice.pick(&alive).cloned() else { continue };
            match self.dice.below(8) {
                0..4 => victim.pause(self.dice.millis(if self.dice.one_in(2) { 60_000 } else { 3 * 3_600_000 })),
                4 => victim.kill(),
                5 if self.are_clocks_wild => *victim.skew.lock() = self.skew(),
                6 if self.storage.rules.is_folder => {
                    for process in &alive {
                        process.kill();
                    }
                    self.storage.crash();
                }
                _ => {}
            }
            number += 1;
            if self.dice.one_in(2) {
                self.spawn_process(&format!("process {number}"), figures);
            }
        }
    }

    fn id(&self) -> PointId {
        PointId(Uuid::from_u128(u128::from(self.dice.next()) << 64 | u128::from(self.dice.next())))
    }

    async fn back_up(&self, repository: &Repository, figures: &Mutex<Figures>) {
        let machine = self.dice.below(MACHINES as u64) as usize;
        let (id, committed) = (self.id(), self.oracle.committed());
        let bases: Vec<_> = committed.into_iter().filter(|(_, entry)| entry.machine == machine).collect();
        let newest = bases.iter().max_by_key(|(_, entry)| entry.committed_at());
        let base = match self.dice.below(3) {
            0 => None,
            1 => newest.cloned(),
            _ => self.dice.pick(&bases).cloned(),
        };
        let mut disks = self.machines.lock()[machine].clone();
        let mut plans = BTreeMap::new();
        match &base {
            // What changed since the base is told by the host: here the disk is the base's, changed a little.
            Some((point, entry)) => {
                disks.clone_from(&entry.disks);
                for (key, disk) in &mut disks {
                    let mut areas: Vec<_> = (0..self.dice.below(3)).map(|_| disk.change(&self.dice)).collect();
                    areas.sort_by_key(|area| area.offset);
                    areas.dedup();
                    plans.insert(*key, ReadPlan::Changed { base: *point, areas });
                }
            }
            None => disks.iter_mut().for_each(|(key, disk)| {
                disk.change(&self.dice);
                plans.insert(*key, ReadPlan::Allocated(disk.areas()));
            }),
        }
        self.machines.lock()[machine].clone_from(&disks);
        match self.write(repository, id, machine, &disks, plans).await {
            Ok(()) => {
                self.oracle.set(id, State::Committed(Instant::now()));
                figures.lock().committed += 1;
            }
            Err(error) => {
                figures.lock().lost += u64::from(matches!(error, Error::LeaseLost { .. }));
                // The base may have been deleted; anything else that is missing should not be.
                let base_gone =
                    base.is_some_and(|(point, _)| !matches!(self.oracle.state(point), Some(State::Committed(_))));
                if error.is_damage() && !base_gone {
                    self.oracle.violation(format!("backup {id}: {}", chain(&error)));
                }
            }
        }
    }

    async fn write(
        &self,
        repository: &Repository,
        id: PointId,
        machine: usize,
        disks: &BTreeMap<i32, Disk>,
        mut plans: BTreeMap<i32, ReadPlan>,
    ) -> Result<(), Error> {
        let writer = repository.begin_point(id).await?;
        let base = plans.values().find_map(|plan| match plan {
            ReadPlan::Changed { base, .. } => Some(*base),
            _ => None,
        });
        for (key, disk) in disks {
            let plan = plans.remove(key).unwrap_or(ReadPlan::Everything);
            let input = DiskInput { config: disk_config(*key, disk.size), source: Arc::new(disk.clone()), plan };
            writer.backup_disk(input, Arc::new(NoProgress), &CancellationToken::new()).await?;
            // The base may go as soon as it was opened; what that does takes a collector some time.
            let goes = base.filter(|_| self.dice.one_in(4));
            if let Some(base) = goes {
                self.remove(repository, base).await;
            }
            if goes.is_some() || self.dice.one_in(4) {
                sleep(self.dice.millis(40 * 60_000)).await; // a large disk
            }
        }
        if self.dice.one_in(12) {
            writer.abandon().await;
            return Err(Error::Cancelled);
        }
        let entry = Entry { state: State::Attempted, machine, disks: disks.clone() };
        self.oracle.points.lock().insert(id, entry);
        writer.commit(metadata(machine)).await.map(drop)
    }

    async fn delete(&self, repository: &Repository, figures: &Mutex<Figures>) {
        let committed = self.oracle.committed();
        let Some((id, _)) = self.dice.pick(&committed) else { return };
        self.remove(repository, *id).await;
        figures.lock().deleted += 1;
    }

    async fn remove(&self, repository: &Repository, id: PointId) {
        if !matches!(self.oracle.state(id), Some(State::Committed(_))) {
            return;
        }
        self.oracle.set(id, State::Deleting);
        match repository.delete_point(id).await {
            Ok(()) => self.oracle.set(id, State::Deleted(Instant::now())),
            Err(Error::Backend(_)) => {}
            Err(error) => self.oracle.violation(format!("deleting {id}: {error}")),
        }
    }

    async fn collect(&self, repository: &Repository, figures: &Mutex<Figures>) {
        let options = CollectOptions {
            repack_below_percent: [0, 70, 100][self.dice.below(3) as usize],
            wait: self.dice.one_in(2),
            beside_others: self.dice.one_in(2),
            ..CollectOptions::default()
        };
        match repository.collect(options, Arc::new(NoProgress), &CancellationToken::new()).await {
            Ok(report) => {
                let mut figures = figures.lock();
                figures.collected += 1;
                figures.packs_deleted += report.packs_deleted;
                if report.chunks_missing > 0 && !self.are_deletions_open() {
                    self.oracle.violation(format!("a collection misses chunks: {report:?}"));
                }
            }
            // Another collector was quicker; or the location failed.
            Err(error) if error.is_damage() || matches!(error, Error::Backend(_)) => {}
            Err(error) => self.oracle.violation(format!("collection: {error}")),
        }
    }

    fn are_deletions_open(&self) -> bool {
        self.oracle.points.lock().values().any(|entry| !matches!(entry.state, State::Committed(_)))
    }

    async fn verify(&self, repository: &Repository) {
        let Ok(report) =
            repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await
        else {
            return;
        };
        for damage in report.damage {
            for affected in damage.affected {
                if matches!(self.oracle.state(affected.point), Some(State::Committed(_))) {
                    // It may have been moved between finding it and reading it.
                    self.must_read(repository, affected.point, "verified").await;
                }
            }
        }
    }

    async fn restore(&self, repository: &Repository) {
        let committed = self.oracle.committed();
        let Some((id, _)) = self.dice.pick(&committed) else { return };
        if self.dice.one_in(2) {
            return self.must_read(repository, *id, "restored").await;
        }
        let Ok(hold) = repository.hold(&[*id]).await else { return };
        sleep(self.dice.millis(3 * 3_600_000)).await;
        let outcome = self.oracle.compare(repository, *id).await;
        let is_kept = hold.is_valid() && !self.are_clocks_wild;
        match outcome {
            Ok(Err(what)) => self.oracle.violation(format!("held point {id}: {what}")),
            // Deleted meanwhile, the manifest is not found; what was held are its bytes.
            Err(Error::Backend(_) | Error::NoSuchPoint(_)) => {}
            Err(error) if is_kept && !is_fault(&error) => {
                self.oracle.violation(format!("held point {id}: {error}"));
            }
            _ => {}
        }
        hold.release().await;
    }

    /// Reads a point; it has to be right unless it is being deleted.
    async fn must_read(&self, repository: &Repository, id: PointId, when: &str) {
        let outcome = self.oracle.compare(repository, id).await;
        let stands = matches!(self.oracle.state(id), Some(State::Committed(_)));
        match outcome {
            Ok(Err(what)) => self.oracle.violation(format!("{when} point {id}: {what}")),
            Err(error) if stands && !is_fault(&error) => {
                self.oracle.violation(format!("{when} point {id}: {}", chain(&error)));
            }
            _ => {}
        }
    }

    /// Somebody to whom nothing happens, who looks now and then.
    async fn watch(self: Arc<Self>) {
        let repository = self.open(&self.lucky("watcher"));
        loop {
            sleep(self.dice.millis(3_600_000)).await;
            let visible = self.oracle.check_list(&repository, self.storage.rules.lag, "watching").await;
            let visible = visible.unwrap_or_default();
            if let Some(id) = self.dice.pick(&visible) {
                let attempted = self.oracle.state(*id) == Some(State::Attempted);
                if !attempted {
                    self.must_read(&repository, *id, "watched").await;
                }
            }
        }
    }

    /// All is quiet: leases have run out, late requests have arrived. What stands is right; what is not needed goes.
    async fn evening(&self) {
        sleep(LEASE_VALID + LEASE_MARGIN + Duration::from_secs(4 * 3600)).await;
        self.check_all("in the evening").await;
        for run in 0..4 {
            let repository = self.open(&self.lucky("collector"));
            let before = repository.usage().await.map(|usage| usage.total_bytes()).unwrap_or_default();
            let options = CollectOptions { wait: true, ..CollectOptions::default() };
            let report = repository.collect(options, Arc::new(NoProgress), &CancellationToken::new()).await;
            match report {
                Ok(report) => {
                    sleep(self.storage.rules.lag).await;
                    let after = repository.usage().await.map(|usage| usage.total_bytes()).unwrap_or_default();
                    if before as i64 - after as i64 != report.freed_bytes {
                        let text = format!("run {run} says {report:?}, and {before} bytes became {after}");
                        self.oracle.violation(text);
                    }
                    let is_settled = report.packs_deleted == 0 && report.freed_bytes == 0;
                    if run == 3 && (!is_settled || !report.waiting_for.is_empty()) {
                        self.oracle.violation(format!("collections do not come to an end: {report:?}"));
                    }
                }
                Err(error) => self.oracle.violation(format!("run {run} in the evening: {}", chain(&error))),
            }
            if run == 0 || run == 3 {
                self.check_all("after a collection").await;
            }
            if !self.oracle.violations().is_empty() {
                return;
            }
            sleep(LEASE_VALID + LEASE_MARGIN + Duration::from_secs(3600)).await;
        }
        self.check_leftovers().await;
        self.check_rebuilt().await;
    }

    async fn check_all(&self, when: &str) {
        let repository = self.open(&self.lucky("judge"));
        let Some(visible) = self.oracle.check_list(&repository, self.storage.rules.lag, when).await else { return };
        for id in visible {
            match self.oracle.compare(&repository, id).await {
                Ok(Ok(())) => {}
                Ok(Err(what)) => self.oracle.violation(format!("{when}, point {id}: {what}")),
                Err(error) => self.oracle.violation(format!("{when}, point {id}: {}", chain(&error))),
            }
        }
    }

    /// Nothing is left of the collections but voids, and challenges of those who made it after all.
    async fn check_leftovers(&self) {
        let backend = Handle { storage: Arc::clone(&self.storage), process: self.lucky("judge") };
        for prefix in ["leases/", "epochs/"] {
            use crate::ObjectBackend as _;
            let left = backend.list(prefix).await.unwrap_or_default();
            if !left.is_empty() {
                self.oracle.violation(format!("left over: {left:?}"));
            }
        }
    }

    /// The packs alone say the same as the index.
    async fn check_rebuilt(&self) {
        use crate::ObjectBackend as _;
        let memory = self.storage.snapshot();
        for segment in memory.list("index/").await.unwrap_or_default() {
            let _ = memory.delete(&segment.name).await;
        }
        let process = self.lucky("rebuilder");
        let repository = self.open(&process);
        let core = &repository.core;
        let core =
            Core::sharing(Arc::new(memory), Arc::clone(&core.keys), core.config.clone(), core.environment.clone());
        let repository = Repository { core: core.unwrap() };
        for (id, _) in self.oracle.committed() {
            match self.oracle.compare(&repository, id).await {
                Ok(Ok(())) => {}
                Ok(Err(what)) => self.oracle.violation(format!("without an index, point {id}: {what}")),
                Err(error) => self.oracle.violation(format!("without an index, point {id}: {}", chain(&error))),
            }
        }
        let report = repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await;
        match report {
            Ok(report) if report.damage.is_empty() => {}
            other => self.oracle.violation(format!("verification in the end: {other:?}")),
        }
    }
}

/// Did the location fail, rather than lose something?
fn is_fault(error: &Error) -> bool {
    matches!(error, Error::Backend(error) if error.kind == crate::BackendErrorKind::Other)
        || matches!(error, Error::DiskDamaged { source, .. } if is_fault(source))
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn disk_config(key: i32, capacity_bytes: u64) -> DiskConfig {
    let label = format!("Hard disk {}", key - 1999);
    DiskConfig {
        key,
        label,
        capacity_bytes,
        controller_key: 1000,
        unit: key - 2000,
        thin: true,
        ..DiskConfig::default()
    }
}

fn metadata(machine: usize) -> PointMetadata {
    let name = format!("machine {machine}");
    PointMetadata {
        machine_id: name.clone(),
        device: "host".to_owned(),
        machine: MachineConfig {
            name,
            guest_id: "otherGuest".to_owned(),
            firmware: Firmware::Efi,
            secure_boot: false,
            processors: 1,
            memory_mib: 512,
            hardware_version: "vmx-19".to_owned(),
            instance_uuid: None,
            bios_uuid: None,
            notes: String::new(),
            controllers: Vec::new(),
            disks: Vec::new(),
            ..MachineConfig::default()
        },
        taken_at: Timestamp::UNIX_EPOCH,
        kind: PointKind::Full,
        consistency: Consistency::Crash,
        marks: Vec::new(),
        warnings: Vec::new(),
        task: None,
        predecessor: None,
    }
}
