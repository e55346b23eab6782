//! Devices: the list, one device, and what can be done with it.

use super::device_limits::LimitFields;
use super::device_place::{Place, transport_words, usual_port};
use super::{form_again, go, page};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::{Fields, Problems};
use crate::format;
use crate::format::Of;
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui::{self, Html, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::views::{self, DeviceLine, DevicePage};
use db::{Audit, DeviceId, DeviceUpdate, FullReads, NewDevice, Platform, Transport};
use domain::finding::{Finding, Severity};
use domain::job::{JobError, JobKind};
use domain::machine::PowerState;

/// Hosts of our own for a first try, and the words of their buttons.
pub const SIMULATED: [(Platform, &str); 2] =
    [(Platform::Esxi, "Simulated ESXi"), (Platform::HyperV, "Simulated Hyper-V")];

#[derive(Template)]
#[template(path = "devices/list.html")]
struct List {
    shell: Shell,
    devices: Vec<DeviceLine>,
    problem: Option<JobError>,
}

#[derive(Template)]
#[template(path = "devices/page.html")]
struct One {
    shell: Shell,
    device: DevicePage,
    problem: Option<JobError>,
    in_use: Vec<String>,
}

#[derive(Template)]
#[template(path = "devices/edit.html")]
struct Edit {
    shell: Shell,
    device: DevicePage,
    place: Place,
    full_reads: String,
    limits: LimitFields,
    /// The certificate that answered where none was confirmed yet.
    found: Option<[u8; 32]>,
    problem: Option<JobError>,
    problems: Problems,
}

#[derive(Template)]
#[template(path = "devices/certificate.html")]
struct Certificate {
    shell: Shell,
    device: DevicePage,
    pinned: [u8; 32],
    found: Option<[u8; 32]>,
    problem: Option<JobError>,
}

impl Certificate {
    fn is_pinned(&self, found: &[u8; 32]) -> bool {
        self.pinned == *found
    }
}

/// The tone of a finding.
pub const fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Blocker => Tone::Bad,
        Severity::Warning => Tone::Warn,
        Severity::Info => Tone::Idle,
    }
}

/// State of a device in one word.
fn state(device: &DeviceLine) -> Html {
    let blocked = device.findings.iter().any(|finding| finding.severity == Severity::Blocker);
    if !device.enabled {
        ui::st(Tone::Idle, "Disabled")
    } else if device.sync_error.is_some() {
        ui::st(Tone::Bad, "Does not answer")
    } else if blocked {
        ui::st(Tone::Bad, "No backup possible")
    } else if device.synced_at.is_none() {
        ui::st(Tone::Run, "Being read")
    } else if device.findings.iter().any(|finding| finding.severity == Severity::Warning) {
        ui::st(Tone::Warn, "Works, with a remark")
    } else {
        ui::st(Tone::Ok, "Ready")
    }
}

/// Power state in one word.
pub fn power_word(power: impl Of<PowerState>) -> &'static str {
    match power.value() {
        PowerState::On => "on",
        PowerState::Off => "off",
        PowerState::Suspended => "suspended",
    }
}

/// `GET /devices`
pub async fn list(State(app): State<App>, session: Session) -> Result {
    let devices = views::devices(app.db()).await?;
    let shell = Shell::new(&app, &session, Section::Devices, "Devices").await?;
    page(&List { shell, devices, problem: None })
}

/// `POST /devices/simulated`
pub async fn add_simulated(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let word = fields.get("platform");
    let wanted = SIMULATED.into_iter().map(|it| it.0).find(|it| it.as_str() == word).unwrap_or_default();
    let host = match app.given.demo.add(wanted).await {
        Ok(host) => host,
        Err(problem) => {
            let devices = views::devices(app.db()).await?;
            let shell = Shell::new(&app, &session, Section::Devices, "Devices").await?;
            return form_again(&List { shell, devices, problem: Some(problem) });
        }
    };
    let new = NewDevice {
        platform: wanted,
        name: host.name,
        host: host.host,
        port: host.port,
        account: host.account,
        password: host.password,
        certificate_sha256: Some(host.certificate_sha256),
        hyperv: host.hyperv,
        simulated: true,
        preflight: db::Preflight::default(),
    };
    let device = app.db().insert_device(&new).await?;
    app.db().enqueue_housekeeping(JobKind::Inventory, device).await?;
    record(&app, &session, "device.added", &new.name, "simulated").await?;
    go(format!("/devices/{device}?said=device-added"))
}

