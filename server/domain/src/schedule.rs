//! When a task runs by itself.

use jiff::{Timestamp, ToSpan, civil, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// A task's schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Schedule {
    /// Only when an operator starts it.
    Manual,
    /// Once a day.
    Daily {
        /// Local time of day.
        at: civil::Time,
        /// IANA time zone, e.g. `Europe/Vienna`.
        time_zone: String,
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
}

impl Schedule {
    /// The first due time strictly after `after`, or `None` for a manual task.
    ///
    /// Each local date gives exactly one due time: a time that does not exist that day (clocks go forward) runs at
    /// the first moment after the gap's length has passed, one that exists twice runs the first time.
    pub fn next_after(&self, after: Timestamp) -> Result<Option<Timestamp>, ScheduleError> {
        let Self::Daily { at, time_zone } = self else { return Ok(None) };
        let zone = TimeZone::get(time_zone).map_err(|_| ScheduleError::UnknownTimeZone(time_zone.clone()))?;
        let mut date = after.to_zoned(zone.clone()).date();
        // The due time of today may have passed already; around a shift one more day can be needed.
        for _ in 0..3 {
            let due = zone
                .to_ambiguous_zoned(date.to_datetime(*at))
                .compatible()
                .map_err(|_| ScheduleError::OutOfRange)?
                .timestamp();
            if due > after {
                return Ok(Some(due));
            }
            date = date.checked_add(1.day()).map_err(|_| ScheduleError::OutOfRange)?;
        }
        Err(ScheduleError::OutOfRange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daily(at: &str, zone: &str) -> Schedule {
        Schedule::Daily { at: at.parse().unwrap(), time_zone: zone.to_owned() }
    }

    fn due_times(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
        let mut now: Timestamp = from.parse().unwrap();
        (0..count)
            .map(|_| {
                now = schedule.next_after(now).unwrap().unwrap();
                now.to_string()
            })
            .collect()
    }

    #[test]
    fn a_daily_task_runs_every_local_day() {
        assert_eq!(
            due_times(&daily("22:00", "Europe/Vienna"), "2026-11-22T20:59:59Z", 2),
            ["2026-11-22T21:00:00Z", "2026-11-23T21:00:00Z"]
        );
    }

    #[test]
    fn a_time_that_is_skipped_or_doubled_runs_once_each_day() {
        let schedule = daily("02:30", "Europe/Vienna");
        // 29 March 2026: 02:00 → 03:00. 25 October 2026: 03:00 → 02:00.
        assert_eq!(due_times(&schedule, "2026-03-28T12:00:00Z", 2), ["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]);
        assert_eq!(due_times(&schedule, "2026-10-24T12:00:00Z", 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn an_unknown_zone_is_an_error_and_manual_is_never_due() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(matches!(daily("01:00", "Mars/Olympus").next_after(now), Err(ScheduleError::UnknownTimeZone(_))));
        assert_eq!(Schedule::Manual.next_after(now), Ok(None));
    }
}
