//! The decision: for each point of a machine the reasons to keep it; without one it goes.
//!
//! Order: each task's rule over the points it counts; then pins; then the repository's floor; then what is being used.
//! Must never: depend on the order of its input, or let a point go that nobody's rule answers for.

use super::{Floor, Rule, Scope};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use std::fmt;

/// A point of a machine in one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<Id> {
    /// Identifies it to the caller. Of two points of the same moment, the larger id counts as the newer.
    pub id: Id,
    /// Moment of its snapshot.
    pub taken_at: Timestamp,
    /// Which of the rules is that of the task that made it; `None` when no rule answers for that task.
    pub owner: Option<usize>,
    /// Kept by hand. It uses up no slot of any rule: what the rule would keep without it stays as well.
    pub pinned: bool,
    /// It did not read back. It uses up no slot that a good point could have, but goes when a good one would.
    pub damaged: bool,
    /// Something works with it now.
    pub busy: Option<Busy>,
}

/// What works with a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// A restore reads it.
    Restore,
    /// A verification reads it.
    Verify,
    /// A backup that is being made builds on it.
    Backup,
}

/// A part of a rule with slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The newest.
    Last,
    /// One a day.
    Daily,
    /// One an ISO week.
    Weekly,
    /// One a month.
    Monthly,
    /// One a year.
    Yearly,
}

/// Why a point stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It has a slot, counted from the newest.
    Slot {
        /// Of which part.
        part: Part,
        /// Which, from 1.
        number: u32,
        /// Of how many.
        of: u32,
    },
    /// It is not older than that.
    Days(u32),
    /// The newest one stays, whatever the rule says.
    Newest,
    /// Kept by hand.
    Pinned,
    /// The repository's floor, where the rule lets go of it.
    Floor,
    /// No task answers for it.
    NoRule,
    /// It goes later: something works with it.
    Busy(Busy),
}

/// What is decided about a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<Id> {
    /// Which.
    pub id: Id,
    /// Why it stays; none: it goes.
    pub reasons: Vec<Reason>,
}

impl<Id> Verdict<Id> {
    /// Nothing keeps it.
    pub const fn goes(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// Decides about all points of one machine in one repository; newest first. `rules` are those of the tasks that made
/// the points or may take care of them; [`Candidate::owner`] is an index into them.
pub fn decide<Id: Ord + Clone>(
    points: &[Candidate<Id>],
    rules: &[Rule],
    floor: Floor,
    now: Timestamp,
) -> Vec<Verdict<Id>> {
    let compiled: Vec<Compiled> = rules.iter().map(Compiled::new).collect();
    let mut sorted: Vec<&Candidate<Id>> = points.iter().collect();
    sorted.sort_by(|a, b| (b.taken_at, &b.id).cmp(&(a.taken_at, &a.id)));
    let held: Vec<Held> = sorted.iter().map(|point| Held::new(point, &compiled)).collect();
    let kept = reasons(&held, &compiled, floor, now);
    sorted.iter().zip(kept).map(|(point, reasons)| Verdict { id: point.id.clone(), reasons }).collect()
}

/// A rule and its zone.
pub(super) struct Compiled<'a> {
    rule: &'a Rule,
    zone: TimeZone,
}

impl<'a> Compiled<'a> {
    pub(super) fn new(rule: &'a Rule) -> Self {
        Self { rule, zone: rule.zone() }
    }
}

/// A point as rules see it.
pub(super) struct Held {
    pub(super) at: Timestamp,
    owner: Option<usize>,
    pinned: bool,
    damaged: bool,
    busy: Option<Busy>,
    /// Day, week, month and year, in each rule's zone.
    periods: Vec<[i32; 4]>,
}

impl Held {
    fn new<Id>(point: &Candidate<Id>, rules: &[Compiled]) -> Self {
        let Candidate { taken_at, owner, pinned, damaged, busy, .. } = *point;
        let owner = owner.filter(|owner| *owner < rules.len());
        let periods = rules.iter().map(|rule| periods(taken_at, &rule.zone)).collect();
        Self { at: taken_at, owner, pinned, damaged, busy, periods }
    }

    /// The same when nothing works with it.
    pub(super) fn idle<Id>(point: &Candidate<Id>, rules: &[Compiled]) -> Self {
        Self { busy: None, ..Self::new(point, rules) }
    }

    /// Whether this rule counts it.
    fn counts(&self, index: usize, rule: &Rule) -> bool {
        !self.pinned && (rule.scope == Scope::Machine || self.owner == Some(index))
    }

