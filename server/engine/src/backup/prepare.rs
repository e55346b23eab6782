//! Everything a backup needs to know before it changes anything: task, machine, host, repository, what to build on.
//!
//! Owns: finding the machine again after it was renamed or moved, and refusing what cannot work.
//! Must never: change anything on the host, except what a dead job of this machine left there.

use super::plan::{Base, Wish};
use crate::context::JobContext;
use crate::reconcile::undo::{self, Undone};
use crate::{errors, words};
use db::{Change, Device, DeviceId, Machine, Method, RepositoryId, Task, TaskId, VmId};
use domain::finding::Severity;
use domain::job::JobError;
use domain::machine::Quiesce;
use domain::retention::Retention;
use hypervisor::{ErrorKind, Hypervisor, MachineInfo, MachineRef};
use repository::{PointId, Repository};
use std::sync::Arc;
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
    pub retention: Retention,
    pub quiesce: Quiesce,
    /// The method is incremental: a host that cannot track changes is worth a warning.
    pub wants_increments: bool,
    pub host: Arc<dyn Hypervisor>,
    pub machine: MachineInfo,
    /// `<device id>/<instance uuid>`: the manifest's machine id.
    pub machine_key: String,
    pub repository_id: RepositoryId,
    pub repository: Repository,
    /// The machine's newest whole point, whatever is read.
    pub predecessor: Option<PointId>,
    pub wish: Wish,
}

/// Reads and checks all of it.
pub async fn prepare(ctx: &JobContext) -> Result<Source, JobError> {
    ctx.phase("Preparing").await;
    let (task, row, device) = rows(ctx).await?;
    let what = format!("{} on {} was not backed up.", row.name, device.name);
    let repository_row = ctx.essential(ctx.core.db.repository(task.repository_id).await)?;
    let repository = ctx.core.repository(&what, &repository_row).await?;
    let host = ctx.core.host(&what, &device).await?;
    undo_own(ctx, &what, host.as_ref(), &row).await?;
    let machine = find(ctx, &what, host.as_ref(), &row).await?;
    refuse_blockers(&what, &machine)?;
    refuse_foreign_snapshot(&what, host.as_ref(), &machine.reference).await?;
    if machine.config.name != row.name {
        ctx.info(&format!("The machine is called “{}” now, before “{}”.", machine.config.name, row.name)).await;
    }
    let history = history(ctx, &what, &row, &repository, task.repository_id).await?;
    let wish = wish(&task, &history);
    Ok(Source {
        what,
        name: machine.config.name.clone(),
        vm_id: row.vm_id,
        device_id: device.device_id,
        device_name: device.name,
        simulated: device.simulated,
        task_id: task.task_id,
        task_name: task.name,
        retention: task.retention,
        quiesce: task.quiesce,
        wants_increments: task.method == Method::Incremental,
        host,
        machine_key: format!("{}/{}", device.device_id, row.instance_uuid),
        machine,
        repository_id: task.repository_id,
        repository,
        predecessor: history.newest.as_ref().map(|base| base.point_id),
        wish,
    })
}

async fn rows(ctx: &JobContext) -> Result<(Task, Machine, Device), JobError> {
    let (Some(vm_id), Some(run_id)) = (ctx.job.vm_id, ctx.job.run_id) else { return Err(ctx.malformed()) };
    let db = &ctx.core.db;
    let run = ctx.essential(db.run(run_id).await)?;
    let task = ctx.essential(db.task(run.task_id.ok_or_else(|| ctx.malformed())?).await)?;
    let machine = ctx.essential(db.machine(vm_id).await)?;
    let device = ctx.essential(db.device(machine.device_id).await)?;
    Ok((task, machine, device))
}

