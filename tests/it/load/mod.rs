//! Many machines: scheduling, leasing, progress and pages while thousands are backed up by the real engine from hosts that
//! answer at once. The measurement is run by hand, in release (`make load`); `make test` runs a smaller one for its outcome.

mod synthetic;

use crate::rig::Rig;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use db::{
    DeviceId, DeviceLimits, DeviceUpdate, FullReads, LeaseLimits, NewDevice, Platform, RepositoryId, Run, RunKind,
    Start, TaskId, TaskInput, VmId,
};
use domain::SystemClock;
use domain::job::{JobError, JobKind, JobState};
use engine::{EngineConfig, RealLocations};
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::Client;
use synthetic::{Fleet, FleetConnector};
use tokio_util::sync::CancellationToken;

/// Pages that are asked for all the time.
const PAGES: [&str; 8] = [
    "/",
    "/machines",
    "/machines?sort=-point&page=3",
    "/machines?q=dev-1",
    "/tasks",
    "/activity",
    "/restore",
    "/storage",
];

/// How much.
struct Scale {
    devices: usize,
    machines: usize,
    slots: u32,
}

/// Everything that takes part.
struct Load {
    rig: Rig,
    fleet: Arc<Fleet>,
    devices: Vec<DeviceId>,
    location: RepositoryId,
}

impl Load {
    async fn new(scale: &Scale) -> Self {
        let fleet = Fleet::new(scale.machines);
        let connector = Arc::new(FleetConnector(Arc::clone(&fleet)));
        let slots = scale.slots;
        let wider = move |config: EngineConfig| EngineConfig {
            slots: slots as usize + 2,
            max_transfers: slots,
            progress_every: Duration::from_millis(500),
            ..config
        };
        let rig = Rig::with_config(Arc::new(RealLocations), connector, wider).await;
        let mut devices = Vec::new();
        for number in 0..scale.devices {
            let name = format!("dev-{number:02}");
            let device = rig.db.insert_device(&new_device(&name)).await.expect("a device");
            rig.db.update_device(device, &wide_open(&name)).await.expect("limits");
            rig.db
                .set_device_limits(device, DeviceLimits { per_datastore: 8, reserve_percent: 5 })
                .await
                .expect("limits");
            rig.sync(device).await;
            devices.push(device);
        }
        let location = rig.location().await;
        rig.db.set_repository_max_jobs(location, 64).await.expect("a limit");
        Self { rig, fleet, devices, location }
    }

    async fn machines(&self, device: DeviceId) -> Vec<VmId> {
        self.rig.db.machines_of_device(device).await.expect("machines").iter().map(|it| it.vm_id).collect()
    }

    async fn task(&self, name: &str, machines: Vec<VmId>) -> TaskId {
        let spec = crate::rig::TaskSpec { name, ..crate::rig::TaskSpec::default() };
        let input = TaskInput { machines, ..Rig::task_input(self.location, spec) };
        self.rig.db.create_task(&input).await.expect("a task")
    }

