//! What a host can do wrong while it is talked to or read.

use super::{FLAT, Lab, MIB, first_disk, read, refused, request};
use domain::Extent;
use futures_util::StreamExt as _;
use hypervisor::esxi::{ConnectOptions, EsxiHost};
use hypervisor::{ErrorKind, Hypervisor};
use simulators::esxi::{Action, On, Rule};
use std::fs;
use std::time::Duration;

#[tokio::test]
async fn a_wrong_connection_names_its_cause() {
    let lab = Lab::new().await;
    let kind = async |options: ConnectOptions| EsxiHost::connect(options).await.err().map(|error| error.kind);
    let good = lab.options();
    let bad = ConnectOptions { password: "x".to_owned().into(), ..good.clone() };
    assert_eq!(kind(bad).await, Some(ErrorKind::Login));
    let bad = ConnectOptions { certificate_sha256: [0; 32], ..good.clone() };
    assert_eq!(kind(bad).await, Some(ErrorKind::CertificateChanged));
    let bad = ConnectOptions { port: 1, ..good.clone() };
    assert_eq!(kind(bad).await, Some(ErrorKind::Unreachable));
    let bad = ConnectOptions { host: "no-such-host.invalid".into(), ..good.clone() };
    assert_eq!(kind(bad).await, Some(ErrorKind::Unreachable));
    let bad = ConnectOptions { host: "169.254.169.254".into(), ..good };
    assert_eq!(kind(bad).await, Some(ErrorKind::Unreachable));
}

#[tokio::test]
async fn a_session_that_ended_is_opened_again() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    lab.host.drop_sessions();
    assert_eq!(host.inventory().await.expect("logged in again").machines.len(), 1);
    lab.fault(Rule::always(On::method("CurrentTime"), Action::Drop));
    lab.fault(Rule::once(On::method("RetrievePropertiesEx"), Action::Status(503)));
    assert_eq!(host.inventory().await.expect("tried again").machines.len(), 1);
}

/// Each of these passes without the caller noticing.
#[tokio::test]
async fn passing_trouble_in_mid_copy_is_survived() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let (snapshot, disk) = first_disk(&host, &lab.machine("web")).await;
    let expected = fs::read(lab.frozen(&snapshot, 2000)).expect("the frozen disk");
    let whole = Extent::new(0, disk.size_bytes());
    for (name, action) in [
        ("401", Action::Status(401)),
        ("403", Action::Status(403)),
        ("500", Action::Status(500)),
        ("503", Action::Status(503)),
        ("dropped", Action::Drop),
        ("truncated", Action::TruncateBody(5 * MIB + 77)),
        ("stalled", Action::Stall(Duration::from_millis(300))),
    ] {
        lab.fault(Rule::once(On::path(FLAT), action));
        let bytes = read(&disk, whole).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(bytes == expected, "{name}");
    }
    // Truncated again and again, with another session in between: it goes on from the byte it reached.
    for n in 0..5 {
        lab.fault(Rule::once(On::path(FLAT), Action::TruncateBody(3 * MIB)).after(n * 2));
        lab.fault(Rule::once(On::path(FLAT), Action::Status(401)).after(n * 2 + 1));
    }
    assert!(read(&disk, whole).await.expect("survived") == expected);
    let resumed = lab.host.requests().iter().filter(|request| request.range.is_some_and(|(from, _)| from > 0)).count();
    assert!(resumed > 0);
}

/// Each of these must end in an error, never in wrong or missing bytes.
#[tokio::test]
async fn wrong_answers_to_a_range_are_errors() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let (_, disk) = first_disk(&host, &lab.machine("web")).await;
    let range = Extent::new(MIB, 10 * MIB);
    for (action, code) in [
        (Action::WrongStatus, "esxi.range_ignored"),
        (Action::IgnoreRange, "esxi.range_ignored"),
        (Action::ShiftContentRange(512), "esxi.wrong_range"),
        (Action::Status(404), "esxi.not_found"),
    ] {
        // Not once: the request that meets it may be refused for the lock that the one before left, and come again.
        lab.fault(Rule::always(On::path(FLAT), action.clone()));
        assert_eq!(refused(&disk, range).await.code, code, "{action:?}");
        lab.host.faults().clear();
    }
    lab.fault(Rule::always(On::path(FLAT), Action::Status(500)));
    let error = refused(&disk, range).await;
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.reason.contains("tries"), "{error}");
    lab.host.faults().clear();
    let past = Extent::new(disk.size_bytes() - 512, 1024);
    assert_eq!(refused(&disk, past).await.code, "esxi.range_past_end");
    assert!(read(&disk, range).await.is_ok());
}

