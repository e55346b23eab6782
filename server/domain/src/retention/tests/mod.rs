//! The decision on examples; on random histories against an oracle: `oracle.rs`.

mod oracle;

use super::*;
use jiff::Timestamp;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Points of one task, by their moments; ids are their places.
fn points(times: &[&str]) -> Vec<Candidate<usize>> {
    times.iter().enumerate().map(|(id, time)| candidate(id, at(time))).collect()
}

fn candidate(id: usize, taken_at: Timestamp) -> Candidate<usize> {
    Candidate { id, taken_at, owner: Some(0), pinned: false, damaged: false, busy: None }
}

fn one(rule: Rule) -> Vec<Rule> {
    vec![rule]
}

fn last(count: u32) -> Rule {
    Retention::KeepLast { count }.rule()
}

/// Ids that stay, in ascending order.
fn kept(verdicts: &[Verdict<usize>]) -> Vec<usize> {
    let mut ids: Vec<usize> = verdicts.iter().filter(|verdict| !verdict.goes()).map(|verdict| verdict.id).collect();
    ids.sort_unstable();
    ids
}

fn words(verdicts: &[Verdict<usize>], id: usize) -> Vec<String> {
    let verdict = verdicts.iter().find(|verdict| verdict.id == id).unwrap();
    verdict.reasons.iter().map(ToString::to_string).collect()
}

const NOON: &str = "2026-11-30T12:00:00Z";

#[test]
fn the_newest_stay_whatever_their_order() {
    let points =
        points(&["2026-11-03T00:00:00Z", "2026-11-01T00:00:00Z", "2026-11-04T00:00:00Z", "2026-11-02T00:00:00Z"]);
    assert_eq!(kept(&decide(&points, &one(last(2)), Floor::default(), at(NOON))), [0, 2]);
    assert_eq!(kept(&decide(&points, &one(Rule::default()), Floor::default(), at(NOON))), [2], "never none");
    assert!(decide::<usize>(&[], &one(last(2)), Floor::default(), at(NOON)).is_empty());
}

