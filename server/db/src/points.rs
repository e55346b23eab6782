//! The index of committed restore points. The manifest in the repository is the truth; these rows follow it and can be
//! rebuilt from it.

use crate::column::{MaybeTime, Time, Word, size};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{JobId, PointId, RepositoryId, TaskId, VmId};
use crate::jobs::Lease;
use domain::machine::MachineConfig;
use domain::point::{ChangeMark, Consistency, PointKind};
use jiff::Timestamp;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};

/// A point whose manifest is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPoint {
    /// The id in its manifest.
    pub point_id: PointId,
    /// Where it lies.
    pub repository_id: RepositoryId,
    /// Its machine, if it is known.
    pub vm_id: Option<VmId>,
    /// The task that made it.
    pub task_id: Option<TaskId>,
    /// The job that made it.
    pub job_id: Option<JobId>,
    /// The machine's name at that time.
    pub machine_name: String,
    /// The manifest's machine id.
    pub machine_key: String,
    /// Moment of its snapshot.
    pub taken_at: Timestamp,
    /// What was read to make it.
    pub kind: PointKind,
    /// State of the guest's data.
    pub consistency: Consistency,
    /// Sum of its disks' sizes, bytes.
    pub size_bytes: u64,
    /// Bytes read from the host.
    pub bytes_read: u64,
    /// Bytes the repository grew by.
    pub bytes_stored: u64,
    /// The machine.
    pub config: MachineConfig,
    /// From which the next run asks what changed; one a disk.
    pub marks: Vec<ChangeMark>,
    /// What the operator should read.
    pub warnings: Vec<String>,
    /// Came from one of our simulators.
    pub simulated: bool,
}

/// A restore point.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Point {
    /// The id in its manifest.
    pub point_id: PointId,
    /// Where it lies.
    pub repository_id: RepositoryId,
    /// Its machine, while it is known.
    pub vm_id: Option<VmId>,
    /// The task that made it.
    pub task_id: Option<TaskId>,
    /// The job that made it.
    pub job_id: Option<JobId>,
    /// The machine's name at that time.
    pub machine_name: String,
    /// The manifest's machine id.
    pub machine_key: String,
    /// Moment of its snapshot.
    #[sqlx(try_from = "Time")]
    pub taken_at: Timestamp,
    /// What was read to make it.
    #[sqlx(try_from = "Word")]
    pub kind: PointKind,
    /// State of the guest's data.
    #[sqlx(try_from = "Word")]
    pub consistency: Consistency,
    /// Sum of its disks' sizes, bytes.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Bytes read from the host.
    #[sqlx(try_from = "i64")]
    pub bytes_read: u64,
    /// Bytes the repository grew by.
    #[sqlx(try_from = "i64")]
    pub bytes_stored: u64,
    /// The machine.
    #[sqlx(json)]
    pub config: MachineConfig,
    /// From which the next run asks what changed; one a disk.
    #[sqlx(json)]
    pub marks: Vec<ChangeMark>,
    /// What the operator should read.
    #[sqlx(json)]
    pub warnings: Vec<String>,
    /// Came from one of our simulators.
    pub simulated: bool,
    /// Its chunks were checked last.
    #[sqlx(try_from = "MaybeTime")]
    pub verified_at: Option<Timestamp>,
    /// What was wrong then.
    pub verify_error: Option<String>,
    /// Retention has decided, at that time; the manifest goes next.
    #[sqlx(try_from = "MaybeTime")]
    pub expiring_since: Option<Timestamp>,
    /// Kept by hand, since when.
    #[sqlx(try_from = "MaybeTime")]
    pub pinned_at: Option<Timestamp>,
    /// By whom.
    pub pinned_by: Option<String>,
    /// What for.
    pub pin_note: String,
}

impl Database {
    /// Adds the row of a point whose manifest is committed. Adding it again changes nothing. [`Error::LostLease`]
    /// leaves the point without a row until [`Database::import_points`] finds its manifest.
    pub async fn insert_point(&self, lease: Lease, point: &NewPoint) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
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
        insert(&mut transaction, point).await?;
        // A look at the repository may have adopted it from its manifest, which does not know all of this.
        sqlx::query(
            "update restore_point set vm_id = $2, task_id = $3, job_id = $4, simulated = $5 where point_id = $1",
        )
        .bind(point.point_id)
        .bind(point.vm_id)
        .bind(point.task_id)
        .bind(point.job_id)
        .bind(point.simulated)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Takes up points that no row knows, as their manifests tell; finds their machines by key where those are known.
    /// Says how many were new.
    pub async fn adopt_points(&self, repository_id: RepositoryId, points: &[NewPoint]) -> Result<u64> {
        let mut transaction = self.pool.begin().await?;
        let mut added = 0;
        for point in points {
            added += insert(&mut transaction, point).await?;
        }
        link(&mut transaction, repository_id).await?;
        transaction.commit().await?;
        Ok(added)
    }

    /// Makes the rows of a repository what its manifests say: adds missing ones, removes ones without a manifest.
    /// Points without a machine are given to the one whose `device/uuid` is their key. Says how many were added and
    /// removed.
    pub async fn import_points(&self, repository_id: RepositoryId, points: &[NewPoint]) -> Result<(u64, u64)> {
        let mut transaction = self.pool.begin().await?;
        let mut added = 0;
        for point in points {
            added += insert(&mut transaction, point).await?;
        }
        let ids: Vec<uuid::Uuid> = points.iter().map(|point| point.point_id.0).collect();
        let removed = sqlx::query("delete from restore_point where repository_id = $1 and not (point_id = any($2))")
            .bind(repository_id)
            .bind(&ids)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        link(&mut transaction, repository_id).await?;
        transaction.commit().await?;
        Ok((added, removed))
    }

