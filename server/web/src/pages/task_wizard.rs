//! The wizard of a backup task: one address a step, answers in a draft on the server, back and forward as one likes.
//! Read next: `task_answers.rs` (what a draft holds and when it is complete).

use super::devices::record;
use super::retention_preview::Preview;
use super::task_answers::{Answers, Step};
use super::tasks::{method_words, mode_words, retention_words, schedule_words};
use super::{devices, form_again, go, page};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::{Fields, Problems};
use crate::format;
use crate::shell::{Section, Shell, Times};
use crate::state::App;
use crate::ui::{self, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::views::{self, DeviceLine, RepositoryLine, TaskMachine};
use db::{DeviceId, DraftId, DraftKind, Start, TaskId, VmId};
use domain::retention::Scope;
use domain::schedule::Schedule;
use jiff::Timestamp;

/// Runs in the preview.
const PREVIEW_RUNS: usize = 10;

/// What every step shows around its own part.
struct Wizard {
    draft: Option<DraftId>,
    step: Step,
    answers: Answers,
    problems: Problems,
    repository: Option<String>,
    picked: u64,
    picked_bytes: u64,
}

macro_rules! steps {
    ($($name:ident($path:literal) { $($field:ident: $kind:ty),* $(,)? })+) => {$(
        #[derive(Template)]
        #[template(path = $path)]
        struct $name {
            shell: Shell,
            wizard: Wizard,
            $($field: $kind,)*
        }
    )+};
}

steps! {
    NameStep("tasks/step_name.html") {}
    MachinesStep("tasks/step_machines.html") {
        machines: Vec<TaskMachine>, hidden: Vec<VmId>, devices: Vec<DeviceLine>, words: String, device: Option<DeviceId>,
    }
    LocationStep("tasks/step_location.html") { repositories: Vec<RepositoryLine> }
    MethodStep("tasks/step_method.html") {}
    ScheduleStep("tasks/step_schedule.html") { zones: Vec<String>, next: Vec<Timestamp>, zone_note: String }
    RetentionStep("tasks/step_retention.html") { preview: Option<Preview> }
    SummaryStep("tasks/step_summary.html") {
        machines: Vec<TaskMachine>, next: Option<Timestamp>, preview: Option<Preview>,
    }
}

impl Wizard {
    fn title(&self) -> &'static str {
        if self.answers.task_id.is_some() { "Change a task" } else { "New task" }
    }

    /// Steps for the bar: number, word, address when it may be opened, current.
    fn bar(&self) -> Vec<(usize, &'static str, Option<String>, bool)> {
        let reached = self.answers.first_incomplete();
        Step::ALL
            .into_iter()
            .enumerate()
            .map(|(index, step)| {
                let open = self.draft.filter(|_| step != self.step && step <= reached);
                let address = open.map(|draft| format!("/tasks/draft/{draft}/{}", step.as_str()));
                (index + 1, step.word(), address, step == self.step)
            })
            .collect()
    }

    fn number(&self) -> usize {
        Step::ALL.iter().position(|step| *step == self.step).unwrap_or_default() + 1
    }

    fn action(&self) -> String {
        match self.draft {
            Some(draft) => format!("/tasks/draft/{draft}/{}", self.step.as_str()),
            None => "/tasks/new".to_owned(),
        }
    }

    fn back(&self) -> Option<String> {
        let before = Step::ALL.get(self.number().checked_sub(2)?)?;
        Some(format!("/tasks/draft/{}/{}", self.draft?, before.as_str()))
    }

    fn method(&self) -> String {
        method_words(&self.answers.method, self.answers.full_every)
    }

    fn mode(&self) -> String {
        mode_words(self.answers.mode, self.answers.quiesce, self.answers.shutdown)
    }

    fn is_mode(&self, word: &str) -> bool {
        self.answers.mode.as_str() == word
    }

    fn is_policy(&self, word: &str) -> bool {
        self.answers.shutdown.if_still_on.as_str() == word
    }

    fn schedule(&self) -> String {
        self.answers.schedule().map_or_else(|| "not chosen yet".to_owned(), |schedule| schedule_words(&schedule))
    }

    fn retention(&self) -> String {
        retention_words(&self.answers.retention())
    }

    /// More than the newest few is chosen: the long-term part is open.
    fn keeps_long(&self) -> bool {
        let also = &self.answers.also;
        also.has_calendar() || also.days > 0
    }

    fn counts_all(&self) -> bool {
        self.answers.also.scope == Scope::Machine
    }

    fn is_repository(&self, id: &db::RepositoryId) -> bool {
        self.answers.repository == Some(*id)
    }
}

