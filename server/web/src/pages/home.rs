//! The start page: three steps to the first backup, then trouble first.

use super::page;
use crate::auth::Session;
use crate::failure::Result;
use crate::format;
use crate::live::{Parts, Source, stream};
use crate::pages::storage;
use crate::shell::{Section, Shell, Times};
use crate::state::App;
use crate::ui::{self, Html, Tone};
use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use db::views::{
    self, ActiveRun, Day, HomeCounts, LeftBehind, NextRun, Protection, RepositoryLine, Trouble, TroubleKind,
};
use jiff::{Timestamp, ToSpan};

/// Runs to come that are shown.
const NEXT_RUNS: i64 = 5;
/// Entries of the attention list that are shown; the rest is counted.
const TROUBLES_SHOWN: usize = 8;
/// Days in the chart.
const CHART_DAYS: i64 = 7;

#[derive(Template)]
#[template(path = "home_empty.html")]
struct FirstSteps {
    shell: Shell,
    step: u8,
    active: Option<ActiveRun>,
}

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    shell: Shell,
    board: Board,
}

/// The part that is live.
#[derive(Template)]
#[template(path = "parts/home_board.html")]
struct Board {
    times: Times,
    counts: HomeCounts,
    troubles: Vec<Trouble>,
    active: Vec<ActiveRun>,
    next: Vec<NextRun>,
    left_behind: LeftBehind,
    repositories: Vec<RepositoryLine>,
    days: Vec<DayBar>,
}

struct DayBar {
    label: String,
    long: String,
    good: i64,
    warning: i64,
    failed: i64,
}

/// `GET /`
pub async fn home(State(app): State<App>, session: Session) -> Result {
    let counts = views::home_counts(app.db()).await?;
    if !counts.has_points {
        let shell = Shell::new(&app, &session, Section::Home, "Home").await?;
        let active = views::active_runs(app.db()).await?.into_iter().next();
        let step = match (counts.devices, counts.tasks) {
            (0, _) => 1,
            (_, 0) => 2,
            _ => 3,
        };
        return page(&FirstSteps { shell, step, active });
    }
    let board = Board::new(&app).await?;
    let shell = Shell::new(&app, &session, Section::Home, "Home").await?;
    page(&Home { shell, board })
}

/// `GET /live/home`
pub async fn live(State(app): State<App>, _: Session) -> Result<Response> {
    Ok(stream(app, Watch).await?.into_response())
}

struct Watch;

impl Source for Watch {
    fn concerns(&self, event: &db::Event) -> bool {
        matches!(event, db::Event::RunChanged(_) | db::Event::DeviceChanged(_))
    }

    async fn look(&mut self, app: &App) -> Result<Parts> {
        let board = Board::new(app).await?;
        Ok(Parts { replace: vec![("board".to_owned(), board.render()?)], ..Parts::default() })
    }
}

impl Board {
    async fn new(app: &App) -> Result<Self> {
        let (db, times) = (app.db(), app.times());
        let since = times.now.to_zoned(times.zone.clone()).start_of_day().ok().map_or(times.now, |day| {
            day.checked_sub((CHART_DAYS - 1).days()).map_or(times.now, |first| first.timestamp())
        });
        let zone = times.zone.iana_name().unwrap_or("UTC").to_owned();
        let (counts, troubles, active, next, left_behind, repositories, days) = tokio::try_join!(
            views::home_counts(db),
            views::troubles(db),
            views::active_runs(db),
            views::next_runs(db, NEXT_RUNS),
            views::left_behind(db),
            views::repositories(db),
            views::days(db, since, &zone),
        )?;
        let days = bars(&times, since, &days);
        Ok(Self { times, counts, troubles, active, next, left_behind, repositories, days })
    }

    fn title(&self) -> String {
        let errors = self.troubles.iter().filter(|trouble| trouble.is_error).count() as u64;
        let warnings = self.troubles.len() as u64 - errors;
        let failed = format::count(errors, "thing failed", "things failed");
        match (errors, warnings) {
            (0, 0) => "All is well".to_owned(),
            (0, 1) => "1 thing needs a look".to_owned(),
            (0, _) => format!("{warnings} things need a look"),
            (_, 0) => failed,
            (_, 1) => format!("{failed}, 1 needs a look"),
            _ => format!("{failed}, {warnings} need a look"),
        }
    }

    fn shown(&self) -> &[Trouble] {
        self.troubles.get(..TROUBLES_SHOWN).unwrap_or(&self.troubles)
    }

    fn hidden(&self) -> usize {
        self.troubles.len().saturating_sub(TROUBLES_SHOWN)
    }

    fn of(&self, protection: Protection) -> i64 {
        self.counts.protection.of(protection)
    }

