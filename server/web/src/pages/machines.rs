//! Virtual machines: the list over all devices, one machine, and "back up now".

use super::devices::{findings, first_message, is_blocked, power_word, record};
use super::retention::Outlooks;
use super::{Pager, go, goal, page, page_number};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::Fields;
use crate::format::{self, Of};
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui::{self, Html, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::views::{
    self, DeviceLine, MachineFilter, MachineLine, MachinePage, PointLine, Protection, ProtectionCounts, RunLine, Slice,
    TaskLine,
};
use db::{DeviceId, Goal, RunId, Start, TaskId, TrackingAlarm, VmId};
use domain::job::JobError;
use domain::tag::{TAG_LIST_LENGTH_MAX_CHARS, Tag};

/// Newest points and runs on a machine's page.
const HISTORY: i64 = 10;
/// Sorts of the list and their words.
const SORTS: [(&str, &str); 9] = [
    ("trouble", "Trouble first"),
    ("name", "Name"),
    ("-name", "Name, from Z"),
    ("point", "Oldest point first"),
    ("-point", "Newest point first"),
    ("-size", "Largest first"),
    ("size", "Smallest first"),
    ("device", "Device"),
    ("-device", "Device, from Z"),
];

#[derive(Template)]
#[template(path = "machines/list.html")]
struct List {
    shell: Shell,
    filter: MachineFilter,
    found: Slice<MachineLine>,
    goals: Vec<Goal>,
    counts: ProtectionCounts,
    devices: Vec<DeviceLine>,
    tasks: Vec<TaskLine>,
    pager: Pager,
    note: Option<String>,
    /// That machines have, to filter by.
    tags: Vec<String>,
}

#[derive(Template)]
#[template(path = "machines/page.html")]
struct One {
    shell: Shell,
    machine: MachinePage,
    points: Vec<PointLine>,
    outlooks: Outlooks,
    history: Vec<(RunLine, Option<JobError>)>,
    goal: Option<Goal>,
    /// The machine's own, minutes; 0 is none.
    own_goal: Option<u32>,
    note: Option<String>,
    alarms: Vec<TrackingAlarm>,
}

fn protection_tone(protection: impl Of<Protection>) -> Tone {
    match protection.value() {
        Protection::Not => Tone::Bad,
        Protection::Behind => Tone::Warn,
        Protection::Protected => Tone::Ok,
        Protection::Paused => Tone::Idle,
    }
}

fn protection_word(protection: impl Of<Protection>) -> &'static str {
    match protection.value() {
        Protection::Not => "Not protected",
        Protection::Behind => "Last run failed",
        Protection::Protected => "Protected",
        Protection::Paused => "Paused",
    }
}

/// State of a machine, with the reason under it.
fn state(line: &MachineLine) -> Html {
    let protection = line.protection();
    let blocked = first_message(&line.findings);
    let reason = if line.missing_since.is_some() {
        "no longer on its host"
    } else if line.active_run.is_some() {
        "being backed up"
    } else if is_blocked(&line.findings) {
        blocked.as_str()
    } else if line.tasks == 0 {
        "in no task"
    } else if line.last_state.as_deref() == Some("failed") {
        line.last_error.as_ref().map_or("the run failed", |error| error.why.as_str())
    } else if line.points == 0 {
        "no point yet"
    } else if line.last_state.as_deref() == Some("warning") {
        "with a warning"
    } else {
        ""
    };
    let state = ui::st(protection_tone(protection), protection_word(protection));
    if reason.is_empty() {
        return state;
    }
    Html(format!(r#"{state}<span class="sub">{}</span>"#, ui::escape(reason)))
}

impl List {
    fn tab(&self, state: &str) -> String {
        self.address(state, &self.filter.sort)
    }

    fn sorted(&self, sort: &str) -> String {
        self.address(self.filter.protection.map_or("", Protection::as_str), sort)
    }

    fn address(&self, state: &str, sort: &str) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let (device, task) = (id_text(self.filter.device), id_text(self.filter.task));
        let words = self.filter.words.as_str();
        let tag = self.filter.tag.as_str();
        let fields =
            [("q", words), ("device", &device), ("task", &task), ("tag", tag), ("state", state), ("sort", sort)];
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            query.append_pair(name, value);
        }
        format!("/machines?{}", query.finish())
    }

    /// A column's heading that sorts: address and icon.
    fn sorter(&self, column: &str) -> (String, &'static str) {
        let (down, up) = (format!("-{column}"), column.to_owned());
        if self.filter.sort == up {
            (self.sorted(&down), "arrow-down")
        } else {
            (self.sorted(&up), if self.filter.sort == down { "arrow-down" } else { "arrows-sort" })
        }
    }

    /// Whether a machine meets its goal, if it has one.
    fn goal(&self, vm: &VmId) -> Html {
        self.goals.iter().find(|goal| goal.vm_id == *vm).map(goal::label).unwrap_or_default()
    }

    fn is_device(&self, device: &DeviceId) -> bool {
        self.filter.device == Some(*device)
    }

    fn is_task(&self, task: &TaskId) -> bool {
        self.filter.task == Some(*task)
    }

    fn is_tag(&self, tag: &str) -> bool {
        self.filter.tag == tag
    }

    fn is_state(&self, state: &str) -> bool {
        self.filter.protection.map_or("", Protection::as_str) == state
    }

    fn is_filtered(&self) -> bool {
        !self.filter.words.is_empty()
            || self.filter.device.is_some()
            || self.filter.task.is_some()
            || !self.filter.tag.is_empty()
    }

    fn tabs(&self) -> [(Protection, i64); 4] {
        Protection::ALL.map(|protection| (protection, self.counts.of(protection)))
    }
}

