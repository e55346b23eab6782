//! A year of due times in zones that move their clocks in every way there is, against python-dateutil's rrule.

use domain::schedule::{Days, Hours, MissedRuns, Nth, Rule, Schedule, Timed, Weekday, clock};
use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

const ZONES: [&str; 8] = [
    "Europe/Vienna",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/St_Johns",
    "UTC",
    "America/Havana",
    "Asia/Beirut",
];
const FROM: &str = "2026-01-01";
const UNTIL: &str = "2027-01-01";

type DueTimes = BTreeMap<String, BTreeMap<String, Vec<i64>>>;

/// Name, days, times of day. The early times are those that clocks skip and repeat.
fn rules() -> Vec<(&'static str, Days, &'static str)> {
    let week = |days: &str| Days::Week { on: days.split(' ').filter_map(Weekday::parse).collect() };
    let weekday = |nth, weekday| Days::Weekday { nth, weekday };
    vec![
        ("daily", Days::Day, "22:00"),
        ("daily at 2:30", Days::Day, "02:30"),
        ("daily at midnight", Days::Day, "00:00"),
        ("several a day", Days::Day, "00:10 01:45 02:00 02:15 03:00 12:00 23:59"),
        ("weekly", week("mon wed"), "22:00"),
        ("sundays", week("sun"), "00:30 02:30"),
        ("on the 31st", Days::Date { day: 31 }, "02:30"),
        ("on the 29th", Days::Date { day: 29 }, "00:00 13:00"),
        ("on the 1st", Days::Date { day: 1 }, "00:00"),
        ("last day", Days::LastDay, "23:30"),
        ("2nd Tuesday", weekday(Nth::Second, Weekday::Tue), "01:00"),
        ("2nd Sunday", weekday(Nth::Second, Weekday::Sun), "00:00 02:30"),
        ("last Sunday", weekday(Nth::Last, Weekday::Sun), "00:30 02:30"),
        ("4th Friday", weekday(Nth::Fourth, Weekday::Fri), "18:00"),
    ]
}

fn times(at: &str) -> BTreeSet<Time> {
    at.split(' ').map(|time| time.parse().expect("a time of day")).collect()
}

fn ours(days: &Days, at: &str, zone: &str) -> Vec<i64> {
    let rule = Rule::Days { days: days.clone(), at: times(at) };
    let time_zone = zone.to_owned();
    let schedule = Schedule::Timed(Timed { rule, time_zone, missed: MissedRuns::Once, hours: Hours::default() });
    schedule.check().expect("a schedule that can be used");
    let zone = TimeZone::get(zone).expect("the zone");
    let edge = |date: &str| -> Timestamp {
        let date: jiff::civil::Date = date.parse().expect("a date");
        // A day that begins with a gap begins after it.
        let start = date.to_zoned(zone.clone()).expect("a day");
        start.timestamp()
    };
    let (mut now, end) = (edge(FROM) - SignedDuration::from_nanos(1), edge(UNTIL));
    let mut found = Vec::new();
    while let Some(next) = schedule.next_after(now).expect("a due time").filter(|next| *next < end) {
        assert!(next > now, "{next} after {now}");
        found.push(next.as_second());
        now = next;
    }
    found
}

fn asked() -> Value {
    let rules: Vec<Value> = rules()
        .iter()
        .map(|(name, days, at)| {
            let mut rule = serde_json::to_value(days).expect("stored form");
            rule["name"] = json!(name);
            rule["at"] = times(at).into_iter().map(clock).collect();
            rule
        })
        .collect();
    json!({ "from": FROM, "until": UNTIL, "zones": ZONES, "rules": rules })
}

fn oracle() -> DueTimes {
    let script = support::repository_root().join("tests/peers/schedule_oracle.py");
    let mut python = Command::new(support::python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut input = python.stdin.take().expect("a pipe");
    input.write_all(asked().to_string().as_bytes()).expect("the question is read");
    drop(input);
    let answer = python.wait_with_output().expect("python ends");
    assert!(answer.status.success(), "the oracle failed");
    serde_json::from_slice(&answer.stdout).expect("due times")
}

#[test]
fn a_year_of_due_times_is_what_another_implementation_says() {
    let theirs = oracle();
    let mut compared = 0;
    for zone in ZONES {
        for (name, days, at) in rules() {
            let (ours, theirs) = (ours(&days, at, zone), &theirs[zone][name]);
            let differs = ours.iter().zip(theirs).find(|(ours, theirs)| ours != theirs);
            let first = differs.map(|(ours, theirs)| (Timestamp::from_second(*ours), Timestamp::from_second(*theirs)));
            assert!(first.is_none() && ours.len() == theirs.len(), "{name} in {zone}: ours and theirs {first:?}");
            compared += ours.len();
        }
    }
    assert!(compared > 8 * 365 * 10, "{compared} due times were compared");
}
