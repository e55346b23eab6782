//! Locations: repositories with their space and points; a new one with its recovery key; verify.

use super::devices::record;
use super::{form_again, go, page};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::{Fields, Problems};
use crate::format;
use crate::shell::{Section, Shell, Times};
use crate::state::App;
use crate::ui::{self, Html, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::views::{self, RepositoryLine, TaskLine};
use db::{DraftId, RepositoryId};
use domain::job::JobError;
use secrecy::ExposeSecret;

/// Longest name of a location.
const NAME_LENGTH_MAX_CHARS: usize = 200;
/// Longest path.
const PATH_LENGTH_MAX_CHARS: usize = 1_000;
/// A passphrase of a repository may be tried offline; it must not be short.
const PASSPHRASE_LENGTH_MIN_CHARS: usize = 12;
/// With less free space than this the bar is red, or yellow.
const SPACE_BAD_PERCENT: u64 = 95;
const SPACE_WARN_PERCENT: u64 = 85;

#[derive(Template)]
#[template(path = "storage/list.html")]
struct List {
    shell: Shell,
    repositories: Vec<RepositoryLine>,
}

#[derive(Template)]
#[template(path = "storage/page.html")]
struct One {
    shell: Shell,
    it: RepositoryLine,
    tasks: Vec<TaskLine>,
    problem: Option<JobError>,
}

#[derive(Template)]
#[template(path = "storage/new.html")]
struct New {
    shell: Shell,
    name: String,
    path: String,
    draft: Option<DraftId>,
    problems: Problems,
    problem: Option<JobError>,
}

/// The only page that ever shows a recovery key; it is an answer to a POST and is not stored.
#[derive(Template)]
#[template(path = "storage/made.html")]
struct Made {
    shell: Shell,
    name: String,
    path: String,
    key: Option<String>,
    points: u64,
    next: String,
}

fn used_percent(it: &RepositoryLine) -> Option<u64> {
    let (capacity, free) = (it.capacity_bytes?, it.free_bytes?);
    Some(format::percent(capacity.saturating_sub(free), capacity))
}

/// A bar of the space used on the location's file system.
pub fn used_bar(it: &RepositoryLine) -> Html {
    let Some(used) = used_percent(it) else { return Html("<span></span>".to_owned()) };
    let class = match used {
        SPACE_BAD_PERCENT.. => "p-bad",
        SPACE_WARN_PERCENT.. => "p-warn",
        _ => "",
    };
    ui::bar(used, class, format!("Space used on {}", it.name))
}

/// `612 GB free of 24.0 TB`.
pub fn free_words(it: &RepositoryLine) -> String {
    match (it.capacity_bytes, it.free_bytes) {
        (Some(capacity), Some(free)) => format!("{} free of {}", format::bytes(free), format::bytes(capacity)),
        _ => "space not known yet".to_owned(),
    }
}

/// Words over a bar, for lists.
pub fn space(it: &RepositoryLine) -> Html {
    let percent = used_percent(it).map(|used| format!("{used} %")).unwrap_or_default();
    let error = if it.check_error.is_some() { ui::st(Tone::Bad, "Cannot be used").0 } else { String::new() };
    let words = free_words(it);
    Html(format!(
        r#"<div class="space row-flex small muted num mb-1"><span>{words}</span><span class="push">{percent}</span></div>{}{error}"#,
        used_bar(it)
    ))
}

/// When its points were read back.
fn checked(it: &RepositoryLine, times: &Times) -> Html {
    if it.damaged_points > 0 {
        return ui::st(Tone::Bad, format::count(it.damaged_points, "damaged point", "damaged points"));
    }
    match it.verified_at {
        _ if it.verifying => ui::st(Tone::Run, "Being checked"),
        Some(at) => times.ago(at),
        None if it.verified_points > 0 => {
            Html(format!(r#"<span class="muted">{} of {} points</span>"#, it.verified_points, it.points))
        }
        None => Html(r#"<span class="muted">not yet</span>"#.to_owned()),
    }
}

impl One {
    /// How far the check is.
    fn checking(&self) -> String {
        match self.it.verify_total_bytes {
            0 => "Being checked".to_owned(),
            total => format!("Being checked, {} %", format::percent(self.it.verify_done_bytes, total)),
        }
    }

    /// How much smaller the points are than the disks in them.
    fn ratio(&self) -> String {
        let taken = self.it.taken_bytes();
        if taken == 0 || self.it.size_bytes < taken {
            return String::new();
        }
        format!("1 to {:.0}", self.it.size_bytes as f64 / taken as f64)
    }
}

/// `GET /storage`
pub async fn list(State(app): State<App>, session: Session) -> Result {
    let repositories = views::repositories(app.db()).await?;
    let shell = Shell::new(&app, &session, Section::Storage, "Storage").await?;
    page(&List { shell, repositories })
}

async fn show(app: &App, session: &Session, id: RepositoryId, problem: Option<JobError>) -> Result {
    let it = views::repository_line(app.db(), id).await?.ok_or(Failure::NotFound)?;
    let tasks = views::tasks(app.db()).await?.into_iter().filter(|task| task.repository_id == id).collect();
    let shell = Shell::new(app, session, Section::Storage, it.name.clone()).await?;
    let failed = problem.is_some();
    let template = One { shell, it, tasks, problem };
    if failed { form_again(&template) } else { page(&template) }
}

/// `GET /storage/{repository}`
pub async fn one(State(app): State<App>, session: Session, Path(id): Path<RepositoryId>) -> Result {
    show(&app, &session, id, None).await
}

/// `POST /storage/{repository}/verify`
pub async fn verify(State(app): State<App>, session: Session, Path(id): Path<RepositoryId>) -> Result {
    let it = views::repository_line(app.db(), id).await?.ok_or(Failure::NotFound)?;
    match app.given.backend.verify(id).await {
        Ok(()) => {
            record(&app, &session, "location.verified", &it.name, "").await?;
            go(format!("/storage/{id}?said=verify-queued"))
        }
        Err(problem) => show(&app, &session, id, Some(problem)).await,
    }
}

/// `GET /storage/new`
pub async fn new(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let shell = Shell::new(&app, &session, Section::Storage, "Create a location").await?;
    let draft = fields.get("draft").parse().ok();
    page(&New { shell, name: String::new(), path: String::new(), draft, problems: Problems::default(), problem: None })
}

/// `POST /storage/new`
pub async fn create(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let (name, path) = (fields.get("name").to_owned(), fields.get("path").to_owned());
    let draft: Option<DraftId> = fields.get("draft").parse().ok();
    let passphrase = fields.secret("passphrase");
    let mut problems = Problems::default();
    problems.require("name", &name, NAME_LENGTH_MAX_CHARS, "The name");
    problems.require("path", &path, PATH_LENGTH_MAX_CHARS, "The folder");
    if !path.is_empty() && !path.starts_with('/') {
        problems.add("path", "A full path that begins with “/”.");
    }
    let length = passphrase.expose_secret().chars().count();
    if length < PASSPHRASE_LENGTH_MIN_CHARS {
        problems
            .add("passphrase", format!("Too short: {length} of at least {PASSPHRASE_LENGTH_MIN_CHARS} characters."));
    } else if passphrase.expose_secret() != fields.raw("passphrase_again") {
        problems.add("passphrase_again", "The two passphrases differ.");
    }
    let mut problem = None;
    if problems.is_empty() {
        match app.given.backend.create_location(&name, &path, passphrase).await {
            Ok(made) => {
                record(&app, &session, "location.created", &name, &path).await?;
                let next = match draft {
                    Some(draft) => format!("/tasks/draft/{draft}/location?made={}", made.repository_id),
                    None => format!("/storage/{}?said=location-ready", made.repository_id),
                };
                let shell = Shell::new(&app, &session, Section::Storage, "Recovery key").await?;
                let key = made.recovery_key.map(|key| key.expose_secret().to_owned());
                return page(&Made { shell, name, path, key, points: made.points, next });
            }
            Err(error) => problem = Some(error),
        }
    }
    let shell = Shell::new(&app, &session, Section::Storage, "Create a location").await?;
    form_again(&New { shell, name, path, draft, problems, problem })
}

impl Made {
    fn action(&self) -> &str {
        self.next.split('?').next().unwrap_or_default()
    }

    /// The query as fields: a form of method GET drops its action's query.
    fn fields(&self) -> Vec<(String, String)> {
        let query = self.next.split_once('?').map_or("", |(_, query)| query);
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }
}
