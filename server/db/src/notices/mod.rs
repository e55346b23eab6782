//! Notices: rows of what is worth telling, and the messages that carry them.
//!
//! Owns: the outbox. A notice is written in the transaction of what it tells (`ended.rs`) or by a look at the database
//! (`conditions.rs`, `missed.rs`), routed once to the channels that want it (`routing.rs`), and delivered by whoever
//! leases it (`deliveries.rs`); `digest.rs` makes the daily mail, `channels.rs` keeps where they go.
//! Must never: send anything, or tell the same twice.

mod channels;
mod conditions;
mod deliveries;
mod digest;
mod ended;
mod missed;
mod routing;

pub use channels::{Channel, ChannelInput};
pub use deliveries::{Delivery, DeliveryLine, DeliveryState};
pub(crate) use ended::run_ended;

use crate::column::{Time, Word};
use crate::database::Database;
use crate::error::Result;
use crate::ids::{DeviceId, NoticeId, RepositoryId, RunId, TaskId, VmId};
use domain::notice::{Item, Message, NoticeKind, NoticeSeverity, Subject};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;

/// Things that one notice names; the rest is counted.
const ITEMS_MAX: usize = 20;
/// Longest title or text of one of them, characters.
const TEXT_CHARS_MAX: usize = 500;
/// Notices and their deliveries are kept for so long.
const KEPT_DAYS: i32 = 90;
/// Name of the setting that holds [`NoticeLimits`].
const LIMITS_SETTING: &str = "notices";

/// From when on something is worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NoticeLimits {
    /// A run that has not begun so many minutes after its due time is told.
    pub missed_grace_minutes: u32,
    /// A device that has not answered for so many minutes is told.
    pub device_minutes: u32,
    /// A location with less than this free is told, percent of its file system.
    pub space_percent: u32,
}

impl Default for NoticeLimits {
    fn default() -> Self {
        Self { missed_grace_minutes: 30, device_minutes: 30, space_percent: 10 }
    }
}

/// A notice to write.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewNotice {
    pub title: String,
    pub detail: String,
    /// All of them; the first ones are kept.
    pub items: Vec<Item>,
    /// When there are more than `items` holds.
    pub items_total: u64,
    pub over: bool,
    pub task_id: Option<TaskId>,
    pub vm_id: Option<VmId>,
    pub device_id: Option<DeviceId>,
    pub repository_id: Option<RepositoryId>,
    pub run_id: Option<RunId>,
    /// Nothing is told twice under it; `None` for what cannot come twice.
    pub dedup_key: Option<String>,
}

/// A notice.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Notice {
    /// Its id.
    pub notice_id: NoticeId,
    /// What it is about.
    #[sqlx(try_from = "Word")]
    pub kind: NoticeKind,
    /// How grave.
    #[sqlx(try_from = "Word")]
    pub severity: NoticeSeverity,
    /// What an earlier one told is no more.
    pub over: bool,
    /// One line.
    pub title: String,
    /// In sentences.
    pub detail: String,
    #[sqlx(json)]
    items: Vec<Item>,
    items_total: i64,
    task_id: Option<TaskId>,
    vm_id: Option<VmId>,
    device_id: Option<DeviceId>,
    repository_id: Option<RepositoryId>,
    run_id: Option<RunId>,
    /// When.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
}

impl Notice {
    /// As it is sent.
    pub fn message(&self) -> Message {
        Message {
            kind: self.kind.as_str().to_owned(),
            severity: self.severity,
            over: self.over,
            title: self.title.clone(),
            detail: self.detail.clone(),
            items: self.items.clone(),
            items_total: self.items_total.unsigned_abs(),
            subject: Subject {
                task_id: self.task_id.map(|id| id.0),
                machine_id: self.vm_id.map(|id| id.0),
                device_id: self.device_id.map(|id| id.0),
                repository_id: self.repository_id.map(|id| id.to_string()),
                run_id: self.run_id.map(|id| id.0),
            },
            sections: Vec::new(),
            created_at: self.created_at,
        }
    }
}