    fn protected(&self) -> i64 {
        self.of(Protection::Protected)
    }

    fn machines(&self) -> i64 {
        self.counts.protection.all()
    }

    /// Arcs of the ring: class, length, offset, of a circle of 326.7.
    fn arcs(&self) -> Vec<(&'static str, String, String)> {
        const ROUND: f64 = 326.7;
        const GAP: f64 = 4.0;
        let all = self.machines().max(1) as f64;
        let kinds = [
            ("r-ok", Protection::Protected),
            ("r-warn", Protection::Behind),
            ("r-bad", Protection::Not),
            ("r-idle", Protection::Paused),
        ];
        let used: Vec<_> = kinds.into_iter().filter(|(_, kind)| self.of(*kind) > 0).collect();
        let gap = if used.len() > 1 { GAP } else { 0.0 };
        let mut start = 0.0;
        let mut arcs = Vec::new();
        for (class, kind) in used {
            let share = self.of(kind) as f64 / all * ROUND;
            let length = (share - gap).max(1.0);
            arcs.push((class, format!("{length:.1} {:.1}", ROUND - length), format!("{:.1}", -start)));
            start += share;
        }
        arcs
    }

    fn chart(&self) -> Html {
        crate::pages::home::chart(&self.days)
    }

    fn total_runs(&self) -> i64 {
        self.days.iter().map(|day| day.good + day.warning + day.failed).sum()
    }

    fn sum(&self, pick: fn(&DayBar) -> i64) -> i64 {
        self.days.iter().map(pick).sum()
    }

    fn good(&self) -> i64 {
        self.sum(|day| day.good)
    }

    fn warnings(&self) -> i64 {
        self.sum(|day| day.warning)
    }

    fn failed(&self) -> i64 {
        self.sum(|day| day.failed)
    }
}

/// Address and words of a trouble's one action.
fn action(trouble: &Trouble) -> (String, &'static str) {
    match trouble.kind {
        TroubleKind::Machine(_, Some(run)) => (format!("/activity/{run}"), "Show the failed run"),
        TroubleKind::Machine(vm, None) | TroubleKind::Tracking(vm) => (format!("/machines/{vm}"), "Open machine"),
        TroubleKind::Device(device) => (format!("/devices/{device}"), "Open device"),
        TroubleKind::Repository(repository) => (format!("/storage/{repository}"), "Open location"),
        TroubleKind::Worker => ("/workers".to_owned(), "Show the workers"),
        TroubleKind::Unprotected => ("/machines?state=not".to_owned(), "Show them"),
    }
}

fn bars(times: &Times, since: Timestamp, days: &[Day]) -> Vec<DayBar> {
    let first = since.to_zoned(times.zone.clone());
    (0..CHART_DAYS)
        .filter_map(|index| first.checked_add(index.days()).ok())
        .map(|day| {
            let key = day.strftime("%Y-%m-%d").to_string();
            let found = days.iter().find(|found| found.day == key);
            DayBar {
                label: day.strftime("%a %-d").to_string(),
                long: day.strftime("%a %-d %B").to_string(),
                good: found.map_or(0, |day| day.good),
                warning: found.map_or(0, |day| day.warning),
                failed: found.map_or(0, |day| day.failed),
            }
        })
        .collect()
}

/// Stacked bars; x and width in percent, y in pixels, so that nothing is stretched.
fn chart(days: &[DayBar]) -> Html {
    use std::fmt::Write as _;
    const HEIGHT: f64 = 84.0;
    const FOOT: f64 = 100.0;
    const LEAST: f64 = 5.0;
    let most = days.iter().map(|day| day.good + day.warning + day.failed).max().unwrap_or(0).max(1) as f64;
    let step = 100.0 / days.len().max(1) as f64;
    let mut out = String::new();
    for (index, day) in days.iter().enumerate() {
        let x = index as f64 * step + step * 0.225;
        let mut y = FOOT - 1.0;
        for (class, count) in [("s-ok", day.good), ("s-warn", day.warning), ("s-bad", day.failed)] {
            if count == 0 {
                continue;
            }
            let height = (count as f64 / most * HEIGHT).max(LEAST);
            y -= height;
            let width = step * 0.55;
            let _ = write!(
                out,
                r#"<rect class="{class}" x="{x:.2}%" y="{y:.1}" width="{width:.2}%" height="{height:.1}" rx="1"/>"#
            );
            if class == "s-bad" {
                let _ = write!(
                    out,
                    r#"<rect fill="url(#ch-h)" x="{x:.2}%" y="{y:.1}" width="{width:.2}%" height="{height:.1}"/>"#
                );
            }
            y -= 1.0;
        }
    }
    Html(out)
}
