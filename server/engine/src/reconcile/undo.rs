//! Undoing one journalled change of a job that is no longer alive.
//!
//! Owns: what may be removed. Must never: remove what the journal does not name by its own unique token.

use crate::core::Core;
use crate::errors;
use db::{Change, ChangeKind, ChangeState};
use domain::job::JobError;
use hypervisor::{ErrorKind, HostError, Hypervisor, MachineRef};

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// It was there and is gone now.
    Removed,
    /// It was not there: nothing is left.
    Absent,
    /// It was not there, but the host's own task may still bring it.
    MayAppear,
}

/// Undoes the change and completes the journal.
pub async fn undo(core: &Core, host: &dyn Hypervisor, change: &Change) -> Result<Undone, JobError> {
    let what = describe(change);
    let undone = match change.kind {
        ChangeKind::Snapshot => undo_snapshot(core, host, change).await,
        ChangeKind::Import => host.remove_half_made(&change.token).await.map(|()| Undone::Removed),
    };
    let undone = match undone {
        Ok(Undone::Absent) if may_still_appear(core, change) => Undone::MayAppear,
        Ok(undone) => undone,
        Err(error) => {
            let error = errors::host(&what, &error);
            let text = format!("{} {}", error.what, error.why);
            if let Err(error) = core.db.change_failed(change.change_id, &text).await {
                tracing::warn!(error = %errors::chain(&error), "journal");
            }
            return Err(error);
        }
    };
    if undone != Undone::MayAppear {
        core.db.change_removed(change.change_id).await.map_err(|error| errors::database(&what, &error))?;
    }
    Ok(undone)
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
        return Ok(Undone::Absent);
    };
    if let Err(error) = core.db.change_removing(change.change_id).await {
        tracing::warn!(error = %errors::chain(&error), "journal");
    }
    host.remove_snapshot(&machine, &found.reference).await?;
    Ok(Undone::Removed)
}

fn may_still_appear(core: &Core, change: &Change) -> bool {
    let age = core.clock.now().duration_since(change.created_at);
    change.state == ChangeState::Intended && age.unsigned_abs() < core.config.snapshot_settle
}

fn describe(change: &Change) -> String {
    match change.kind {
        ChangeKind::Snapshot => format!("The snapshot {} of a backup that died could not be removed.", change.token),
        ChangeKind::Import => "The half-made machine of a restore that died could not be removed.".to_owned(),
    }
}
