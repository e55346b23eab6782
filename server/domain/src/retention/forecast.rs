//! When points will go, if tasks run on as their schedules say: the decision, made again at each coming run.
//!
//! Must never: run without a bound; what lies behind [`EVENTS_MAX`] is left open.

use super::decide::{Compiled, Held, oldest, reasons};
use super::{Candidate, Floor, Rule};
use jiff::{SignedDuration, Timestamp};

/// Most runs, looks and ages that are gone through.
pub const EVENTS_MAX: usize = 10_000;

/// A run to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// When it makes a point.
    pub at: Timestamp,
    /// Whose, as an index into the rules.
    pub rule: usize,
}

/// What is to be expected.
#[derive(Debug, Clone, Copy)]
pub struct Ahead<'a> {
    /// From when on.
    pub now: Timestamp,
    /// Runs after that, in any order.
    pub runs: &'a [Run],
    /// When the number of points is asked for.
    pub samples: &'a [Timestamp],
}

/// What becomes of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes then; at `now` with the next look.
    Goes(Timestamp),
    /// It is still there at [`Forecast::until`].
    Stays,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast<Id> {
    /// For each point that was given, in that order.
    pub fates: Vec<(Id, Fate)>,
    /// Points at each sample, in that order; `None` behind [`Self::until`].
    pub counts: Vec<Option<u32>>,
    /// As far as this was looked ahead.
    pub until: Timestamp,
}

/// Goes through the coming runs. Pins, damage and rules are taken to stay as they are; what works with a point now is
/// not waited for.
pub fn forecast<Id: Ord + Clone>(
    points: &[Candidate<Id>],
    rules: &[Rule],
    floor: Floor,
    future: Ahead<'_>,
) -> Forecast<Id> {
    let compiled: Vec<Compiled> = rules.iter().map(Compiled::new).collect();
    let mut sorted: Vec<(usize, &Candidate<Id>)> = points.iter().enumerate().collect();
    sorted.sort_by(|(_, a), (_, b)| (b.taken_at, &b.id).cmp(&(a.taken_at, &a.id)));
    let mut held: Vec<Held> = sorted.iter().map(|(_, point)| Held::idle(point, &compiled)).collect();
    // Where each stands in `points`; those to come stand nowhere.
    let mut origins: Vec<Option<usize>> = sorted.iter().map(|(index, _)| Some(*index)).collect();
    let (events, until) = events(points, rules, floor, future);
    let mut fates: Vec<Fate> = points.iter().map(|_| Fate::Stays).collect();
    let mut counts: Vec<Option<u32>> = future.samples.iter().map(|_| None).collect();
    for Event { at, what } in events {
        if let What::Run(rule) = what {
            let made = Candidate { id: (), taken_at: at, owner: Some(rule), pinned: false, damaged: false, busy: None };
            let newer = held.partition_point(|point| point.at > at);
            held.insert(newer, Held::idle(&made, &compiled));
            origins.insert(newer, None);
        }
        let stays: Vec<bool> = reasons(&held, &compiled, floor, at).iter().map(|why| !why.is_empty()).collect();
        for (origin, _) in origins.iter().zip(&stays).filter(|(_, stays)| !**stays) {
            if let Some(fate) = origin.and_then(|index| fates.get_mut(index)) {
                *fate = Fate::Goes(at);
            }
        }
        retain(&mut held, &stays);
        retain(&mut origins, &stays);
        if let What::Sample(index) = what
            && let Some(count) = counts.get_mut(index)
        {
            *count = Some(u32::try_from(held.len()).unwrap_or(u32::MAX));
        }
    }
    Forecast { fates: points.iter().map(|point| point.id.clone()).zip(fates).collect(), counts, until }
}

fn retain<T>(list: &mut Vec<T>, stays: &[bool]) {
    let mut stays = stays.iter();
    list.retain(|_| stays.next().copied().unwrap_or(true));
}

/// Something after which the decision may be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: Timestamp,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Run(usize),
    /// A point has come of age, or it is now.
    Look,
    Sample(usize),
}

/// In order, and how far they reach.
fn events<Id>(points: &[Candidate<Id>], rules: &[Rule], floor: Floor, future: Ahead<'_>) -> (Vec<Event>, Timestamp) {
    let now = future.now;
    let mut events = vec![Event { at: now, what: What::Look }];
    events.extend(future.runs.iter().map(|run| Event { at: run.at, what: What::Run(run.rule) }));
    events.extend(future.samples.iter().enumerate().map(|(index, at)| Event { at: *at, what: What::Sample(index) }));
    let mut ages: Vec<u32> = rules.iter().map(|rule| rule.days).chain([floor.days]).filter(|days| *days > 0).collect();
    ages.sort_unstable();
    ages.dedup();
    for days in ages {
        // A second later it is older than that.
        let age = SignedDuration::from_hours(i64::from(days) * 24) + SignedDuration::from_secs(1);
        let comes = points.iter().filter(|point| point.taken_at >= oldest(now, days));
        events.extend(
            comes.filter_map(|point| point.taken_at.checked_add(age).ok().map(|at| Event { at, what: What::Look })),
        );
    }
    events.retain(|event| event.at >= now);
    events.sort_unstable();
    events.truncate(EVENTS_MAX);
    let until = events.last().map_or(now, |event| event.at);
    (events, until)
}
