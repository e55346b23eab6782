//! The simulator over raw HTTP, with a client that knows nothing but text: what it accepts, refuses, locks and survives.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use simulators::esxi::{
    Action, DatastoreKind, DiskContent, DiskSpec, HostConfig, License, MachineSpec, On, Power, Rule, SimulatedHost,
    demo_config,
};

const MIB: u64 = 1 << 20;
const SOAP_ACTION: &str = "urn:vim25/6.0";

/// A host and a client logged in to it.
struct Bench {
    host: SimulatedHost,
    config: HostConfig,
    http: Client,
    cookie: String,
    _folder: tempfile::TempDir,
}

fn client() -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap()
}

fn machine(name: &str, power: Power) -> MachineSpec {
    let disk = DiskSpec::new(4 * MIB, DiskContent::Generated { seed: 5, used_bytes: MIB });
    MachineSpec { power, disks: vec![disk], ..MachineSpec::new(name) }
}

impl Bench {
    async fn new(change: impl FnOnce(&mut HostConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = HostConfig::new("esx-a", folder.path());
        config.machines = vec![machine("on-01", Power::On), machine("off-01", Power::Off)];
        config.limits.task_delay = Duration::from_millis(1);
        config.limits.lease_initializing = Duration::from_millis(1);
        change(&mut config);
        let host = SimulatedHost::start(config.clone()).await.unwrap();
        let mut bench = Self { host, config, http: client(), cookie: String::new(), _folder: folder };
        bench.login().await;
        bench
    }

    async fn login(&mut self) {
        let body = format!(
            "<Login><_this type=\"SessionManager\">ha-sessionmgr</_this><userName>{}</userName><password>{}</password></Login>",
            self.config.account, self.config.password
        );
        let answer = self.send(&body, Some(SOAP_ACTION)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let cookie = answer.headers().get("set-cookie").unwrap().to_str().unwrap();
        cookie.split(';').next().unwrap().clone_into(&mut self.cookie);
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.host.address().port())
    }

    async fn send(&self, call: &str, action: Option<&str>) -> Response {
        let call = call.replacen('>', " xmlns=\"urn:vim25\">", 1);
        let body = format!(
            "<e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\
             <e:Body>{call}</e:Body></e:Envelope>"
        );
        let mut request = self.http.post(self.url("/sdk")).header("content-type", "text/xml; charset=utf-8").body(body);
        if let Some(action) = action {
            request = request.header("soapaction", action);
        }
        if !self.cookie.is_empty() {
            request = request.header("cookie", &self.cookie);
        }
        request.send().await.unwrap()
    }

    /// The answer's text; a fault panics.
    async fn call(&self, call: &str) -> String {
        let answer = self.send(call, Some(SOAP_ACTION)).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{call}\n{text}");
        text
    }

    /// The text of the fault that must come.
    async fn fault(&self, call: &str) -> String {
        let answer = self.send(call, Some(SOAP_ACTION)).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "{call}");
        answer.text().await.unwrap()
    }

    async fn property(&self, kind: &str, id: &str, path: &str) -> String {
        let text = self
            .call(&format!(
                "<RetrievePropertiesEx><_this type=\"PropertyCollector\">ha-property-collector</_this><specSet><propSet><type>{kind}</type>\
                 <pathSet>{path}</pathSet></propSet><objectSet><obj type=\"{kind}\">{id}</obj></objectSet></specSet><options/></RetrievePropertiesEx>"
            ))
            .await;
        between(&text, "<val", "</val>").split_once('>').map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    }

