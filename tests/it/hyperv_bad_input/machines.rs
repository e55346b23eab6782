//! Machines that are not what they were, or cannot be backed up, and hosts that are not what they should be.

use super::{Case, MIB, web};
use crate::rig::{Host as _, Rig, SimulatedHyperV, TaskSpec, hyperv_machine, stored};
use db::Transport;
use domain::finding::Severity;
use domain::job::{Disposition, JobKind, JobState};
use domain::point::PointKind;
use engine::HostAccess;
use simulators::hyperv::samba::Encryption;
use simulators::hyperv::{DiskKind, Files, HostConfig, MachineSpec};

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_machine_is_found_and_a_deleted_one_is_said() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    case.host.rename("web-01", "web-renamed").expect("rename");
    let job = case.run(JobState::Succeeded).await;
    assert!(case.rig.log(&job).await.contains("called “web-renamed” now"));
    assert_eq!(case.newest().await.machine_name, "web-renamed");
    case.host.destroy("web-renamed").expect("destroy");
    let job = case.run(JobState::Failed).await;
    assert_eq!(job.error.expect("an error").code, "vm.gone");
    assert_eq!(job.attempt, 1, "another try would not bring it back");
    assert_eq!(case.rig.points(case.vm).await.len(), 2, "its points stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_cannot_be_backed_up_are_refused_before_a_checkpoint_and_user_checkpoints_are_not() {
    let rig = Rig::start().await;
    let mut through = hyperv_machine("through", &[(8, 2), (8, 2)]);
    through.disks[1].kind = DiskKind::PassThrough;
    let mut shared = hyperv_machine("shared", &[(8, 2), (8, 2)]);
    shared.disks[1].kind = DiskKind::Shared;
    let mut kept = MachineSpec { name: "web-01".to_owned(), ..web() };
    kept.checkpoints = vec!["before the update".to_owned(), "after it".to_owned()];
    let host = SimulatedHyperV::start(rig.folder.path(), "HV-1", vec![through, shared, kept]).await;
    let device = rig.device(&host).await;
    let location = rig.location().await;
    for (name, code) in [("through", "vm.passthrough_disk"), ("shared", "vm.shared_disk")] {
        let vm = rig.vm(device, name).await;
        let row = rig.db.machine(vm).await.expect("a machine");
        assert!(row.findings.iter().any(|finding| finding.severity == Severity::Blocker), "{name}: {:?}", row.findings);
        let task = rig.task(location, TaskSpec { name, machines: &[vm], ..TaskSpec::default() }).await;
        let error = rig.run_one(task, JobState::Failed).await.error.expect("an error");
        assert_eq!(error.code, code, "{error}");
        assert!(error.what.contains(name) && error.why.contains("SCSI 0:1") && !error.hint.is_empty(), "{error}");
    }
    assert!(!host.requests().iter().any(|request| request.what == "CreateSnapshot"), "no checkpoint was made");

    let vm = rig.vm(device, "web-01").await;
    let task = rig.task(location, TaskSpec { machines: &[vm], ..TaskSpec::default() }).await;
    for kind in [PointKind::Full, PointKind::Incremental] {
        host.burst("web-01", MIB);
        rig.run_one(task, JobState::Succeeded).await;
        let point = rig.points(vm).await.remove(0);
        assert_eq!(point.kind, kind);
        assert_eq!(stored(&rig.repository().await, &point).await, host.digests("web-01"));
    }
    let left = host.machine("web-01").expect("the machine").snapshots;
    assert_eq!(left.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["before the update", "after it"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_be_reached_or_is_another_is_said_in_words() {
    let rig = Rig::start().await;
    for transport in [Transport::TlsNtlm, Transport::SealedHttp] {
        let name = if transport == Transport::TlsNtlm { "HV-1" } else { "HV-2" };
        let host = SimulatedHyperV::start(rig.folder.path(), name, vec![]).await.over(transport);
        let good = host.access();
        let refused = async |access: HostAccess| rig.engine.preflight(&access).await.expect_err("refused");
        let wrong = refused(HostAccess { password: "hunter2".into(), ..good.clone() }).await;
        assert_eq!((wrong.disposition, wrong.code.as_str()), (Disposition::Fail, "hyperv.login_refused"), "{wrong}");
        assert!(!format!("{wrong:?}").contains("hunter2"), "no password in an error: {wrong:?}");
        if transport == Transport::TlsNtlm {
            let other = refused(HostAccess { certificate_sha256: Some([7; 32]), ..good.clone() }).await;
            assert_eq!(other.code, "host.certificate_changed", "{other}");
        }
        let unknown = refused(HostAccess { host: "hv.invalid".to_owned(), ..good.clone() }).await;
        let closed = refused(HostAccess { port: 1, ..good }).await;
        assert_eq!((unknown.disposition, closed.disposition), (Disposition::Retry, Disposition::Retry));
        assert!(unknown.why.contains("hv.invalid") && closed.why.contains("127.0.0.1"), "{unknown} {closed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_goes_away_in_mid_copy_is_cleaned_up_when_it_is_back() {
    let case = Case::new().await;
    let run = case.run_into_silence(case.task).await;
    let access = case.host.access();
    let Case { rig, host, device, vm, .. } = case;
    let (tls, http) = (host.tls_address(), host.http_address());
    host.stop().await;
    let jobs = rig.finished(run).await;
    let error = jobs[0].error.clone().expect("an error");
    assert_eq!((jobs[0].state, jobs[0].attempt), (JobState::Failed, 3), "{error}");
    assert!(!rig.db.open_changes(device).await.expect("changes").is_empty(), "the checkpoint is still journalled");
    let state = rig.folder.path().join("hosts/HV-1");
    let files = Files::Served { port: Some(access.hyperv.share_port), encryption: Encryption::Offered };
    let config = HostConfig { listen_tls: tls, listen_http: http, files, ..HostConfig::new("HV-1", state) };
    let host = SimulatedHyperV::with(config).await;
    assert_eq!(host.machine("web-01").expect("the machine").snapshots.len(), 1, "left by the dead job");
    rig.db.enqueue_housekeeping(JobKind::Reconcile, device).await.expect("queued");
    rig.settled(device).await;
    host.assert_clean(&["web-01"]);
    assert!(rig.points(vm).await.is_empty());
}