impl Database {
    /// From when on something is worth telling.
    pub async fn notice_limits(&self) -> Result<NoticeLimits> {
        Ok(self.setting(LIMITS_SETTING).await?.unwrap_or_default())
    }

    /// Sets it.
    pub async fn set_notice_limits(&self, limits: &NoticeLimits) -> Result<()> {
        self.set_setting(LIMITS_SETTING, limits).await
    }

    /// Newest notices first.
    pub async fn newest_notices(&self, limit: u32) -> Result<Vec<Notice>> {
        Ok(sqlx::query_as("select * from notice order by created_at desc, notice_id desc limit $1")
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?)
    }

    /// Forgets notices of long ago with their deliveries.
    pub async fn prune_notices(&self) -> Result<u64> {
        let deleted = sqlx::query("delete from notice where created_at < now() - make_interval(days => $1)")
            .bind(KEPT_DAYS)
            .execute(&self.pool)
            .await?;
        // Digests and summaries have no notice.
        sqlx::query("delete from notice_delivery where created_at < now() - make_interval(days => $1)")
            .bind(KEPT_DAYS)
            .execute(&self.pool)
            .await?;
        Ok(deleted.rows_affected())
    }
}

/// Writes a notice with the transaction it belongs to.
pub(crate) async fn insert(connection: &mut PgConnection, kind: NoticeKind, new: NewNotice) -> Result<()> {
    let total = (new.items.len() as u64).max(new.items_total);
    let items: Vec<Item> = new
        .items
        .into_iter()
        .take(ITEMS_MAX)
        .map(|item| Item { name: cut(&item.name), text: cut(&item.text) })
        .collect();
    let severity = if new.over { NoticeSeverity::Info } else { kind.severity() };
    sqlx::query(
        "insert into notice (kind, severity, over, title, detail, items, items_total, task_id, vm_id, device_id,
             repository_id, run_id, dedup_key)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, coalesce($13, gen_random_uuid()::text))
         on conflict (dedup_key) do nothing",
    )
    .bind(kind.as_str())
    .bind(severity.as_str())
    .bind(new.over)
    .bind(cut(&new.title))
    .bind(cut(&new.detail))
    .bind(Json(items))
    .bind(i64::try_from(total).unwrap_or(i64::MAX))
    .bind(new.task_id)
    .bind(new.vm_id)
    .bind(new.device_id)
    .bind(new.repository_id)
    .bind(new.run_id)
    .bind(new.dedup_key)
    .execute(connection)
    .await?;
    Ok(())
}

/// At most [`TEXT_CHARS_MAX`] characters, without the one that Postgres refuses.
fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).map(|character| if character == '\0' { '\u{fffd}' } else { character }).collect()
}

/// `3 h 5 min`, `40 min`, `2 days`.
fn minutes_words(minutes: i64) -> String {
    const HOUR: i64 = 60;
    const DAY: i64 = 24 * HOUR;
    match minutes {
        ..HOUR => format!("{minutes} min"),
        HOUR..DAY if minutes % HOUR == 0 => format!("{} h", minutes / HOUR),
        HOUR..DAY => format!("{} h {} min", minutes / HOUR, minutes % HOUR),
        _ if minutes < 2 * DAY => format!("{} h", minutes / HOUR),
        _ => format!("{} days", minutes / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_one_says_them() {
        for (minutes, words) in [(40, "40 min"), (60, "1 h"), (185, "3 h 5 min"), (1_800, "30 h"), (4_400, "3 days")] {
            assert_eq!(minutes_words(minutes), words);
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut(&"ß".repeat(600)).chars().count(), TEXT_CHARS_MAX);
        assert_eq!(cut("a\0"), "a\u{fffd}");
    }
}
