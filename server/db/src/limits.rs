//! How much at once, of a device's datastores and of a repository (`jobs/lease.rs` keeps to it), and how fast.

use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{DeviceId, RepositoryId};
use domain::bandwidth::Bandwidth;
use sqlx::types::Json;

/// Limits of a device, beside [`crate::Device::max_jobs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct DeviceLimits {
    /// Backups and restores at once on each of its datastores, 1 to 64.
    #[sqlx(rename = "max_jobs_datastore", try_from = "i32")]
    pub per_datastore: u32,
    /// Of each datastore this share stays free, percent, 0 to 90: no snapshot grows into it.
    #[sqlx(rename = "datastore_reserve_percent", try_from = "i32")]
    pub reserve_percent: u32,
}

impl DeviceLimits {
    /// Most jobs at once.
    pub const JOBS_MAX: u32 = 64;
    /// Largest reserve.
    pub const RESERVE_MAX_PERCENT: u32 = 90;
}

impl Database {
    /// A device's limits.
    pub async fn device_limits(&self, device_id: DeviceId) -> Result<DeviceLimits> {
        sqlx::query_as("select max_jobs_datastore, datastore_reserve_percent from device where device_id = $1")
            .bind(device_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("device", device_id))
    }

    /// Changes them.
    pub async fn set_device_limits(&self, device_id: DeviceId, limits: DeviceLimits) -> Result<()> {
        let changed = sqlx::query(
            "update device set max_jobs_datastore = $2, datastore_reserve_percent = $3 where device_id = $1",
        )
        .bind(device_id)
        .bind(i32::try_from(limits.per_datastore).unwrap_or(i32::MAX))
        .bind(i32::try_from(limits.reserve_percent).unwrap_or(i32::MAX))
        .execute(&self.pool)
        .await?;
        if changed.rows_affected() == 0 { Err(Error::not_found("device", device_id)) } else { Ok(()) }
    }

    /// Backups and restores at once in a repository.
    pub async fn repository_max_jobs(&self, id: RepositoryId) -> Result<u32> {
        let jobs: Option<i32> = sqlx::query_scalar("select max_jobs from repository where repository_id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        jobs.map(i32::unsigned_abs).ok_or_else(|| Error::not_found("repository", id))
    }

    /// Changes it; 1 to 64.
    pub async fn set_repository_max_jobs(&self, id: RepositoryId, jobs: u32) -> Result<()> {
        let changed = sqlx::query("update repository set max_jobs = $2 where repository_id = $1")
            .bind(id)
            .bind(i32::try_from(jobs).unwrap_or(i32::MAX))
            .execute(&self.pool)
            .await?;
        if changed.rows_affected() == 0 { Err(Error::not_found("repository", id)) } else { Ok(()) }
    }

    /// How fast a device's bytes may go.
    pub async fn device_bandwidth(&self, device_id: DeviceId) -> Result<Bandwidth> {
        let found: Option<Json<Bandwidth>> = sqlx::query_scalar("select bandwidth from device where device_id = $1")
            .bind(device_id)
            .fetch_optional(&self.pool)
            .await?;
        found.map(|Json(bandwidth)| bandwidth).ok_or_else(|| Error::not_found("device", device_id))
    }

    /// Changes it; jobs that go on keep what they began with.
    pub async fn set_device_bandwidth(&self, device_id: DeviceId, bandwidth: &Bandwidth) -> Result<()> {
        let changed = sqlx::query("update device set bandwidth = $2 where device_id = $1")
            .bind(device_id)
            .bind(Json(bandwidth))
            .execute(&self.pool)
            .await?;
        if changed.rows_affected() == 0 { Err(Error::not_found("device", device_id)) } else { Ok(()) }
    }

    /// How fast a repository's bytes may go.
    pub async fn repository_bandwidth(&self, id: RepositoryId) -> Result<Bandwidth> {
        let found: Option<Json<Bandwidth>> =
            sqlx::query_scalar("select bandwidth from repository where repository_id = $1")
                .bind(id)
                .fetch_optional(&self.pool)
                .await?;
        found.map(|Json(bandwidth)| bandwidth).ok_or_else(|| Error::not_found("repository", id))
    }

    /// Changes it; it holds from the next time a job opens the repository.
    pub async fn set_repository_bandwidth(&self, id: RepositoryId, bandwidth: &Bandwidth) -> Result<()> {
        let changed = sqlx::query("update repository set bandwidth = $2 where repository_id = $1")
            .bind(id)
            .bind(Json(bandwidth))
            .execute(&self.pool)
            .await?;
        if changed.rows_affected() == 0 { Err(Error::not_found("repository", id)) } else { Ok(()) }
    }
}
