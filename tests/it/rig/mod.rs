//! A server without its console: real Postgres, real workers, simulated hosts, a repository in a folder.
//!
//! Owns: building the parts, and waiting for what they do. Must never: sleep; it waits for events, with a deadline.

mod faulty_folder;
mod gate;
mod hosts;
mod hyperv;

pub use faulty_folder::{FaultyFolder, Halt};
pub use gate::Gate;
pub use hosts::{Host, QuickConnector, Simulated, frozen, machine, same_bytes};
pub use hyperv::{SimulatedHyperV, hyperv_machine, stored};

use db::testing::TestDatabase;
use db::{
    CredentialKey, Database, DeviceId, Job, Method, NewDevice, Point, RepositoryId, RunId, Start, TaskId, TaskInput,
    VmId,
};
use domain::SystemClock;
use domain::job::JobState;
use domain::machine::Quiesce;
use domain::mode::{IfStillOn, Mode, Shutdown};
use domain::retention::Retention;
use domain::schedule::Schedule;
use engine::{Connector, Engine, EngineConfig, LocationOrder, Locations, RealLocations, RestoreOrder, Workers};
use secrecy::SecretString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Nothing in a test takes longer.
const DEADLINE: Duration = Duration::from_secs(60);
/// Events can be lost while a connection comes back; nothing waits for one alone.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
pub const PASSPHRASE: &str = "correct horse battery staple";

/// The server.
pub struct Rig {
    pub folder: TempDir,
    pub db: TestDatabase,
    pub engine: Engine,
    pub workers: Option<Workers>,
    events: db::Events,
}

/// What is read of a disk to check its change tracking, at most: 64 cells.
pub const SAMPLE_BYTES: u64 = 64 * domain::sampling::CELL_BYTES;
/// A server that will be killed.
pub struct Mortal {
    runtime: tokio::runtime::Runtime,
    _workers: Workers,
}

impl Mortal {
    /// Nothing of it goes on, and nothing is cleaned up.
    pub fn kill(self) {
        self.runtime.shutdown_background();
    }
}

/// A task to make.
#[derive(Clone, Copy)]
pub struct TaskSpec<'a> {
    pub name: &'a str,
    pub machines: &'a [VmId],
    pub method: Method,
    pub full_every: u32,
    pub keep: u32,
    pub mode: Mode,
    pub if_still_on: IfStillOn,
    pub quiesce: Quiesce,
}

impl Default for TaskSpec<'_> {
    fn default() -> Self {
        Self {
            name: "nightly",
            machines: &[],
            method: Method::Incremental,
            full_every: 0,
            keep: 100,
            mode: Mode::Hot,
            if_still_on: IfStillOn::Fail,
            quiesce: Quiesce::Prefer,
        }
    }
}

/// Times of a test: retries at once, a dead worker is noticed in seconds.
pub fn quick(data_dir: PathBuf, worker: &str) -> EngineConfig {
    EngineConfig {
        poll_every: Duration::from_millis(500),
        heartbeat_every: Duration::from_millis(500),
        heartbeat_deadline: Duration::from_secs(20),
        reap_every: Duration::from_millis(500),
        schedule_every: Duration::from_millis(500),
        inventory_every: Duration::from_secs(3600),
        reconcile_every: Duration::from_secs(3600),
        index_every: Duration::from_secs(3600),
        appear_look_every: Duration::from_millis(100),
        retry_pauses: vec![Duration::from_millis(50)],
        notices_every: Duration::from_millis(500),
        observe_every: Duration::from_secs(3600),
        notice_pauses: vec![Duration::from_millis(50)],
        settle_pause: Duration::from_millis(50),
        room_every: Duration::from_millis(200),
        cancel_grace: Duration::from_millis(500),
        snapshot_settle: Duration::ZERO,
        shutdown_limit_max: Duration::from_secs(2),
        shutdown_settle: Duration::ZERO,
        shutdown_ask_every: Duration::from_millis(100),
        power_on_pause: Duration::from_millis(50),
        stop_grace: Duration::from_secs(10),
        ..EngineConfig::new(data_dir, worker)
    }
}

