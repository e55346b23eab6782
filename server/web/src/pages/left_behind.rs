//! What runs that broke off left on hosts, and the click that looks after it now; what other programs seem to have left,
//! and the two clicks that remove it.

use super::devices::record;
use super::{form_again, go, page};
use crate::auth::Session;
use crate::failure::Result;
use crate::form::Fields;
use crate::format;
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui::{self, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::views::{self, ForeignLine, LeftBehind, LeftLine};
use db::{ChangeKind, ChangeState, DeviceId, ForeignId, ForeignSnapshot};
use domain::job::JobKind;

#[derive(Template)]
#[template(path = "devices/left_behind.html")]
struct List {
    shell: Shell,
    lines: Vec<LeftLine>,
    sum: LeftBehind,
    foreign: Vec<ForeignLine>,
}

/// Asks once more before another program's snapshot is removed.
#[derive(Template)]
#[template(path = "devices/remove_foreign.html")]
struct Confirm {
    shell: Shell,
    snapshot: ForeignSnapshot,
    /// It is not what the operator saw when the button was pressed.
    changed: bool,
}

/// What it is, in words.
fn what(line: &LeftLine) -> &'static str {
    match line.kind {
        ChangeKind::Snapshot => "Snapshot or checkpoint",
        ChangeKind::Import => "Half-made machine",
        ChangeKind::Power => "Machine that is still off",
        ChangeKind::Marks => "Marks that tell what changed",
        ChangeKind::Foreign => "Another program’s snapshot",
    }
}

/// How certain it is.
fn certainty(line: &LeftLine) -> &'static str {
    match line.state {
        ChangeState::Made => "is on the host",
        _ => "may be on the host",
    }
}

/// Its removal was asked for and has not ended.
fn goes_on(line: &ForeignLine) -> bool {
    line.state().is_some_and(|state| !state.is_final())
}

/// `GET /left-behind`
pub async fn list(State(app): State<App>, session: Session) -> Result {
    let db = app.db();
    let (lines, sum, foreign) =
        tokio::try_join!(views::left_lines(db), views::left_behind(db), views::foreign_lines(db))?;
    let shell = Shell::new(&app, &session, Section::Devices, "Left behind on hosts").await?;
    page(&List { shell, lines, sum, foreign })
}

/// `POST /left-behind/{device}`: looks now, and not at the next round.
pub async fn look(State(app): State<App>, session: Session, Path(device): Path<DeviceId>) -> Result {
    let row = app.db().device(device).await?;
    app.db().enqueue_housekeeping(JobKind::Reconcile, device).await?;
    record(&app, &session, "device.reconciled", &row.name, "").await?;
    go("/left-behind")
}

/// Ties the answer to what the question showed.
fn mark(snapshot: &ForeignSnapshot) -> String {
    format!("{} {}", snapshot.created_at.as_microsecond(), snapshot.name)
}

/// `GET /left-behind/foreign/{foreign}`: names what would go, and what follows.
pub async fn confirm(State(app): State<App>, session: Session, Path(foreign): Path<ForeignId>) -> Result {
    let snapshot = app.db().foreign_snapshot(foreign).await?;
    let shell = Shell::new(&app, &session, Section::Devices, "Remove a snapshot").await?;
    page(&Confirm { shell, snapshot, changed: false })
}

/// `POST /left-behind/foreign/{foreign}`
pub async fn remove(
    State(app): State<App>,
    session: Session,
    Path(foreign): Path<ForeignId>,
    fields: Fields,
) -> Result {
    let snapshot = app.db().foreign_snapshot(foreign).await?;
    if fields.raw("snapshot") != mark(&snapshot) {
        let shell = Shell::new(&app, &session, Section::Devices, "Remove a snapshot").await?;
        return form_again(&Confirm { shell, snapshot, changed: true });
    }
    let run = app.db().start_cleanup(&snapshot, &session.name).await?;
    let detail = format!("“{}” of {}, run {run}", snapshot.name, snapshot.machine);
    record(&app, &session, "snapshot.removal_started", &snapshot.device, &detail).await?;
    go(format!("/activity/{run}"))
}