async fn load(app: &App, device: DeviceId) -> Result<DevicePage> {
    views::device_page(app.db(), device).await?.ok_or(Failure::NotFound)
}

async fn show(
    app: &App,
    session: &Session,
    device: DevicePage,
    problem: Option<JobError>,
    in_use: Vec<String>,
) -> Result {
    let shell = Shell::new(app, session, Section::Devices, device.name.clone()).await?;
    let failed = problem.is_some() || !in_use.is_empty();
    let template = One { shell, device, problem, in_use };
    if failed { form_again(&template) } else { page(&template) }
}

/// `GET /devices/{id}`
pub async fn one(State(app): State<App>, session: Session, Path(device): Path<DeviceId>) -> Result {
    let device = load(&app, device).await?;
    show(&app, &session, device, None, Vec::new()).await
}

/// `POST /devices/{id}/sync`
pub async fn sync(State(app): State<App>, session: Session, Path(device): Path<DeviceId>) -> Result {
    app.db().enqueue_housekeeping(JobKind::Inventory, device).await?;
    record(&app, &session, "device.synchronised", &device.to_string(), "").await?;
    go(format!("/devices/{device}?said=sync-queued"))
}

/// `POST /devices/{id}/test`
pub async fn test(State(app): State<App>, session: Session, Path(device): Path<DeviceId>) -> Result {
    load(&app, device).await?;
    match app.given.backend.test_device(device).await {
        Ok(_) => go(format!("/devices/{device}?said=device-tested")),
        Err(problem) => {
            let device = load(&app, device).await?;
            show(&app, &session, device, Some(problem), Vec::new()).await
        }
    }
}

/// `POST /devices/{id}/enable`
pub async fn enable(State(app): State<App>, session: Session, Path(device): Path<DeviceId>) -> Result {
    app.db().set_device_enabled(device, true).await?;
    app.db().enqueue_housekeeping(JobKind::Inventory, device).await?;
    record(&app, &session, "device.enabled", &device.to_string(), "").await?;
    go(format!("/devices/{device}?said=device-saved"))
}

/// `POST /devices/{id}/disable`
pub async fn disable(State(app): State<App>, session: Session, Path(device): Path<DeviceId>) -> Result {
    app.db().set_device_enabled(device, false).await?;
    record(&app, &session, "device.disabled", &device.to_string(), "").await?;
    go(format!("/devices/{device}?said=device-saved"))
}

/// `POST /devices/{id}/remove`
pub async fn remove(State(app): State<App>, session: Session, Path(device): Path<DeviceId>) -> Result {
    let before = load(&app, device).await?;
    match app.db().remove_device(device).await {
        Ok(()) => {
            record(&app, &session, "device.removed", &before.name, &before.host).await?;
            if before.simulated
                && let Err(error) = app.given.demo.remove(u16::try_from(before.port).unwrap_or_default()).await
            {
                // The device is gone from the console either way; what stays is a folder.
                tracing::warn!(device = before.name, %error, "the simulated host was not removed");
            }
            go("/devices?said=device-removed")
        }
        Err(db::Error::InUse { by, .. }) => show(&app, &session, before, None, by).await,
        Err(error) => Err(error.into()),
    }
}

/// `GET /devices/{id}/edit`
pub async fn edit(State(app): State<App>, session: Session, Path(device): Path<DeviceId>) -> Result {
    let device = load(&app, device).await?;
    let id = device.device_id;
    let (limits, bandwidth, tag) =
        tokio::try_join!(app.db().device_limits(id), app.db().device_bandwidth(id), app.db().device_worker_tag(id))?;
    let shell = Shell::new(&app, &session, Section::Devices, format!("Change {}", device.name)).await?;
    page(&Edit {
        shell,
        place: Place::of(&device),
        full_reads: device.full_reads.clone(),
        limits: LimitFields::of(&device, limits, &bandwidth, tag),
        device,
        found: None,
        problem: None,
        problems: Problems::default(),
    })
}

