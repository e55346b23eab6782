//! Facts and limits of the server, and who changed what.

use super::devices::record;
use super::metrics::{self, MetricsToken};
use super::{form_again, go, page};
use crate::auth::{SESSION_ABSOLUTE, SESSION_IDLE, Session};
use crate::failure::Result;
use crate::form::{Fields, Problems};
use crate::format;
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui;
use askama::Template;
use axum::extract::State;
use db::{Account, AuditEntry};
use domain::permission::Permission;
use domain::sampling::Sampling;

/// Entries on one page.
const AUDIT_ENTRIES: u32 = 50;

#[derive(Template)]
#[template(path = "settings/server.html")]
struct Server {
    shell: Shell,
    facts: Vec<(String, String)>,
    accounts: Vec<Account>,
    fingerprint: Option<String>,
    /// Of what tracking calls unchanged, so many of a thousand cells are read.
    sample: String,
    /// What opens the figures for Prometheus.
    metrics: Option<MetricsToken>,
    problems: Problems,
}

#[derive(Template)]
#[template(path = "settings/audit.html")]
struct AuditLog {
    shell: Shell,
    entries: Vec<AuditEntry>,
    before: Option<i64>,
}

/// `GET /settings`
pub async fn settings(State(app): State<App>, session: Session) -> Result {
    let sampling: Sampling = app.db().setting(Sampling::SETTING).await?.unwrap_or_default();
    page(&server(&app, &session, sampling.per_mille.to_string(), Problems::default()).await?)
}

/// `POST /settings/tracking`: how much of what change tracking calls unchanged is read.
pub async fn set_sample(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let Some(per_mille) = fields.number::<u32>("per_mille").filter(|it| *it <= Sampling::PER_MILLE_MAX) else {
        let mut problems = Problems::default();
        problems.add("per_mille", format!("A number from 0 to {}.", Sampling::PER_MILLE_MAX));
        return form_again(&server(&app, &session, fields.get("per_mille").to_owned(), problems).await?);
    };
    app.db().set_setting(Sampling::SETTING, &Sampling { per_mille }).await?;
    record(&app, &session, "settings.tracking", "change tracking check", &format!("{per_mille} in a thousand")).await?;
    go("/settings")
}

async fn server(app: &App, session: &Session, sample: String, problems: Problems) -> Result<Server> {
    let may_see = session.role.allows(Permission::ManageServer);
    let accounts = if may_see { app.db().accounts().await? } else { Vec::new() };
    let facts = if may_see { app.given.facts.clone() } else { Vec::new() };
    let metrics = if may_see { metrics::stored(app).await? } else { None };
    let fingerprint = app.given.certificate_sha256.map(ui::fingerprint);
    let shell = Shell::new(app, session, Section::Settings, "Settings").await?;
    Ok(Server { shell, facts, accounts, fingerprint, sample, metrics, problems })
}

impl Server {
    fn limits() -> [(&'static str, String); 4] {
        [
            ("A session without a request ends after", format::duration(SESSION_IDLE.as_secs())),
            ("A session ends in any case after", format::duration(SESSION_ABSOLUTE.as_secs())),
            ("Failed sign-ins of a name before a pause", "5 in 5 minutes".to_owned()),
            ("Shortest password and passphrase", "12 characters".to_owned()),
        ]
    }

    fn may_audit(&self) -> bool {
        self.shell.may(Permission::ManageServer)
    }
}

/// `GET /settings/audit`
pub async fn audit(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let entries = app.db().audit_entries(fields.number("before"), AUDIT_ENTRIES).await?;
    let before = (entries.len() == AUDIT_ENTRIES as usize).then(|| entries.last().map(|it| it.audit_id)).flatten();
    let shell = Shell::new(&app, &session, Section::Settings, "Who changed what").await?;
    page(&AuditLog { shell, entries, before })
}
