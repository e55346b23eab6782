//! Bringing hosts and the index back in line after anything died: no input, safe to run any number of times.
//!
//! Owns: what a pass over one device or one repository does.
//! Must never: touch what a running job holds, or what is not ours and nobody asked for.
//! Read next: `hosts.rs`, `undo.rs`, `index.rs`; `foreign.rs` for what goes only by a click.

pub mod foreign;
pub mod hosts;
pub mod index;
pub mod undo;

use crate::context::JobContext;
use db::Outcome;
use domain::job::JobError;

/// Runs the job: over a device, or over a repository.
pub async fn run(ctx: &JobContext) -> Result<Outcome, JobError> {
    if let Some(device) = ctx.job.device_id {
        hosts::reconcile(ctx, device).await
    } else if let Some(repository) = ctx.job.repository_id {
        index::reconcile(ctx, repository).await
    } else {
        Err(ctx.malformed())
    }
}
