//! Backup tasks: the list, one task, run, pause, remove.

use super::devices::record;
use super::task_choice::rule_words;
use super::{form_again, go, goal, page};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::Fields;
use crate::format;
use crate::shell::{Section, Shell, Times};
use crate::state::App;
use crate::ui::{self, Html, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::views::{self, RunFilter, RunLine, Slice, TaskLine, TaskMachine};
use db::{PointsAfter, Start, TaskId, VmId};
use domain::machine::Quiesce;
use domain::mode::{IfStillOn, Mode, Shutdown};
use domain::retention::{Retention, Scope};
use domain::schedule::Schedule;

#[derive(Template)]
#[template(path = "tasks/list.html")]
struct List {
    shell: Shell,
    tasks: Vec<TaskLine>,
}

#[derive(Template)]
#[template(path = "tasks/page.html")]
struct One {
    shell: Shell,
    task: TaskLine,
    machines: Vec<TaskMachine>,
    /// In words.
    rules: Vec<String>,
    runs: Slice<RunLine>,
    goal: String,
    note: Option<String>,
}

/// A rule of retention in words.
pub fn retention_words(retention: &Retention) -> String {
    match retention {
        Retention::KeepLast { count } => {
            format!("The last {} of each machine", format::count(*count, "point", "points"))
        }
        Retention::Keep(rule) => {
            let whose = if rule.scope == Scope::Machine { ", counting all points of a machine" } else { "" };
            let zone = if rule.has_calendar() { format!(" ({})", rule.time_zone) } else { String::new() };
            format!("{}{zone}{whose}", format::sentence(&rule.words()))
        }
    }
}

/// A method in words.
pub fn method_words(method: &str, full_every: impl format::Figure) -> String {
    match (method, full_every.figure()) {
        ("full", _) => "Full each time".to_owned(),
        (method, 0) => format!("{}; full only when it must be", method_word(method)),
        (method, every) => format!("{}, a full every {every} points", method_word(method)),
    }
}

/// A method in a word.
pub fn method_word(method: &str) -> &'static str {
    match method {
        "full" => "Full",
        "differential" => "Differential",
        _ => "Incremental",
    }
}

/// A mode in words, with what belongs to it.
pub fn mode_words(mode: Mode, quiesce: Quiesce, shutdown: Shutdown) -> String {
    let cold = match mode {
        Mode::Hot => return format!("Hot; {}", quiesce_words(quiesce)),
        Mode::Cold => "Cold: off while it is copied",
        Mode::ColdSnapshot => "Cold snapshot: off for seconds",
    };
    let then = match shutdown.if_still_on {
        IfStillOn::Fail => "the machine is left running and fails",
        IfStillOn::PowerOff => "the machine is switched off",
        IfStillOn::Hot => "the machine is backed up running",
    };
    let quiesced = match shutdown.if_still_on {
        IfStillOn::Hot => format!(", {}", quiesce_words(quiesce)),
        _ => String::new(),
    };
    format!("{cold}. {} min to shut down, then {then}{quiesced}", shutdown.limit_minutes)
}

const fn quiesce_words(quiesce: Quiesce) -> &'static str {
    match quiesce {
        Quiesce::Require => "quiesced or not at all",
        Quiesce::Prefer => "quiesced if the guest can",
        Quiesce::Off => "not quiesced",
    }
}

impl One {
    /// What becomes of missed runs; nothing for a task that is not due by the clock.
    fn missed(&self) -> Option<String> {
        let Schedule::Timed(timed) = &self.task.schedule else { return None };
        Some(timed.missed.in_words())
    }

    /// When runs may start, unless at any time.
    fn hours(&self) -> Option<String> {
        let (hours, _) = self.task.schedule.hours()?;
        Some(hours.in_words()).filter(|words| !words.is_empty())
    }

    fn mode(&self) -> String {
        let task = &self.task;
        let limit_minutes = u32::try_from(task.shutdown_minutes).unwrap_or_default();
        mode_words(task.mode, task.quiesce, Shutdown { limit_minutes, if_still_on: task.if_still_on })
    }
}

