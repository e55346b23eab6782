//! From a local date and time to the one moment that stands for it.

use super::types::ScheduleError;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// What the clock did to a local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    /// It does not exist that day; the moment is the first after the gap.
    Skipped,
    /// It exists twice; the moment is the first of both.
    Twice,
}

/// The zone of that name.
pub fn get(name: &str) -> Result<TimeZone, ScheduleError> {
    TimeZone::get(name).map_err(|_| ScheduleError::UnknownTimeZone(name.to_owned()))
}

/// The moment that stands for a local date and time. A later local time never stands for an earlier moment.
pub fn resolve(zone: &TimeZone, local: DateTime) -> Result<(Timestamp, Option<Shift>), ScheduleError> {
    let (offset, shift) = match zone.to_ambiguous_zoned(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => (offset, None),
        AmbiguousOffset::Fold { before, .. } => (before, Some(Shift::Twice)),
        AmbiguousOffset::Gap { before, .. } => {
            let within = before.to_timestamp(local).map_err(|_| ScheduleError::OutOfRange)?;
            return Ok((end_of_gap(zone, within)?, Some(Shift::Skipped)));
        }
    };
    Ok((offset.to_timestamp(local).map_err(|_| ScheduleError::OutOfRange)?, shift))
}

/// The transition at or before a moment that the old offset makes of a time in its gap.
fn end_of_gap(zone: &TimeZone, within: Timestamp) -> Result<Timestamp, ScheduleError> {
    // "Preceding" is strict, and a local time that begins the gap is the transition itself.
    let just_after = within.checked_add(SignedDuration::from_nanos(1)).map_err(|_| ScheduleError::OutOfRange)?;
    zone.preceding(just_after).next().map(|transition| transition.timestamp()).ok_or(ScheduleError::OutOfRange)
}
