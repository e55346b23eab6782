//! `stillframe repo gc`: gives back the space of what no restore point needs.

use clap::Args;
use repository::{CollectOptions, CollectReport, NoProgress, Repository};
use std::io::Write;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use super::report::{json, size};
use super::{Place, RepoError};

#[derive(Debug, Args)]
pub struct GcArgs {
    #[command(flatten)]
    pub place: Place,
    /// Rewrite packs of which less than this is needed, in percent; 0 deletes only what nothing needs
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u8).range(0..=100))]
    repack_below: u8,
    /// Rewrite at most so many MiB in this run
    #[arg(long)]
    repack_max_mib: Option<u64>,
    /// Rewrite at most so many MiB in a second
    #[arg(long)]
    rate_mib: Option<u64>,
    /// Wait for backups that run; else the next run deletes what they may still refer to
    #[arg(long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it, and prints what it came to.
pub async fn run(repository: &Repository, args: &GcArgs, out: &mut (dyn Write + Send)) -> Result<(), RepoError> {
    let usual = CollectOptions::default();
    let options = CollectOptions {
        repack_below_percent: args.repack_below,
        repack_bytes_max: args.repack_max_mib.map_or(usual.repack_bytes_max, |mib| mib.saturating_mul(1 << 20)),
        rate_bytes_per_second: args.rate_mib.map(|mib| mib.saturating_mul(1 << 20)),
        wait: args.wait,
        ..usual
    };
    let report = repository.collect(options, Arc::new(NoProgress), &CancellationToken::new()).await?;
    if args.json { json(&report, out) } else { text(&report, out) }
}

fn text(report: &CollectReport, out: &mut (dyn Write + Send)) -> Result<(), RepoError> {
    let freed = report.freed_bytes;
    let word = if freed < 0 { "more taken for now" } else { "freed" };
    writeln!(out, "{} {word}", size(freed.unsigned_abs()))?;
    let (deleted, rewritten, kept) = (report.packs_deleted, report.packs_rewritten, report.packs_kept);
    writeln!(out, "Packs: {deleted} deleted, {rewritten} rewritten, {kept} kept")?;
    for waiting in &report.waiting_for {
        let point = waiting.point.map(|point| format!(", restore point {point}")).unwrap_or_default();
        writeln!(out, "Waiting for {}{point}, last heard of {}", waiting.who, waiting.renewed_at)?;
    }
    if report.bytes_waiting > 0 {
        writeln!(out, "{} will be freed by a later run", size(report.bytes_waiting))?;
    }
    if report.bytes_locked > 0 {
        writeln!(out, "{} are locked until their retention ends", size(report.bytes_locked))?;
    }
    if report.leases_voided > 0 {
        writeln!(out, "Backups that were given up: {}", report.leases_voided)?;
    }
    if report.packs_unreadable > 0 || report.chunks_missing > 0 {
        let (packs, chunks) = (report.packs_unreadable, report.chunks_missing);
        writeln!(out, "Damage: {packs} packs cannot be read, {chunks} chunks are missing; run verify")?;
    }
    Ok(())
}
