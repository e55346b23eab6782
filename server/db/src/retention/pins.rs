//! Points that are kept by hand.

use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::PointId;

/// Longest note of a pin.
pub const PIN_NOTE_MAX_CHARS: usize = 200;

impl Database {
    /// Keeps a point whatever the rules say. Again changes its note. [`Error::NotFound`] for one that is about to go.
    pub async fn pin_point(&self, point_id: PointId, by: &str, note: &str) -> Result<()> {
        let pinned = sqlx::query(
            "update restore_point set pinned_at = coalesce(pinned_at, now()), pinned_by = $2, pin_note = $3
             where point_id = $1 and expiring_since is null",
        )
        .bind(point_id)
        .bind(by)
        .bind(note)
        .execute(&self.pool)
        .await?;
        found(point_id, pinned.rows_affected())
    }

    /// Leaves it to the rules again.
    pub async fn unpin_point(&self, point_id: PointId) -> Result<()> {
        let unpinned = sqlx::query(
            "update restore_point set pinned_at = null, pinned_by = null, pin_note = ''
             where point_id = $1 and expiring_since is null",
        )
        .bind(point_id)
        .execute(&self.pool)
        .await?;
        found(point_id, unpinned.rows_affected())
    }
}

fn found(point_id: PointId, rows: u64) -> Result<()> {
    if rows == 0 { Err(Error::not_found("restore point", point_id)) } else { Ok(()) }
}
