//! The wizard of a backup task: one address a step, answers in a draft on the server, back and forward as one likes.
//! Read next: `task_answers.rs` (what a draft holds and when it is complete).

use super::devices::record;
use super::retention_preview::Preview;
use super::schedule_answers::When;
use super::schedule_preview::{PreviewRun, preview};
use super::task_answers::{Answers, Step};
use super::task_choice::rule_words;
use super::tasks::{method_words, mode_words, retention_words};
use super::{devices, form_again, go, goal, page};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::{Fields, Problems};
use crate::format::{self, Of};
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui::{self, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::views::{self, ChoiceDisk, DeviceLine, RepositoryLine, TaskMachine};
use db::{DeviceId, DraftId, DraftKind, Start, TaskId, VmId};
use domain::retention::Scope;
use domain::schedule::{Nth, Weekday};
use jiff::Timestamp;

/// Names of machines that a rule takes in.
const NAMES_SHOWN: usize = 12;

/// Priorities and their words.
const PRIORITIES: [(i32, &str); 3] =
    [(1, "those of this task come first"), (0, "tasks take turns"), (-1, "those of other tasks come first")];

/// What every step shows around its own part.
struct Wizard {
    draft: Option<DraftId>,
    step: Step,
    answers: Answers,
    problems: Problems,
    repository: Option<String>,
    /// Ids and names.
    devices: Vec<(i64, String)>,
    /// Other tasks, which this one may run after.
    others: Vec<(TaskId, String)>,
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
        by_rule: Vec<String>, disks: Vec<ChoiceDisk>,
    }
    LocationStep("tasks/step_location.html") { repositories: Vec<RepositoryLine> }
    MethodStep("tasks/step_method.html") {}
    ScheduleStep("tasks/step_schedule.html") { zones: Vec<String>, next: Vec<PreviewRun> }
    RetentionStep("tasks/step_retention.html") { preview: Option<Preview> }
    SummaryStep("tasks/step_summary.html") {
        machines: Vec<TaskMachine>, next: Option<Timestamp>, goals: Vec<(String, String, bool)>, suggested: Option<u32>,
        preview: Option<Preview>,
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

    fn is_quiesce(&self, word: &str) -> bool {
        self.answers.quiesce.as_str() == word
    }

    fn is_policy(&self, word: &str) -> bool {
        self.answers.shutdown.if_still_on.as_str() == word
    }

    /// Rules by which machines join, in words.
    fn rules(&self) -> Vec<String> {
        rule_words(&self.answers.rules.choice(), |device| {
            self.devices
                .iter()
                .find(|it| it.0 == device)
                .map_or_else(|| "a removed device".to_owned(), |it| it.1.clone())
        })
    }

    fn schedule(&self) -> String {
        let Some(schedule) = self.answers.schedule() else { return "not chosen yet".to_owned() };
        domain::schedule::in_words(&schedule, self.followed())
    }

    fn when(&self) -> &When {
        &self.answers.when
    }

    /// Name of the task that it runs after.
    fn followed(&self) -> Option<&str> {
        let task = self.answers.when.after_task?;
        self.others.iter().find(|other| other.0 == task).map(|other| other.1.as_str())
    }

    fn is_followed(&self, task: impl Of<TaskId>) -> bool {
        self.answers.when.after_task == Some(task.value())
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

    fn joins(&self, device: &DeviceId) -> bool {
        self.wizard.answers.rules.devices.contains(&device.0)
    }

    fn leaves_out(&self, disk: &ChoiceDisk) -> bool {
        self.wizard.answers.rules.leaves_out(disk.vm_id, disk.disk_key)
    }

    /// The first names, and how many more there are.
    fn joined(&self) -> String {
        let names = self.by_rule.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
        match self.by_rule.len().saturating_sub(NAMES_SHOWN) {
            0 => names,
            more => format!("{names} and {more} more"),
        }
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
    let (task, machines) = tokio::try_join!(app.db().task(task), app.db().picked_machines(task))?;
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
    // A preview of answers that are not complete yet is no failure.
    let failed = !problems.is_empty() && fields.get("do") != "preview";
    let repositories = views::repositories(app.db()).await?;
    let repository =
        repositories.iter().find(|it| answers.repository == Some(it.repository_id)).map(|it| it.name.clone());
    let by_rule = app.db().machines_by_rule(&answers.rules.choice()).await?;
    let joining = by_rule.iter().filter(|vm| !answers.machines.contains(vm));
    let members: Vec<VmId> = answers.machines.iter().chain(joining).copied().collect();
    let chosen = views::task_machines(app.db(), "", None, Some(&members)).await?;
    let picked_bytes = chosen.iter().map(|machine| machine.size_bytes).sum();
    let picked = chosen.len() as u64;
    let devices = views::devices(app.db()).await?.into_iter().map(|it| (it.device_id.0, it.name)).collect();
    let others = other_tasks(app, &answers).await?;
    let wizard = Wizard { draft, step, answers, problems, repository, devices, others, picked, picked_bytes };
    let shell = Shell::new(app, session, Section::Tasks, format!("{}: {}", wizard.title(), step.word())).await?;
    match step {
        Step::Name => answer_page(&NameStep { shell, wizard }, failed),
        Step::Machines => {
            let (words, device) = (fields.get("q").to_owned(), fields.get("device").parse().ok());
            let machines = views::task_machines(app.db(), &words, device, None).await?;
            let hidden = hidden(&wizard.answers.machines, &machines);
            let devices = views::devices(app.db()).await?;
            let disks = views::choice_disks(app.db(), &members).await?;
            let by_rule = chosen.iter().filter(|it| by_rule.contains(&it.vm_id)).map(|it| it.name.clone()).collect();
            let step = MachinesStep { shell, wizard, machines, hidden, devices, words, device, by_rule, disks };
            answer_page(&step, failed)
        }
        Step::Location => answer_page(&LocationStep { shell, wizard, repositories }, failed),
        Step::Method => answer_page(&MethodStep { shell, wizard }, failed),
        Step::Schedule => {
            let next = preview(wizard.answers.schedule().as_ref(), shell.times.now);
            let zones = jiff::tz::db().available().map(|name| name.to_string()).collect();
            answer_page(&ScheduleStep { shell, wizard, zones, next }, failed)
        }
        Step::Retention => {
            let right = wizard.problems.is_empty();
            let preview = if right { Preview::of(app, &wizard.answers).await? } else { None };
            answer_page(&RetentionStep { shell, wizard, preview }, failed)
        }
        Step::Summary => {
            let preview = Preview::of(app, &wizard.answers).await?;
            let next = wizard.answers.schedule().and_then(|it| it.next_after(shell.times.now).ok().flatten());
            let suggested = wizard.answers.schedule().and_then(|it| goal::suggestion(&it, shell.times.now));
            let goals = goal::options(goal::parse(&wizard.answers.goal).map_or(suggested, goal::Choice::minutes));
            answer_page(&SummaryStep { shell, wizard, machines: chosen, next, goals, suggested, preview }, failed)
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

/// Tasks that this one may run after.
async fn other_tasks(app: &App, answers: &Answers) -> Result<Vec<(TaskId, String)>> {
    if answers.when.after_task.is_none() && !answers.when.is("after") && answers.answered < 4 {
        return Ok(Vec::new());
    }
    let tasks = app.db().tasks().await?.into_iter().filter(|task| answers.task_id != Some(task.task_id));
    Ok(tasks.map(|task| (task.task_id, task.name)).collect())
}

/// Why the database refused the schedule, if it was that.
fn chain_problem(error: &db::Error, answers: &Answers) -> Option<&'static str> {
    match error {
        db::Error::Conflict(db::Conflict::TaskRing) => Some(
            "That task itself runs after this one, at once or through others: they would start each other without end. Choose another.",
        ),
        db::Error::NotFound { what: "task", id }
            if answers.when.is("after") && answers.when.after_task.is_some_and(|task| task.to_string() == *id) =>
        {
            Some("That task is gone. Choose another.")
        }
        _ => None,
    }
}

impl SummaryStep {
    fn has_no_goal(&self) -> bool {
        !self.goals.iter().any(|goal| goal.2)
    }
}

async fn finish(app: &App, session: &Session, draft: DraftId, mut answers: Answers, fields: &Fields) -> Result {
    if goal::parse(fields.get("goal")).is_some() {
        fields.get("goal").clone_into(&mut answers.goal);
    }
    let Some(mut input) = answers.task() else {
        return go(format!("/tasks/draft/{draft}/{}", answers.first_incomplete().as_str()));
    };
    if answers.goal.is_empty() {
        input.goal_minutes = goal::suggestion(&input.schedule, app.now());
    }
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
        Err(error) => {
            let Some(problem) = chain_problem(&error, &answers) else { return Err(error.into()) };
            let mut problems = Problems::default();
            problems.add("after_task", problem);
            return show(app, session, Some(draft), answers, Step::Schedule, problems, fields).await;
        }
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
