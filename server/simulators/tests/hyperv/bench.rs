//! A host, and a client of it that knows nothing but text.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use reqwest::Client;
use simulators::hyperv::{Content, DiskSpec, Files, GuestWrites, HostConfig, MachineSpec, SimulatedHost};

pub const MIB: u64 = 1 << 20;
pub const P: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2";
const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";
pub const GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
pub const ENUMERATE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate";
pub const PULL: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull";
pub const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";
pub const MANAGEMENT: &str = "Msvm_VirtualSystemManagementService";
pub const IMAGES: &str = "Msvm_ImageManagementService";
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A host with `on-01` (generation 2, two disks, its guest writes) and `off-01` (generation 1, one disk).
pub struct Bench {
    pub host: SimulatedHost,
    pub config: HostConfig,
    pub http: Client,
    folder: tempfile::TempDir,
}

fn client() -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap()
}

fn disk(seed: u64) -> DiskSpec {
    DiskSpec::new(16 * MIB, Content::Pattern { seed, used_bytes: MIB })
}

impl Bench {
    pub async fn new(change: impl FnOnce(&mut HostConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = HostConfig::new("HV-A", folder.path());
        config.files = Files::Closed;
        config.limits.job_delay = Duration::from_millis(1);
        config.machines = vec![
            MachineSpec {
                on: true,
                disks: vec![disk(1), disk(2)],
                writes: Some(GuestWrites { bytes_per_second: 0, seed: 3 }),
                ..MachineSpec::new("on-01")
            },
            MachineSpec { generation: 1, disks: vec![disk(4)], ..MachineSpec::new("off-01") },
        ];
        change(&mut config);
        let host = SimulatedHost::start(config.clone()).await.unwrap();
        Self { host, config, http: client(), folder }
    }

    /// Stops the host and starts it again on the same folder.
    pub async fn restart(self) -> Self {
        let Self { host, config, http, folder } = self;
        host.stop().await;
        let host = SimulatedHost::start(config.clone()).await.unwrap();
        Self { host, config, http, folder }
    }

    pub fn id(&self, name: &str) -> String {
        self.host.machine(name).unwrap().id
    }

    /// Posts an envelope: status and text.
    pub async fn post(&self, envelope: String) -> reqwest::Result<(u16, String)> {
        let url = format!("https://{}/wsman", self.host.tls_address());
        let request = self.http.post(url).basic_auth(&self.config.account, Some(&self.config.password));
        let answer = request.header("content-type", "application/soap+xml;charset=UTF-8").body(envelope).send().await?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await?))
    }

    pub async fn send(&self, action: &str, uri: &str, keys: &[(&str, &str)], body: &str) -> (u16, String) {
        self.post(envelope(action, uri, keys, body)).await.unwrap()
    }

    /// An instance by its keys; the text of its element.
    pub async fn get(&self, class: &str, keys: &[(&str, &str)]) -> (u16, String) {
        self.send(GET, &format!("{P}/{class}"), keys, "").await
    }

    /// All that a query finds, as one text.
    pub async fn wql(&self, query: &str) -> String {
        let uri = format!("{P}/*");
        let filter = query.replace('<', "&lt;");
        let body = format!(
            "<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>1000</w:MaxElements>\
             <w:Filter Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\">{filter}</w:Filter></n:Enumerate>"
        );
        let (status, text) = self.send(ENUMERATE, &uri, &[], &body).await;
        assert_eq!(status, 200, "{text}");
        assert!(text.contains("<w:EndOfSequence/>"), "{text}");
        text
    }

    /// Calls a method of a service.
    pub async fn invoke(&self, class: &str, method: &str, parameters: &str) -> String {
        let (status, text) = self.call(class, method, &[("CreationClassName", class)], parameters).await;
        assert_eq!(status, 200, "{text}");
        text
    }

    pub async fn call(&self, class: &str, method: &str, keys: &[(&str, &str)], parameters: &str) -> (u16, String) {
        let uri = format!("{P}/{class}");
        let body = format!("<p:{method}_INPUT xmlns:p=\"{uri}\">{parameters}</p:{method}_INPUT>");
        self.send(&format!("{uri}/{method}"), &uri, keys, &body).await
    }

    /// Follows the job of an answer to its end: its state and error code.
    pub async fn finish(&self, answer: &str) -> (String, String) {
        assert_eq!(between(answer, "<p:ReturnValue>", "<"), "4096", "{answer}");
        let job = between(answer, "<p:Job>", "</p:Job>");
        let class = between(job, &format!("{P}/"), "<");
        let id = between(job, "<w:Selector Name=\"InstanceID\">", "<");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, text) = self.get(class, &[("InstanceID", id)]).await;
            assert_eq!(status, 200, "{text}");
            let state = between(&text, "<p:JobState>", "<").to_owned();
            if state.parse::<u32>().unwrap() >= 7 {
                return (state, between(&text, "<p:ErrorCode>", "<").to_owned());
            }
            assert!(Instant::now() < deadline, "{text}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The job of an answer does what it should.
    pub async fn done(&self, answer: &str) {
        assert_eq!(self.finish(answer).await, ("7".to_owned(), "0".to_owned()));
    }

    pub async fn snapshot(&self, name: &str, consistency: u8) -> String {
        let settings = instance(
            "Msvm_VirtualSystemSnapshotSettingData",
            &[
                ("ConsistencyLevel", "uint8", &consistency.to_string()),
                ("IgnoreNonSnapshottableDisks", "boolean", "true"),
            ],
        );
        let system = machine_reference("AffectedSystem", &self.id(name));
        let parameters = format!(
            "{system}<p:SnapshotSettings>{settings}</p:SnapshotSettings><p:SnapshotType>32768</p:SnapshotType>"
        );
        self.invoke(SNAPSHOTS, "CreateSnapshot", &parameters).await
    }

    /// Something with the newest checkpoint of a machine.
    pub async fn on_snapshot(&self, name: &str, method: &str) -> String {
        let id = self.host.machine(name).unwrap().snapshots.last().unwrap().id.clone();
        let parameters = settings_reference("AffectedSnapshot", &id);
        self.invoke(SNAPSHOTS, method, &parameters).await
    }

    /// Changes of a file since a tracking id.
    pub async fn changes(&self, path: &str, limit: &str, length: u64) -> String {
        let parameters = format!(
            "<p:Path>{path}</p:Path><p:LimitId>{limit}</p:LimitId><p:ByteOffset>0</p:ByteOffset><p:ByteLength>{length}</p:ByteLength>"
        );
        self.invoke(IMAGES, "GetVirtualDiskChanges", &parameters).await
    }

    pub async fn wait_until(&self, what: &str, holds: impl Fn(&SimulatedHost) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.host) {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// What is between the first `start` and the next `end`.
pub fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let from = text.find(start).unwrap_or_else(|| panic!("no {start} in {text}")) + start.len();
    let length = text[from..].find(end).unwrap_or_else(|| panic!("no {end} behind {start} in {text}"));
    &text[from..from + length]
}

/// Every text between `start` and `end`.
pub fn all_between<'a>(text: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    text.split(start).skip(1).map(|part| part.split(end).next().unwrap_or_default()).collect()
}

