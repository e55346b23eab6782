//! Locations: repositories with their space and points; verify, give space back. New ones: `location_new`.

use super::devices::record;
use super::retention::{CleanUp, floor_words};
use super::{form_again, go, page};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::format;
use crate::shell::{Section, Shell, Times};
use crate::state::App;
use crate::ui::{self, Html, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::RepositoryId;
use db::views::{self, RepositoryLine, TaskLine};
use domain::job::JobError;

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
    clean_up: Option<CleanUp>,
    problem: Option<JobError>,
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

/// What the place is called, before its path.
pub fn kind_word(kind: impl AsRef<str>) -> &'static str {
    match kind.as_ref() {
        "smb" => "SMB share",
        "nfs" => "NFS export",
        "s3" => "S3 bucket",
        _ => "Folder",
    }
}

/// What reads it without this server. The account's name, or the key's id, is for the reader to put in.
fn read_by(it: &RepositoryLine) -> String {
    command(&it.kind, &it.path)
}

fn command(kind: &str, path: &str) -> String {
    let place = match kind {
        "smb" => format!("--location smb://ACCOUNT@{}", path.trim_start_matches('/')),
        "nfs" => format!("--location nfs://{}", path.replacen(":/", "/", 1)),
        "s3" => {
            let (scheme, rest) = path.split_once("://").unwrap_or(("https", path));
            let (host, bucket) = rest.split_once('/').unwrap_or((rest, ""));
            format!("--location s3://{bucket} --endpoint {scheme}://{host} --access-key ID")
        }
        _ => format!("--path {path}"),
    };
    format!("stillframe repo list {place}")
}

/// `612 GB free of 24.0 TB`.
pub fn free_words(it: &RepositoryLine) -> String {
    match (it.capacity_bytes, it.free_bytes) {
        (Some(capacity), Some(free)) => format!("{} free of {}", format::bytes(free), format::bytes(capacity)),
        _ if it.kind != "folder" => format!("{} used", format::bytes(it.taken_bytes())),
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

    /// What no rule undercuts.
    fn floor(&self) -> String {
        match floor_words(self.it.floor_points, self.it.floor_days).as_str() {
            "none" => "None: the tasks’ rules alone decide.".to_owned(),
            words => format!("{}.", format::sentence(words)),
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
    let clean_up = CleanUp::newest(app, id).await?;
    let shell = Shell::new(app, session, Section::Storage, it.name.clone()).await?;
    let failed = problem.is_some();
    let template = One { shell, it, tasks, clean_up, problem };
    if failed { form_again(&template) } else { page(&template) }
}

/// `GET /storage/{repository}`
pub async fn one(State(app): State<App>, session: Session, Path(id): Path<RepositoryId>) -> Result {
    show(&app, &session, id, None).await
}

/// Answers to a job that was asked for: says so on the location's page, or why not.
async fn queued(
    app: &App,
    session: &Session,
    id: RepositoryId,
    asked: std::result::Result<(), JobError>,
    (event, said): (&str, &str),
) -> Result {
    if let Err(problem) = asked {
        return show(app, session, id, Some(problem)).await;
    }
    let it = views::repository_line(app.db(), id).await?.ok_or(Failure::NotFound)?;
    record(app, session, event, &it.name, "").await?;
    go(format!("/storage/{id}?said={said}"))
}

/// `POST /storage/{repository}/verify`
pub async fn verify(State(app): State<App>, session: Session, Path(id): Path<RepositoryId>) -> Result {
    let asked = app.given.backend.verify(id).await;
    queued(&app, &session, id, asked, ("location.verified", "verify-queued")).await
}

/// `POST /storage/{repository}/collect`
pub async fn collect(State(app): State<App>, session: Session, Path(id): Path<RepositoryId>) -> Result {
    let asked = app.given.backend.collect(id).await;
    queued(&app, &session, id, asked, ("location.collected", "collect-queued")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_location_is_read_by_an_address_the_command_line_takes() {
        for (kind, path, place) in [
            ("folder", "/srv/backup", "--path /srv/backup"),
            ("smb", "//nas/vm/stillframe", "--location smb://ACCOUNT@nas/vm/stillframe"),
            ("nfs", "nas:/export/vm", "--location nfs://nas/export/vm"),
            (
                "s3",
                "https://s3.example.org:8443/bucket/prefix",
                "--location s3://bucket/prefix --endpoint https://s3.example.org:8443 --access-key ID",
            ),
        ] {
            assert_eq!(command(kind, path), format!("stillframe repo list {place}"));
        }
    }
}
