//! Which restore points of a machine are kept, why, and until when.
//!
//! A rule is a choice of parts; a point stays if any part keeps it. Owns: the rule, its stored form and its words.
//! Must never: let the newest point of a machine go. Read next: `decide.rs` (the decision), `forecast.rs` (when).

mod decide;
mod forecast;
#[cfg(test)]
mod tests;

pub use decide::{Busy, Candidate, Part, Reason, Verdict, decide};
pub use forecast::{Ahead, EVENTS_MAX, Fate, Forecast, Run, forecast};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// Largest number of any part of a rule, and of the floor's points.
pub const NUMBER_MAX: u32 = 10_000;
/// Longest age that a rule or a floor may keep by, days.
pub const AGE_MAX_DAYS: u32 = 36_500;

/// A task's rule ("backup cleanup") as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Retention {
    /// Keep the newest `count` points of each machine; at least one.
    KeepLast {
        /// How many.
        count: u32,
    },
    /// Any combination of parts.
    Keep(Rule),
}

/// What of a machine's points stays. A part that is 0 keeps nothing; with all of them 0 only the newest point stays.
///
/// A calendar part keeps the newest point of each of the last so many days (ISO weeks, months, years) that have one:
/// periods without a point do not count, so a machine that was off for a month loses nothing by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// The newest so many.
    pub last: u32,
    /// All that are not older than so many times 24 hours.
    pub days: u32,
    /// One a day.
    pub daily: u32,
    /// One an ISO week, Monday to Sunday.
    pub weekly: u32,
    /// One a month.
    pub monthly: u32,
    /// One a year.
    pub yearly: u32,
    /// Which points count.
    pub scope: Scope,
    /// IANA name of the zone whose calendar counts.
    pub time_zone: String,
}

/// Which points of a machine a rule counts, within one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Those that its own task made.
    #[default]
    Task,
    /// All of the machine. Those of other tasks count, but go by their own task's rule; those that no task answers for
    /// go by this one.
    Machine,
}

/// What no rule undercuts in a repository. 0 is no floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// A machine never has fewer points that can be restored, as far as it had them.
    pub points: u32,
    /// No point goes before it is older than so many times 24 hours.
    pub days: u32,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            last: 0,
            days: 0,
            daily: 0,
            weekly: 0,
            monthly: 0,
            yearly: 0,
            scope: Scope::Task,
            time_zone: "UTC".to_owned(),
        }
    }
}

impl Retention {
    /// The rule in full.
    pub fn rule(&self) -> Rule {
        match self {
            Self::KeepLast { count } => Rule { last: (*count).max(1), ..Rule::default() },
            Self::Keep(rule) => rule.clone(),
        }
    }
}

impl From<Rule> for Retention {
    /// In the form that says no more than it must: versions that know only the simple one can still read that.
    fn from(rule: Rule) -> Self {
        let simple = Rule { last: rule.last, time_zone: rule.time_zone.clone(), ..Rule::default() };
        if rule.last > 0 && rule == simple { Self::KeepLast { count: rule.last } } else { Self::Keep(rule) }
    }
}

impl Rule {
    /// Its parts in words, for lists: `last 7 · 4 weekly · 12 monthly`.
    pub fn words(&self) -> String {
        let parts = [
            (self.last, format!("last {}", self.last)),
            (self.days, format!("{} {}", self.days, if self.days == 1 { "day" } else { "days" })),
            (self.daily, format!("{} daily", self.daily)),
            (self.weekly, format!("{} weekly", self.weekly)),
            (self.monthly, format!("{} monthly", self.monthly)),
            (self.yearly, format!("{} yearly", self.yearly)),
        ];
        let said: Vec<String> = parts.into_iter().filter(|(number, _)| *number > 0).map(|(_, words)| words).collect();
        if said.is_empty() { "the newest only".to_owned() } else { said.join(" · ") }
    }

    /// Keeps by a calendar, so that its time zone means something.
    pub const fn has_calendar(&self) -> bool {
        self.daily > 0 || self.weekly > 0 || self.monthly > 0 || self.yearly > 0
    }

    /// A zone that is not known any more only moves the borders of days: UTC is as good.
    fn zone(&self) -> TimeZone {
        TimeZone::get(&self.time_zone).unwrap_or(TimeZone::UTC)
    }
}
