//! What the tests of the console stand on.

use crate::backend::{Backend, DemoHost, DemoHosts, HostAccess, LocationOrder, NewLocation, Preflight};
use crate::{AppState, auth, router};
use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use db::testing::TestDatabase;
use db::{
    Database, DatastoreInput, DeviceId, DiskInput, InventoryInput, MachineInput, Method, NetworkInput, NewDevice,
    NewPoint, NewRepository, NewSession, Platform, PointId, RepositoryId, RunId, TaskInput, VmId,
};
use domain::SystemClock;
use domain::choice::Choice;
use domain::finding::{Finding, Severity};
use domain::job::JobError;
use domain::machine::{
    Controller, ControllerKind, DiskConfig, Firmware, MachineConfig, NetworkAdapter, PowerState, Quiesce,
};
use domain::mode::{Mode, Shutdown};
use domain::permission::Role;
use domain::point::{Consistency, PointKind};
use domain::retention::Retention;
use domain::schedule::Schedule;
use engine::RestoreOrder;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use tower::ServiceExt;
use uuid::Uuid;

pub const PASSWORD: &str = "correct horse battery";
pub const SETUP_TOKEN: &str = "one-time-token-of-this-test";
/// Stands in every secret of the tests; no page may ever show it.
pub const CANARY: &str = "canary-7f3a91";
pub const RECOVERY_KEY: &str = "RK-0000-1111-2222";
pub const FINGERPRINT: [u8; 32] = [0xab; 32];

/// Doubles: what they were asked, and what they answer.
#[derive(Default)]
pub struct Doubles {
    db: Mutex<Option<Database>>,
    pub passwords: Mutex<Vec<String>>,
    pub orders: Mutex<Vec<RestoreOrder>>,
    pub findings: Mutex<Vec<Finding>>,
    pub refuse: Mutex<Option<JobError>>,
    demos: Mutex<u16>,
    pub demos_removed: Mutex<Vec<u16>>,
    pub locations: Mutex<Vec<LocationOrder>>,
}

impl Doubles {
    fn answer<T>(&self, value: T) -> Result<T, JobError> {
        match self.refuse.lock().clone() {
            Some(error) => Err(error),
            None => Ok(value),
        }
    }
}

#[async_trait]
impl Backend for Doubles {
    async fn probe_certificate(&self, _: &str, _: u16) -> Result<[u8; 32], JobError> {
        self.answer(FINGERPRINT)
    }

    async fn preflight(&self, access: &HostAccess) -> Result<Preflight, JobError> {
        let expected = access.hyperv.has_certificate(access.platform).then_some(FINGERPRINT);
        assert_eq!(access.certificate_sha256, expected, "only the confirmed certificate");
        self.passwords.lock().push(access.password.expose_secret().to_owned());
        let product = match access.platform {
            Platform::Esxi => "VMware ESXi 8.0.2",
            Platform::HyperV => "Windows Server 2022",
        };
        self.answer(Preflight {
            product: product.to_owned(),
            api_version: "8.0.2.0".to_owned(),
            host_uuid: None,
            findings: self.findings.lock().clone(),
        })
    }

    async fn test_device(&self, _: DeviceId) -> Result<Preflight, JobError> {
        self.answer(Preflight::default())
    }

    async fn create_location(&self, order: LocationOrder) -> Result<NewLocation, JobError> {
        let db = self.db.lock().clone().unwrap();
        let repository_id = RepositoryId(Uuid::new_v4());
        let path = order.location.to_string();
        let new = NewRepository::folder(repository_id, &order.name, &path, order.passphrase.clone());
        let new = NewRepository { kind: order.location.kind().to_owned(), secret: order.secret.clone(), ..new };
        db.insert_repository(&new).await.unwrap();
        self.locations.lock().push(order);
        self.answer(NewLocation { repository_id, recovery_key: Some(SecretString::from(RECOVERY_KEY)), points: 0 })
    }

    async fn verify(&self, _: RepositoryId) -> Result<(), JobError> {
        self.answer(())
    }

    async fn collect(&self, _: RepositoryId) -> Result<(), JobError> {
        self.answer(())
    }

    async fn test_channel(&self, _: db::ChannelId) -> Result<Vec<(String, String)>, JobError> {
        self.answer(vec![("ops@example.org".to_owned(), "250 OK queued as 7".to_owned())])
    }

