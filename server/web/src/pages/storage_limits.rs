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
use db::views::{self, RepositoryLine};
use db::{DeviceLimits, RepositoryId};

#[derive(Template)]
#[template(path = "storage/limits.html")]
struct Limits {
    shell: Shell,
    it: RepositoryLine,
    jobs: String,
    speed: String,
    problems: Problems,
}

async fn load(app: &App, id: RepositoryId) -> Result<RepositoryLine> {
    views::repository_line(app.db(), id).await?.ok_or(Failure::NotFound)
}

/// `GET /storage/{repository}/limits`
pub async fn show(State(app): State<App>, session: Session, Path(id): Path<RepositoryId>) -> Result {
    let it = load(&app, id).await?;
    let (jobs, speed) = tokio::try_join!(app.db().repository_max_jobs(id), app.db().repository_bandwidth(id))?;
    let shell = Shell::new(&app, &session, Section::Storage, format!("Limits of {}", it.name)).await?;
    page(&Limits { shell, it, jobs: jobs.to_string(), speed: speed.text(), problems: Problems::default() })
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
    if let (Some(jobs), Some(speed)) = (jobs, speed) {
        app.db().set_repository_max_jobs(id, jobs).await?;
        app.db().set_repository_bandwidth(id, &speed).await?;
        record(&app, &session, "location.limits", &it.name, &format!("{jobs} jobs; {}", speed.text())).await?;
        return go(format!("/storage/{id}"));
    }
    let shell = Shell::new(&app, &session, Section::Storage, format!("Limits of {}", it.name)).await?;
    let (jobs, speed) = (fields.get("jobs").to_owned(), fields.get("speed").to_owned());
    form_again(&Limits { shell, it, jobs, speed, problems })
}
