//! A host, and a client of it that knows nothing but text.

use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use simulators::esxi::{DiskContent, DiskSpec, HostConfig, MachineSpec, Power, SimulatedHost};

pub const MIB: u64 = 1 << 20;
pub const SOAP_ACTION: &str = "urn:vim25/6.0";

/// A host and a client logged in to it.
pub struct Bench {
    pub host: SimulatedHost,
    pub config: HostConfig,
    pub http: Client,
    pub cookie: String,
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
    pub async fn new(change: impl FnOnce(&mut HostConfig)) -> Self {
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

    pub async fn login(&mut self) {
        let body = format!(
            "<Login><_this type=\"SessionManager\">ha-sessionmgr</_this><userName>{}</userName><password>{}</password></Login>",
            self.config.account, self.config.password
        );
        let answer = self.send(&body, Some(SOAP_ACTION)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let cookie = answer.headers().get("set-cookie").unwrap().to_str().unwrap();
        cookie.split(';').next().unwrap().clone_into(&mut self.cookie);
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.host.address().port())
    }

    pub async fn send(&self, call: &str, action: Option<&str>) -> Response {
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
    pub async fn call(&self, call: &str) -> String {
        let answer = self.send(call, Some(SOAP_ACTION)).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{call}\n{text}");
        text
    }

    /// The text of the fault that must come.
    pub async fn fault(&self, call: &str) -> String {
        let answer = self.send(call, Some(SOAP_ACTION)).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "{call}");
        answer.text().await.unwrap()
    }

    pub async fn property(&self, kind: &str, id: &str, path: &str) -> String {
        let text = self
            .call(&format!(
                "<RetrievePropertiesEx><_this type=\"PropertyCollector\">ha-property-collector</_this><specSet><propSet><type>{kind}</type>\
                 <pathSet>{path}</pathSet></propSet><objectSet><obj type=\"{kind}\">{id}</obj></objectSet></specSet><options/></RetrievePropertiesEx>"
            ))
            .await;
        between(&text, "<val", "</val>").split_once('>').map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    }

    /// Starts a task and answers what became of it: the whole `info`.
    pub async fn task(&self, call: &str) -> String {
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

    pub fn id(&self, name: &str) -> String {
        self.host.machine(name).unwrap().moref
    }

    pub async fn snapshot(&self, name: &str) -> String {
        let info = self.task(&create_snapshot(&self.id(name))).await;
        between(&info, "type=\"VirtualMachineSnapshot\" xsi:type=\"ManagedObjectReference\">", "<").to_owned()
    }

    pub async fn remove_snapshot(&self, id: &str) -> String {
        let this = format!("<_this type=\"VirtualMachineSnapshot\">{id}</_this>");
        self.task(&format!(
            "<RemoveSnapshot_Task>{this}<removeChildren>false</removeChildren><consolidate>true</consolidate></RemoveSnapshot_Task>"
        ))
        .await
    }

    pub async fn get(&self, file: &str, range: Option<&str>) -> Response {
        let path = format!("/folder/{file}?dcPath=ha-datacenter&dsName=datastore1");
        let mut request = self.http.get(self.url(&path)).basic_auth(&self.config.account, Some(&self.config.password));
        if let Some(range) = range {
            request = request.header("range", range);
        }
        request.send().await.unwrap()
    }
}

pub fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let rest = text.split_once(start).unwrap_or_else(|| panic!("no {start} in {text}")).1;
    rest.split_once(end).unwrap_or_else(|| panic!("no {end} in {text}")).0
}

pub fn create_snapshot(machine: &str) -> String {
    format!(
        "<CreateSnapshot_Task><_this type=\"VirtualMachine\">{machine}</_this><name>n</name><memory>false</memory><quiesce>false</quiesce></CreateSnapshot_Task>"
    )
}

pub fn vm_call(method: &str, machine: &str) -> String {
    format!("<{method}><_this type=\"VirtualMachine\">{machine}</_this></{method}>")
}

pub const CURRENT_TIME: &str = "<CurrentTime><_this type=\"ServiceInstance\">ServiceInstance</_this></CurrentTime>";

/// An import of a machine with one disk of 4 MiB at LSI Logic 0:3.
pub fn import_call(name: &str) -> String {
    format!(
        "<ImportVApp><_this type=\"ResourcePool\">ha-root-pool</_this><spec xsi:type=\"VirtualMachineImportSpec\"><configSpec><name>{name}</name>\
         <files><vmPathName>[datastore1]</vmPathName></files><deviceChange><operation>add</operation><device xsi:type=\"VirtualLsiLogicController\">\
         <key>-1</key><busNumber>0</busNumber><sharedBus>noSharing</sharedBus></device></deviceChange><deviceChange><operation>add</operation>\
         <fileOperation>create</fileOperation><device xsi:type=\"VirtualDisk\"><key>-2</key><backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\">\
         <fileName>[datastore1]</fileName><diskMode>persistent</diskMode></backing><controllerKey>-1</controllerKey><unitNumber>3</unitNumber>\
         <capacityInKB>4096</capacityInKB></device></deviceChange></configSpec></spec></ImportVApp>"
    )
}

/// Areas of the first disk of a machine that changed since a change id, page 1, as text.
pub fn query_areas(machine: &str, snapshot: Option<&str>, since: &str) -> String {
    let snapshot =
        snapshot.map(|id| format!("<snapshot type=\"VirtualMachineSnapshot\">{id}</snapshot>")).unwrap_or_default();
    format!(
        "<QueryChangedDiskAreas><_this type=\"VirtualMachine\">{machine}</_this>{snapshot}<deviceKey>2000</deviceKey>\
         <startOffset>0</startOffset><changeId>{since}</changeId></QueryChangedDiskAreas>"
    )
}
