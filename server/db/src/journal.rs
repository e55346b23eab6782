//! The journal of everything we change on hosts: written before, completed after, undone by the reconciler.
//!
//! States go forward only: intended → made → removing → removed, or made → kept (→ removed, for marks). What comes after `intended` is a fact
//! about the host and is written whoever holds the lease; it can never bring a removed change back.

use crate::column::{Time, Word};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{ChangeId, DeviceId, JobId, PointId, VmId};
use crate::jobs::Lease;
use domain::point::ChangeMark;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use std::time::Duration;

/// A change about to be made.
#[derive(Debug, Clone)]
pub struct NewChange {
    /// On which device.
    pub device_id: DeviceId,
    /// Of which machine.
    pub vm_id: Option<VmId>,
    /// What.
    pub kind: ChangeKind,
    /// Unique name or token that finds it on the host even if the answer was lost.
    pub token: String,
    /// The machine's reference; none for an import.
    pub machine_ref: Option<String>,
    /// What is asked for may still come for so long, whoever lives.
    pub settles_after: Option<Duration>,
}

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A snapshot is made.
    Snapshot,
    /// A machine is imported.
    Import,
    /// A machine that is on is shut down; undone by switching it on.
    Power,
    /// The host keeps what it needs to tell what changes from now on.
    Marks,
    /// Another program's snapshot is removed, because an operator asked for it.
    Foreign,
}

impl ChangeKind {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Import => "import",
            Self::Power => "power",
            Self::Marks => "marks",
            Self::Foreign => "foreign",
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeState {
    /// About to be made; may or may not be on the host.
    Intended,
    /// On the host.
    Made,
    /// About to be removed; may or may not be on the host.
    Removing,
    /// Not on the host.
    Removed,
    /// Meant to stay: a machine that was restored, marks of a point that is committed, another program's snapshot.
    Kept,
}

/// A change that is not closed.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Change {
    /// Id.
    pub change_id: ChangeId,
    /// On which device.
    pub device_id: DeviceId,
    /// Of which machine, while it is known.
    pub vm_id: Option<VmId>,
    /// By which job.
    pub job_id: Option<JobId>,
    /// What.
    #[sqlx(try_from = "Word")]
    pub kind: ChangeKind,
    /// Finds it on the host.
    pub token: String,
    /// Its name, while it is known.
    pub machine: Option<String>,
    /// The machine's reference at that time.
    pub machine_ref: Option<String>,
    /// The host's reference of what was made, once known.
    pub object_ref: Option<String>,
    /// How far.
    #[sqlx(try_from = "Word")]
    pub state: ChangeState,
    /// What the host keeps; of marks only.
    #[sqlx(json)]
    pub marks: Vec<ChangeMark>,
    /// What the host kept before; of marks only, once that was asked.
    #[sqlx(json(nullable))]
    pub marks_before: Option<Vec<String>>,
    /// What was asked for is not there yet, as far as is known, and may still come.
    pub may_come: bool,
    /// Why its removal failed last.
    pub last_error: Option<String>,
    /// When it was written down.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// The lease under which it was made is still held: hands off.
    pub owner_alive: bool,
}

/// The condition of what a run that broke off left on its host: of `host_change c` and its `job j`.
macro_rules! left_behind {
    () => {
        "c.state in ('intended', 'made', 'removing') and not (c.kind = 'power' and c.state = 'intended')
             and c.kind <> 'foreign'
             and not coalesce(j.state = 'running', false)"
    };
}
pub(crate) use left_behind;

/// A query for [`Change`]s that meet the condition.
macro_rules! changes {
    ($condition:literal) => {
        sqlx::query_as(concat!(
            "select c.change_id, c.device_id, c.vm_id, c.job_id, c.kind, c.token, c.machine_ref, c.object_ref, c.state,
                 c.marks, c.marks_before, c.last_error, c.created_at, v.name as machine,
                 coalesce(c.state = 'intended' and c.settles_at > now(), false) as may_come,
                 coalesce(j.state = 'running' and j.fence = c.fence and j.lease_expires_at > now(), false) as owner_alive
             from host_change c left join job j using (job_id) left join virtual_machine v on v.vm_id = c.vm_id where ",
            $condition,
            " order by c.change_id"
        ))
    };
}