pub fn return_value(answer: &str) -> &str {
    between(answer, "<p:ReturnValue>", "<")
}

pub fn envelope(action: &str, uri: &str, keys: &[(&str, &str)], body: &str) -> String {
    let keys = keys.iter().fold(String::new(), |mut out, (name, value)| {
        let _ = write!(out, "<w:Selector Name=\"{name}\">{value}</w:Selector>");
        out
    });
    format!(
        "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:n=\"http://schemas.xmlsoap.org/ws/2004/09/enumeration\" xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\"><s:Header>\
         <a:To>https://host/wsman</a:To><w:ResourceURI>{uri}</w:ResourceURI><a:ReplyTo><a:Address>{ANONYMOUS}</a:Address></a:ReplyTo>\
         <a:Action>{action}</a:Action><w:MaxEnvelopeSize>512000</w:MaxEnvelopeSize>\
         <a:MessageID>uuid:11111111-2222-3333-4444-555555555555</a:MessageID><w:OperationTimeout>PT60S</w:OperationTimeout>\
         <w:SelectorSet>{keys}</w:SelectorSet></s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}

/// CIM-XML in CDATA; a type that ends in `[]` makes an array of one.
pub fn instance(class: &str, properties: &[(&str, &str, &str)]) -> String {
    let properties = properties.iter().fold(String::new(), |mut out, (name, kind, value)| {
        let value = value.replace('&', "&amp;").replace('<', "&lt;");
        let _ = match kind.strip_suffix("[]") {
            Some(kind) => write!(
                out,
                "<PROPERTY.ARRAY NAME=\"{name}\" TYPE=\"{kind}\"><VALUE.ARRAY><VALUE>{value}</VALUE></VALUE.ARRAY></PROPERTY.ARRAY>"
            ),
            None => write!(out, "<PROPERTY NAME=\"{name}\" TYPE=\"{kind}\"><VALUE>{value}</VALUE></PROPERTY>"),
        };
        out
    });
    format!("<![CDATA[<INSTANCE CLASSNAME=\"{class}\">{properties}</INSTANCE>]]>")
}

pub fn reference(name: &str, class: &str, keys: &[(&str, &str)]) -> String {
    let keys = keys.iter().fold(String::new(), |mut out, (name, value)| {
        let _ = write!(out, "<w:Selector Name=\"{name}\">{value}</w:Selector>");
        out
    });
    format!(
        "<p:{name}><a:Address>{ANONYMOUS}</a:Address><a:ReferenceParameters><w:ResourceURI>{P}/{class}</w:ResourceURI>\
         <w:SelectorSet>{keys}</w:SelectorSet></a:ReferenceParameters></p:{name}>"
    )
}

pub fn machine_reference(name: &str, id: &str) -> String {
    reference(name, "Msvm_ComputerSystem", &[("CreationClassName", "Msvm_ComputerSystem"), ("Name", id)])
}

pub fn settings_reference(name: &str, id: &str) -> String {
    reference(name, "Msvm_VirtualSystemSettingData", &[("InstanceID", &format!("Microsoft:{id}"))])
}
