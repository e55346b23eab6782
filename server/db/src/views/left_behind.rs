//! What runs that broke off left on hosts, a line each.

use crate::column::{Time, Word};
use crate::ids::{DeviceId, VmId};
use crate::journal::{ChangeKind, ChangeState};
use crate::{Database, Result};
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

/// All of it, oldest first: the lines that [`super::left_behind`] counts.
pub async fn left_lines(db: &Database) -> Result<Vec<LeftLine>> {
    Ok(sqlx::query_as(
        "select c.device_id, d.name as device, c.vm_id, v.name as machine, c.kind, c.state, c.token, c.created_at,
                c.last_error
         from host_change c join device d using (device_id) left join virtual_machine v on v.vm_id = c.vm_id
              left join job j using (job_id)
         where c.state in ('intended', 'made', 'removing') and not (c.kind = 'power' and c.state = 'intended')
               and not coalesce(j.state = 'running', false)
         order by c.created_at, c.change_id limit $1",
    )
    .bind(LINES_MAX)
    .fetch_all(&db.pool)
    .await?)
}
