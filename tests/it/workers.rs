//! Workers beside a server: how one comes in, as an administrator does it; and a run over both platforms while the server
//! and a worker are killed.

use crate::rig::{Rig, Simulated, SimulatedHyperV, TaskSpec, hyperv_machine, machine};
use db::testing::OwnCluster;
use db::{Address, CredentialKey, Database, DeviceId, Enrolment, Job, Reach, RunId, VmId, views};
use domain::job::JobState;
use repository::{NoProgress, VerifyOptions};
use secrecy::SecretString;
use std::collections::HashSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use support::{Client, Options, Server, Worker, stillframe};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const PASSWORD: &str = "correct horse battery";
/// Of each platform.
const MACHINES: usize = 20;
/// Two leases that have to run out, two pauses, and the work.
const RUN_SECONDS_MAX: u64 = 480;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}

/// What is typed on the worker's machine, as the page shows it, without the program's name.
fn typed(page: &str) -> Vec<String> {
    let command = page.split(r#"<code class="hash wrap-any">"#).nth(1).and_then(|rest| rest.split('<').next());
    let words: Vec<String> = command.unwrap_or_default().split(' ').map(str::to_owned).collect();
    assert_eq!(words[..2], ["stillframe", "worker"], "{page}");
    words[2..].to_vec()
}

async fn start_worker(data: &Path, arguments: &[&str]) -> Worker {
    let (data, arguments): (_, Vec<String>) = (data.to_owned(), arguments.iter().map(ToString::to_string).collect());
    on_a_thread(move || Worker::start(&data, &arguments.iter().map(String::as_str).collect::<Vec<_>>())).await
}

async fn joined(kept: &Enrolment) -> db::Result<Database> {
    let key = CredentialKey::import(&kept.credential_key).expect("a key");
    Database::join(&Address::of_worker(kept), key).await
}

/// A certificate that is not the database's.
fn other_certificate(folder: &Path) -> String {
    let (key, certificate) = (folder.join("other.key"), folder.join("other.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=other", "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl runs");
    assert!(made.status.success());
    std::fs::read_to_string(certificate).expect("a certificate")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_comes_in_by_its_token_and_goes_when_it_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let arguments = vec!["--workers-listen".to_owned(), format!("127.0.0.1:{port}")];
    let options = Options { data_dir: folder.path().join("data"), arguments, ..Options::default() };
    let server = on_a_thread(move || Server::start(&options)).await;
    let mut admin = Client::new(&server.address);
    admin.set_up(server.setup_token.as_deref().expect("a token"), "admin", PASSWORD).await;
    let command = typed(&admin.submit("/workers", "/workers", &[]).await.body);
    assert_eq!(command[..2], ["--server".to_owned(), server.address.clone()]);
    let enrol: Vec<&str> = command.iter().map(String::as_str).collect();

    let data = folder.path().join("worker");
    let first = start_worker(&data, &[&enrol[..], &["--name", "b-1", "--tags", "site-b"]].concat()).await;
    let page = admin.get("/workers").await.body;
    assert!(page.contains("b-1") && page.contains("site-b"), "{page}");
    let again: Vec<String> = [&enrol[..], &["--name", "b-2"]].concat().iter().map(ToString::to_string).collect();
    let elsewhere = folder.path().join("elsewhere");
    let (status, said) =
        on_a_thread(move || Worker::refused(&elsewhere, &again.iter().map(String::as_str).collect::<Vec<_>>())).await;
    assert!(!status.success() && said.contains("the token is not valid"), "{said}");

    // The second start needs no token: what it kept is an account of its own.
    first.kill();
    let second = start_worker(&data, &["--tags", "site-b"]).await;
    let kept = std::fs::read_to_string(data.join("enrolment.json")).expect("kept");
    let kept = Enrolment::from_json(&kept).expect("an enrolment");
    only_what_jobs_need(&kept, port, folder.path()).await;

    let (made, place) = add_location(&data, folder.path()).await;
    assert!(made.contains("recovery key"), "{made}");
    let database = joined(&kept).await.expect("the account works");
    let location = database.repositories().await.expect("locations").remove(0);
    assert_eq!((location.name.as_str(), location.path.as_str()), ("Site B", place.as_str()));
    let worker = views::workers(&database).await.expect("workers");
    let worker = worker.iter().find(|line| line.name == "b-1").expect("the worker").worker_id;
    assert_eq!(database.repository_seen_by(location.repository_id).await.expect("who"), [worker], "it alone sees it");

    let gone = admin.submit("/workers", &format!("/workers/{worker}/remove"), &[]).await;
    assert_eq!(gone.status, 303, "{}", gone.body);
    let ended = on_a_thread(move || second.ended()).await;
    assert!(!ended.success(), "it does not go on as if nothing were");
    assert!(joined(&kept).await.is_err(), "its account is gone");
}

/// A repository in a folder of the worker's machine, made while the worker is at work: what was said, and the folder.
async fn add_location(data: &Path, folder: &Path) -> (String, String) {
    let place = folder.canonicalize().expect("a folder").join("of-site-b").display().to_string();
    let mut command = Command::new(stillframe());
    command.args(["worker", "add-location", "--name", "Site B", "--path", &place, "--data-dir"]).arg(data);
    command.env("STILLFRAME_PASSPHRASE", "correct horse battery staple");
    let output = on_a_thread(move || command.output().expect("it runs")).await;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    (said, place)
}

async fn only_what_jobs_need(kept: &Enrolment, port: u16, folder: &Path) {
    assert_eq!((kept.reach.port, kept.reach.ssl_mode.as_str()), (port, "verify-ca"));
    let database = joined(kept).await.expect("the account works");
    assert!(database.devices().await.expect("devices").is_empty());
    assert!(database.accounts().await.is_err(), "accounts of the console are closed to workers");
    let with = |change: &dyn Fn(&mut Enrolment)| {
        let mut changed = kept.clone();
        change(&mut changed);
        changed
    };
    let wrong = [
        with(&|it| it.password = SecretString::from("wrong")),
        with(&|it| "stillframe".clone_into(&mut it.account)),
        // Never without TLS, and never with another certificate.
        with(&|it| "disable".clone_into(&mut it.reach.ssl_mode)),
        with(&|it| it.reach.certificate = Some(other_certificate(folder))),
    ];
    for (number, wrong) in wrong.iter().enumerate() {
        assert!(joined(wrong).await.is_err(), "{number}");
    }
}

/// A server and two workers on one database and one folder, and machines on both platforms.
struct Site {
    rig: Rig,
    server: Option<Server>,
    options: Options,
    workers: Vec<Worker>,
    esxi: Simulated,
    hyperv: SimulatedHyperV,
    devices: [DeviceId; 2],
    machines: Vec<VmId>,
    run: RunId,
    _cluster: OwnCluster,
    _data: TempDir,
}

/// The tests' Postgres lets in by its socket whoever owns it. What a worker's own account may do is the other test's matter.
async fn worker_beside(rig: &Rig, folder: &Path, number: u8) -> Worker {
    let name = format!("worker-{number}");
    rig.db.issue_worker_token([number; 32], None, "tester").await.expect("a token");
    let reach = Reach::of_url(&SecretString::from(rig.db.url())).expect("a place");
    let given = rig.db.enrol_worker([number; 32], &name, reach).await.expect("enrolled");
    let given = Enrolment { account: "stillframe".to_owned(), ..given };
    let data = folder.join(name);
    std::fs::create_dir_all(&data).expect("a folder");
    std::fs::write(data.join("enrolment.json"), given.to_json().as_bytes()).expect("written");
    start_worker(&data, &[]).await
}

impl Site {
    async fn new() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let data_dir = data.path().join("data");
        std::fs::create_dir_all(&data_dir).expect("a folder");
        let key = CredentialKey::load_or_create(&data_dir).expect("a key");
        let (cluster, database) = OwnCluster::start(key).await;
        let rig = Rig::beside_database(&data_dir, database).await;
        let options = Options { data_dir, database_url: Some(rig.db.url()), ..Options::default() };
        let server = {
            let options = options.clone();
            on_a_thread(move || Server::start(&options)).await
        };
        let workers = vec![worker_beside(&rig, data.path(), 1).await, worker_beside(&rig, data.path(), 2).await];
        let names: Vec<String> = (0..MACHINES).map(|number| format!("vm-{number:02}")).collect();
        let esxi = names.iter().map(|name| machine(name, &[(8, 4)])).collect();
        let esxi = Simulated::quiet(rig.folder.path(), "esx-1", esxi).await;
        let hyperv = names.iter().map(|name| hyperv_machine(name, &[(8, 4)])).collect();
        let hyperv = SimulatedHyperV::with(simulators::hyperv::HostConfig {
            machines: hyperv,
            names_checkpoints: true,
            ..simulators::hyperv::HostConfig::new("HV-1", rig.folder.path().join("HV-1"))
        })
        .await;
        let devices = [rig.device(&esxi).await, rig.device(&hyperv).await];
        let location = rig.location().await;
        let all = views::workers(&rig.db).await.expect("workers");
        let all: Vec<_> = all.iter().map(|line| line.worker_id).collect();
        rig.db.set_repository_seen_by(location, &all).await.expect("seen by all");
        let mut machines = Vec::new();
        for device in devices {
            machines.extend(rig.db.machines_of_device(device).await.expect("machines").iter().map(|it| it.vm_id));
        }
        let task = rig.task(location, TaskSpec { machines: &machines, ..TaskSpec::default() }).await;
        let run = rig.start_run(task).await;
        let server = Some(server);
        Self { rig, server, options, workers, esxi, hyperv, devices, machines, run, _cluster: cluster, _data: data }
    }

    async fn jobs(&self) -> Vec<Job> {
        self.rig.db.jobs_of_run(self.run).await.expect("jobs")
    }

    /// Waits until so many machines are through, and the worker of that name has one in hand.
    async fn until(&self, done: usize, at_work: &str) {
        self.look(async |jobs| {
            let through = jobs.iter().filter(|job| job.state.is_final()).count() >= done;
            let busy = jobs.iter().any(|job| {
                job.state == JobState::Running && job.leased_by.as_deref().is_some_and(|by| by.starts_with(at_work))
            });
            (through && busy).then_some(())
        })
        .await;
    }

    async fn look<T>(&self, found: impl AsyncFn(&[Job]) -> Option<T>) -> T {
        let looked = tokio::time::timeout(Duration::from_secs(RUN_SECONDS_MAX), async {
            loop {
                if let Some(found) = found(&self.jobs().await).await {
                    return found;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
        match looked.await {
            Ok(found) => found,
            Err(tokio::time::error::Elapsed { .. }) => panic!("it did not happen in time: {:#?}", self.states().await),
        }
    }

    async fn states(&self) -> Vec<String> {
        let jobs = self.jobs().await;
        jobs.iter().map(|job| format!("{} {:?} {:?} {}", job.title, job.state, job.leased_by, job.attempt)).collect()
    }

    fn is_clean(&self) -> bool {
        let hyperv = self.hyperv.machines().iter().all(|view| view.snapshots.is_empty());
        self.esxi.is_clean() && hyperv
    }
}

/// After how many machines the worker is killed, and the server, and the server starts again. `KILL_SEED` picks others.
#[allow(clippy::disallowed_methods)] // a seed of a test, by hand
fn moments() -> [usize; 3] {
    let seed: u64 = std::env::var("KILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = fastrand::Rng::with_seed(seed);
    let worker = random.usize(0..12);
    let server = worker + random.usize(0..12);
    let moments = [worker, server, server + random.usize(0..8)];
    println!("KILL_SEED={seed}: {moments:?}");
    moments
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_machines_come_through_the_death_of_a_worker_and_of_the_server() {
    let moments = moments();
    let mut site = Site::new().await;
    site.until(moments[0], "worker-2/").await;
    site.workers.pop().expect("two").kill();
    site.until(moments[1], site.server_name().await.as_str()).await;
    site.server.take().expect("it runs").kill();
    site.until(moments[2], "worker-1/").await;
    let options = site.options.clone();
    site.server = Some(on_a_thread(move || Server::start(&options)).await);
    site.look(async |jobs| jobs.iter().all(|job| job.state.is_final()).then_some(())).await;

    let jobs = site.jobs().await;
    assert_eq!(jobs.len(), 2 * MACHINES);
    let by: HashSet<String> = jobs.iter().filter_map(|job| job.leased_by.clone()).collect();
    for job in &jobs {
        let log = site.rig.log(job).await;
        assert!(matches!(job.state, JobState::Succeeded | JobState::Warning), "{}: {:?}\n{log}", job.title, job.error);
    }
    assert!(jobs.iter().any(|job| job.attempt > 1), "somebody died at work: {by:?}");
    let repository = site.rig.repository().await;
    let listed = repository.points().await.expect("points");
    assert!(listed.damaged.is_empty(), "{:?}", listed.damaged);
    assert_eq!(listed.points.len(), 2 * MACHINES, "no machine was backed up twice");
    for vm in &site.machines {
        assert_eq!(site.rig.points(*vm).await.len(), 1);
    }
    for device in site.devices {
        site.rig.settled(device).await;
    }
    site.rig.wait("clean hosts", async || site.is_clean().then_some(())).await;
    let options = VerifyOptions { read_only: true, ..VerifyOptions::default() };
    let report = repository.verify(options, Arc::new(NoProgress), &CancellationToken::new()).await;
    let report = report.expect("a verification");
    assert!(report.damage.is_empty(), "{report:?}");
}

impl Site {
    /// The server's own name among the workers, before the slash.
    async fn server_name(&self) -> String {
        let all = views::workers(&self.rig.db).await.expect("workers");
        let server = all.iter().find(|line| line.kind == db::WorkerKind::Server);
        format!("{}/", server.expect("the server").name)
    }
}
