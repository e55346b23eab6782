//! What a host says wrongly, or not at all, while a machine is backed up.

use super::{Case, MIB, job_fails};
use domain::job::JobState;
use domain::point::PointKind;
use simulators::hyperv::{Action, On, Rule};

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_pass_are_mended_within_the_job() {
    let case = Case::new().await;
    let control = |name: &str| On::method(name);
    let rules = [
        Rule::once(control("Enumerate"), Action::Drop).after(20),
        Rule::once(control("Enumerate"), Action::Status(500)).after(20),
        Rule::once(control("Enumerate"), Action::Truncate(300)).after(20),
        Rule::once(control("Enumerate"), Action::Expired).after(20),
        Rule::once(control("ModifySystemSettings"), Action::DropAfter),
        Rule::once(control("ConvertToReferencePoint"), Action::DropAfter),
    ];
    let count = rules.len();
    for rule in rules {
        let action = rule.action.clone();
        let id = case.host.faults().add(rule);
        case.burst();
        let job = case.run(JobState::Succeeded).await;
        assert_eq!((job.attempt, case.host.faults().hits(id)), (1, 1), "{action:?} is mended without another attempt");
        case.newest_is_right(&job).await;
        case.host.faults().clear();
    }
    case.clean(count).await;
    let run = case.run_into_silence(case.task).await;
    tokio::task::block_in_place(|| case.host.cut_files()).expect("served again");
    let job = case.rig.finished(run).await.remove(0);
    assert_eq!((job.state, job.attempt), (JobState::Succeeded, 1), "{:?}", job.error);
    case.newest_is_right(&job).await;
    case.clean(count + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_stay_end_in_a_clear_error() {
    let case = Case::new().await;
    let settings = || On::path("SELECT * FROM Msvm_StorageAllocationSettingData");
    let cases = [
        (Rule::always(settings(), Action::Drop), "host.interrupted"),
        (Rule::always(settings(), Action::Status(500)), "hyperv.http_error"),
        (Rule::always(On::method("CreateSnapshot"), job_fails()), "hyperv.failed"),
        (Rule::always(On::method("CreateSnapshot"), Action::Returns(32775)), "hyperv.invalid_state"),
        (Rule::always(On::method("GetVirtualHardDiskSettingData"), Action::Returns(32779)), "vm.missing_disk"),
    ];
    for (rule, code) in cases {
        let action = rule.action.clone();
        case.host.faults().add(rule);
        let error = case.failed_cleanly(code, 0).await;
        assert!(error.why.len() > 10, "{action:?}: {error}");
        case.host.faults().clear();
    }
    case.run(JobState::Succeeded).await;
    case.host.stop_files();
    let error = case.failed_cleanly("hyperv.smb_unreachable", 1).await;
    assert!(error.hint.contains("445"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversion_that_fails_leaves_a_whole_point_and_the_next_one_is_a_full_with_the_cause() {
    for (action, cause) in [(job_fails(), "no room for it"), (Action::NoTracking, "gave no tracking ids")] {
        let case = Case::new().await;
        case.host.faults().add(Rule::once(On::method("ConvertToReferencePoint"), action.clone()));
        let job = case.run(JobState::Warning).await;
        let log = case.rig.log(&job).await;
        assert!(log.contains("warning The next backup will read ") && log.contains(cause), "{action:?}: {log}");
        case.newest_is_right(&job).await;
        assert_eq!(case.reference_points(), 0, "{action:?}");
        let job = case.run(JobState::Warning).await;
        let log = case.rig.log(&job).await;
        assert!(log.contains("because the point before holds no change mark of this disk"), "{log}");
        assert_eq!(case.newest().await.kind, PointKind::Full);
        case.newest_is_right(&job).await;
        case.burst();
        let job = case.run(JobState::Succeeded).await;
        assert_eq!(case.newest().await.kind, PointKind::Incremental, "{}", case.rig.log(&job).await);
        case.newest_is_right(&job).await;
        case.clean(3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn areas_that_cannot_be_true_are_refused() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    case.burst();
    for action in [Action::OverlappingAreas, Action::AreaPastAnswer, Action::ShortChanges(0)] {
        case.host.faults().add(Rule::always(On::method("GetVirtualDiskChanges"), action));
        case.failed_cleanly("hyperv.areas_invalid", 1).await;
        case.host.faults().clear();
    }
    case.host.faults().add(Rule::always(On::method("GetVirtualDiskChanges"), Action::ShortChanges(MIB)));
    let job = case.run(JobState::Succeeded).await;
    assert_eq!(case.newest().await.kind, PointKind::Incremental);
    case.newest_is_right(&job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_tracking_and_a_grown_disk_lead_to_a_full_with_a_warning() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    let refuse = || Rule::always(On::method("GetVirtualDiskChanges"), Action::RefuseTracking);
    for change in ["refused", "foreign", "swapped", "grown"] {
        match change {
            "refused" => drop(case.host.faults().add(refuse())),
            "grown" => {
                let disk = case.host.machine("web-01").expect("the machine").disks[0].id;
                case.host.store().grow(disk, 40 * MIB).expect("grown");
            }
            _ => {
                let action = if change == "foreign" { Action::ForeignTracking } else { Action::SwappedTracking };
                case.host.faults().add(Rule::once(On::method("ConvertToReferencePoint"), action));
                case.run(JobState::Succeeded).await;
            }
        }
        case.burst();
        // A machine of one disk has no other's id to be given.
        let expected = if change == "swapped" { JobState::Succeeded } else { JobState::Warning };
        let job = case.run(expected).await;
        let log = case.rig.log(&job).await;
        let told = log.contains("warning Disk 1 (SCSI 0:0): reading all of it instead of what changed, because");
        assert_eq!(told, change != "swapped", "{change}: {log}");
        case.newest_is_right(&job).await;
        case.host.faults().clear();
        let job = case.run(JobState::Succeeded).await;
        assert_eq!(case.newest().await.kind, PointKind::Incremental, "{}", case.rig.log(&job).await);
    }
    let points = case.rig.points(case.vm).await.len();
    case.clean(points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_without_an_answer_is_told_and_not_touched() {
    let case = Case::new().await;
    // The host keeps names to itself, and the answer is lost each time.
    case.host.faults().add(Rule::once(On::method("CreateSnapshot"), Action::DropAfter));
    let job = case.run(JobState::Succeeded).await;
    assert_eq!(job.attempt, 2, "{}", case.rig.log(&job).await);
    case.newest_is_right(&job).await;
    case.rig.settled(case.device).await;
    let left = case.host.machine("web-01").expect("the machine").snapshots;
    assert!(left.len() == 1 && !left[0].name.starts_with("stillframe-"), "{left:?}");
    case.rig.sync(case.device).await;
    let row = case.rig.db.machine(case.vm).await.expect("a machine");
    let told = row.findings.iter().find(|finding| finding.code == hypervisor::FOREIGN_CHECKPOINT);
    assert!(told.is_some_and(|told| told.message.contains(&left[0].name)), "{:?}", row.findings);
}
