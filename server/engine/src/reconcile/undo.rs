//! Undoing one journalled change of a job that is no longer alive.
//!
//! Owns: what may be removed, switched on or let go of. Must never: touch what the journal does not name, by a unique
//! token of its own or by the machine that a job had shut down.

use crate::core::Core;
use crate::errors;
use db::{Change, ChangeKind, ChangeState};
use domain::job::JobError;
use domain::machine::PowerState;
use hypervisor::{ErrorKind, HostError, Hypervisor, MachineInfo, MachineRef};
use repository::PointId;

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// It was there and is gone now.
    Removed,
    /// It was not there: nothing is left.
    Absent,
    /// It was not there, but the host's own task, or a guest that takes its time, may still bring it.
    MayAppear,
    /// It is meant to stay.
    Kept,
}

/// The order in which changes are undone: a machine is switched on when its snapshot is gone.
pub fn in_order<'a>(changes: impl Iterator<Item = &'a Change>) -> Vec<&'a Change> {
    let mut sorted: Vec<&Change> = changes.collect();
    sorted.sort_by_key(|change| (change.kind == ChangeKind::Power, change.change_id));
    sorted
}

/// Undoes the change and completes the journal.
pub async fn undo(core: &Core, host: &dyn Hypervisor, change: &Change) -> Result<Undone, JobError> {
    let what = describe(change);
    let of_host = |error: HostError| errors::host(&what, &error);
    let undone = match change.kind {
        ChangeKind::Snapshot => undo_snapshot(core, host, change).await.map_err(of_host),
        ChangeKind::Import => host.remove_half_made(&change.token).await.map(|()| Undone::Removed).map_err(of_host),
        ChangeKind::Power => undo_power(core, host, change, &what).await,
        ChangeKind::Marks => undo_marks(core, host, change, &what).await,
        ChangeKind::Foreign => foreign_stands(host, change).await.map_err(of_host),
    };
    let closed = match undone {
        Ok(Undone::MayAppear) => return Ok(Undone::MayAppear),
        Ok(Undone::Kept) => core.db.change_kept(change.change_id).await,
        Ok(Undone::Removed) if change.kind == ChangeKind::Power => core.db.power_restored(change.change_id).await,
        Ok(Undone::Removed | Undone::Absent) => core.db.change_removed(change.change_id).await,
        Err(error) => {
            let text = format!("{} {}", error.what, error.why);
            if let Err(error) = core.db.change_failed(change.change_id, &text).await {
                tracing::warn!(error = %errors::chain(&error), "journal");
            }
            return Err(error);
        }
    };
    closed.map_err(|error| errors::database(&what, &error))?;
    undone
}

async fn undo_snapshot(core: &Core, host: &dyn Hypervisor, change: &Change) -> Result<Undone, HostError> {
    let Some(machine) = change.machine_ref.clone().map(MachineRef) else { return Ok(Undone::Absent) };
    let own = match host.list_own_snapshots(&machine).await {
        Ok(own) => own,
        // The machine was deleted, and its snapshots with it.
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(Undone::Absent),
        Err(error) => return Err(error),
    };
    // By name only: references are given again by some hosts, names of ours never are.
    let Some(found) = own.into_iter().find(|snapshot| snapshot.name == change.token) else {
        return Ok(if may_still_appear(core, change) { Undone::MayAppear } else { Undone::Absent });
    };
    if let Err(error) = core.db.change_removing(change.change_id).await {
        tracing::warn!(error = %errors::chain(&error), "journal");
    }
    host.remove_snapshot(&machine, &found.reference).await?;
    Ok(Undone::Removed)
}

/// What another program left is not for a pass to remove: the entry says from now on what became of it.
async fn foreign_stands(host: &dyn Hypervisor, change: &Change) -> Result<Undone, HostError> {
    let Some(machine) = change.machine_ref.clone().map(MachineRef) else { return Ok(Undone::Absent) };
    let all = match host.list_snapshots(&machine).await {
        Ok(all) => all,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(Undone::Absent),
        Err(error) => return Err(error),
    };
    let stands = all.iter().any(|snapshot| Some(&snapshot.reference.0) == change.object_ref.as_ref());
    Ok(if stands { Undone::Kept } else { Undone::Absent })
}

fn may_still_appear(core: &Core, change: &Change) -> bool {
    let age = core.clock.now().duration_since(change.created_at);
    change.state == ChangeState::Intended && age.unsigned_abs() < core.config.snapshot_settle
}

/// A machine that was on when a job asked its guest to shut down.
async fn undo_power(core: &Core, host: &dyn Hypervisor, change: &Change, what: &str) -> Result<Undone, JobError> {
    let Some(reference) = change.machine_ref.clone().map(MachineRef) else { return Ok(Undone::Absent) };
    let machine = match host.machine(&reference).await {
        Ok(machine) => machine,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(Undone::Absent),
        Err(error) => return Err(errors::host(what, &error)),
    };
    if is_another(core, change, &machine).await {
        return Ok(Undone::Absent);
    }
    if machine.power != PowerState::Off {
        return Ok(if change.may_come { Undone::MayAppear } else { Undone::Absent });
    }
    if !core.db.claim_power(change.change_id).await.map_err(|error| errors::database(what, &error))? {
        // A running job has shut it down anew, and switches it on itself.
        return Ok(Undone::MayAppear);
    }
    host.power_on(&reference).await.map_err(|error| errors::host(what, &error))?;
    Ok(Undone::Removed)
}

