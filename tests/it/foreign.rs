//! Snapshots that other programs left: shown once they are a day old, removed by a click and by nothing else.

use crate::rig::{Host as _, Rig, Simulated, SimulatedHyperV, hyperv_machine, machine};
use db::views::{self, ForeignLine};
use db::{CleanupOrder, Job, NewJob, VmId};
use domain::job::{JobKind, JobState};
use hypervisor::{MachineRef, OWN_SNAPSHOT_PREFIX};
use simulators::esxi::{Action, On, Rule};
use std::time::Duration;

const OLD: Duration = Duration::from_secs(30 * 3600);
const YOUNG: Duration = Duration::from_secs(20 * 3600);
const VEEAM: &str = "VEEAM BACKUP TEMPORARY SNAPSHOT";

async fn listed(rig: &Rig) -> Vec<ForeignLine> {
    views::foreign_lines(&rig.db).await.expect("lines")
}

async fn names(rig: &Rig) -> Vec<String> {
    listed(rig).await.into_iter().map(|line| line.name).collect()
}

/// The click: asks for the removal of the first that is listed, and waits for its end.
async fn remove_first(rig: &Rig) -> Job {
    let line = listed(rig).await.into_iter().next().expect("a line");
    let snapshot = rig.db.foreign_snapshot(line.foreign_id).await.expect("a snapshot");
    let run = rig.db.start_cleanup(&snapshot, "tester").await.expect("a run");
    rig.finished(run).await.into_iter().next().expect("a job")
}

