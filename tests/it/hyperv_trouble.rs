//! The Hyper-V driver against a host that misbehaves: jobs that fail or never end, answers that are lost, files that go
//! away, tracking that lies. Each case is mended or ends in a clear error, leaves nothing of ours on the host, and
//! touches nothing of another backup.

use crate::hyperv_lab::{Lab, MIB, SECOND, digest, read_into, request, web};
use domain::Extent;
use domain::point::{ChangeMark, Consistency};
use futures_util::StreamExt as _;
use hypervisor::hyperv::{HyperVHost, Transport};
use hypervisor::{Areas, ErrorKind, HostError, Hypervisor, MachineRef, ShutDown, Snapshot};
use simulators::hyperv::{Action, Content, DiskSpec, MachineSpec, On, Quirks, Rule, Shutdown};
use std::time::{Duration, Instant};

/// A name as other programs' backups give it.
const FOREIGN: &str = "VG_Recovery_1";

fn method(name: &str) -> On {
    On::method(name)
}

fn job_fails() -> Action {
    Action::JobFails { code: 32768, description: "The writer of the guest is in a failed state.".to_owned() }
}

async fn snapshot(host: &HyperVHost, machine: &MachineRef) -> Snapshot {
    host.create_snapshot(machine, &request("t")).await.expect("a checkpoint")
}

async fn no_snapshot(host: &HyperVHost, machine: &MachineRef) -> HostError {
    host.create_snapshot(machine, &request("t")).await.expect_err("no checkpoint")
}

fn names(lab: &Lab) -> Vec<String> {
    lab.machine("web").snapshots.into_iter().map(|snapshot| snapshot.name).collect()
}

/// Waits for what another task does.
async fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    let found = tokio::time::timeout(30 * SECOND, async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what} did not happen in time"));
}

#[tokio::test]
async fn a_checkpoint_job_that_fails_is_said_and_one_without_the_guest_is_tried() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    lab.host.faults().add(Rule::once(method("CreateSnapshot"), job_fails()));
    let made = snapshot(&host, &web).await;
    assert_eq!(made.consistency, Consistency::Crash);
    assert!(made.warnings[0].contains("in a failed state"), "{:?}", made.warnings);
    host.remove_snapshot(&web, &made.reference).await.expect("removed");

    lab.host.faults().add(Rule::always(method("CreateSnapshot"), job_fails()));
    let error = no_snapshot(&host, &web).await;
    assert_eq!((error.kind, error.code), (ErrorKind::Refused, "hyperv.failed"), "{error}");
    assert!(error.reason.contains("The job failed: The writer of the guest is in a failed state. (32768)"), "{error}");
    assert!(error.attempt.contains("stillframe-t") && error.attempt.contains(&web.0) && !error.hint.is_empty());
    lab.assert_clean("web");
}

#[tokio::test]
async fn a_checkpoint_job_that_never_ends_is_given_up_in_time_and_named() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect_with(|t| (t.create_snapshot, t.settle) = (SECOND / 2, SECOND / 2)).await;
    lab.host.faults().add(Rule::always(method("CreateSnapshot"), Action::JobNeverEnds));
    let start = Instant::now();
    let error = no_snapshot(&host, &lab.reference("web")).await;
    assert_eq!((error.kind, error.code), (ErrorKind::Timeout, "hyperv.job_timeout"), "{error}");
    assert!(error.reason.contains("the host's job for CreateSnapshot (") && !error.hint.is_empty(), "{error}");
    assert!(start.elapsed() < 20 * SECOND, "{:?}", start.elapsed());
    lab.assert_clean("web");
}

#[tokio::test]
async fn what_a_job_that_hangs_has_made_is_found_by_the_job_or_the_name_and_removed() {
    for names_checkpoints in [false, true] {
        let lab = Lab::with_config(vec![web()], |config| config.names_checkpoints = names_checkpoints).await;
        let host = lab.connect_with(|t| t.create_snapshot = SECOND).await;
        lab.host.faults().add(Rule::once(method("CreateSnapshot"), Action::JobHangs));
        let web = lab.reference("web");
        let others = async {
            wait_until("the checkpoint", || names(&lab).len() == 1).await;
            lab.host.make_foreign_checkpoint("web", FOREIGN).expect("another backup's");
        };
        let (error, ()) = tokio::join!(no_snapshot(&host, &web), others);
        assert_eq!(error.code, "hyperv.job_timeout", "{error}");
        assert_eq!(names(&lab), [FOREIGN], "ours is gone, another backup's stays");
        assert!(!lab.host.is_busy("web"));
    }
}

