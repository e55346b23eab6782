//! Restore points.

use super::{PAGE_LINES, Slice, offset};
use crate::column::{MaybeTime, Time, Word};
use crate::ids::{JobId, PointId, RepositoryId, RunId, VmId};
use crate::{Database, Result};
use domain::machine::MachineConfig;
use domain::point::{Consistency, PointKind};
use jiff::Timestamp;

/// A machine that has restore points; it may be gone from its host.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RestorableMachine {
    /// The manifests' machine id.
    pub machine_key: String,
    /// Newest name.
    pub machine_name: String,
    /// Machine, while its device is known.
    pub vm_id: Option<VmId>,
    /// Its device.
    pub device: Option<String>,
    /// It is gone from its device.
    pub missing: bool,
    /// Restore points.
    pub points: i64,
    /// Newest.
    #[sqlx(try_from = "Time")]
    pub newest_at: Timestamp,
    /// Oldest.
    #[sqlx(try_from = "Time")]
    pub oldest_at: Timestamp,
    /// Size of the newest point.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Of a simulated host.
    pub simulated: bool,
}

/// Machines with points whose name holds the words; all of them for `key`.
pub async fn restorable_machines(
    db: &Database,
    words: &str,
    key: Option<&str>,
    page: i64,
) -> Result<Slice<RestorableMachine>> {
    let lines = sqlx::query_as(
        "select p.*, d.name as device, coalesce(v.missing_since is not null, true) as missing
         from (select o.machine_key, (array_agg(o.machine_name order by o.taken_at desc))[1] as machine_name,
                      (array_agg(o.vm_id order by o.taken_at desc))[1] as vm_id, count(*) as points,
                      max(o.taken_at) as newest_at, min(o.taken_at) as oldest_at,
                      (array_agg(o.size_bytes order by o.taken_at desc))[1] as size_bytes,
                      bool_or(o.simulated) as simulated
               from restore_point o where o.expiring_since is null and ($2::text is null or o.machine_key = $2)
               group by o.machine_key) p
         left join virtual_machine v on v.vm_id = p.vm_id left join device d using (device_id)
         where p.machine_name ilike $1
         order by lower(p.machine_name), p.machine_key limit $3 offset $4",
    )
    .bind(super::contains(words))
    .bind(key)
    .bind(PAGE_LINES)
    .bind(offset(page))
    .fetch_all(&db.pool)
    .await?;
    let total = sqlx::query_scalar(
        "select count(*) from (select 1 from restore_point where expiring_since is null and machine_name ilike $1
                               and ($2::text is null or machine_key = $2) group by machine_key) p",
    )
    .bind(super::contains(words))
    .bind(key)
    .fetch_one(&db.pool)
    .await?;
    Ok(Slice { lines, total })
}

/// A point in a list.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PointLine {
    /// Its id.
    pub point_id: PointId,
    /// Moment of the snapshot.
    #[sqlx(try_from = "Time")]
    pub taken_at: Timestamp,
    /// Full or incremental.
    #[sqlx(try_from = "Word")]
    pub kind: PointKind,
    /// State of the guest's data.
    #[sqlx(try_from = "Word")]
    pub consistency: Consistency,
    /// As restored.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Read from the host.
    #[sqlx(try_from = "i64")]
    pub bytes_read: u64,
    /// Added to the repository.
    #[sqlx(try_from = "i64")]
    pub bytes_stored: u64,
    /// Location.
    pub repository: String,
    /// Its id.
    pub repository_id: RepositoryId,
    /// Read back.
    #[sqlx(try_from = "MaybeTime")]
    pub verified_at: Option<Timestamp>,
    /// What was wrong then.
    pub verify_error: Option<String>,
    /// Warnings of the job.
    #[sqlx(json)]
    pub warnings: Vec<serde_json::Value>,
    /// Of a simulated host.
    pub simulated: bool,
    /// Kept by hand, since when.
    #[sqlx(try_from = "MaybeTime")]
    pub pinned_at: Option<Timestamp>,
    /// By whom.
    pub pinned_by: Option<String>,
    /// What for.
    pub pin_note: String,
}

