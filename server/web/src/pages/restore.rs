//! Restore: machines with points, the points of one machine with their calendar, one point.

use super::retention::Outlooks;
use super::{Pager, page, page_number};
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::Fields;
use crate::format;
use crate::format::Of;
use crate::shell::{Section, Shell, Times};
use crate::state::App;
use crate::ui::{self, Html, Tone};
use askama::Template;
use axum::extract::{Path, State};
use db::PointId;
use db::views::{self, DayOfPoints, PointLine, PointPage, RestorableMachine, Slice};
use domain::point::Consistency;
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};

/// Months of the calendar.
const CALENDAR_MONTHS: i64 = 3;
/// Points a day for the darker colours.
const HEAT_SOME: i64 = 2;
const HEAT_MANY: i64 = 6;

#[derive(Template)]
#[template(path = "restore/list.html")]
struct List {
    shell: Shell,
    words: String,
    machines: Slice<RestorableMachine>,
    pager: Pager,
}

#[derive(Template)]
#[template(path = "restore/points.html")]
struct PointsPage {
    shell: Shell,
    machine: RestorableMachine,
    points: Vec<PointLine>,
    months: Vec<Month>,
    day: Option<Date>,
    pager: Pager,
}

#[derive(Template)]
#[template(path = "restore/point.html")]
#[allow(clippy::struct_field_names)] // what the template calls it
struct Point {
    shell: Shell,
    point: PointPage,
    /// Why it stays, and until when.
    kept: (String, String),
}

struct Month {
    title: String,
    older: bool,
    /// Weeks of seven days, Monday first; `None` outside the month.
    weeks: Vec<Vec<Option<Day>>>,
}

struct Day {
    number: i8,
    key: String,
    points: i64,
    flag: Option<Tone>,
    words: String,
    selected: bool,
}

impl Day {
    fn class(&self) -> &'static str {
        match self.points {
            0 => "day none",
            HEAT_MANY.. => "day hm3",
            HEAT_SOME.. => "day hm2",
            _ => "day hm1",
        }
    }

    fn flag(&self) -> Html {
        match self.flag {
            Some(tone) => ui::icon_with(tone.icon_name(), &format!("i flag flag-{}", tone.word())),
            None => Html::default(),
        }
    }
}

/// State of the guest's data, with its tone.
pub fn consistency(state: impl Of<Consistency>) -> Html {
    match state.value() {
        Consistency::Application => ui::st(Tone::Ok, "Application"),
        Consistency::Crash => ui::st(Tone::Idle, "As after a power cut"),
        Consistency::Offline => ui::st(Tone::Ok, "Machine was off"),
    }
}

/// The same in a word, for lists that say more of other things.
pub fn consistency_word(state: impl Of<Consistency>) -> &'static str {
    match state.value() {
        Consistency::Application => "application-consistent",
        Consistency::Crash => "as after a power cut",
        Consistency::Offline => "machine was off",
    }
}

