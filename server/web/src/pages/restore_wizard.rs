//! The wizard of a restore: point → host → place → summary → the run. A new machine, powered off, its networks
//! disconnected unless one says otherwise. Never over an existing machine.

use super::devices::record;
use super::{form_again, go, page};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::{Fields, Problems};
use crate::format;
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui::{self, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::views::{self, DatastoreLine, DeviceLine, DevicePage, PointPage};
use db::{DeviceId, DraftId, DraftKind, Platform, PointId};
use engine::RestoreOrder;
use serde::{Deserialize, Serialize};

/// vSphere's longest name of a machine.
const NAME_LENGTH_MAX_CHARS: usize = 80;

/// Steps in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Host,
    Target,
    Summary,
}

impl Step {
    const ALL: [Self; 3] = [Self::Host, Self::Target, Self::Summary];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Target => "target",
            Self::Summary => "summary",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == word)
    }
}

/// Answers so far; kept as the draft's data.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Answers {
    point: PointId,
    device: Option<DeviceId>,
    name: String,
    datastore: String,
    /// Empty keeps each adapter's own network.
    network: String,
    connect: bool,
    /// The target was chosen.
    placed: bool,
}

impl Answers {
    fn first_incomplete(&self) -> Step {
        match (self.device, self.placed) {
            (None, _) => Step::Host,
            (_, false) => Step::Target,
            _ => Step::Summary,
        }
    }
}

struct Wizard {
    draft: DraftId,
    step: Step,
    answers: Answers,
    point: PointPage,
    problems: Problems,
}

#[derive(Template)]
#[template(path = "restore/step_host.html")]
struct HostStep {
    shell: Shell,
    wizard: Wizard,
    devices: Vec<DeviceLine>,
}

#[derive(Template)]
#[template(path = "restore/step_target.html")]
struct TargetStep {
    shell: Shell,
    wizard: Wizard,
    device: DevicePage,
}

#[derive(Template)]
#[template(path = "restore/step_summary.html")]
struct SummaryStep {
    shell: Shell,
    wizard: Wizard,
    device: DevicePage,
}

impl Wizard {
    /// Steps for the bar: number, word, address, current.
    fn bar(&self) -> Vec<(usize, &'static str, Option<String>, bool)> {
        let key: String = url::form_urlencoded::byte_serialize(self.point.machine_key.as_bytes()).collect();
        let reached = self.answers.first_incomplete();
        let own = |step: Step| {
            (step != self.step && step <= reached).then(|| format!("/restore/draft/{}/{}", self.draft, step.as_str()))
        };
        vec![
            (1, "Machine", Some("/restore".to_owned()), false),
            (2, "Point", Some(format!("/restore/machines/{}", key.replace('+', "%20"))), false),
            (3, "Host", own(Step::Host), self.step == Step::Host),
            (4, "Target", own(Step::Target), self.step == Step::Target),
            (5, "Summary", own(Step::Summary), self.step == Step::Summary),
        ]
    }

    fn number(&self) -> usize {
        self.step as usize + 3
    }

    /// What the machine needs of its host.
    fn platform(&self) -> Platform {
        Platform::of(&self.point.config)
    }

    fn is_device(&self, device: &DeviceId) -> bool {
        self.answers.device == Some(*device)
    }
}

impl TargetStep {
    /// Why the machine does not fit there.
    fn too_small(&self, store: &DatastoreLine) -> Option<String> {
        if !store.accessible {
            return Some("not accessible".to_owned());
        }
        let needed = self.wizard.point.line.size_bytes;
        (store.free_bytes < needed)
            .then(|| format!("{} too small if its disks are full", format::bytes(needed - store.free_bytes)))
    }

    /// What the machine's adapters were in.
    fn networks_then(&self) -> String {
        let names: Vec<&str> = self.wizard.point.config.adapters.iter().map(|it| it.network.as_str()).collect();
        if names.is_empty() {
            "It has no network adapter.".to_owned()
        } else {
            format!("It was in: {}.", names.join(", "))
        }
    }
}

