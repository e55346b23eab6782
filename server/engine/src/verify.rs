//! Verification of a repository: everything that points need is read and checked.
//!
//! Owns: what a report means for points and their rows. Must never: change the repository.

use crate::context::JobContext;
use crate::progress::Tally;
use crate::{errors, words};
use db::Outcome;
use domain::job::JobError;
use jiff::SignedDuration;
use repository::{Affected, Damage, Repository, VerifyOptions, VerifyProgress, VerifyReport};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Progress of a verification is shown under this key: there is no disk.
const WHOLE: i32 = 0;
/// A verification that was cut short is gone on with for so long after it began.
const RESUME_WITHIN: SignedDuration = SignedDuration::from_hours(24);
/// Damaged objects that are written into the log one by one.
const DAMAGE_LINES_MAX: usize = 50;

struct Figures(Arc<Tally>);

impl VerifyProgress for Figures {
    fn planned(&self, bytes: u64) {
        self.0.add_planned(WHOLE, bytes);
    }

    fn read(&self, bytes: u64) {
        self.0.add_done(WHOLE, bytes);
    }
}

/// Runs the job.
pub async fn run(ctx: &JobContext) -> Result<Outcome, JobError> {
    let Some(id) = ctx.job.repository_id else { return Err(ctx.malformed()) };
    let row = ctx.essential(ctx.core.db.repository(id).await)?;
    let what = format!("The repository “{}” was not found whole.", row.name);
    ctx.phase("Opening the repository").await;
    let repository = ctx.core.repository(&what, &row).await?;
    ctx.phase("Reading and checking").await;
    let tally = Arc::new(Tally::new([WHOLE]));
    let reporter = ctx.report(Arc::clone(&tally), BTreeMap::from([(WHOLE, "All chunks".to_owned())]));
    let options = VerifyOptions { resume: was_cut_short(ctx, &repository).await, ..VerifyOptions::default() };
    let report = repository.verify(options, Arc::new(Figures(tally)), ctx.stop.token()).await;
    reporter.finish().await;
    let report = report.map_err(|error| errors::repository(&what, &error))?;
    stamp(ctx, id, &report).await?;
    let damaged = report.damage.len();
    if damaged == 0 {
        let points = words::count(report.points as usize, "restore point");
        ctx.info(&format!("All well: {points}, {} read.", words::bytes(report.bytes_read))).await;
        return Ok(ctx.done(json!(report)));
    }
    for damage in report.damage.iter().take(DAMAGE_LINES_MAX) {
        ctx.warn(&damage_text(damage)).await;
    }
    Err(JobError::fail(
        "verify.damage",
        what,
        format!("{} damaged or missing.", words::count(damaged, "object")),
        "Look at the disk below the repository. Run a full backup of the affected machines.",
    ))
}

/// Is there a verification to go on with? One of long ago is begun again: what it read says little about today.
async fn was_cut_short(ctx: &JobContext, repository: &Repository) -> bool {
    let verified = repository.verified().await.unwrap_or_default();
    let Some(began) = verified.unfinished_since else { return false };
    let is_recent = ctx.core.clock.now().duration_since(began) < RESUME_WITHIN;
    if is_recent {
        ctx.info(&format!("Going on with the verification that began at {began} and was cut short.")).await;
    }
    is_recent
}

/// Each point's row says when it was checked and what is wrong with it.
async fn stamp(ctx: &JobContext, id: db::RepositoryId, report: &VerifyReport) -> Result<(), JobError> {
    let mut damage: HashMap<uuid::Uuid, String> = HashMap::new();
    for found in &report.damage {
        for affected in &found.affected {
            damage.entry(affected.point.0).or_insert_with(|| damage_text(found));
        }
    }
    let rows = ctx.essential(ctx.core.db.points_of_repository(id).await)?;
    for row in rows {
        let error = damage.get(&row.point_id.0).map(String::as_str);
        ctx.essential(ctx.core.db.record_verified(row.point_id, error).await)?;
    }
    Ok(())
}

fn damage_text(damage: &Damage) -> String {
    let affected: Vec<String> = damage.affected.iter().map(affected_text).collect();
    let effect = if affected.is_empty() { "no restore point".to_owned() } else { affected.join(", ") };
    format!("{}: {}. Affected: {effect}.", damage.object, damage.reason)
}

fn affected_text(affected: &Affected) -> String {
    let bytes = affected.extents.iter().map(|extent| extent.length).sum();
    format!("{} {} ({})", affected.machine, affected.label, words::bytes(bytes))
}
