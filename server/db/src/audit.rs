//! Who changed what. Entries are never changed and never hold a secret.

use crate::column::Time;
use crate::database::Database;
use crate::error::Result;
use crate::ids::AccountId;
use jiff::Timestamp;

/// An entry to write.
#[derive(Debug, Clone)]
pub struct Audit<'a> {
    /// The account, if it was one.
    pub account_id: Option<AccountId>,
    /// Its name, or `server`.
    pub actor: &'a str,
    /// Stable, with dots: `device.removed`.
    pub action: &'a str,
    /// What it was done to, by name.
    pub subject: &'a str,
    /// What changed, in words.
    pub detail: &'a str,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct AuditEntry {
    /// Ascends with time.
    pub audit_id: i64,
    /// When.
    #[sqlx(try_from = "Time")]
    pub at: Timestamp,
    /// Who, by name at that time.
    pub actor: String,
    /// Stable, with dots.
    pub action: String,
    /// To what.
    pub subject: String,
    /// In words.
    pub detail: String,
}

impl Database {
    /// Writes an entry.
    pub async fn audit(&self, entry: &Audit<'_>) -> Result<()> {
        sqlx::query("insert into audit_entry (account_id, actor, action, subject, detail) values ($1, $2, $3, $4, $5)")
            .bind(entry.account_id)
            .bind(entry.actor)
            .bind(entry.action)
            .bind(entry.subject)
            .bind(entry.detail)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Newest first; `before` is the smallest `audit_id` of the page before.
    pub async fn audit_entries(&self, before: Option<i64>, limit: u32) -> Result<Vec<AuditEntry>> {
        Ok(sqlx::query_as(
            "select audit_id, at, actor, action, subject, detail from audit_entry
             where audit_id < coalesce($1, 9223372036854775807) order by audit_id desc limit $2",
        )
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?)
    }
}
