//! Random histories against a second opinion that counts, for each point by itself, what stands before it.

use super::super::*;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::prelude::*;

/// Zones with and without daylight saving, on both halves of the earth, and ones that set their clock over midnight or
/// once left out or repeated a whole day.
const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Vienna",
    "America/New_York",
    "America/St_Johns",
    "America/Havana",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Kathmandu",
];

#[derive(Debug, Clone)]
struct History {
    points: Vec<Candidate<u8>>,
    rules: Vec<Rule>,
    floor: Floor,
    now: Timestamp,
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(0_u32), 4 => 1..8_u32, 1 => 8..40_u32]
}

fn rule() -> impl Strategy<Value = Rule> {
    let scope = prop_oneof![3 => Just(Scope::Task), 1 => Just(Scope::Machine)];
    (number(), number(), number(), number(), number(), number(), scope, prop::sample::select(&ZONES[..])).prop_map(
        |(last, days, daily, weekly, monthly, yearly, scope, zone)| Rule {
            last,
            days,
            daily,
            weekly,
            monthly,
            yearly,
            scope,
            time_zone: zone.to_owned(),
        },
    )
}

/// Steps between points: the same moment, several a day, daily, and long gaps.
fn step() -> impl Strategy<Value = i64> {
    prop_oneof![
        1 => Just(0_i64),
        4 => 600..40_000_i64,
        4 => Just(86_400_i64),
        2 => 80_000..700_000_i64,
        1 => 2_000_000..40_000_000_i64,
    ]
}

fn point() -> impl Strategy<Value = (i64, Option<usize>, bool, bool, bool)> {
    let owner = prop_oneof![6 => Just(Some(0)), 2 => Just(Some(1)), 1 => Just(None), 1 => Just(Some(7))];
    (step(), owner, prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.05))
}

fn history() -> impl Strategy<Value = History> {
    // From 1999, so that St John's (until 2011) and Apia (2011) have their odd days among the histories.
    let start = 915_000_000..1_800_000_000_i64;
    let floor = (prop_oneof![2 => Just(0_u32), 1 => 1..12_u32], prop_oneof![2 => Just(0_u32), 1 => 1..40_u32]);
    let points = prop::collection::vec(point(), 0..60);
    let order = any::<u64>();
    (start, points, prop::collection::vec(rule(), 0..3), floor, 0..4_000_000_i64, order).prop_map(
        |(start, steps, rules, (floor_points, floor_days), pause, order)| {
            let mut second = start;
            let mut points: Vec<Candidate<u8>> = (0_u8..)
                .zip(steps)
                .map(|(id, (step, owner, pinned, damaged, busy))| {
                    second += step;
                    let taken_at = Timestamp::from_second(second).unwrap();
                    let busy = busy.then_some(Busy::Restore);
                    // Any bijection: ids say nothing of the order of time.
                    Candidate { id: id ^ 0b10_1010, taken_at, owner, pinned, damaged, busy }
                })
                .collect();
            points.sort_by_key(|point| (u64::from(point.id) + 1).wrapping_mul(order | 1));
            // Sometimes before the newest: a clock was set back.
            let now = Timestamp::from_second(second + pause - 100_000).unwrap();
            History { points, rules, floor: Floor { points: floor_points, days: floor_days }, now }
        },
    )
}

/// Word of the period a point falls in.
fn period(point: &Candidate<u8>, rule: &Rule, pattern: &str) -> String {
    point.taken_at.to_zoned(TimeZone::get(&rule.time_zone).unwrap()).strftime(pattern).to_string()
}

fn newer(a: &Candidate<u8>, b: &Candidate<u8>) -> bool {
    a.taken_at > b.taken_at || (a.taken_at == b.taken_at && a.id > b.id)
}

