//! What runs that broke off left on hosts, and what other programs seem to have left: how much, and a line each.

use crate::column::{Time, Word};
use crate::foreign::stale;
use crate::ids::{DeviceId, ForeignId, RunId, VmId};
use crate::journal::{ChangeKind, ChangeState, left_behind};
use crate::{Database, Result};
use domain::foreign::{Maker, STALE_AFTER_HOURS};
use domain::job::JobState;
use jiff::Timestamp;

/// Lines of the list, at most; the count is of all.
const LINES_MAX: i64 = 500;

/// Something of ours on a host that nobody works on any more.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LeftLine {
    /// Where.
    pub device_id: DeviceId,
    /// Its name.
    pub device: String,
    /// Of which machine, if it is known.
    pub vm_id: Option<VmId>,
    /// Its name.
    pub machine: Option<String>,
    /// What.
    #[sqlx(try_from = "Word")]
    pub kind: ChangeKind,
    /// How far.
    #[sqlx(try_from = "Word")]
    pub state: ChangeState,
    /// Its name or token on the host.
    pub token: String,
    /// Since when.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// Why the last attempt to put it right failed.
    pub last_error: Option<String>,
}

/// All of it, oldest first: the lines that [`left_behind`] counts.
pub async fn left_lines(db: &Database) -> Result<Vec<LeftLine>> {
    Ok(sqlx::query_as(concat!(
        "select c.device_id, d.name as device, c.vm_id, v.name as machine, c.kind, c.state, c.token, c.created_at,
                c.last_error
         from host_change c join device d using (device_id) left join virtual_machine v on v.vm_id = c.vm_id
              left join job j using (job_id)
         where ",
        left_behind!(),
        " order by c.created_at, c.change_id limit $1"
    ))
    .bind(LINES_MAX)
    .fetch_all(&db.pool)
    .await?)
}

/// A snapshot that another program seems to have left.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ForeignLine {
    /// Its id.
    pub foreign_id: ForeignId,
    /// Where.
    pub device_id: DeviceId,
    /// Its name.
    pub device: String,
    /// Of which machine.
    pub vm_id: VmId,
    /// Its name.
    pub machine: String,
    /// Name on the host.
    pub name: String,
    /// Who seems to have made it.
    #[sqlx(try_from = "Word")]
    pub maker: Maker,
    /// When, by the host's clock.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// The run that removes it, or tried to.
    pub run_id: Option<RunId>,
    /// How that run stands.
    state: Option<String>,
}

impl ForeignLine {
    /// How the run that removes it stands, or ended.
    pub fn state(&self) -> Option<JobState> {
        self.state.as_deref().and_then(JobState::parse)
    }
}

/// All of them, oldest first.
pub async fn foreign_lines(db: &Database) -> Result<Vec<ForeignLine>> {
    Ok(sqlx::query_as(concat!(
        "select f.foreign_id, d.device_id, d.name as device, f.vm_id, v.name as machine, f.name, f.maker, f.created_at,
                f.run_id, r.state
         from foreign_snapshot f join virtual_machine v using (vm_id) join device d using (device_id)
              left join run r on r.run_id = f.run_id
         where ",
        stale!("$1"),
        " order by f.created_at, f.foreign_id limit $2"
    ))
    .bind(STALE_AFTER_HOURS)
    .bind(LINES_MAX)
    .fetch_all(&db.pool)
    .await?)
}

/// What of ours is on hosts.
#[derive(Debug, Clone, Default)]
pub struct LeftBehind {
    /// Snapshots, half-made machines and machines that are off, of jobs that do not run any more.
    pub changes: i64,
    /// Devices that answered the last time.
    pub checked: i64,
    /// Names of those that did not.
    pub unreachable: Vec<String>,
    /// Snapshots that other programs seem to have left. Not ours to put right.
    pub foreign: i64,
}

/// What of ours is on hosts and should not be.
pub async fn left_behind(db: &Database) -> Result<LeftBehind> {
    let changes = sqlx::query_scalar(concat!(
        "select count(*) from host_change c left join job j using (job_id) where ",
        left_behind!()
    ))
    .fetch_one(&db.pool)
    .await?;
    let foreign = sqlx::query_scalar(concat!(
        "select count(*) from foreign_snapshot f join virtual_machine v using (vm_id) join device d using (device_id) where ",
        stale!("$1")
    ))
    .bind(STALE_AFTER_HOURS)
    .fetch_one(&db.pool)
    .await?;
    let devices: Vec<(String, bool)> = sqlx::query_as(
        "select name, synced_at is not null and sync_error is null from device where enabled order by lower(name)",
    )
    .fetch_all(&db.pool)
    .await?;
    let unreachable: Vec<String> =
        devices.iter().filter(|(_, answers)| !answers).map(|(name, _)| name.clone()).collect();
    Ok(LeftBehind { changes, checked: (devices.len() - unreachable.len()) as i64, unreachable, foreign })
}
