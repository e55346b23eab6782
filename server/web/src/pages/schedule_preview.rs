//! The next runs of a schedule, as the wizard shows them: in the task's own zone, with what clock changes and hours do.

use crate::format;
use domain::schedule::{Occurrence, Schedule, Shift};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Runs in the preview.
const PREVIEW_RUNS: usize = 10;

/// A run to come.
pub struct PreviewRun {
    /// `Wed 25 Nov`.
    pub day: String,
    /// `22:00`.
    pub clock: String,
    /// What is out of the ordinary about it, or nothing.
    pub note: String,
}

/// The next due times; none for a task that is not due by the clock.
pub fn preview(schedule: Option<&Schedule>, now: Timestamp) -> Vec<PreviewRun> {
    let mut runs = Vec::with_capacity(PREVIEW_RUNS);
    let Some((schedule, zone)) = schedule.and_then(|schedule| Some((schedule, zone_of(schedule)?))) else {
        return runs;
    };
    let mut after = now;
    while runs.len() < PREVIEW_RUNS
        && let Ok(Some(found)) = schedule.next_occurrence(after)
    {
        runs.push(PreviewRun {
            day: format::pattern(found.at, &zone, "%a %-d %b"),
            clock: format::pattern(found.at, &zone, "%H:%M"),
            note: note(&found),
        });
        after = found.at;
    }
    runs
}

fn zone_of(schedule: &Schedule) -> Option<TimeZone> {
    TimeZone::get(schedule.hours()?.1).ok()
}

fn note(run: &Occurrence) -> String {
    let due = run.local.strftime("%H:%M");
    match (run.waits, run.shift) {
        (true, _) => format!("Due {}; waits for its hours.", run.local.strftime("%a %H:%M")),
        (false, Some(Shift::Skipped)) => {
            format!("The clock is set forward and skips {due}: starts at the first moment after.")
        }
        (false, Some(Shift::Twice)) => format!("The clock is set back and {due} comes twice: starts the first time."),
        (false, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_on_which_the_clock_moves_say_so() {
        let daily = Schedule::daily("02:30".parse().unwrap(), "Europe/Vienna");
        let runs = preview(Some(&daily), "2026-03-28T00:00:00Z".parse().unwrap());
        assert_eq!(runs.len(), PREVIEW_RUNS);
        let line = |run: &PreviewRun| format!("{} {} {}", run.day, run.clock, run.note);
        assert_eq!(line(&runs[0]), "Sat 28 Mar 02:30 ");
        assert_eq!(
            line(&runs[1]),
            "Sun 29 Mar 03:00 The clock is set forward and skips 02:30: starts at the first moment after."
        );
        let runs = preview(Some(&daily), "2026-10-24T23:00:00Z".parse().unwrap());
        assert_eq!(
            line(&runs[0]),
            "Sun 25 Oct 02:30 The clock is set back and 02:30 comes twice: starts the first time."
        );
        assert!(preview(Some(&Schedule::Manual), Timestamp::UNIX_EPOCH).is_empty());
    }
}