/// `POST /devices/{id}/edit`
pub async fn save(State(app): State<App>, session: Session, Path(id): Path<DeviceId>, fields: Fields) -> Result {
    let device = load(&app, id).await?;
    let place = Place::read(device.platform, &fields);
    let mut problems = place.problems();
    let typed = LimitFields::read(&fields);
    let limits = typed.limits(&mut problems);
    let bandwidth = typed.bandwidth(&app.times().zone_name(), &mut problems);
    let tag = typed.tag(&mut problems);
    let everything = fields.get("full_reads") == "everything";
    if moved(&device, &place) && !fields.has("password") {
        // Or a stolen session could send the stored password to a host of its own.
        problems.add("password", "The address or the connection changed: type the password again.");
    }
    let mut asked = Asked::default();
    if problems.is_empty() {
        asked = certificate_for(&app, &device, &place, &fields).await;
        if asked.certificate.is_none() && place.has_certificate() {
            problems.add("accept", "Compare the certificate, and type the password again.");
        }
    }
    if let (true, Some((max_jobs, limits)), Some(bandwidth), Some(port), Some(hyperv)) =
        (problems.is_empty(), limits, bandwidth, place.port(), place.hyperv())
    {
        let update = DeviceUpdate {
            name: place.name.clone(),
            host: place.host.clone(),
            port,
            account: place.account.clone(),
            password: fields.has("password").then(|| fields.secret("password")),
            certificate_sha256: asked.certificate,
            hyperv,
            full_reads: if everything { FullReads::Everything } else { FullReads::Allocated },
            max_jobs,
        };
        match app.db().update_device(id, &update).await {
            Ok(()) => {
                app.db().set_device_limits(id, limits).await?;
                app.db().set_device_bandwidth(id, &bandwidth).await?;
                app.db().set_device_worker_tag(id, tag.as_deref()).await?;
                record(&app, &session, "device.changed", &update.name, &update.host).await?;
                app.db().enqueue_housekeeping(JobKind::Inventory, id).await?;
                return go(format!("/devices/{id}?said=device-saved"));
            }
            Err(error) => conflict(error, &mut problems)?,
        }
    }
    let shell = Shell::new(&app, &session, Section::Devices, format!("Change {}", device.name)).await?;
    let full_reads = fields.get("full_reads").to_owned();
    let Asked { found, problem, .. } = asked;
    form_again(&Edit { shell, device, place, full_reads, limits: typed, found, problem, problems })
}

/// Whether the password would go another way than it did.
fn moved(device: &DevicePage, place: &Place) -> bool {
    let hyperv = place.is_hyperv().then_some(device.hyperv);
    place.host != device.host
        || place.port != device.port.to_string()
        || hyperv.is_some_and(|before| place.hyperv() != Some(before))
}

/// The certificate to accept, or what answered and has to be compared first.
#[derive(Default)]
struct Asked {
    certificate: Option<[u8; 32]>,
    found: Option<[u8; 32]>,
    problem: Option<JobError>,
}

/// A device that was reached without TLS has no certificate yet: what answers is shown and compared like a new device's.
async fn certificate_for(app: &App, device: &DevicePage, place: &Place, fields: &Fields) -> Asked {
    if !place.has_certificate() {
        return Asked::default();
    }
    if let Some(certificate) = device.certificate_sha256.or_else(|| fingerprint_in(fields, "accept")) {
        return Asked { certificate: Some(certificate), ..Asked::default() };
    }
    match app.given.backend.probe_certificate(&place.host, place.port().unwrap_or_default()).await {
        Ok(found) => Asked { found: Some(found), ..Asked::default() },
        Err(problem) => Asked { problem: Some(problem), ..Asked::default() },
    }
}

fn fingerprint_in(fields: &Fields, name: &str) -> Option<[u8; 32]> {
    hex::decode(fields.get(name)).ok().and_then(|bytes| bytes.try_into().ok())
}

/// `GET /devices/{id}/certificate`: what answers there now.
pub async fn certificate(State(app): State<App>, session: Session, Path(device): Path<DeviceId>) -> Result {
    let device = load(&app, device).await?;
    let pinned = device.certificate_sha256.ok_or(Failure::NotFound)?;
    let (found, problem) = match app.given.backend.probe_certificate(&device.host, port_of(&device)).await {
        Ok(found) => (Some(found), None),
        Err(problem) => (None, Some(problem)),
    };
    let shell = Shell::new(&app, &session, Section::Devices, format!("Certificate of {}", device.name)).await?;
    page(&Certificate { shell, device, pinned, found, problem })
}

