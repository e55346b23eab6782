//! What is stored, and what it is called.

use super::*;
use serde_json::json;

#[test]
fn the_first_versions_schedules_are_read() {
    let read = |value| serde_json::from_value::<Schedule>(value).unwrap();
    assert_eq!(read(json!({ "kind": "manual" })), Schedule::Manual);
    let old = read(json!({ "kind": "daily", "at": "22:00:00", "time_zone": "Europe/Vienna" }));
    assert_eq!(old, daily("22:00", "Europe/Vienna"));
    assert_eq!(old, Schedule::daily("22:00".parse().unwrap(), "Europe/Vienna"));
}

#[test]
fn what_is_stored_is_read_again() {
    let hours = Hours {
        rule: HoursRule::Outside,
        spans: vec![Span { days: on("mon sun"), from: "08:00".parse().unwrap(), until: "18:30".parse().unwrap() }],
        stop: true,
    };
    let mut all = vec![
        Schedule::Manual,
        daily("06:00 22:00", "UTC"),
        days(Days::Week { on: on("mon wed") }, "22:00", "UTC"),
        days(Days::Date { day: 31 }, "22:00", "UTC"),
        days(Days::LastDay, "22:00", "UTC"),
        days(Days::Weekday { nth: Nth::Last, weekday: Weekday::Fri }, "22:00", "UTC"),
        cron("*/5 * * * *", "UTC"),
        Schedule::After(After {
            task_id: 7,
            also_after_failure: true,
            time_zone: "UTC".to_owned(),
            hours: hours.clone(),
        }),
    ];
    let Schedule::Timed(timed) = daily("06:00", "UTC") else { panic!("by the clock") };
    all.push(Schedule::Timed(Timed { missed: MissedRuns::Skip { grace_minutes: 90 }, hours, ..timed }));
    for schedule in all {
        let stored = serde_json::to_value(&schedule).unwrap();
        assert_eq!(serde_json::from_value::<Schedule>(stored.clone()).unwrap(), schedule, "{stored}");
    }
    // The names are the format: other programs and later versions read them.
    assert_eq!(
        serde_json::to_value(days(Days::Weekday { nth: Nth::Last, weekday: Weekday::Fri }, "22:00", "UTC")).unwrap(),
        json!({
            "kind": "timed",
            "rule": { "by": "days", "days": { "each": "weekday", "nth": "last", "weekday": "fri" }, "at": ["22:00:00"] },
            "time_zone": "UTC",
            "missed": { "then": "once" },
            "hours": { "rule": "any", "spans": [], "stop": false },
        })
    );
}

#[test]
fn words_say_what_is_meant() {
    let vienna = "Europe/Vienna";
    let after = After { task_id: 7, also_after_failure: false, time_zone: "UTC".to_owned(), hours: Hours::default() };
    for (schedule, words) in [
        (Schedule::Manual, "By hand only"),
        (daily("22:00", vienna), "Daily at 22:00, Europe/Vienna"),
        (daily("06:00 12:30 22:00", vienna), "Daily at 06:00, 12:30 and 22:00, Europe/Vienna"),
        (days(Days::Week { on: on("mon wed") }, "22:00", vienna), "Weekly on Mon, Wed at 22:00, Europe/Vienna"),
        (
            days(Days::Week { on: on("mon tue wed sat sun") }, "01:00", vienna),
            "Weekly on Mon to Wed, Sat, Sun at 01:00, Europe/Vienna",
        ),
        (days(Days::Date { day: 1 }, "22:00", vienna), "Monthly on the 1st at 22:00, Europe/Vienna"),
        (days(Days::Date { day: 12 }, "22:00", vienna), "Monthly on the 12th at 22:00, Europe/Vienna"),
        (days(Days::Date { day: 23 }, "22:00", vienna), "Monthly on the 23rd at 22:00, Europe/Vienna"),
        (days(Days::LastDay, "22:00", vienna), "Monthly on the last day at 22:00, Europe/Vienna"),
        (
            days(Days::Weekday { nth: Nth::Second, weekday: Weekday::Tue }, "22:00", vienna),
            "Monthly on the 2nd Tuesday at 22:00, Europe/Vienna",
        ),
        (cron("0 22 * * 1-5", vienna), "By cron “0 22 * * 1-5”, Europe/Vienna"),
        (Schedule::After(after.clone()), "After “Files”"),
        (Schedule::After(After { also_after_failure: true, ..after }), "After “Files”, also after a failure"),
    ] {
        assert_eq!(in_words(&schedule, Some("Files")), words);
    }
    let span = |days, from: &str, until: &str| Span {
        days: on(days),
        from: from.parse().unwrap(),
        until: until.parse().unwrap(),
    };
    let hours = Hours {
        rule: HoursRule::Within,
        spans: vec![span("mon tue wed thu fri", "22:00", "06:00"), span("sat sun", "00:00", "00:00")],
        stop: true,
    };
    assert_eq!(
        hours.in_words(),
        "Only Mon to Fri 22:00 to 06:00 and Sat, Sun, all day; what still runs then is stopped"
    );
    assert_eq!(MissedRuns::Skip { grace_minutes: 60 }.in_words(), "Left out when later than 60 min");
}
