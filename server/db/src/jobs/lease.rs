//! Taking, keeping and giving back the right to work on a job.

use super::end::{Ended, end_job, superseded};
use super::{Job, Lease};
use crate::column::Word;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::events::{Event, notify};
use crate::ids::{DeviceId, JobId, RunId, VmId};
use domain::job::{JobError, JobKind, JobState};
use domain::schedule::outcome;
use sqlx::{Postgres, Transaction};
use std::time::Duration;

/// How long a lease holds without a heartbeat.
pub const LEASE_SECONDS: u32 = 60;

/// Serialises the counting of running jobs and the taking of one more ("stillfrm" in ASCII).
const LEASE_LOCK: i64 = 0x7374_696c_6c66_726d;

/// Whether the worker `me` (`worker_id`, `server`, `tags`, `untagged`) may take the job `j`: the device's tag is one of its
/// own, and it sees the location. A job of a folder alone is for those that see the folder, whatever their tags.
macro_rules! may_take {
    () => {
        "(case when j.device_id is not null
              then exists (select from device d where d.device_id = j.device_id
                  and (d.worker_tag is null and me.untagged or d.worker_tag = any(me.tags)))
              else me.untagged or exists (select from repository r where r.repository_id = j.repository_id
                  and me.worker_id = any(r.seen_by)) end
          and (j.repository_id is null or exists (select from repository r where r.repository_id = j.repository_id
              and (r.kind <> 'folder' or r.seen_by = '{}' and me.server or me.worker_id = any(r.seen_by)))))"
    };
}
pub(crate) use may_take;

/// The job that is next, of those this worker may take: by priority; of the runs the one that has fewest jobs at work, so that
/// a large one does not keep the others waiting; of its jobs the oldest. Devices, datastores and repositories that have as
/// many jobs as they may are passed over. A worker without a row is a server that did not tell of itself.
///
/// Thousands may wait: what a run's jobs on a device have in common is looked at once for all of them (`batch`, `open`), and
/// only the first of each is looked for (index `job_waiting`).
const NEXT: &str = concat!(
    "with me as (
        select n.name, coalesce(w.worker_id, 0) as worker_id, coalesce(w.kind = 'server', true) as server,
            coalesce(w.tags, '{}') as tags, coalesce(w.draining, false) as draining,
            coalesce(w.kind = 'server' or cardinality(w.tags) = 0 or w.also_untagged, true) as untagged
        from (select split_part($1, '/', 1) as name) n left join worker w using (name)),
    running as (
        select job_id, run_id, device_id, repository_id, vm_id, kind, payload,
            split_part(leased_by, '/', 1) as worker from job
        where state = 'running' and kind in ('backup', 'restore')),
    busy_device as (
        select device_id from running join device using (device_id)
        group by device_id, max_jobs having count(*) >= max_jobs),
    busy_repository as (
        select repository_id from running join repository using (repository_id)
        group by repository_id, max_jobs having count(*) >= max_jobs),
    used_datastore as (
        select distinct r.job_id, r.device_id, k.datastore from running r join virtual_disk k using (vm_id)
        where r.kind = 'backup'
        union select job_id, device_id, payload->>'datastore' from running where kind = 'restore'),
    busy_datastore as (
        select device_id, datastore from used_datastore join device using (device_id)
        group by device_id, datastore, max_jobs_datastore having count(*) >= max_jobs_datastore),
    of_run as (select run_id, count(*) as jobs from running group by run_id),
    batch as materialized (
        select run_id, device_id, repository_id, kind, priority from job
        where state = 'queued' and run_after <= now() and kind = any($2)
        group by run_id, device_id, repository_id, kind, priority),
    open as materialized (
        select j.*, coalesce(of_run.jobs, 0) as jobs from me, batch j left join of_run using (run_id)
        where not me.draining and ",
    may_take!(),
    "       and (j.kind not in ('backup', 'restore')
                 or ((select count(*) from running where worker = me.name) < $3
                     and not exists (select from busy_device b where b.device_id = j.device_id)
                     and not exists (select from busy_repository b where b.repository_id = j.repository_id)))),
    candidate as (
        select first.job_id from open cross join lateral (
            select j.job_id, j.run_after from job j
            where j.state = 'queued' and j.run_after <= now() and j.kind = open.kind and j.priority = open.priority
                and coalesce(j.run_id, 0) = coalesce(open.run_id, 0)
                and coalesce(j.device_id, 0) = coalesce(open.device_id, 0)
                and j.repository_id is not distinct from open.repository_id
                and not exists (select from job r where r.state = 'running' and r.concurrency_key = j.concurrency_key)
                and (j.kind not in ('backup', 'restore')
                     or not exists (select from busy_datastore b where b.device_id = j.device_id
                         and (j.kind = 'restore' and b.datastore = j.payload->>'datastore'
                              or j.kind = 'backup' and exists (select from virtual_disk k
                                  where k.vm_id = j.vm_id and k.datastore = b.datastore))))
            order by j.run_after, j.job_id limit 1 for update of j skip locked) first
        order by open.priority desc, open.jobs, first.run_after, first.job_id limit 1)
    update job set state = 'running', fence = fence + 1, attempt = attempt + 1, leased_by = $1,
        lease_expires_at = now() + make_interval(secs => $4), started_at = now(), finished_at = null,
        phase = '', bytes_total = 0, bytes_done = 0, bytes_stored = 0, bytes_per_second = 0, updated_at = now()
    from candidate where job.job_id = candidate.job_id and job.state = 'queued' returning job.*"
);

