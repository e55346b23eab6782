//! Retention: which points of which machines its rules decide about, what it decides, and its work row by row.
//!
//! The preview and the job load the same and decide by the same; the job does both and the marking in one transaction.
//! Must never: mark a point that is pinned or in use. Read next: `load.rs`, `work.rs`.

mod load;
mod pins;
mod work;

pub use pins::PIN_NOTE_MAX_CHARS;
pub use work::{Expiring, Marked};

use crate::ids::{PointId, RepositoryId, TaskId, VmId};
use domain::retention::{
    Ahead, Candidate, EVENTS_MAX, Fate, Floor, Forecast, Reason, Retention, Rule, Run, Scope, Verdict, decide, forecast,
};
use domain::schedule::Schedule;
use jiff::{SignedDuration, Timestamp};

/// A task whose rule has a say about a machine's points in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRule {
    /// The task; `None` for one that is not saved yet.
    pub task_id: Option<TaskId>,
    /// Its name.
    pub name: String,
    /// Its rule.
    pub rule: Rule,
    /// When it makes further points of this machine; `None` if it does not.
    pub schedule: Option<Schedule>,
}

/// A machine's points in a repository, and all that decides about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachinePoints {
    /// Where.
    pub repository_id: RepositoryId,
    /// Which machine.
    pub vm_id: VmId,
    /// Its name in its newest point.
    pub machine_name: String,
    /// Whose rules.
    pub rules: Vec<TaskRule>,
    /// What no rule undercuts.
    pub floor: Floor,
    /// The points; their owners are indexes into `rules`.
    pub points: Vec<Candidate<PointId>>,
}

/// A task as it is about to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The task that is changed; `None` for a new one.
    pub task_id: Option<TaskId>,
    /// Where it will write.
    pub repository_id: RepositoryId,
    /// Its rule.
    pub retention: Retention,
    /// Its schedule.
    pub schedule: Schedule,
    /// Its machines.
    pub machines: Vec<VmId>,
}

/// Why a point stays and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Which.
    pub point_id: PointId,
    /// Why it stays; none: it goes with the next look.
    pub reasons: Vec<Reason>,
    /// When it goes, if tasks run on by their schedules.
    pub fate: Fate,
    /// As far as this was looked ahead.
    pub until: Timestamp,
    /// Some task goes on making points of this machine by itself.
    pub goes_on: bool,
}

impl MachinePoints {
    /// A machine that has no points yet, of a task that is about to be made or changed.
    pub fn of_new(draft: &Draft, floor: Floor) -> Option<Self> {
        let vm_id = *draft.machines.first()?;
        let (repository_id, machine_name) = (draft.repository_id, String::new());
        let empty = Self { repository_id, vm_id, machine_name, rules: Vec::new(), floor, points: Vec::new() };
        Some(empty.with(draft))
    }

    /// What is decided about the points at `now`, newest first.
    pub fn decide(&self, now: Timestamp) -> Vec<Verdict<PointId>> {
        let rules: Vec<Rule> = self.rules.iter().map(|task| task.rule.clone()).collect();
        decide(&self.points, &rules, self.floor, now)
    }

    /// What becomes of the points within `span`, and how many there will be at each of `samples`.
    pub fn forecast(&self, now: Timestamp, span: SignedDuration, samples: &[Timestamp]) -> Forecast<PointId> {
        let until = now.checked_add(span).unwrap_or(Timestamp::MAX);
        let going_on = self.rules.iter().filter(|task| task.schedule.is_some()).count().max(1);
        let mut runs = Vec::new();
        for (rule, task) in self.rules.iter().enumerate() {
            let Some(schedule) = &task.schedule else { continue };
            let coming = coming(schedule, now, until, EVENTS_MAX / going_on);
            runs.extend(coming.into_iter().map(|at| Run { at, rule }));
        }
        let rules: Vec<Rule> = self.rules.iter().map(|task| task.rule.clone()).collect();
        forecast(&self.points, &rules, self.floor, Ahead { now, runs: &runs, samples })
    }

    /// Reasons and fates of the points, newest first.
    pub fn outlook(&self, now: Timestamp, span: SignedDuration) -> Vec<Outlook> {
        let forecast = self.forecast(now, span, &[]);
        let goes_on = self.rules.iter().any(|task| matches!(&task.schedule, Some(it) if *it != Schedule::Manual));
        let fate_of =
            |point: &PointId| forecast.fates.iter().find(|(id, _)| id == point).map_or(Fate::Stays, |(_, fate)| *fate);
        let verdicts = self.decide(now);
        verdicts
            .into_iter()
            .map(|Verdict { id, reasons }| Outlook {
                point_id: id,
                fate: fate_of(&id),
                reasons,
                until: forecast.until,
                goes_on,
            })
            .collect()
    }

    /// The same with a task as it is about to be saved.
    #[must_use]
    pub fn with(mut self, draft: &Draft) -> Self {
        let goes_on = draft.repository_id == self.repository_id && draft.machines.contains(&self.vm_id);
        let new = TaskRule {
            task_id: draft.task_id,
            name: String::new(),
            rule: draft.retention.rule(),
            schedule: goes_on.then(|| draft.schedule.clone()),
        };
        let old = self.rules.iter_mut().find(|it| it.task_id.is_some() && it.task_id == draft.task_id);
        match old {
            Some(old) => *old = TaskRule { name: old.name.clone(), ..new },
            None if goes_on => self.rules.push(new),
            None => {}
        }
        self
    }

    /// Why a point goes: the rules that answer for it, in words.
    fn why(&self, point: &Candidate<PointId>) -> String {
        let answers = |index: usize, task: &TaskRule| {
            point.owner == Some(index) || (point.owner.is_none() && task.rule.scope == Scope::Machine)
        };
        let rules: Vec<String> = self
            .rules
            .iter()
            .enumerate()
            .filter(|(index, task)| answers(*index, task))
            .map(|(_, task)| format!("“{}” ({})", task.name, task.rule.words()))
            .collect();
        format!("no longer kept by {}", rules.join(" and "))
    }
}

/// Due times after `now`, at most so many.
fn coming(schedule: &Schedule, now: Timestamp, until: Timestamp, count_max: usize) -> Vec<Timestamp> {
    let mut due = Vec::new();
    let mut after = now;
    while due.len() < count_max
        && let Ok(Some(next)) = schedule.next_after(after)
        && next <= until
        && next > after
    {
        due.push(next);
        after = next;
    }
    due
}
