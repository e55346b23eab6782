//! What the console's pages show: one or two queries a page, shaped for reading.
//!
//! Owns: SQL that joins for display. Must never: change a row, or return a sealed value.
//! Read next: the module of the page.

mod activity;
mod calendar;
mod devices;
mod home;
mod left_behind;
mod machines;
mod metrics;
mod points;
mod search;
mod storage;
mod tasks;
mod workers;

pub use activity::{
    DiskProgress, JobView, LogLine, RunFilter, RunHead, RunLine, jobs_of, log_of, run_head, runs, runs_of_machine,
};
pub use calendar::{CalendarTask, calendar_tasks};
pub use devices::{DatastoreLine, DeviceLine, DeviceMachine, DevicePage, NetworkLine, device_page, devices};
pub use home::{
    ActiveRun, Day, HomeCounts, NextRun, Trouble, TroubleKind, active_runs, days, home_counts, next_runs, troubles,
};
pub use left_behind::{ForeignLine, LeftBehind, LeftLine, foreign_lines, left_behind, left_lines};
pub use machines::{
    MachineDisk, MachineFilter, MachineLine, MachinePage, Protection, ProtectionCounts, machine_disks, machine_page,
    machines, protection_counts,
};
pub use metrics::{Metrics, RepositorySpace, TaskSuccess, metrics};
pub use points::{
    DayOfPoints, PointLine, PointPage, RestorableMachine, point_page, points_by_day, points_of, restorable_machines,
};
pub use search::{Found, search};
pub use storage::{RepositoryLine, repositories, repository_line};
pub use tasks::{ChoiceDisk, TaskLine, TaskMachine, choice_disks, task_line, task_machines, task_of_machines, tasks};
pub use workers::{StrandedJob, WorkerLine, stranded_jobs, worker_line, workers};

use crate::{Database, Result};

/// Lines on one page of a list.
pub const PAGE_LINES: i64 = 25;
/// Pages beyond this are not counted for; a filter is the way to go there.
pub const PAGE_MAX: i64 = 100_000;

/// One page of a longer list.
#[derive(Debug, Clone, Default)]
pub struct Slice<T> {
    /// Its lines.
    pub lines: Vec<T>,
    /// Lines in all.
    pub total: i64,
}

/// Figures beside the navigation.
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
pub struct ShellCounts {
    /// Devices.
    pub devices: i64,
    /// Machines that are there.
    pub machines: i64,
    /// Tasks.
    pub tasks: i64,
    /// Repositories.
    pub repositories: i64,
    /// Runs that are going on.
    pub running: i64,
}

/// Figures beside the navigation.
pub async fn shell_counts(db: &Database) -> Result<ShellCounts> {
    let counts = sqlx::query_as(
        "select (select count(*) from device) as devices,
                (select count(*) from virtual_machine where missing_since is null) as machines,
                (select count(*) from backup_task where deleted_at is null) as tasks,
                (select count(*) from repository) as repositories,
                (select count(*) from run where state in ('queued', 'running')) as running",
    )
    .fetch_one(&db.pool)
    .await?;
    Ok(counts)
}

/// `like` pattern that finds the words anywhere, with the pattern's own signs taken literally.
fn contains(words: &str) -> String {
    let mut pattern = String::with_capacity(words.len() + 2);
    pattern.push('%');
    for character in words.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

/// First line of a page, counted from 0; pages count from 1.
fn offset(page: i64) -> i64 {
    (page.clamp(1, PAGE_MAX) - 1) * PAGE_LINES
}