impl SummaryStep {
    fn network(&self) -> String {
        if self.wizard.answers.network.is_empty() {
            "Each adapter’s own, where the host has it".to_owned()
        } else {
            self.wizard.answers.network.clone()
        }
    }
}

/// `POST /restore/points/{point}`
pub async fn begin(State(app): State<App>, session: Session, Path(point): Path<PointId>) -> Result {
    let found = views::point_page(app.db(), point).await?.ok_or(Failure::NotFound)?;
    let day = app.times().text(found.line.taken_at, "%Y-%m-%d");
    let stem: String = found.machine_name.chars().take(NAME_LENGTH_MAX_CHARS - 20).collect();
    let answers = Answers {
        point,
        device: None,
        name: format!("{stem}-restore-{day}"),
        datastore: String::new(),
        network: String::new(),
        connect: false,
        placed: false,
    };
    let id = app.db().create_draft(session.account_id, DraftKind::Restore, &to_json(&answers)?).await?;
    go(format!("/restore/draft/{id}/{}", Step::Host.as_str()))
}

fn to_json(answers: &Answers) -> Result<serde_json::Value> {
    serde_json::to_value(answers).map_err(|_| Failure::Internal("a draft"))
}

async fn load(app: &App, session: &Session, draft: DraftId) -> Result<(Answers, PointPage)> {
    let found = app.db().draft(draft, session.account_id).await?;
    if found.kind != DraftKind::Restore {
        return Err(Failure::NotFound);
    }
    let answers: Answers = serde_json::from_value(found.data).map_err(|_| Failure::NotFound)?;
    let point = views::point_page(app.db(), answers.point).await?.ok_or(Failure::NotFound)?;
    Ok((answers, point))
}

/// `GET /restore/draft/{draft}/{step}`
pub async fn step(State(app): State<App>, session: Session, Path((draft, step)): Path<(DraftId, String)>) -> Result {
    let step = Step::parse(&step).ok_or(Failure::NotFound)?;
    let (answers, point) = load(&app, &session, draft).await?;
    let reached = answers.first_incomplete();
    if step > reached {
        return go(format!("/restore/draft/{draft}/{}", reached.as_str()));
    }
    show(&app, &session, Wizard { draft, step, answers, point, problems: Problems::default() }).await
}

async fn show(app: &App, session: &Session, wizard: Wizard) -> Result {
    let failed = !wizard.problems.is_empty();
    let title = format!("Restore {}", wizard.point.machine_name);
    let shell = Shell::new(app, session, Section::Restore, title).await?;
    let device = match wizard.answers.device {
        Some(device) if wizard.step != Step::Host => views::device_page(app.db(), device).await?,
        _ => None,
    };
    match (wizard.step, device) {
        (Step::Host, _) => {
            let devices = views::devices(app.db()).await?;
            answer_page(&HostStep { shell, wizard, devices }, failed)
        }
        (_, None) => go(format!("/restore/draft/{}/{}", wizard.draft, Step::Host.as_str())),
        (Step::Target, Some(device)) => answer_page(&TargetStep { shell, wizard, device }, failed),
        (Step::Summary, Some(device)) => answer_page(&SummaryStep { shell, wizard, device }, failed),
    }
}

fn answer_page(template: &impl Template, failed: bool) -> Result {
    if failed { form_again(template) } else { page(template) }
}

/// `POST /restore/draft/{draft}/{step}`
pub async fn answer(
    State(app): State<App>,
    session: Session,
    Path((draft, step)): Path<(DraftId, String)>,
    fields: Fields,
) -> Result {
    let step = Step::parse(&step).ok_or(Failure::NotFound)?;
    let (mut answers, point) = load(&app, &session, draft).await?;
    let mut problems = Problems::default();
    let next = match step {
        Step::Host => {
            take_host(&app, &mut answers, Platform::of(&point.config), &fields, &mut problems).await?;
            Step::Target
        }
        Step::Target => {
            take_target(&app, &mut answers, &fields, &mut problems).await?;
            Step::Summary
        }
        Step::Summary => return start(&app, &session, draft, answers, point).await,
    };
    if !problems.is_empty() {
        return show(&app, &session, Wizard { draft, step, answers, point, problems }).await;
    }
    app.db().update_draft(draft, session.account_id, &to_json(&answers)?).await?;
    go(format!("/restore/draft/{draft}/{}", next.as_str()))
}

