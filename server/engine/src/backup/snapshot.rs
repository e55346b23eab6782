//! The snapshot of a backup: written down before it is made and after, removed whatever happens in between.
//!
//! Owns: the journal's part of a backup. Must never: make a second snapshot before the first is gone.
//! Read next: `reconcile/`, which removes what a dead job could not.

use super::prepare::Source;
use crate::context::JobContext;
use crate::{errors, words};
use db::{ChangeId, ChangeKind};
use domain::job::JobError;
use domain::machine::{PowerState, Quiesce};
use domain::point::Consistency;
use hypervisor::{ErrorKind, OWN_SNAPSHOT_PREFIX, Snapshot, SnapshotRef, SnapshotRequest, TrackingState};
use jiff::Timestamp;
use tokio::time::Instant;

/// A snapshot of ours that exists on the host.
pub struct Held {
    /// What the host answered.
    pub snapshot: Snapshot,
    /// Just before it was asked for.
    pub taken_at: Timestamp,
    change_id: ChangeId,
}

/// Switches change tracking on. On a running machine it takes effect by a snapshot that comes and goes.
pub async fn activate_tracking(ctx: &JobContext, source: &Source) -> Result<(), JobError> {
    if source.machine.tracking_enabled {
        return Ok(());
    }
    ctx.phase("Switching change tracking on").await;
    let host_error = |error| errors::host(&source.what, &error);
    match source.host.enable_tracking(&source.machine.reference).await.map_err(host_error)? {
        TrackingState::Active => {
            ctx.info("Change tracking switched on: the next backup reads only what changed.").await;
        }
        TrackingState::SwitchedOn if source.machine.power == PowerState::On => {
            let held = take(ctx, source).await?;
            remove(ctx, source, held).await?;
            ctx.info("Change tracking switched on; that snapshot only made it take effect.").await;
        }
        TrackingState::SwitchedOn => ctx.info("Change tracking switched on.").await,
        TrackingState::Refused(reason) if source.wants_increments => {
            ctx.warn(&format!("Change tracking cannot be switched on, so every backup reads all: {reason}")).await;
        }
        TrackingState::Refused(reason) => ctx.info(&format!("Change tracking stays off: {reason}")).await,
    }
    Ok(())
}

/// Makes the snapshot. An operator who cancels waits a few seconds at most: a host cannot take the call back, and what
/// appears later is found by its name.
pub async fn take(ctx: &JobContext, source: &Source) -> Result<Held, JobError> {
    ctx.phase(&format!("Making the {}", source.snapshot_word())).await;
    ctx.check(&source.what)?;
    let name = format!("{OWN_SNAPSHOT_PREFIX}{}-{}", ctx.job.job_id, uuid::Uuid::new_v4().simple());
    let machine = &source.machine.reference;
    let change_id = ctx.journal(&source.change(ChangeKind::Snapshot, name.clone(), None)).await?;
    let request = SnapshotRequest {
        name,
        description: "Made by Stillframe for a backup. It is removed when the backup ends.".to_owned(),
        quiesce: source.quiesce(),
    };
    let started = Instant::now();
    let taken_at = ctx.now();
    let made = tokio::select! {
        made = source.host.create_snapshot(machine, &request) => made,
        () = ctx.stopped_for(ctx.config().cancel_grace) => {
            let reason = format!("{} The {} was being made.", source.what, source.snapshot_word());
            return Err(JobError::cancelled(reason));
        }
    };
    match made {
        Ok(snapshot) => {
            let held = Held { snapshot, taken_at, change_id };
            if let Err(error) = ctx.journal_made(change_id, Some(&held.snapshot.reference.0)).await {
                // The lease is lost or the database is gone: what we made, we remove.
                let _ = remove(ctx, source, held).await;
                return Err(error);
            }
            ctx.info(&made_text(source.snapshot_word(), &held.snapshot, started.elapsed())).await;
            refuse_unquiesced(ctx, source, held).await
        }
        Err(error) => {
            settle_failed(ctx, source, &request.name, change_id, error.kind).await;
            Err(errors::host(&source.what, &error))
        }
    }
}

