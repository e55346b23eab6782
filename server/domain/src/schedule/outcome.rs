//! Why a run did not happen, or was ended by its schedule: for people and, by code, for programs.

use crate::job::JobError;

const SCHEDULE_HINT: &str = "Run it now if it should not wait, or change its schedule.";

/// Due times were missed and are left out by the task's own rule. `downtime` says in words how many and since when.
pub fn missed(task: &str, downtime: &str) -> JobError {
    JobError::cancelled_by(
        "schedule.missed",
        format!("“{task}” did not run."),
        format!("{downtime}; the task says that missed runs are left out."),
        SCHEDULE_HINT,
    )
}

/// The run before goes on still.
pub fn still_running(task: &str, run: impl std::fmt::Display) -> JobError {
    JobError::cancelled_by(
        "schedule.still_running",
        format!("“{task}” did not run."),
        format!("It was due, but its run {run} was still going on."),
        "Give the task more time between its runs, or look at why that run takes so long.",
    )
}

/// The task has no machines.
pub fn no_machines(task: &str) -> JobError {
    JobError::cancelled_by(
        "schedule.no_machines",
        format!("“{task}” did not run."),
        "It has no machines any more.",
        "Change the task and pick some, or remove it.",
    )
}

/// The task it follows did not end well.
pub fn after_failure(task: &str, followed: &str, run: impl std::fmt::Display) -> JobError {
    JobError::cancelled_by(
        "schedule.after_failure",
        format!("“{task}” did not run."),
        format!("It runs after “{followed}”, whose run {run} did not end well."),
        "Mend what made that run fail. To run in any case, choose “also after a failure” in the task’s schedule.",
    )
}

/// The hours in which a run may go on have ended.
pub fn window_ended(machine: &str) -> JobError {
    JobError::cancelled_by(
        "schedule.window_ended",
        format!("The backup of {machine} was stopped."),
        "The hours in which its task may run had ended, and the task stops what still runs then.",
        "Give the task longer hours, or fewer machines. What was copied already is not copied again.",
    )
}
