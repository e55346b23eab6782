//! A snapshot that another program's backup left goes, because an operator asked for it by name.
//!
//! Owns: the looks that come before. Must never: remove a snapshot that is not the one that was asked for, that a user
//! made, that is younger than a day, or that is ours.

use crate::context::JobContext;
use crate::runtime::housekeeping;
use crate::{errors, words};
use db::{ChangeKind, CleanupOrder, Device, Machine, NewChange, Outcome, Platform};
use domain::foreign::{Maker, STALE_AFTER_HOURS, is_stale};
use domain::job::JobError;
use hypervisor::{ErrorKind, HostSnapshot, Hypervisor, MachineRef, SnapshotRef};
use serde_json::json;
use std::sync::Arc;
use tokio::time::Instant;

const LOOK: &str = "Look at the page “Left behind” again: it shows what is on the host now.";

/// What is to go, and where it is.
struct Target {
    /// `The snapshot “…” of web-01 on esx-1 was not removed.`
    what: String,
    /// The platform's own word for a snapshot.
    word: &'static str,
    order: CleanupOrder,
    machine: Machine,
    device: Device,
    host: Arc<dyn Hypervisor>,
}

impl Target {
    fn reference(&self) -> MachineRef {
        MachineRef(self.machine.reference.clone())
    }
}

/// Runs the job.
pub async fn run(ctx: &JobContext) -> Result<Outcome, JobError> {
    ctx.phase("Looking at the machine").await;
    let target = find(ctx).await?;
    let Some(found) = listed(&target).await? else {
        ctx.info(&format!("The {} “{}” is gone already.", target.word, target.order.name)).await;
        return gone(ctx, &target, false).await;
    };
    refuse_another(&target, &found)?;
    refuse_young_or_users(ctx, &target, &found)?;
    refuse_ours(ctx, &target, &found).await?;
    ctx.check(&target.what)?;
    remove(ctx, &target, &found).await?;
    gone(ctx, &target, true).await
}

async fn find(ctx: &JobContext) -> Result<Target, JobError> {
    let Some(vm_id) = ctx.job.vm_id else { return Err(ctx.malformed()) };
    let order: CleanupOrder = serde_json::from_value(ctx.job.payload.clone()).map_err(|_| ctx.malformed())?;
    let machine = ctx.essential(ctx.core.db.machine(vm_id).await)?;
    let device = ctx.essential(ctx.core.db.device(machine.device_id).await)?;
    let word = Platform::of(&machine.config).snapshot();
    let what = format!("The {word} “{}” of {} on {} was not removed.", order.name, machine.name, device.name);
    let host = ctx.core.host(&what, &device).await?;
    Ok(Target { what, word, order, machine, device, host })
}

/// The snapshot as it is on the host now. None: it is not there any more.
async fn listed(target: &Target) -> Result<Option<HostSnapshot>, JobError> {
    let (host, reference) = (target.host.as_ref(), target.reference());
    let of_host = |error| errors::host(&target.what, &error);
    let machine = match host.machine(&reference).await {
        Ok(machine) => machine,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(of_host(error)),
    };
    // Some hosts give references again.
    if machine.config.instance_uuid.as_ref() != Some(&target.machine.instance_uuid) {
        return Err(changed(target, format!("The host lists another machine, {}, in its place.", machine.config.name)));
    }
    let all = host.list_snapshots(&reference).await.map_err(of_host)?;
    Ok(all.into_iter().find(|snapshot| snapshot.reference.0 == target.order.reference))
}

fn changed(target: &Target, why: String) -> JobError {
    JobError::fail("vm.snapshot_changed", target.what.as_str(), why, LOOK)
}

/// By its name and moment: references are given again by some hosts.
fn refuse_another(target: &Target, found: &HostSnapshot) -> Result<(), JobError> {
    if found.name != target.order.name {
        return Err(changed(target, format!("It is called “{}” now.", found.name)));
    }
    // The database keeps microseconds.
    let moment = |at: jiff::Timestamp| at.as_microsecond();
    if found.created_at.map(moment) != Some(moment(target.order.created_at)) {
        return Err(changed(target, "Another one of the same name was made since.".to_owned()));
    }
    Ok(())
}

fn refuse_young_or_users(ctx: &JobContext, target: &Target, found: &HostSnapshot) -> Result<(), JobError> {
    let refuse = |why: &str| Err(JobError::fail("vm.snapshot_not_foreign", target.what.as_str(), why, LOOK));
    if Maker::of(&found.name, found.is_recovery).is_none() {
        return refuse("Nothing shows that a backup program made it: it may be a user’s.");
    }
    if !is_stale(target.order.created_at, ctx.now()) {
        return refuse(&format!(
            "It is younger than {STALE_AFTER_HOURS} hours: the backup that made it may be at work."
        ));
    }
    Ok(())
}

/// What is ours goes by the journal, and while a job of ours needs it not at all.
async fn refuse_ours(ctx: &JobContext, target: &Target, found: &HostSnapshot) -> Result<(), JobError> {
    let device_id = target.device.device_id;
    if !ctx.essential(ctx.core.db.is_own_snapshot(device_id, &found.name, &found.reference.0).await)? {
        return Ok(());
    }
    let hint = "It is removed by itself when its job has ended.";
    Err(JobError::fail("vm.snapshot_ours", target.what.as_str(), "It was made by a backup of this server.", hint))
}

/// Runs to its end even when the job is being stopped: a host cannot take the call back.
async fn remove(ctx: &JobContext, target: &Target, found: &HostSnapshot) -> Result<(), JobError> {
    let (word, order) = (target.word, &target.order);
    let made = words::moment(order.created_at);
    ctx.info(&format!("The host still has the {word} “{}”, made {made}. It is removed.", order.name)).await;
    let change = NewChange {
        device_id: target.device.device_id,
        vm_id: Some(target.machine.vm_id),
        kind: ChangeKind::Foreign,
        token: format!("foreign-{}-{}", ctx.job.job_id, ctx.job.fence),
        machine_ref: Some(target.machine.reference.clone()),
        settles_after: None,
    };
    let change_id = ctx.journal(&change).await?;
    ctx.journal_made(change_id, Some(&found.reference.0)).await?;
    ctx.phase(&format!("Removing the {word}, and waiting until the disks are merged")).await;
    let started = Instant::now();
    let reference = SnapshotRef(found.reference.0.clone());
    match target.host.remove_snapshot(&target.reference(), &reference).await {
        Ok(()) => {
            ctx.journal_removed(change_id).await;
            let time = words::duration(started.elapsed());
            ctx.info(&format!("The {word} was removed and the disks are merged, in {time}.")).await;
            Ok(())
        }
        Err(error) => {
            let error = errors::host(&target.what, &error);
            ctx.journal_failed(change_id, &error).await;
            Err(error)
        }
    }
}

async fn gone(ctx: &JobContext, target: &Target, removed: bool) -> Result<Outcome, JobError> {
    let vm_id = target.machine.vm_id;
    ctx.essential(ctx.core.db.foreign_snapshot_gone(vm_id, &target.order.reference).await)?;
    // What spoke against a backup of the machine may have gone with it.
    housekeeping::inventory_after(ctx, target.device.device_id).await;
    Ok(ctx.done(json!({ "removed": removed })))
}