#[tokio::test]
async fn of_two_checkpoints_that_came_at_once_the_jobs_own_is_taken() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    lab.host.faults().add(Rule::once(method("CreateSnapshot"), Action::JobSlow(SECOND / 2)));
    let web = lab.reference("web");
    let others = async {
        wait_until("the job", || lab.host.is_busy("web")).await;
        lab.host.make_foreign_checkpoint("web", FOREIGN).expect("another backup's");
    };
    let (made, ()) = tokio::join!(snapshot(&host, &web), others);
    assert_eq!(names(&lab), [FOREIGN, "stillframe-t"]);
    host.remove_snapshot(&web, &made.reference).await.expect("removed");
    assert_eq!(names(&lab), [FOREIGN]);
}

#[tokio::test]
async fn a_lost_answer_to_the_making_is_made_good_where_the_host_gives_our_name() {
    let lab = Lab::with_config(vec![web()], |config| config.names_checkpoints = true).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    lab.host.faults().add(Rule::once(method("CreateSnapshot"), Action::DropAfter));
    let made = snapshot(&host, &web).await;
    assert_eq!(host.open_disks(&web, &made).await.expect("open").len(), 2);
    host.remove_snapshot(&web, &made.reference).await.expect("removed");
    lab.assert_clean("web");
}

#[tokio::test]
async fn after_a_lost_answer_nothing_without_our_name_is_touched_and_it_is_told() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect_with(|t| t.settle = SECOND).await;
    let web = lab.reference("web");
    // The request never came, and another backup began.
    lab.host.faults().add(Rule::once(method("CreateSnapshot"), Action::Drop));
    let others = async {
        wait_until("the request", || lab.host.requests().iter().any(|request| request.what == "CreateSnapshot")).await;
        lab.host.make_foreign_checkpoint("web", FOREIGN).expect("another backup's");
    };
    let (error, ()) = tokio::join!(no_snapshot(&host, &web), others);
    assert_eq!(error.kind, ErrorKind::Interrupted, "{error}");
    assert!(error.reason.contains(FOREIGN) && error.hint.contains("Remove-VMSnapshot"), "{error} {}", error.hint);
    assert_eq!(names(&lab), [FOREIGN]);
    assert!(host.list_own_snapshots(&web).await.expect("a list").is_empty());
    let findings = host.machine(&web).await.expect("the machine").findings;
    assert!(findings.iter().any(|finding| finding.code == hypervisor::FOREIGN_CHECKPOINT), "{findings:?}");
    assert!(lab.host.crimes().is_empty(), "{:?}", lab.host.crimes());
}

#[tokio::test]
async fn a_name_whose_giving_is_lost_is_given_again() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    for action in [Action::Drop, Action::DropAfter, Action::Returns(32775), Action::Status(500)] {
        lab.host.faults().add(Rule::once(method("ModifySystemSettings"), action.clone()));
        let made = snapshot(&host, &web).await;
        assert!(made.warnings.is_empty(), "{action:?}: {:?}", made.warnings);
        assert_eq!(host.list_own_snapshots(&web).await.expect("a list")[0].name, "stillframe-t", "{action:?}");
        host.remove_snapshot(&web, &made.reference).await.expect("removed");
        lab.assert_clean("web");
    }
}

