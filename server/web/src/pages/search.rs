//! The search box's answer.

use super::page;
use crate::auth::Session;
use crate::failure::Result;
use crate::form::Fields;
use crate::format;
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui;
use askama::Template;
use axum::extract::State;
use db::views::{self, Found};

/// More is not a name.
const WORDS_LENGTH_MAX_CHARS: usize = 200;

#[derive(Template)]
#[template(path = "search.html")]
struct Search {
    shell: Shell,
    found: Found,
}

/// `GET /search`
pub async fn search(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let words: String = fields.get("q").chars().take(WORDS_LENGTH_MAX_CHARS).collect();
    let found = if words.is_empty() { Found::default() } else { views::search(app.db(), &words).await? };
    let mut shell = Shell::new(&app, &session, Section::None, "Search").await?;
    shell.search = words;
    page(&Search { shell, found })
}