fn last(task: &TaskLine, times: &Times) -> Html {
    match (task.last(), task.last_at) {
        (Some(_), Some(at)) if task.last_skipped => {
            let word = ui::st(Tone::Warn, "Did not run");
            Html(format!(r#"{word}<span class="sub">{}</span>"#, times.ago(at)))
        }
        (Some(state), Some(at)) => Html(format!(r#"{}<span class="sub">{}</span>"#, ui::state(state), times.ago(at))),
        _ => Html(r#"<span class="muted">has not run yet</span>"#.to_owned()),
    }
}

/// `GET /tasks`
pub async fn list(State(app): State<App>, session: Session) -> Result {
    let tasks = views::tasks(app.db()).await?;
    let shell = Shell::new(&app, &session, Section::Tasks, "Backup tasks").await?;
    page(&List { shell, tasks })
}

/// `GET /tasks/{task}`
pub async fn one(State(app): State<App>, session: Session, Path(task): Path<TaskId>, fields: Fields) -> Result {
    show(&app, &session, task, super::page_number(&fields), None).await
}

async fn show(app: &App, session: &Session, id: TaskId, page_number: i64, note: Option<String>) -> Result {
    let task = views::task_line(app.db(), id).await?.ok_or(Failure::NotFound)?;
    let picked = app.db().task_machines(id).await?;
    let machines = views::task_machines(app.db(), "", None, Some(&picked)).await?;
    let runs = views::runs(app.db(), &RunFilter { task: Some(id), page: page_number, ..RunFilter::default() }).await?;
    let shell = Shell::new(app, session, Section::Tasks, task.name.clone()).await?;
    let failed = note.is_some();
    let devices = views::devices(app.db()).await?;
    let rules = rule_words(&task.choice, |device| {
        devices
            .iter()
            .find(|it| it.device_id.0 == device)
            .map_or_else(|| "a removed device".to_owned(), |it| it.name.clone())
    });
    let goal = app.db().task(id).await?.goal_minutes;
    let goal =
        goal.map_or_else(|| "None".to_owned(), |minutes| format!("{} at most", goal::words(minutes.unsigned_abs())));
    let template = One { shell, task, machines, rules, runs, goal, note };
    if failed { form_again(&template) } else { page(&template) }
}

/// `POST /tasks/{task}/run`
pub async fn run(State(app): State<App>, session: Session, Path(task): Path<TaskId>) -> Result {
    match app.db().start_run(task, &session.name, None).await? {
        Start::Started { run_id, .. } => {
            record(&app, &session, "task.started", &task.to_string(), &format!("run {run_id}")).await?;
            go(format!("/activity/{run_id}"))
        }
        Start::AlreadyStarted(run) | Start::AlreadyRunning(run) => go(format!("/activity/{run}")),
        Start::NoMachines => {
            let note = "This task has no machines any more. Change it and pick some.".to_owned();
            show(&app, &session, task, 1, Some(note)).await
        }
    }
}

/// `POST /tasks/{task}/pause`
pub async fn pause(State(app): State<App>, session: Session, Path(task): Path<TaskId>) -> Result {
    app.db().set_task_paused(task, true).await?;
    record(&app, &session, "task.paused", &task.to_string(), "").await?;
    go(format!("/tasks/{task}?said=task-paused"))
}

/// `POST /tasks/{task}/resume`
pub async fn resume(State(app): State<App>, session: Session, Path(task): Path<TaskId>) -> Result {
    app.db().set_task_paused(task, false).await?;
    record(&app, &session, "task.resumed", &task.to_string(), "").await?;
    go(format!("/tasks/{task}?said=task-resumed"))
}

/// `POST /tasks/{task}/remove`
pub async fn remove(State(app): State<App>, session: Session, Path(task): Path<TaskId>, fields: Fields) -> Result {
    let before = views::task_line(app.db(), task).await?.ok_or(Failure::NotFound)?;
    let (points, detail, said) = match fields.get("points") {
        "rule" => (PointsAfter::Rule, "its points go by its rule", "task-removed-rule"),
        _ => (PointsAfter::Keep, "its points stay", "task-removed"),
    };
    match app.db().end_task(task, points).await {
        Ok(()) => {
            record(&app, &session, "task.removed", &before.name, detail).await?;
            go(format!("/tasks?said={said}"))
        }
        Err(db::Error::InUse { by, .. }) => {
            let note = format!("The task was not removed, because of {}. End that first.", by.join(", "));
            show(&app, &session, task, 1, Some(note)).await
        }
        Err(error) => Err(error.into()),
    }
}

/// `POST /tasks/{task}/machines/{vm}/remove`: takes a machine out that is no longer on its host.
pub async fn remove_machine(
    State(app): State<App>,
    session: Session,
    Path((task, vm)): Path<(TaskId, VmId)>,
) -> Result {
    let (row, machine) = tokio::try_join!(app.db().task(task), app.db().machine(vm))?;
    if app.db().remove_task_machine(task, vm).await? {
        record(&app, &session, "task.machine_removed", &row.name, &machine.name).await?;
    }
    go(format!("/tasks/{task}"))
}
