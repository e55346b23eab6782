//! Schedules against examples, against brute force, and through a year with a simulated clock.

mod days;
mod missed;
mod stored;
mod windows;

use super::*;
use jiff::Timestamp;
use jiff::civil::Time;
use std::collections::BTreeSet;

/// Zones that move their clocks in every way there is: an hour, half an hour, at midnight, never.
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

fn at(times: &str) -> BTreeSet<Time> {
    times.split(' ').map(|time| time.parse().unwrap()).collect()
}

fn timed(rule: Rule, zone: &str) -> Timed {
    Timed { rule, time_zone: zone.to_owned(), missed: MissedRuns::Once, hours: Hours::default() }
}

fn days(days: Days, times: &str, zone: &str) -> Schedule {
    Schedule::Timed(timed(Rule::Days { days, at: at(times) }, zone))
}

fn daily(times: &str, zone: &str) -> Schedule {
    days(Days::Day, times, zone)
}

fn cron(pattern: &str, zone: &str) -> Schedule {
    Schedule::Timed(timed(Rule::Cron { pattern: pattern.to_owned() }, zone))
}

fn on(days: &str) -> BTreeSet<Weekday> {
    days.split(' ').map(|day| Weekday::parse(day).unwrap()).collect()
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn due_times(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
    let mut now = moment(from);
    (0..count)
        .map(|_| {
            now = schedule.next_after(now).unwrap().unwrap();
            now.to_string()
        })
        .collect()
}
