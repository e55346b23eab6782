//! Misbehaviour on demand.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use simulators::esxi::{Action, Corruption, On, Rule};

use crate::bench::{Bench, MIB, SOAP_ACTION, between, create_snapshot, query_areas, vm_call};

#[tokio::test]
async fn consolidation_can_be_needed_and_done_later() {
    let bench = Bench::new(|config| config.limits.lock_wait = Duration::from_millis(50)).await;
    let snapshot = bench.snapshot("on-01").await;
    bench.host.faults().add(Rule::once(On::method("RemoveSnapshot_Task"), Action::ConsolidationNeeded));
    bench.remove_snapshot(&snapshot).await;
    let id = bench.id("on-01");
    assert_eq!(bench.property("VirtualMachine", &id, "runtime.consolidationNeeded").await, "true");
    assert_eq!(bench.host.machine("on-01").unwrap().disks[0].chain.len(), 2);
    assert!(bench.task(&vm_call("ConsolidateVMDisks_Task", &id)).await.contains("<state>success"));
    assert_eq!(bench.property("VirtualMachine", &id, "runtime.consolidationNeeded").await, "false");
    assert_eq!(bench.host.machine("on-01").unwrap().disks[0].chain.len(), 1);
}

#[tokio::test]
async fn one_task_at_a_time_and_tasks_fail_on_demand() {
    let bench = Bench::new(|_| {}).await;
    let id = bench.id("on-01");
    let stall = Rule::once(On::method("CreateSnapshot_Task"), Action::TaskStalls);
    let rule = bench.host.faults().add(stall);
    let started = bench.call(&create_snapshot(&id)).await;
    assert!(bench.fault(&create_snapshot(&id)).await.contains("TaskInProgress"));
    let task = between(&started, "type=\"Task\">", "</returnval>").to_owned();
    bench.call(&format!("<CancelTask><_this type=\"Task\">{task}</_this></CancelTask>")).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !bench.property("Task", &task, "info").await.contains("RequestCanceled") {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.host.faults().hits(rule), 1);
    let fails = Action::TaskFails { name: "ApplicationQuiesceFault".to_owned(), message: "no writers".to_owned() };
    bench.host.faults().add(Rule::once(On::method("CreateSnapshot_Task"), fails));
    assert!(bench.task(&create_snapshot(&id)).await.contains("xsi:type=\"ApplicationQuiesceFault\""));
    assert!(bench.host.machine("on-01").unwrap().snapshots.is_empty());
}

#[tokio::test]
async fn downloads_break_on_demand() {
    let bench = Bench::new(|_| {}).await;
    let flat = "off-01/off-01-flat.vmdk";
    let faults = bench.host.faults();
    let rule = |action| Rule::once(On::path("-flat.vmdk"), action);
    faults.add(rule(Action::TruncateBody(MIB)));
    let cut = bench.get(flat, Some("bytes=0-2097151")).await;
    assert_eq!(cut.status(), StatusCode::PARTIAL_CONTENT);
    assert!(cut.bytes().await.is_err(), "the body ends early");
    faults.add(rule(Action::WrongStatus));
    // Bodies are read to their end: one that is still open holds the file's lock.
    let wrong = bench.get(flat, Some("bytes=0-511")).await;
    assert_eq!(wrong.status(), StatusCode::OK);
    let _ = wrong.bytes().await;
    faults.add(rule(Action::IgnoreRange));
    let whole = bench.get(flat, Some("bytes=0-511")).await;
    assert_eq!((whole.status(), whole.bytes().await.unwrap().len() as u64), (StatusCode::OK, 4 * MIB));
    faults.add(rule(Action::Status(401)).at_offset(2 * MIB));
    let first = bench.get(flat, Some("bytes=0-511")).await;
    assert_eq!(first.status(), StatusCode::PARTIAL_CONTENT);
    first.bytes().await.unwrap();
    let middle = format!("bytes={}-{}", MIB, 3 * MIB);
    assert_eq!(bench.get(flat, Some(&middle)).await.status(), StatusCode::UNAUTHORIZED);
    faults.add(rule(Action::Drop));
    let url = bench.url(&format!("/folder/{flat}?dcPath=ha-datacenter&dsName=datastore1"));
    assert!(bench.http.get(url).send().await.is_err());
    assert_eq!(bench.get(flat, Some("bytes=0-511")).await.status(), StatusCode::PARTIAL_CONTENT);
}

