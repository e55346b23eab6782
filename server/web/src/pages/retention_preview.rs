//! What a rule would do, before it is saved: which points go at once, and how many there will be.
//!
//! Decides by the same rows and the same function as the job that removes points.

use super::task_answers::Answers;
use crate::failure::Result;
use crate::format;
use crate::shell::Times;
use crate::state::App;
use db::{MachinePoints, RepositoryId, RetentionDraft};
use domain::retention::Floor;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// Machines that are looked at.
const MACHINES_MAX: usize = 500;
/// Machines that are named, and points of each.
const NAMED_MACHINES_MAX: usize = 20;
const NAMED_POINTS_MAX: usize = 12;
/// When the number of points is told: days from now, in words.
const SAMPLES: [(i64, &str); 5] =
    [(7, "in a week"), (30, "in a month"), (91, "in three months"), (182, "in half a year"), (365, "in a year")];

/// What the wizard shows.
#[derive(Default)]
pub struct Preview {
    /// Machines that lose points, at most [`NAMED_MACHINES_MAX`].
    pub losing: Vec<Losing>,
    /// Further machines that do.
    pub losing_more: usize,
    /// Points that go, in all.
    pub going: usize,
    /// Points that are there.
    pub there: usize,
    /// There are more machines than were looked at.
    pub more: bool,
    /// When, and how many points a machine there will be; only where the task runs by itself.
    pub growth: Vec<(&'static str, u32)>,
}

/// A machine and what goes of it.
pub struct Losing {
    /// Its name.
    pub name: String,
    /// How many.
    pub count: usize,
    /// How many are there.
    pub of: usize,
    /// Moments of the oldest that go.
    pub oldest: Vec<Timestamp>,
}

impl Preview {
    /// Of the answers so far; `None` while they make no rule or no place for it.
    pub async fn of(app: &App, answers: &Answers) -> Result<Option<Self>> {
        let (Some(repository_id), Some(schedule)) = (answers.repository, answers.schedule()) else { return Ok(None) };
        let by_rule = app.db().machines_by_rule(&answers.rules.choice()).await?;
        let machines = answers.machines.iter().copied().chain(by_rule).collect::<BTreeSet<_>>().into_iter().collect();
        let draft = RetentionDraft {
            task_id: answers.task_id,
            repository_id,
            retention: answers.retention(),
            schedule,
            machines,
        };
        let (machines, more) = app.db().retention_with(&draft, MACHINES_MAX).await?;
        let now = app.now();
        let mut preview =
            Self { more, growth: growth(&draft, floor(app, repository_id).await?, now), ..Self::default() };
        for machine in &machines {
            preview.take(machine, now);
        }
        Ok(Some(preview))
    }

    fn take(&mut self, machine: &MachinePoints, now: Timestamp) {
        self.there += machine.points.len();
        let verdicts = machine.decide(now);
        let going: Vec<_> = verdicts.iter().rev().filter(|verdict| verdict.goes()).collect();
        if going.is_empty() {
            return;
        }
        self.going += going.len();
        if self.losing.len() >= NAMED_MACHINES_MAX {
            self.losing_more += 1;
            return;
        }
        let taken_at = |id| machine.points.iter().find(|point| point.id == id).map(|point| point.taken_at);
        self.losing.push(Losing {
            name: machine.machine_name.clone(),
            count: going.len(),
            of: machine.points.len(),
            oldest: going.iter().take(NAMED_POINTS_MAX).filter_map(|verdict| taken_at(verdict.id)).collect(),
        });
    }

    /// `3 restore points of web-1 go`, `12 restore points of 4 machines go`.
    pub fn headline(&self) -> String {
        let points = format::count(self.going, "restore point", "restore points");
        let machines = self.losing.len() + self.losing_more;
        match self.losing.as_slice() {
            [one] if self.losing_more == 0 => format!("{points} of {}", one.name),
            _ => format!("{points} of {}", format::count(machines, "machine", "machines")),
        }
    }
}

impl Losing {
    /// Moments of what goes, oldest first.
    pub fn moments(&self, times: &Times) -> String {
        let named: Vec<String> = self.oldest.iter().map(|at| times.moment_text(*at)).collect();
        let rest = self.count - named.len().min(self.count);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("{}{more}", named.join(" · "))
    }
}

async fn floor(app: &App, repository_id: RepositoryId) -> Result<Floor> {
    let row = app.db().repository(repository_id).await?;
    Ok(Floor { points: row.floor_points, days: row.floor_days })
}

/// How many points a machine that has none yet will have, if every run makes one.
fn growth(draft: &RetentionDraft, floor: Floor, now: Timestamp) -> Vec<(&'static str, u32)> {
    let at = |days: i64| now.checked_add(SignedDuration::from_hours(days * 24)).ok();
    let samples: Vec<(&str, Timestamp)> =
        SAMPLES.iter().filter_map(|(days, words)| at(*days).map(|at| (*words, at))).collect();
    let moments: Vec<Timestamp> = samples.iter().map(|(_, at)| *at).collect();
    let Some(last) = moments.last() else { return Vec::new() };
    let Some(machine) = MachinePoints::of_new(draft, floor) else { return Vec::new() };
    let forecast = machine.forecast(now, last.duration_since(now), &moments);
    let counted: Vec<(&str, u32)> =
        samples.iter().zip(forecast.counts).filter_map(|((words, _), count)| Some((*words, count?))).collect();
    if counted.iter().all(|(_, count)| *count == 0) { Vec::new() } else { counted }
}