/// `POST /devices/{id}/certificate`: the operator has compared it.
pub async fn accept_certificate(
    State(app): State<App>,
    session: Session,
    Path(id): Path<DeviceId>,
    fields: Fields,
) -> Result {
    let accepted = fingerprint_in(&fields, "sha256");
    let accepted = accepted.ok_or_else(|| Failure::Refused("This is not a fingerprint.".to_owned()))?;
    let device = app.db().device(id).await?;
    if !device.hyperv.has_certificate(device.platform) {
        return Err(Failure::NotFound);
    }
    let update = DeviceUpdate {
        name: device.name.clone(),
        host: device.host,
        port: device.port,
        account: device.account,
        password: None,
        certificate_sha256: Some(accepted),
        hyperv: device.hyperv,
        full_reads: device.full_reads,
        max_jobs: device.max_jobs,
    };
    app.db().update_device(id, &update).await?;
    record(&app, &session, "device.certificate_accepted", &device.name, &ui::fingerprint(accepted)).await?;
    app.db().enqueue_housekeeping(JobKind::Inventory, id).await?;
    go(format!("/devices/{id}?said=device-saved"))
}

/// A rule of uniqueness becomes a problem of its field; other errors stay errors.
pub fn conflict(error: db::Error, problems: &mut Problems) -> Result<()> {
    match error {
        db::Error::Conflict(db::Conflict::DeviceName) => problems.add("name", "Another device has this name."),
        db::Error::Conflict(db::Conflict::DeviceAddress) => {
            problems.add("host", "A device with this address and port exists already.");
        }
        error => return Err(error.into()),
    }
    Ok(())
}

fn is_usual_port(device: &DeviceLine) -> bool {
    i32::from(usual_port(device.platform, device.transport)) == device.port
}

fn connection(transport: impl Of<Transport>) -> &'static str {
    transport_words(transport.value()).0
}

fn port_of(device: &DevicePage) -> u16 {
    u16::try_from(device.port).unwrap_or_default()
}

/// Notes who changed what.
pub async fn record(app: &App, session: &Session, action: &str, subject: &str, detail: &str) -> Result<()> {
    let entry = Audit { account_id: Some(session.account_id), actor: &session.name, action, subject, detail };
    Ok(app.db().audit(&entry).await?)
}

/// Findings as a list, worst first.
pub fn findings(list: &[Finding]) -> Html {
    use std::fmt::Write as _;
    let mut sorted: Vec<&Finding> = list.iter().collect();
    sorted.sort_by_key(|finding| finding.severity);
    let mut out = String::from(r#"<ul class="checks">"#);
    for finding in sorted {
        let word = match finding.severity {
            Severity::Blocker => "Error: ",
            Severity::Warning => "Warning: ",
            Severity::Info => "",
        };
        let _ = write!(
            out,
            r#"<li>{}<span class="strong wrap-any"><span class="visually-hidden">{word}</span>{}</span><span class="d wrap-any">{}</span></li>"#,
            tone(finding.severity).icon(),
            ui::escape(&format::sentence(&finding.message)),
            ui::escape(&format::sentence(&finding.hint))
        );
    }
    out.push_str("</ul>");
    Html(out)
}

/// What / Why / What to do.
pub fn why(error: &JobError) -> Html {
    let part = |name: &str, text: &str| {
        if text.is_empty() { String::new() } else { format!("<dt>{name}</dt><dd>{}</dd>", ui::escape(text)) }
    };
    Html(format!(
        r#"<dl class="why">{}{}{}</dl>"#,
        part("What", &error.what),
        part("Why", &error.why),
        part("What to do", &error.hint)
    ))
}

/// Something forbids a backup.
pub fn is_blocked(list: &[Finding]) -> bool {
    list.iter().any(|finding| finding.severity == Severity::Blocker)
}

/// The worst finding's sentence.
pub fn first_message(list: &[Finding]) -> String {
    list.iter()
        .min_by_key(|finding| finding.severity)
        .map(|finding| format::sentence(&finding.message))
        .unwrap_or_default()
}
