//! What runs that broke off left on hosts, and the click that looks after it now.

use super::devices::record;
use super::{go, page};
use crate::auth::Session;
use crate::failure::Result;
use crate::format;
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui::{self, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::views::{self, LeftBehind, LeftLine};
use db::{ChangeKind, ChangeState, DeviceId};
use domain::job::JobKind;

#[derive(Template)]
#[template(path = "devices/left_behind.html")]
struct List {
    shell: Shell,
    lines: Vec<LeftLine>,
    sum: LeftBehind,
}

/// What it is, in words.
fn what(line: &LeftLine) -> &'static str {
    match line.kind {
        ChangeKind::Snapshot => "Snapshot or checkpoint",
        ChangeKind::Import => "Half-made machine",
        ChangeKind::Power => "Machine that is still off",
        ChangeKind::Marks => "Marks that tell what changed",
    }
}

/// How certain it is.
fn certainty(line: &LeftLine) -> &'static str {
    match line.state {
        ChangeState::Made => "is on the host",
        _ => "may be on the host",
    }
}

/// `GET /left-behind`
pub async fn list(State(app): State<App>, session: Session) -> Result {
    let (lines, sum) = tokio::try_join!(views::left_lines(app.db()), views::left_behind(app.db()))?;
    let shell = Shell::new(&app, &session, Section::Devices, "Left behind on hosts").await?;
    page(&List { shell, lines, sum })
}

/// `POST /left-behind/{device}`: looks now, and not at the next round.
pub async fn look(State(app): State<App>, session: Session, Path(device): Path<DeviceId>) -> Result {
    let row = app.db().device(device).await?;
    app.db().enqueue_housekeeping(JobKind::Reconcile, device).await?;
    record(&app, &session, "device.reconciled", &row.name, "").await?;
    go("/left-behind")
}
