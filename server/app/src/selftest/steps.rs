//! The course of the self-test: back up hot and cold, in full and what changed, restore every point, compare, verify, retain.

use super::hosts::{Held, MACHINE};
use super::report::{Figures, Report};
use super::stage::Stage;
use crate::failure::Failure;
use db::{JobId, Method, Point, PointId, RunId, Start, TaskId, TaskInput, VmId};
use domain::job::JobState;
use domain::machine::Quiesce;
use domain::mode::{Mode, Shutdown};
use domain::point::{Consistency, PointKind};
use domain::retention::Retention;
use domain::schedule::Schedule;
use engine::RestoreOrder;
use std::time::Duration;
use tokio::time::Instant;

/// What each run is asked for, and what its point has to be.
const RUNS: [(Method, Mode, PointKind); 5] = [
    (Method::Incremental, Mode::Hot, PointKind::Full),
    (Method::Incremental, Mode::Hot, PointKind::Incremental),
    (Method::Incremental, Mode::Hot, PointKind::Incremental),
    (Method::Differential, Mode::Hot, PointKind::Differential),
    (Method::Incremental, Mode::Cold, PointKind::Incremental),
];
const KEPT_AT_LAST: u32 = 2;
const KEPT_UNTIL_THEN: u32 = 100;
const LOOK_EVERY: Duration = Duration::from_millis(50);
const JOB_SECONDS_MAX: u64 = 1800;

/// Runs it all. An `Err` means that it could not go on; what merely did not hold is a row of the report.
pub async fn run(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let vm = find_machine(stage).await?;
    report.row("inventory of both hosts", Figures::default(), Ok("machine found".to_owned()));
    let task = create_task(stage, vm).await?;
    let mut points = Vec::new();
    for (number, (method, mode, kind)) in (1..).zip(RUNS) {
        let input = TaskInput { method, mode, ..task_input(stage, vm, KEPT_UNTIL_THEN) };
        stage.db.update_task(task, &input).await.map_err(database("The task could not be changed"))?;
        points.push(back_up(stage, report, task, vm, number, (mode, kind)).await?);
    }
    for (number, (point, held)) in (1..).zip(&points) {
        restore_and_compare(stage, report, point, number, held.as_ref()).await?;
    }
    verify(stage, report).await?;
    retain(stage, report, task, vm).await?;
    nothing_left(stage, report).await
}

fn database(what: &'static str) -> impl FnOnce(db::Error) -> Failure {
    move |error| Failure::new(what, &error)
}

