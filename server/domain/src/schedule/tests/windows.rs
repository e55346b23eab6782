//! Hours in which runs may start.

use super::*;
use jiff::SignedDuration;
use proptest::prelude::*;

fn span(days: &str, from: &str, until: &str) -> Span {
    Span { days: on(days), from: from.parse().unwrap(), until: until.parse().unwrap() }
}

fn hours(rule: HoursRule, spans: Vec<Span>) -> Hours {
    Hours { rule, spans, stop: true }
}

const ALL_DAYS: &str = "mon tue wed thu fri sat sun";
const VIENNA: &str = "Europe/Vienna";

fn within(mut schedule: Schedule, hours: Hours) -> Schedule {
    let Schedule::Timed(timed) = &mut schedule else { panic!("by the clock") };
    timed.hours = hours;
    schedule
}

#[test]
fn a_run_waits_for_its_window() {
    let nights = hours(HoursRule::Within, vec![span("mon tue wed thu fri", "22:00", "06:00")]);
    let schedule = within(daily("12:00 23:00", "UTC"), nights.clone());
    assert_eq!(schedule.check(), Ok(()));
    // Friday's window ends on Saturday; Saturday's and Sunday's due times wait for Monday and are one run.
    assert_eq!(
        due_times(&schedule, "2026-11-26T23:30:00Z", 5),
        [
            "2026-11-27T22:00:00Z",
            "2026-11-27T23:00:00Z",
            "2026-11-30T22:00:00Z",
            "2026-11-30T23:00:00Z",
            "2026-12-01T22:00:00Z"
        ]
    );
    let waits = schedule.next_occurrence(moment("2026-11-28T13:00:00Z")).unwrap().unwrap();
    assert_eq!((waits.at, waits.waits), (moment("2026-11-30T22:00:00Z"), true));
    assert_eq!(waits.local.to_string(), "2026-11-28T12:00:00");
    assert_eq!(nights.ends_after("UTC", moment("2026-11-27T23:00:00Z")), Ok(Some(moment("2026-11-28T06:00:00Z"))));
    assert_eq!(Hours { stop: false, ..nights }.ends_after("UTC", moment("2026-11-27T23:00:00Z")), Ok(None));
}

#[test]
fn quiet_hours_are_the_opposite() {
    let quiet = hours(HoursRule::Outside, vec![span(ALL_DAYS, "08:00", "18:00")]);
    let schedule = within(daily("07:59 08:00 12:00", VIENNA), quiet.clone());
    assert_eq!(
        due_times(&schedule, "2026-11-22T00:00:00Z", 3),
        ["2026-11-22T06:59:00Z", "2026-11-22T17:00:00Z", "2026-11-23T06:59:00Z"]
    );
    assert_eq!(quiet.ends_after(VIENNA, moment("2026-11-22T06:59:00Z")), Ok(Some(moment("2026-11-22T07:00:00Z"))));
    assert_eq!(quiet.is_open(VIENNA, moment("2026-11-22T17:00:00Z")), Ok(true));
    assert_eq!(quiet.is_open(VIENNA, moment("2026-11-22T16:59:59Z")), Ok(false));
}

#[test]
fn hours_that_touch_are_one_and_a_whole_week_has_no_end() {
    let joined = hours(HoursRule::Within, vec![span("mon", "20:00", "00:00"), span("tue", "00:00", "04:00")]);
    assert_eq!(joined.ends_after("UTC", moment("2026-11-23T21:00:00Z")), Ok(Some(moment("2026-11-24T04:00:00Z"))));
    let always = hours(HoursRule::Within, vec![span(ALL_DAYS, "00:00", "00:00")]);
    assert_eq!(always.ends_after(VIENNA, moment("2026-11-23T21:00:00Z")), Ok(None));
    let never = hours(HoursRule::Outside, vec![span(ALL_DAYS, "05:00", "05:00")]);
    assert_eq!(within(daily("12:00", VIENNA), never).check(), Err(ScheduleError::NeverOpen));
}

#[test]
fn a_window_in_a_gap_of_the_clock_moves_with_it() {
    // 29 March 2026, Vienna: 02:00 → 03:00; 25 October: 03:00 → 02:00.
    let hours = hours(HoursRule::Within, vec![span(ALL_DAYS, "02:15", "02:45")]);
    assert_eq!(hours.next_open(VIENNA, moment("2026-03-29T00:00:00Z")), Ok(Some(moment("2026-03-30T00:15:00Z"))));
    assert_eq!(hours.next_open(VIENNA, moment("2026-10-25T00:00:00Z")), Ok(Some(moment("2026-10-25T00:15:00Z"))));
    assert_eq!(hours.next_open(VIENNA, moment("2026-10-25T01:20:00Z")), Ok(Some(moment("2026-10-26T01:15:00Z"))));
}

#[test]
fn hours_have_limits() {
    let wrong = |spans| within(daily("12:00", "UTC"), hours(HoursRule::Within, spans)).check();
    assert!(matches!(wrong(Vec::new()), Err(ScheduleError::Limit { .. })));
    assert!(matches!(wrong(vec![span("mon", "01:00", "02:00"); SPANS_MAX + 1]), Err(ScheduleError::Limit { .. })));
    let no_day = Span { days: BTreeSet::new(), ..span("mon", "01:00", "02:00") };
    assert!(matches!(wrong(vec![no_day]), Err(ScheduleError::Limit { .. })));
}

fn some_spans() -> impl Strategy<Value = Vec<Span>> {
    let time = || (0i8..24, 0i8..60).prop_map(|(hour, minute)| Time::constant(hour, minute, 0, 0));
    let days = proptest::collection::btree_set(proptest::sample::select(Weekday::ALL.to_vec()), 1..7);
    proptest::collection::vec((days, time(), time()).prop_map(|(days, from, until)| Span { days, from, until }), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_due_outside_the_hours_and_no_due_time_is_lost(
        spans in some_spans(),
        outside in any::<bool>(),
        zone in proptest::sample::select(ZONES.to_vec()),
        second in 0i64..100_000_000,
    ) {
        let rule = if outside { HoursRule::Outside } else { HoursRule::Within };
        let plain = daily("03:00 11:00 21:30", zone);
        let bound = within(plain.clone(), hours(rule, spans));
        prop_assume!(bound.check().is_ok());
        let Schedule::Timed(timed) = &bound else { unreachable!() };
        let start = Timestamp::from_second(1_750_000_000 + second).unwrap();
        let mut after = start;
        let mut found = Vec::new();
        for _ in 0..30 {
            let next = bound.next_after(after).unwrap().unwrap();
            prop_assert!(next > after);
            prop_assert!(timed.hours.is_open(zone, next).unwrap(), "{next}");
            if let Some(end) = timed.hours.ends_after(zone, next).unwrap() {
                prop_assert!(end > next);
                prop_assert!(!timed.hours.is_open(zone, end).unwrap());
                prop_assert!(timed.hours.is_open(zone, end - SignedDuration::from_nanos(1)).unwrap());
            }
            found.push(next);
            after = next;
        }
        // Every due time by the rule leads to the first one from it on that is open.
        let mut due = start;
        loop {
            due = plain.next_after(due).unwrap().unwrap();
            if due > *found.last().unwrap() {
                break;
            }
            let open = timed.hours.next_open(zone, due).unwrap().unwrap();
            prop_assert!(open > *found.last().unwrap() || found.contains(&open), "{due} should run at {open}");
        }
    }
}