impl RetentionStep {
    /// Something is wrong in the part that is closed at first.
    fn has_long_problem(&self) -> bool {
        ["days", "daily", "weekly", "monthly", "yearly"].iter().any(|field| self.wizard.problems.of(field).is_some())
    }
}

/// Id of the line under a field.
fn hint_id(field: &str) -> String {
    format!("t-{field}-h")
}

impl MachinesStep {
    fn is_picked(&self, vm: &VmId) -> bool {
        self.wizard.answers.machines.contains(vm)
    }

    fn is_device(&self, device: &DeviceId) -> bool {
        self.device == Some(*device)
    }
}

/// Why a machine cannot be picked.
fn blocker(machine: &TaskMachine) -> Option<String> {
    if machine.missing_since.is_some() {
        return Some("It is no longer on its host.".to_owned());
    }
    devices::is_blocked(&machine.findings).then(|| devices::first_message(&machine.findings))
}

/// `GET /tasks/new`
pub async fn new(State(app): State<App>, session: Session) -> Result {
    let answers = Answers::new(&app.times().zone_name());
    show(&app, &session, None, answers, Step::Name, Problems::default(), &Fields::default()).await
}

/// `POST /tasks/new`
pub async fn begin(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let mut answers = Answers::new(&app.times().zone_name());
    let mut problems = Problems::default();
    answers.take(Step::Name, &fields, &mut problems);
    if !problems.is_empty() {
        return show(&app, &session, None, answers, Step::Name, problems, &fields).await;
    }
    let id = app.db().create_draft(session.account_id, DraftKind::Task, &answers.to_json()?).await?;
    go(format!("/tasks/draft/{id}/{}", Step::Machines.as_str()))
}

/// A new task that begins with these machines.
pub async fn begin_with(app: &App, session: &Session, machines: Vec<VmId>) -> Result {
    let mut answers = Answers::new(&app.times().zone_name());
    answers.machines = machines;
    let id = app.db().create_draft(session.account_id, DraftKind::Task, &answers.to_json()?).await?;
    go(format!("/tasks/draft/{id}/{}", Step::Name.as_str()))
}

/// `POST /tasks/{task}/edit`
pub async fn edit(State(app): State<App>, session: Session, Path(task): Path<TaskId>) -> Result {
    let (task, machines) = tokio::try_join!(app.db().task(task), app.db().task_machines(task))?;
    let answers = Answers::of_task(&task, machines, &app.times().zone_name());
    let id = app.db().create_draft(session.account_id, DraftKind::Task, &answers.to_json()?).await?;
    go(format!("/tasks/draft/{id}/{}", Step::Summary.as_str()))
}

async fn load(app: &App, session: &Session, draft: DraftId) -> Result<Answers> {
    let draft = app.db().draft(draft, session.account_id).await?;
    if draft.kind != DraftKind::Task {
        return Err(Failure::NotFound);
    }
    serde_json::from_value(draft.data).map_err(|_| Failure::NotFound)
}

/// `GET /tasks/draft/{draft}/{step}`
pub async fn step(
    State(app): State<App>,
    session: Session,
    Path((draft, step)): Path<(DraftId, String)>,
    fields: Fields,
) -> Result {
    let step = Step::parse(&step).ok_or(Failure::NotFound)?;
    let mut answers = load(&app, &session, draft).await?;
    if step == Step::Location
        && let Ok(made) = fields.get("made").parse()
    {
        answers.repository = Some(made);
        app.db().update_draft(draft, session.account_id, &answers.to_json()?).await?;
    }
    let reached = answers.first_incomplete();
    if step > reached {
        return go(format!("/tasks/draft/{draft}/{}", reached.as_str()));
    }
    show(&app, &session, Some(draft), answers, step, Problems::default(), &fields).await
}

