//! The restore of one machine: prepare → define → write disks → commit; on any failure what was made is removed.
//!
//! Owns: the order, and the journal's part of a restore. Must never: touch the machine the point was taken from, or
//! leave a half-made machine that the journal does not hold. Read next: `prepare.rs`, `write.rs`.

mod prepare;
mod write;

use crate::context::JobContext;
use crate::errors;
use crate::progress::Tally;
use db::{ChangeId, ChangeKind, Device, NewChange, Outcome, Platform};
use domain::job::JobError;
use domain::machine::MachineConfig;
use hypervisor::{MachineRef, RestoreRequest, RestoreTarget};
use prepare::Plan;
use repository::PointHold;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use uuid::Uuid;

/// What an operator asked for; kept as the job's payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOrder {
    /// The restore point.
    pub point_id: Uuid,
    /// The device to restore to, the original or another.
    pub device_id: i64,
    /// Name of the new machine.
    pub name: String,
    /// Name of the datastore.
    pub datastore: String,
    /// Name of the network for every adapter; `None` keeps each adapter's own where the target has it.
    pub network: Option<String>,
    /// Connect the adapters when the machine is powered on.
    pub connect_network: bool,
    /// Keep MAC addresses and ids: only when the original is gone.
    pub keep_identity: bool,
}

/// What one platform's machine is made of, the other cannot run: another controller, firmware and drivers in the guest.
pub fn refuse_platform(what: &str, machine: &MachineConfig, device: &Device) -> Result<(), JobError> {
    let made_on = Platform::of(machine);
    if made_on == device.platform {
        return Ok(());
    }
    let (machine, host) = (made_on.product(), device.platform.product());
    Err(JobError::fail(
        "restore.other_platform",
        what,
        format!("The restore point is of a machine of {machine}, and {} is a host of {host}.", device.name),
        format!("Choose a host of {machine}."),
    ))
}

/// Runs the job.
pub async fn run(ctx: &JobContext) -> Result<Outcome, JobError> {
    let plan = ctx.unless_stopped(prepare::prepare(ctx)).await?;
    // Retention may remove the point meanwhile; what it needs stays until the restore is done.
    let held = ctx.unless_stopped(hold(&plan)).await?;
    let restored = restore(ctx, &plan).await;
    held.release().await;
    restored
}

async fn hold(plan: &Plan) -> Result<PointHold, JobError> {
    plan.repository.hold(&[plan.point.id]).await.map_err(|error| errors::repository(&plan.what, &error))
}

async fn restore(ctx: &JobContext, plan: &Plan) -> Result<Outcome, JobError> {
    ctx.phase("Opening the restore point").await;
    let disks = &plan.point.machine.disks;
    let tally = Arc::new(Tally::new(disks.iter().map(|disk| disk.key)));
    let opening = write::open_disks(&plan.what, &plan.repository, plan.point.id, disks, &tally);
    let opened = ctx.unless_stopped(opening).await?;
    plan.check_space(tally.sum().total)?;
    let throttle = ctx.core.throttle(&plan.what, plan.device_id).await?;
    ctx.check(&plan.what)?;

    ctx.phase("Defining the machine").await;
    let token = Uuid::new_v4().simple().to_string();
    let change = NewChange {
        device_id: plan.device_id,
        vm_id: None,
        kind: ChangeKind::Import,
        token: token.clone(),
        machine_ref: None,
        settles_after: None,
    };
    let change = ctx.journal(&change).await?;
    let mut target = match plan.host.create_target(&request(plan, &token)).await {
        Ok(target) => target,
        Err(error) => {
            remove_by_token(ctx, plan, &token, change).await;
            return Err(errors::host(&plan.what, &error));
        }
    };
    if let Some(machine) = target.machine()
        && let Err(error) = ctx.journal_made(change, Some(&machine.0)).await
    {
        abandon(ctx, plan, target, &token, change).await;
        return Err(error);
    }
    ctx.phase("Writing").await;
    let labels = disks.iter().map(|disk| (disk.key, disk.label.clone())).collect();
    let reporter = ctx.report(Arc::clone(&tally), labels);
    let written = write::write_disks(ctx, &plan.what, &opened, target.as_mut(), &tally, &throttle).await;
    reporter.finish().await;
    // The last moment at which stopping is still clean: from here on the machine stays.
    if let Err(error) = written.and_then(|()| ctx.check(&plan.what)) {
        abandon(ctx, plan, target, &token, change).await;
        return Err(error);
    }
    let machine = finish(ctx, plan, target, &token, change).await?;
    ctx.info(&format!("{} is restored to {}, powered off.", plan.order.name, plan.device_name)).await;
    crate::runtime::housekeeping::inventory_after(ctx, plan.device_id).await;
    Ok(ctx.done(json!({ "machine_name": plan.order.name, "machine_ref": machine.0 })))
}

async fn finish(
    ctx: &JobContext,
    plan: &Plan,
    target: Box<dyn RestoreTarget>,
    token: &str,
    change: ChangeId,
) -> Result<MachineRef, JobError> {
    ctx.phase("Completing the machine").await;
    match target.commit().await {
        Ok(machine) => {
            ctx.journal_kept(change).await?;
            Ok(machine)
        }
        Err(error) => {
            remove_by_token(ctx, plan, token, change).await;
            Err(errors::host(&plan.what, &error))
        }
    }
}

fn request(plan: &Plan, token: &str) -> RestoreRequest {
    RestoreRequest {
        config: plan.point.machine.clone(),
        name: plan.order.name.clone(),
        datastore: plan.order.datastore.clone(),
        network: plan.order.network.clone(),
        connect_network: plan.order.connect_network,
        keep_identity: plan.order.keep_identity,
        token: token.to_owned(),
    }
}

async fn abandon(ctx: &JobContext, plan: &Plan, target: Box<dyn RestoreTarget>, token: &str, change: ChangeId) {
    ctx.phase("Removing the half-made machine").await;
    if target.abandon().await.is_ok() {
        // The token tells whether it is really gone.
        remove_by_token(ctx, plan, token, change).await;
    } else {
        ctx.left_behind();
    }
}

async fn remove_by_token(ctx: &JobContext, plan: &Plan, token: &str, change: ChangeId) {
    ctx.journal_removing(change).await;
    match plan.host.remove_half_made(token).await {
        Ok(()) => {
            ctx.journal_removed(change).await;
            ctx.info("Nothing of the new machine is left on the host.").await;
        }
        Err(error) => {
            let what = format!("The half-made machine {} could not be removed.", plan.order.name);
            ctx.journal_failed(change, &errors::host(&what, &error)).await;
            ctx.left_behind();
        }
    }
}
