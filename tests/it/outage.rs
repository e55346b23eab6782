//! The database goes away in mid-run, for half a minute, and comes back as another process: nothing is lost.

use crate::rig::{Gate, Rig, Simulated, TaskSpec, machine};
use db::testing::OwnCluster;
use db::{CredentialKey, VmId};
use domain::job::JobState;
use simulators::esxi::{Action, On, Rule};
use std::path::Path;
use std::time::Duration;
use support::{Options, Server};

/// Less than a lease, more than a patient client waits.
const OUTAGE: Duration = Duration::from_secs(30);
const MACHINES: [&str; 4] = ["db-01", "db-02", "web-01", "web-02"];
/// So long a read of a disk is held up: the outage falls into the copy.
const STALL: Duration = Duration::from_secs(2);

fn url(folder: &Path) -> String {
    format!("postgres://stillframe@{}/postgres", folder.display().to_string().replace('/', "%2F"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_outlives_half_a_minute_without_its_database() {
    let data = tempfile::tempdir().expect("a folder");
    let data_dir = data.path().join("data");
    std::fs::create_dir_all(&data_dir).expect("a folder");
    let key = CredentialKey::load_or_create(&data_dir).expect("a key");
    let (mut cluster, database) = OwnCluster::start(key).await;
    let (behind, name) = cluster.socket();
    let before = data.path().join("gate");
    let mut gate = Gate::new(&before, &behind, name);
    let rig = Rig::beside_database(&data_dir, database).await;
    let options = Options { data_dir, database_url: Some(url(&before)), ..Options::default() };
    let _server = tokio::task::spawn_blocking(move || Server::start(&options)).await.expect("the server starts");

    let machines = MACHINES.iter().map(|name| machine(name, &[(48, 48)])).collect();
    let host = Simulated::quiet(rig.folder.path(), "esx-1", machines).await;
    let device = rig.device(&host).await;
    let location = rig.location().await;
    let mut vms: Vec<VmId> = Vec::new();
    for name in MACHINES {
        vms.push(rig.vm(device, name).await);
    }
    let task = rig.task(location, TaskSpec { machines: &vms, ..TaskSpec::default() }).await;
    // Each of the first reads takes its time, so that the outage falls into copies, commits and what follows.
    let slow = host.faults().add(Rule::always(On::path("-flat.vmdk"), Action::Stall(STALL)).times(12));
    let run = rig.start_run(task).await;
    rig.wait("a copy", async || (host.faults().hits(slow) > 0).then_some(())).await;

    gate.cut().await;
    tokio::join!(tokio::time::sleep(OUTAGE), cluster.restart());
    gate.open();
    // The rig's own connections ended with the first process; its next look makes new ones.
    let jobs = rig.finished_within(run, Duration::from_secs(240)).await;
    for job in &jobs {
        let log = rig.log(job).await;
        assert!(matches!(job.state, JobState::Succeeded | JobState::Warning), "{}: {:?}\n{log}", job.title, job.error);
    }
    let listed = rig.repository().await.points().await.expect("points");
    assert!(listed.damaged.is_empty(), "{:?}", listed.damaged);
    assert_eq!(listed.points.len(), MACHINES.len(), "each once");
    for vm in vms {
        assert_eq!(rig.points(vm).await.len(), 1);
    }
    rig.settled(device).await;
    rig.wait("a clean host", async || host.is_clean().then_some(())).await;
}