/// Jobs reaped in one go.
const REAPED_MAX: i64 = 500;

/// How many copies may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseLimits {
    /// Backups and restores of this worker at a time, over all devices. Devices, their datastores and repositories have
    /// their own limits, for all workers together.
    pub copies: u32,
}

/// Answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Someone asked for the job's end.
    pub cancel_requested: bool,
    /// That was because its task's hours were over.
    pub window_ended: bool,
}

/// A job whose worker has died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaped {
    /// The job.
    pub job_id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Its device, where something may be left to remove.
    pub device_id: Option<DeviceId>,
    /// Its machine.
    pub vm_id: Option<VmId>,
    /// Its name, for the log.
    pub title: String,
    /// What became of it: queued again, failed, or cancelled.
    pub state: JobState,
}

#[derive(sqlx::FromRow)]
struct Expired {
    job_id: JobId,
    fence: i64,
    #[sqlx(try_from = "Word")]
    kind: JobKind,
    run_id: Option<RunId>,
    device_id: Option<DeviceId>,
    vm_id: Option<VmId>,
    title: String,
    attempt: i32,
    max_attempts: i32,
    cancel_requested: bool,
    window_ended: bool,
}

/// Lets no job be leased until the transaction ends.
pub(crate) async fn hold_leases(transaction: &mut Transaction<'_, Postgres>) -> Result<()> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(LEASE_LOCK).execute(&mut **transaction).await?;
    Ok(())
}

impl Database {
    /// Takes the next job of these kinds for [`LEASE_SECONDS`], if one is ready and the limits allow it.
    pub async fn lease_job(&self, worker: &str, kinds: &[JobKind], limits: LeaseLimits) -> Result<Option<Job>> {
        let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
        let mut transaction = self.pool.begin().await?;
        hold_leases(&mut transaction).await?;
        let job: Option<Job> = sqlx::query_as(NEXT)
            .bind(worker)
            .bind(kinds)
            .bind(i64::from(limits.copies))
            .bind(f64::from(LEASE_SECONDS))
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(job) = &job {
            sqlx::query("delete from job_disk where job_id = $1").bind(job.job_id).execute(&mut *transaction).await?;
            if let Some(run_id) = job.run_id {
                crate::runs::recompute(&mut transaction, run_id).await?;
            }
        }
        transaction.commit().await?;
        Ok(job)
    }

