//! Snapshots that other programs' backups seem to have left: as the inventory saw them, and their removal by a click.
//!
//! Must never: hold a snapshot that the journal knows, or queue a removal that nobody asked for.

use crate::column::{Time, Word};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::events::{Event, notify};
use crate::ids::{DeviceId, ForeignId, RunId, VmId};
use crate::jobs::{NewJob, insert_job};
use domain::foreign::{Maker, STALE_AFTER_HOURS};
use domain::job::JobKind;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, Transaction};

/// A removal goes before backups: someone waits for it.
const CLEANUP_PRIORITY: i32 = 10;
/// Kept of one device, at most.
pub const FOREIGN_SNAPSHOTS_MAX: usize = 1000;

/// The condition of what is listed: of `foreign_snapshot f` and its `device d`. Only what was a day old when it was seen.
macro_rules! stale {
    ($hours:literal) => {
        concat!("d.enabled and f.created_at <= f.seen_at - make_interval(hours => ", $hours, ")")
    };
}
pub(crate) use stale;

/// A snapshot that looks like another program's, as the host reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignInput {
    /// The machine's reference.
    pub machine: String,
    /// Its own reference.
    pub reference: String,
    /// Its name.
    pub name: String,
    /// Who seems to have made it.
    pub maker: Maker,
    /// When, by the host's clock.
    pub created_at: Timestamp,
}

/// A snapshot that seems to have been left.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ForeignSnapshot {
    /// Id.
    pub foreign_id: ForeignId,
    /// Its machine.
    pub vm_id: VmId,
    /// The machine's name.
    pub machine: String,
    /// Its device.
    pub device_id: DeviceId,
    /// The device's name.
    pub device: String,
    /// The host's reference.
    pub reference: String,
    /// Its name.
    pub name: String,
    /// Who seems to have made it.
    #[sqlx(try_from = "Word")]
    pub maker: Maker,
    /// When, by the host's clock.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
}

/// What the job that removes one is given; the job looks whether it is still true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanupOrder {
    /// The host's reference.
    pub reference: String,
    /// Its name.
    pub name: String,
    /// When it was made, by the host's clock.
    pub created_at: Timestamp,
}

impl ForeignSnapshot {
    /// What a job needs to remove it.
    pub fn order(&self) -> CleanupOrder {
        CleanupOrder { reference: self.reference.clone(), name: self.name.clone(), created_at: self.created_at }
    }
}

type Tx<'a> = Transaction<'a, Postgres>;

/// What the journal knows is ours: by its name for ever, by its reference as long as the entry is open.
const IS_OURS: &str = "select exists (select from host_change where token = $2)
    or exists (select from host_change where device_id = $1 and object_ref = $3 and kind = 'snapshot'
               and state in ('intended', 'made', 'removing'))";

