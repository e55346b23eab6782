//! Misbehaviour on demand.

use std::time::Duration;

use simulators::hyperv::{Action, On, Rule, Shutdown};

use crate::bench::{Bench, MANAGEMENT, MIB, between, machine_reference, return_value};

fn once(method: &str, action: Action) -> Rule {
    Rule::once(On::method(method), action)
}

#[tokio::test]
async fn answers_get_lost_before_and_after_the_work() {
    let bench = Bench::new(|_| {}).await;
    let faults = bench.host.faults();
    let get = |class: &str| {
        crate::bench::envelope(crate::bench::GET, &format!("{}/{class}", crate::bench::P), &[("Name", "HV-A")], "")
    };
    faults.add(once("Get", Action::Drop));
    assert!(bench.post(get("Msvm_ComputerSystem")).await.is_err());
    let rule = faults.add(Rule::once(On::path("Msvm_ComputerSystem"), Action::Status(503)).after(1));
    assert_eq!(bench.post(get("Msvm_ComputerSystem")).await.unwrap().0, 200);
    assert_eq!(bench.post(get("Msvm_ComputerSystem")).await.unwrap().0, 503);
    assert_eq!(faults.hits(rule), 1);
    faults.add(once("Get", Action::Expired));
    assert_eq!(bench.post(get("Msvm_ComputerSystem")).await.unwrap().0, 401);
    let quota =
        Action::Fault { subcode: "w:QuotaLimit".to_owned(), code: 2_150_858_815, reason: "too many".to_owned() };
    faults.add(once("Get", quota));
    let (status, text) = bench.post(get("Msvm_ComputerSystem")).await.unwrap();
    assert!(status == 500 && text.contains("w:QuotaLimit") && text.contains("2150858815"), "{text}");
    faults.add(once("CreateSnapshot", Action::DropAfter));
    let system = machine_reference("AffectedSystem", &bench.id("on-01"));
    let uri = format!("{}/{}", crate::bench::P, crate::bench::SNAPSHOTS);
    let body = format!(
        "<p:CreateSnapshot_INPUT xmlns:p=\"{uri}\">{system}<p:SnapshotType>32768</p:SnapshotType></p:CreateSnapshot_INPUT>"
    );
    let keys = [("CreationClassName", crate::bench::SNAPSHOTS)];
    let lost = crate::bench::envelope(&format!("{uri}/CreateSnapshot"), &uri, &keys, &body);
    assert!(bench.post(lost).await.is_err());
    bench
        .wait_until("the checkpoint was to be made", |host| !host.machine("on-01").unwrap().snapshots.is_empty())
        .await;
}

#[tokio::test]
async fn jobs_fail_and_never_end_on_demand() {
    let bench = Bench::new(|_| {}).await;
    let faults = bench.host.faults();
    faults.add(once("CreateSnapshot", Action::Returns(32775)));
    assert_eq!(return_value(&bench.snapshot("on-01", 2).await), "32775");
    faults.add(once("CreateSnapshot", Action::JobFails { code: 32770, description: "no writers".to_owned() }));
    assert_eq!(bench.finish(&bench.snapshot("on-01", 2).await).await, ("10".to_owned(), "32770".to_owned()));
    assert!(bench.host.machine("on-01").unwrap().snapshots.is_empty());
    faults.add(once("CreateSnapshot", Action::Synchronous));
    let made = bench.snapshot("on-01", 2).await;
    assert!(return_value(&made) == "0" && made.contains("<p:ResultingSnapshot>"), "{made}");
    faults.add(once("DestroySnapshot", Action::JobNeverEnds));
    let started = bench.on_snapshot("on-01", "DestroySnapshot").await;
    assert_eq!(return_value(&started), "4096");
    assert!(bench.host.is_busy("on-01"));
    let system = machine_reference("AffectedSystem", &bench.id("on-01"));
    bench.host.set_power("on-01", false).unwrap();
    let destroy = bench.invoke(MANAGEMENT, "DestroySystem", &system).await;
    assert_eq!(return_value(&destroy), "32775", "while its checkpoint is being deleted");
    let id = between(&started, "<w:Selector Name=\"InstanceID\">", "<");
    let (_, job) = bench.get("Msvm_ConcreteJob", &[("InstanceID", id)]).await;
    assert!(["3", "4"].contains(&between(&job, "<p:JobState>", "<")), "{job}");
}

