//! The calendar of coming runs: a week or four, a day a cell, what overlaps marked.
//! Read next: `coming.rs` (which runs).

use super::coming::{Coming, coming};
use super::page;
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::Fields;
use crate::format::{self, Of};
use crate::shell::{Section, Shell};
use crate::state::App;
use crate::ui;
use askama::Template;
use axum::extract::State;
use db::views;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// One can look ahead so far.
const DAYS_AHEAD_MAX: i32 = 366;
/// Runs of one day in the view of four weeks; the week shows the others.
const RUNS_A_DAY_SHORT: usize = 4;
/// Runs of one day in the view of a week.
const RUNS_A_DAY_MAX: usize = 200;
const WEEK: usize = 7;
const WEEKS: usize = 4;

#[derive(Template)]
#[template(path = "tasks/calendar.html")]
struct Calendar {
    shell: Shell,
    rows: Vec<Vec<Day>>,
    overlaps: usize,
    runs: usize,
    tasks: usize,
    month: bool,
    words: String,
    from: Date,
    back: Option<Date>,
    ahead: Option<Date>,
}

/// A day of the calendar.
struct Day {
    date: Date,
    is_today: bool,
    runs: Vec<Coming>,
    more: usize,
}

impl Day {
    fn weekday(&self) -> String {
        self.date.strftime("%a").to_string()
    }

    fn name(&self) -> String {
        self.date.strftime("%-d %b").to_string()
    }
}

impl Calendar {
    fn clock(&self, at: impl Of<Timestamp>) -> String {
        self.shell.times.text(at.value(), "%H:%M")
    }

    /// Until when it is expected to go on.
    fn length(&self, run: &Coming) -> String {
        let Some(until) = run.until else { return "has not run before".to_owned() };
        let took = super::activity::took(run.at, until);
        if until.as_second() - run.at.as_second() < 60 {
            return format!("takes about {took}");
        }
        format!("until about {} ({took})", self.clock(until))
    }

    fn address(month: impl Of<bool>, from: impl Of<Date>) -> String {
        let (view, from) = (if month.value() { "month" } else { "week" }, from.value());
        format!("/tasks/calendar?view={view}&from={from}")
    }
}

fn start_of(date: Date, zone: &TimeZone) -> Result<Timestamp> {
    let start = zone.to_ambiguous_zoned(date.at(0, 0, 0, 0)).compatible();
    start.map(|start| start.timestamp()).map_err(|_| Failure::NotFound)
}

fn later(date: Date, days: usize) -> Result<Date> {
    date.checked_add((days as i64).days()).map_err(|_| Failure::NotFound)
}

/// `GET /tasks/calendar`
pub async fn calendar(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let tasks = views::calendar_tasks(app.db()).await?;
    let shell = Shell::new(&app, &session, Section::Tasks, "Calendar of runs").await?;
    let month = fields.get("view") == "month";
    let (now, zone) = (shell.times.now, shell.times.zone.clone());
    let today = now.to_zoned(zone.clone()).date();
    let last = today.saturating_add(DAYS_AHEAD_MAX.days());
    let from = fields.get("from").parse::<Date>().ok().filter(|date| (today..=last).contains(date)).unwrap_or(today);
    let length = if month { WEEK * WEEKS } else { WEEK };
    let to = later(from, length)?;
    let all = coming(&tasks, now, start_of(from, &zone)?, start_of(to, &zone)?);
    let (runs, overlaps) = (all.len(), all.iter().filter(|run| run.beside_count > 0).count());
    let days = by_day(all, from, today, length, &zone, if month { RUNS_A_DAY_SHORT } else { RUNS_A_DAY_MAX })?;
    let before = from.saturating_sub((length as i64).days()).max(today);
    let words = format!("{} to {}", from.strftime("%-d %b"), later(from, length - 1)?.strftime("%-d %b %Y"));
    page(&Calendar {
        shell,
        rows: days,
        overlaps,
        runs,
        tasks: tasks.len(),
        month,
        words,
        from,
        back: (before < from).then_some(before),
        ahead: (to <= last).then_some(to),
    })
}

/// Rows of seven days.
fn by_day(
    runs: Vec<Coming>,
    from: Date,
    today: Date,
    length: usize,
    zone: &TimeZone,
    shown: usize,
) -> Result<Vec<Vec<Day>>> {
    let mut runs = runs.into_iter().peekable();
    let mut rows: Vec<Vec<Day>> = Vec::new();
    for offset in 0..length {
        let date = later(from, offset)?;
        let mut day = Day { date, is_today: date == today, runs: Vec::new(), more: 0 };
        while let Some(run) = runs.next_if(|run| run.at.to_zoned(zone.clone()).date() <= date) {
            if day.runs.len() < shown { day.runs.push(run) } else { day.more += 1 }
        }
        match rows.last_mut().filter(|row| row.len() < WEEK) {
            Some(row) => row.push(day),
            None => rows.push(vec![day]),
        }
    }
    Ok(rows)
}
