//! Alarms about change tracking.

use crate::column::Time;
use crate::database::Database;
use crate::error::Result;
use crate::ids::{JobId, VmId};
use jiff::Timestamp;

/// A change that tracking said nothing of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTrackingAlarm {
    /// The machine.
    pub vm_id: VmId,
    /// The job that found it.
    pub job_id: JobId,
    /// The disk.
    pub disk_key: i32,
    /// Its label.
    pub disk_label: String,
    /// The first byte that was found changed.
    pub offset_bytes: u64,
}

/// The same, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct TrackingAlarm {
    /// The disk's label.
    pub disk_label: String,
    /// The first byte that was found changed.
    #[sqlx(try_from = "i64")]
    pub offset_bytes: u64,
    /// When it was found.
    #[sqlx(try_from = "Time")]
    pub found_at: Timestamp,
}

impl Database {
    /// Writes an alarm down.
    pub async fn raise_tracking_alarm(&self, alarm: &NewTrackingAlarm) -> Result<()> {
        sqlx::query(
            "insert into tracking_alarm (vm_id, job_id, disk_key, disk_label, offset_bytes) values ($1, $2, $3, $4, $5)",
        )
        .bind(alarm.vm_id)
        .bind(alarm.job_id)
        .bind(alarm.disk_key)
        .bind(&alarm.disk_label)
        .bind(i64::try_from(alarm.offset_bytes).unwrap_or(i64::MAX))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The machine's alarms that nobody has seen yet, newest first.
    pub async fn tracking_alarms(&self, vm_id: VmId) -> Result<Vec<TrackingAlarm>> {
        Ok(sqlx::query_as(
            "select disk_label, offset_bytes, found_at from tracking_alarm
             where vm_id = $1 and seen_at is null order by alarm_id desc limit 100",
        )
        .bind(vm_id)
        .fetch_all(&self.pool)
        .await?)
    }

    /// An operator has seen them; how many there were.
    pub async fn see_tracking_alarms(&self, vm_id: VmId, seen_by: &str) -> Result<u64> {
        let seen =
            sqlx::query("update tracking_alarm set seen_at = now(), seen_by = $2 where vm_id = $1 and seen_at is null")
                .bind(vm_id)
                .bind(seen_by)
                .execute(&self.pool)
                .await?;
        Ok(seen.rows_affected())
    }
}
