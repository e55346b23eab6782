//! What a schedule may say, and how it is stored.

use super::cron;
use super::windows::Hours;
use super::zone;
use jiff::civil::{self, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Times of day of one schedule.
pub const TIMES_A_DAY_MAX: usize = 24;
/// Longest lateness that still counts as on time.
pub const GRACE_MAX_MINUTES: u16 = 24 * 60;

/// A task's schedule.
///
/// Stored as JSON with `kind`: `manual`, `timed`, `after`, and `daily` of the first version, which is a `timed` with one
/// time a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", from = "Stored")]
pub enum Schedule {
    /// Only when an operator starts it.
    Manual,
    /// At times.
    Timed(Timed),
    /// When a run of another task has ended.
    After(After),
}

/// At times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Which.
    pub rule: Rule,
    /// IANA time zone, e.g. `Europe/Vienna`.
    pub time_zone: String,
    /// What becomes of due times that were missed.
    #[serde(default)]
    pub missed: MissedRuns,
    /// When runs may start.
    #[serde(default)]
    pub hours: Hours,
}

/// When a run of another task has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// That task's id.
    pub task_id: i64,
    /// Also when that run failed or was stopped at its window's end; else only when it ended well or with warnings.
    #[serde(default)]
    pub also_after_failure: bool,
    /// IANA time zone of the hours.
    pub time_zone: String,
    /// When runs may start.
    #[serde(default)]
    pub hours: Hours,
}

/// Local dates and times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Rule {
    /// Some times on some days.
    Days {
        /// Days.
        days: Days,
        /// Local times of day, one at least, [`TIMES_A_DAY_MAX`] at most.
        at: BTreeSet<Time>,
    },
    /// Five fields: minute, hour, day of the month, month, day of the week.
    Cron {
        /// As it was entered.
        pattern: String,
    },
}

/// Days on which a task runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "each", rename_all = "snake_case")]
pub enum Days {
    /// Every day.
    Day,
    /// These days of every week.
    Week {
        /// One at least.
        on: BTreeSet<Weekday>,
    },
    /// This date of every month; in a month without it, its last day.
    Date {
        /// 1 to 31.
        day: u8,
    },
    /// The last day of every month.
    LastDay,
    /// One weekday of every month.
    Weekday {
        /// Which of them.
        nth: Nth,
        /// Weekday.
        weekday: Weekday,
    },
}

/// Which of a month's Mondays, Tuesdays …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nth {
    /// 1st.
    First,
    /// 2nd.
    Second,
    /// 3rd.
    Third,
    /// 4th.
    Fourth,
    /// The 4th or the 5th.
    Last,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weekday {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

/// What becomes of due times at which no server ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "then", rename_all = "snake_case")]
pub enum MissedRuns {
    /// However many were missed, one run makes up for them as soon as a server is back.
    #[default]
    Once,
    /// They are left out.
    Skip {
        /// A run that is late by no more than this is on time, minutes, at most [`GRACE_MAX_MINUTES`].
        grace_minutes: u16,
    },
}

/// Why a schedule cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not in the time zone database.
    #[error("the time zone “{0}” is not known")]
    UnknownTimeZone(String),
    /// Past the calendar's end.
    #[error("the schedule leaves the calendar")]
    OutOfRange,
    /// Not five fields that make sense.
    #[error("the cron pattern “{pattern}” cannot be used: {why}")]
    Cron {
        /// As it was entered, cut to its limit.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// A number of things is out of its limits.
    #[error("a schedule has {what}")]
    Limit {
        /// Of what how many it has.
        what: &'static str,
    },
    /// No moment in which a run may start.
    #[error("with these hours no run could ever start")]
    NeverOpen,
}

/// All forms that were ever stored.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Stored {
    Manual,
    Daily { at: Time, time_zone: String },
    Timed(Timed),
    After(After),
}

impl From<Stored> for Schedule {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Manual => Self::Manual,
            Stored::Daily { at, time_zone } => Self::daily(at, &time_zone),
            Stored::Timed(timed) => Self::Timed(timed),
            Stored::After(after) => Self::After(after),
        }
    }
}

