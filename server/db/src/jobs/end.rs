//! How jobs end, or are tried again.

use super::Lease;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::events::{Event, notify};
use crate::ids::{JobId, RunId};
use crate::runs::recompute;
use domain::job::{Disposition, JobError, JobState};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use std::collections::BTreeSet;
use std::time::Duration;

const BACK_OFF_FIRST: Duration = Duration::from_secs(30);
const BACK_OFF_FACTOR: u32 = 4;
const BACK_OFF_MAX: Duration = Duration::from_secs(3600);

/// The pause before attempt `attempt + 1`: 30 s, 2 min, 8 min … at most an hour.
pub fn back_off(attempt: u32) -> Duration {
    let factor = BACK_OFF_FACTOR.saturating_pow(attempt.saturating_sub(1));
    BACK_OFF_FIRST.saturating_mul(factor).min(BACK_OFF_MAX)
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All done, with what it made, in the engine's shape.
    Succeeded(Value),
    /// Done, with something the operator should read.
    Warning(Value),
    /// Not done; whether it is tried again follows from the error's disposition and the attempts left.
    Error(JobError),
}

/// What happens to the row.
pub(super) enum Ended {
    Final(JobState, Option<Value>, Option<JobError>),
    Again(Duration, JobError),
}

impl Ended {
    pub(super) const fn state(&self) -> JobState {
        match self {
            Self::Final(state, ..) => *state,
            Self::Again(..) => JobState::Queued,
        }
    }
}

impl Database {
    /// Ends a job. An error to retry queues it again after [`back_off`], while attempts are left and nobody asked for
    /// its end. Says what state it came to.
    pub async fn finish(&self, lease: Lease, outcome: Outcome) -> Result<JobState> {
        self.end(lease, outcome, None).await
    }

    /// The same for an error, with a pause of the caller's choice.
    pub async fn retry_later(&self, lease: Lease, after: Duration, error: JobError) -> Result<JobState> {
        self.end(lease, Outcome::Error(JobError { disposition: Disposition::Retry, ..error }), Some(after)).await
    }

    async fn end(&self, lease: Lease, outcome: Outcome, after: Option<Duration>) -> Result<JobState> {
        let mut transaction = self.pool.begin().await?;
        let row: Option<(i32, i32, bool)> = sqlx::query_as(
            "select attempt, max_attempts, cancel_requested from job
             where job_id = $1 and fence = $2 and state = 'running' for update",
        )
        .bind(lease.job_id)
        .bind(lease.fence)
        .fetch_optional(&mut *transaction)
        .await?;
        let (attempt, max_attempts, cancel_requested) = row.ok_or(Error::LostLease(lease.job_id))?;
        let ended = match outcome {
            Outcome::Succeeded(result) => Ended::Final(JobState::Succeeded, Some(result), None),
            Outcome::Warning(result) => Ended::Final(JobState::Warning, Some(result), None),
            Outcome::Error(error) => match error.disposition {
                Disposition::Cancelled => Ended::Final(JobState::Cancelled, None, Some(error)),
                Disposition::Retry if cancel_requested => Ended::Final(JobState::Cancelled, None, Some(error)),
                Disposition::Retry if attempt < max_attempts => {
                    Ended::Again(after.unwrap_or_else(|| back_off(attempt.unsigned_abs())), error)
                }
                Disposition::Retry | Disposition::Fail => Ended::Final(JobState::Failed, None, Some(error)),
            },
        };
        let state = end_job(&mut transaction, lease, ended).await?;
        transaction.commit().await?;
        Ok(state)
    }
}

/// Another job that does the same is queued already, and only one of them may be: this one need not go on.
pub(super) async fn superseded(transaction: &mut Transaction<'_, Postgres>, lease: Lease) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "select exists (select from job j join job q using (kind, concurrency_key)
             where j.job_id = $1 and j.kind in ('inventory', 'reconcile', 'collect', 'retain') and q.state = 'queued')",
    )
    .bind(lease.job_id)
    .fetch_one(&mut **transaction)
    .await?)
}

/// Writes the end or the next try of a running job, and what follows for its run and for those who wait.
pub(super) async fn end_job(
    transaction: &mut Transaction<'_, Postgres>,
    lease: Lease,
    ended: Ended,
) -> Result<JobState> {
    let ended = match ended {
        Ended::Again(_, error) if superseded(transaction, lease).await? => {
            Ended::Final(JobState::Failed, None, Some(error))
        }
        other => other,
    };
    let state = ended.state();
    let (result, error, after) = match ended {
        Ended::Final(_, result, error) => (result, error, None),
        Ended::Again(after, error) => (None, Some(error), Some(after)),
    };
    let run_id: Option<Option<RunId>> = sqlx::query_scalar(
        "update job set state = $3, result = $4, error = $5, leased_by = null, lease_expires_at = null,
             phase = '', bytes_per_second = 0, updated_at = now(),
             run_after = case when $3 = 'queued' then now() + make_interval(secs => $6) else run_after end,
             finished_at = case when $3 = 'queued' then null else now() end
         where job_id = $1 and fence = $2 and state = 'running' returning run_id",
    )
    .bind(lease.job_id)
    .bind(lease.fence)
    .bind(state.as_str())
    .bind(result.map(Json))
    .bind(error.map(Json))
    .bind(after.unwrap_or_default().as_secs_f64())
    .fetch_optional(&mut **transaction)
    .await?;
    if let Some(run_id) = run_id.ok_or(Error::LostLease(lease.job_id))? {
        recompute(transaction, run_id).await?;
    }
    notify(transaction, Event::JobsWaiting).await?;
    Ok(state)
}

/// Ends queued jobs that the caller has locked, without any worker having had them.
pub(crate) async fn cancel_queued(
    transaction: &mut Transaction<'_, Postgres>,
    jobs: &[JobId],
    why: &str,
) -> Result<()> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let error = JobError { why: why.to_owned(), ..JobError::cancelled("The job was not begun.") };
    let runs: Vec<Option<RunId>> = sqlx::query_scalar(
        "update job set state = 'cancelled', error = $2, finished_at = now(), updated_at = now()
         where job_id = any($1) and state = 'queued' returning run_id",
    )
    .bind(&ids)
    .bind(Json(error))
    .fetch_all(&mut **transaction)
    .await?;
    let runs: BTreeSet<RunId> = runs.into_iter().flatten().collect();
    for run_id in runs {
        recompute(transaction, run_id).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_to_an_hour() {
        assert_eq!(back_off(1), Duration::from_secs(30));
        assert_eq!(back_off(2), Duration::from_secs(120));
        assert_eq!(back_off(0), Duration::from_secs(30));
        assert_eq!(back_off(40), BACK_OFF_MAX);
    }
}
