//! Giving back the space that no restore point needs, while backups and restores go on.
//!
//! Owns: when it is done for a repository and what its outcome says. Must never: decide what is needed; the
//! repository does, from its own manifests and leases.

use crate::context::JobContext;
use crate::progress::Tally;
use crate::{errors, space, words};
use db::Outcome;
use domain::job::JobError;
use repository::{CollectOptions, CollectProgress, CollectReport};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Progress of a collection is shown under this key: there is no disk.
const WHOLE: i32 = 0;

struct Figures(Arc<Tally>);

impl CollectProgress for Figures {
    fn planned(&self, bytes: u64) {
        self.0.add_planned(WHOLE, bytes);
    }

    fn copied(&self, bytes: u64) {
        self.0.add_done(WHOLE, bytes);
    }
}

/// Runs the job.
pub async fn run(ctx: &JobContext) -> Result<Outcome, JobError> {
    let Some(id) = ctx.job.repository_id else { return Err(ctx.malformed()) };
    let row = ctx.essential(ctx.core.db.repository(id).await)?;
    let what = format!("Space in “{}” could not be given back.", row.name);
    ctx.phase("Opening the repository").await;
    let repository = ctx.core.repository(&what, &row).await?;
    ctx.phase("Giving space back").await;
    let tally = Arc::new(Tally::new([WHOLE]));
    let reporter = ctx.report(Arc::clone(&tally), BTreeMap::from([(WHOLE, "Packs rewritten".to_owned())]));
    ctx.essential(ctx.core.db.begin_collection(id).await)?;
    let collected = repository.collect(CollectOptions::default(), Arc::new(Figures(tally)), ctx.stop.token()).await;
    reporter.finish().await;
    let report = match collected {
        Ok(report) => report,
        Err(error) => {
            if let Err(lost) = ctx.core.db.mark_collect_due(id).await {
                tracing::warn!(repository = %row.name, error = %errors::chain(&lost), "not due again");
            }
            return Err(errors::repository(&what, &error));
        }
    };
    let unfinished = !report.waiting_for.is_empty();
    let freed = report.freed_bytes.max(0).unsigned_abs();
    ctx.essential(ctx.core.db.record_collected(id, freed, unfinished).await)?;
    space::note(&ctx.core, &repository, &row).await;
    say(ctx, &report).await;
    Ok(ctx.done(json!(report)))
}

async fn say(ctx: &JobContext, report: &CollectReport) {
    let freed = match report.freed_bytes {
        0 => "Nothing to give back".to_owned(),
        bytes if bytes < 0 => {
            format!("{} written, to be gained back by the next run", words::bytes(bytes.unsigned_abs()))
        }
        bytes => format!("{} given back", words::bytes(bytes.unsigned_abs())),
    };
    let deleted = words::count(report.packs_deleted as usize, "pack");
    let rewritten = words::count(report.packs_rewritten as usize, "pack");
    ctx.info(&format!("{freed}: {deleted} deleted, {rewritten} rewritten.")).await;
    if !report.waiting_for.is_empty() {
        let jobs = words::count(report.waiting_for.len(), "job");
        let waiting = words::bytes(report.bytes_waiting);
        ctx.info(&format!(
            "{waiting} more when {jobs} that may still need it {} done.",
            if report.waiting_for.len() == 1 { "is" } else { "are" }
        ))
        .await;
    }
    if report.chunks_missing > 0 {
        let chunks = words::count(report.chunks_missing as usize, "chunk");
        ctx.warn(&format!("{chunks} that restore points need cannot be found. Verify the repository.")).await;
    }
}
