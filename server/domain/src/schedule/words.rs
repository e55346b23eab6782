//! A schedule in words, for lists and pages.

use super::types::{Days, MissedRuns, Nth, Rule, Schedule, Weekday};
use super::windows::{Hours, HoursRule, Span};
use jiff::civil::Time;
use std::collections::BTreeSet;

/// `Weekly on Mon, Wed at 22:00, Europe/Vienna`. `followed` is the name of the task it follows, if that is known.
pub fn in_words(schedule: &Schedule, followed: Option<&str>) -> String {
    match schedule {
        Schedule::Manual => "By hand only".to_owned(),
        Schedule::Timed(timed) => format!("{}, {}", timed.rule.in_words(), timed.time_zone),
        Schedule::After(after) => {
            let name = followed.map_or_else(|| "a task that is gone".to_owned(), |name| format!("“{name}”"));
            let also = if after.also_after_failure { ", also after a failure" } else { "" };
            format!("After {name}{also}")
        }
    }
}

/// `22:00`.
pub fn clock(time: Time) -> String {
    format!("{:02}:{:02}", time.hour(), time.minute())
}

impl Rule {
    /// `Daily at 06:00 and 22:00`, without the zone.
    pub fn in_words(&self) -> String {
        match self {
            Self::Cron { pattern } => format!("By cron “{pattern}”"),
            Self::Days { days, at } => format!("{} at {}", days.in_words(), times(at)),
        }
    }
}

impl Days {
    fn in_words(&self) -> String {
        match self {
            Self::Day => "Daily".to_owned(),
            Self::Week { on } => format!("Weekly on {}", weekdays(on)),
            Self::Date { day } => format!("Monthly on the {}", ordinal(*day)),
            Self::LastDay => "Monthly on the last day".to_owned(),
            Self::Weekday { nth, weekday } => format!("Monthly on the {} {}", nth.word(), weekday.name()),
        }
    }
}

impl MissedRuns {
    /// What happens after a downtime.
    pub fn in_words(self) -> String {
        match self {
            Self::Once => "One run makes up for what was missed".to_owned(),
            Self::Skip { grace_minutes: 0 } => "Left out".to_owned(),
            Self::Skip { grace_minutes } => format!("Left out when later than {grace_minutes} min"),
        }
    }
}

impl Hours {
    /// `Only Mon to Fri 22:00 to 06:00; what still runs then is stopped`; empty when any hour is allowed.
    pub fn in_words(&self) -> String {
        let how = match self.rule {
            HoursRule::Any => return String::new(),
            HoursRule::Within => "Only",
            HoursRule::Outside => "Not",
        };
        let spans: Vec<String> = self.spans.iter().map(Span::in_words).collect();
        let then = if self.stop { "; what still runs then is stopped" } else { "" };
        format!("{how} {}{then}", listed(&spans))
    }
}

impl Span {
    fn in_words(&self) -> String {
        let days = if self.days.len() == Weekday::ALL.len() { "daily".to_owned() } else { weekdays(&self.days) };
        if self.from == self.until && self.from == Time::midnight() {
            return format!("{days}, all day");
        }
        format!("{days} {} to {}", clock(self.from), clock(self.until))
    }
}

impl Weekday {
    /// `Mon`.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Mon => "Mon",
            Self::Tue => "Tue",
            Self::Wed => "Wed",
            Self::Thu => "Thu",
            Self::Fri => "Fri",
            Self::Sat => "Sat",
            Self::Sun => "Sun",
        }
    }

    /// `Monday`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mon => "Monday",
            Self::Tue => "Tuesday",
            Self::Wed => "Wednesday",
            Self::Thu => "Thursday",
            Self::Fri => "Friday",
            Self::Sat => "Saturday",
            Self::Sun => "Sunday",
        }
    }
}

impl Nth {
    /// `2nd`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::First => "1st",
            Self::Second => "2nd",
            Self::Third => "3rd",
            Self::Fourth => "4th",
            Self::Last => "last",
        }
    }
}

fn times(at: &BTreeSet<Time>) -> String {
    listed(&at.iter().map(|time| clock(*time)).collect::<Vec<_>>())
}

/// `a, b and c`.
fn listed(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// `Mon, Wed` or `Mon to Fri`: three days and more in a row are named by their ends.
fn weekdays(on: &BTreeSet<Weekday>) -> String {
    let mut rows: Vec<Vec<Weekday>> = Vec::new();
    for day in Weekday::ALL {
        let goes_on = on.contains(&day);
        match rows.last_mut() {
            Some(row) if goes_on && row.last().is_some_and(|last| *last as u8 + 1 == day as u8) => row.push(day),
            _ if goes_on => rows.push(vec![day]),
            _ => {}
        }
    }
    let words: Vec<String> = rows
        .iter()
        .flat_map(|row| match row.as_slice() {
            [first, _, .., last] => vec![format!("{} to {}", first.short(), last.short())],
            few => few.iter().map(|day| day.short().to_owned()).collect(),
        })
        .collect();
    words.join(", ")
}

fn ordinal(day: u8) -> String {
    let ending = match (day % 10, day / 10) {
        (1, 0 | 2 | 3) => "st",
        (2, 0 | 2) => "nd",
        (3, 0 | 2) => "rd",
        _ => "th",
    };
    format!("{day}{ending}")
}
