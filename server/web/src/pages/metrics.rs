//! Figures for Prometheus, and the token that opens them.
//!
//! Must never: store the token (only its SHA-256), show it a second time, or say anything to who does not have it.

use super::devices::record;
use super::{go, page};
use crate::auth::{Session, tokens};
use crate::exposition::{CONTENT_TYPE, Exposition};
use crate::failure::{Bare, Result};
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui;
use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use db::views::{self, Metrics, Protection};
use domain::job::{JobKind, JobState};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Name of the setting that holds the token's hash.
const SETTING: &str = "metrics_token";

/// What is kept of the token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MetricsToken {
    /// SHA-256, in hexadecimal digits.
    sha256: String,
    /// When it was made.
    pub made_at: Timestamp,
    /// By whom.
    pub made_by: String,
}

/// The only page that ever shows the token; it is an answer to a POST and is not stored.
#[derive(Template)]
#[template(path = "settings/metrics_token.html")]
struct Made {
    shell: Shell,
    token: String,
}

/// The token that opens the figures, if there is one.
pub async fn stored(app: &App) -> Result<Option<MetricsToken>> {
    Ok(app.db().setting::<Option<MetricsToken>>(SETTING).await?.flatten())
}

/// `POST /settings/metrics/token`: makes one; the one before opens nothing any more.
pub async fn make(State(app): State<App>, session: Session) -> Result {
    let before = stored(&app).await?;
    let token = tokens::random()?;
    let made = MetricsToken {
        sha256: hex::encode(tokens::hash(&token)),
        made_at: app.db().now().await?,
        made_by: session.name.clone(),
    };
    app.db().set_setting(SETTING, &Some(made)).await?;
    let action = if before.is_some() { "metrics.token_replaced" } else { "metrics.token_made" };
    record(&app, &session, action, "Figures for Prometheus", "").await?;
    let shell = Shell::new(&app, &session, Section::Settings, "Token for Prometheus").await?;
    page(&Made { shell, token })
}

/// `POST /settings/metrics/remove`
pub async fn remove(State(app): State<App>, session: Session) -> Result {
    app.db().set_setting(SETTING, &None::<MetricsToken>).await?;
    record(&app, &session, "metrics.token_removed", "Figures for Prometheus", "").await?;
    go("/settings?said=metrics-closed")
}

/// `GET /metrics`
pub async fn metrics(State(app): State<App>, headers: HeaderMap) -> Result {
    if !is_open(&app, &headers).await? {
        return Ok(refused());
    }
    let figures = views::metrics(app.db()).await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text(&figures, app.given.version)).into_response())
}

async fn is_open(app: &App, headers: &HeaderMap) -> Result<bool> {
    let Some(token) = tokens::bearer(headers) else { return Ok(false) };
    let Some(stored) = stored(app).await? else { return Ok(false) };
    Ok(tokens::same(&hex::encode(tokens::hash(token)), &stored.sha256))
}

fn refused() -> Response {
    let mut response = StatusCode::UNAUTHORIZED.into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response.extensions_mut().insert(Bare);
    response
}

fn text(figures: &Metrics, version: &str) -> String {
    let mut out = Exposition::default();
    out.gauge("stillframe_build_info", "Always 1; the version is the label.").sample(&[("version", version)], 1);
    hosts(&mut out, figures);
    machines(&mut out, figures);
    let mut jobs = out.gauge("stillframe_jobs", "Jobs that wait for a worker or run.");
    for kind in JobKind::ALL {
        for state in [JobState::Queued, JobState::Running] {
            jobs.sample(&[("kind", kind.as_str()), ("state", state.as_str())], figures.jobs(kind, state));
        }
    }
    let help = "When the newest run of the task that made all its points ended, in seconds since 1970; 0 if none did.";
    let mut tasks = out.gauge("stillframe_last_success_timestamp_seconds", help);
    for task in &figures.tasks {
        tasks.sample(&[("task", &task.name)], task.last_success.map_or(0, Timestamp::as_second));
    }
    space(&mut out, figures);
    out.finish()
}

fn hosts(out: &mut Exposition, figures: &Metrics) {
    let help = "Snapshots, half-made machines and machines still off that runs which broke off left on hosts.";
    out.gauge("stillframe_left_behind_changes", help).value(figures.left_behind);
    let mut devices = out.gauge("stillframe_left_behind_device_changes", "The same by device.");
    for (name, count) in &figures.left_behind_by_device {
        devices.sample(&[("device", name)], count);
    }
    let help = "Snapshots older than a day that other backup programs seem to have left on hosts.";
    out.gauge("stillframe_foreign_snapshots", help).value(figures.foreign_snapshots);
    out.gauge("stillframe_devices", "Devices that are enabled.").value(figures.devices);
    let help = "Enabled devices whose inventory could not be read the last time.";
    out.gauge("stillframe_devices_unreachable", help).value(figures.devices_unreachable);
}

fn machines(out: &mut Exposition, figures: &Metrics) {
    let of = |protection| figures.machines(protection);
    let help = "Machines with a point whose newest run made one.";
    out.gauge("stillframe_machines_protected", help).value(of(Protection::Protected));
    let help = "Machines in no task, without a point, or without a way to make one.";
    out.gauge("stillframe_machines_unprotected", help).value(of(Protection::Not));
    let help = "Machines with a point whose newest run failed.";
    out.gauge("stillframe_machines_last_run_failed", help).value(of(Protection::Behind));
    out.gauge("stillframe_machines_paused", "Machines all of whose tasks are paused.").value(of(Protection::Paused));
    let help = "Machines whose newest good point is older than their goal allows.";
    out.gauge("stillframe_machines_missing_goal", help).value(figures.missing_goal);
}

/// As it was measured last; what was never measured is left out.
fn space(out: &mut Exposition, figures: &Metrics) {
    let mut used = out.gauge("stillframe_repository_used_bytes", "Bytes the repository takes, as measured last.");
    for it in &figures.repositories {
        if let Some(bytes) = it.used_bytes {
            used.sample(&[("repository", &it.name)], bytes);
        }
    }
    let mut free = out.gauge("stillframe_repository_free_bytes", "Bytes free where it lies, as measured last.");
    for it in &figures.repositories {
        if let Some(bytes) = it.free_bytes {
            free.sample(&[("repository", &it.name)], bytes);
        }
    }
}
