//! Cron patterns: five fields, for experts. The crate finds local times; what moment stands for one is decided here as for
//! every other rule.

use super::types::ScheduleError;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::ToSpan;
use jiff::civil::{DateTime, date};

/// Longest pattern.
pub const PATTERN_LENGTH_MAX_CHARS: usize = 100;
/// Minute, hour, day of the month, month, day of the week.
const FIELDS: usize = 5;
/// 29 February of a given weekday comes within this, also around 2100.
const RECURS_WITHIN_YEARS: i16 = 48;

/// A pattern, ready to be asked.
pub fn parse(pattern: &str) -> Result<Cron, ScheduleError> {
    let wrong =
        |why: String| ScheduleError::Cron { pattern: pattern.chars().take(PATTERN_LENGTH_MAX_CHARS).collect(), why };
    let length = pattern.chars().count();
    if length > PATTERN_LENGTH_MAX_CHARS {
        return Err(wrong(format!("it has {length} of at most {PATTERN_LENGTH_MAX_CHARS} characters")));
    }
    let fields = pattern.split_whitespace().count();
    if fields != FIELDS || !pattern.is_ascii() {
        return Err(wrong(format!("it has {fields} fields, not five: minute, hour, day, month, weekday")));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(pattern).map_err(|error| wrong(error.to_string().trim_end_matches('.').to_owned()))
}

/// Whether it can be read and is due some day.
pub fn check(pattern: &str) -> Result<(), ScheduleError> {
    let cron = parse(pattern)?;
    // The calendar repeats itself; where the search begins does not matter.
    let start = date(2000, 1, 1).at(0, 0, 0, 0);
    let end = start.saturating_add(i32::from(RECURS_WITHIN_YEARS).years());
    match next(&cron, start) {
        Ok(found) if found < end => Ok(()),
        _ => Err(ScheduleError::Cron { pattern: pattern.to_owned(), why: "no day ever fits it".to_owned() }),
    }
}

/// The first local time after `after`.
pub fn next(cron: &Cron, after: DateTime) -> Result<DateTime, ScheduleError> {
    cron.find_next_occurrence(&after, false).map_err(|_| ScheduleError::OutOfRange)
}