    /// The newest run of a task, once it has ended.
    async fn ended(&self, task: TaskId) -> Run {
        loop {
            let run = self.rig.db.runs_of_task(task, 1).await.expect("runs").into_iter().next();
            match run {
                Some(run) if run.state.is_final() => return run,
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

fn new_device(name: &str) -> NewDevice {
    NewDevice {
        platform: Platform::Esxi,
        name: name.to_owned(),
        host: name.to_owned(),
        port: 443,
        account: "root".to_owned(),
        password: SecretString::from("synthetic"),
        certificate_sha256: Some([7; 32]),
        hyperv: db::HyperVAccess::default(),
        simulated: true,
        preflight: db::Preflight::default(),
    }
}

fn wide_open(name: &str) -> DeviceUpdate {
    let NewDevice { name, host, port, account, certificate_sha256, hyperv, .. } = new_device(name);
    let full_reads = FullReads::Allocated;
    DeviceUpdate { name, host, port, account, password: None, certificate_sha256, hyperv, full_reads, max_jobs: 8 }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_machines_in_one_task_do_not_keep_three_others_waiting() {
    let load = Load::new(&Scale { devices: 5, machines: 101, slots: 8 }).await;
    let (mut large, mut small) = (Vec::new(), Vec::new());
    for device in &load.devices {
        let mut machines = load.machines(*device).await;
        small.push(machines.remove(0));
        large.extend(machines);
    }
    small.truncate(3);
    let (large, small) = (load.task("large", large).await, load.task("small", small).await);
    let now = load.rig.db.now().await.expect("the time");
    load.rig.db.set_next_due(large, Some(now)).await.expect("due");
    load.rig.wait("the large run", async || (load.fleet.standing() > 0).then_some(())).await;
    load.rig.db.start_run(small, "anna", None).await.expect("a run");
    let (small, large) = (load.ended(small).await, load.ended(large).await);
    assert_eq!((small.state, large.state), (JobState::Succeeded, JobState::Succeeded));
    assert!(small.finished_at < large.finished_at, "three machines are done before five hundred");
    let jobs = load.rig.db.jobs_of_run(large.run_id).await.expect("jobs");
    assert_eq!((jobs.len(), load.fleet.made.load(std::sync::atomic::Ordering::Relaxed)), (500, 503));
    assert_eq!(load.fleet.standing(), 0, "nothing is left on a host");
    assert!(load.fleet.most.load(std::sync::atomic::Ordering::Relaxed) <= 8);
    let points = load.rig.repository().await.points().await.expect("points");
    assert_eq!(points.points.len(), 503, "each machine has one point");
}

/// No simulated host is started from this console.
struct NoDemo;

#[async_trait::async_trait]
impl web::DemoHosts for NoDemo {
    async fn add(&self, _: Platform) -> Result<web::DemoHost, JobError> {
        Err(JobError::fail("demo.none", "No host was started.", "This is a test.", ""))
    }

    async fn remove(&self, _: u16) -> Result<(), JobError> {
        Ok(())
    }
}

/// The console over plain HTTP on a free port, signed in.
async fn console(load: &Load) -> Client {
    let token = "a setup token of the load test";
    load.rig.db.set_setup_token(Sha256::digest(token.as_bytes()).into()).await.expect("a token");
    let given = web::AppState {
        db: load.rig.db.database.clone(),
        backend: Arc::new(load.rig.engine.clone()),
        demo: Arc::new(NoDemo),
        clock: Arc::new(SystemClock),
        version: "0.0.0",
        server_name: "load".to_owned(),
        secure: false,
        certificate_sha256: None,
        time_zone: jiff::tz::TimeZone::UTC,
        stopping: CancellationToken::new(),
        workers_reach: None,
        facts: Vec::new(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let service: IntoMakeServiceWithConnectInfo<_, SocketAddr> =
        web::router(given).into_make_service_with_connect_info();
    tokio::spawn(async move { axum::serve(listener, service).await });
    let mut client = Client::new(&format!("http://{address}"));
    let answer = client.set_up(token, "admin", "correct horse battery").await;
    assert!((200..400).contains(&answer.status), "{answer:?}");
    client
}

/// Times, as they are read off.
struct Times(Vec<Duration>);

impl Times {
    fn row(&mut self, name: &str) {
        self.0.sort_unstable();
        let at = |share: f64| self.0.get(((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1)));
        let ms = |share| at(share).map_or(0.0, |it| it.as_secs_f64() * 1000.0);
        println!("{name:<44}{:>8}{:>9.1}{:>9.1}{:>9.1}", self.0.len(), ms(0.5), ms(0.99), ms(1.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, in release: make load"]
async fn ten_thousand_machines() {
    let begun = Instant::now();
    let scale = Scale { devices: 20, machines: 500, slots: 16 };
    let load = Load::new(&scale).await;
    println!("{} devices and their inventories: {:.1} s", scale.devices, begun.elapsed().as_secs_f64());
    let mut tasks = Vec::new();
    for (number, device) in load.devices.iter().enumerate() {
        tasks.push(load.task(&format!("Task {number:02}"), load.machines(*device).await).await);
    }
    let client = console(&load).await;
    let stop = CancellationToken::new();
    let pages = tokio::spawn(look_at_pages(client, stop.clone()));
    let leases = tokio::spawn(ask_for_leases(load.rig.db.database.clone(), stop.clone()));
    let statistics = tokio::spawn(keep_statistics(load.rig.db.database.clone(), stop.clone()));
    let begun = Instant::now();
    let now = load.rig.db.now().await.expect("the time");
    for task in &tasks {
        load.rig.db.set_next_due(*task, Some(now)).await.expect("due");
    }
    let mut lag = Times(Vec::new());
    for task in &tasks {
        let run = load.ended(*task).await;
        assert_eq!((run.state, run.kind), (JobState::Succeeded, RunKind::Backup));
        let late = run.created_at.duration_since(run.due_at.expect("by schedule"));
        lag.0.push(Duration::from_secs_f64(late.as_secs_f64().max(0.0)));
    }
    let (count, seconds) = (scale.devices * scale.machines, begun.elapsed().as_secs_f64());
    stop.cancel();
    statistics.await.expect("statistics");
    let (mut pages, mut leases) = (pages.await.expect("pages"), leases.await.expect("leases"));
    println!("{count} machines backed up in {seconds:.0} s: {:.1} a second", count as f64 / seconds);
    println!("{:<44}{:>8}{:>9}{:>9}{:>9}", "milliseconds", "count", "median", "p99", "most");
    lag.row("from due to started");
    leases.row("a look for the next job");
    for (path, times) in &mut pages {
        times.row(path);
    }
    println!("peak memory of server, workers and test: {}", peak_memory());
    assert_eq!(load.fleet.standing(), 0);
    let Start::Started { .. } = load.rig.db.start_run(tasks[0], "anna", None).await.expect("a run") else {
        panic!("a second run starts")
    };
}

/// As autovacuum would, which is off in the tests' cluster: plans made for empty tables are slow ones.
async fn keep_statistics(db: db::Database, stop: CancellationToken) {
    while !stop.is_cancelled() {
        db::testing::analyze(&db).await.expect("statistics");
        let _ = tokio::time::timeout(Duration::from_secs(15), stop.cancelled()).await;
    }
}

async fn look_at_pages(mut client: Client, stop: CancellationToken) -> Vec<(&'static str, Times)> {
    let mut times: Vec<(&str, Times)> = PAGES.map(|page| (page, Times(Vec::new()))).into();
    while !stop.is_cancelled() {
        for (path, times) in &mut times {
            let begun = Instant::now();
            let answer = client.get(path).await;
            times.0.push(begun.elapsed());
            assert_eq!(answer.status, 200, "{path}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    times
}

/// With no copy allowed the whole queue is looked through, and nothing is taken: the most that a look can cost.
async fn ask_for_leases(db: db::Database, stop: CancellationToken) -> Times {
    let mut times = Times(Vec::new());
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let job = db.lease_job("onlooker", &[JobKind::Backup], LeaseLimits { copies: 0 }).await.expect("a look");
        times.0.push(begun.elapsed());
        assert!(job.is_none());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    times
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).map_or_else(String::new, |it| it.trim().to_owned())
}
