//! Adding a device: address and account → the certificate, compared by a person → what the host says → saved.
//! The password waits in memory between the steps and is sent to no host whose certificate was not confirmed.

use super::devices::{address_problems, conflict, record};
use super::{devices, form_again, go, page};
use crate::auth::Session;
use crate::backend::{HostAccess, Preflight};
use crate::failure::{Failure, Result};
use crate::form::{Fields, Problems};
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui;
use askama::Template;
use axum::extract::{Path, State};
use db::{DraftId, DraftKind, HyperVAccess, NewDevice, Platform};
use domain::finding::Severity;
use domain::job::{JobError, JobKind};
use serde::{Deserialize, Serialize};

/// Platforms that may be added, the first by default. A new one is offered to operators by its place in this list; the page
/// then shows the choice. Its driver is chosen in the engine's `drivers.rs`.
pub(super) const OFFERED: [Platform; 1] = [Platform::Esxi];

/// Port of a platform's API over TLS.
const fn default_port(platform: Platform) -> u16 {
    match platform {
        Platform::Esxi => 443,
        Platform::HyperV => 5986,
    }
}

/// Answers so far. No password.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Answers {
    #[serde(default)]
    platform: Platform,
    name: String,
    host: String,
    port: String,
    account: String,
    /// What answered at that address, in hex.
    certificate: Option<String>,
}

#[derive(Template)]
#[template(path = "devices/new_address.html")]
struct AddressStep {
    shell: Shell,
    answers: Answers,
    problems: Problems,
    problem: Option<JobError>,
}

#[derive(Template)]
#[template(path = "devices/new_certificate.html")]
struct CertificateStep {
    shell: Shell,
    draft: DraftId,
    answers: Answers,
    sha256: [u8; 32],
    problem: Option<JobError>,
}

#[derive(Template)]
#[template(path = "devices/new_result.html")]
struct ResultStep {
    shell: Shell,
    draft: DraftId,
    answers: Answers,
    preflight: Preflight,
}

async fn shell(app: &App, session: &Session) -> Result<Shell> {
    Shell::new(app, session, Section::Devices, "Add a device").await
}

/// `GET /devices/new`
pub async fn address(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let platform = OFFERED[0];
    let mut answers = Answers { platform, port: default_port(platform).to_string(), ..Answers::default() };
    if let Ok(id) = fields.get("draft").parse::<DraftId>() {
        answers = load(&app, &session, id).await?;
    }
    page(&AddressStep { shell: shell(&app, &session).await?, answers, problems: Problems::default(), problem: None })
}

/// `POST /devices/new`
pub async fn probe(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let wanted = fields.get("platform");
    let mut answers = Answers {
        platform: OFFERED.into_iter().find(|platform| platform.as_str() == wanted).unwrap_or(OFFERED[0]),
        name: fields.get("name").to_owned(),
        host: fields.get("host").to_owned(),
        port: fields.get("port").to_owned(),
        account: fields.get("account").to_owned(),
        certificate: None,
    };
    if answers.name.is_empty() {
        answers.name.clone_from(&answers.host);
    }
    let mut problems = address_problems(&answers.name, &answers.host, &answers.port, &answers.account);
    if !fields.has("password") {
        problems.add("password", "The password is missing.");
    }
    let mut problem = None;
    if let (true, Some(port)) = (problems.is_empty(), fields.number::<u16>("port")) {
        match app.given.backend.probe_certificate(&answers.host, port).await {
            Ok(sha256) => {
                answers.certificate = Some(hex::encode(sha256));
                let data = serde_json::to_value(&answers).map_err(|_| Failure::Internal("a draft"))?;
                let id = app.db().create_draft(session.account_id, DraftKind::Device, &data).await?;
                app.pending.put(id.0, fields.secret("password"), app.now());
                return go(format!("/devices/new/{id}/certificate"));
            }
            Err(error) => problem = Some(error),
        }
    }
    form_again(&AddressStep { shell: shell(&app, &session).await?, answers, problems, problem })
}

async fn load(app: &App, session: &Session, id: DraftId) -> Result<Answers> {
    let draft = app.db().draft(id, session.account_id).await?;
    serde_json::from_value(draft.data).map_err(|_| Failure::NotFound)
}

