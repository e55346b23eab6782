//! Repositories.

use crate::column::{MaybeBytes, MaybeTime, Time};
use crate::ids::RepositoryId;
use crate::{Database, Result};
use domain::job::JobError;
use jiff::Timestamp;

/// A repository. Its passphrase is not among the facts.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RepositoryLine {
    /// Its id.
    pub repository_id: RepositoryId,
    /// Name.
    pub name: String,
    /// `folder`, `smb`, `nfs` or `s3`.
    pub kind: String,
    /// Place.
    pub path: String,
    /// Made or added.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// Of the file system.
    #[sqlx(try_from = "MaybeBytes")]
    pub capacity_bytes: Option<u64>,
    /// Of the file system.
    #[sqlx(try_from = "MaybeBytes")]
    pub free_bytes: Option<u64>,
    /// By the repository.
    #[sqlx(try_from = "MaybeBytes")]
    pub used_bytes: Option<u64>,
    /// Last looked at.
    #[sqlx(try_from = "MaybeTime")]
    pub checked_at: Option<Timestamp>,
    /// What was wrong then.
    #[sqlx(json(nullable))]
    pub check_error: Option<JobError>,
    /// When space was last given back.
    #[sqlx(try_from = "MaybeTime")]
    pub collected_at: Option<Timestamp>,
    /// How much then, bytes.
    #[sqlx(try_from = "MaybeBytes")]
    pub collected_bytes: Option<u64>,
    /// There is more to give back.
    pub collect_due: bool,
    /// Giving space back waits or runs.
    pub collecting: bool,
    /// No rule leaves a machine fewer points; 0 = no floor.
    pub floor_points: i32,
    /// No rule lets a younger point go, days; 0 = no floor.
    pub floor_days: i32,
    /// Restore points.
    pub points: i64,
    /// Machines with points in it.
    pub machines: i64,
    /// Bytes of the machines' disks in those points, as restored.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Bytes the points added.
    #[sqlx(try_from = "i64")]
    pub stored_bytes: u64,
    /// Tasks that write to it.
    pub tasks: i64,
    /// Oldest proof among the points; `None` when one was never read back.
    #[sqlx(try_from = "MaybeTime")]
    pub verified_at: Option<Timestamp>,
    /// Points that were read back without an error.
    pub verified_points: i64,
    /// Points with an error.
    pub damaged_points: i64,
    /// A check that waits or runs.
    pub verifying: bool,
    /// Bytes it reads.
    #[sqlx(try_from = "i64")]
    pub verify_total_bytes: u64,
    /// Of them.
    #[sqlx(try_from = "i64")]
    pub verify_done_bytes: u64,
}

impl RepositoryLine {
    /// Bytes the repository takes: what was measured last, or at least what its points added since.
    pub fn taken_bytes(&self) -> u64 {
        self.used_bytes.unwrap_or_default().max(self.stored_bytes)
    }
}

const QUERY: &str = "
    select r.repository_id, r.name, r.kind, r.path, r.created_at, r.capacity_bytes, r.free_bytes, r.used_bytes,
           r.checked_at, r.check_error, r.collected_at, r.collected_bytes, r.collect_due, r.floor_points, r.floor_days,
           exists (select from job j where j.repository_id = r.repository_id and j.kind = 'collect'
                   and j.state in ('queued', 'running')) as collecting,
           coalesce(p.points, 0) as points, coalesce(p.machines, 0) as machines,
           coalesce(p.size_bytes, 0)::bigint as size_bytes, coalesce(p.stored_bytes, 0)::bigint as stored_bytes,
           (select count(*) from backup_task t where t.repository_id = r.repository_id and t.deleted_at is null) as tasks,
           case when p.points = p.verified_points then p.verified_at end as verified_at,
           coalesce(p.verified_points, 0) as verified_points, coalesce(p.damaged_points, 0) as damaged_points,
           v.job_id is not null as verifying,
           coalesce(v.bytes_total, 0) as verify_total_bytes, coalesce(v.bytes_done, 0) as verify_done_bytes
    from repository r
    left join (select repository_id, count(*) as points, count(distinct machine_key) as machines,
                      sum(size_bytes) as size_bytes, sum(bytes_stored) as stored_bytes, min(verified_at) as verified_at,
                      count(*) filter (where verified_at is not null and verify_error is null) as verified_points,
                      count(*) filter (where verify_error is not null) as damaged_points
               from restore_point where expiring_since is null group by repository_id) p using (repository_id)
    left join lateral (select job_id, bytes_total, bytes_done from job j where j.repository_id = r.repository_id and j.kind = 'verify'
                       and j.state in ('queued', 'running') order by job_id desc limit 1) v on true
    where $1::uuid is null or r.repository_id = $1
    order by lower(r.name)";

/// All repositories, by name.
pub async fn repositories(db: &Database) -> Result<Vec<RepositoryLine>> {
    Ok(sqlx::query_as(QUERY).bind(None::<RepositoryId>).fetch_all(&db.pool).await?)
}

/// One of them.
pub async fn repository_line(db: &Database, repository: RepositoryId) -> Result<Option<RepositoryLine>> {
    Ok(sqlx::query_as(QUERY).bind(Some(repository)).fetch_optional(&db.pool).await?)
}