    /// Whether this rule answers for it.
    fn answers(&self, index: usize, rule: &Rule) -> bool {
        self.owner == Some(index) || (self.owner.is_none() && rule.scope == Scope::Machine)
    }
}

fn periods(at: Timestamp, zone: &TimeZone) -> [i32; 4] {
    let date = at.to_zoned(zone.clone()).date();
    let week = date.iso_week_date();
    let year = i32::from(date.year());
    [
        year * 512 + i32::from(date.day_of_year()),
        i32::from(week.year()) * 64 + i32::from(week.week()),
        year * 16 + i32::from(date.month()),
        year,
    ]
}

/// Why each of `held` stays, which are newest first.
pub(super) fn reasons(held: &[Held], rules: &[Compiled], floor: Floor, now: Timestamp) -> Vec<Vec<Reason>> {
    let mut kept: Vec<Vec<Reason>> = held.iter().map(|_| Vec::new()).collect();
    let any_damaged = held.iter().any(|point| point.damaged);
    for (index, Compiled { rule, .. }) in rules.iter().enumerate() {
        // A damaged point is decided about as if all were well, a good one as if the damaged were not there.
        for damaged in if any_damaged { &[false, true][..] } else { &[false][..] } {
            let counted = held.iter().enumerate().filter(|(_, it)| (*damaged || !it.damaged) && it.counts(index, rule));
            slots(rule, index, counted, now, |position, reason| {
                if let (Some(point), Some(reasons)) = (held.get(position), kept.get_mut(position))
                    && point.damaged == *damaged
                    && point.answers(index, rule)
                {
                    reasons.push(reason);
                }
            });
        }
    }
    for (point, reasons) in held.iter().zip(&mut kept) {
        let answered = rules.iter().enumerate().any(|(index, it)| point.answers(index, it.rule));
        if point.pinned {
            reasons.push(Reason::Pinned);
        } else if !answered {
            reasons.push(Reason::NoRule);
        }
    }
    apply_floor(held, &mut kept, floor, now);
    for (point, reasons) in held.iter().zip(&mut kept) {
        if let (true, Some(busy)) = (reasons.is_empty(), point.busy) {
            reasons.push(Reason::Busy(busy));
        }
    }
    kept
}

/// Walks over what a rule counts, newest first, and tells which slots it gives to which position.
fn slots<'a>(
    rule: &Rule,
    index: usize,
    counted: impl Iterator<Item = (usize, &'a Held)>,
    now: Timestamp,
    mut found: impl FnMut(usize, Reason),
) {
    let oldest = oldest(now, rule.days);
    let mut calendar = [
        Calendar::new(Part::Daily, rule.daily),
        Calendar::new(Part::Weekly, rule.weekly),
        Calendar::new(Part::Monthly, rule.monthly),
        Calendar::new(Part::Yearly, rule.yearly),
    ];
    for (number, (position, point)) in (1_u32..).zip(counted) {
        let mut kept = false;
        let mut keep = |reason| {
            kept = true;
            found(position, reason);
        };
        if number <= rule.last {
            keep(Reason::Slot { part: Part::Last, number, of: rule.last });
        }
        if rule.days > 0 && point.at >= oldest {
            keep(Reason::Days(rule.days));
        }
        for (calendar, period) in calendar.iter_mut().zip(point.periods.get(index).copied().unwrap_or_default()) {
            if let Some(reason) = calendar.next(period) {
                keep(reason);
            }
        }
        if number == 1 && !kept {
            found(position, Reason::Newest);
        }
    }
}

/// Where a zone sets its clock back over midnight, periods come again; never farther back than these.
const PERIODS_REMEMBERED: usize = 3;

/// The slots of one part.
struct Calendar {
    part: Part,
    of: u32,
    given: u32,
    /// The periods that were seen last.
    recent: [Option<i32>; PERIODS_REMEMBERED],
}

impl Calendar {
    const fn new(part: Part, of: u32) -> Self {
        Self { part, of, given: 0, recent: [None; PERIODS_REMEMBERED] }
    }

    /// A slot for the first point of a period, while there are some.
    fn next(&mut self, period: i32) -> Option<Reason> {
        if self.given >= self.of || self.recent.contains(&Some(period)) {
            return None;
        }
        self.recent.rotate_right(1);
        self.recent[0] = Some(period);
        self.given += 1;
        Some(Reason::Slot { part: self.part, number: self.given, of: self.of })
    }
}

fn apply_floor(held: &[Held], kept: &mut [Vec<Reason>], floor: Floor, now: Timestamp) {
    let oldest = oldest(now, floor.days);
    for (point, reasons) in held.iter().zip(kept.iter_mut()) {
        if floor.days > 0 && reasons.is_empty() && point.at >= oldest {
            reasons.push(Reason::Floor);
        }
    }
    let good = held.iter().zip(kept.iter()).filter(|(point, reasons)| !point.damaged && !reasons.is_empty()).count();
    let missing = (floor.points as usize).saturating_sub(good);
    let going = held.iter().zip(kept).filter(|(point, reasons)| !point.damaged && reasons.is_empty());
    for (_, reasons) in going.take(missing) {
        reasons.push(Reason::Floor);
    }
}

/// The oldest moment that an age of so many days allows.
pub(super) fn oldest(now: Timestamp, days: u32) -> Timestamp {
    now.checked_sub(SignedDuration::from_hours(i64::from(days) * 24)).unwrap_or(Timestamp::MIN)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot { part, number, of } => {
                let part = match part {
                    Part::Last => "newest",
                    Part::Daily => "daily",
                    Part::Weekly => "weekly",
                    Part::Monthly => "monthly",
                    Part::Yearly => "yearly",
                };
                write!(f, "{part} {number} of {of}")
            }
            Self::Days(1) => f.write_str("not older than a day"),
            Self::Days(days) => write!(f, "not older than {days} days"),
            Self::Newest => f.write_str("newest point"),
            Self::Pinned => f.write_str("pinned"),
            Self::Floor => f.write_str("floor of the location"),
            Self::NoRule => f.write_str("no task answers for it"),
            Self::Busy(Busy::Restore) => f.write_str("being restored"),
            Self::Busy(Busy::Verify) => f.write_str("being verified"),
            Self::Busy(Busy::Backup) => f.write_str("a backup builds on it"),
        }
    }
}