impl Rig {
    /// With workers at work.
    pub async fn start() -> Self {
        Self::with_locations(Arc::new(RealLocations)).await
    }

    /// With storage of the test's choice.
    pub async fn with_locations(locations: Arc<dyn Locations>) -> Self {
        Self::with_parts(locations, Arc::new(QuickConnector)).await
    }

    /// With hosts of the test's choice as well.
    pub async fn with_parts(locations: Arc<dyn Locations>, connector: Arc<dyn Connector>) -> Self {
        Self::with_config(locations, connector, |config| config).await
    }

    /// And with other times and limits.
    pub async fn with_config(
        locations: Arc<dyn Locations>,
        connector: Arc<dyn Connector>,
        change: impl FnOnce(EngineConfig) -> EngineConfig,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let db = db::testing::database().await;
        let config = change(quick(folder.path().join("data"), "one"));
        let engine = Engine::with_parts(db.database.clone(), config, Arc::new(SystemClock), connector, locations);
        let events = db.events().await.expect("events");
        let workers = Some(Workers::start(&engine).await.expect("workers"));
        Self { folder, db, engine, workers, events }
    }

    /// Without workers of its own: they are those of a server process on `data_dir` and [`TestDatabase::url`].
    pub async fn beside(data_dir: &Path) -> Self {
        std::fs::create_dir_all(data_dir).expect("the data folder");
        let db = db::testing::database_with(CredentialKey::load_or_create(data_dir).expect("a key")).await;
        Self::beside_database(data_dir, db).await
    }