/// What a dead job of this machine left goes first: a second snapshot beside it could not be consolidated safely.
async fn undo_own(ctx: &JobContext, what: &str, host: &dyn Hypervisor, row: &Machine) -> Result<(), JobError> {
    let open = ctx.core.db.open_changes(row.device_id).await.map_err(|error| errors::database(what, &error))?;
    for change in open.iter().filter(|change| change.vm_id == Some(row.vm_id) && !change.owner_alive) {
        undo_when_it_appears(ctx, what, host, change).await?;
    }
    Ok(())
}

/// A host goes on with a snapshot whose caller has died: it is awaited for a while, then left to the reconciler.
async fn undo_when_it_appears(
    ctx: &JobContext,
    what: &str,
    host: &dyn Hypervisor,
    change: &Change,
) -> Result<(), JobError> {
    let deadline = Instant::now() + ctx.config().appear_wait;
    loop {
        match undo::undo(&ctx.core, host, change).await? {
            Undone::Removed => {
                ctx.info("Removed the snapshot that an earlier, broken-off attempt left on the host.").await;
                return Ok(());
            }
            Undone::MayAppear if Instant::now() < deadline => {
                ctx.phase("Waiting for what a broken-off attempt began").await;
                ctx.check(what)?;
                tokio::time::sleep(ctx.config().appear_look_every).await;
            }
            Undone::Absent | Undone::MayAppear => return Ok(()),
        }
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
            "Take it out of the task, or register it on the host again. Its restore points are kept.",
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

/// A snapshot with our prefix that our journal could not explain away belongs to another installation, perhaps at work.
async fn refuse_foreign_snapshot(what: &str, host: &dyn Hypervisor, machine: &MachineRef) -> Result<(), JobError> {
    let own = host.list_own_snapshots(machine).await.map_err(|error| errors::host(what, &error))?;
    match own.first() {
        Some(snapshot) => Err(JobError::retry(
            "vm.foreign_snapshot",
            what,
            format!("The machine has the snapshot {} of another Stillframe server.", snapshot.name),
            "Let one server back up the machine. If that server is gone, remove the snapshot in the host's console.",
        )),
        None => Ok(()),
    }
}

/// The machine's points in this repository, newest first, as far as a decision needs them.
struct History {
    newest: Option<Base>,
    /// Why the newest row cannot be built on.
    lost: Option<String>,
    /// Increments since the last full.
    since_full: u32,
}

async fn history(
    ctx: &JobContext,
    what: &str,
    row: &Machine,
    repository: &Repository,
    repository_id: RepositoryId,
) -> Result<History, JobError> {
    let db = &ctx.core.db;
    let database = |error| errors::database(what, &error);
    let since_full = db.incrementals_since_full(row.vm_id, repository_id).await.map_err(database)?;
    let Some(newest) = db.newest_point(row.vm_id, repository_id).await.map_err(database)? else {
        return Ok(History { newest: None, lost: None, since_full });
    };
    let id = PointId(newest.point_id.0);
    match repository.point(id).await {
        Ok(_) => {
            let base = Base { point_id: id, taken_at: newest.taken_at, marks: newest.marks };
            Ok(History { newest: Some(base), lost: None, since_full })
        }
        Err(error) if error.is_damage() || matches!(error, repository::Error::NoSuchPoint(_)) => {
            let taken = words::moment(newest.taken_at);
            let lost = format!("the point before, of {taken}, cannot be read ({})", errors::chain(&error));
            Ok(History { newest: None, lost: Some(lost), since_full })
        }
        Err(error) => Err(errors::repository(what, &error)),
    }
}

fn wish(task: &Task, history: &History) -> Wish {
    match (&history.newest, &history.lost) {
        _ if task.method == Method::Full => Wish::FullByMethod,
        (None, None) => Wish::First,
        _ if task.full_every > 0 && history.since_full + 1 >= task.full_every => Wish::FullByCount,
        (None, Some(cause)) => Wish::BaseLost(cause.clone()),
        (Some(base), _) => Wish::Incremental(base.clone()),
    }
}