/// Some hosts give references again.
async fn is_another(core: &Core, change: &Change, machine: &MachineInfo) -> bool {
    let Some(vm_id) = change.vm_id else { return false };
    match core.db.machine(vm_id).await {
        Ok(row) => machine.config.instance_uuid.as_ref().is_some_and(|uuid| *uuid != row.instance_uuid),
        Err(_) => false,
    }
}

/// Marks of a point that may have been committed in the moment its job died: the repository knows.
async fn undo_marks(core: &Core, host: &dyn Hypervisor, change: &Change, what: &str) -> Result<Undone, JobError> {
    let Some(reference) = change.machine_ref.clone().map(MachineRef) else { return Ok(Undone::Absent) };
    let Some(point) = point_of(change) else { return undo_unheard(core, host, change, &reference, what).await };
    if is_committed(core, change, point, what).await? {
        return Ok(Undone::Kept);
    }
    match host.forget_marks(&reference, &change.marks).await {
        Ok(()) => Ok(Undone::Removed),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Undone::Absent),
        Err(error) => Err(errors::host(what, &error)),
    }
}

/// The job died before it heard what the host keeps: there is no point, and whatever came is for nobody.
async fn undo_unheard(
    core: &Core,
    host: &dyn Hypervisor,
    change: &Change,
    machine: &MachineRef,
    what: &str,
) -> Result<Undone, JobError> {
    let database = |error: db::Error| errors::database(what, &error);
    let (Some(before), Some(vm_id)) = (&change.marks_before, change.vm_id) else { return Ok(Undone::Absent) };
    let others = core.db.open_changes(change.device_id).await.map_err(database)?;
    // While the snapshot stands it may still come, and what a running job makes at this moment would be taken for it.
    let hinders = |other: &Change| match other.kind {
        ChangeKind::Snapshot => other.job_id == change.job_id,
        ChangeKind::Marks => other.owner_alive,
        ChangeKind::Import | ChangeKind::Power | ChangeKind::Foreign => false,
    };
    if others.iter().any(|other| other.vm_id == Some(vm_id) && hinders(other)) {
        return Ok(Undone::MayAppear);
    }
    let ours = core.db.known_marks(vm_id).await.map_err(database)?;
    match host.forget_unheard(machine, before, &ours).await {
        Ok(()) => Ok(Undone::Removed),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Undone::Absent),
        Err(error) => Err(errors::host(what, &error)),
    }
}

fn point_of(change: &Change) -> Option<PointId> {
    change.object_ref.as_deref()?.parse().ok().map(PointId)
}

async fn is_committed(core: &Core, change: &Change, point: PointId, what: &str) -> Result<bool, JobError> {
    let database = |error: db::Error| errors::database(what, &error);
    match core.db.point(db::PointId(point.0)).await {
        Ok(_) => return Ok(true),
        Err(db::Error::NotFound { .. }) => {}
        Err(error) => return Err(database(error)),
    }
    // Without its job or its repository nobody could find the point.
    let Some(job_id) = change.job_id else { return Ok(false) };
    let Some(id) = core.db.job(job_id).await.map_err(database)?.repository_id else { return Ok(false) };
    let row = core.db.repository(id).await.map_err(database)?;
    match core.repository(what, &row).await?.point(point).await {
        Ok(_) => Ok(true),
        Err(repository::Error::NoSuchPoint(_)) => Ok(false),
        Err(error) => Err(errors::repository(what, &error)),
    }
}

/// For a job's log.
pub fn undone_text(change: &Change) -> String {
    match change.kind {
        ChangeKind::Snapshot | ChangeKind::Import | ChangeKind::Foreign => format!("Removed {}.", change.token),
        ChangeKind::Power => {
            format!("Switched {} on: a backup that broke off had shut it down.", machine_of(change))
        }
        ChangeKind::Marks => format!("Let go of {}.", change.token),
    }
}

/// For people.
fn machine_of(change: &Change) -> &str {
    change.machine.as_deref().or(change.machine_ref.as_deref()).unwrap_or("A machine")
}

fn describe(change: &Change) -> String {
    let machine = machine_of(change);
    match change.kind {
        ChangeKind::Snapshot => format!("The snapshot {} of a backup that died could not be removed.", change.token),
        ChangeKind::Import => "The half-made machine of a restore that died could not be removed.".to_owned(),
        ChangeKind::Foreign => {
            format!("What became of a snapshot of {machine} that another program left could not be looked at.")
        }
        ChangeKind::Power => {
            format!("{machine}, which a backup that broke off had shut down, could not be switched on.")
        }
        ChangeKind::Marks => {
            format!("Change marks of {machine}, of a backup that died, could not be let go of.")
        }
    }
}
