//! One module a page, or a family of pages. A handler reads its fields, asks `db` or the backend, fills a template.

pub mod account;
pub mod activity;
pub mod calendar;
pub mod channel;
mod coming;
mod device_limits;
mod device_place;
pub mod device_wizard;
pub mod devices;
pub mod gate;
mod goal;
pub mod home;
pub mod left_behind;
pub mod location_new;
pub mod machine_tags;
pub mod machines;
pub mod metrics;
pub mod notifications;
pub mod restore;
pub mod restore_wizard;
pub mod retention;
mod retention_preview;
pub mod run;
mod schedule_answers;
mod schedule_preview;
pub mod search;
pub mod settings;
pub mod storage;
pub mod storage_limits;
mod task_answers;
mod task_choice;
pub mod task_wizard;
pub mod tasks;
pub mod workers;

use crate::failure::{Failure, Result};
use crate::form::Fields;
use crate::format::Of;
use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use db::views::PAGE_LINES;

/// Everything that is not in the table.
pub async fn not_found() -> Failure {
    Failure::NotFound
}

/// `GET /health`: the server answers and so does its database.
pub async fn health(axum::extract::State(app): axum::extract::State<crate::state::App>) -> Response {
    match app.db().now().await {
        Ok(_) => (StatusCode::OK, "ok\n").into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response(),
    }
}

fn page(template: &impl Template) -> Result {
    Ok(Html(template.render()?).into_response())
}

/// A form that has to be corrected. 422 swaps in htmx, too.
fn form_again(template: &impl Template) -> Result {
    Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(template.render()?)).into_response())
}

#[allow(clippy::unnecessary_wraps)] // handlers end with it, and with nothing else
fn go(address: impl AsRef<str>) -> Result {
    Ok(Redirect::to(address.as_ref()).into_response())
}

/// Addresses of the other pages of a list.
pub struct Pager {
    first: i64,
    last: i64,
    total: i64,
    page: i64,
    base: String,
}

/// Links on both sides of the present page.
const PAGER_NEIGHBOURS: i64 = 2;

impl Pager {
    /// `path` with the list's own fields, without the page's number.
    fn new(path: &str, query: &[(&str, &str)], page: i64, total: i64, shown: usize) -> Self {
        let mut base = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
            base.append_pair(name, value);
        }
        let first = (page - 1) * PAGE_LINES + 1;
        Self { first, last: first + shown as i64 - 1, total, page, base: format!("{path}?{}", base.finish()) }
    }

    /// There is more than one page.
    pub fn is_needed(&self) -> bool {
        self.total > PAGE_LINES
    }

    /// `1 to 25 of 61`.
    pub fn words(&self) -> String {
        if self.last < self.first {
            return format!("none of {}", self.total);
        }
        format!("{} to {} of {}", self.first, self.last, self.total)
    }

    fn pages(&self) -> i64 {
        (self.total + PAGE_LINES - 1) / PAGE_LINES
    }

    /// Numbers to link: the first, those around this one, the last; 0 is a gap.
    pub fn numbers(&self) -> Vec<i64> {
        let pages = self.pages();
        let mut numbers = Vec::new();
        let mut before = 0;
        for number in 1..=pages.min(db::views::PAGE_MAX) {
            if number != 1 && number != pages && (number - self.page).abs() > PAGER_NEIGHBOURS {
                continue;
            }
            if number > before + 1 {
                numbers.push(0);
            }
            numbers.push(number);
            before = number;
        }
        numbers
    }

    /// Address of a page.
    pub fn link(&self, number: impl Of<i64>) -> String {
        let number = number.value();
        let joint = if self.base.ends_with('?') { "" } else { "&" };
        format!("{}{joint}page={number}", self.base)
    }

    /// This page.
    pub fn is_current(&self, number: impl Of<i64>) -> bool {
        number.value() == self.page
    }

    /// The next page's number.
    pub fn next(&self) -> Option<i64> {
        (self.page < self.pages()).then_some(self.page + 1)
    }
}

fn page_number(fields: &Fields) -> i64 {
    fields.number("page").filter(|number| (1..=db::views::PAGE_MAX).contains(number)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pager_keeps_the_filter_and_leaves_gaps() {
        let pager = Pager::new("/machines", &[("q", "a b"), ("sort", "")], 7, 61 * 25, 25);
        assert_eq!(pager.words(), "151 to 175 of 1525");
        assert_eq!(pager.numbers(), [1, 0, 5, 6, 7, 8, 9, 0, 61]);
        assert_eq!(pager.link(8), "/machines?q=a+b&page=8");
        assert_eq!(pager.next(), Some(8));
        assert!(!Pager::new("/machines", &[], 1, 25, 25).is_needed());
        assert_eq!(Pager::new("/machines", &[], 1, 60, 25).link(2), "/machines?page=2");
    }
}