async fn find_machine(stage: &Stage) -> Result<VmId, Failure> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let machines = stage.db.machines_of_device(stage.source_device).await.map_err(database("No machines"))?;
        let target = stage.db.datastores(stage.target_device).await.map_err(database("No datastores"))?;
        if let (Some(machine), false) = (machines.iter().find(|machine| machine.name == MACHINE), target.is_empty()) {
            return Ok(machine.vm_id);
        }
        if Instant::now() > deadline {
            return Err(Failure::because("The inventory did not arrive", "a minute has passed"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn task_input(stage: &Stage, vm: VmId, keep: u32) -> TaskInput {
    TaskInput {
        name: "self-test".to_owned(),
        repository_id: stage.repository,
        schedule: Schedule::Manual,
        retention: Retention::KeepLast { count: keep },
        method: Method::Incremental,
        full_every: 0,
        quiesce: Quiesce::Off,
        mode: Mode::Hot,
        shutdown: Shutdown::default(),
        goal_minutes: None,
        machines: vec![vm],
        priority: 0,
        choice: domain::choice::Choice::default(),
        excluded_disks: Vec::new(),
    }
}

async fn create_task(stage: &Stage, vm: VmId) -> Result<TaskId, Failure> {
    stage.db.create_task(&task_input(stage, vm, KEPT_UNTIL_THEN)).await.map_err(database("The task could not be made"))
}

async fn back_up(
    stage: &Stage,
    report: &mut Report,
    task: TaskId,
    vm: VmId,
    number: usize,
    (mode, kind): (Mode, PointKind),
) -> Result<(Point, Option<Held>), Failure> {
    stage.guest.burst(number as u64);
    report.restart_clock();
    let begun = stage.db.start_run(task, "selftest", None).await.map_err(database("The run did not start"))?;
    let Start::Started { run_id, .. } = begun else {
        return Err(Failure::because("The run did not start", format!("{begun:?}")));
    };
    wait_for_run(stage, run_id).await?;
    let newest = stage.db.newest_point(vm, stage.repository).await.map_err(database("No point"))?;
    let point = newest.ok_or_else(|| Failure::because("The run left no point", format!("run {run_id}")))?;
    let figures = Figures { read_bytes: Some(point.bytes_read), stored_bytes: Some(point.bytes_stored) };
    let offline = point.consistency == Consistency::Offline;
    let was = format!("{}, {}", point.kind.as_str(), point.consistency.as_str());
    let expected = point.kind == kind && offline == (mode != Mode::Hot);
    let result = if expected { Ok(was) } else { Err(format!("it is {was}")) };
    report.row(&format!("backup {number}: {}, {}", kind.as_str(), mode.as_str()), figures, result);
    Ok((point, stage.hosts.held()))
}

async fn wait_for_run(stage: &Stage, run: RunId) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(JOB_SECONDS_MAX);
    loop {
        let now = stage.db.run(run).await.map_err(database("The run cannot be read"))?.state;
        match now {
            JobState::Succeeded | JobState::Warning => return Ok(()),
            JobState::Failed | JobState::Cancelled => {
                let jobs = stage.db.jobs_of_run(run).await.map_err(database("The jobs cannot be read"))?;
                let errors: Vec<String> =
                    jobs.iter().filter_map(|job| job.error.as_ref().map(ToString::to_string)).collect();
                return Err(Failure::because(format!("Run {run} {}", now.as_str()), errors.join("; ")));
            }
            JobState::Queued | JobState::Running if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
            JobState::Queued | JobState::Running => {
                return Err(Failure::because(
                    format!("Run {run} did not end"),
                    format!("{JOB_SECONDS_MAX} s have passed"),
                ));
            }
        }
    }
}

async fn wait_for_job(stage: &Stage, job: JobId) -> Result<db::Job, Failure> {
    let deadline = Instant::now() + Duration::from_secs(JOB_SECONDS_MAX);
    loop {
        let now = stage.db.job(job).await.map_err(database("The job cannot be read"))?;
        if now.state.is_final() {
            return Ok(now);
        }
        if Instant::now() > deadline {
            return Err(Failure::because(format!("Job {job} did not end"), format!("{JOB_SECONDS_MAX} s have passed")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn restore_and_compare(
    stage: &Stage,
    report: &mut Report,
    point: &Point,
    number: usize,
    held: Option<&Held>,
) -> Result<(), Failure> {
    report.restart_clock();
    let name = format!("{MACHINE}-point-{number}");
    let order = RestoreOrder {
        point_id: point.point_id.0,
        device_id: stage.target_device.0,
        name: name.clone(),
        datastore: stage.hosts.datastore().to_owned(),
        network: None,
        connect_network: false,
        keep_identity: false,
    };
    let started = stage.engine.start_restore(&order, "selftest").await;
    let run = started.map_err(|error| Failure::new("The restore did not start", &error))?;
    wait_for_run(stage, run).await?;
    let read = point.size_bytes;
    let compared = held.ok_or("the host kept no record of this snapshot".to_owned());
    let result = compared.and_then(|held| stage.hosts.compare(&name, held));
    let result = result.map(|disks| format!("{disks} disks, byte for byte"));
    let figures = Figures { read_bytes: Some(read), stored_bytes: None };
    report.row(&format!("restore of point {number} to the second host"), figures, result);
    Ok(())
}

async fn verify(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    report.restart_clock();
    let queued = stage.engine.verify(stage.repository).await;
    let queued = queued.map_err(|error| Failure::new("The verification did not start", &error))?;
    let job = queued.ok_or_else(|| Failure::because("The verification did not start", "one is queued already"))?;
    let job = wait_for_job(stage, job).await?;
    let result = match (job.state, job.error) {
        (JobState::Succeeded, _) => Ok("every chunk read and checked".to_owned()),
        (ended, error) => Err(error.map_or_else(|| ended.as_str().to_owned(), |error| error.to_string())),
    };
    report.row("verify the repository", Figures { read_bytes: Some(job.bytes_done), stored_bytes: None }, result);
    Ok(())
}

async fn retain(stage: &Stage, report: &mut Report, task: TaskId, machine: VmId) -> Result<(), Failure> {
    let input = task_input(stage, machine, KEPT_AT_LAST);
    stage.db.update_task(task, &input).await.map_err(database("The task could not be changed"))?;
    let expected = (Mode::Hot, PointKind::Incremental);
    let (newest, _) = back_up(stage, report, task, machine, RUNS.len() + 1, expected).await?;
    let queued =
        stage.engine.retain(stage.repository).await.map_err(|error| Failure::new("Retention did not start", &error))?;
    let waiting = stage.db.newest_retain_job(stage.repository).await.map_err(database("The jobs cannot be read"))?;
    // Queued by the backup already, or by us.
    if let Some(job) = queued.or(waiting.map(|job| job.job_id)) {
        wait_for_job(stage, job).await?;
    }
    let points = stage.db.points_of_machine(machine).await.map_err(database("The points cannot be read"))?;
    let ids: Vec<PointId> = points.iter().map(|point| point.point_id).collect();
    let result = if ids.len() == KEPT_AT_LAST as usize && ids.contains(&newest.point_id) {
        Ok(format!("the newest {KEPT_AT_LAST} stay"))
    } else {
        Err(format!("{} points are left", ids.len()))
    };
    report.row("retention", Figures::default(), result);
    Ok(())
}

async fn nothing_left(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let open = stage.db.open_changes(stage.source_device).await.map_err(database("The journal cannot be read"))?.len()
        + stage.db.open_changes(stage.target_device).await.map_err(database("The journal cannot be read"))?.len();
    let left = stage.hosts.left_behind().map_err(|error| Failure::new("The machine is gone", &error))?;
    let result = match left {
        None if open == 0 => Ok("nothing, and no open journal entry".to_owned()),
        left => Err(format!("{}; {open} open journal entries", left.unwrap_or_default())),
    };
    report.row("left behind on the hosts", Figures::default(), result);
    Ok(())
}
