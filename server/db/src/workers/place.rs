//! What belongs to which workers: a device to a tag, a folder to the workers that see it.

use crate::database::Database;
use crate::error::{Error, Result};
use crate::events::{Event, notify};
use crate::ids::{DeviceId, RepositoryId, WorkerId};

impl Database {
    /// The tag a worker needs to work on a device's jobs.
    pub async fn device_worker_tag(&self, device_id: DeviceId) -> Result<Option<String>> {
        sqlx::query_scalar("select worker_tag from device where device_id = $1")
            .bind(device_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("device", device_id))
    }

    /// Changes it; `None`: any worker that takes untagged jobs. What is going on goes on.
    pub async fn set_device_worker_tag(&self, device_id: DeviceId, tag: Option<&str>) -> Result<()> {
        let changed = sqlx::query("update device set worker_tag = $2 where device_id = $1")
            .bind(device_id)
            .bind(tag)
            .execute(&self.pool)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(Error::not_found("device", device_id));
        }
        self.look_again().await
    }

    /// The workers that see a folder; empty: the servers.
    pub async fn repository_seen_by(&self, id: RepositoryId) -> Result<Vec<WorkerId>> {
        sqlx::query_scalar("select seen_by from repository where repository_id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("repository", id))
    }

    /// Changes it. What is going on goes on.
    pub async fn set_repository_seen_by(&self, id: RepositoryId, workers: &[WorkerId]) -> Result<()> {
        let changed = sqlx::query("update repository set seen_by = $2 where repository_id = $1")
            .bind(id)
            .bind(workers)
            .execute(&self.pool)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(Error::not_found("repository", id));
        }
        self.look_again().await
    }

    /// Jobs that nobody could take may be somebody's now.
    pub(super) async fn look_again(&self) -> Result<()> {
        let mut connection = self.pool.acquire().await?;
        notify(&mut connection, Event::JobsWaiting).await
    }
}
