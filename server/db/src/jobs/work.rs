//! What a worker tells while it works: progress and log.

use super::Lease;
use crate::column::{Time, Word, size};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::events::{Event, notify};
use crate::ids::{JobId, PointId, RunId};
use domain::job::LogLevel;
use jiff::Timestamp;

/// A message is cut after this many bytes.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Later lines of a job are dropped; its warnings are counted still.
const LOG_LINES_MAX: i32 = 10_000;

/// How far a job is. Write it at most twice a second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes to read or write, as far as known.
    pub bytes_total: u64,
    /// Of these, done.
    pub bytes_done: u64,
    /// Bytes the repository grew by.
    pub bytes_stored: u64,
    /// Speed of late.
    pub bytes_per_second: u64,
    /// Its disks; ones that are left out keep what they had.
    pub disks: Vec<DiskProgress>,
}

/// How far a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskProgress {
    /// Device key.
    pub disk_key: i32,
    /// Label.
    pub label: String,
    /// Bytes to read or write.
    pub bytes_total: u64,
    /// Of these, done.
    pub bytes_done: u64,
    /// Bytes the repository grew by.
    pub bytes_stored: u64,
}

/// A line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct LogLine {
    /// Ascends with time.
    pub log_id: i64,
    /// When.
    #[sqlx(try_from = "Time")]
    pub at: Timestamp,
    /// How grave.
    #[sqlx(try_from = "Word")]
    pub level: LogLevel,
    /// In words.
    pub message: String,
}

impl Database {
    /// Writes down which point the job is about to commit.
    pub async fn intend_point(&self, lease: Lease, point_id: PointId) -> Result<()> {
        let changed = sqlx::query(
            "update job set point_id = $3, updated_at = now() where job_id = $1 and fence = $2 and state = 'running'",
        )
        .bind(lease.job_id)
        .bind(lease.fence)
        .bind(point_id)
        .execute(&self.pool)
        .await?;
        if changed.rows_affected() == 0 { Err(Error::LostLease(lease.job_id)) } else { Ok(()) }
    }

    /// Says what the job is doing, in words.
    pub async fn set_phase(&self, lease: Lease, phase: &str) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let run_id: Option<Option<RunId>> = sqlx::query_scalar(
            "update job set phase = $3, updated_at = now()
             where job_id = $1 and fence = $2 and state = 'running' returning run_id",
        )
        .bind(lease.job_id)
        .bind(lease.fence)
        .bind(phase)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(run_id) = run_id.ok_or(Error::LostLease(lease.job_id))? {
            notify(&mut transaction, Event::RunChanged(run_id)).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Says how far the job is.
    pub async fn progress(&self, lease: Lease, progress: &Progress) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let run_id: Option<Option<RunId>> = sqlx::query_scalar(
            "update job set bytes_total = $3, bytes_done = $4, bytes_stored = $5, bytes_per_second = $6,
                 updated_at = now()
             where job_id = $1 and fence = $2 and state = 'running' returning run_id",
        )
        .bind(lease.job_id)
        .bind(lease.fence)
        .bind(size(progress.bytes_total))
        .bind(size(progress.bytes_done))
        .bind(size(progress.bytes_stored))
        .bind(size(progress.bytes_per_second))
        .fetch_optional(&mut *transaction)
        .await?;
        let run_id = run_id.ok_or(Error::LostLease(lease.job_id))?;
        for disk in &progress.disks {
            sqlx::query(
                "insert into job_disk (job_id, disk_key, label, bytes_total, bytes_done, bytes_stored)
                 values ($1, $2, $3, $4, $5, $6)
                 on conflict (job_id, disk_key) do update set label = excluded.label,
                     bytes_total = excluded.bytes_total, bytes_done = excluded.bytes_done,
                     bytes_stored = excluded.bytes_stored",
            )
            .bind(lease.job_id)
            .bind(disk.disk_key)
            .bind(&disk.label)
            .bind(size(disk.bytes_total))
            .bind(size(disk.bytes_done))
            .bind(size(disk.bytes_stored))
            .execute(&mut *transaction)
            .await?;
        }
        if let Some(run_id) = run_id {
            notify(&mut transaction, Event::RunChanged(run_id)).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Adds a line to the job's log. Never a secret.
    pub async fn log(&self, lease: Lease, level: LogLevel, message: &str) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let job: Option<(Option<RunId>, i32)> = sqlx::query_as(
            "update job set log_lines = log_lines + 1, warnings = warnings + $3
             where job_id = $1 and fence = $2 and state = 'running' returning run_id, log_lines",
        )
        .bind(lease.job_id)
        .bind(lease.fence)
        .bind(i32::from(level == LogLevel::Warning))
        .fetch_optional(&mut *transaction)
        .await?;
        let (run_id, lines) = job.ok_or(Error::LostLease(lease.job_id))?;
        if lines <= LOG_LINES_MAX {
            let message = if lines == LOG_LINES_MAX { "The log is full; later lines are not kept." } else { message };
            sqlx::query("insert into job_log (job_id, level, message) values ($1, $2, $3)")
                .bind(lease.job_id)
                .bind(level.as_str())
                .bind(cut(message))
                .execute(&mut *transaction)
                .await?;
        }
        if let Some(run_id) = run_id {
            notify(&mut transaction, Event::RunChanged(run_id)).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The job's log after `after` (0: from its beginning), oldest first.
    pub async fn job_log(&self, job_id: JobId, after: i64, limit: u32) -> Result<Vec<LogLine>> {
        Ok(sqlx::query_as(
            "select log_id, at, level, message from job_log where job_id = $1 and log_id > $2 order by log_id limit $3",
        )
        .bind(job_id)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?)
    }
}

/// At most [`MESSAGE_BYTES_MAX`], on a character's border, and without the one character Postgres refuses.
fn cut(message: &str) -> String {
    let mut end = MESSAGE_BYTES_MAX.min(message.len());
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.get(..end).unwrap_or_default().replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = format!("{}ß tail\0", "x".repeat(MESSAGE_BYTES_MAX - 1));
        assert_eq!(cut(&message), "x".repeat(MESSAGE_BYTES_MAX - 1));
        assert_eq!(cut("a\0b"), "a\u{fffd}b");
    }
}