fn confirmed(answers: &Answers) -> Result<[u8; 32]> {
    let hex = answers.certificate.as_deref().ok_or(Failure::NotFound)?;
    hex::decode(hex).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(Failure::NotFound)
}

/// `GET /devices/new/{draft}/certificate`
pub async fn certificate(State(app): State<App>, session: Session, Path(draft): Path<DraftId>) -> Result {
    let answers = load(&app, &session, draft).await?;
    let sha256 = confirmed(&answers)?;
    page(&CertificateStep { shell: shell(&app, &session).await?, draft, answers, sha256, problem: None })
}

/// `POST /devices/new/{draft}/certificate`: compared; now sign in.
pub async fn check(State(app): State<App>, session: Session, Path(draft): Path<DraftId>) -> Result {
    let answers = load(&app, &session, draft).await?;
    let sha256 = confirmed(&answers)?;
    let access = match access(&app, draft, &answers, sha256) {
        Ok(access) => access,
        Err(again) => return go(again),
    };
    match app.given.backend.preflight(&access).await {
        Ok(preflight) => page(&ResultStep { shell: shell(&app, &session).await?, draft, answers, preflight }),
        Err(problem) => {
            let shell = shell(&app, &session).await?;
            form_again(&CertificateStep { shell, draft, answers, sha256, problem: Some(problem) })
        }
    }
}

/// The access data, or the address of the first step when the password is no longer held.
fn access(app: &App, draft: DraftId, answers: &Answers, certificate_sha256: [u8; 32]) -> Result<HostAccess, String> {
    let again = || format!("/devices/new?draft={draft}");
    let password = app.pending.get(draft.0, app.now()).ok_or_else(again)?;
    let port = answers.port.parse().map_err(|_| again())?;
    Ok(HostAccess {
        platform: answers.platform,
        host: answers.host.clone(),
        port,
        account: answers.account.clone(),
        password,
        certificate_sha256: Some(certificate_sha256),
        hyperv: HyperVAccess::default(),
    })
}

/// `POST /devices/new/{draft}/save`
pub async fn save(State(app): State<App>, session: Session, Path(draft): Path<DraftId>) -> Result {
    let answers = load(&app, &session, draft).await?;
    let sha256 = confirmed(&answers)?;
    let access = match access(&app, draft, &answers, sha256) {
        Ok(access) => access,
        Err(again) => return go(again),
    };
    // Once more, and not from a field of the form: what is stored is what the host said.
    let preflight = match app.given.backend.preflight(&access).await {
        Ok(preflight) => preflight,
        Err(problem) => {
            let shell = shell(&app, &session).await?;
            return form_again(&CertificateStep { shell, draft, answers, sha256, problem: Some(problem) });
        }
    };
    let new = NewDevice {
        platform: access.platform,
        name: answers.name.clone(),
        host: access.host,
        port: access.port,
        account: access.account,
        password: access.password,
        certificate_sha256: Some(sha256),
        hyperv: access.hyperv,
        // A simulated host says so itself, also when it is added by its address.
        simulated: preflight.product.contains("simulated by Stillframe"),
        preflight,
    };
    let device = match app.db().insert_device(&new).await {
        Ok(device) => device,
        Err(error) => {
            let mut problems = Problems::default();
            conflict(error, &mut problems)?;
            let shell = shell(&app, &session).await?;
            return form_again(&AddressStep { shell, answers, problems, problem: None });
        }
    };
    app.pending.forget(draft.0);
    app.db().delete_draft(draft, session.account_id).await?;
    app.db().enqueue_housekeeping(JobKind::Inventory, device).await?;
    record(&app, &session, "device.added", &new.name, &new.host).await?;
    go(format!("/devices/{device}?said=device-added"))
}

/// To choose from; none when there is no choice.
fn platforms() -> Vec<(Platform, &'static str)> {
    let word = |platform| match platform {
        Platform::Esxi => "VMware ESXi",
        Platform::HyperV => "Microsoft Hyper-V",
    };
    if OFFERED.len() < 2 {
        return Vec::new();
    }
    OFFERED.into_iter().map(|platform| (platform, word(platform))).collect()
}

impl ResultStep {
    fn blocked(&self) -> bool {
        self.preflight.findings.iter().any(|finding| finding.severity == Severity::Blocker)
    }
}