#[tokio::test]
async fn a_lost_answer_leaves_the_snapshot_that_was_made() {
    let bench = Bench::new(|_| {}).await;
    bench.host.faults().add(Rule::once(On::method("CreateSnapshot_Task"), Action::DropAfter));
    let call = create_snapshot(&bench.id("on-01")).replacen('>', " xmlns=\"urn:vim25\">", 1);
    let body = format!(
        "<e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\"><e:Body>{call}</e:Body></e:Envelope>"
    );
    let request =
        bench.http.post(bench.url("/sdk")).header("content-type", "text/xml").header("soapaction", SOAP_ACTION);
    assert!(request.header("cookie", &bench.cookie).body(body).send().await.is_err());
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.host.machine("on-01").unwrap().snapshots.is_empty() {
        assert!(Instant::now() < deadline, "the snapshot was to be made");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn change_tracking_lies_on_demand() {
    let bench = Bench::new(|config| config.machines[0].tracking = true).await;
    let id = bench.id("on-01");
    let snapshot = bench.snapshot("on-01").await;
    let query = query_areas(&id, Some(&snapshot), "*");
    let faults = bench.host.faults();
    let corrupt = |kind| Rule::once(On::method("QueryChangedDiskAreas"), Action::CorruptAreas(kind));
    let good = bench.call(&query).await;
    let mut answers = vec![good];
    for kind in
        [Corruption::Overlap, Corruption::PastEnd, Corruption::Empty, Corruption::NoProgress, Corruption::Descending]
    {
        faults.add(corrupt(kind));
        let answer = bench.call(&query).await;
        assert!(!answers.contains(&answer), "{kind:?} changes nothing");
        answers.push(answer);
    }
    faults.add(Rule::once(On::method("QueryChangedDiskAreas"), Action::RefuseChangeTracking));
    assert!(bench.fault(&query).await.contains("FileFault"));
    let since = bench.host.machine("on-01").unwrap().disks[0].change_id.clone().unwrap();
    let since = since.replace("/2", "/1");
    bench.call(&query_areas(&id, Some(&snapshot), &since)).await;
    faults.add(Rule::once(On::method("QueryChangedDiskAreas"), Action::LostTracking));
    assert!(bench.fault(&query_areas(&id, Some(&snapshot), &since)).await.contains("FileFault"));
}

#[tokio::test]
async fn switching_tracking_on_can_fail_or_do_nothing() {
    let bench = Bench::new(|_| {}).await;
    let id = bench.id("off-01");
    let on = format!(
        "<ReconfigVM_Task><_this type=\"VirtualMachine\">{id}</_this><spec><changeTrackingEnabled>true</changeTrackingEnabled></spec></ReconfigVM_Task>"
    );
    let faults = bench.host.faults();
    faults.add(Rule::once(On::method("ReconfigVM_Task"), Action::RefuseChangeTracking));
    assert!(bench.task(&on).await.contains("GenericVmConfigFault"));
    faults.add(Rule::once(On::method("ReconfigVM_Task"), Action::IgnoreChangeTracking));
    assert!(bench.task(&on).await.contains("<state>success"));
    assert!(!bench.host.machine("off-01").unwrap().tracking_enabled);
    assert!(bench.task(&on).await.contains("<state>success"));
    let view = bench.host.machine("off-01").unwrap();
    assert!(view.tracking_enabled && view.disks[0].tracking_active, "at once on a machine that is off");
}