/// Points of a machine, newest first; on one day only when `from` and `to` are given.
pub async fn points_of(
    db: &Database,
    machine_key: &str,
    day: Option<(Timestamp, Timestamp)>,
    page: i64,
) -> Result<Slice<PointLine>> {
    let (from, to) = (day.map(|day| Time(day.0)), day.map(|day| Time(day.1)));
    let lines = sqlx::query_as(
        "select o.point_id, o.taken_at, o.kind, o.consistency, o.size_bytes, o.bytes_read, o.bytes_stored,
                p.name as repository, o.repository_id, o.verified_at, o.verify_error, o.warnings, o.simulated,
                o.pinned_at, o.pinned_by, o.pin_note
         from restore_point o join repository p using (repository_id)
         where o.machine_key = $1 and o.expiring_since is null
           and ($2::timestamptz is null or (o.taken_at >= $2 and o.taken_at < $3))
         order by o.taken_at desc, o.point_id limit $4 offset $5",
    )
    .bind(machine_key)
    .bind(from)
    .bind(to)
    .bind(PAGE_LINES)
    .bind(offset(page))
    .fetch_all(&db.pool)
    .await?;
    let total = sqlx::query_scalar(
        "select count(*) from restore_point o where o.machine_key = $1 and o.expiring_since is null
           and ($2::timestamptz is null or (o.taken_at >= $2 and o.taken_at < $3))",
    )
    .bind(machine_key)
    .bind(from)
    .bind(to)
    .fetch_one(&db.pool)
    .await?;
    Ok(Slice { lines, total })
}

/// Points of one day in the calendar.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DayOfPoints {
    /// `2026-11-22` in the zone that was asked for.
    pub day: String,
    /// How many.
    pub points: i64,
    /// Some with a warning.
    pub warnings: bool,
    /// Some that did not read back.
    pub damaged: bool,
}

/// Points a day since `from`, in a time zone by its IANA name.
pub async fn points_by_day(
    db: &Database,
    machine_key: &str,
    from: Timestamp,
    time_zone: &str,
) -> Result<Vec<DayOfPoints>> {
    let days = sqlx::query_as(
        "select to_char(taken_at at time zone $3, 'YYYY-MM-DD') as day, count(*) as points,
                bool_or(jsonb_array_length(warnings) > 0) as warnings, bool_or(verify_error is not null) as damaged
         from restore_point where machine_key = $1 and taken_at >= $2 and expiring_since is null group by 1 order by 1",
    )
    .bind(machine_key)
    .bind(Time(from))
    .bind(time_zone)
    .fetch_all(&db.pool)
    .await?;
    Ok(days)
}

/// A point on its page.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PointPage {
    /// As in the list.
    #[sqlx(flatten)]
    pub line: PointLine,
    /// Name then.
    pub machine_name: String,
    /// The manifest's machine id.
    pub machine_key: String,
    /// Machine, while its device is known.
    pub vm_id: Option<VmId>,
    /// Device, while it is known.
    pub device: Option<String>,
    /// Its definition then.
    #[sqlx(json)]
    pub config: MachineConfig,
    /// Job that made it.
    pub job_id: Option<JobId>,
    /// Its run.
    pub run_id: Option<RunId>,
    /// Task.
    pub task: Option<String>,
}

/// A point.
pub async fn point_page(db: &Database, point: PointId) -> Result<Option<PointPage>> {
    let page = sqlx::query_as(
        "select o.point_id, o.taken_at, o.kind, o.consistency, o.size_bytes, o.bytes_read, o.bytes_stored,
                p.name as repository, o.repository_id, o.verified_at, o.verify_error, o.warnings, o.simulated,
                o.pinned_at, o.pinned_by, o.pin_note, o.machine_name, o.machine_key, o.vm_id, d.name as device, o.config, o.job_id, j.run_id, t.name as task
         from restore_point o join repository p using (repository_id) left join virtual_machine v using (vm_id)
              left join device d using (device_id) left join job j on j.job_id = o.job_id
              left join backup_task t on t.task_id = o.task_id
         where o.point_id = $1 and o.expiring_since is null",
    )
    .bind(point)
    .fetch_optional(&db.pool)
    .await?;
    Ok(page)
}