    async fn start_restore(&self, order: &RestoreOrder, started_by: &str) -> Result<RunId, JobError> {
        self.orders.lock().push(order.clone());
        let db = self.db.lock().clone().unwrap();
        let point = db.point(PointId(order.point_id)).await.unwrap();
        let restore = db::NewRestore {
            title: format!("Restore of {}", point.machine_name),
            machine_name: order.name.clone(),
            started_by: started_by.to_owned(),
            vm_id: point.vm_id,
            device_id: DeviceId(order.device_id),
            repository_id: point.repository_id,
            payload: serde_json::to_value(order).unwrap(),
        };
        let (run, _) = db.start_restore(&restore).await.unwrap();
        self.answer(run)
    }
}

#[async_trait]
impl DemoHosts for Doubles {
    async fn add(&self, _: Platform) -> Result<DemoHost, JobError> {
        let mut demos = self.demos.lock();
        *demos += 1;
        self.answer(DemoHost {
            name: format!("Simulated host {demos}"),
            host: "127.0.0.1".to_owned(),
            port: 9000 + *demos,
            account: "root".to_owned(),
            password: SecretString::from(format!("{CANARY}-demo")),
            certificate_sha256: FINGERPRINT,
            hyperv: db::HyperVAccess::default(),
        })
    }

    async fn remove(&self, port: u16) -> Result<(), JobError> {
        self.demos_removed.lock().push(port);
        self.answer(())
    }
}

/// One server.
pub struct World {
    pub database: TestDatabase,
    pub doubles: Arc<Doubles>,
    router: Router,
}

/// One browser.
pub struct Client {
    router: Router,
    cookies: Vec<(String, String)>,
}

/// What came back.
pub struct Answer {
    pub status: StatusCode,
    pub headers: header::HeaderMap,
    pub body: String,
}

impl World {
    pub async fn new() -> Self {
        let database = db::testing::database().await;
        let doubles = Arc::new(Doubles::default());
        *doubles.db.lock() = Some(database.database.clone());
        database.database.set_setup_token(auth::tokens::hash(SETUP_TOKEN)).await.unwrap();
        let given = AppState {
            db: database.database.clone(),
            backend: doubles.clone(),
            demo: doubles.clone(),
            clock: Arc::new(SystemClock),
            version: "0.0.0",
            server_name: "test-server".to_owned(),
            secure: true,
            certificate_sha256: Some(FINGERPRINT),
            time_zone: TimeZone::UTC,
            stopping: tokio_util::sync::CancellationToken::new(),
            workers_reach: Some(db::Reach {
                host: None,
                port: 5433,
                ssl_mode: "verify-ca".to_owned(),
                certificate: None,
            }),
            facts: Vec::new(),
        };
        Self { database, doubles, router: router(given) }
    }

    pub fn db(&self) -> &Database {
        &self.database.database
    }

    /// A browser without a session.
    pub fn anonymous(&self) -> Client {
        Client { router: self.router.clone(), cookies: Vec::new() }
    }

    /// A browser that is signed in; the account is made when it is not there. Without the cost of hashing.
    pub async fn client(&self, role: Role) -> Client {
        let name = format!("the {}", role.as_str());
        let account_id = match self.db().account_by_name(&name).await.unwrap() {
            Some((account, _)) => account.account_id,
            None => self.db().create_account(&name, role, &SecretString::from("no hash")).await.unwrap(),
        };
        let token = auth::tokens::random().unwrap();
        let session = NewSession {
            token_sha256: auth::tokens::hash(&token),
            account_id,
            form_token: &format!("form-{token}"),
            absolute: auth::SESSION_ABSOLUTE,
        };
        self.db().create_session(&session).await.unwrap();
        Client { router: self.router.clone(), cookies: vec![("__Host-stillframe".to_owned(), token)] }
    }

    pub async fn administrator(&self) -> Client {
        self.client(Role::Administrator).await
    }

    /// A device with these machines.
    pub async fn device(&self, name: &str, machines: Vec<MachineInput>) -> DeviceId {
        self.device_on(Platform::Esxi, name, machines).await
    }

