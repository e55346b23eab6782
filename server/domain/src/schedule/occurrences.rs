//! When a schedule is due.

use super::cron;
use super::types::{Days, Rule, Schedule, ScheduleError, Timed, Weekday};
use super::zone;
pub use super::zone::Shift;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// Two months and a week: every rule by days is due within this.
const DAYS_AHEAD_MAX: usize = 70;
/// Due times that one gap or doubled stretch can hold at the finest pattern, a minute; Lord Howe's is half an hour, the
/// longest known a day.
const IN_ONE_SHIFT_MAX: usize = 26 * 60;

/// One due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence {
    /// The moment a run may start: the due time, or the first moment after it at which the hours allow it.
    pub at: Timestamp,
    /// The local date and time by the rule.
    pub local: DateTime,
    /// What the clock did to it.
    pub shift: Option<Shift>,
    /// It waits for hours in which runs may start.
    pub waits: bool,
}

impl Schedule {
    /// The first due time strictly after `after`, or `None` for a task that is never due by the clock.
    ///
    /// Due times outside the hours in which runs may start are moved to the next moment inside, so that several can become
    /// one. See the module for what clock changes do.
    pub fn next_after(&self, after: Timestamp) -> Result<Option<Timestamp>, ScheduleError> {
        Ok(self.next_occurrence(after)?.map(|occurrence| occurrence.at))
    }

    /// The same, with what led to it.
    pub fn next_occurrence(&self, after: Timestamp) -> Result<Option<Occurrence>, ScheduleError> {
        match self {
            Self::Manual | Self::After(_) => Ok(None),
            Self::Timed(timed) => timed.next(after).map(Some),
        }
    }
}

impl Timed {
    fn next(&self, after: Timestamp) -> Result<Occurrence, ScheduleError> {
        let zone = zone::get(&self.time_zone)?;
        if self.hours.is_any() {
            return self.next_by_rule(&zone, after);
        }
        let around = self.hours.stretches(&zone, after)?;
        // What fell due since the hours were over waits still.
        let since = match around.closed_since(after) {
            Some(closed) => closed.checked_sub(SignedDuration::from_nanos(1)).map_err(|_| ScheduleError::OutOfRange)?,
            None => after,
        };
        let due = self.next_by_rule(&zone, since)?;
        let open = if around.covers(due.at) { around } else { self.hours.stretches(&zone, due.at)? };
        let at = open.next_open(due.at).ok_or(ScheduleError::NeverOpen)?;
        Ok(Occurrence { at, waits: at != due.at, ..due })
    }

    /// Whatever the hours.
    fn next_by_rule(&self, zone: &TimeZone, after: Timestamp) -> Result<Occurrence, ScheduleError> {
        // Local times up to this one stand for moments up to `after`, and in a doubled stretch some later ones do, too.
        let local = after.to_zoned(zone.clone()).datetime();
        match &self.rule {
            Rule::Cron { pattern } => {
                let cron = cron::parse(pattern)?;
                let mut local = local;
                for _ in 0..IN_ONE_SHIFT_MAX {
                    local = cron::next(&cron, local)?;
                    if let Some(found) = due(zone, local, after)? {
                        return Ok(found);
                    }
                }
                Err(ScheduleError::OutOfRange)
            }
            Rule::Days { days, at } => {
                let mut day = local.date();
                for _ in 0..DAYS_AHEAD_MAX {
                    if days.has(day) {
                        for time in at {
                            if let Some(found) = due(zone, day.to_datetime(*time), after)? {
                                return Ok(found);
                            }
                        }
                    }
                    day = day.checked_add(1.day()).map_err(|_| ScheduleError::OutOfRange)?;
                }
                Err(ScheduleError::OutOfRange)
            }
        }
    }
}

fn due(zone: &TimeZone, local: DateTime, after: Timestamp) -> Result<Option<Occurrence>, ScheduleError> {
    let (at, shift) = zone::resolve(zone, local)?;
    Ok((at > after).then_some(Occurrence { at, local, shift, waits: false }))
}

impl Days {
    fn has(&self, date: Date) -> bool {
        match self {
            Self::Day => true,
            Self::Week { on } => on.contains(&Weekday::of(date)),
            Self::Date { day } => i8::try_from(*day).is_ok_and(|day| date.day() == day.min(date.days_in_month())),
            Self::LastDay => date.day() == date.days_in_month(),
            Self::Weekday { nth, weekday } => {
                date.nth_weekday_of_month(nth.number(), (*weekday).into()).is_ok_and(|nth| nth == date)
            }
        }
    }
}
