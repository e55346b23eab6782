//! Servers and workers: who works, how busy they are, and how another one comes in.

use super::devices::record;
use super::{go, page};
use crate::auth::{Session, tokens};
use crate::failure::{Bare, Failure, Result};
use crate::format;
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui::{self, Html, Tone};
use askama::Template;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use db::views::{self, StrandedJob, WorkerLine};
use db::{Audit, WorkerId, WorkerKind};
use domain::worker::check_name;
use serde::Deserialize;
use serde_json::json;

#[derive(Template)]
#[template(path = "settings/workers.html")]
struct Workers {
    shell: Shell,
    all: Vec<WorkerLine>,
    stranded: Vec<StrandedJob>,
    can_be_reached: bool,
}

#[derive(Template)]
#[template(path = "settings/worker_token.html")]
struct Token {
    shell: Shell,
    command: String,
    hours: u32,
    replaces: Option<String>,
}

/// What it does, in one word.
fn state(it: &WorkerLine) -> Html {
    match (it.alive, it.draining, it.jobs) {
        (true, false, _) => ui::st(Tone::Ok, "At work"),
        (true, true, 0) => ui::st(Tone::Idle, "Drained"),
        (true, true, _) => ui::st(Tone::Warn, "Draining"),
        (false, ..) if it.started_at.is_none() => ui::st(Tone::Idle, "Not started yet"),
        (false, ..) if it.stopped_at.is_some() => ui::st(Tone::Idle, "Stopped"),
        (false, ..) => ui::st(Tone::Bad, "Lost"),
    }
}

/// Whose jobs it takes.
fn takes(it: &WorkerLine) -> String {
    match (it.tags.is_empty(), it.also_untagged) {
        (true, _) => "devices without a tag".to_owned(),
        (false, false) => it.tags.join(", "),
        (false, true) => format!("{}, and devices without a tag", it.tags.join(", ")),
    }
}

/// `1.25 of 8 processors`.
fn load(it: &WorkerLine) -> String {
    let load = it.load_percent.filter(|_| it.alive).map(|load| format!("{:.2} on ", f64::from(load) / 100.0));
    format!("{}{}", load.unwrap_or_default(), format::count(i64::from(it.processors), "processor", "processors"))
}

/// What a job waits for.
fn waits_for(it: &StrandedJob) -> String {
    match (&it.tag, &it.location) {
        (Some(tag), Some(location)) => format!("a worker with the tag {tag} that sees {location}"),
        (Some(tag), None) => format!("a worker with the tag {tag}"),
        (None, Some(location)) => format!("a worker that sees {location}"),
        (None, None) => "a server, or a worker without tags".to_owned(),
    }
}

fn is_worker(it: &WorkerLine) -> bool {
    it.kind == WorkerKind::Worker
}

impl Workers {
    fn may_manage(&self) -> bool {
        self.shell.may(domain::permission::Permission::ManageServer)
    }

    /// Another version than the server's.
    fn differs(&self, it: &WorkerLine) -> bool {
        it.alive && it.version != self.shell.version
    }
}

/// `GET /workers`
pub async fn list(State(app): State<App>, session: Session) -> Result {
    let (all, stranded) = tokio::try_join!(views::workers(app.db()), views::stranded_jobs(app.db()))?;
    let shell = Shell::new(&app, &session, Section::Settings, "Workers").await?;
    page(&Workers { shell, all, stranded, can_be_reached: app.given.workers_reach.is_some() })
}

/// `POST /workers`: a token that lets one worker in.
pub async fn add(State(app): State<App>, session: Session, headers: HeaderMap) -> Result {
    let shell = Shell::new(&app, &session, Section::Settings, "Add a worker").await?;
    issue(&app, &session, &headers, shell, None).await
}

/// `POST /workers/{worker}/replace`: a token for a machine that takes its place.
pub async fn replace(
    State(app): State<App>,
    session: Session,
    Path(worker): Path<WorkerId>,
    headers: HeaderMap,
) -> Result {
    let it = worker_of(&app, worker).await?;
    let shell = Shell::new(&app, &session, Section::Settings, format!("Replace {}", it.name)).await?;
    issue(&app, &session, &headers, shell, Some(it)).await
}

async fn issue(
    app: &App,
    session: &Session,
    headers: &HeaderMap,
    shell: Shell,
    replaces: Option<WorkerLine>,
) -> Result {
    if app.given.workers_reach.is_none() {
        return Err(Failure::Refused(
            "The database of this server can be reached from this machine only. Start the server with --workers-listen, \
             or with DATABASE_URL, and try again."
                .to_owned(),
        ));
    }
    let secret = tokens::random()?;
    let id = replaces.as_ref().map(|it| it.worker_id);
    app.db().issue_worker_token(tokens::hash(&secret), id, &session.name).await?;
    let subject = replaces.as_ref().map_or("", |it| it.name.as_str());
    record(app, session, "worker.token", subject, "").await?;
    let tags = replaces.as_ref().map(|it| it.tags.join(",")).filter(|tags| !tags.is_empty());
    let command = command(app, headers, &secret, tags.as_deref());
    page(&Token { shell, command, hours: db::TOKEN_HOURS, replaces: replaces.map(|it| it.name) })
}

