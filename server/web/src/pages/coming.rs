//! Runs to come, over all tasks: when each starts, until when it is expected to go on, and which go on side by side.

use db::TaskId;
use db::views::CalendarTask;
use domain::schedule::Schedule;
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;

/// Runs of one task that are looked at.
const RUNS_OF_A_TASK_MAX: usize = 2_000;
/// Runs that are looked at in all.
const RUNS_MAX: usize = 20_000;
/// Names of others beside a run.
const NAMES_MAX: usize = 3;
/// Runs that began so long before the first day may go on in it.
const LOOK_BACK: SignedDuration = SignedDuration::from_hours(24);

/// A run to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coming {
    /// Its task.
    pub task_id: TaskId,
    /// Its name.
    pub name: String,
    /// Start.
    pub at: Timestamp,
    /// End, if the task has run before.
    pub until: Option<Timestamp>,
    /// It runs after this task, of this name: its start is an estimate.
    pub after: Option<(TaskId, String)>,
    /// Names of some that are expected to go on when it starts.
    pub beside: Vec<String>,
    /// How many there are.
    pub beside_count: usize,
}

/// Runs that start from `from` to before `to`, in order. None is before `now`.
pub fn coming(tasks: &[CalendarTask], now: Timestamp, from: Timestamp, to: Timestamp) -> Vec<Coming> {
    let since = now.max(from.checked_sub(LOOK_BACK).unwrap_or(from));
    let mut runs: HashMap<TaskId, Vec<Coming>> = HashMap::new();
    let mut left = RUNS_MAX;
    for task in tasks.iter().filter(|task| task.schedule.follows().is_none()) {
        let found = by_the_clock(task, since, to, left.min(RUNS_OF_A_TASK_MAX));
        left = left.saturating_sub(found.len());
        runs.insert(task.task_id, found);
    }
    add_followers(tasks, &mut runs, to);
    let mut all: Vec<Coming> = runs.into_values().flatten().collect();
    all.sort_by(|a, b| {
        (a.at, a.after.is_some(), &a.name, a.task_id).cmp(&(b.at, b.after.is_some(), &b.name, b.task_id))
    });
    all.truncate(RUNS_MAX);
    mark_beside(&mut all);
    all.retain(|run| from <= run.at && run.at < to);
    all
}

fn run_of(task: &CalendarTask, at: Timestamp, after: Option<(TaskId, String)>) -> Coming {
    let length = task.expected_seconds.map(|seconds| SignedDuration::from_secs(seconds.max(0)));
    Coming {
        task_id: task.task_id,
        name: task.name.clone(),
        at,
        until: length.and_then(|length| at.checked_add(length).ok()),
        after,
        beside: Vec::new(),
        beside_count: 0,
    }
}

fn by_the_clock(task: &CalendarTask, since: Timestamp, to: Timestamp, max: usize) -> Vec<Coming> {
    let mut runs = Vec::new();
    // What the database holds may be a run that makes up for others, or waits.
    let mut next = match task.next_due_at {
        Some(at) if at >= since => Some(at),
        _ => task.schedule.next_after(since).ok().flatten(),
    };
    while let Some(at) = next.filter(|at| *at < to)
        && runs.len() < max
    {
        runs.push(run_of(task, at, None));
        next = task.schedule.next_after(at).ok().flatten();
    }
    runs
}

/// Tasks that run after others start when those are expected to end; one after the other, as long as there are any.
fn add_followers(tasks: &[CalendarTask], runs: &mut HashMap<TaskId, Vec<Coming>>, to: Timestamp) {
    let names: HashMap<TaskId, &str> = tasks.iter().map(|task| (task.task_id, task.name.as_str())).collect();
    let mut waiting: Vec<(&CalendarTask, TaskId)> =
        tasks.iter().filter_map(|task| Some((task, TaskId(task.schedule.follows()?)))).collect();
    loop {
        let (ready, still): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(_, followed)| runs.contains_key(followed) || !names.contains_key(followed));
        if ready.is_empty() {
            return;
        }
        for (task, followed) in ready {
            let name = names.get(&followed).map(|name| (followed, (*name).to_owned()));
            let ends = runs.get(&followed).map(|runs| runs.iter().map(|run| run.until.unwrap_or(run.at)).collect());
            let ends: Vec<Timestamp> = ends.unwrap_or_default();
            let starts = task.next_due_at.into_iter().chain(ends).filter_map(|end| opens(&task.schedule, end));
            let found = starts.filter(|at| *at < to).take(RUNS_OF_A_TASK_MAX).map(|at| run_of(task, at, name.clone()));
            let mut found: Vec<Coming> = found.collect();
            found.dedup_by_key(|run| run.at);
            runs.insert(task.task_id, found);
        }
        waiting = still;
    }
}

fn opens(schedule: &Schedule, from: Timestamp) -> Option<Timestamp> {
    let (hours, zone) = schedule.hours()?;
    hours.next_open(zone, from).ok().flatten()
}

/// Two that start together stand beside each other; else the later one is marked.
fn mark_beside(runs: &mut [Coming]) {
    let mut going_on: Vec<usize> = Vec::new();
    for index in 0..runs.len() {
        let Some(at) = runs.get(index).map(|run| run.at) else { return };
        going_on.retain(|before| {
            runs.get(*before).is_some_and(|run| run.at == at || run.until.is_some_and(|end| end > at))
        });
        for before in going_on.clone() {
            note_beside(runs, index, before);
            if runs.get(before).is_some_and(|run| run.at == at) {
                note_beside(runs, before, index);
            }
        }
        going_on.push(index);
    }
}