/// A host may make a snapshot and leave the guest unfrozen without a word. Under “require” such a one is of no use.
async fn refuse_unquiesced(ctx: &JobContext, source: &Source, held: Held) -> Result<Held, JobError> {
    if source.quiesce() != Quiesce::Require || held.snapshot.consistency != Consistency::Crash {
        return Ok(held);
    }
    let word = source.snapshot_word();
    // Its failure is journalled; the reconciler goes on.
    drop(remove(ctx, source, held).await);
    let why = format!("The host made the {word} without quiescing the guest, which the task requires.");
    Err(errors::not_quiesced(&source.what, why))
}

/// Disks that the task leaves out are no part of the point: neither of its data nor of the machine that a restore makes.
pub async fn leave_out_disks(ctx: &JobContext, source: &Source, held: &mut Held) {
    let disks = &mut held.snapshot.config.disks;
    let left_out: Vec<_> = disks.extract_if(.., |disk| source.excluded_disks.contains(&disk.key)).collect();
    if let Some(settings) = &mut held.snapshot.config.hyperv
        && settings.boot_disk_key.is_some_and(|key| source.excluded_disks.contains(&key))
    {
        settings.boot_disk_key = None;
    }
    if !left_out.is_empty() {
        let labels: Vec<&str> = left_out.iter().map(|disk| disk.label.as_str()).collect();
        ctx.info(&format!("Left out, as the task says: {}.", labels.join(", "))).await;
    }
}

/// Removes it and waits for consolidation. Runs to its end even when the job is being stopped.
pub async fn remove(ctx: &JobContext, source: &Source, held: Held) -> Result<(), JobError> {
    ctx.phase(&format!("Removing the {}", source.snapshot_word())).await;
    remove_by(ctx, source, &held.snapshot.reference, held.change_id).await
}

async fn remove_by(
    ctx: &JobContext,
    source: &Source,
    snapshot: &SnapshotRef,
    change: ChangeId,
) -> Result<(), JobError> {
    let started = Instant::now();
    ctx.journal_removing(change).await;
    match source.host.remove_snapshot(&source.machine.reference, snapshot).await {
        Ok(()) => {
            ctx.journal_removed(change).await;
            let time = words::duration(started.elapsed());
            ctx.info(&format!("The {} was removed in {time}.", source.snapshot_word())).await;
            Ok(())
        }
        Err(error) => {
            let what = format!("The {} of {} could not be removed.", source.snapshot_word(), source.name);
            let error = errors::host(&what, &error);
            ctx.journal_failed(change, &error).await;
            ctx.left_behind();
            Err(error)
        }
    }
}

/// A refused snapshot leaves nothing; when only the answer was lost, the host may have made it, or still be making it.
async fn settle_failed(ctx: &JobContext, source: &Source, name: &str, change_id: ChangeId, kind: ErrorKind) {
    let found = match source.host.list_own_snapshots(&source.machine.reference).await {
        Ok(own) => own.into_iter().find(|snapshot| snapshot.name == name),
        Err(_) => return ctx.left_behind(),
    };
    match found {
        // Its failure is journalled; the reconciler goes on.
        Some(found) => drop(remove_by(ctx, source, &found.reference, change_id).await),
        None if matches!(kind, ErrorKind::Unreachable | ErrorKind::Interrupted | ErrorKind::Timeout) => {
            ctx.left_behind();
        }
        None => ctx.journal_removed(change_id).await,
    }
}

fn made_text(word: &str, snapshot: &Snapshot, time: std::time::Duration) -> String {
    let state = match snapshot.consistency {
        Consistency::Application => "guest quiesced",
        Consistency::Crash => "guest not quiesced",
        Consistency::Offline => "the machine is off",
    };
    let made = format!("The {word} was made in {}, {state}.", words::duration(time));
    snapshot.warnings.iter().fold(made, |text, reason| format!("{text} {reason}."))
}