    /// Starts a task and answers what became of it: the whole `info`.
    async fn task(&self, call: &str) -> String {
        let answer = self.call(call).await;
        let task = between(&answer, "type=\"Task\">", "</returnval>").to_owned();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let info = self.property("Task", &task, "info").await;
            if info.contains("<state>success") || info.contains("<state>error") {
                return info;
            }
            assert!(Instant::now() < deadline, "{call} does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn id(&self, name: &str) -> String {
        self.host.machine(name).unwrap().moref
    }

    async fn snapshot(&self, name: &str) -> String {
        let info = self.task(&create_snapshot(&self.id(name))).await;
        between(&info, "type=\"VirtualMachineSnapshot\" xsi:type=\"ManagedObjectReference\">", "<").to_owned()
    }

    async fn remove_snapshot(&self, id: &str) -> String {
        let this = format!("<_this type=\"VirtualMachineSnapshot\">{id}</_this>");
        self.task(&format!(
            "<RemoveSnapshot_Task>{this}<removeChildren>false</removeChildren><consolidate>true</consolidate></RemoveSnapshot_Task>"
        ))
        .await
    }

    async fn get(&self, file: &str, range: Option<&str>) -> Response {
        let path = format!("/folder/{file}?dcPath=ha-datacenter&dsName=datastore1");
        let mut request = self.http.get(self.url(&path)).basic_auth(&self.config.account, Some(&self.config.password));
        if let Some(range) = range {
            request = request.header("range", range);
        }
        request.send().await.unwrap()
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let rest = text.split_once(start).unwrap_or_else(|| panic!("no {start} in {text}")).1;
    rest.split_once(end).unwrap_or_else(|| panic!("no {end} in {text}")).0
}

fn create_snapshot(machine: &str) -> String {
    format!(
        "<CreateSnapshot_Task><_this type=\"VirtualMachine\">{machine}</_this><name>n</name><memory>false</memory><quiesce>false</quiesce></CreateSnapshot_Task>"
    )
}

fn vm_call(method: &str, machine: &str) -> String {
    format!("<{method}><_this type=\"VirtualMachine\">{machine}</_this></{method}>")
}

const CURRENT_TIME: &str = "<CurrentTime><_this type=\"ServiceInstance\">ServiceInstance</_this></CurrentTime>";

#[tokio::test]
async fn the_protocol_is_strict() {
    let mut bench = Bench::new(|_| {}).await;
    let id = bench.id("off-01");
    let answer = bench.send(CURRENT_TIME, None).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "SOAPAction is mandatory");
    let answer = bench.send(CURRENT_TIME, Some("urn:vim25/99.0")).await;
    assert!(answer.text().await.unwrap().contains("Unsupported version"));
    let swapped = create_snapshot(&id)
        .replace("<memory>false</memory><quiesce>false</quiesce>", "<quiesce>false</quiesce><memory>false</memory>");
    assert!(bench.fault(&swapped).await.contains("InvalidRequest"));
    assert!(bench.fault(&vm_call("Fetch", &id)).await.contains("InvalidRequest"));
    assert!(bench.fault(&vm_call("PowerOnVM_Task", "no-such")).await.contains("ManagedObjectNotFound"));
    assert!(bench.fault(&vm_call("PowerOffVM_Task", &id)).await.contains("<existingState>poweredOff"));
    let log = bench.host.requests();
    assert!(log.iter().any(|r| r.what == "Fetch" && r.status == 500 && r.fault.is_some()), "refusals are on record");
    let quoted = bench.cookie.clone();
    bench.cookie = quoted.replace('"', "");
    assert!(
        bench.fault(CURRENT_TIME).await.contains("NotAuthenticated"),
        "the cookie has to be echoed with its quotes"
    );
    bench.cookie = quoted;
    bench.call(CURRENT_TIME).await;
    bench.host.drop_sessions();
    assert!(bench.fault(CURRENT_TIME).await.contains("NotAuthenticated"));
    bench.cookie.clear();
    let wrong = "<Login><_this type=\"SessionManager\">ha-sessionmgr</_this><userName>root</userName><password>x</password></Login>";
    assert!(bench.fault(wrong).await.contains("InvalidLogin"));
}

#[tokio::test]
async fn sessions_expire_and_are_limited() {
    let mut bench = Bench::new(|config| {
        config.limits.session_idle = Duration::from_millis(300);
        config.limits.sessions_max = 1;
    })
    .await;
    let first = std::mem::take(&mut bench.cookie);
    let login = "<Login><_this type=\"SessionManager\">ha-sessionmgr</_this><userName>root</userName><password>simulated</password></Login>";
    let answer = bench.send(login, Some(SOAP_ACTION)).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().await.unwrap().contains("Out of HTTP sessions"));
    bench.cookie = first;
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.host.open_handles().0 > 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(bench.fault(CURRENT_TIME).await.contains("NotAuthenticated"));
}