/// What is typed on the worker's machine. The token carries the certificate's fingerprint, if the console has one.
fn command(app: &App, headers: &HeaderMap, secret: &str, tags: Option<&str>) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("SERVER:8443");
    let scheme = if app.given.secure { "https" } else { "http" };
    let pin = app.given.certificate_sha256.map(|sha256| format!(".{}", hex::encode(sha256))).unwrap_or_default();
    let tags = tags.map(|tags| format!(" --tags {tags}")).unwrap_or_default();
    format!("stillframe worker --server {scheme}://{host} --token={secret}{pin}{tags}")
}

async fn worker_of(app: &App, worker: WorkerId) -> Result<WorkerLine> {
    views::worker_line(app.db(), worker).await?.ok_or(Failure::NotFound)
}

/// `POST /workers/{worker}/drain`
pub async fn drain(State(app): State<App>, session: Session, Path(worker): Path<WorkerId>) -> Result {
    let it = worker_of(&app, worker).await?;
    app.db().drain_worker(worker, true).await?;
    record(&app, &session, "worker.drained", &it.name, "").await?;
    go("/workers?said=worker-drained")
}

/// `POST /workers/{worker}/resume`
pub async fn resume(State(app): State<App>, session: Session, Path(worker): Path<WorkerId>) -> Result {
    let it = worker_of(&app, worker).await?;
    app.db().drain_worker(worker, false).await?;
    record(&app, &session, "worker.resumed", &it.name, "").await?;
    go("/workers?said=worker-resumed")
}

/// `POST /workers/{worker}/remove`: a server only while it is away, because it would come back at once.
pub async fn remove(State(app): State<App>, session: Session, Path(worker): Path<WorkerId>) -> Result {
    let it = worker_of(&app, worker).await?;
    if it.kind == WorkerKind::Server && it.alive {
        return Err(Failure::Refused(format!("{} is a server at work: stop it first.", it.name)));
    }
    app.db().remove_worker(worker).await?;
    record(&app, &session, "worker.removed", &it.name, &it.host).await?;
    go("/workers?said=worker-removed")
}

/// What a worker says of itself.
#[derive(Deserialize)]
struct Coming {
    name: String,
}

/// A worker's own words, at most.
const COMING_BYTES_MAX: usize = 4096;

/// `POST /worker/enrol`, by a worker and no browser: `Authorization: Bearer TOKEN`, `{"name": …}` in, [`db::Enrolment`] as
/// JSON out.
pub async fn enrol(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    let said = |status: StatusCode, error: &str| {
        let mut response = (status, axum::Json(json!({ "error": error }))).into_response();
        response.extensions_mut().insert(Bare);
        response
    };
    let Some(token) = tokens::bearer(&headers) else {
        return said(StatusCode::UNAUTHORIZED, &db::Error::WorkerToken.to_string());
    };
    let coming: Option<Coming> = (body.len() <= COMING_BYTES_MAX).then(|| serde_json::from_slice(&body).ok()).flatten();
    let Some(coming) = coming else { return said(StatusCode::BAD_REQUEST, "the worker's name is missing") };
    if let Err(error) = check_name(&coming.name) {
        return said(StatusCode::BAD_REQUEST, &error.to_string());
    }
    let Some(reach) = app.given.workers_reach.clone() else {
        return said(StatusCode::CONFLICT, "the server's database can be reached from its own machine only");
    };
    match app.db().enrol_worker(tokens::hash(token), &coming.name, reach).await {
        Ok(enrolment) => {
            let action = "worker.enrolled";
            let entry =
                Audit { account_id: None, actor: "a worker’s token", action, subject: &enrolment.name, detail: "" };
            if let Err(error) = app.db().audit(&entry).await {
                tracing::error!(%error, "not in the audit log: {} was enrolled", enrolment.name);
            }
            ([(header::CONTENT_TYPE, "application/json")], enrolment.to_json().to_string()).into_response()
        }
        Err(error @ db::Error::WorkerToken) => said(StatusCode::UNAUTHORIZED, &error.to_string()),
        Err(error @ (db::Error::Conflict(_) | db::Error::NoAccounts(_))) => {
            said(StatusCode::CONFLICT, &error.to_string())
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a worker was not enrolled");
            said(StatusCode::SERVICE_UNAVAILABLE, "the server could not do it; its log says why")
        }
    }
}