#[test]
fn each_part_keeps_its_own_and_says_so() {
    let rule = Rule { last: 2, days: 3, daily: 2, weekly: 2, monthly: 2, yearly: 2, ..Rule::default() };
    let points = points(&[
        "2024-06-01T22:00:00Z",
        "2025-12-31T22:00:00Z",
        "2026-10-31T22:00:00Z",
        "2026-11-20T22:00:00Z",
        "2026-11-28T08:00:00Z",
        "2026-11-28T22:00:00Z",
        "2026-11-29T22:00:00Z",
    ]);
    let verdicts = decide(&points, &one(rule), Floor::default(), at(NOON));
    assert_eq!(kept(&verdicts), [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        words(&verdicts, 6),
        ["newest 1 of 2", "not older than 3 days", "daily 1 of 2", "weekly 1 of 2", "monthly 1 of 2", "yearly 1 of 2"]
    );
    assert_eq!(words(&verdicts, 5), ["newest 2 of 2", "not older than 3 days", "daily 2 of 2"]);
    assert_eq!(words(&verdicts, 4), ["not older than 3 days"]);
    assert_eq!(words(&verdicts, 3), ["weekly 2 of 2"]);
    assert_eq!(words(&verdicts, 2), ["monthly 2 of 2"]);
    assert_eq!(words(&verdicts, 1), ["yearly 2 of 2"]);
}

#[test]
fn days_and_weeks_are_those_of_the_zone() {
    // 23:30 UTC of the 28th is already the 29th in Vienna, and a Sunday.
    let points = points(&["2026-11-28T12:00:00Z", "2026-11-28T23:30:00Z", "2026-11-29T12:00:00Z"]);
    let daily = |zone: &str| Rule { daily: 2, time_zone: zone.to_owned(), ..Rule::default() };
    assert_eq!(kept(&decide(&points, &one(daily("UTC")), Floor::default(), at(NOON))), [1, 2]);
    assert_eq!(kept(&decide(&points, &one(daily("Europe/Vienna")), Floor::default(), at(NOON))), [0, 2]);
    assert_eq!(kept(&decide(&points, &one(daily("Mars/Olympus")), Floor::default(), at(NOON))), [1, 2], "as UTC");
}

#[test]
fn a_pin_uses_up_no_slot_and_a_damaged_point_takes_none_from_a_good_one() {
    let mut points =
        points(&["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z", "2026-11-04T00:00:00Z"]);
    points[3].pinned = true;
    let verdicts = decide(&points, &one(last(2)), Floor::default(), at(NOON));
    assert_eq!((kept(&verdicts), words(&verdicts, 3)), (vec![1, 2, 3], vec!["pinned".to_owned()]));
    points[3].pinned = false;
    points[3].damaged = true;
    let verdicts = decide(&points, &one(last(2)), Floor::default(), at(NOON));
    assert_eq!(kept(&verdicts), [1, 2, 3]);
    points[0].damaged = true;
    assert_eq!(kept(&decide(&points, &one(last(3)), Floor::default(), at(NOON))), [1, 2, 3], "it goes in its time");
}

#[test]
fn no_rule_undercuts_the_floor() {
    let points =
        points(&["2026-11-01T00:00:00Z", "2026-11-26T00:00:00Z", "2026-11-27T00:00:00Z", "2026-11-29T00:00:00Z"]);
    let decided = |floor| decide(&points, &one(last(1)), floor, at(NOON));
    assert_eq!(kept(&decided(Floor { points: 3, days: 0 })), [1, 2, 3]);
    assert_eq!(kept(&decided(Floor { points: 0, days: 4 })), [2, 3]);
    assert_eq!(kept(&decided(Floor { points: 9, days: 9 })), [0, 1, 2, 3]);
    let verdicts = decided(Floor { points: 2, days: 0 });
    assert_eq!(words(&verdicts, 2), ["floor of the location"]);
    assert_eq!(words(&verdicts, 3), ["newest 1 of 1"], "where the rule keeps it anyway the floor says nothing");
}

#[test]
fn tasks_answer_for_their_own_points_and_one_may_count_all() {
    let mut points = points(&[
        "2026-11-01T00:00:00Z",
        "2026-11-02T00:00:00Z",
        "2026-11-03T00:00:00Z",
        "2026-11-04T00:00:00Z",
        "2026-11-05T00:00:00Z",
    ]);
    points[1].owner = None;
    points[2].owner = Some(1);
    points[4].owner = Some(1);
    let own = [last(1), last(1)];
    let verdicts = decide(&points, &own, Floor::default(), at(NOON));
    assert_eq!(kept(&verdicts), [1, 3, 4]);
    assert_eq!(words(&verdicts, 1), ["no task answers for it"]);
    // The first counts all: the newest two are its own 3 and the other task's 4; the other's 2 goes by its own rule.
    let all = [Rule { scope: Scope::Machine, ..last(2) }, last(1)];
    assert_eq!(kept(&decide(&points, &all, Floor::default(), at(NOON))), [3, 4]);
    let all = [Rule { scope: Scope::Machine, ..last(2) }, last(9)];
    assert_eq!(kept(&decide(&points, &all, Floor::default(), at(NOON))), [2, 3, 4]);
}

#[test]
fn what_is_being_used_goes_later() {
    let mut points = points(&["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"]);
    points[0].busy = Some(Busy::Restore);
    let verdicts = decide(&points, &one(last(1)), Floor::default(), at(NOON));
    assert_eq!((kept(&verdicts), words(&verdicts, 0)), (vec![0, 2], vec!["being restored".to_owned()]));
}

#[test]
fn rules_of_earlier_versions_are_read_and_simple_ones_are_still_written_so() {
    let old: Retention = serde_json::from_str(r#"{"rule":"keep_last","count":5}"#).unwrap();
    assert_eq!((&old, old.rule()), (&Retention::KeepLast { count: 5 }, last(5)));
    let simple = Rule { time_zone: "Europe/Vienna".to_owned(), ..last(5) };
    assert_eq!(serde_json::to_string(&Retention::from(simple)).unwrap(), r#"{"rule":"keep_last","count":5}"#);
    let long = Rule { weekly: 4, scope: Scope::Machine, ..last(7) };
    let stored = serde_json::to_value(Retention::from(long.clone())).unwrap();
    assert_eq!((&stored["rule"], &stored["scope"]), (&"keep".into(), &"machine".into()));
    assert_eq!(serde_json::from_value::<Retention>(stored).unwrap(), Retention::Keep(long));
    let short: Retention = serde_json::from_str(r#"{"rule":"keep","days":30}"#).unwrap();
    assert_eq!(short.rule(), Rule { days: 30, ..Rule::default() }, "fields are only ever added");
}

#[test]
fn a_rule_is_said_in_few_words() {
    let rule = Rule { last: 7, weekly: 4, monthly: 12, ..Rule::default() };
    assert_eq!(rule.words(), "last 7 · 4 weekly · 12 monthly");
    assert_eq!(Rule { days: 1, daily: 2, yearly: 3, ..Rule::default() }.words(), "1 day · 2 daily · 3 yearly");
    assert_eq!(Rule::default().words(), "the newest only");
}

#[test]
fn a_forecast_says_when_each_goes_and_how_many_there_will_be() {
    let points = points(&["2026-11-27T22:00:00Z", "2026-11-28T22:00:00Z", "2026-11-29T22:00:00Z"]);
    let runs: Vec<Run> = (0..400)
        .map(|day| Run { at: at("2026-11-30T22:00:00Z") + jiff::SignedDuration::from_hours(24 * day), rule: 0 })
        .collect();
    let samples = [at("2026-12-07T00:00:00Z"), at("2027-11-30T00:00:00Z"), at("2040-01-01T00:00:00Z")];
    let rule = Rule { last: 2, monthly: 3, ..Rule::default() };
    let future = Ahead { now: at(NOON), runs: &runs, samples: &samples };
    let found = forecast(&points, &one(rule), Floor::default(), future);
    // The first goes now; the second when two newer ones are there, the third too: November's newest is then the 30th's.
    assert_eq!(
        found.fates,
        [
            (0, Fate::Goes(at(NOON))),
            (1, Fate::Goes(at("2026-11-30T22:00:00Z"))),
            (2, Fate::Goes(at("2026-12-01T22:00:00Z")))
        ]
    );
    assert_eq!(found.counts, [Some(3), Some(4), Some(4)]);
    assert_eq!(found.until, samples[2]);
}

#[test]
fn without_runs_only_age_lets_a_point_go() {
    let points = points(&["2026-11-20T12:00:00Z", "2026-11-25T12:00:00Z", "2026-11-29T12:00:00Z"]);
    let future = Ahead { now: at(NOON), runs: &[], samples: &[] };
    let found = forecast(&points, &one(Rule { days: 30, ..Rule::default() }), Floor::default(), future);
    assert_eq!(found.fates[0], (0, Fate::Goes(at("2026-12-20T12:00:01Z"))));
    assert_eq!(found.fates[2], (2, Fate::Stays), "the newest never goes");
    let found = forecast(&points, &one(last(3)), Floor::default(), future);
    assert!(found.fates.iter().all(|(_, fate)| *fate == Fate::Stays));
}
