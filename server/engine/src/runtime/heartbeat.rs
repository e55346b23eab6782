//! Keeping a job's lease, and giving the job up when it cannot be kept.
//!
//! Owns: the worker's side of the lease. Must never: believe in a lease longer than the database does.

use crate::core::Core;
use crate::stop::{Stop, StopReason};
use db::Lease;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// A renewal that failed is tried again this much sooner than the next would be due.
const TRIES_PER_BEAT: u32 = 10;

/// Renews until the job's task is over (the caller drops or aborts this future). `look` wakes it early when the
/// database says that something about the job changed.
pub async fn keep(core: Arc<Core>, lease: Lease, stop: Stop, look: Arc<Notify>) {
    let mut last_success = Instant::now();
    let every = core.config.heartbeat_every;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = look.notified() => {}
        }
        let deadline = last_success + core.config.heartbeat_deadline;
        match tokio::time::timeout_at(deadline, core.db.heartbeat(lease)).await {
            Ok(Ok(beat)) => {
                last_success = Instant::now();
                if beat.window_ended {
                    stop.now(StopReason::HoursEnded);
                } else if beat.cancel_requested {
                    stop.now(StopReason::Operator);
                }
            }
            Err(_) | Ok(Err(db::Error::LostLease(_))) => return stop.now(StopReason::LeaseLost),
            Ok(Err(error)) => {
                tracing::warn!(job = %lease.job_id, error = %crate::errors::chain(&error), "heartbeat failed");
                if last_success.elapsed() >= core.config.heartbeat_deadline {
                    return stop.now(StopReason::LeaseLost);
                }
                // A database that comes back must find the lease renewed before it runs out.
                ticks.reset_after(every / TRIES_PER_BEAT);
            }
        }
    }
}