async fn take_host(
    app: &App,
    answers: &mut Answers,
    platform: Platform,
    fields: &Fields,
    problems: &mut Problems,
) -> Result<()> {
    let chosen: Option<DeviceId> = fields.get("device").parse().ok();
    let devices = views::devices(app.db()).await?;
    match devices.iter().find(|device| Some(device.device_id) == chosen && device.enabled) {
        Some(device) if device.platform != platform => {
            let (machine, host) = (platform.product(), device.platform.product());
            problems.add(
                "device",
                format!("This is a machine of {machine}, and {} runs {host}. Choose a host of {machine}.", device.name),
            );
        }
        Some(device) => {
            if answers.device != Some(device.device_id) {
                answers.placed = false;
                answers.datastore.clear();
                answers.network.clear();
            }
            answers.device = Some(device.device_id);
        }
        None => problems.add("device", "Choose a host."),
    }
    Ok(())
}

async fn take_target(app: &App, answers: &mut Answers, fields: &Fields, problems: &mut Problems) -> Result<()> {
    let device = answers.device.ok_or(Failure::NotFound)?;
    let device = views::device_page(app.db(), device).await?.ok_or(Failure::NotFound)?;
    fields.get("name").clone_into(&mut answers.name);
    problems.require("name", &answers.name, NAME_LENGTH_MAX_CHARS, "The name");
    if answers.name.contains(['/', '\\', '%']) {
        problems.add("name", "The name must not hold “/”, “\\” or “%”.");
    }
    if device.machines.iter().any(|machine| machine.missing_since.is_none() && machine.name == answers.name) {
        problems.add("name", format!("{} has a machine of this name.", device.name));
    }
    fields.get("datastore").clone_into(&mut answers.datastore);
    if !device.datastores.iter().any(|store| store.accessible && store.name == answers.datastore) {
        problems.add("datastore", format!("Choose a {}.", device.platform.datastore()));
    }
    fields.get("network").clone_into(&mut answers.network);
    if !answers.network.is_empty() && !device.networks.iter().any(|network| network.name == answers.network) {
        problems.add("network", format!("This host has no such {}.", device.platform.network()));
    }
    answers.connect = fields.has("connect");
    answers.placed = problems.is_empty();
    Ok(())
}

async fn start(app: &App, session: &Session, draft: DraftId, answers: Answers, point: PointPage) -> Result {
    let (Some(device), true) = (answers.device, answers.placed) else {
        return go(format!("/restore/draft/{draft}/{}", answers.first_incomplete().as_str()));
    };
    let target = app.db().device(device).await?;
    let order = RestoreOrder {
        point_id: answers.point.0,
        device_id: device.0,
        name: answers.name.clone(),
        datastore: answers.datastore.clone(),
        network: Some(answers.network.clone()).filter(|network| !network.is_empty()),
        connect_network: answers.connect,
        keep_identity: false,
    };
    let run = match app.given.backend.start_restore(&order, &session.name).await {
        Ok(run) => run,
        Err(error) => {
            let mut problems = Problems::default();
            problems.add("start", format!("{} {} {}", error.what, error.why, error.hint));
            return show(app, session, Wizard { draft, step: Step::Summary, answers, point, problems }).await;
        }
    };
    app.db().delete_draft(draft, session.account_id).await?;
    let detail = format!("as {} on {}", answers.name, target.name);
    record(app, session, "restore.started", &point.machine_name, &detail).await?;
    go(format!("/activity/{run}"))
}
