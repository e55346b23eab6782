//! What becomes of due times, with a simulated clock.

use super::*;
use jiff::{SignedDuration, ToSpan};

const SKIP: MissedRuns = MissedRuns::Skip { grace_minutes: 30 };

fn with(missed: MissedRuns, times: &str) -> Schedule {
    let Schedule::Timed(rest) = daily(times, "UTC") else { panic!("by the clock") };
    Schedule::Timed(Timed { missed, ..rest })
}

fn look(schedule: &Schedule, due: &str, now: &str) -> Look {
    schedule.look(moment(due), moment(now)).unwrap()
}

#[test]
fn one_run_makes_up_for_all_that_was_missed() {
    let schedule = with(MissedRuns::Once, "22:00");
    let found = look(&schedule, "2026-11-20T22:00:00Z", "2026-11-23T09:00:00Z");
    assert_eq!((found.start, found.missed), (Some(moment("2026-11-20T22:00:00Z")), None));
    assert_eq!(found.next, Some(moment("2026-11-23T22:00:00Z")));
}

#[test]
fn what_is_late_is_left_out_and_what_is_on_time_runs() {
    let schedule = with(SKIP, "22:00");
    let late = look(&schedule, "2026-11-20T22:00:00Z", "2026-11-23T09:00:00Z");
    assert_eq!(late.start, None);
    assert_eq!(late.missed, Some(Missed { first: moment("2026-11-20T22:00:00Z"), count: 3 }));
    let on_time = look(&schedule, "2026-11-20T22:00:00Z", "2026-11-23T22:30:00Z");
    assert_eq!(on_time.start, Some(moment("2026-11-23T22:00:00Z")));
    assert_eq!(on_time.missed, Some(Missed { first: moment("2026-11-20T22:00:00Z"), count: 3 }));
    let at_once = look(&schedule, "2026-11-20T22:00:00Z", "2026-11-20T22:00:05Z");
    assert_eq!((at_once.start, at_once.missed), (Some(moment("2026-11-20T22:00:00Z")), None));
}

#[test]
fn a_late_run_waits_for_the_next_hours() {
    let hours = Hours {
        rule: HoursRule::Within,
        spans: vec![Span {
            days: on("mon tue wed thu fri sat sun"),
            from: "20:00".parse().unwrap(),
            until: "04:00".parse().unwrap(),
        }],
        stop: false,
    };
    let Schedule::Timed(timed) = with(MissedRuns::Once, "22:00") else { panic!("by the clock") };
    let schedule = Schedule::Timed(Timed { hours: hours.clone(), ..timed });
    let found = look(&schedule, "2026-11-22T22:00:00Z", "2026-11-23T09:00:00Z");
    assert_eq!((found.start, found.next), (None, Some(moment("2026-11-23T20:00:00Z"))));
    let after = Schedule::After(After { task_id: 7, also_after_failure: false, time_zone: "UTC".to_owned(), hours });
    let found = look(&after, "2026-11-23T09:00:00Z", "2026-11-23T09:00:01Z");
    assert_eq!((found.start, found.next), (None, Some(moment("2026-11-23T20:00:00Z"))));
    let found = look(&after, "2026-11-23T20:00:00Z", "2026-11-23T20:00:01Z");
    assert_eq!((found.start, found.next), (Some(moment("2026-11-23T20:00:00Z")), None));
}

/// A year of a scheduler that looks every ten minutes, unless its server is down.
fn year(schedule: &Schedule, is_down: impl Fn(Timestamp) -> bool) -> (Vec<Timestamp>, u32) {
    let (mut now, end) = (moment("2026-01-01T00:00:00Z"), moment("2027-01-01T00:00:00Z"));
    let mut due = schedule.next_after(now).unwrap();
    let (mut started, mut left_out) = (Vec::new(), 0);
    while now < end {
        if !is_down(now)
            && let Some(at) = due.filter(|due| *due <= now)
        {
            let found = schedule.look(at, now).unwrap();
            started.extend(found.start);
            left_out += found.missed.map_or(0, |missed| missed.count);
            due = found.next;
        }
        now += 10.minutes();
    }
    (started, left_out)
}

#[test]
fn through_a_year_every_due_time_runs_or_is_accounted_for() {
    // Down from the 10th to the 12th of every month, and on Sundays from 21:50 to 22:20.
    let is_down = |now: Timestamp| {
        let local = now.to_zoned(jiff::tz::TimeZone::UTC);
        let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
        (10..=12).contains(&local.day())
            || (local.weekday() == jiff::civil::Weekday::Sunday && (1310..1340).contains(&minute))
    };
    let (always, none) = year(&with(SKIP, "22:00"), |_| false);
    assert_eq!((always.len(), none), (365, 0));
    assert!(always.windows(2).all(|pair| pair[0] < pair[1]));
    let (skipping, left_out) = year(&with(SKIP, "22:00"), is_down);
    assert_eq!((skipping.len(), left_out), (365 - 36, 36), "the short pauses are within the grace");
    let (once, none) = year(&with(MissedRuns::Once, "22:00"), is_down);
    assert_eq!((once.len(), none), (365 - 24, 0), "one run for three missed nights");
    let strict = with(MissedRuns::Skip { grace_minutes: 0 }, "22:00");
    let (runs, left_out) = year(&strict, is_down);
    assert_eq!(runs.len() + left_out as usize, 365);
    assert!(left_out > 36 + 40, "{left_out}");
}

#[test]
fn a_very_long_downtime_is_counted_to_a_limit() {
    let Schedule::Timed(timed) = cron("* * * * *", "UTC") else { panic!("by the clock") };
    let schedule = Schedule::Timed(Timed { missed: SKIP, ..timed });
    let (due, now) = (moment("2026-01-01T00:00:00Z"), moment("2026-06-01T00:00:00Z"));
    let found = schedule.look(due, now).unwrap();
    assert_eq!((found.start, found.missed), (None, Some(Missed { first: due, count: 2000 })));
    assert_eq!(found.next, Some(now + SignedDuration::from_mins(1)));
}