impl Schedule {
    /// Once a day; what is missed runs once.
    pub fn daily(at: Time, time_zone: &str) -> Self {
        Self::Timed(Timed {
            rule: Rule::Days { days: Days::Day, at: BTreeSet::from([at]) },
            time_zone: time_zone.to_owned(),
            missed: MissedRuns::default(),
            hours: Hours::default(),
        })
    }

    /// When runs may start, and in which zone; `None` for a task without a schedule.
    pub fn hours(&self) -> Option<(&Hours, &str)> {
        match self {
            Self::Manual => None,
            Self::Timed(timed) => Some((&timed.hours, &timed.time_zone)),
            Self::After(after) => Some((&after.hours, &after.time_zone)),
        }
    }

    /// The task whose runs it follows.
    pub const fn follows(&self) -> Option<i64> {
        match self {
            Self::After(after) => Some(after.task_id),
            Self::Manual | Self::Timed(_) => None,
        }
    }

    /// Whether it can be used as it stands: known zone, counts within their limits, a pattern that is due some day,
    /// hours in which something may start.
    pub fn check(&self) -> Result<(), ScheduleError> {
        let Some((hours, time_zone)) = self.hours() else { return Ok(()) };
        let zone = zone::get(time_zone)?;
        hours.check(&zone)?;
        let Self::Timed(timed) = self else { return Ok(()) };
        if let MissedRuns::Skip { grace_minutes } = timed.missed
            && grace_minutes > GRACE_MAX_MINUTES
        {
            return Err(ScheduleError::Limit { what: "a grace of more than a day" });
        }
        timed.rule.check()
    }
}

impl Rule {
    fn check(&self) -> Result<(), ScheduleError> {
        let (days, at) = match self {
            Self::Cron { pattern } => return cron::check(pattern),
            Self::Days { days, at } => (days, at),
        };
        if at.is_empty() || at.len() > TIMES_A_DAY_MAX {
            return Err(ScheduleError::Limit { what: "no time of day, or more than 24" });
        }
        match days {
            Days::Week { on } if on.is_empty() => Err(ScheduleError::Limit { what: "no day of the week" }),
            Days::Date { day } if !(1..=31).contains(day) => {
                Err(ScheduleError::Limit { what: "a date that is not 1 to 31" })
            }
            _ => Ok(()),
        }
    }
}

impl Nth {
    /// In order.
    pub const ALL: [Self; 5] = [Self::First, Self::Second, Self::Third, Self::Fourth, Self::Last];

    /// Stable word for storage and forms.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Third => "third",
            Self::Fourth => "fourth",
            Self::Last => "last",
        }
    }

    /// The one of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|nth| nth.as_str() == word)
    }

    /// As jiff counts: from the month's start, or from its end.
    pub(super) const fn number(self) -> i8 {
        match self {
            Self::First => 1,
            Self::Second => 2,
            Self::Third => 3,
            Self::Fourth => 4,
            Self::Last => -1,
        }
    }
}

impl Weekday {
    /// From Monday.
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    /// Stable word for storage and forms.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mon => "mon",
            Self::Tue => "tue",
            Self::Wed => "wed",
            Self::Thu => "thu",
            Self::Fri => "fri",
            Self::Sat => "sat",
            Self::Sun => "sun",
        }
    }

    /// The one of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|day| day.as_str() == word)
    }

    /// Of a date.
    pub fn of(date: civil::Date) -> Self {
        Self::from(date.weekday())
    }
}

impl From<civil::Weekday> for Weekday {
    fn from(day: civil::Weekday) -> Self {
        match day {
            civil::Weekday::Monday => Self::Mon,
            civil::Weekday::Tuesday => Self::Tue,
            civil::Weekday::Wednesday => Self::Wed,
            civil::Weekday::Thursday => Self::Thu,
            civil::Weekday::Friday => Self::Fri,
            civil::Weekday::Saturday => Self::Sat,
            civil::Weekday::Sunday => Self::Sun,
        }
    }
}

impl From<Weekday> for civil::Weekday {
    fn from(day: Weekday) -> Self {
        match day {
            Weekday::Mon => Self::Monday,
            Weekday::Tue => Self::Tuesday,
            Weekday::Wed => Self::Wednesday,
            Weekday::Thu => Self::Thursday,
            Weekday::Fri => Self::Friday,
            Weekday::Sat => Self::Saturday,
            Weekday::Sun => Self::Sunday,
        }
    }
}
