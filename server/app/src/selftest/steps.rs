//! The course of the self-test: back up three times and more, restore every point, compare, verify, retain.

use super::compare::first_difference;
use super::report::{Figures, Report};
use super::stage::{MACHINE, Stage};
use crate::failure::Failure;
use db::{JobId, Method, Point, PointId, RunId, Start, TaskId, TaskInput, VmId};
use domain::job::JobState;
use domain::machine::Quiesce;
use domain::mode::{Mode, Shutdown};
use domain::point::PointKind;
use domain::retention::Retention;
use domain::schedule::Schedule;
use engine::RestoreOrder;
use simulators::esxi::SnapshotRecord;
use std::time::Duration;
use tokio::time::Instant;

/// A full, and two that must read only what changed.
const RUNS: usize = 3;
const KEPT_AT_LAST: u32 = 2;
const LOOK_EVERY: Duration = Duration::from_millis(50);
const JOB_SECONDS_MAX: u64 = 1800;

/// Runs it all. An `Err` means that it could not go on; what merely did not hold is a row of the report.
pub async fn run(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let vm = find_machine(stage).await?;
    report.row("inventory of both hosts", Figures::default(), Ok("machine found".to_owned()));
    let task = create_task(stage, vm, 100).await?;
    let mut points = Vec::new();
    for number in 1..=RUNS {
        points.push(back_up(stage, report, task, vm, number).await?);
    }
    let incrementals = points.iter().rev().take(2).filter(|(point, _)| point.kind == PointKind::Incremental).count();
    let expected = if incrementals == 2 {
        Ok("the last two read only what changed".to_owned())
    } else {
        Err(format!("of the last two runs {incrementals} were incremental"))
    };
    report.row("change tracking", Figures::default(), expected);
    for (index, (point, record)) in points.iter().enumerate() {
        restore_and_compare(stage, report, point, index + 1, record.as_ref()).await?;
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
        machines: vec![vm],
    }
}

async fn create_task(stage: &Stage, vm: VmId, keep: u32) -> Result<TaskId, Failure> {
    stage.db.create_task(&task_input(stage, vm, keep)).await.map_err(database("The task could not be made"))
}

async fn back_up(
    stage: &Stage,
    report: &mut Report,
    task: TaskId,
    vm: VmId,
    number: usize,
) -> Result<(Point, Option<SnapshotRecord>), Failure> {
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
    report.row(
        &format!("backup {number}: {}", point.kind.as_str()),
        figures,
        Ok(point.consistency.as_str().to_owned()),
    );
    // The run's own snapshot is the last one: a first one may only have made change tracking take effect.
    let record = stage.source.snapshot_records().into_iter().rfind(|record| record.machine == MACHINE);
    Ok((point, record))
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
    record: Option<&SnapshotRecord>,
) -> Result<(), Failure> {
    report.restart_clock();
    let name = format!("{MACHINE}-point-{number}");
    let order = RestoreOrder {
        point_id: point.point_id.0,
        device_id: stage.target_device.0,
        name: name.clone(),
        datastore: "datastore1".to_owned(),
        network: None,
        connect_network: false,
        keep_identity: false,
    };
    let started = stage.engine.start_restore(&order, "selftest").await;
    let run = started.map_err(|error| Failure::new("The restore did not start", &error))?;
    wait_for_run(stage, run).await?;
    let read = point.size_bytes;
    let result = compare_disks(stage, &name, record);
    let figures = Figures { read_bytes: Some(read), stored_bytes: None };
    report.row(&format!("restore of point {number} to the second host"), figures, result);
    Ok(())
}

fn compare_disks(stage: &Stage, name: &str, record: Option<&SnapshotRecord>) -> Result<String, String> {
    let record = record.ok_or("the host kept no record of this snapshot")?;
    let machine = stage.target.machine(name).map_err(|error| error.to_string())?;
    if machine.disks.len() != record.disks.len() {
        return Err(format!("{} disks restored of {}", machine.disks.len(), record.disks.len()));
    }
    // Keys may differ on the new host; the order does not.
    for (restored, held) in machine.disks.iter().zip(&record.disks) {
        let difference = first_difference(&restored.base_file, &held.file)
            .map_err(|error| format!("disk {} cannot be compared: {error}", held.key))?;
        if let Some(offset) = difference {
            return Err(format!("disk {} differs at byte {offset}", held.key));
        }
    }
    Ok(format!("{} disks, byte for byte", record.disks.len()))
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
    let (newest, _) = back_up(stage, report, task, machine, RUNS + 1).await?;
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
    let machine = stage.source.machine(MACHINE).map_err(|error| Failure::new("The machine is gone", &error))?;
    let open = stage.db.open_changes(stage.source_device).await.map_err(database("The journal cannot be read"))?.len()
        + stage.db.open_changes(stage.target_device).await.map_err(database("The journal cannot be read"))?.len();
    let result = if machine.snapshots.is_empty() && !machine.consolidation_needed && open == 0 {
        Ok("no snapshot, no open journal entry".to_owned())
    } else {
        Err(format!("{} snapshots, {open} open journal entries", machine.snapshots.len()))
    };
    report.row("left behind on the hosts", Figures::default(), result);
    Ok(())
}