/// `POST /tasks/draft/{draft}/{step}`
pub async fn answer(
    State(app): State<App>,
    session: Session,
    Path((draft, step)): Path<(DraftId, String)>,
    fields: Fields,
) -> Result {
    let step = Step::parse(&step).ok_or(Failure::NotFound)?;
    let mut answers = load(&app, &session, draft).await?;
    let mut problems = Problems::default();
    if step == Step::Summary {
        return finish(&app, &session, draft, answers, &fields).await;
    }
    answers.take(step, &fields, &mut problems);
    if step == Step::Machines {
        refuse_blocked(&app, &mut answers, &mut problems).await?;
    }
    let action = fields.get("do");
    if problems.is_empty() || matches!(action, "filter" | "all" | "create") {
        if action == "all" {
            pick_all(&app, &mut answers, &fields).await?;
        }
        app.db().update_draft(draft, session.account_id, &answers.to_json()?).await?;
    }
    match action {
        "filter" | "all" => return go(format!("/tasks/draft/{draft}/machines?{}", filter_query(&fields))),
        "create" => return go(format!("/storage/new?draft={draft}")),
        "preview" => return show(&app, &session, Some(draft), answers, step, problems, &fields).await,
        _ => {}
    }
    if !problems.is_empty() {
        return show(&app, &session, Some(draft), answers, step, problems, &fields).await;
    }
    go(format!("/tasks/draft/{draft}/{}", step.next().as_str()))
}

fn filter_query(fields: &Fields) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .append_pair("q", fields.get("q"))
        .append_pair("device", fields.get("device"))
        .finish()
}

async fn pick_all(app: &App, answers: &mut Answers, fields: &Fields) -> Result<()> {
    let shown = views::task_machines(app.db(), fields.get("q"), fields.get("device").parse().ok(), None).await?;
    for machine in shown.iter().filter(|machine| blocker(machine).is_none()) {
        if !answers.machines.contains(&machine.vm_id) {
            answers.machines.push(machine.vm_id);
        }
    }
    Ok(())
}

/// Whatever the page offered, no machine gets into a task that cannot be backed up or does not exist.
async fn refuse_blocked(app: &App, answers: &mut Answers, problems: &mut Problems) -> Result<()> {
    let found = views::task_machines(app.db(), "", None, Some(&answers.machines)).await?;
    answers.machines.retain(|vm| found.iter().any(|machine| machine.vm_id == *vm));
    for machine in found {
        if let Some(reason) = blocker(&machine) {
            answers.machines.retain(|vm| *vm != machine.vm_id);
            problems.add("vm", format!("{} cannot be backed up: {reason}", machine.name));
        }
    }
    Ok(())
}

