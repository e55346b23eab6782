//! Workers: which processes take jobs, whether they still do, and which jobs they may take (`jobs/lease.rs` asks).
//!
//! Owns: their rows and signs of life. Read next: `enrol.rs` for how one comes in, `place.rs` for what is theirs.

mod enrol;
mod place;

pub use enrol::{Enrolment, Reach, TOKEN_HOURS};

use enrol::{NOT_ALLOWED, code_of};

use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::WorkerId;
use serde::{Deserialize, Serialize};

/// A worker that was not heard of for so long is lost. It says something every ten seconds.
pub const LOST_SECONDS: u32 = 60;

/// Where a worker came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerKind {
    /// Within a server, beside the console.
    Server,
    /// On its own, enrolled.
    Worker,
}

impl WorkerKind {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Worker => "worker",
        }
    }
}

/// What a worker tells of itself when it starts.
#[derive(Debug, Clone)]
pub struct Presence {
    /// Its name, without a slash.
    pub name: String,
    /// Where it came from.
    pub kind: WorkerKind,
    /// It takes jobs of devices with one of these.
    pub tags: Vec<String>,
    /// And those of devices without one, although it has tags.
    pub also_untagged: bool,
    /// Its machine.
    pub host: String,
    /// Its program's version.
    pub version: String,
    /// Number of its process.
    pub process: u32,
    /// Jobs at the same time.
    pub slots: u32,
    /// Processors it has.
    pub processors: u32,
}

impl Database {
    /// Writes down that a worker starts. One that is not a server must have been enrolled: [`Error::WorkerGone`].
    pub async fn register_worker(&self, it: &Presence) -> Result<WorkerId> {
        if it.kind == WorkerKind::Server {
            sqlx::query("insert into worker (name, kind) values ($1, 'server') on conflict (name) do nothing")
                .bind(&it.name)
                .execute(&self.pool)
                .await?;
        }
        sqlx::query_scalar(
            "update worker set tags = $3, also_untagged = $4, host = $5, version = $6, process = $7, slots = $8,
                 processors = $9, load_percent = null, started_at = now(), seen_at = now(), stopped_at = null
             where name = $1 and kind = $2 returning worker_id",
        )
        .bind(&it.name)
        .bind(it.kind.as_str())
        .bind(&it.tags)
        .bind(it.also_untagged)
        .bind(&it.host)
        .bind(&it.version)
        .bind(i64::from(it.process))
        .bind(i32::try_from(it.slots).unwrap_or(i32::MAX))
        .bind(i32::try_from(it.processors).unwrap_or(i32::MAX))
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| Error::WorkerGone(it.name.clone()))
    }

    /// A sign of life, with the load of the last minute in hundredths of a process that wants to run.
    /// [`Error::WorkerGone`] when the worker was removed, or another process has taken its place.
    pub async fn worker_beat(&self, worker_id: WorkerId, it: &Presence, load_percent: Option<u32>) -> Result<()> {
        let changed = sqlx::query(
            "update worker set seen_at = now(), stopped_at = null, load_percent = $3
             where worker_id = $1 and process = $2 and host = $4",
        )
        .bind(worker_id)
        .bind(i64::from(it.process))
        .bind(load_percent.map(|load| i32::try_from(load).unwrap_or(i32::MAX)))
        .bind(&it.host)
        .execute(&self.pool)
        .await
        .map_err(Error::from);
        if changed.as_ref().is_err_and(|error| code_of(error).as_deref() == Some(NOT_ALLOWED)) {
            // Its account went while it was connected.
            return Err(Error::WorkerGone(it.name.clone()));
        }
        if changed?.rows_affected() == 0 { Err(Error::WorkerGone(it.name.clone())) } else { Ok(()) }
    }

    /// It stops by itself.
    pub async fn worker_stopped(&self, worker_id: WorkerId, it: &Presence) -> Result<()> {
        sqlx::query("update worker set stopped_at = now() where worker_id = $1 and process = $2 and host = $3")
            .bind(worker_id)
            .bind(i64::from(it.process))
            .bind(&it.host)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// From now on it takes no more jobs, or takes them again. What it works on goes on.
    pub async fn drain_worker(&self, worker_id: WorkerId, draining: bool) -> Result<()> {
        let changed = sqlx::query("update worker set draining = $2 where worker_id = $1")
            .bind(worker_id)
            .bind(draining)
            .execute(&self.pool)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(Error::not_found("worker", worker_id));
        }
        self.look_again().await
    }
}