    /// A point.
    pub async fn point(&self, point_id: PointId) -> Result<Point> {
        sqlx::query_as("select * from restore_point where point_id = $1")
            .bind(point_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("restore point", point_id))
    }

    /// Points of a machine that can be restored, newest first.
    pub async fn points_of_machine(&self, vm_id: VmId) -> Result<Vec<Point>> {
        Ok(sqlx::query_as(
            "select * from restore_point where vm_id = $1 and expiring_since is null order by taken_at desc, point_id",
        )
        .bind(vm_id)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Points in a repository that can be restored, newest first.
    pub async fn points_of_repository(&self, repository_id: RepositoryId) -> Result<Vec<Point>> {
        Ok(sqlx::query_as(
            "select * from restore_point where repository_id = $1 and expiring_since is null
             order by taken_at desc, point_id",
        )
        .bind(repository_id)
        .fetch_all(&self.pool)
        .await?)
    }

    /// The machine's newest point in a repository: the base of the next incremental, with its marks.
    pub async fn newest_point(&self, vm_id: VmId, repository_id: RepositoryId) -> Result<Option<Point>> {
        Ok(sqlx::query_as(
            "select * from restore_point where vm_id = $1 and repository_id = $2 and expiring_since is null
             order by taken_at desc, created_at desc limit 1",
        )
        .bind(vm_id)
        .bind(repository_id)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// The machine's newest full in a repository: the base of the next differential, with its marks.
    pub async fn newest_full(&self, vm_id: VmId, repository_id: RepositoryId) -> Result<Option<Point>> {
        Ok(sqlx::query_as(
            "select * from restore_point
             where vm_id = $1 and repository_id = $2 and kind = 'full' and expiring_since is null
             order by taken_at desc, created_at desc limit 1",
        )
        .bind(vm_id)
        .bind(repository_id)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// How many points of the machine that are no full lie in a repository since its last full. Ones that retention
    /// removed meanwhile are not counted.
    pub async fn points_since_full(&self, vm_id: VmId, repository_id: RepositoryId) -> Result<u32> {
        let count: i64 = sqlx::query_scalar(
            "select count(*) from restore_point where vm_id = $1 and repository_id = $2 and kind <> 'full'
                 and taken_at > coalesce((select max(taken_at) from restore_point
                     where vm_id = $1 and repository_id = $2 and kind = 'full'), '-infinity')",
        )
        .bind(vm_id)
        .bind(repository_id)
        .fetch_one(&self.pool)
        .await?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Removes the row, after its manifest. One that is gone is fine.
    pub async fn delete_point(&self, point_id: PointId) -> Result<()> {
        sqlx::query("delete from restore_point where point_id = $1").bind(point_id).execute(&self.pool).await?;
        Ok(())
    }

    /// Keeps what a check of the point's chunks found: `None` when all was well.
    pub async fn record_verified(&self, point_id: PointId, error: Option<&str>) -> Result<()> {
        sqlx::query("update restore_point set verified_at = now(), verify_error = $2 where point_id = $1")
            .bind(point_id)
            .bind(error)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// Points without a machine find it by their machine key.
async fn link(transaction: &mut Transaction<'_, Postgres>, repository_id: RepositoryId) -> Result<()> {
    sqlx::query(
        "update restore_point p set vm_id = v.vm_id, simulated = d.simulated
         from virtual_machine v join device d using (device_id)
         where p.repository_id = $1 and p.vm_id is null
             and p.machine_key in (v.instance_uuid, v.device_id || '/' || v.instance_uuid)",
    )
    .bind(repository_id)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn insert(transaction: &mut Transaction<'_, Postgres>, point: &NewPoint) -> Result<u64> {
    // What the manifest refers to may be gone meanwhile: the point counts, not its provenance.
    let inserted = sqlx::query(
        "insert into restore_point (point_id, repository_id, vm_id, task_id, job_id, machine_name, machine_key,
             taken_at, kind, consistency, size_bytes, bytes_read, bytes_stored, config, marks, warnings, simulated)
         values ($1, $2, (select vm_id from virtual_machine where vm_id = $3),
             (select task_id from backup_task where task_id = $4), (select job_id from job where job_id = $5),
             $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
         on conflict (point_id) do nothing",
    )
    .bind(point.point_id)
    .bind(point.repository_id)
    .bind(point.vm_id)
    .bind(point.task_id)
    .bind(point.job_id)
    .bind(&point.machine_name)
    .bind(&point.machine_key)
    .bind(Time(point.taken_at))
    .bind(point.kind.as_str())
    .bind(point.consistency.as_str())
    .bind(size(point.size_bytes))
    .bind(size(point.bytes_read))
    .bind(size(point.bytes_stored))
    .bind(Json(&point.config))
    .bind(Json(&point.marks))
    .bind(Json(&point.warnings))
    .bind(point.simulated)
    .execute(&mut **transaction)
    .await?;
    Ok(inserted.rows_affected())
}
