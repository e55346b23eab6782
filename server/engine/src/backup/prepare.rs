//! Everything a backup needs to know before it changes anything: task, machine, host, repository, what to build on.
//!
//! Owns: finding the machine again after it was renamed or moved, and refusing what cannot work.
//! Must never: change anything on the host, except what a dead job of this machine left there.

use super::plan::{Base, Wish};
use crate::context::JobContext;
use crate::reconcile::undo::{self, Undone};
use crate::throttle::Throttle;
use crate::{errors, words};
use db::{
    Change, ChangeKind, Device, DeviceId, Machine, Method, NewChange, Platform, Point, RepositoryId, Task, TaskId, VmId,
};
use domain::finding::Severity;
use domain::job::{Disposition, JobError};
use domain::machine::{PowerState, Quiesce};
use domain::mode::{Mode, Shutdown};
use domain::point::PointKind;
use hypervisor::{ErrorKind, Hypervisor, MachineInfo, MachineRef};
use repository::{PointId, Repository};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What is backed up, from where to where.
pub struct Source {
    /// `web-01 on esx-1 was not backed up.`: the beginning of every error.
    pub what: String,
    /// Name of the machine now.
    pub name: String,
    pub vm_id: VmId,
    pub device_id: DeviceId,
    pub device_name: String,
    pub simulated: bool,
    pub task_id: TaskId,
    pub task_name: String,
    quiesce: Quiesce,
    /// Whether the machine runs meanwhile.
    pub mode: Mode,
    pub shutdown: Shutdown,
    /// Device keys of disks that the task leaves out.
    pub excluded_disks: Vec<i32>,
    /// The method reads only what changed: a host that cannot track changes is worth a warning.
    pub wants_increments: bool,
    pub host: Arc<dyn Hypervisor>,
    /// What the bytes of the device wait for.
    pub throttle: Arc<Throttle>,
    pub machine: MachineInfo,
    /// `<device id>/<instance uuid>`: the manifest's machine id.
    pub machine_key: String,
    pub repository_id: RepositoryId,
    pub repository: Repository,
    /// The machine's newest whole point, whatever is read.
    pub predecessor: Option<PointId>,
    pub wish: Wish,
}

impl Source {
    /// The platform's own word for a snapshot.
    pub fn snapshot_word(&self) -> &'static str {
        Platform::of(&self.machine.config).snapshot()
    }

    /// What is asked of the guest. A machine that a cold task finds suspended is not shut down and cannot be asked; that its
    /// disks are as after a power failure is said on the point.
    pub fn quiesce(&self) -> Quiesce {
        let is_mute = self.mode.shuts_down() && self.machine.power == PowerState::Suspended;
        if is_mute { Quiesce::Off } else { self.quiesce }
    }

    /// A change of this machine, for the journal.
    pub fn change(&self, kind: ChangeKind, token: String, settles_after: Option<Duration>) -> NewChange {
        NewChange {
            device_id: self.device_id,
            vm_id: Some(self.vm_id),
            kind,
            token,
            machine_ref: Some(self.machine.reference.0.clone()),
            settles_after,
        }
    }
}

/// Reads and checks all of it.
pub async fn prepare(ctx: &JobContext) -> Result<Source, JobError> {
    ctx.phase("Preparing").await;
    let (task, row, device) = rows(ctx).await?;
    let what = format!("{} on {} was not backed up.", row.name, device.name);
    let repository_row = ctx.essential(ctx.core.db.repository(task.repository_id).await)?;
    let repository = ctx.core.repository(&what, &repository_row).await?;
    let host = ctx.core.host(&what, &device).await?;
    let throttle = ctx.core.throttle(&what, device.device_id).await?;
    undo_own(ctx, &what, host.as_ref(), &row).await?;
    let machine = find(ctx, &what, host.as_ref(), &row).await?;
    refuse_blockers(&what, &machine)?;
    refuse_foreign_snapshot(&what, host.as_ref(), &machine.reference).await?;
    refuse_suspended(&what, &task, &machine)?;
    if machine.config.name != row.name {
        ctx.info(&format!("The machine is called “{}” now, before “{}”.", machine.config.name, row.name)).await;
    }
    let excluded_disks = excluded_disks(&task, row.vm_id);
    refuse_nothing_left(&what, &task, &machine, &excluded_disks)?;
    let history = history(ctx, &what, &row, &repository, &task).await?;
    let wish = wish(&task, &history);
    if wish == Wish::NoFullKept {
        ctx.info("Retention has removed the last full, so a new one is read.").await;
    }
    Ok(Source {
        shutdown: task.shutdown(),
        what,
        name: machine.config.name.clone(),
        vm_id: row.vm_id,
        device_id: device.device_id,
        device_name: device.name,
        simulated: device.simulated,
        task_id: task.task_id,
        task_name: task.name,
        quiesce: task.quiesce,
        mode: task.mode,
        excluded_disks,
        wants_increments: task.method != Method::Full,
        host,
        throttle,
        machine_key: format!("{}/{}", device.device_id, row.instance_uuid),
        machine,
        repository_id: task.repository_id,
        repository,
        predecessor: history.newest.as_ref().map(|base| base.point_id),
        wish,
    })
}

