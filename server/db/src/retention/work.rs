//! The job's part: what to look at, marking, and what is marked. A mark is the journal: whoever finds one goes on.

use super::load::load;
use crate::column::Time;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{JobId, PointId, RepositoryId, VmId};
use crate::jobs::{Job, Lease, hold_leases};
use domain::job::JobKind;
use domain::retention::Reason;
use jiff::Timestamp;
use sqlx::{Postgres, Transaction};
use std::time::Duration;

/// A commit may come so much later than its row's time: a look reaches back so far before the one before.
const LOOK_BACK_SECONDS: i32 = 3600;

/// What came of marking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marked {
    /// Points that go.
    pub going: usize,
    /// Points that would, but are in use.
    pub in_use: usize,
}

/// A point whose manifest is to be removed.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Expiring {
    /// Which.
    pub point_id: PointId,
    /// The machine's name then.
    pub machine_name: String,
    /// Moment of its snapshot.
    #[sqlx(try_from = "Time")]
    pub taken_at: Timestamp,
    /// Why it goes.
    #[sqlx(rename = "expiring_why")]
    pub why: String,
}

impl Database {
    /// Machines to look at in a repository: all that have points there when the last look at all of them is longer ago
    /// than `all_every`, else those with new ones. With the moment of asking and whether it is all.
    pub async fn machines_to_retain(
        &self,
        repository_id: RepositoryId,
        all_every: Duration,
    ) -> Result<(Vec<VmId>, Timestamp, bool)> {
        let (Time(now), all): (Time, bool) = sqlx::query_as(
            "select now(), retained_at is null
                 or coalesce(retained_fully_at, '-infinity') <= now() - make_interval(secs => $2)
             from repository where repository_id = $1",
        )
        .bind(repository_id)
        .bind(all_every.as_secs_f64())
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| Error::not_found("repository", repository_id))?;
        let machines = sqlx::query_scalar(
            "select distinct p.vm_id from restore_point p join repository r using (repository_id)
             where p.repository_id = $1 and p.vm_id is not null and p.expiring_since is null
                 and ($2 or p.created_at >= r.retained_at - make_interval(secs => $3)) order by 1",
        )
        .bind(repository_id)
        .bind(all)
        .bind(f64::from(LOOK_BACK_SECONDS))
        .fetch_all(&self.pool)
        .await?;
        Ok((machines, now, all))
    }

    /// Decides about the points of these machines and marks those that go. Leasing waits meanwhile: a backup that
    /// begins afterwards does not build on what was marked, one that began before is seen.
    pub async fn mark_by_rules(&self, lease: Lease, repository_id: RepositoryId, machines: &[VmId]) -> Result<Marked> {
        let mut transaction = self.pool.begin().await?;
        hold_leases(&mut transaction).await?;
        let held: Option<JobId> = sqlx::query_scalar(
            "select job_id from job where job_id = $1 and fence = $2 and state = 'running' for share",
        )
        .bind(lease.job_id)
        .bind(lease.fence)
        .fetch_optional(&mut *transaction)
        .await?;
        if held.is_none() {
            return Err(Error::LostLease(lease.job_id));
        }
        lock(&mut transaction, repository_id, machines).await?;
        let Time(now) = sqlx::query_scalar("select now()").fetch_one(&mut *transaction).await?;
        let (mut marked, mut going, mut why) = (Marked::default(), Vec::new(), Vec::new());
        for machine in load(&mut transaction, repository_id, machines).await? {
            for verdict in machine.decide(now) {
                marked.in_use += usize::from(matches!(verdict.reasons.as_slice(), [Reason::Busy(_)]));
                if let (true, Some(point)) = (verdict.goes(), machine.points.iter().find(|it| it.id == verdict.id)) {
                    going.push(point.id.0);
                    why.push(machine.why(point));
                }
            }
        }
        marked.going = going.len();
        sqlx::query(
            "update restore_point p set expiring_since = now(), expiring_why = g.why
             from unnest($1::uuid[], $2::text[]) as g (point_id, why)
             where p.point_id = g.point_id and p.expiring_since is null",
        )
        .bind(&going)
        .bind(&why)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(marked)
    }

    /// Points whose manifests are to be removed, also of a job that died in the middle of it.
    pub async fn expiring_points(&self, repository_id: RepositoryId) -> Result<Vec<Expiring>> {
        Ok(sqlx::query_as(
            "select point_id, machine_name, taken_at, expiring_why from restore_point
             where repository_id = $1 and expiring_since is not null order by expiring_since, taken_at, point_id",
        )
        .bind(repository_id)
        .fetch_all(&self.pool)
        .await?)
    }

    /// A look is done that began then: at all machines, or at those with new points.
    pub async fn record_retained(&self, repository_id: RepositoryId, began: Timestamp, all: bool) -> Result<()> {
        sqlx::query(
            "update repository set retained_at = $2,
                 retained_fully_at = case when $3 then $2 else retained_fully_at end where repository_id = $1",
        )
        .bind(repository_id)
        .bind(Time(began))
        .bind(all)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Repositories with points whose last look at all machines is longer ago than that: id and name.
    pub async fn repositories_to_retain(&self, all_every: Duration) -> Result<Vec<(RepositoryId, String)>> {
        Ok(sqlx::query_as(
            "select repository_id, name from repository r
             where coalesce(retained_fully_at, '-infinity') <= now() - make_interval(secs => $1)
                 and exists (select from restore_point p where p.repository_id = r.repository_id)
             order by repository_id",
        )
        .bind(all_every.as_secs_f64())
        .fetch_all(&self.pool)
        .await?)
    }

    /// The last clean-up worth telling of: the newest job unless it found nothing to do, else the last that removed some.
    pub async fn newest_clean_up(&self, repository_id: RepositoryId) -> Result<Option<Job>> {
        Ok(sqlx::query_as(
            "select j.* from job j where j.kind = $2 and j.repository_id = $1
             order by (coalesce((j.result->>'removed')::bigint, 0) > 0
                       or (j.state not in ('succeeded', 'cancelled') and not exists (select from job n
                           where n.kind = $2 and n.repository_id = $1 and n.job_id > j.job_id))) desc,
                 j.job_id desc limit 1",
        )
        .bind(repository_id)
        .bind(JobKind::Retain.as_str())
        .fetch_optional(&self.pool)
        .await?)
    }

    /// The newest job that removed, or is to remove, points of a repository.
    pub async fn newest_retain_job(&self, repository_id: RepositoryId) -> Result<Option<Job>> {
        Ok(sqlx::query_as("select * from job where kind = $2 and repository_id = $1 order by job_id desc limit 1")
            .bind(repository_id)
            .bind(JobKind::Retain.as_str())
            .fetch_optional(&self.pool)
            .await?)
    }
}

/// Rules, pins and restores that come now wait for the transaction; those that came before are seen by it.
async fn lock(
    transaction: &mut Transaction<'_, Postgres>,
    repository_id: RepositoryId,
    machines: &[VmId],
) -> Result<()> {
    let ids: Vec<i64> = machines.iter().map(|vm| vm.0).collect();
    sqlx::query(
        "select from backup_task where task_id in (select task_id from restore_point
                 where repository_id = $1 and vm_id = any($2) and expiring_since is null)
             or task_id in (select task_id from backup_task_machine where vm_id = any($2))
         order by task_id for share",
    )
    .bind(repository_id)
    .bind(&ids)
    .execute(&mut **transaction)
    .await?;
    sqlx::query(
        "select from restore_point where repository_id = $1 and vm_id = any($2) and expiring_since is null
         order by point_id for update",
    )
    .bind(repository_id)
    .bind(&ids)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