impl One {
    /// Goals to choose from.
    fn goals(&self) -> Vec<(String, String, bool)> {
        goal::options(self.own_goal.filter(|minutes| *minutes > 0))
    }

    fn is_without_goal(&self) -> bool {
        self.own_goal == Some(0)
    }

    fn goal_words(&self) -> Html {
        self.goal.as_ref().map(|goal| goal::sentence(goal, &self.shell.times)).unwrap_or_default()
    }
}

fn id_text(id: Option<impl std::fmt::Display>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn filter_of(fields: &Fields) -> MachineFilter {
    let sort = SORTS.iter().find(|(word, _)| *word == fields.get("sort")).map_or("trouble", |(word, _)| word);
    MachineFilter {
        words: fields.get("q").chars().take(200).collect(),
        device: fields.get("device").parse().ok(),
        task: fields.get("task").parse().ok(),
        tag: Tag::parse(fields.get("tag")).map(|tag| tag.to_string()).unwrap_or_default(),
        protection: Protection::parse(fields.get("state")),
        sort: sort.to_owned(),
        page: page_number(fields),
    }
}

/// `GET /machines`
pub async fn list(State(app): State<App>, session: Session, fields: Fields) -> Result {
    show(&app, &session, filter_of(&fields), None).await
}

async fn show(app: &App, session: &Session, filter: MachineFilter, note: Option<String>) -> Result {
    let found = views::machines(app.db(), &filter).await?;
    let counts = views::protection_counts(app.db(), &filter).await?;
    let shown: Vec<VmId> = found.lines.iter().map(|line| line.vm_id).collect();
    let goals = app.db().goals_of(&shown).await?;
    let (devices, tasks) = tokio::try_join!(views::devices(app.db()), views::tasks(app.db()))?;
    let query = [
        ("q", filter.words.as_str()),
        ("device", &id_text(filter.device)),
        ("task", &id_text(filter.task)),
        ("tag", &filter.tag),
        ("state", filter.protection.map_or("", Protection::as_str)),
        ("sort", &filter.sort),
    ];
    let tags = app.db().known_tags().await?;
    let pager = Pager::new("/machines", &query, filter.page, found.total, found.lines.len());
    let shell = Shell::new(app, session, Section::Machines, "Virtual machines").await?;
    page(&List { shell, filter, found, goals, counts, devices, tasks, pager, note, tags })
}

/// `POST /machines`: with the picked machines.
pub async fn bulk(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let picked: Vec<VmId> = fields.all("vm").filter_map(|id| id.parse().ok()).collect();
    match fields.get("do") {
        "run" => back_up(&app, &session, &picked).await,
        action @ ("tag" | "untag") => super::machine_tags::change(&app, &session, &picked, action, &fields).await,
        "add" if session.role.allows(domain::permission::Permission::EditTasks) => {
            super::task_wizard::begin_with(&app, &session, picked).await
        }
        "add" => Err(Failure::Forbidden),
        _ => Err(Failure::Refused("There is no such action.".to_owned())),
    }
}

/// `POST /machines/{vm}/run`
pub async fn run(State(app): State<App>, session: Session, Path(vm): Path<VmId>) -> Result {
    let machine = views::machine_page(app.db(), vm).await?.ok_or(Failure::NotFound)?;
    if machine.tasks.is_empty() {
        return super::task_wizard::begin_with(&app, &session, vec![vm]).await;
    }
    back_up(&app, &session, &[vm]).await
}

/// `POST /machines/{vm}/goal`
pub async fn set_goal(State(app): State<App>, session: Session, Path(vm): Path<VmId>, fields: Fields) -> Result {
    let machine = views::machine_page(app.db(), vm).await?.ok_or(Failure::NotFound)?;
    let (minutes, words) = match (fields.get("goal"), goal::parse(fields.get("goal"))) {
        ("tasks", _) => (None, "as its tasks say".to_owned()),
        (_, Some(goal::Choice::None)) => (Some(0), "none".to_owned()),
        (_, Some(goal::Choice::Minutes(minutes))) => (Some(minutes), goal::words(minutes)),
        (_, None) => return Err(Failure::Refused("There is no such goal.".to_owned())),
    };
    app.db().set_machine_goal(vm, minutes).await?;
    record(&app, &session, "machine.goal_changed", &machine.name, &words).await?;
    go(format!("/machines/{vm}?said=goal-saved"))
}

/// Starts one run for each task that the machines are in, for these machines only.
async fn back_up(app: &App, session: &Session, picked: &[VmId]) -> Result {
    let mut by_task: std::collections::BTreeMap<TaskId, Vec<VmId>> = std::collections::BTreeMap::new();
    let mut without = 0_u64;
    for machine in views::task_of_machines(app.db(), picked).await? {
        match machine.1 {
            Some(task) => by_task.entry(task).or_default().push(machine.0),
            None => without += 1,
        }
    }
    let mut started: Vec<RunId> = Vec::new();
    let mut busy = 0_u64;
    for (task, machines) in by_task {
        match app.db().start_run_of(task, &session.name, &machines).await? {
            Start::Started { run_id, .. } => started.push(run_id),
            Start::AlreadyRunning(_) | Start::AlreadyStarted(_) => busy += 1,
            Start::NoMachines => {}
        }
    }
    record(app, session, "machines.backed_up", &format!("{} machines", picked.len()), "").await?;
    if let (&[run], 0, 0) = (started.as_slice(), without, busy) {
        return go(format!("/activity/{run}"));
    }
    let mut words = vec![format!("{} started.", format::count(started.len(), "run", "runs"))];
    if without > 0 {
        words.push(format!(
            "{} in no task: add them to one first.",
            format::count(without, "machine is", "machines are")
        ));
    }
    if busy > 0 {
        words.push(format!("{} running already.", format::count(busy, "task is", "tasks are")));
    }
    let filter = MachineFilter { sort: "trouble".to_owned(), page: 1, ..MachineFilter::default() };
    show(app, session, filter, Some(words.join(" "))).await
}

/// `GET /machines/{vm}`
pub async fn one(State(app): State<App>, session: Session, Path(vm): Path<VmId>) -> Result {
    let machine = views::machine_page(app.db(), vm).await?.ok_or(Failure::NotFound)?;
    let mut points = match &machine.machine_key {
        Some(key) => views::points_of(app.db(), key, None, 1).await?.lines,
        None => Vec::new(),
    };
    points.truncate(HISTORY as usize);
    let outlooks = Outlooks::of_machine(&app, vm).await?;
    let history = views::runs_of_machine(app.db(), vm, HISTORY).await?;
    let alarms = app.db().tracking_alarms(vm).await?;
    let goal = app.db().goals_of(&[vm]).await?.into_iter().next();
    let own_goal = app.db().machine_goal(vm).await?.map(i32::unsigned_abs);
    let shell = Shell::new(&app, &session, Section::Machines, machine.name.clone()).await?;
    page(&One { shell, machine, points, outlooks, history, goal, own_goal, note: None, alarms })
}

/// `POST /machines/{vm}/alarms`: the operator has seen what change tracking missed.
pub async fn see_alarms(State(app): State<App>, session: Session, Path(vm): Path<VmId>) -> Result {
    let machine = views::machine_page(app.db(), vm).await?.ok_or(Failure::NotFound)?;
    let seen = app.db().see_tracking_alarms(vm, &session.name).await?;
    record(&app, &session, "machine.alarms_seen", &machine.name, &format::count(seen, "alarm", "alarms")).await?;
    go(format!("/machines/{vm}"))
}