#[tokio::test]
async fn a_checkpoint_is_removed_through_busy_moments_and_lost_answers() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    for action in [Action::Returns(32775), Action::Drop, Action::DropAfter, Action::Expired] {
        let made = snapshot(&host, &web).await;
        lab.host.faults().add(Rule::once(method("DestroySnapshot"), action.clone()));
        host.remove_snapshot(&web, &made.reference).await.unwrap_or_else(|error| panic!("{action:?}: {error}"));
        lab.assert_clean("web");
    }
    let made = snapshot(&host, &web).await;
    lab.host.faults().add(Rule::once(method("DestroySnapshot"), job_fails()));
    let error = host.remove_snapshot(&web, &made.reference).await.expect_err("it failed");
    assert!(error.attempt.contains("remove checkpoint") && error.reason.contains("failed state"), "{error}");
    host.remove_snapshot(&web, &made.reference).await.expect("the next try");
    lab.assert_clean("web");
}

#[tokio::test]
async fn a_conversion_that_fails_after_the_copy_gives_no_marks_and_leaves_a_checkpoint_to_remove() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    let frozen = lab.digests("web");
    let made = snapshot(&host, &web).await;
    for (disk, wanted) in host.open_disks(&web, &made).await.expect("open").iter().zip(&frozen) {
        let mut copy = Vec::new();
        read_into(&mut copy, disk, None).await;
        assert_eq!(digest(&copy), *wanted);
    }
    for action in [job_fails(), Action::Returns(32775)] {
        lab.host.faults().add(Rule::once(method("ConvertToReferencePoint"), action));
        let error = host.seal_snapshot(&web, &made).await.expect_err("no marks");
        assert!(error.attempt.contains("reference point") && !error.reason.is_empty(), "{error}");
    }
    host.remove_snapshot(&web, &made.reference).await.expect("removed");
    lab.assert_clean("web");
    assert!(lab.machine("web").reference_points.is_empty());
}

#[tokio::test]
async fn a_conversion_whose_end_is_not_seen_gives_its_marks_all_the_same() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect_with(|t| t.remove_snapshot = 2 * SECOND).await;
    let web = lab.reference("web");
    for action in [Action::DropAfter, Action::JobHangs] {
        let made = snapshot(&host, &web).await;
        lab.host.faults().add(Rule::once(method("ConvertToReferencePoint"), action.clone()));
        let sealed = host.seal_snapshot(&web, &made).await.unwrap_or_else(|error| panic!("{action:?}: {error}"));
        assert_eq!(sealed.marks.len(), 2, "{action:?}: {sealed:?}");
        host.remove_snapshot(&web, &made.reference).await.expect("gone already");
        host.forget_marks(&web, &sealed.marks).await.expect("forgotten");
        lab.assert_clean("web");
    }
    assert!(lab.machine("web").reference_points.is_empty());
}