#[tokio::test]
async fn tracking_lies_on_demand() {
    let bench = Bench::new(|_| {}).await;
    let faults = bench.host.faults();
    bench.done(&bench.snapshot("on-01", 2).await).await;
    faults.add(once("ConvertToReferencePoint", Action::ForeignTracking));
    bench.done(&bench.on_snapshot("on-01", "ConvertToReferencePoint").await).await;
    let path = bench.host.machine("on-01").unwrap().disks[0].path.clone();
    let foreign = bench.wql("select * from Msvm_VirtualSystemReferencePoint").await;
    let foreign = between(&foreign, "<p:ResilientChangeTrackingIdentifiers>", "<").to_owned();
    assert_eq!(return_value(&bench.changes(&path, &foreign, MIB).await), "32768");
    bench.done(&bench.snapshot("on-01", 2).await).await;
    bench.done(&bench.on_snapshot("on-01", "ConvertToReferencePoint").await).await;
    let points = bench.wql("select * from Msvm_VirtualSystemReferencePoint").await;
    let newest = points.rsplit("<p:Msvm_VirtualSystemReferencePoint ").next().unwrap();
    let ids = crate::bench::all_between(newest, "<p:ResilientChangeTrackingIdentifiers>", "<");
    let mut known = Vec::new();
    for id in ids {
        known.extend((return_value(&bench.changes(&path, id, MIB).await) == "0").then(|| id.to_owned()));
    }
    let [limit] = known.as_slice() else { panic!("{known:?}") };
    faults.add(once("GetVirtualDiskChanges", Action::ShortChanges(4096)));
    let short = bench.changes(&path, limit, MIB).await;
    assert_eq!(between(&short, "<p:ProcessedByteLength>", "<"), "4096");
    faults.add(once("GetVirtualDiskChanges", Action::ShortChanges(0)));
    assert_eq!(between(&bench.changes(&path, limit, MIB).await, "<p:ProcessedByteLength>", "<"), "0");
    faults.add(once("GetVirtualDiskChanges", Action::RefuseTracking));
    assert_eq!(return_value(&bench.changes(&path, limit, MIB).await), "32768");
}

/// Tells the guest to shut down.
async fn shut_down(bench: &Bench, name: &str) -> String {
    let id = bench.id(name);
    let found = bench.wql(&format!("select * from Msvm_ShutdownComponent where SystemName='{id}'")).await;
    let device = between(&found, "<p:DeviceID>", "<").to_owned();
    let class = "Msvm_ShutdownComponent";
    let keys = [
        ("CreationClassName", class),
        ("DeviceID", device.as_str()),
        ("SystemCreationClassName", "Msvm_ComputerSystem"),
        ("SystemName", id.as_str()),
    ];
    let parameters = "<p:Force>false</p:Force><p:Reason>backup</p:Reason>";
    let (status, text) = bench.call(class, "InitiateShutdown", &keys, parameters).await;
    assert_eq!(status, 200, "{text}");
    return_value(&text).to_owned()
}

#[tokio::test]
async fn guests_shut_down_or_do_not() {
    let bench =
        Bench::new(|config| config.machines[0].quirks.shutdown = Shutdown::Slow(Duration::from_millis(30))).await;
    bench.host.faults().add(once("InitiateShutdown", Action::IgnoreShutdown));
    assert_eq!(shut_down(&bench, "on-01").await, "0");
    assert!(bench.host.machine("on-01").unwrap().on);
    assert_eq!(shut_down(&bench, "on-01").await, "0");
    bench.wait_until("the guest was to shut down", |host| !host.machine("on-01").unwrap().on).await;
    assert!(
        !bench.wql("select * from Msvm_ShutdownComponent").await.contains("DeviceID"),
        "no component while it is off"
    );
    let stubborn = Bench::new(|config| config.machines[0].quirks.shutdown = Shutdown::Refuses).await;
    assert_eq!(shut_down(&stubborn, "on-01").await, "32768");
    let id = stubborn.id("on-01");
    let keys = [("CreationClassName", "Msvm_ComputerSystem"), ("Name", id.as_str())];
    let off = "<p:RequestedState>3</p:RequestedState>";
    let (_, text) = stubborn.call("Msvm_ComputerSystem", "RequestStateChange", &keys, off).await;
    stubborn.done(&text).await;
    let (_, text) = stubborn.call("Msvm_ComputerSystem", "RequestStateChange", &keys, off).await;
    assert_eq!(return_value(&text), "32775", "it is off");
}