    /// The same, of this platform.
    pub async fn device_on(&self, platform: Platform, name: &str, machines: Vec<MachineInput>) -> DeviceId {
        let device = self
            .db()
            .insert_device(&NewDevice {
                platform,
                name: name.to_owned(),
                host: format!("{}.example", name.to_lowercase()),
                port: 443,
                account: "root".to_owned(),
                password: SecretString::from(format!("{CANARY}-device")),
                certificate_sha256: Some(FINGERPRINT),
                hyperv: db::HyperVAccess::default(),
                simulated: false,
                preflight: db::Preflight::default(),
            })
            .await
            .unwrap();
        self.device_holds(device, machines).await;
        device
    }

    /// What the device holds from now on.
    pub async fn device_holds(&self, device: DeviceId, machines: Vec<MachineInput>) {
        let input = InventoryInput {
            machines,
            datastores: vec![DatastoreInput {
                reference: "ds-1".to_owned(),
                name: "datastore1".to_owned(),
                kind: "VMFS".to_owned(),
                capacity_bytes: 2_000_000_000_000,
                free_bytes: 1_000_000_000_000,
                accessible: true,
            }],
            networks: vec![NetworkInput { reference: "net-1".to_owned(), name: "VM Network".to_owned() }],
            ..InventoryInput::default()
        };
        self.db().apply_inventory(device, &input).await.unwrap();
    }

    pub async fn vm(&self, name: &str) -> VmId {
        let found = db::views::search(self.db(), name).await.unwrap();
        found.machines.iter().find(|machine| machine.1 == name).unwrap_or_else(|| panic!("no machine {name}")).0
    }

    pub async fn repository(&self, name: &str) -> RepositoryId {
        let repository_id = RepositoryId(Uuid::new_v4());
        let passphrase = SecretString::from(format!("{CANARY}-passphrase"));
        let new = NewRepository::folder(repository_id, name, &format!("/srv/{name}"), passphrase);
        self.db().insert_repository(&new).await.unwrap();
        repository_id
    }

    /// A restore point of the machine, as adopted from a manifest.
    pub async fn point(&self, repository: RepositoryId, vm: VmId, name: &str, taken_at: &str) -> PointId {
        let point_id = PointId(Uuid::new_v4());
        let config = machine(name, &[]).config;
        let point = NewPoint {
            point_id,
            repository_id: repository,
            vm_id: Some(vm),
            task_id: None,
            job_id: None,
            machine_name: name.to_owned(),
            machine_key: format!("key/{vm}"),
            taken_at: taken_at.parse::<Timestamp>().unwrap(),
            kind: PointKind::Full,
            consistency: Consistency::Crash,
            size_bytes: 20_000_000_000,
            bytes_read: 3_000_000_000,
            bytes_stored: 1_000_000_000,
            config,
            marks: Vec::new(),
            warnings: Vec::new(),
            simulated: false,
        };
        self.db().import_points(repository, &[point]).await.unwrap();
        point_id
    }
}

/// A task that runs every night and keeps the last three points.
pub fn task_input(name: &str, repository_id: RepositoryId, machines: Vec<VmId>) -> TaskInput {
    TaskInput {
        name: name.to_owned(),
        repository_id,
        schedule: Schedule::daily("22:00".parse().unwrap(), "UTC"),
        retention: Retention::KeepLast { count: 3 },
        method: Method::Incremental,
        full_every: 0,
        quiesce: Quiesce::Prefer,
        mode: Mode::Hot,
        shutdown: Shutdown::default(),
        goal_minutes: None,
        machines,
        priority: 0,
        choice: Choice::default(),
        excluded_disks: Vec::new(),
    }
}