async fn show(
    app: &App,
    session: &Session,
    draft: Option<DraftId>,
    answers: Answers,
    step: Step,
    problems: Problems,
    fields: &Fields,
) -> Result {
    let failed = !problems.is_empty();
    let repositories = views::repositories(app.db()).await?;
    let repository =
        repositories.iter().find(|it| answers.repository == Some(it.repository_id)).map(|it| it.name.clone());
    let chosen = views::task_machines(app.db(), "", None, Some(&answers.machines)).await?;
    let picked_bytes = chosen.iter().map(|machine| machine.size_bytes).sum();
    let picked = chosen.len() as u64;
    let wizard = Wizard { draft, step, answers, problems, repository, picked, picked_bytes };
    let shell = Shell::new(app, session, Section::Tasks, format!("{}: {}", wizard.title(), step.word())).await?;
    match step {
        Step::Name => answer_page(&NameStep { shell, wizard }, failed),
        Step::Machines => {
            let (words, device) = (fields.get("q").to_owned(), fields.get("device").parse().ok());
            let machines = views::task_machines(app.db(), &words, device, None).await?;
            let hidden = hidden(&wizard.answers.machines, &machines);
            let devices = views::devices(app.db()).await?;
            answer_page(&MachinesStep { shell, wizard, machines, hidden, devices, words, device }, failed)
        }
        Step::Location => answer_page(&LocationStep { shell, wizard, repositories }, failed),
        Step::Method => answer_page(&MethodStep { shell, wizard }, failed),
        Step::Schedule => {
            let (next, zone_note) = preview(&wizard.answers, &shell.times);
            let zones = jiff::tz::db().available().map(|name| name.to_string()).collect();
            answer_page(&ScheduleStep { shell, wizard, zones, next, zone_note }, failed)
        }
        Step::Retention => {
            let preview = if failed { None } else { Preview::of(app, &wizard.answers).await? };
            answer_page(&RetentionStep { shell, wizard, preview }, failed)
        }
        Step::Summary => {
            let preview = Preview::of(app, &wizard.answers).await?;
            let next = wizard.answers.schedule().and_then(|it| it.next_after(shell.times.now).ok().flatten());
            answer_page(&SummaryStep { shell, wizard, machines: chosen, next, preview }, failed)
        }
    }
}

fn answer_page(template: &impl Template, failed: bool) -> Result {
    if failed { form_again(template) } else { page(template) }
}

/// Picked machines that the filter does not show; they travel with the form.
fn hidden(picked: &[VmId], shown: &[TaskMachine]) -> Vec<VmId> {
    picked.iter().copied().filter(|vm| !shown.iter().any(|machine| machine.vm_id == *vm)).collect()
}

/// The next due times, and what the zone does to them.
fn preview(answers: &Answers, times: &Times) -> (Vec<Timestamp>, String) {
    let Some(schedule @ Schedule::Daily { .. }) = answers.schedule() else { return (Vec::new(), String::new()) };
    let mut next = Vec::with_capacity(PREVIEW_RUNS);
    let mut after = times.now;
    while next.len() < PREVIEW_RUNS
        && let Ok(Some(due)) = schedule.next_after(after)
    {
        next.push(due);
        after = due;
    }
    (
        next,
        format!(
            "Shown in {}. When the clock is set forward or back, the task still runs once that day.",
            answers.time_zone
        ),
    )
}

impl ScheduleStep {
    fn in_zone(&self, then: &Timestamp, pattern: &str) -> String {
        let zone = jiff::tz::TimeZone::get(&self.wizard.answers.time_zone).unwrap_or(jiff::tz::TimeZone::UTC);
        format::pattern(*then, &zone, pattern)
    }
}

async fn finish(app: &App, session: &Session, draft: DraftId, answers: Answers, fields: &Fields) -> Result {
    let Some(input) = answers.task() else {
        return go(format!("/tasks/draft/{draft}/{}", answers.first_incomplete().as_str()));
    };
    let saved = match answers.task_id {
        Some(task) => app.db().update_task(task, &input).await.map(|()| task),
        None => app.db().create_task(&input).await,
    };
    let task = match saved {
        Ok(task) => task,
        Err(db::Error::Conflict(db::Conflict::TaskName)) => {
            let mut problems = Problems::default();
            problems.add("name", "Another task has this name.");
            return show(app, session, Some(draft), answers, Step::Name, problems, fields).await;
        }
        Err(error) => return Err(error.into()),
    };
    app.db().delete_draft(draft, session.account_id).await?;
    let action = if answers.task_id.is_some() { "task.changed" } else { "task.created" };
    record(app, session, action, &input.name, &format::count(input.machines.len(), "machine", "machines")).await?;
    if fields.get("do") == "run"
        && let Start::Started { run_id, .. } | Start::AlreadyRunning(run_id) | Start::AlreadyStarted(run_id) =
            app.db().start_run(task, &session.name, None).await?
    {
        return go(format!("/activity/{run_id}"));
    }
    let said = if answers.task_id.is_some() { "task-saved" } else { "task-created" };
    go(format!("/tasks/{task}?said={said}"))
}