#[tokio::test]
async fn a_free_licence_reads_but_does_not_change() {
    let bench = Bench::new(|config| config.license = License::Free).await;
    let id = bench.id("off-01");
    assert!(bench.property("VirtualMachine", &id, "name").await.contains("off-01"));
    assert!(bench.property("LicenseManager", "ha-license-manager", "licenses").await.contains("esxBasic"));
    for call in [create_snapshot(&id), vm_call("PowerOnVM_Task", &id)] {
        assert!(bench.fault(&call).await.contains("RestrictedVersion"));
    }
}

#[tokio::test]
async fn an_old_host_speaks_an_old_version() {
    let bench = Bench::new(|config| config.api_version = "6.0".to_owned()).await;
    let id = bench.id("off-01");
    let versions = bench.http.get(bench.url("/sdk/vimServiceVersions.xml")).send().await.unwrap().text().await.unwrap();
    assert!(versions.contains("<version>6.0</version>") && !versions.contains("8.0"));
    assert_eq!(bench.send(CURRENT_TIME, Some("urn:vim25/7.0.0.0")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let boot = bench.property("VirtualMachine", &id, "config.bootOptions").await;
    assert!(boot.contains("bootDelay") && !boot.contains("efiSecureBootEnabled"), "that came with 6.5");
}

#[tokio::test]
async fn disk_files_are_locked_and_served_by_range() {
    let bench = Bench::new(|config| {
        config.machines.push(MachineSpec {
            disks: vec![DiskSpec::new(64 * MIB, DiskContent::Generated { seed: 9, used_bytes: 64 * MIB })],
            ..MachineSpec::new("large-01")
        });
    })
    .await;
    let none = bench.http.get(bench.url("/folder/off-01/off-01.vmdk?dcPath=ha-datacenter&dsName=datastore1"));
    assert_eq!(none.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let flat = "off-01/off-01-flat.vmdk";
    let part = bench.get(flat, Some("bytes=4096-8191")).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], format!("bytes 4096-8191/{}", 4 * MIB).as_str());
    assert!(part.headers().get("accept-ranges").is_none());
    let base = bench.host.machine("off-01").unwrap().disks[0].base_file.clone();
    assert_eq!(part.bytes().await.unwrap()[..], std::fs::read(&base).unwrap()[4096..8192]);
    assert_eq!(bench.get(flat, Some("bytes=0-1,4-5")).await.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let small = bench.get("off-01/off-01.vmdk", Some("bytes=0-9")).await;
    assert_eq!(small.status(), StatusCode::OK, "a small file may come whole");
    assert!(small.text().await.unwrap().contains("createType=\"vmfs\""));
    let live = bench.get("on-01/on-01-flat.vmdk", Some("bytes=0-511")).await;
    assert_eq!(live.status(), StatusCode::INTERNAL_SERVER_ERROR, "the live link of a running machine");
    let slow = bench.get("large-01/large-01-flat.vmdk", None).await; // its body is not read yet
    let second = bench.get("large-01/large-01-flat.vmdk", Some("bytes=0-511")).await;
    assert_eq!(second.status(), StatusCode::INTERNAL_SERVER_ERROR, "one reader per file");
    let id = bench.id("large-01");
    let info = bench.task(&vm_call("PowerOnVM_Task", &id)).await;
    assert!(info.contains("FileLocked"), "{info}");
    assert_eq!(slow.bytes().await.unwrap().len() as u64, 64 * MIB);
    assert!(bench.task(&vm_call("PowerOnVM_Task", &id)).await.contains("<state>success"));
    assert_eq!(bench.get("../host.json", None).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_snapshot_freezes_the_disk_and_its_removal_keeps_the_writes() {
    let bench = Bench::new(|config| config.record_snapshots = true).await;
    bench.host.write("on-01", 2000, 100, b"before").unwrap();
    let snapshot = bench.snapshot("on-01").await;
    bench.host.write("on-01", 2000, 100, b"after!").unwrap();
    bench.host.write("on-01", 2000, 3 * MIB + 511, b"edge").unwrap();
    let view = bench.host.machine("on-01").unwrap();
    assert_eq!(view.disks[0].chain.len(), 2);
    let record = bench.host.snapshot_records().pop().unwrap();
    assert_eq!((record.snapshot.as_str(), &record.snapshot_id), ("n", &snapshot));
    let oracle = std::fs::read(&record.disks[0].file).unwrap();
    assert_eq!(&oracle[100..106], b"before");
    let hot = bench.get("on-01/on-01-flat.vmdk", None).await.bytes().await.unwrap();
    assert!(hot[..] == oracle[..], "the frozen base is the disk at its snapshot");
    // qemu reads the chain by its descriptors: delta over base.
    let now = tempfile::tempdir().unwrap();
    let (expected, converted) = (now.path().join("now.raw"), now.path().join("qemu.raw"));
    bench.host.copy_disk("on-01", 2000, &expected).unwrap();
    let descriptor = view.disks[0].chain[0].with_file_name("on-01-000001.vmdk");
    qemu_img_convert(&descriptor, &converted);
    assert!(std::fs::read(&converted).unwrap() == std::fs::read(&expected).unwrap());
    assert!(bench.remove_snapshot(&snapshot).await.contains("<state>success"));
    let view = bench.host.machine("on-01").unwrap();
    assert_eq!((view.disks[0].chain.len(), view.snapshots.len(), view.consolidation_needed), (1, 0, false));
    assert!(std::fs::read(&view.disks[0].base_file).unwrap() == std::fs::read(&expected).unwrap());
}

fn qemu_img_convert(from: &Path, to: &Path) {
    let output = std::process::Command::new("qemu-img")
        .args(["convert", "-f", "vmdk", "-O", "raw"])
        .args([from, to])
        .output()
        .expect("qemu-img is missing: run scripts/install.sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn snapshots_in_any_order_keep_every_state() {
    let bench = Bench::new(|_| {}).await;
    let mut snapshots = Vec::new();
    for round in 0..4u8 {
        bench.host.write("on-01", 2000, u64::from(round) * 4096, &[round + 1; 4096]).unwrap();
        bench.host.write("on-01", 2000, MIB, &[round + 1; 512]).unwrap();
        snapshots.push(bench.snapshot("on-01").await);
    }
    bench.host.write("on-01", 2000, MIB, &[9; 512]).unwrap();
    for index in [1, 2, 0, 3] {
        assert!(bench.remove_snapshot(&snapshots[index]).await.contains("<state>success"));
    }
    let disk = &bench.host.machine("on-01").unwrap().disks[0];
    let bytes = std::fs::read(&disk.base_file).unwrap();
    assert_eq!(disk.chain.len(), 1);
    assert_eq!((bytes[0], bytes[4096], bytes[8192], bytes[12288], bytes[MIB as usize]), (1, 2, 3, 4, 9));
}

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
    assert_eq!(bench.get(flat, Some("bytes=0-511")).await.status(), StatusCode::OK);
    faults.add(rule(Action::IgnoreRange));
    let whole = bench.get(flat, Some("bytes=0-511")).await;
    assert_eq!((whole.status(), whole.bytes().await.unwrap().len() as u64), (StatusCode::OK, 4 * MIB));
    faults.add(rule(Action::Status(401)).at_offset(2 * MIB));
    assert_eq!(bench.get(flat, Some("bytes=0-511")).await.status(), StatusCode::PARTIAL_CONTENT);
    let middle = format!("bytes={}-{}", MIB, 3 * MIB);
    assert_eq!(bench.get(flat, Some(&middle)).await.status(), StatusCode::UNAUTHORIZED);
    faults.add(rule(Action::Drop));
    let url = bench.url(&format!("/folder/{flat}?dcPath=ha-datacenter&dsName=datastore1"));
    assert!(bench.http.get(url).send().await.is_err());
    assert_eq!(bench.get(flat, Some("bytes=0-511")).await.status(), StatusCode::PARTIAL_CONTENT);
}

/// Waits until a lease is in a state.
async fn lease_is(bench: &Bench, lease: &str, state: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.property("HttpNfcLease", lease, "state").await != state {
        assert!(Instant::now() < deadline, "{state}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn import_call(name: &str) -> String {
    format!(
        "<ImportVApp><_this type=\"ResourcePool\">ha-root-pool</_this><spec xsi:type=\"VirtualMachineImportSpec\"><configSpec><name>{name}</name>\
         <files><vmPathName>[datastore1]</vmPathName></files><deviceChange><operation>add</operation><device xsi:type=\"VirtualLsiLogicController\">\
         <key>-1</key><busNumber>0</busNumber><sharedBus>noSharing</sharedBus></device></deviceChange><deviceChange><operation>add</operation>\
         <fileOperation>create</fileOperation><device xsi:type=\"VirtualDisk\"><key>-2</key><backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\">\
         <fileName>[datastore1]</fileName><diskMode>persistent</diskMode></backing><controllerKey>-1</controllerKey><unitNumber>3</unitNumber>\
         <capacityInKB>4096</capacityInKB></device></deviceChange></configSpec></spec></ImportVApp>"
    )
}

#[tokio::test]
async fn leases_expire_without_progress_and_leave_nothing() {
    let bench = Bench::new(|config| config.limits.lease_timeout = Duration::from_millis(200)).await;
    let started = bench.call(&import_call("half-01")).await;
    let lease = between(&started, "type=\"HttpNfcLease\">", "<").to_owned();
    lease_is(&bench, &lease, "ready").await;
    let info = bench.property("HttpNfcLease", &lease, "info").await;
    assert!(info.contains("https://*/nfc/") && info.contains("VirtualLsiLogicController0:3"), "{info}");
    assert!(bench.host.machine("half-01").unwrap().leased);
    lease_is(&bench, &lease, "error").await;
    assert!(bench.property("HttpNfcLease", &lease, "error").await.contains("Timedout"));
    assert!(bench.host.machine("half-01").is_err(), "the half-made machine is gone");
    assert!(!bench.config.state_dir.join("datastores/datastore1/half-01").exists());
    bench.host.faults().add(Rule::once(On::method("ImportVApp"), Action::LeaseFails));
    let started = bench.call(&import_call("half-02")).await;
    lease_is(&bench, between(&started, "type=\"HttpNfcLease\">", "<"), "error").await;
    assert!(bench.host.machine("half-02").is_err());
}

#[tokio::test]
async fn a_restart_keeps_machines_snapshots_and_tracking() {
    let mut bench = Bench::new(|config| config.machines[0].tracking = true).await;
    let thumbprint = bench.host.certificate_sha256();
    let id = bench.id("on-01");
    bench.snapshot("on-01").await;
    let change_id =
        bench.property("VirtualMachineSnapshot", &format!("{id}-snapshot-1"), "config.hardware.device").await;
    let change_id = between(&change_id, "<changeId>", "</changeId>").to_owned();
    bench.host.write("on-01", 2000, MIB, b"written after the snapshot").unwrap();
    let started = bench.call(&import_call("half-01")).await;
    assert!(started.contains("HttpNfcLease"));
    let config = bench.config.clone();
    bench.host.stop().await;
    bench.host = SimulatedHost::start(config).await.unwrap();
    assert_eq!(bench.host.certificate_sha256(), thumbprint);
    assert!(bench.host.machine("half-01").is_err(), "an unfinished import does not survive");
    let view = bench.host.machine("on-01").unwrap();
    assert_eq!(
        (view.moref.as_str(), view.snapshots.len(), view.power, view.disks[0].chain.len()),
        (id.as_str(), 1, Power::On, 2)
    );
    bench.cookie.clear();
    bench.login().await;
    let second = bench.snapshot("on-01").await;
    let areas = bench
        .call(&format!(
            "<QueryChangedDiskAreas><_this type=\"VirtualMachine\">{id}</_this><snapshot type=\"VirtualMachineSnapshot\">{second}</snapshot>\
             <deviceKey>2000</deviceKey><startOffset>0</startOffset><changeId>{change_id}</changeId></QueryChangedDiskAreas>"
        ))
        .await;
    assert!(
        areas.contains(&format!("<changedArea><start>{MIB}</start><length>65536</length></changedArea>")),
        "{areas}"
    );
    assert_eq!(areas.matches("<changedArea>").count(), 1);
}

#[tokio::test]
async fn tracking_is_lost_by_resize_and_revert() {
    let bench = Bench::new(|config| config.machines[0].tracking = true).await;
    let before = bench.host.machine("on-01").unwrap().disks[0].change_id.clone().unwrap();
    bench.host.resize_disk("on-01", 2000, 5 * MIB).unwrap();
    let resized = bench.host.machine("on-01").unwrap().disks[0].change_id.clone().unwrap();
    assert_ne!(before.split('/').next(), resized.split('/').next());
    bench.host.create_snapshot("on-01", "user").unwrap();
    bench.host.write("on-01", 2000, 0, &[1; 512]).unwrap();
    bench.host.revert("on-01", "user").unwrap();
    let view = bench.host.machine("on-01").unwrap();
    assert_ne!(view.disks[0].change_id.as_ref().unwrap().split('/').next(), resized.split('/').next());
    assert_eq!(view.power, Power::Off);
}

#[tokio::test]
async fn other_datastores_know_less() {
    for (kind, flat) in
        [(DatastoreKind::Nfs, StatusCode::PARTIAL_CONTENT), (DatastoreKind::Vsan, StatusCode::NOT_FOUND)]
    {
        let bench = Bench::new(|config| {
            config.datastores[0].kind = kind;
            config.machines[1].tracking = true;
        })
        .await;
        let answer = bench.get("off-01/off-01-flat.vmdk", Some("bytes=0-511")).await;
        assert_eq!(answer.status(), flat);
        let id = bench.id("off-01");
        let areas = bench
            .call(&format!(
                "<QueryChangedDiskAreas><_this type=\"VirtualMachine\">{id}</_this><deviceKey>2000</deviceKey><startOffset>0</startOffset>\
                 <changeId>*</changeId></QueryChangedDiskAreas>"
            ))
            .await;
        assert!(areas.contains(&format!("<changedArea><start>0</start><length>{}</length>", 4 * MIB)), "{areas}");
    }
}

#[tokio::test]
async fn a_second_host_on_the_same_folder_is_refused() {
    let bench = Bench::new(|_| {}).await;
    let refused = SimulatedHost::start(bench.config.clone()).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("another one uses")));
}

#[tokio::test]
async fn the_demo_host_starts_at_once_and_keeps_writing() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let host = SimulatedHost::start(demo_config(folder.path(), "demo")).await.unwrap();
    println!("demo host started in {:?}", started.elapsed());
    assert_eq!(host.machine_names(), ["web-01", "db-01", "files-01"]);
    let copy = |name: &str| {
        let path = folder.path().join(name);
        host.copy_disk("db-01", 2000, &path).unwrap();
        std::fs::read(path).unwrap()
    };
    let first = copy("first.raw");
    let deadline = Instant::now() + Duration::from_secs(10);
    while copy("second.raw") == first {
        assert!(Instant::now() < deadline, "the guest does not write");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    host.stop().await;
}
