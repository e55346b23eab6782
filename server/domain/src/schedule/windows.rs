//! Hours in which runs may start: windows, or the opposite, quiet hours.

use super::types::{ScheduleError, Weekday};
use super::zone;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Spans of one schedule.
pub const SPANS_MAX: usize = 14;
/// Spans recur weekly, and none is longer than a day.
const LOOK_BACK_DAYS: i32 = 9;
/// Two weeks and more: one of them may be swallowed by a clock change.
const LOOK_AHEAD_DAYS: i32 = 24;
/// Moments so far ahead can be asked about still.
const COVERED_DAYS: i64 = 7;
/// A stretch longer than this has no end: spans recur weekly.
const ENDLESS_DAYS: i64 = 8;

/// When runs may start by schedule. A start by hand is not bound to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hours {
    /// How the spans are meant.
    #[serde(default)]
    pub rule: HoursRule,
    /// Spans; none with [`HoursRule::Any`], else one at least and [`SPANS_MAX`] at most.
    #[serde(default)]
    pub spans: Vec<Span>,
    /// What still runs when the allowed hours end is stopped.
    #[serde(default)]
    pub stop: bool,
}

/// How spans are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoursRule {
    /// At any time.
    #[default]
    Any,
    /// Only within them: windows.
    Within,
    /// Only outside them: quiet hours.
    Outside,
}

/// From a local time to a later one, on the days on which it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Days on which it begins; one at least.
    pub days: BTreeSet<Weekday>,
    /// Begin.
    pub from: Time,
    /// End; not after the begin means on the next day, so that equal times are a whole day.
    pub until: Time,
}

impl HoursRule {
    /// All.
    pub const ALL: [Self; 3] = [Self::Any, Self::Within, Self::Outside];

    /// Stable word for storage and forms.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Within => "within",
            Self::Outside => "outside",
        }
    }

    /// The one of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == word)
    }
}

impl Hours {
    /// No hour is forbidden.
    pub fn is_any(&self) -> bool {
        self.rule == HoursRule::Any
    }

    /// Whether a run may start.
    pub fn is_open(&self, time_zone: &str, at: Timestamp) -> Result<bool, ScheduleError> {
        Ok(self.next_open(time_zone, at)? == Some(at))
    }

    /// The first moment from `from` on in which a run may start; `None` when there is none.
    pub fn next_open(&self, time_zone: &str, from: Timestamp) -> Result<Option<Timestamp>, ScheduleError> {
        if self.is_any() {
            return Ok(Some(from));
        }
        Ok(self.stretches(&zone::get(time_zone)?, from)?.next_open(from))
    }

    /// When what starts at `at` has to be over: the end of the allowed hours around `at`, if they stop what runs.
    pub fn ends_after(&self, time_zone: &str, at: Timestamp) -> Result<Option<Timestamp>, ScheduleError> {
        if self.is_any() || !self.stop {
            return Ok(None);
        }
        Ok(self.stretches(&zone::get(time_zone)?, at)?.closes_after(at))
    }

    pub(super) fn check(&self, zone: &TimeZone) -> Result<(), ScheduleError> {
        if self.is_any() {
            return Ok(());
        }
        if self.spans.is_empty() || self.spans.len() > SPANS_MAX || self.spans.iter().any(|span| span.days.is_empty()) {
            return Err(ScheduleError::Limit { what: "no hours, more than 14, or hours without a day" });
        }
        // Spans recur weekly: what is closed from here is closed for ever.
        match self.stretches(zone, Timestamp::UNIX_EPOCH)?.next_open(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(()),
            None => Err(ScheduleError::NeverOpen),
        }
    }

    /// The spans around a moment as moments, in order and without overlaps.
    pub(super) fn stretches(&self, zone: &TimeZone, around: Timestamp) -> Result<Stretches, ScheduleError> {
        let out = |_| ScheduleError::OutOfRange;
        let today = around.to_zoned(zone.clone()).date();
        let mut found = Vec::new();
        for days in -LOOK_BACK_DAYS..=LOOK_AHEAD_DAYS {
            let date = today.checked_add(days.days()).map_err(out)?;
            let next = date.checked_add(1.day()).map_err(out)?;
            for span in self.spans.iter().filter(|span| span.days.contains(&Weekday::of(date))) {
                let last = if span.until > span.from { date } else { next };
                let (from, _) = zone::resolve(zone, date.to_datetime(span.from))?;
                let (until, _) = zone::resolve(zone, last.to_datetime(span.until))?;
                if from < until {
                    found.push((from, until));
                }
            }
        }
        Ok(Stretches { within: self.rule == HoursRule::Within, made_for: around, parts: merged(found) })
    }
}

/// Stretches of time in which runs may start, or in which they may not.
pub(super) struct Stretches {
    within: bool,
    made_for: Timestamp,
    parts: Vec<(Timestamp, Timestamp)>,
}

fn merged(mut stretches: Vec<(Timestamp, Timestamp)>) -> Vec<(Timestamp, Timestamp)> {
    stretches.sort_unstable();
    let mut merged: Vec<(Timestamp, Timestamp)> = Vec::with_capacity(stretches.len());
    for (from, until) in stretches {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(until),
            _ => merged.push((from, until)),
        }
    }
    merged
}

impl Stretches {
    /// They say as much about this moment as about the one they were made for.
    pub(super) fn covers(&self, at: Timestamp) -> bool {
        at >= self.made_for && at.duration_since(self.made_for) <= SignedDuration::from_hours(24 * COVERED_DAYS)
    }

    fn around(&self, at: Timestamp) -> Option<(Timestamp, Timestamp)> {
        self.parts.iter().copied().find(|(from, until)| *from <= at && at < *until)
    }

    fn starts_after(&self, at: Timestamp) -> Option<Timestamp> {
        self.parts.iter().map(|stretch| stretch.0).find(|from| *from > at)
    }

    /// See [`Hours::next_open`].
    pub(super) fn next_open(&self, at: Timestamp) -> Option<Timestamp> {
        match (self.within, self.around(at)) {
            (true, Some(_)) | (false, None) => Some(at),
            (true, None) => self.starts_after(at),
            (false, Some((_, until))) => Some(until).filter(|until| has_end(at, *until)),
        }
    }

    /// The end of the open stretch around an open moment.
    pub(super) fn closes_after(&self, at: Timestamp) -> Option<Timestamp> {
        if self.within {
            self.around(at).map(|stretch| stretch.1).filter(|until| has_end(at, *until))
        } else {
            self.starts_after(at)
        }
    }

    /// Since when it is closed, if it is.
    pub(super) fn closed_since(&self, at: Timestamp) -> Option<Timestamp> {
        match (self.within, self.around(at)) {
            (true, Some(_)) | (false, None) => None,
            (true, None) => self.parts.iter().map(|stretch| stretch.1).filter(|until| *until <= at).max(),
            (false, Some((from, _))) => Some(from),
        }
    }
}

fn has_end(at: Timestamp, until: Timestamp) -> bool {
    until.duration_since(at) < SignedDuration::from_hours(24 * ENDLESS_DAYS)
}