    /// Keeps the lease for another [`LEASE_SECONDS`].
    pub async fn heartbeat(&self, lease: Lease) -> Result<Heartbeat> {
        let beat: Option<(bool, bool)> = sqlx::query_as(
            "update job set lease_expires_at = now() + make_interval(secs => $3)
             where job_id = $1 and fence = $2 and state = 'running' returning cancel_requested, window_ended",
        )
        .bind(lease.job_id)
        .bind(lease.fence)
        .bind(f64::from(LEASE_SECONDS))
        .fetch_optional(&self.pool)
        .await?;
        let (cancel_requested, window_ended) = beat.ok_or(Error::LostLease(lease.job_id))?;
        Ok(Heartbeat { cancel_requested, window_ended })
    }

    /// Gives the job back because the server stops: queued again at once, and this attempt does not count.
    pub async fn release(&self, lease: Lease) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        if superseded(&mut transaction, lease).await? {
            let ended = Ended::Final(JobState::Cancelled, None, Some(JobError::cancelled("The server stopped.")));
            end_job(&mut transaction, lease, ended).await?;
            return Ok(transaction.commit().await?);
        }
        let run_id: Option<Option<RunId>> = sqlx::query_scalar(
            "update job set state = 'queued', attempt = greatest(attempt - 1, 0), run_after = now(), leased_by = null,
                 lease_expires_at = null, phase = '', bytes_per_second = 0, updated_at = now()
             where job_id = $1 and fence = $2 and state = 'running' returning run_id",
        )
        .bind(lease.job_id)
        .bind(lease.fence)
        .fetch_optional(&mut *transaction)
        .await?;
        let run_id = run_id.ok_or(Error::LostLease(lease.job_id))?;
        if let Some(run_id) = run_id {
            crate::runs::recompute(&mut transaction, run_id).await?;
        }
        notify(&mut transaction, Event::JobsWaiting).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Ends the leases of all workers whose name begins so, at once: the process that had them is known to be dead.
    /// [`Database::reap`] then returns their jobs.
    pub async fn expire_leases(&self, worker_prefix: &str) -> Result<u64> {
        let expired = sqlx::query(
            "update job set lease_expires_at = now() where state = 'running' and starts_with(leased_by, $1)",
        )
        .bind(worker_prefix)
        .execute(&self.pool)
        .await?;
        Ok(expired.rows_affected())
    }

    /// Returns jobs whose lease has run out: queued again after a pause, failed when it was the last attempt, cancelled
    /// when someone had asked for that.
    pub async fn reap(&self, pause: impl Fn(u32) -> Duration + Send) -> Result<Vec<Reaped>> {
        let mut transaction = self.pool.begin().await?;
        let expired: Vec<Expired> = sqlx::query_as(
            "select job_id, fence, kind, run_id, device_id, vm_id, title, attempt, max_attempts, cancel_requested,
                 window_ended
             from job where state = 'running' and lease_expires_at <= now()
             order by job_id limit $1 for update skip locked",
        )
        .bind(REAPED_MAX)
        .fetch_all(&mut *transaction)
        .await?;
        let mut reaped = Vec::with_capacity(expired.len());
        for job in expired {
            let error = worker_lost(&job.title);
            let ended = if job.window_ended {
                Ended::Final(JobState::Cancelled, None, Some(outcome::window_ended(&job.title)))
            } else if job.cancel_requested {
                Ended::Final(JobState::Cancelled, None, Some(JobError::cancelled("The job was stopped.")))
            } else if job.attempt >= job.max_attempts {
                Ended::Final(JobState::Failed, None, Some(error))
            } else {
                Ended::Again(pause(job.attempt.unsigned_abs()), error)
            };
            let lease = Lease { job_id: job.job_id, fence: job.fence };
            let state = end_job(&mut transaction, lease, ended).await?;
            reaped.push(Reaped {
                job_id: job.job_id,
                kind: job.kind,
                device_id: job.device_id,
                vm_id: job.vm_id,
                title: job.title,
                state,
            });
            debug_assert!(state == JobState::Queued || job.run_id.is_none() || state.is_final());
        }
        transaction.commit().await?;
        Ok(reaped)
    }
}

fn worker_lost(title: &str) -> JobError {
    JobError::retry(
        "job.worker_lost",
        format!("The work on “{title}” ended without a word."),
        "The server or worker that did it stopped, or lost its database for too long.",
        "What it left on the host is removed; look at the server's log for the cause.",
    )
}