#[tokio::test]
async fn a_host_that_is_gone_in_mid_copy_is_an_error() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let (_, disk) = first_disk(&host, &lab.machine("web")).await;
    let mut stream = disk.stream(Extent::new(0, disk.size_bytes()));
    assert!(stream.next().await.expect("a piece").is_ok());
    lab.fault(Rule::always(On::path("/"), Action::Drop));
    lab.host.stop().await;
    let mut outcome = Ok(());
    while let Some(piece) = stream.next().await {
        outcome = piece.map(|_| ());
    }
    // What was read ahead may have been all of it; then the next read fails.
    if outcome.is_ok() {
        outcome = read(&disk, Extent::new(0, MIB)).await.map(|_| ());
    }
    let error = outcome.expect_err("the host is gone");
    assert!(error.kind.is_transient(), "{error:?}");
}

#[tokio::test]
async fn ranges_of_one_disk_wait_for_each_other() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let (snapshot, disk) = first_disk(&host, &lab.machine("web")).await;
    let expected = fs::read(lab.frozen(&snapshot, 2000)).expect("the frozen disk");
    let reads = (0..8).map(|n| {
        let disk = disk.clone();
        async move { read(&disk, Extent::new(n * 3 * MIB, 3 * MIB)).await }
    });
    for (n, bytes) in futures_util::future::join_all(reads).await.into_iter().enumerate() {
        assert!(bytes.expect("read") == expected[n * 3 * MIB as usize..][..3 * MIB as usize]);
    }
    let locked = lab.host.requests().iter().filter(|request| request.status == 500).count();
    assert_eq!(locked, 0, "no second reader was ever sent");
    // A stream that is dropped lets the next one in at once.
    let mut dropped = disk.stream(Extent::new(0, disk.size_bytes()));
    assert!(dropped.next().await.expect("a piece").is_ok());
    drop(dropped);
    assert!(read(&disk, Extent::new(0, MIB)).await.is_ok());
}

#[tokio::test]
async fn snapshot_trouble_ends_clean() {
    let lab = Lab::new().await;
    let host = lab.connect().await;
    let web = lab.machine("web");
    let fails = |name: &str| Action::TaskFails { name: name.into(), message: "no".into() };
    lab.fault(Rule::once(On::method("CreateSnapshot_Task"), fails("SnapshotFault")));
    let error = host.create_snapshot(&web, &request("a")).await.expect_err("refused");
    assert_eq!((error.kind, error.code), (ErrorKind::Refused, "esxi.snapshot_refused"));
    lab.fault(Rule::once(On::method("CreateSnapshot_Task"), fails("NoDiskSpace")));
    let error = host.create_snapshot(&web, &request("a")).await.expect_err("refused");
    assert_eq!(error.kind, ErrorKind::NoSpace);

    lab.fault(Rule::once(On::method("CreateSnapshot_Task"), Action::DropAfter));
    let snapshot = host.create_snapshot(&web, &request("b")).await.expect("found by its name");
    lab.fault(Rule::once(On::method("RemoveSnapshot_Task"), Action::DropAfter));
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    assert_eq!(host.list_own_snapshots(&web).await.expect("a list"), []);

    let snapshot = host.create_snapshot(&web, &request("c")).await.expect("a snapshot");
    lab.fault(Rule::once(On::method("RemoveSnapshot_Task"), Action::ConsolidationNeeded));
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed and consolidated");
    assert!(!lab.host.machine("web").expect("web").consolidation_needed);

    let snapshot = host.create_snapshot(&web, &request("d")).await.expect("a snapshot");
    lab.fault(Rule::once(On::method("RemoveSnapshot_Task"), Action::ConsolidationNeeded));
    lab.fault(Rule::once(On::method("ConsolidateVMDisks_Task"), Action::ConsolidationNeeded));
    let error = host.remove_snapshot(&web, &snapshot.reference).await.expect_err("still needed");
    assert_eq!(error.code, "esxi.consolidation_needed");
    let snapshot = host.create_snapshot(&web, &request("e")).await.expect("consolidates first");
    assert!(!lab.host.machine("web").expect("web").consolidation_needed);
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    host.remove_snapshot(&web, &snapshot.reference).await.expect("gone already");
    lab.host.destroy("web").expect("deleted");
    host.remove_snapshot(&web, &snapshot.reference).await.expect("the machine is gone, too");
    assert_eq!(host.machine(&web).await.expect_err("gone").kind, ErrorKind::NotFound);
}