/// How far a point is proved: committed, present, hashed; the steps after that are not taken yet.
pub fn ladder(point: &PointLine) -> Html {
    use std::fmt::Write as _;
    const RUNGS: [&str; 6] =
        ["Committed", "Present", "Read back", "File system read", "Booted", "Application answered"];
    const HEIGHT: f64 = 13.0;
    let damaged = point.verify_error.is_some();
    let steps = if point.verified_at.is_some() { 3 } else { 1 };
    let mut out = String::from(r#"<span class="ladder"><svg viewBox="0 0 70 14" aria-hidden="true">"#);
    for index in 0..RUNGS.len() {
        let height = 4.0 + index as f64 * 1.8;
        let class = match index + 1 {
            step if damaged && step == steps => "rung-bad",
            step if step <= steps => "rung",
            _ => "rung-off",
        };
        let _ = write!(
            out,
            r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="9" height="{height:.1}" rx="1.5"/>"#,
            0.5 + index as f64 * 11.5,
            HEIGHT - height
        );
    }
    out.push_str("</svg>");
    let word = RUNGS.get(steps - 1).copied().unwrap_or_default();
    let _ = if damaged {
        write!(
            out,
            r#"<span class="st-bad strong">Did not read back</span><span class="visually-hidden">, step {steps} of 6</span></span>"#
        )
    } else {
        write!(out, r#"<span>{word}</span><span class="visually-hidden">, step {steps} of 6</span></span>"#)
    };
    Html(out)
}

/// `GET /restore`
pub async fn list(State(app): State<App>, session: Session, fields: Fields) -> Result {
    let words: String = fields.get("q").chars().take(200).collect();
    let number = page_number(&fields);
    let machines = views::restorable_machines(app.db(), &words, None, number).await?;
    let pager = Pager::new("/restore", &[("q", &words)], number, machines.total, machines.lines.len());
    let shell = Shell::new(&app, &session, Section::Restore, "Restore").await?;
    page(&List { shell, words, machines, pager })
}

/// `GET /restore/machines/{key}`
pub async fn points(State(app): State<App>, session: Session, Path(key): Path<String>, fields: Fields) -> Result {
    let machine = views::restorable_machines(app.db(), "", Some(&key), 1)
        .await?
        .lines
        .into_iter()
        .next()
        .ok_or(Failure::NotFound)?;
    let times = app.times();
    let day = fields.get("day").parse::<Date>().ok();
    let span = day.and_then(|day| bounds(&times, day));
    let number = page_number(&fields);
    let found = views::points_of(app.db(), &key, span, number).await?;
    let months = calendar(&app, &times, &key, day).await?;
    let path = format!("/restore/machines/{}", encoded(&key));
    let pager = Pager::new(&path, &[("day", fields.get("day"))], number, found.total, found.lines.len());
    let title = format!("Restore {}", machine.machine_name);
    let shell = Shell::new(&app, &session, Section::Restore, title).await?;
    page(&PointsPage { shell, machine, points: found.lines, months, day, pager })
}

/// A path's part, with everything escaped that means something in an address.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// First moment of the day and of the next one.
fn bounds(times: &Times, day: Date) -> Option<(Timestamp, Timestamp)> {
    let start = day.to_zoned(times.zone.clone()).ok()?;
    let end = day.checked_add(1.day()).ok()?.to_zoned(times.zone.clone()).ok()?;
    Some((start.timestamp(), end.timestamp()))
}

async fn calendar(app: &App, times: &Times, key: &str, selected: Option<Date>) -> Result<Vec<Month>> {
    let today = times.now.to_zoned(times.zone.clone()).date();
    let this_month = today.first_of_month();
    let Ok(first) = this_month.checked_sub((CALENDAR_MONTHS - 1).months()) else { return Ok(Vec::new()) };
    let Ok(from) = first.to_zoned(times.zone.clone()) else { return Ok(Vec::new()) };
    let zone = times.zone.iana_name().unwrap_or("UTC");
    let days = views::points_by_day(app.db(), key, from.timestamp(), zone).await?;
    Ok((0..CALENDAR_MONTHS)
        .filter_map(|index| first.checked_add(index.months()).ok())
        .map(|month| month_of(month, &days, selected, month != this_month))
        .collect())
}

fn month_of(first: Date, days: &[DayOfPoints], selected: Option<Date>, older: bool) -> Month {
    let lead = first.weekday().to_monday_zero_offset() as usize;
    let mut cells: Vec<Option<Day>> = std::iter::repeat_with(|| None).take(lead).collect();
    for number in 1..=first.days_in_month() {
        let Ok(date) = Date::new(first.year(), first.month(), number) else { continue };
        let key = date.to_string();
        let found = days.iter().find(|day| day.day == key);
        let points = found.map_or(0, |day| day.points);
        let flag = found.and_then(|day| if day.damaged { Some(Tone::Bad) } else { day.warnings.then_some(Tone::Warn) });
        let remark = match flag {
            Some(Tone::Bad) => ", one did not read back",
            Some(_) => ", with a warning",
            None => "",
        };
        let words = format!("{}: {}{remark}", date.strftime("%-d %B"), format::count(points, "point", "points"));
        cells.push(Some(Day { number, key, points, flag, words, selected: selected == Some(date) }));
    }
    while !cells.len().is_multiple_of(7) {
        cells.push(None);
    }
    let mut weeks = Vec::new();
    while !cells.is_empty() {
        weeks.push(cells.drain(..7).collect());
    }
    Month { title: first.strftime("%B %Y").to_string(), older, weeks }
}

impl PointsPage {
    fn path(&self) -> String {
        format!("/restore/machines/{}", encoded(&self.machine.machine_key))
    }

    fn newest(&self) -> Option<&PointLine> {
        self.points.first().filter(|_| self.day.is_none() && self.pager.page == 1)
    }

    fn day_words(&self) -> String {
        self.day.map(|day| day.strftime("%A %-d %B %Y").to_string()).unwrap_or_default()
    }
}

/// `GET /restore/points/{point}`
pub async fn point(State(app): State<App>, session: Session, Path(point): Path<PointId>) -> Result {
    let point = views::point_page(app.db(), point).await?.ok_or(Failure::NotFound)?;
    let title = format!("{}, {}", point.machine_name, app.times().moment_text(point.line.taken_at));
    let shell = Shell::new(&app, &session, Section::Restore, title).await?;
    let outlooks = Outlooks::in_location(&app, point.line.repository_id, point.vm_id).await?;
    let kept = outlooks.words(&point.line.point_id, &shell.times);
    page(&Point { shell, point, kept })
}

impl Point {
    fn kind(&self) -> &'static str {
        match self.point.line.kind {
            domain::point::PointKind::Full => "Full",
            domain::point::PointKind::Incremental => "Incremental",
            domain::point::PointKind::Differential => "Differential",
        }
    }

    fn taken_at(&self) -> Timestamp {
        self.point.line.taken_at
    }

    fn key(&self) -> String {
        encoded(&self.point.machine_key)
    }

    fn warnings(&self) -> Vec<String> {
        self.point.line.warnings.iter().filter_map(|it| it.as_str().map(str::to_owned)).collect()
    }

    fn firmware(&self) -> &'static str {
        match (self.point.config.firmware, self.point.config.secure_boot) {
            (domain::machine::Firmware::Bios, _) => "BIOS",
            (domain::machine::Firmware::Efi, false) => "UEFI",
            (domain::machine::Firmware::Efi, true) => "UEFI with Secure Boot",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_has_whole_weeks_and_marks_its_days() {
        let found = [DayOfPoints { day: "2026-11-22".into(), points: 7, warnings: true, damaged: false }];
        let month = month_of(Date::constant(2026, 11, 1), &found, Some(Date::constant(2026, 11, 22)), false);
        // November 2026 begins on a Sunday.
        assert_eq!(month.weeks.len(), 6);
        assert!(month.weeks.iter().all(|week| week.len() == 7));
        assert!(month.weeks[0][..6].iter().all(Option::is_none));
        let day = month.weeks[3][6].as_ref().unwrap();
        assert_eq!((day.number, day.class(), day.selected), (22, "day hm3", true));
        assert_eq!(day.words, "22 November: 7 points, with a warning");
    }

    #[test]
    fn a_key_is_one_part_of_an_address() {
        assert_eq!(encoded("a/b?c #d"), "a%2Fb%3Fc%20%23d");
    }
}
