//! Due times by rule.

use super::*;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, ToSpan};
use proptest::prelude::*;

#[test]
fn a_daily_task_runs_every_local_day() {
    assert_eq!(
        due_times(&daily("22:00", "Europe/Vienna"), "2026-11-22T20:59:59Z", 2),
        ["2026-11-22T21:00:00Z", "2026-11-23T21:00:00Z"]
    );
    assert_eq!(
        due_times(&daily("06:00 12:30", "Asia/Kolkata"), "2026-11-22T00:30:00Z", 3),
        ["2026-11-22T07:00:00Z", "2026-11-23T00:30:00Z", "2026-11-23T07:00:00Z"]
    );
}

#[test]
fn a_time_that_is_skipped_or_doubled_runs_once_each_day() {
    let schedule = daily("02:30", "Europe/Vienna");
    // 29 March 2026: 02:00 → 03:00. 25 October 2026: 03:00 → 02:00.
    assert_eq!(due_times(&schedule, "2026-03-28T12:00:00Z", 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    assert_eq!(due_times(&schedule, "2026-10-24T12:00:00Z", 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    let said = |from: &str| schedule.next_occurrence(moment(from)).unwrap().unwrap().shift;
    assert_eq!(said("2026-03-28T12:00:00Z"), Some(Shift::Skipped));
    assert_eq!(said("2026-10-24T12:00:00Z"), Some(Shift::Twice));
    assert_eq!(said("2026-10-25T12:00:00Z"), None);
    // Asked within the second of the two hours, the first is over.
    assert_eq!(due_times(&schedule, "2026-10-25T01:10:00Z", 1), ["2026-10-26T01:30:00Z"]);
    // All that falls into a gap, and what begins at its end, is one run.
    let many = daily("02:00 02:15 02:59 03:00 03:01", "Europe/Vienna");
    assert_eq!(due_times(&many, "2026-03-28T12:00:00Z", 2), ["2026-03-29T01:00:00Z", "2026-03-29T01:01:00Z"]);
}

#[test]
fn a_clock_that_moves_at_midnight_or_by_half_an_hour_skips_no_day() {
    // Havana, 8 March 2026: 00:00 → 01:00.
    assert_eq!(
        due_times(&daily("00:00", "America/Havana"), "2026-03-07T12:00:00Z", 2),
        ["2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"]
    );
    // Lord Howe, 4 October 2026: 02:00 → 02:30.
    assert_eq!(
        due_times(&daily("02:10", "Australia/Lord_Howe"), "2026-10-03T00:00:00Z", 2),
        ["2026-10-03T15:30:00Z", "2026-10-04T15:10:00Z"]
    );
}

#[test]
fn weeks_and_months_have_their_days() {
    let weekly = days(Days::Week { on: on("mon wed") }, "22:00", "UTC");
    assert_eq!(
        due_times(&weekly, "2026-11-22T00:00:00Z", 3),
        ["2026-11-23T22:00:00Z", "2026-11-25T22:00:00Z", "2026-11-30T22:00:00Z"]
    );
    let date = |day| days(Days::Date { day }, "01:00", "UTC");
    let short = ["2027-01-31T01:00:00Z", "2027-02-28T01:00:00Z", "2027-03-31T01:00:00Z", "2027-04-30T01:00:00Z"];
    assert_eq!(due_times(&date(31), "2027-01-15T00:00:00Z", 4), short);
    assert_eq!(due_times(&days(Days::LastDay, "01:00", "UTC"), "2027-01-15T00:00:00Z", 4), short);
    assert_eq!(due_times(&date(29), "2028-02-01T00:00:00Z", 1), ["2028-02-29T01:00:00Z"]);
    let nth = |nth, weekday| days(Days::Weekday { nth, weekday }, "01:00", "UTC");
    assert_eq!(
        due_times(&nth(Nth::Second, Weekday::Tue), "2026-11-15T00:00:00Z", 2),
        ["2026-12-08T01:00:00Z", "2027-01-12T01:00:00Z"]
    );
    assert_eq!(
        due_times(&nth(Nth::Last, Weekday::Sun), "2026-11-01T00:00:00Z", 2),
        ["2026-11-29T01:00:00Z", "2026-12-27T01:00:00Z"]
    );
}

#[test]
fn cron_says_the_same_as_the_rules() {
    for zone in ZONES {
        for (pattern, rule) in [
            ("30 2 * * *", daily("02:30", zone)),
            ("0 0,12 * * *", daily("00:00 12:00", zone)),
            ("15 2 * * MON,WED", days(Days::Week { on: on("mon wed") }, "02:15", zone)),
            ("0 1 L * *", days(Days::LastDay, "01:00", zone)),
            ("0 1 * * TUE#2", days(Days::Weekday { nth: Nth::Second, weekday: Weekday::Tue }, "01:00", zone)),
            ("0 1 * * SUN#L", days(Days::Weekday { nth: Nth::Last, weekday: Weekday::Sun }, "01:00", zone)),
        ] {
            let cron = cron(pattern, zone);
            assert_eq!(cron.check(), Ok(()), "{pattern}");
            let from = "2026-02-01T00:00:00Z";
            assert_eq!(due_times(&cron, from, 40), due_times(&rule, from, 40), "{pattern} in {zone}");
        }
    }
}

#[test]
fn a_cron_pattern_of_every_few_minutes_pauses_for_the_doubled_hour() {
    let quarter = cron("*/20 * * * *", "Europe/Vienna");
    assert_eq!(
        due_times(&quarter, "2026-10-25T00:30:00Z", 3),
        ["2026-10-25T00:40:00Z", "2026-10-25T02:00:00Z", "2026-10-25T02:20:00Z"]
    );
    assert_eq!(due_times(&quarter, "2026-03-29T00:40:00Z", 2), ["2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z"]);
}

#[test]
fn what_cannot_be_used_says_why() {
    let long = format!("{} * * * *", "1,".repeat(60));
    for (schedule, why) in [
        (daily("01:00", "Mars/Olympus"), "the time zone “Mars/Olympus” is not known"),
        (cron("* * * *", "UTC"), "it has 4 fields, not five"),
        (cron("@daily", "UTC"), "it has 1 fields, not five"),
        (cron("0 0 1 1 * 2027", "UTC"), "it has 6 fields, not five"),
        (cron("0 0 30 2 *", "UTC"), "no day ever fits it"),
        (cron("61 0 * * *", "UTC"), "cannot be used"),
        (cron("é 0 * * *", "UTC"), "fields"),
        (cron(&long, "UTC"), "of at most 100 characters"),
        (days(Days::Week { on: BTreeSet::new() }, "01:00", "UTC"), "no day of the week"),
        (days(Days::Date { day: 32 }, "01:00", "UTC"), "a date that is not 1 to 31"),
        (days(Days::Date { day: 0 }, "01:00", "UTC"), "a date that is not 1 to 31"),
        (
            Schedule::Timed(timed(Rule::Days { days: Days::Day, at: BTreeSet::new() }, "UTC")),
            "no time of day, or more than 24",
        ),
    ] {
        let error = schedule.check().unwrap_err().to_string();
        assert!(error.contains(why), "{error} should say {why}");
    }
    assert_eq!(cron("0 0 29 2 MON", "UTC").check(), Ok(()));
    assert_eq!(Schedule::Manual.next_after(Timestamp::UNIX_EPOCH), Ok(None));
    assert_eq!(Schedule::Manual.check(), Ok(()));
}

/// The first moment at which a clock on the wall shows this time or a later one: found by looking at every minute.
fn shown(zone: &TimeZone, local: DateTime) -> Timestamp {
    let near = local.to_zoned(TimeZone::UTC).unwrap().timestamp();
    let day_before = near - SignedDuration::from_hours(30);
    let start = near - SignedDuration::from_secs(i64::from(zone.to_offset(day_before).seconds())) - 3.hours();
    (0..7 * 60).map(|minute| start + minute.minutes()).find(|at| at.to_zoned(zone.clone()).datetime() >= local).unwrap()
}

/// All due times of a year by brute force.
fn brute_force(rule: &Days, times: &BTreeSet<Time>, zone: &TimeZone, first: Date, count: i32) -> BTreeSet<Timestamp> {
    let mut due = BTreeSet::new();
    for offset in 0..count {
        let date = first + offset.days();
        let tomorrow = date + 1.day();
        let has = match rule {
            Days::Day => true,
            Days::Week { on } => on.iter().any(|day| jiff::civil::Weekday::from(*day) == date.weekday()),
            Days::Date { day } => {
                i8::try_from(*day).unwrap() == date.day()
                    || (tomorrow.month() != date.month() && date.day() < *day as i8)
            }
            Days::LastDay => tomorrow.month() != date.month(),
            Days::Weekday { nth, weekday } => {
                date.weekday() == jiff::civil::Weekday::from(*weekday)
                    && match nth {
                        Nth::Last => (date + 7.days()).month() != date.month(),
                        nth => {
                            usize::try_from((date.day() - 1) / 7).unwrap()
                                == Nth::ALL.iter().position(|it| it == nth).unwrap()
                        }
                    }
            }
        };
        if has {
            due.extend(times.iter().map(|time| shown(zone, date.to_datetime(*time))));
        }
    }
    due
}

fn a_rule() -> impl Strategy<Value = Days> {
    let weekday = proptest::sample::select(Weekday::ALL.to_vec());
    prop_oneof![
        Just(Days::Day),
        proptest::collection::btree_set(weekday.clone(), 1..7).prop_map(|on| Days::Week { on }),
        (1u8..=31).prop_map(|day| Days::Date { day }),
        Just(Days::LastDay),
        (proptest::sample::select(Nth::ALL.to_vec()), weekday)
            .prop_map(|(nth, weekday)| Days::Weekday { nth, weekday }),
    ]
}

fn some_times() -> impl Strategy<Value = BTreeSet<Time>> {
    // Mostly at night, where clocks move.
    let time = prop_oneof![(0i8..5, 0i8..60), (0i8..24, 0i8..60)];
    proptest::collection::btree_set(time.prop_map(|(hour, minute)| Time::constant(hour, minute, 0, 0)), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn due_times_ascend_and_each_local_time_is_due_once(
        rule in a_rule(),
        times in some_times(),
        zone in proptest::sample::select(ZONES.to_vec()),
        start in 0i32..3000,
    ) {
        let zone_name = zone;
        let zone = TimeZone::get(zone).unwrap();
        let first = jiff::civil::date(2020, 1, 1) + start.days();
        let schedule = Schedule::Timed(timed(Rule::Days { days: rule.clone(), at: times.clone() }, zone_name));
        let expected = brute_force(&rule, &times, &zone, first, 230);
        let mut found = Vec::new();
        let mut after = shown(&zone, first.to_datetime(Time::midnight())) - SignedDuration::from_secs(1);
        while found.len() < expected.len() {
            let next = schedule.next_after(after).unwrap().unwrap();
            prop_assert!(next > after);
            found.push(next);
            after = next;
        }
        prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn any_moment_may_be_asked_about(
        rule in a_rule(), times in some_times(), zone in proptest::sample::select(ZONES.to_vec()), second in 0i64..200_000_000,
    ) {
        // Whatever lies between two due times, the next one is the same.
        let schedule = Schedule::Timed(timed(Rule::Days { days: rule, at: times }, zone));
        let now = Timestamp::from_second(1_700_000_000 + second).unwrap();
        let next = schedule.next_after(now).unwrap().unwrap();
        let between = now + SignedDuration::from_nanos((next.duration_since(now).as_nanos() / 2) as i64);
        prop_assert_eq!(schedule.next_after(between).unwrap(), Some(next));
        prop_assert_eq!(schedule.next_after(next - SignedDuration::from_nanos(1)).unwrap(), Some(next));
        prop_assert!(schedule.next_after(next).unwrap().unwrap() > next);
    }
}