/// A removal that no page offers: of whatever snapshot.
async fn order(rig: &Rig, vm_id: VmId, order: &CleanupOrder) -> Job {
    let vm = rig.db.machine(vm_id).await.expect("a machine");
    let job = NewJob {
        vm_id: Some(vm_id),
        device_id: Some(vm.device_id),
        payload: serde_json::to_value(order).expect("an order"),
        ..NewJob::new(JobKind::Cleanup, &vm.name, format!("vm:{vm_id}"))
    };
    let job_id = rig.db.enqueue(&job).await.expect("queued").expect("a job");
    rig.wait("the removal", async || {
        let job = rig.db.job(job_id).await.expect("a job");
        job.state.is_final().then_some(job)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_another_program_left_on_esxi_goes_by_a_click_and_a_users_does_not() {
    let rig = Rig::start().await;
    let machines = vec![machine("web-01", &[(8, 2)]), machine("db-01", &[(8, 2)])];
    let host = Simulated::start(rig.folder.path(), "esx-1", machines).await;
    let other_server = format!("{OWN_SNAPSHOT_PREFIX}7-{}", "0a".repeat(16));
    host.leave_snapshot("web-01", "before the update", OLD).expect("a user's");
    host.leave_snapshot("web-01", VEEAM, OLD).expect("another program's");
    host.leave_snapshot("db-01", VEEAM, YOUNG).expect("one that may be at work");
    host.leave_snapshot("db-01", &other_server, OLD).expect("another server's");
    let device = rig.device(&host).await;
    let mut found = names(&rig).await;
    found.sort();
    assert_eq!(found, [VEEAM, other_server.as_str()]);
    let sum = views::left_behind(&rig.db).await.expect("figures");
    assert_eq!((sum.changes, sum.foreign), (0, 2), "ours is one figure, theirs another");

    // The host forgets to merge the first, and is asked for it.
    host.faults().add(Rule::once(On::method("RemoveSnapshot_Task"), Action::ConsolidationNeeded));
    while !listed(&rig).await.is_empty() {
        let job = remove_first(&rig).await;
        let log = rig.log(&job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}\n{log}", job.error);
        assert!(log.contains("was removed and the disks are merged"), "{log}");
    }
    let web = host.machine("web-01").expect("the machine");
    assert_eq!(web.snapshots.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["before the update"]);
    assert!(!web.consolidation_needed);
    let db = host.machine("db-01").expect("the machine");
    assert!(!db.consolidation_needed);
    assert_eq!(db.snapshots.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), [VEEAM], "the young one stays");
    rig.settled(device).await;

    // No page offers these, and the job refuses them all the same.
    let vm = rig.vm(device, "web-01").await;
    let users = standing(&rig, &host.access(), vm).await;
    let job = order(&rig, vm, &users).await;
    assert_eq!(job.error.expect("an error").code, "vm.snapshot_not_foreign");
    let vm = rig.vm(device, "db-01").await;
    let young = standing(&rig, &host.access(), vm).await;
    let job = order(&rig, vm, &young).await;
    assert_eq!(job.error.expect("an error").code, "vm.snapshot_not_foreign");
    assert_eq!(host.machine("web-01").expect("the machine").snapshots.len(), 1);
    assert_eq!(host.machine("db-01").expect("the machine").snapshots.len(), 1);
}

/// The first snapshot of a machine, as the host lists it.
async fn standing(rig: &Rig, access: &engine::HostAccess, vm: VmId) -> CleanupOrder {
    let target = engine::ConnectTarget {
        platform: access.platform,
        host: access.host.clone(),
        port: access.port,
        account: access.account.clone(),
        password: access.password.clone(),
        certificate_sha256: access.certificate_sha256,
        hyperv: access.hyperv,
        full_reads: db::FullReads::default(),
    };
    let host = engine::Connector::connect(&crate::rig::QuickConnector, &target).await.expect("a session");
    let reference = MachineRef(rig.db.machine(vm).await.expect("a machine").reference);
    let first = host.list_snapshots(&reference).await.expect("snapshots").into_iter().next().expect("one");
    host.close().await;
    CleanupOrder { reference: first.reference.0, name: first.name, created_at: first.created_at.expect("a moment") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_renamed_since_it_was_listed_stays_and_one_that_is_gone_is_told() {
    let rig = Rig::start().await;
    let host = Simulated::start(rig.folder.path(), "esx-1", vec![machine("web-01", &[(8, 2)])]).await;
    host.leave_snapshot("web-01", VEEAM, OLD).expect("another program's");
    let device = rig.device(&host).await;
    host.rename_snapshot("web-01", VEEAM, "mine now").expect("renamed");
    let job = remove_first(&rig).await;
    let error = job.error.expect("an error");
    assert_eq!((job.state, error.code.as_str()), (JobState::Failed, "vm.snapshot_changed"));
    assert!(error.why.contains("mine now") && error.what.contains("web-01 on esx-1"), "{error}");
    assert_eq!(host.machine("web-01").expect("the machine").snapshots.len(), 1);

    rig.sync(device).await;
    assert!(names(&rig).await.is_empty(), "a user's name is no suspicion");
    host.rename_snapshot("web-01", "mine now", VEEAM).expect("renamed");
    rig.sync(device).await;
    host.destroy("web-01").expect("gone");
    let job = remove_first(&rig).await;
    let log = rig.log(&job).await;
    assert!(job.state == JobState::Succeeded && log.contains("is gone already"), "{:?}\n{log}", job.error);
    assert!(names(&rig).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_whose_worker_is_lost_is_finished_by_the_next() {
    let rig = Rig::start().await;
    let host = Simulated::start(rig.folder.path(), "esx-1", vec![machine("web-01", &[(8, 2)])]).await;
    host.leave_snapshot("web-01", VEEAM, OLD).expect("another program's");
    let device = rig.device(&host).await;
    let line = listed(&rig).await.into_iter().next().expect("a line");
    let snapshot = rig.db.foreign_snapshot(line.foreign_id).await.expect("a snapshot");
    let slow = Action::TaskSlow(Duration::from_secs(3));
    host.faults().add(Rule::once(On::method("RemoveSnapshot_Task"), slow));
    let run = rig.db.start_cleanup(&snapshot, "tester").await.expect("a run");
    rig.wait("the removal to begin", async || {
        let open = rig.db.open_changes(device).await.expect("changes");
        open.iter().any(|change| change.object_ref.is_some()).then_some(())
    })
    .await;
    rig.take_lease(run).await;
    let job = rig.finished(run).await.into_iter().next().expect("a job");
    assert_eq!((job.state, job.attempt), (JobState::Succeeded, 2), "{:?}\n{}", job.error, rig.log(&job).await);
    assert!(names(&rig).await.is_empty());
    rig.settled(device).await;
    host.assert_clean(&["web-01"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_checkpoint_that_another_program_left_on_hyperv_goes_by_a_click() {
    let rig = Rig::start().await;
    let host = SimulatedHyperV::start(rig.folder.path(), "HV-1", vec![hyperv_machine("web-01", &[(8, 2)])]).await;
    let theirs = "web-01 - Backup - (11/29/2026 - 1:00:00 AM)";
    host.leave_checkpoint("web-01", "before the update", false, OLD).expect("a user's");
    host.leave_checkpoint("web-01", theirs, true, OLD).expect("another program's");
    let device = rig.device(&host).await;
    assert_eq!(names(&rig).await, [theirs]);
    let job = remove_first(&rig).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}\n{}", job.error, rig.log(&job).await);
    let left = host.machine("web-01").expect("the machine").snapshots;
    assert_eq!(left.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["before the update"]);
    assert!(names(&rig).await.is_empty());

    let vm = rig.vm(device, "web-01").await;
    let users = standing(&rig, &host.access(), vm).await;
    let job = order(&rig, vm, &users).await;
    assert_eq!(job.error.expect("an error").code, "vm.snapshot_not_foreign");
    assert_eq!(host.machine("web-01").expect("the machine").snapshots.len(), 1);
    rig.settled(device).await;
}