fn note_beside(runs: &mut [Coming], run: usize, other: usize) {
    let Some((name, task, after)) = runs.get(other).map(|other| (other.name.clone(), other.task_id, other.follows()))
    else {
        return;
    };
    // What follows another begins when that is over, however long it takes.
    if let Some(run) = runs.get_mut(run)
        && run.follows() != Some(task)
        && after != Some(run.task_id)
    {
        run.beside_count += 1;
        if run.beside.len() < NAMES_MAX {
            run.beside.push(name);
        }
    }
}

impl Coming {
    fn follows(&self) -> Option<TaskId> {
        self.after.as_ref().map(|after| after.0)
    }

    /// `“Files” and 2 others`, or nothing.
    pub fn beside_words(&self) -> String {
        let more = self.beside_count - self.beside.len();
        let names: Vec<String> = self.beside.iter().map(|name| format!("“{name}”")).collect();
        match (more, names.as_slice()) {
            (_, []) => String::new(),
            (0, [one]) => one.clone(),
            (0, [first @ .., last]) => format!("{} and {last}", first.join(", ")),
            (1, names) => format!("{} and 1 other", names.join(", ")),
            (more, names) => format!("{} and {more} others", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::schedule::{After, Hours};

    fn moment(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn task(id: i64, schedule: Schedule, minutes: Option<i64>) -> CalendarTask {
        let expected_seconds = minutes.map(|minutes| minutes * 60);
        CalendarTask { task_id: TaskId(id), name: format!("task {id}"), schedule, next_due_at: None, expected_seconds }
    }

    fn daily(id: i64, at: &str, minutes: Option<i64>) -> CalendarTask {
        task(id, Schedule::daily(at.parse().unwrap(), "UTC"), minutes)
    }

    fn after(id: i64, followed: i64, minutes: Option<i64>) -> CalendarTask {
        let hours = Hours::default();
        let after = After { task_id: followed, also_after_failure: false, time_zone: "UTC".to_owned(), hours };
        task(id, Schedule::After(after), minutes)
    }

    fn day(tasks: &[CalendarTask], now: &str, date: &str) -> Vec<String> {
        let from = moment(&format!("{date}T00:00:00Z"));
        let runs = coming(tasks, moment(now), from, from + SignedDuration::from_hours(24));
        runs.iter()
            .map(|run| format!("{} {} {}", run.name, run.at.strftime("%H:%M"), run.beside_words()).trim().to_owned())
            .collect()
    }

    #[test]
    fn what_goes_on_when_another_starts_is_marked() {
        let tasks = [
            daily(1, "22:00", Some(90)),
            daily(2, "23:00", Some(120)),
            daily(3, "23:30", None),
            daily(4, "00:30", None),
        ];
        let now = "2026-11-22T08:00:00Z";
        assert_eq!(
            day(&tasks, now, "2026-11-22"),
            ["task 1 22:00", "task 2 23:00 “task 1”", "task 3 23:30 “task 2”"],
            "the one that is over at 23:30 is not"
        );
        assert_eq!(day(&tasks, now, "2026-11-23")[0], "task 4 00:30 “task 2”", "from the evening before");
        assert_eq!(day(&tasks, "2026-11-22T22:30:00Z", "2026-11-22"), ["task 2 23:00", "task 3 23:30 “task 2”"]);
    }

    #[test]
    fn runs_that_start_together_stand_beside_each_other() {
        let tasks: Vec<_> = (1..=6).map(|id| daily(id, "22:00", Some(5))).collect();
        let seen = day(&tasks, "2026-11-22T08:00:00Z", "2026-11-22");
        assert_eq!(seen[0], "task 1 22:00 “task 2”, “task 3”, “task 4” and 2 others");
        assert_eq!(seen[5], "task 6 22:00 “task 1”, “task 2”, “task 3” and 2 others");
    }

    #[test]
    fn what_runs_after_another_is_expected_at_its_end() {
        let unknown = [daily(1, "22:00", None), after(2, 1, None)];
        assert_eq!(
            day(&unknown, "2026-11-22T08:00:00Z", "2026-11-22"),
            ["task 1 22:00", "task 2 22:00"],
            "not beside it"
        );
        let tasks = [after(3, 2, None), after(2, 1, Some(30)), daily(1, "22:00", Some(60)), after(9, 8, None)];
        let seen = day(&tasks, "2026-11-22T08:00:00Z", "2026-11-22");
        assert_eq!(seen, ["task 1 22:00", "task 2 23:00", "task 3 23:30"]);
        let runs = coming(
            &tasks,
            moment("2026-11-22T08:00:00Z"),
            moment("2026-11-22T00:00:00Z"),
            moment("2026-11-23T00:00:00Z"),
        );
        assert_eq!(runs[1].after, Some((TaskId(1), "task 1".to_owned())));
    }

    #[test]
    fn a_due_time_of_its_own_comes_first() {
        let mut waiting = daily(1, "22:00", None);
        waiting.next_due_at = Some(moment("2026-11-22T20:00:00Z"));
        assert_eq!(day(&[waiting], "2026-11-22T08:00:00Z", "2026-11-22"), ["task 1 20:00", "task 1 22:00"]);
    }
}
