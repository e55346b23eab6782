//! Adding a device: address and account → the certificate, compared by a person → what the host says → saved.
//! The password waits in memory between the steps and is sent to no host whose certificate was not confirmed.

use super::device_place::Place;
use super::devices::{conflict, record};
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
use db::{DraftId, DraftKind, NewDevice, Platform};
use domain::finding::Severity;
use domain::job::{JobError, JobKind};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// Platforms that may be added, the first by default: the word of the address, and the name.
const OFFERED: [(Platform, &str); 2] = [(Platform::Esxi, "VMware ESXi"), (Platform::HyperV, "Microsoft Hyper-V")];

/// Answers so far. No password.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Answers {
    #[serde(flatten)]
    place: Place,
    /// What answered at that address, in hex; none where there is no TLS.
    certificate: Option<String>,
}

#[derive(Template)]
#[template(path = "devices/new_address.html")]
struct AddressStep {
    shell: Shell,
    place: Place,
    problems: Problems,
    problem: Option<JobError>,
}

#[derive(Template)]
#[template(path = "devices/new_certificate.html")]
struct CertificateStep {
    shell: Shell,
    draft: DraftId,
    place: Place,
    sha256: [u8; 32],
    problem: Option<JobError>,
}

#[derive(Template)]
#[template(path = "devices/new_result.html")]
struct ResultStep {
    shell: Shell,
    draft: DraftId,
    place: Place,
    preflight: Preflight,
}

async fn shell(app: &App, session: &Session) -> Result<Shell> {
    Shell::new(app, session, Section::Devices, "Add a device").await
}

fn platform_of(fields: &Fields) -> Platform {
    let wanted = fields.get("platform");
    OFFERED.into_iter().map(|offered| offered.0).find(|platform| platform.as_str() == wanted).unwrap_or_default()
}

/// `GET /devices/new`
pub async fn address(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let mut place = Place::of_platform(platform_of(&fields));
    if let Ok(id) = fields.get("draft").parse::<DraftId>() {
        place = load(&app, &session, id).await?.place;
    }
    page(&AddressStep { shell: shell(&app, &session).await?, place, problems: Problems::default(), problem: None })
}

/// `POST /devices/new`: the certificate is asked for, or, where there is none, the host itself.
pub async fn probe(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let mut place = Place::read(platform_of(&fields), &fields);
    if place.name.is_empty() {
        place.name.clone_from(&place.host);
    }
    let mut problems = place.problems();
    if !fields.has("password") {
        problems.add("password", "The password is missing.");
    }
    let mut problem = None;
    if let (true, Some(port)) = (problems.is_empty(), place.port()) {
        let found = if place.has_certificate() {
            app.given.backend.probe_certificate(&place.host, port).await.map(|sha256| (Some(hex::encode(sha256)), None))
        } else {
            let access = access_with(&place, fields.secret("password"), None).ok_or(Failure::NotFound)?;
            app.given.backend.preflight(&access).await.map(|preflight| (None, Some(preflight)))
        };
        match found {
            Ok((certificate, preflight)) => {
                let answers = Answers { place, certificate };
                let data = serde_json::to_value(&answers).map_err(|_| Failure::Internal("a draft"))?;
                let draft = app.db().create_draft(session.account_id, DraftKind::Device, &data).await?;
                app.pending.put(draft.0, fields.secret("password"), app.now());
                let Some(preflight) = preflight else { return go(format!("/devices/new/{draft}/certificate")) };
                let place = answers.place;
                return page(&ResultStep { shell: shell(&app, &session).await?, draft, place, preflight });
            }
            Err(error) => problem = Some(error),
        }
    }
    form_again(&AddressStep { shell: shell(&app, &session).await?, place, problems, problem })
}

async fn load(app: &App, session: &Session, id: DraftId) -> Result<Answers> {
    let draft = app.db().draft(id, session.account_id).await?;
    serde_json::from_value(draft.data).map_err(|_| Failure::NotFound)
}

