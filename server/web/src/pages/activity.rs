//! Activity: all runs, newest first.

use super::{Pager, page, page_number};
use crate::auth::Session;
use crate::failure::Result;
use crate::form::Fields;
use crate::format::{self, Of};
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui::{self, Tone};
use askama::Template;
use axum::extract::State;
use db::RunKind;
use db::views::{self, RunFilter, RunLine, Slice};
use jiff::Timestamp;

/// States to filter by: word in the address, words on the tab.
const STATES: [(&str, &str); 6] = [
    ("", "All"),
    ("active", "Running"),
    ("failed", "Failed"),
    ("warning", "With warnings"),
    ("succeeded", "Done"),
    ("cancelled", "Cancelled"),
];

#[derive(Template)]
#[template(path = "activity.html")]
struct List {
    shell: Shell,
    filter: RunFilter,
    task: Option<String>,
    runs: Slice<RunLine>,
    pager: Pager,
}

/// What a run is, in a word.
pub fn kind_word(kind: impl Of<RunKind>) -> &'static str {
    match kind.value() {
        RunKind::Backup => "backup",
        RunKind::Restore => "restore",
        RunKind::Cleanup => "removal",
    }
}

/// How long something took.
pub fn took(from: impl Of<Timestamp>, to: impl Of<Timestamp>) -> String {
    let (from, to) = (from.value(), to.value());
    format::duration(u64::try_from(to.as_second() - from.as_second()).unwrap_or_default())
}

/// `GET /activity`
pub async fn list(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let pick = |name: &str, words: &[&str]| {
        words.iter().find(|word| **word == fields.get(name)).map(ToString::to_string).unwrap_or_default()
    };
    let filter = RunFilter {
        state: pick("state", &STATES.map(|state| state.0)),
        kind: pick("kind", &["backup", "restore", "cleanup"]),
        task: fields.get("task").parse().ok(),
        page: page_number(&fields),
    };
    let runs = views::runs(app.db(), &filter).await?;
    let task = match filter.task {
        Some(task) => views::task_line(app.db(), task).await?.map(|task| task.name),
        None => None,
    };
    let id = filter.task.map(|task| task.to_string()).unwrap_or_default();
    let query = [("state", filter.state.as_str()), ("kind", filter.kind.as_str()), ("task", id.as_str())];
    let pager = Pager::new("/activity", &query, filter.page, runs.total, runs.lines.len());
    let shell = Shell::new(&app, &session, Section::Activity, "Activity").await?;
    page(&List { shell, filter, task, runs, pager })
}

impl List {
    fn tab(&self, state: &str) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let task = self.filter.task.map(|task| task.to_string()).unwrap_or_default();
        for (name, value) in [("state", state), ("kind", &self.filter.kind), ("task", &task)] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        format!("/activity?{}", query.finish())
    }

    fn task_text(&self) -> String {
        self.filter.task.map(|task| task.to_string()).unwrap_or_default()
    }
}
