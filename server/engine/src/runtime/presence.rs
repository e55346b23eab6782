//! A worker's signs of life: that it started, that it is still there and how busy its machine is, that it stops.
//!
//! Owns: that a worker which was removed or replaced hears of it. Must never: decide about a job; leases do that.

use crate::core::Core;
use crate::errors;
use db::{Presence, WorkerId, WorkerKind};
use std::sync::Arc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Where Linux says how many processes want to run.
const LOAD_FILE: &str = "/proc/loadavg";

/// A worker whose start is written down.
pub struct Present {
    core: Arc<Core>,
    it: Presence,
    worker_id: WorkerId,
}

impl Present {
    /// Writes down that this worker starts.
    pub async fn announce(core: &Arc<Core>) -> db::Result<Self> {
        let config = &core.config;
        let it = Presence {
            name: config.worker_name.clone(),
            kind: config.worker_kind,
            tags: config.tags.clone(),
            also_untagged: config.also_untagged,
            host: config.server_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            slots: u32::try_from(config.slots).unwrap_or(u32::MAX),
            processors: std::thread::available_parallelism()
                .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        };
        let worker_id = core.db.register_worker(&it).await?;
        Ok(Self { core: Arc::clone(core), it, worker_id })
    }

    /// Says so as often as a lease is renewed, until `stopping`. A worker that has no row or account any more, or whose row is another
    /// process's, cancels `gone`; a server writes itself down again.
    pub async fn keep(mut self, stopping: CancellationToken, gone: CancellationToken) {
        let mut ticks = tokio::time::interval(self.core.config.heartbeat_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.beat().await {
                tracing::warn!(error = %errors::chain(&error), "the sign of life");
                if matches!(error, db::Error::WorkerGone(_) | db::Error::NotLetIn(_)) {
                    return gone.cancel();
                }
            }
        }
        if let Err(error) = self.core.db.worker_stopped(self.worker_id, &self.it).await {
            tracing::warn!(error = %errors::chain(&error), "the good-bye");
        }
    }

    async fn beat(&mut self) -> db::Result<()> {
        match self.core.db.worker_beat(self.worker_id, &self.it, load_percent()).await {
            Err(db::Error::WorkerGone(_)) if self.it.kind == WorkerKind::Server => {
                self.worker_id = self.core.db.register_worker(&self.it).await?;
                Ok(())
            }
            beat => beat,
        }
    }
}

/// Processes that want to run, over the last minute, in hundredths.
fn load_percent() -> Option<u32> {
    let text = std::fs::read_to_string(LOAD_FILE).ok()?;
    let load: f64 = text.split(' ').next()?.parse().ok()?;
    Some((load * 100.0).round() as u32)
}