/// Why `rule` keeps `point`, which is one of `counted`.
fn by_rule(point: &Candidate<u8>, counted: &[&Candidate<u8>], rule: &Rule, now: Timestamp) -> Vec<String> {
    let before: Vec<&&Candidate<u8>> = counted.iter().filter(|other| newer(other, point)).collect();
    let mut why = Vec::new();
    if before.len() < rule.last as usize {
        why.push(format!("newest {} of {}", before.len() + 1, rule.last));
    }
    let age = now.duration_since(point.taken_at);
    if rule.days > 0 && age <= SignedDuration::from_hours(24 * i64::from(rule.days)) {
        why.push(Reason::Days(rule.days).to_string());
    }
    let parts = [
        ("daily", "%Y-%m-%d", rule.daily),
        ("weekly", "%G-W%V", rule.weekly),
        ("monthly", "%Y-%m", rule.monthly),
        ("yearly", "%Y", rule.yearly),
    ];
    for (name, pattern, of) in parts {
        let own = period(point, rule, pattern);
        let mut periods: Vec<String> = before.iter().map(|other| period(other, rule, pattern)).collect();
        let is_newest = !periods.contains(&own);
        periods.sort();
        periods.dedup();
        if is_newest && periods.len() < of as usize {
            why.push(format!("{name} {} of {of}", periods.len() + 1));
        }
    }
    if before.is_empty() && why.is_empty() {
        why.push("newest point".to_owned());
    }
    why
}

/// The second opinion about one point without floor and use.
fn by_rules(history: &History, point: &Candidate<u8>) -> Vec<String> {
    let owner = |it: &Candidate<u8>| it.owner.filter(|owner| *owner < history.rules.len());
    let mut why = Vec::new();
    let mut answered = false;
    for (index, rule) in history.rules.iter().enumerate() {
        let all = rule.scope == Scope::Machine;
        if owner(point) != Some(index) && !(owner(point).is_none() && all) {
            continue;
        }
        answered = true;
        let counted: Vec<&Candidate<u8>> = history
            .points
            .iter()
            .filter(|it| !it.pinned && (all || owner(it) == Some(index)) && (point.damaged || !it.damaged))
            .collect();
        if !point.pinned {
            why.extend(by_rule(point, &counted, rule, history.now));
        }
    }
    if point.pinned {
        why.push("pinned".to_owned());
    } else if !answered {
        why.push("no task answers for it".to_owned());
    }
    why
}

/// The second opinion about all of them, by id.
fn opinion(history: &History) -> Vec<(u8, Vec<String>)> {
    let mut newest_first: Vec<&Candidate<u8>> = history.points.iter().collect();
    newest_first.sort_by(|a, b| if newer(a, b) { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater });
    let mut found: Vec<(&Candidate<u8>, Vec<String>)> =
        newest_first.into_iter().map(|point| (point, by_rules(history, point))).collect();
    let floor = || vec!["floor of the location".to_owned()];
    for (point, why) in &mut found {
        let age = history.now.duration_since(point.taken_at);
        if why.is_empty()
            && history.floor.days > 0
            && age <= SignedDuration::from_hours(24 * i64::from(history.floor.days))
        {
            *why = floor();
        }
    }
    // One more at a time until there are enough or no more.
    while found.iter().filter(|(point, why)| !point.damaged && !why.is_empty()).count() < history.floor.points as usize
        && let Some((_, why)) = found.iter_mut().find(|(point, why)| !point.damaged && why.is_empty())
    {
        *why = floor();
    }
    for (point, why) in &mut found {
        if why.is_empty() && point.busy.is_some() {
            why.push("being restored".to_owned());
        }
    }
    found.into_iter().map(|(point, why)| (point.id, why)).collect()
}

