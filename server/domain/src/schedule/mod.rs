//! When a task runs by itself.
//!
//! Owns: what a schedule may say, when it is due next, the times in which runs may start, what becomes of due times that
//! were missed, and the words for all of it. Must never: read a clock; every question comes with its moment.
//! Read next: `types.rs` (what is stored), `occurrences.rs` (due times), `windows.rs`, `missed.rs`, `words.rs`.
//!
//! **Clock changes.** Each local date and time of a rule is due exactly once: one that does not exist that day (clocks go
//! forward) at the first moment after the gap, one that exists twice (clocks go back) the first time. Several due times in
//! one gap are one run. The same holds for cron; a pattern of every few minutes therefore pauses for the hour that
//! comes twice.

mod cron;
mod missed;
mod occurrences;
pub mod outcome;
mod types;
mod windows;
mod words;
mod zone;

#[cfg(test)]
mod tests;

pub use cron::PATTERN_LENGTH_MAX_CHARS;
pub use missed::{Look, Missed};
pub use occurrences::{Occurrence, Shift};
pub use types::{
    After, Days, GRACE_MAX_MINUTES, MissedRuns, Nth, Rule, Schedule, ScheduleError, TIMES_A_DAY_MAX, Timed, Weekday,
};
pub use windows::{Hours, HoursRule, SPANS_MAX, Span};
pub use words::{clock, in_words};
