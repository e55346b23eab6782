//! How much at once, and how fast, a location takes and gives.

use super::device_limits::bandwidth;
use super::devices::record;
use super::{form_again, go, page};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::{Fields, Problems};
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui;
use askama::Template;
use axum::extract::{Path, State};
use db::views::{self, RepositoryLine, WorkerLine};
use db::{DeviceLimits, RepositoryId, WorkerId, WorkerKind};

#[derive(Template)]
#[template(path = "storage/limits.html")]
struct Limits {
    shell: Shell,
    it: RepositoryLine,
    jobs: String,
    speed: String,
    /// Who may see a folder, with a tick for those who do. Empty for other locations.
    workers: Vec<(WorkerLine, bool)>,
    problems: Problems,
}

/// The workers of a folder, ticked by `sees`.
async fn workers(
    app: &App,
    it: &RepositoryLine,
    sees: impl Fn(&WorkerLine) -> bool,
) -> Result<Vec<(WorkerLine, bool)>> {
    if it.kind != "folder" {
        return Ok(Vec::new());
    }
    let all = views::workers(app.db()).await?;
    Ok(all.into_iter().map(|worker| (worker.clone(), sees(&worker))).collect())
}

/// Without any, the servers do.
fn sees(seen_by: &[WorkerId], worker: &WorkerLine) -> bool {
    seen_by.contains(&worker.worker_id) || seen_by.is_empty() && worker.kind == WorkerKind::Server
}

/// What to keep of the ticks: nothing where they are the servers.
fn kept(workers: &[(WorkerLine, bool)]) -> Vec<WorkerId> {
    if workers.iter().all(|(worker, ticked)| sees(&[], worker) == *ticked) {
        return Vec::new();
    }
    workers.iter().filter(|(_, ticked)| *ticked).map(|(worker, _)| worker.worker_id).collect()
}

async fn load(app: &App, id: RepositoryId) -> Result<RepositoryLine> {
    views::repository_line(app.db(), id).await?.ok_or(Failure::NotFound)
}

/// `GET /storage/{repository}/limits`
pub async fn show(State(app): State<App>, session: Session, Path(id): Path<RepositoryId>) -> Result {
    let it = load(&app, id).await?;
    let (jobs, speed, seen_by) = tokio::try_join!(
        app.db().repository_max_jobs(id),
        app.db().repository_bandwidth(id),
        app.db().repository_seen_by(id)
    )?;
    let workers = workers(&app, &it, |worker| sees(&seen_by, worker)).await?;
    let shell = Shell::new(&app, &session, Section::Storage, format!("Limits of {}", it.name)).await?;
    page(&Limits { shell, it, jobs: jobs.to_string(), speed: speed.text(), workers, problems: Problems::default() })
}

/// `POST /storage/{repository}/limits`
pub async fn save(State(app): State<App>, session: Session, Path(id): Path<RepositoryId>, fields: Fields) -> Result {
    let it = load(&app, id).await?;
    let mut problems = Problems::default();
    let jobs = fields.number::<u32>("jobs").filter(|jobs| (1..=DeviceLimits::JOBS_MAX).contains(jobs));
    if jobs.is_none() {
        problems.add("jobs", format!("A number from 1 to {}.", DeviceLimits::JOBS_MAX));
    }
    let speed = bandwidth(fields.get("speed"), &app.times().zone_name(), &mut problems);
    let ticked: Vec<WorkerId> = fields.all("seen_by").filter_map(|id| id.parse().ok()).collect();
    let workers = workers(&app, &it, |worker| ticked.contains(&worker.worker_id)).await?;
    if !workers.is_empty() && !workers.iter().any(|(_, ticked)| *ticked) {
        problems.add("seen_by", "At least one must see the folder.");
    }
    if let (true, Some(jobs), Some(speed)) = (problems.is_empty(), jobs, speed) {
        app.db().set_repository_max_jobs(id, jobs).await?;
        app.db().set_repository_bandwidth(id, &speed).await?;
        app.db().set_repository_seen_by(id, &kept(&workers)).await?;
        record(&app, &session, "location.limits", &it.name, &format!("{jobs} jobs; {}", speed.text())).await?;
        return go(format!("/storage/{id}"));
    }
    let shell = Shell::new(&app, &session, Section::Storage, format!("Limits of {}", it.name)).await?;
    let (jobs, speed) = (fields.get("jobs").to_owned(), fields.get("speed").to_owned());
    form_again(&Limits { shell, it, jobs, speed, workers, problems })
}