fn decided(history: &History) -> Vec<Verdict<u8>> {
    decide(&history.points, &history.rules, history.floor, history.now)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_verdict_and_its_reasons_are_those_of_the_oracle(history in history()) {
        let ours: Vec<(u8, Vec<String>)> = decided(&history)
            .into_iter()
            .map(|verdict| (verdict.id, verdict.reasons.iter().map(ToString::to_string).collect()))
            .collect();
        prop_assert_eq!(ours, opinion(&history));
    }

    #[test]
    fn what_stays_stays_when_the_others_are_gone(history in history()) {
        let kept: Vec<u8> = decided(&history).iter().filter(|it| !it.goes()).map(|it| it.id).collect();
        let points = history.points.iter().filter(|point| kept.contains(&point.id)).cloned().collect();
        let after = decided(&History { points, ..history });
        prop_assert!(after.iter().all(|verdict| !verdict.goes()), "{after:?}");
    }

    #[test]
    fn a_machine_keeps_its_newest_good_point_and_its_floor(history in history()) {
        let verdicts = decided(&history);
        let kept: Vec<&Candidate<u8>> = history
            .points
            .iter()
            .filter(|point| verdicts.iter().any(|it| it.id == point.id && !it.goes()))
            .collect();
        let good: Vec<&Candidate<u8>> = history.points.iter().filter(|point| !point.damaged).collect();
        if let Some(newest) = good.iter().copied().find(|a| good.iter().all(|b| !newer(b, a))) {
            // Another task's rule may count the machine's newest; then that one is its owner's newest, too.
            prop_assert!(kept.iter().any(|point| point.id == newest.id));
        }
        let good_kept = kept.iter().filter(|point| !point.damaged).count();
        prop_assert!(good_kept >= good.len().min(history.floor.points as usize));
    }

    #[test]
    fn a_forecast_is_what_comes_when_the_task_runs_on(history in history(), steps in prop::collection::vec(step(), 1..30)) {
        // A rule that counts others' points keeps more once those have gone of age between two runs.
        let mut rules: Vec<Rule> = history.rules.iter().map(|rule| Rule { scope: Scope::Task, ..rule.clone() }).collect();
        if rules.is_empty() {
            rules.push(Rule { last: 3, ..Rule::default() });
        }
        let history = History { rules, ..history };
        // Ids above those of the history, in the order of time, as the forecast takes them.
        let mut now = history.points.iter().map(|point| point.taken_at).chain([history.now]).max().unwrap();
        let runs: Vec<Run> = steps
            .iter()
            .map(|step| {
                now += SignedDuration::from_secs(step + 1);
                Run { at: now, rule: 0 }
            })
            .collect();
        let idle: Vec<Candidate<u8>> =
            history.points.iter().map(|point| Candidate { busy: None, ..point.clone() }).collect();
        let future = Ahead { now: history.now, runs: &runs, samples: &[] };
        let found = forecast(&idle, &history.rules, history.floor, future);

        let mut living = idle;
        let mut gone = Vec::new();
        let nothing = Run { at: history.now, rule: usize::MAX };
        for (number, run) in std::iter::once(&nothing).chain(&runs).enumerate() {
            if run.rule == 0 {
                let id = 100 + u8::try_from(number).unwrap();
                living.push(Candidate { id, taken_at: run.at, owner: Some(0), pinned: false, damaged: false, busy: None });
            }
            let verdicts = decide(&living, &history.rules, history.floor, run.at);
            for verdict in verdicts.iter().filter(|verdict| verdict.goes()) {
                gone.push((verdict.id, run.at));
                living.retain(|point| point.id != verdict.id);
            }
        }
        for (id, fate) in found.fates {
            let went = gone.iter().find(|(other, _)| *other == id).map(|(_, at)| *at);
            match (fate, went) {
                // Ages are looked at between runs as well.
                (Fate::Goes(at), Some(went)) => prop_assert!(at <= went, "{id}: {at} {went}"),
                (Fate::Goes(at), None) => prop_assert!(at > now, "{id} was to go at {at}"),
                (Fate::Stays, went) => prop_assert_eq!(went, None, "{}", id),
            }
        }
    }
}