pub async fn rows(ctx: &JobContext) -> Result<(Task, Machine, Device), JobError> {
    let (Some(vm_id), Some(run_id)) = (ctx.job.vm_id, ctx.job.run_id) else { return Err(ctx.malformed()) };
    let db = &ctx.core.db;
    let run = ctx.essential(db.run(run_id).await)?;
    let task = ctx.essential(db.task(run.task_id.ok_or_else(|| ctx.malformed())?).await)?;
    let machine = ctx.essential(db.machine(vm_id).await)?;
    let device = ctx.essential(db.device(machine.device_id).await)?;
    Ok((task, machine, device))
}

/// What a dead job of this machine left goes first: a second snapshot beside it could not be consolidated safely.
pub async fn undo_own(ctx: &JobContext, what: &str, host: &dyn Hypervisor, row: &Machine) -> Result<(), JobError> {
    let open = ctx.core.db.open_changes(row.device_id).await.map_err(|error| errors::database(what, &error))?;
    let own = open.iter().filter(|change| change.vm_id == Some(row.vm_id) && !change.owner_alive);
    let mut failed = None;
    // All of it, whatever fails: a snapshot that cannot go is no reason to leave a machine off.
    for change in undo::in_order(own) {
        match undo_when_it_appears(ctx, what, host, change).await {
            Ok(()) => {}
            // They stand in nobody's way, and the reconciler may be at them just now.
            Err(error) if change.kind == ChangeKind::Marks => {
                ctx.info(&format!("{} {} They are tried again later.", error.what, error.why)).await;
            }
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// A host goes on with a task whose caller has died: its end is awaited for a while, then left to the reconciler.
async fn undo_when_it_appears(
    ctx: &JobContext,
    what: &str,
    host: &dyn Hypervisor,
    change: &Change,
) -> Result<(), JobError> {
    let deadline = Instant::now() + ctx.config().appear_wait;
    loop {
        let undone = undo::undo(&ctx.core, host, change).await;
        let again = match &undone {
            // A guest that may shut down late is watched by the reconciler.
            Ok(Undone::MayAppear) => change.kind != ChangeKind::Power,
            Ok(_) => false,
            // The host may be switching the machine on just now, by a task that its caller did not live to see.
            Err(error) => change.kind == ChangeKind::Power && error.disposition == Disposition::Retry,
        };
        if !again || Instant::now() >= deadline {
            if undone? == Undone::Removed {
                ctx.info(undone_text(change.kind)).await;
            }
            return Ok(());
        }
        ctx.phase("Waiting for what a broken-off attempt began").await;
        ctx.check(what)?;
        tokio::time::sleep(ctx.config().appear_look_every).await;
    }
}

const fn undone_text(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Snapshot => "Removed the snapshot that an earlier, broken-off attempt left on the host.",
        ChangeKind::Power => "Switched the machine on, which an earlier, broken-off attempt had shut down.",
        ChangeKind::Marks => "Let go of the change marks of an earlier, broken-off attempt.",
        ChangeKind::Import | ChangeKind::Foreign => "Removed what an earlier, broken-off attempt left on the host.",
    }
}

/// The machine by its reference; when that is gone or means another machine now, by its own unique id.
async fn find(ctx: &JobContext, what: &str, host: &dyn Hypervisor, row: &Machine) -> Result<MachineInfo, JobError> {
    let same = |machine: &MachineInfo| machine.config.instance_uuid.as_deref() == Some(row.instance_uuid.as_str());
    match host.machine(&MachineRef(row.reference.clone())).await {
        Ok(machine) if same(&machine) => return Ok(machine),
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => return Err(errors::host(what, &error)),
    }
    ctx.check(what)?;
    let inventory = host.inventory().await.map_err(|error| errors::host(what, &error))?;
    match inventory.machines.into_iter().find(same) {
        Some(found) => {
            ctx.info(&format!("The host lists the machine as {} now.", found.reference.0)).await;
            Ok(found)
        }
        None => Err(JobError::fail(
            "vm.gone",
            what,
            format!("The machine is no longer on the host (unique id {}).", row.instance_uuid),
            "Take it out of the task, or register it on the host again. Its restore points stay as the task’s rule says.",
        )),
    }
}

fn refuse_blockers(what: &str, machine: &MachineInfo) -> Result<(), JobError> {
    match machine.findings.iter().find(|finding| finding.severity == Severity::Blocker) {
        Some(finding) => {
            Err(JobError::fail(&format!("vm.{}", finding.code), what, finding.message.as_str(), finding.hint.as_str()))
        }
        None => Ok(()),
    }
}

/// Before a snapshot that would have to go again.
fn refuse_suspended(what: &str, task: &Task, machine: &MachineInfo) -> Result<(), JobError> {
    let refused = task.mode == Mode::Hot && task.quiesce == Quiesce::Require && machine.power == PowerState::Suspended;
    if !refused {
        return Ok(());
    }
    Err(errors::not_quiesced(
        what,
        "The machine is suspended, so its guest cannot be quiesced, which the task requires.",
    ))
}

fn excluded_disks(task: &Task, vm_id: VmId) -> Vec<i32> {
    task.excluded_disks.iter().filter(|disk| disk.vm_id == vm_id.0).map(|disk| disk.disk_key).collect()
}

fn refuse_nothing_left(what: &str, task: &Task, machine: &MachineInfo, excluded: &[i32]) -> Result<(), JobError> {
    let disks = &machine.config.disks;
    if disks.is_empty() || disks.iter().any(|disk| !excluded.contains(&disk.key)) {
        return Ok(());
    }
    Err(JobError::fail(
        "vm.all_disks_excluded",
        what,
        format!("The task “{}” leaves out all of its disks.", task.name),
        "Let the task back up one of them at least, or take the machine out of it.",
    ))
}

/// A snapshot with our prefix that our journal could not explain away belongs to another installation, perhaps at work.
async fn refuse_foreign_snapshot(what: &str, host: &dyn Hypervisor, machine: &MachineRef) -> Result<(), JobError> {
    let own = host.list_own_snapshots(machine).await.map_err(|error| errors::host(what, &error))?;
    match own.first() {
        Some(snapshot) => Err(JobError::retry(
            "vm.foreign_snapshot",
            what,
            format!("The machine has the snapshot {} of another Stillframe server.", snapshot.name),
            "Let one server back up the machine. If that server is gone, remove the snapshot: once it is a day old, the page “Left behind” lists it.",
        )),
        None => Ok(()),
    }
}

/// The machine's points in this repository, as far as a decision needs them.
struct History {
    /// The newest one.
    newest: Option<Base>,
    /// What the method builds on: the newest, or for a differential the newest full.
    base: Option<Base>,
    /// Why its row cannot be built on.
    lost: Option<String>,
    /// Points since the last full.
    since_full: u32,
}

async fn history(
    ctx: &JobContext,
    what: &str,
    row: &Machine,
    repository: &Repository,
    task: &Task,
) -> Result<History, JobError> {
    let (db, id) = (&ctx.core.db, task.repository_id);
    let database = |error| errors::database(what, &error);
    let since_full = db.points_since_full(row.vm_id, id).await.map_err(database)?;
    let newest = db.newest_point(row.vm_id, id).await.map_err(database)?;
    let (newest, mut lost) = readable(what, repository, newest, "the point before").await?;
    let mut base = newest.clone();
    if task.method == Method::Differential {
        let full = db.newest_full(row.vm_id, id).await.map_err(database)?;
        (base, lost) = readable(what, repository, full, "the last full").await?;
    }
    Ok(History { newest, base, lost, since_full })
}

/// The point of a row, or why it cannot be built on.
async fn readable(
    what: &str,
    repository: &Repository,
    row: Option<Point>,
    name: &str,
) -> Result<(Option<Base>, Option<String>), JobError> {
    let Some(row) = row else { return Ok((None, None)) };
    let id = PointId(row.point_id.0);
    match repository.point(id).await {
        Ok(_) => Ok((Some(Base { point_id: id, taken_at: row.taken_at, marks: row.marks }), None)),
        Err(error) if error.is_damage() || matches!(error, repository::Error::NoSuchPoint(_)) => {
            let (taken, cause) = (words::moment(row.taken_at), errors::chain(&error));
            Ok((None, Some(format!("{name}, of {taken}, cannot be read ({cause})"))))
        }
        Err(error) => Err(errors::repository(what, &error)),
    }
}

fn wish(task: &Task, history: &History) -> Wish {
    let kind = match task.method {
        Method::Full => return Wish::FullByMethod,
        Method::Incremental => PointKind::Incremental,
        Method::Differential => PointKind::Differential,
    };
    match (&history.base, &history.lost) {
        (None, None) if history.newest.is_some() => Wish::NoFullKept,
        (None, None) => Wish::First,
        _ if task.full_every > 0 && history.since_full + 1 >= task.full_every => Wish::FullByCount,
        (None, Some(cause)) => Wish::BaseLost(cause.clone()),
        (Some(base), _) => Wish::Since(kind, base.clone()),
    }
}