    /// The same on a database of the test's choice.
    pub async fn beside_database(data_dir: &Path, db: TestDatabase) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = engine(db.database.clone(), data_dir, "beside", Arc::new(RealLocations), Arc::new(QuickConnector));
        let events = db.events().await.expect("events");
        Self { folder, db, engine, workers: None, events }
    }

    /// A second server on the same database.
    pub async fn second(&self, worker: &str) -> (Engine, Workers) {
        let engine = engine(
            self.db.second().await,
            &self.folder.path().join("data2"),
            worker,
            Arc::new(RealLocations),
            Arc::new(QuickConnector),
        );
        let workers = Workers::start(&engine).await.expect("workers");
        (engine, workers)
    }

    /// The server again, in a runtime of its own that can be ended as a process is killed. Without workers of this one.
    pub fn mortal(&self, locations: Arc<dyn Locations>) -> Mortal {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let data_dir = self.folder.path().join("data");
        let workers = tokio::task::block_in_place(|| {
            runtime.block_on(async {
                let engine = engine(self.db.second().await, &data_dir, "one", locations, Arc::new(QuickConnector));
                Workers::start(&engine).await.expect("workers")
            })
        });
        Mortal { runtime, _workers: workers }
    }

    /// Ends the workers as a clean stop of the server does.
    pub async fn stop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.stop().await;
        }
    }

    /// Starts them again.
    pub async fn start_workers(&mut self) {
        self.workers = Some(Workers::start(&self.engine).await.expect("workers"));
    }

    /// Adds the host as a device and waits for its inventory.
    pub async fn device(&self, host: &impl Host) -> DeviceId {
        let access = host.access();
        if let Some(expected) = access.certificate_sha256 {
            let sha256 = self.engine.probe_certificate(&access.host, access.port).await.expect("a certificate");
            assert_eq!(sha256, expected);
        }
        let preflight = self.engine.preflight(&access).await.expect("a host");
        let device = NewDevice {
            platform: access.platform,
            name: host.name().to_owned(),
            host: access.host,
            port: access.port,
            account: access.account,
            password: access.password,
            certificate_sha256: access.certificate_sha256,
            hyperv: access.hyperv,
            simulated: true,
            preflight,
        };
        let device_id = self.db.insert_device(&device).await.expect("a device");
        self.sync(device_id).await;
        device_id
    }

    /// Reads the inventory anew.
    pub async fn sync(&self, device_id: DeviceId) -> Job {
        // The housekeeping may have queued one of its own just now; ours comes after it.
        let job_id = loop {
            match self.engine.sync_device(device_id).await.expect("queued") {
                Some(job_id) => break job_id,
                None => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        };
        self.wait("the inventory", async || {
            let job = self.db.job(job_id).await.expect("a job");
            job.state.is_final().then_some(job)
        })
        .await
    }

    /// The machine of that name.
    pub async fn vm(&self, device_id: DeviceId, name: &str) -> VmId {
        let machines = self.db.machines_of_device(device_id).await.expect("machines");
        machines.iter().find(|machine| machine.name == name).expect("the machine").vm_id
    }

    /// A repository in a new folder.
    pub async fn location(&self) -> RepositoryId {
        let order = LocationOrder::folder("cellar", self.repository_path(), PASSPHRASE.into());
        self.engine.create_location(order).await.expect("a repository").repository_id
    }

    pub fn repository_path(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("a folder").join("repository")
    }

    /// The repository, read past the engine.
    pub async fn repository(&self) -> repository::Repository {
        let backend = repository::FolderBackend::open(self.repository_path()).expect("a folder");
        let passphrase = SecretString::from(PASSPHRASE);
        repository::Repository::open(Arc::new(backend), &passphrase).await.expect("a repository")
    }

    pub async fn task(&self, repository_id: RepositoryId, spec: TaskSpec<'_>) -> TaskId {
        let input = Self::task_input(repository_id, spec);
        self.db.create_task(&input).await.expect("a task")
    }

    /// What [`Rig::task`] makes a task of.
    pub fn task_input(repository_id: RepositoryId, spec: TaskSpec<'_>) -> TaskInput {
        TaskInput {
            name: spec.name.to_owned(),
            repository_id,
            schedule: Schedule::Manual,
            retention: Retention::KeepLast { count: spec.keep },
            method: spec.method,
            full_every: spec.full_every,
            quiesce: spec.quiesce,
            mode: spec.mode,
            shutdown: Shutdown { limit_minutes: 1, if_still_on: spec.if_still_on },
            goal_minutes: None,
            machines: spec.machines.to_vec(),
            priority: 0,
            choice: domain::choice::Choice::default(),
            excluded_disks: Vec::new(),
        }
    }

    /// Starts a run and waits for its end.
    pub async fn run(&self, task_id: TaskId) -> Vec<Job> {
        let run_id = self.start_run(task_id).await;
        let jobs = self.finished(run_id).await;
        let made = jobs.iter().filter(|job| matches!(job.state, JobState::Succeeded | JobState::Warning));
        if let Some(job) = made.max_by_key(|job| job.finished_at)
            && let (Some(repository_id), Some(since)) = (job.repository_id, job.finished_at)
        {
            self.retained(repository_id, since).await;
        }
        jobs
    }

    /// Waits until a retention that began since then has ended.
    pub async fn retained(&self, repository_id: RepositoryId, since: jiff::Timestamp) -> Job {
        self.wait("retention", async || {
            let job = self.db.newest_retain_job(repository_id).await.expect("jobs")?;
            (job.state.is_final() && job.started_at? >= since).then_some(job)
        })
        .await
    }

    pub async fn start_run(&self, task_id: TaskId) -> RunId {
        match self.db.start_run(task_id, "tester", None).await.expect("a run") {
            Start::Started { run_id, .. } => run_id,
            other => panic!("{other:?}"),
        }
    }

    /// Runs the task for one machine and expects this end.
    pub async fn run_one(&self, task_id: TaskId, expected: JobState) -> Job {
        let jobs = self.run(task_id).await;
        assert_eq!(jobs.len(), 1);
        let job = jobs.into_iter().next().expect("one");
        assert_eq!(job.state, expected, "{:?}\n{}", job.error, self.log(&job).await);
        job
    }

    pub async fn finished(&self, run_id: RunId) -> Vec<Job> {
        self.finished_within(run_id, DEADLINE).await
    }

    /// The same, for a run that has to wait for leases to run out.
    pub async fn finished_within(&self, run_id: RunId, limit: Duration) -> Vec<Job> {
        let ended = self.look_within(limit, async || {
            let run = self.db.run(run_id).await.expect("a run");
            run.state.is_final().then_some(())
        });
        assert!(ended.await.is_some(), "the run did not end in time: {:#?}", self.db.jobs_of_run(run_id).await);
        self.db.jobs_of_run(run_id).await.expect("jobs")
    }

    pub async fn restore(&self, order: &RestoreOrder, expected: JobState) -> Job {
        let run_id = self.engine.start_restore(order, "tester").await.expect("a restore");
        let job = self.finished(run_id).await.into_iter().next().expect("a job");
        assert_eq!(job.state, expected, "{:?}\n{}", job.error, self.log(&job).await);
        job
    }

    /// As when the worker was silent for a minute: the reaper gives the run's only job to the next one while it still works.
    /// A heartbeat in between would save the lease, so it is taken until it is gone.
    pub async fn take_lease(&self, run_id: RunId) {
        let fence = self.db.jobs_of_run(run_id).await.expect("jobs")[0].fence;
        self.wait("the lease to be taken", async || {
            self.db.expire_leases("one/").await.expect("expired");
            self.db.reap(|_| Duration::ZERO).await.expect("reaped");
            let job = self.db.jobs_of_run(run_id).await.expect("jobs").remove(0);
            (job.state == JobState::Queued || job.fence != fence).then_some(())
        })
        .await;
    }

    /// One bit decays in the middle of the repository's largest pack.
    pub fn flip_a_byte(&self) {
        let packs = files_below(&self.repository_path().join("packs"));
        let largest = packs.into_iter().max_by_key(|path| path.metadata().expect("a file").len()).expect("a pack");
        let mut bytes = std::fs::read(&largest).expect("a pack");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&largest, bytes).expect("written");
    }

    /// Newest first.
    pub async fn points(&self, vm_id: VmId) -> Vec<Point> {
        self.db.points_of_machine(vm_id).await.expect("points")
    }

    pub async fn log(&self, job: &Job) -> String {
        let lines = self.db.job_log(job.job_id, 0, 1000).await.expect("a log");
        lines.iter().fold(String::new(), |text, line| format!("{text}{} {}\n", line.level.as_str(), line.message))
    }

    /// Waits until nothing is journalled as open on the device.
    pub async fn settled(&self, device_id: DeviceId) {
        let closed = self.look_until(async || {
            let open = self.db.open_changes(device_id).await.expect("changes");
            open.is_empty().then_some(())
        });
        assert!(closed.await.is_some(), "still open: {:?}", self.db.open_changes(device_id).await);
    }

    /// Waits until `look` finds something.
    pub async fn wait<T>(&self, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
        self.look_until(look).await.unwrap_or_else(|| panic!("{what} did not happen in time"))
    }

    async fn look_until<T>(&self, look: impl AsyncFn() -> Option<T>) -> Option<T> {
        self.look_within(DEADLINE, look).await
    }

    async fn look_within<T>(&self, limit: Duration, look: impl AsyncFn() -> Option<T>) -> Option<T> {
        let mut events = self.events.subscribe();
        let found = tokio::time::timeout(limit, async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                let _ = tokio::time::timeout(LOOK_AGAIN, events.recv()).await;
            }
        });
        found.await.ok()
    }
}

/// All files in a folder and those in it.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

fn engine(
    db: Database,
    data_dir: &Path,
    worker: &str,
    locations: Arc<dyn Locations>,
    connector: Arc<dyn Connector>,
) -> Engine {
    let config = quick(data_dir.to_owned(), worker);
    Engine::with_parts(db, config, Arc::new(SystemClock), connector, locations)
}