#[tokio::test]
async fn a_guest_that_does_not_shut_down_is_said_to_run_with_the_reason() {
    let deaf = MachineSpec { quirks: Quirks { shutdown: Shutdown::Refuses, ..Quirks::default() }, ..web() };
    let lab = Lab::with(vec![web(), MachineSpec { name: "deaf".to_owned(), ..deaf }]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    lab.host.faults().add(Rule::once(method("InitiateShutdown"), Action::IgnoreShutdown));
    let ignored = host.shut_down(&lab.reference("web"), SECOND).await.expect("asked");
    assert!(matches!(&ignored, ShutDown::StillOn(why) if why.contains("within 1 seconds")), "{ignored:?}");
    let refused = host.shut_down(&lab.reference("deaf"), 30 * SECOND).await.expect("asked");
    assert!(matches!(&refused, ShutDown::StillOn(why) if why.contains("32768")), "{refused:?}");
    assert!(lab.machine("web").on && lab.machine("deaf").on);
    lab.host.faults().add(Rule::once(method("InitiateShutdown"), Action::DropAfter));
    assert_eq!(host.shut_down(&lab.reference("web"), 30 * SECOND).await.expect("asked"), ShutDown::Off);
    for action in [Action::DropAfter, Action::Returns(32775)] {
        lab.host.faults().add(Rule::once(method("RequestStateChange"), action.clone()));
        let switched = host.power_on(&lab.reference("web")).await;
        assert!(switched.is_ok() == (action == Action::DropAfter), "{action:?}: {switched:?}");
        host.power_on(&lab.reference("web")).await.expect("on");
        host.power_off(&lab.reference("web")).await.expect("off");
    }
}

/// A disk whose data is more than is fetched ahead.
fn large() -> MachineSpec {
    let disk = DiskSpec::new(96 * MIB, Content::Pattern { seed: 7, used_bytes: 96 * MIB });
    MachineSpec { disks: vec![disk], ..web() }
}

/// Reads the whole disk; `between` happens after the first piece.
async fn read_despite(lab: &Lab, host: &HyperVHost, between: impl FnOnce()) -> Result<Vec<u8>, HostError> {
    let web = lab.reference("web");
    let made = snapshot(host, &web).await;
    let disk = host.open_disks(&web, &made).await.expect("open").remove(0);
    let mut stream = disk.stream(Extent::new(0, disk.size_bytes()));
    let (mut copy, mut between) = (Vec::new(), Some(between));
    let read = loop {
        match stream.next().await {
            Some(Ok(piece)) => copy.extend_from_slice(&piece),
            Some(Err(error)) => break Err(error),
            None => break Ok(copy),
        }
        if let Some(between) = between.take() {
            tokio::task::block_in_place(between);
        }
    };
    host.remove_snapshot(&web, &made.reference).await.expect("removed");
    lab.assert_clean("web");
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_cut_off_in_mid_copy_are_read_on_and_no_byte_is_wrong() {
    let lab = Lab::with(vec![large()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let frozen = lab.digests("web");
    let copy = read_despite(&lab, &host, || lab.host.cut_files().expect("served again")).await.expect("all of it");
    assert_eq!([digest(&copy)], *frozen);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_stay_away_are_an_error_that_says_which() {
    let lab = Lab::with(vec![large()]).await;
    let host = lab.connect_with(|t| (t.files_silent, t.files_lost) = (2 * SECOND, SECOND)).await;
    let path = lab.machine("web").disks[0].path.clone();
    let error = read_despite(&lab, &host, || lab.host.stop_files()).await.expect_err("no files");
    assert_eq!((error.kind, error.code), (ErrorKind::Unreachable, "hyperv.smb_unreachable"), "{error}");
    assert!(error.attempt.contains(&path) && error.hint.contains("445"), "{error} {}", error.hint);
    let preflight = host.preflight().await.expect("WinRM answers");
    assert!(preflight.findings.iter().any(|finding| finding.code == "no_file_access"), "{:?}", preflight.findings);
}

/// A first backup's marks, and the machine's second checkpoint, with what its guest wrote in between.
async fn second_checkpoint(lab: &Lab, host: &HyperVHost, sealing: Option<Action>) -> (Vec<ChangeMark>, Snapshot) {
    let web = lab.reference("web");
    let first = snapshot(host, &web).await;
    lab.host.faults().clear();
    if let Some(action) = sealing {
        lab.host.faults().add(Rule::once(method("ConvertToReferencePoint"), action));
    }
    let marks = host.seal_snapshot(&web, &first).await.expect("marks").marks;
    lab.guest_writes("web");
    (marks, snapshot(host, &web).await)
}

#[tokio::test]
async fn a_tracking_id_that_is_another_disks_or_refused_leads_to_a_full_with_the_cause() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    for sealing in [Some(Action::SwappedTracking), Some(Action::ForeignTracking), None] {
        let (marks, made) = second_checkpoint(&lab, &host, sealing.clone()).await;
        assert_eq!(marks.len(), 2, "{sealing:?}");
        if sealing.is_none() {
            lab.host.faults().add(Rule::always(method("GetVirtualDiskChanges"), Action::RefuseTracking));
        }
        for disk in host.open_disks(&web, &made).await.expect("open") {
            let own = marks.iter().find(|mark| mark.disk_key == disk.key()).expect("a mark");
            let found = disk.changed_since(own).await.expect("an answer");
            assert!(matches!(&found, Areas::Unknown(why) if why.contains("32768")), "{sealing:?}: {found:?}");
            // A mark of another disk is not even asked with.
            let asked = lab.host.requests().len();
            for other in [
                ChangeMark { disk_uuid: Some("x".into()), ..own.clone() },
                ChangeMark { capacity_bytes: 1, ..own.clone() },
            ] {
                assert!(matches!(disk.changed_since(&other).await.expect("an answer"), Areas::Unknown(_)));
            }
            assert_eq!(lab.host.requests().len(), asked);
        }
        host.remove_snapshot(&web, &made.reference).await.expect("removed");
        host.forget_marks(&web, &marks).await.expect("forgotten");
        lab.assert_clean("web");
    }
}

#[tokio::test]
async fn short_answers_about_changes_are_asked_on_and_empty_ones_are_no_end() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    let (marks, made) = second_checkpoint(&lab, &host, None).await;
    let disk = host.open_disks(&web, &made).await.expect("open").remove(0);
    let whole = disk.changed_since(&marks[0]).await.expect("an answer");
    assert!(matches!(&whole, Areas::Known(areas) if !areas.is_empty()), "{whole:?}");
    let asked = || lab.host.requests().iter().filter(|request| request.what == "GetVirtualDiskChanges").count();
    let before = asked();
    lab.host.faults().add(Rule::always(method("GetVirtualDiskChanges"), Action::ShortChanges(MIB)));
    let found = disk.changed_since(&marks[0]).await.expect("an answer");
    let total = |areas: &Areas| match areas {
        Areas::Known(areas) => domain::extent::total_bytes(areas),
        Areas::Unknown(why) => panic!("{why}"),
    };
    assert_eq!(total(&found), total(&whole), "the same bytes, whatever pieces they come in");
    assert_eq!(asked() - before, (disk.size_bytes() / MIB) as usize);
    lab.host.faults().clear();
    lab.host.faults().add(Rule::always(method("GetVirtualDiskChanges"), Action::ShortChanges(0)));
    let error = disk.changed_since(&marks[0]).await.expect_err("no progress");
    assert_eq!((error.kind, error.code), (ErrorKind::Protocol, "hyperv.areas_invalid"), "{error}");
    host.remove_snapshot(&web, &made.reference).await.expect("removed");
}

#[tokio::test]
async fn a_host_that_gives_no_tracking_ids_is_said_and_keeps_no_reference_point() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    let made = snapshot(&host, &web).await;
    lab.host.faults().add(Rule::once(method("ConvertToReferencePoint"), Action::NoTracking));
    let sealed = host.seal_snapshot(&web, &made).await.expect("sealed");
    assert!(sealed.marks.is_empty());
    assert_eq!(sealed.unmarked, ["SCSI 0:0: the host gave no tracking ids", "SCSI 0:1: the host gave no tracking ids"]);
    assert!(lab.machine("web").reference_points.is_empty(), "nobody would ever destroy it");
    lab.assert_clean("web");
}

#[tokio::test]
async fn a_fault_for_each_broken_rule_of_the_wire_is_translated() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    let cases = [
        // A filter on a class, a wrapped reference or an instance in tree form, a service without its selector, a single
        // backslash, a missing header, broken XML, an action that is none.
        ("n:CannotProcessFilter", 0x8033_801A, "hyperv.not_supported"),
        ("w:SchemaValidationError", 0x8033_8041, "hyperv.invalid_argument"),
        ("w:InternalError", 0x8004_102F, "hyperv.invalid_argument"),
        ("w:InvalidSelectors", 0x8033_803D, "hyperv.not_found"),
        ("a:MessageInformationHeaderRequired", 0x8033_8043, "hyperv.invalid_argument"),
        ("w:InvalidXml", 0x8033_8043, "hyperv.invalid_argument"),
        ("a:ActionNotSupported", 0x8033_8001, "hyperv.not_supported"),
        // And what a host says to those who do all right.
        ("a:DestinationUnreachable", 0x8033_8000, "hyperv.not_found"),
        ("a:DestinationUnreachable", 0x8033_803B, "hyperv.not_hyperv"),
        ("w:AccessDenied", 5, "hyperv.no_permission"),
        ("w:QuotaLimit", 0x8033_81A6, "hyperv.quota"),
        ("w:EncodingLimit", 0x8033_8047, "hyperv.answer_too_large"),
        ("w:TimedOut", 0x8033_8029, "hyperv.timed_out"),
        ("w:NeverSeen", 0x8033_8FFF, "hyperv.fault"),
    ];
    for (subcode, code, wanted) in cases {
        let reason = format!("words for {subcode}");
        let fault = Action::Fault { subcode: subcode.to_owned(), code, reason: reason.clone() };
        lab.host.faults().add(Rule::always(method("DestroySnapshot"), fault.clone()));
        lab.host.faults().add(Rule::always(method("Get"), fault));
        let error = host.power_off(&web).await.expect_err("a fault");
        assert_eq!(error.code, wanted, "{subcode}: {error}");
        assert!(
            error.reason.contains(&reason) && error.attempt.contains(&web.0) && !error.hint.is_empty(),
            "{error:?}"
        );
        lab.host.faults().clear();
    }
    let gone = host.power_off(&MachineRef("AAAAAAAA-0000-0000-0000-000000000001".into())).await.expect_err("gone");
    assert_eq!((gone.kind, gone.code), (ErrorKind::NotFound, "hyperv.not_found"), "{gone}");
}

#[tokio::test]
async fn answers_that_break_off_are_asked_for_again_and_said_when_they_stay_away() {
    for transport in [Transport::TlsNtlm, Transport::SealedHttp, Transport::TlsBasic] {
        // Lists come in several answers.
        let lab = Lab::with_config(vec![web()], |config| config.limits.items_per_pull = 2).await;
        let host = lab.connect(transport).await;
        let basic_is_refused = |action: &Action| transport == Transport::TlsBasic && *action == Action::Expired;
        let stays = |action: &Action| match action {
            Action::Status(_) if transport == Transport::SealedHttp => "hyperv.unsealed",
            Action::Status(_) => "hyperv.http_error",
            Action::Expired => "hyperv.login_refused",
            _ => "host.interrupted",
        };
        for action in [Action::Drop, Action::Truncate(200), Action::Status(500), Action::Expired] {
            for call in ["Enumerate", "Pull"] {
                let rule = lab.host.faults().add(Rule::once(method(call), action.clone()));
                let found = host.inventory().await;
                assert_eq!(found.is_ok(), !basic_is_refused(&action), "{transport:?} {call} {action:?}: {found:?}");
                assert_eq!(lab.host.faults().hits(rule), 1);
            }
            lab.host.faults().add(Rule::always(method("Enumerate"), action.clone()));
            let error = host.inventory().await.expect_err("it stays away");
            assert_eq!(error.code, stays(&action), "{transport:?} {action:?}: {error}");
            assert!(error.host.contains("127.0.0.1") && !error.reason.is_empty(), "{error}");
            lab.host.faults().clear();
        }
        host.inventory().await.expect("as before");
        assert!(lab.host.crimes().is_empty(), "{:?}", lab.host.crimes());
    }
}

#[tokio::test]
async fn a_wrong_password_or_certificate_is_said_and_not_shown() {
    let lab = Lab::with(Vec::new()).await;
    for transport in [Transport::TlsNtlm, Transport::SealedHttp, Transport::TlsBasic] {
        let mut options = lab.options(transport);
        options.password = "hunter2".to_owned().into();
        let error = HyperVHost::connect(options.clone()).await.err().expect("refused");
        assert_eq!((error.kind, error.code), (ErrorKind::Login, "hyperv.login_refused"), "{transport:?}: {error}");
        assert!(error.hint.contains("DOMAIN\\user") && !format!("{error:?} {options:?}").contains("hunter2"));
    }
    let mut options = lab.options(Transport::TlsNtlm);
    options.certificate_sha256 = [7; 32];
    let error = HyperVHost::connect(options).await.err().expect("refused");
    assert_eq!((error.kind, error.code), (ErrorKind::CertificateChanged, "host.certificate_changed"), "{error}");
    assert!(lab.host.requests().iter().all(|request| request.what == "?"), "nothing was asked");
    let mut options = lab.options(Transport::TlsNtlm);
    options.port = lab.host.http_address().port();
    let error = HyperVHost::connect(options).await.err().expect("no TLS there");
    assert!(matches!(error.kind, ErrorKind::Tls | ErrorKind::Interrupted | ErrorKind::Unreachable), "{error:?}");
}