/// The certificate that was shown; not found where there is none to compare.
fn shown(answers: &Answers) -> Result<[u8; 32]> {
    let hex = answers.certificate.as_deref().filter(|_| answers.place.has_certificate()).ok_or(Failure::NotFound)?;
    hex::decode(hex).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(Failure::NotFound)
}

/// `GET /devices/new/{draft}/certificate`
pub async fn certificate(State(app): State<App>, session: Session, Path(draft): Path<DraftId>) -> Result {
    let answers = load(&app, &session, draft).await?;
    let sha256 = shown(&answers)?;
    let place = answers.place;
    page(&CertificateStep { shell: shell(&app, &session).await?, draft, place, sha256, problem: None })
}

/// `POST /devices/new/{draft}/certificate`: compared; now sign in.
pub async fn check(State(app): State<App>, session: Session, Path(draft): Path<DraftId>) -> Result {
    let answers = load(&app, &session, draft).await?;
    let sha256 = shown(&answers)?;
    let access = match access(&app, draft, &answers.place, Some(sha256)) {
        Ok(access) => access,
        Err(again) => return go(again),
    };
    match app.given.backend.preflight(&access).await {
        Ok(preflight) => {
            page(&ResultStep { shell: shell(&app, &session).await?, draft, place: answers.place, preflight })
        }
        Err(problem) => refused(&app, &session, draft, answers, problem).await,
    }
}

/// The host refuses: shown where it can be mended.
async fn refused(app: &App, session: &Session, draft: DraftId, answers: Answers, problem: JobError) -> Result {
    let shell = shell(app, session).await?;
    let (sha256, place, problem) = (shown(&answers), answers.place, Some(problem));
    match sha256 {
        Ok(sha256) => form_again(&CertificateStep { shell, draft, place, sha256, problem }),
        Err(_) => form_again(&AddressStep { shell, place, problems: Problems::default(), problem }),
    }
}

/// The access data, or the address of the first step when the password is no longer held.
fn access(app: &App, draft: DraftId, place: &Place, certificate: Option<[u8; 32]>) -> Result<HostAccess, String> {
    let again = || format!("/devices/new?draft={draft}");
    let password = app.pending.get(draft.0, app.now()).ok_or_else(again)?;
    access_with(place, password, certificate).ok_or_else(again)
}

fn access_with(place: &Place, password: SecretString, certificate_sha256: Option<[u8; 32]>) -> Option<HostAccess> {
    Some(HostAccess {
        platform: place.platform,
        host: place.host.clone(),
        port: place.port()?,
        account: place.account.clone(),
        password,
        certificate_sha256,
        hyperv: place.hyperv()?,
    })
}

/// `POST /devices/new/{draft}/save`
pub async fn save(State(app): State<App>, session: Session, Path(draft): Path<DraftId>) -> Result {
    let answers = load(&app, &session, draft).await?;
    let sha256 = if answers.place.has_certificate() { Some(shown(&answers)?) } else { None };
    let access = match access(&app, draft, &answers.place, sha256) {
        Ok(access) => access,
        Err(again) => return go(again),
    };
    // Once more, and not from a field of the form: what is stored is what the host said.
    let preflight = match app.given.backend.preflight(&access).await {
        Ok(preflight) => preflight,
        Err(problem) => return refused(&app, &session, draft, answers, problem).await,
    };
    let place = answers.place;
    let new = NewDevice {
        platform: access.platform,
        name: place.name.clone(),
        host: access.host,
        port: access.port,
        account: access.account,
        password: access.password,
        certificate_sha256: access.certificate_sha256,
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
            return form_again(&AddressStep { shell, place, problems, problem: None });
        }
    };
    app.pending.forget(draft.0);
    app.db().delete_draft(draft, session.account_id).await?;
    app.db().enqueue_housekeeping(JobKind::Inventory, device).await?;
    record(&app, &session, "device.added", &new.name, &new.host).await?;
    go(format!("/devices/{device}?said=device-added"))
}

impl ResultStep {
    fn blocked(&self) -> bool {
        self.preflight.findings.iter().any(|finding| finding.severity == Severity::Blocker)
    }
}