impl Database {
    /// Writes down a change before it is made, under the lease.
    pub async fn intend_change(&self, lease: Lease, change: &NewChange) -> Result<ChangeId> {
        let change_id: Option<ChangeId> = sqlx::query_scalar(
            "insert into host_change (device_id, vm_id, kind, token, machine_ref, settles_at, job_id, fence)
             select $3, $4, $5, $6, $7, now() + make_interval(secs => $8), job_id, fence from job
             where job_id = $1 and fence = $2 and state = 'running' for share
             returning change_id",
        )
        .bind(lease.job_id)
        .bind(lease.fence)
        .bind(change.device_id)
        .bind(change.vm_id)
        .bind(change.kind.as_str())
        .bind(&change.token)
        .bind(&change.machine_ref)
        .bind(change.settles_after.map(|after| after.as_secs_f64()))
        .fetch_optional(&self.pool)
        .await?;
        change_id.ok_or(Error::LostLease(lease.job_id))
    }

    /// It is on the host, under this reference.
    pub async fn change_made(&self, change_id: ChangeId, object_ref: Option<&str>) -> Result<()> {
        sqlx::query(
            "update host_change set state = 'made', object_ref = coalesce($2, object_ref), updated_at = now()
             where change_id = $1 and state in ('intended', 'made')",
        )
        .bind(change_id)
        .bind(object_ref)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// It is about to be removed.
    pub async fn change_removing(&self, change_id: ChangeId) -> Result<()> {
        self.move_change(change_id, ChangeState::Removing, &["intended", "made", "removing"]).await
    }

    /// It is not on the host any more, or never was.
    pub async fn change_removed(&self, change_id: ChangeId) -> Result<()> {
        self.move_change(change_id, ChangeState::Removed, &["intended", "made", "removing"]).await
    }

    /// The host keeps this before it is asked to keep more.
    pub async fn marks_intended(&self, change_id: ChangeId, before: &[String]) -> Result<()> {
        sqlx::query("update host_change set marks_before = $2 where change_id = $1 and kind = 'marks'")
            .bind(change_id)
            .bind(Json(before))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// All marks of a machine that are written down and not let go of.
    pub async fn known_marks(&self, vm_id: VmId) -> Result<Vec<ChangeMark>> {
        let lists: Vec<Json<Vec<ChangeMark>>> = sqlx::query_scalar(
            "select marks from host_change
             where vm_id = $1 and kind = 'marks' and state <> 'removed' and marks <> '[]'",
        )
        .bind(vm_id)
        .fetch_all(&self.pool)
        .await?;
        Ok(lists.into_iter().flat_map(|list| list.0).collect())
    }

    /// The host keeps these marks for a point that is about to be committed.
    pub async fn marks_made(&self, change_id: ChangeId, point_id: PointId, marks: &[ChangeMark]) -> Result<()> {
        sqlx::query(
            "update host_change set state = 'made', object_ref = $2, marks = $3, updated_at = now()
             where change_id = $1 and kind = 'marks' and state in ('intended', 'made')",
        )
        .bind(change_id)
        .bind(point_id.to_string())
        .bind(Json(marks))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Marks of a machine that no later run asks with: kept for points that are neither the newest nor the last full of
    /// the machine in their repository, oldest first.
    pub async fn idle_marks(&self, vm_id: VmId) -> Result<Vec<Change>> {
        Ok(changes!(
            "c.vm_id = $1 and c.kind = 'marks' and c.state = 'kept'
                 and c.object_ref not in (
                     select point_id::text from (
                         select distinct on (repository_id) point_id from restore_point
                         where vm_id = $1 and expiring_since is null
                         order by repository_id, taken_at desc, created_at desc) newest
                     union all select point_id::text from (
                         select distinct on (repository_id) point_id from restore_point
                         where vm_id = $1 and expiring_since is null and kind = 'full'
                         order by repository_id, taken_at desc, created_at desc) full_ones)"
        )
        .bind(vm_id)
        .fetch_all(&self.pool)
        .await?)
    }

    /// The host has let go of marks.
    pub async fn marks_forgotten(&self, change_id: ChangeId) -> Result<()> {
        self.move_change(change_id, ChangeState::Removed, &["intended", "made", "removing", "kept"]).await
    }

    /// About to switch the machine on again. False when that is nobody's business any more: it is done already, or a
    /// running job has shut the machine down meanwhile and answers for it.
    pub async fn claim_power(&self, change_id: ChangeId) -> Result<bool> {
        let claimed = sqlx::query(
            "update host_change c set state = 'removing', updated_at = now()
             where c.change_id = $1 and c.kind = 'power' and c.state in ('intended', 'made', 'removing')
                 and not exists (
                     select from host_change o join job j using (job_id)
                     where o.vm_id = c.vm_id and o.change_id <> c.change_id and o.kind = 'power'
                         and o.state in ('intended', 'made', 'removing')
                         and j.state = 'running' and j.fence = o.fence and j.lease_expires_at > now())",
        )
        .bind(change_id)
        .execute(&self.pool)
        .await?;
        Ok(claimed.rows_affected() > 0)
    }

    /// The machine went off and is on again: earlier requests to shut it down have come to nothing more.
    pub async fn power_restored(&self, change_id: ChangeId) -> Result<()> {
        sqlx::query(
            "update host_change c set state = 'removed', last_error = null, updated_at = now()
             from host_change o
             where o.change_id = $1 and c.kind = 'power' and c.state in ('intended', 'made', 'removing')
                 and (c.change_id = o.change_id or (c.vm_id = o.vm_id and c.change_id < o.change_id))",
        )
        .bind(change_id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// It stays: a restored machine, marks of a committed point.
    pub async fn change_kept(&self, change_id: ChangeId) -> Result<()> {
        self.move_change(change_id, ChangeState::Kept, &["intended", "made"]).await
    }

    /// Its removal failed; the next reconciliation tries again.
    pub async fn change_failed(&self, change_id: ChangeId, error: &str) -> Result<()> {
        sqlx::query("update host_change set last_error = $2, updated_at = now() where change_id = $1")
            .bind(change_id)
            .bind(error)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn move_change(&self, change_id: ChangeId, to: ChangeState, from: &[&str]) -> Result<()> {
        let to = match to {
            ChangeState::Intended => "intended",
            ChangeState::Made => "made",
            ChangeState::Removing => "removing",
            ChangeState::Removed => "removed",
            ChangeState::Kept => "kept",
        };
        sqlx::query(
            "update host_change set state = $2, last_error = null, updated_at = now()
             where change_id = $1 and state = any($3)",
        )
        .bind(change_id)
        .bind(to)
        .bind(from)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Changes on a device that are not closed, oldest first.
    pub async fn open_changes(&self, device_id: DeviceId) -> Result<Vec<Change>> {
        Ok(changes!("c.device_id = $1 and c.state in ('intended', 'made', 'removing')")
            .bind(device_id)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Whether this installation ever journalled a change with the token.
    pub async fn knows_change(&self, token: &str) -> Result<bool> {
        Ok(sqlx::query_scalar("select exists (select from host_change where token = $1)")
            .bind(token)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Enabled devices on which dead jobs left something.
    pub async fn devices_to_reconcile(&self) -> Result<Vec<DeviceId>> {
        Ok(sqlx::query_scalar(
            "select distinct c.device_id from host_change c join device d using (device_id)
                 left join job j using (job_id)
             where d.enabled and c.state in ('intended', 'made', 'removing')
                 and not coalesce(j.state = 'running' and j.fence = c.fence and j.lease_expires_at > now(), false)
             order by c.device_id",
        )
        .fetch_all(&self.pool)
        .await?)
    }
}
