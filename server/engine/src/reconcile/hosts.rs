//! One device: what the journal says dead jobs left there goes.
//!
//! Owns: the pass. Must never: remove a snapshot of another installation; those are only told.

use super::undo::{self, Undone};
use crate::context::JobContext;
use crate::errors;
use db::{Change, ChangeKind, ChangeState, DeviceId, Outcome};
use domain::job::JobError;
use hypervisor::{ErrorKind, FOREIGN_CHECKPOINT, Hypervisor, MachineRef};
use serde_json::json;
use std::collections::BTreeSet;

/// Undoes what is open and not held by a running job. One failure does not stop the rest.
pub async fn reconcile(ctx: &JobContext, device_id: DeviceId) -> Result<Outcome, JobError> {
    let device = ctx.essential(ctx.core.db.device(device_id).await)?;
    let what = format!("What broken-off jobs left on {} could not be removed.", device.name);
    let all = ctx.core.db.open_changes(device_id).await.map_err(|error| errors::database(&what, &error))?;
    let open: Vec<&Change> = all.iter().filter(|change| !change.owner_alive).collect();
    if open.is_empty() {
        return Ok(ctx.done(json!({ "removed": 0, "open": 0 })));
    }
    let host = ctx.core.host(&what, &device).await?;
    let (mut removed, mut waiting, mut last_error) = (0, 0, None);
    for change in undo::in_order(open.iter().copied()) {
        ctx.check(&what)?;
        match undo::undo(&ctx.core, host.as_ref(), change).await {
            Ok(Undone::Removed) => {
                removed += 1;
                ctx.info(&undo::undone_text(change)).await;
            }
            Ok(Undone::Absent) => tell_unnamed(ctx, host.as_ref(), change).await,
            Ok(Undone::Kept) => {}
            Ok(Undone::MayAppear) => waiting += 1,
            Err(error) => last_error = Some(error),
        }
    }
    let foreign = foreign_snapshots(ctx, host.as_ref(), &open).await;
    match last_error {
        Some(error) => Err(error),
        None => Ok(ctx.done(json!({ "removed": removed, "open": waiting, "not_ours": foreign }))),
    }
}

/// Hosts that name snapshots themselves have one without our name when the job died as it was being made. It cannot be told
/// from another backup's, so it is only told.
async fn tell_unnamed(ctx: &JobContext, host: &dyn Hypervisor, change: &Change) {
    if change.kind != ChangeKind::Snapshot || change.state != ChangeState::Intended {
        return;
    }
    let Some(reference) = change.machine_ref.clone().map(MachineRef) else { return };
    let Ok(machine) = host.machine(&reference).await else { return };
    if let Some(found) = machine.findings.iter().find(|finding| finding.code == FOREIGN_CHECKPOINT) {
        let name = &machine.config.name;
        ctx.warn(&format!(
            "{name}: {}; it may be of a backup that broke off, and was not touched. {}",
            found.message, found.hint
        ))
        .await;
    }
}

/// Snapshots with our prefix on the same machines that our journal does not know: another installation's.
async fn foreign_snapshots(ctx: &JobContext, host: &dyn Hypervisor, open: &[&Change]) -> Vec<String> {
    let machines: BTreeSet<&str> = open.iter().filter_map(|change| change.machine_ref.as_deref()).collect();
    let mut foreign = Vec::new();
    for machine in machines {
        let own = match host.list_own_snapshots(&MachineRef(machine.to_owned())).await {
            Ok(own) => own,
            Err(error) if error.kind == ErrorKind::NotFound => continue,
            Err(_) => break,
        };
        for snapshot in own {
            if let Ok(false) = ctx.core.db.knows_change(&snapshot.name).await {
                foreign.push(snapshot.name);
            }
        }
    }
    if !foreign.is_empty() {
        ctx.info(&format!("Snapshots of another Stillframe server, not touched: {}.", foreign.join(", "))).await;
    }
    foreign
}