/// A machine with one disk.
pub fn machine(name: &str, findings: &[Finding]) -> MachineInput {
    let id = Uuid::new_v4();
    MachineInput {
        reference: format!("vm-{id}"),
        config: MachineConfig {
            name: name.to_owned(),
            guest_id: "debian12_64Guest".to_owned(),
            firmware: Firmware::Efi,
            secure_boot: false,
            processors: 2,
            memory_mib: 2048,
            hardware_version: "vmx-19".to_owned(),
            instance_uuid: Some(id.to_string()),
            bios_uuid: None,
            notes: String::new(),
            controllers: vec![Controller { key: 1000, kind: ControllerKind::ParavirtualScsi, bus: 0 }],
            disks: vec![DiskConfig {
                key: 2000,
                label: "Hard disk 1".to_owned(),
                capacity_bytes: 20_000_000_000,
                controller_key: 1000,
                unit: 0,
                thin: true,
                ..DiskConfig::default()
            }],
            adapters: vec![NetworkAdapter {
                key: 4000,
                model: "VirtualVmxnet3".to_owned(),
                network: "VM Network".to_owned(),
                mac: None,
                connect_at_power_on: true,
                vlan: None,
            }],
            hyperv: None,
        },
        power: PowerState::On,
        guest_name: "Debian GNU/Linux 12".to_owned(),
        guest_address: None,
        folder: String::new(),
        pool: String::new(),
        disks: vec![DiskInput {
            disk_key: 2000,
            label: "Hard disk 1".to_owned(),
            capacity_bytes: 20_000_000_000,
            datastore: "datastore1".to_owned(),
            path: format!("[datastore1] {name}/{name}.vmdk"),
            uuid: None,
        }],
        tracking_enabled: true,
        findings: findings.to_vec(),
    }
}

pub fn blocker(message: &str) -> Finding {
    Finding {
        severity: Severity::Blocker,
        code: "rdm".to_owned(),
        message: message.to_owned(),
        hint: "Detach it.".to_owned(),
    }
}

impl Client {
    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(path)).await
    }

    /// With one more header.
    pub async fn get_with(&mut self, path: &str, name: header::HeaderName, value: Option<&str>) -> Answer {
        let builder = Request::get(path);
        self.send(match value {
            Some(value) => builder.header(name, value),
            None => builder,
        })
        .await
    }

    async fn send(&mut self, builder: axum::http::request::Builder) -> Answer {
        let request = self.with_cookies(builder).body(Body::empty()).unwrap();
        self.run(request).await
    }

    fn with_cookies(&self, builder: axum::http::request::Builder) -> axum::http::request::Builder {
        let line: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let builder = builder.header(header::HOST, "sf.example");
        if line.is_empty() { builder } else { builder.header(header::COOKIE, line.join("; ")) }
    }

    /// The token of this browser's forms.
    pub fn form_token(&self) -> String {
        let value = |name: &str| self.cookies.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        match value("__Host-stillframe") {
            Some(session) => format!("form-{session}"),
            None => value("__Host-stillframe-gate").unwrap_or_default(),
        }
    }

    /// Sends a form with its token from a page of this server.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let token = self.form_token();
        self.post_from(path, fields, Some("https://sf.example"), &token).await
    }

    pub async fn post_from(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        origin: Option<&str>,
        token: &str,
    ) -> Answer {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.append_pair("form_token", token).extend_pairs(fields);
        let mut builder =
            self.with_cookies(Request::post(path)).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(origin) = origin {
            builder = builder.header(header::ORIGIN, origin);
        }
        self.run(builder.body(Body::from(body.finish())).unwrap()).await
    }

    /// As a program asks that shows a token.
    pub async fn post_json(&mut self, path: &str, token: &str, body: &str) -> Answer {
        let builder = self.with_cookies(Request::post(path)).header(header::AUTHORIZATION, format!("Bearer {token}"));
        self.run(builder.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn run(&mut self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        for line in parts.headers.get_all(header::SET_COOKIE) {
            let pair = line.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.retain(|(key, _)| key != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let bytes = to_bytes(body, 8 << 20).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&bytes).into_owned() }
    }

    /// Uses the form token that the page shows, as a browser does.
    pub fn has_cookie(&self, name: &str) -> bool {
        self.cookies.iter().any(|(key, _)| key == name)
    }
}

impl Answer {
    pub fn location(&self) -> &str {
        self.headers.get(header::LOCATION).map_or("", |value| value.to_str().unwrap())
    }

    /// A redirect after a form that was taken; its address.
    #[track_caller]
    pub fn went_to(&self) -> String {
        assert_eq!(self.status, StatusCode::SEE_OTHER, "{}", self.body);
        self.location().to_owned()
    }

    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }

    /// A form that has to be corrected.
    #[track_caller]
    pub fn again(self) -> String {
        assert_eq!(self.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", self.body);
        self.body
    }
}