/// Takes over what looks foreign on a device.
pub(crate) async fn apply_foreign(tx: &mut Tx<'_>, device_id: DeviceId, found: &[ForeignInput]) -> Result<()> {
    let mut seen: Vec<i64> = Vec::new();
    for it in found.iter().take(FOREIGN_SNAPSHOTS_MAX) {
        let ours: bool =
            sqlx::query_scalar(IS_OURS).bind(device_id).bind(&it.name).bind(&it.reference).fetch_one(&mut **tx).await?;
        if ours {
            continue;
        }
        let id: Option<i64> = sqlx::query_scalar(
            "insert into foreign_snapshot (vm_id, reference, name, maker, created_at)
             select min(vm_id), $3, $4, $5, $6 from virtual_machine
             where device_id = $1 and reference = $2 and missing_since is null having count(*) = 1
             on conflict (vm_id, reference) do update set name = excluded.name, maker = excluded.maker,
                 created_at = excluded.created_at, seen_at = now()
             returning foreign_id",
        )
        .bind(device_id)
        .bind(&it.machine)
        .bind(&it.reference)
        .bind(&it.name)
        .bind(it.maker.as_str())
        .bind(Time(it.created_at))
        .fetch_optional(&mut **tx)
        .await?;
        seen.extend(id);
    }
    sqlx::query(
        "delete from foreign_snapshot f using virtual_machine v
         where v.vm_id = f.vm_id and v.device_id = $1 and not (f.foreign_id = any($2))",
    )
    .bind(device_id)
    .bind(seen)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Database {
    /// A snapshot that is listed as left by another program.
    pub async fn foreign_snapshot(&self, id: ForeignId) -> Result<ForeignSnapshot> {
        sqlx::query_as(concat!(
            "select f.foreign_id, f.vm_id, v.name as machine, d.device_id, d.name as device, f.reference, f.name, f.maker,
                    f.created_at
             from foreign_snapshot f join virtual_machine v using (vm_id) join device d using (device_id)
             where f.foreign_id = $1 and ",
            stale!("$2")
        ))
        .bind(id)
        .bind(STALE_AFTER_HOURS)
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| Error::not_found("snapshot", id))
    }

    /// Queues the removal of a snapshot as a run of its own; the one that goes on already, if there is one.
    pub async fn start_cleanup(&self, snapshot: &ForeignSnapshot, started_by: &str) -> Result<RunId> {
        let mut tx = self.pool.begin().await?;
        // The row is the lock: two clicks lead to one run.
        let (before, goes_on): (Option<RunId>, bool) = sqlx::query_as(
            "select run_id, coalesce((select r.state in ('queued', 'running') from run r where r.run_id = f.run_id), false)
             from foreign_snapshot f where foreign_id = $1 for update",
        )
        .bind(snapshot.foreign_id)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| Error::not_found("snapshot", snapshot.foreign_id))?;
        if let Some(run_id) = before.filter(|_| goes_on) {
            return Ok(run_id);
        }
        let run_id: RunId =
            sqlx::query_scalar("insert into run (kind, title, started_by) values ('cleanup', $1, $2) returning run_id")
                .bind(format!("Remove a snapshot of {}", snapshot.machine))
                .bind(started_by)
                .fetch_one(&mut *tx)
                .await?;
        let order = serde_json::to_value(snapshot.order()).unwrap_or_default();
        let job = NewJob {
            run_id: Some(run_id),
            vm_id: Some(snapshot.vm_id),
            device_id: Some(snapshot.device_id),
            payload: order,
            priority: CLEANUP_PRIORITY,
            // A backup's key: the two never meet on a machine.
            ..NewJob::new(JobKind::Cleanup, &snapshot.machine, format!("vm:{}", snapshot.vm_id))
        };
        insert_job(&mut tx, &job).await?;
        sqlx::query("update foreign_snapshot set run_id = $2 where foreign_id = $1")
            .bind(snapshot.foreign_id)
            .bind(run_id)
            .execute(&mut *tx)
            .await?;
        notify(&mut tx, Event::JobsWaiting).await?;
        notify(&mut tx, Event::RunChanged(run_id)).await?;
        tx.commit().await?;
        Ok(run_id)
    }

    /// Whether the journal knows a snapshot of this name or, while its entry is open, of this reference.
    pub async fn is_own_snapshot(&self, device_id: DeviceId, name: &str, reference: &str) -> Result<bool> {
        Ok(sqlx::query_scalar(IS_OURS).bind(device_id).bind(name).bind(reference).fetch_one(&self.pool).await?)
    }

    /// A snapshot of a machine is not on its host any more.
    pub async fn foreign_snapshot_gone(&self, vm_id: VmId, reference: &str) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        let device_id: Option<DeviceId> = sqlx::query_scalar(
            "delete from foreign_snapshot f using virtual_machine v
             where f.vm_id = $1 and f.reference = $2 and v.vm_id = f.vm_id returning v.device_id",
        )
        .bind(vm_id)
        .bind(reference)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(device_id) = device_id {
            notify(&mut tx, Event::DeviceChanged(device_id)).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
