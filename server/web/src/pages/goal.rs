//! Goals for the age of restore points: choices, the suggestion that follows from a schedule, words.

use crate::format::Of;
use crate::shell::Times;
use crate::ui::{self, Html, Tone};
use db::Goal;
use domain::schedule::Schedule;
use jiff::Timestamp;

const HOUR: u32 = 60;
const DAY: u32 = 24 * HOUR;
/// What a form offers, minutes.
const CHOICES_MINUTES: [u32; 13] = [
    HOUR,
    2 * HOUR,
    4 * HOUR,
    8 * HOUR,
    12 * HOUR,
    DAY,
    30 * HOUR,
    2 * DAY,
    3 * DAY,
    7 * DAY,
    9 * DAY,
    14 * DAY,
    40 * DAY,
];
/// Longest goal: ten years.
pub const MINUTES_MAX: u32 = 3_652 * DAY;
/// Due times that a suggestion looks at.
const DUE_TIMES: usize = 40;
/// A run takes its time and may wait for others.
const SLACK_PERCENT: i64 = 25;
/// A field's word for no goal.
pub const NONE: &str = "none";

/// `30 hours`, `9 days`, `90 minutes`.
pub fn words(minutes: impl Of<u32>) -> String {
    let minutes = minutes.value();
    let (number, unit) = match minutes {
        _ if minutes.is_multiple_of(DAY) && minutes > DAY => (minutes / DAY, "day"),
        _ if minutes.is_multiple_of(HOUR) => (minutes / HOUR, "hour"),
        _ => (minutes, "minute"),
    };
    if number == 1 { format!("1 {unit}") } else { format!("{number} {unit}s") }
}

/// The shortest goal of those offered that the schedule meets with some slack; none without a schedule.
pub fn suggestion(schedule: &Schedule, now: Timestamp) -> Option<u32> {
    let mut after = schedule.next_after(now).ok()??;
    let mut gap = 0;
    for _ in 0..DUE_TIMES {
        let Ok(Some(due)) = schedule.next_after(after) else { break };
        gap = gap.max(due.as_second() - after.as_second());
        after = due;
    }
    let wanted = gap / 60 * (100 + SLACK_PERCENT) / 100;
    CHOICES_MINUTES.into_iter().find(|choice| wanted > 0 && i64::from(*choice) >= wanted)
}

/// What someone chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// No goal.
    None,
    /// This one.
    Minutes(u32),
}

impl Choice {
    /// The goal, if it is one.
    pub const fn minutes(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Minutes(minutes) => Some(minutes),
        }
    }
}

/// What a field says; none when that can be no goal.
pub fn parse(field: &str) -> Option<Choice> {
    if field == NONE {
        return Some(Choice::None);
    }
    field.parse().ok().filter(|minutes| (1..=MINUTES_MAX).contains(minutes)).map(Choice::Minutes)
}

/// Options of a form: value, words, whether it is the chosen one. One that is not among those offered is added.
pub fn options(chosen: Option<u32>) -> Vec<(String, String, bool)> {
    let mut choices = CHOICES_MINUTES.to_vec();
    choices.extend(chosen);
    choices.sort_unstable();
    choices.dedup();
    choices.into_iter().map(|minutes| (minutes.to_string(), words(minutes), chosen == Some(minutes))).collect()
}

/// Whether a machine meets its goal, for a list.
pub fn label(goal: &Goal) -> Html {
    let aim = words(goal.goal_minutes.unsigned_abs());
    let (tone, text) = if goal.missed { (Tone::Bad, "missed") } else { (Tone::Ok, "met") };
    Html(format!(
        r#"<span class="sub nowrap" title="{}">{} Goal of {aim} {text}</span>"#,
        ui::escape(if goal.missed { &goal.reason } else { "" }),
        tone.icon_s()
    ))
}

/// One sentence about the newest good point and the goal.
pub fn sentence(goal: &Goal, times: &Times) -> Html {
    let aim = words(goal.goal_minutes.unsigned_abs());
    let newest = match goal.newest_good_at {
        Some(at) => format!("The newest good point is from {}.", times.ago(at)),
        None => "There is no good point.".to_owned(),
    };
    if goal.missed {
        let reason = ui::escape(&goal.reason);
        return Html(format!(
            "{} <span class=\"strong\">The goal of {aim} is missed.</span> {newest} {reason}",
            Tone::Bad.icon()
        ));
    }
    Html(format!("{} The goal of {aim} is met. {newest}", Tone::Ok.icon()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_task_suggests_a_day_with_slack() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let daily = Schedule::daily("22:00".parse().unwrap(), "Europe/Vienna");
        assert_eq!(suggestion(&daily, now), Some(30 * HOUR));
        assert_eq!(suggestion(&Schedule::Manual, now), None);
    }

    #[test]
    fn a_goal_that_is_not_offered_stays_chosen() {
        let options = options(Some(90));
        assert_eq!(options.iter().find(|it| it.2).unwrap().1, "90 minutes");
        assert_eq!(parse("none"), Some(Choice::None));
        assert_eq!(parse("1800"), Some(Choice::Minutes(1800)));
        assert_eq!((parse("0"), parse("-1"), parse("x"), parse("")), (None, None, None, None));
    }

    #[test]
    fn spans_are_in_the_largest_unit_that_fits() {
        for (minutes, text) in [(60, "1 hour"), (DAY, "24 hours"), (2 * DAY, "2 days"), (30 * HOUR, "30 hours")] {
            assert_eq!(words(minutes), text);
        }
    }
}
