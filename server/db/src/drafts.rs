//! Answers of wizards that are not finished. A draft is seen by the account that began it only.

use crate::column::Word;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{AccountId, DraftId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

/// Drafts nobody came back to.
const DRAFTS_KEPT_DAYS: i32 = 7;

/// Which wizard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DraftKind {
    /// Create or edit a backup task.
    Task,
    /// Restore a machine.
    Restore,
    /// Add a device.
    Device,
}

impl DraftKind {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Restore => "restore",
            Self::Device => "device",
        }
    }
}

/// A draft.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Draft {
    /// Id, random: it stands in the wizard's address.
    pub draft_id: DraftId,
    /// Which wizard.
    #[sqlx(try_from = "Word")]
    pub kind: DraftKind,
    /// The answers, in the wizard's own shape. Never a secret.
    pub data: Value,
}

impl Database {
    /// Begins a draft; drafts that were left behind long ago go.
    pub async fn create_draft(&self, account_id: AccountId, kind: DraftKind, data: &Value) -> Result<DraftId> {
        let draft_id = DraftId(Uuid::new_v4());
        sqlx::query("delete from wizard_draft where updated_at < now() - make_interval(days => $1)")
            .bind(DRAFTS_KEPT_DAYS)
            .execute(&self.pool)
            .await?;
        sqlx::query("insert into wizard_draft (draft_id, account_id, kind, data) values ($1, $2, $3, $4)")
            .bind(draft_id)
            .bind(account_id)
            .bind(kind.as_str())
            .bind(Json(data))
            .execute(&self.pool)
            .await?;
        Ok(draft_id)
    }

    /// A draft of this account.
    pub async fn draft(&self, draft_id: DraftId, account_id: AccountId) -> Result<Draft> {
        sqlx::query_as("select draft_id, kind, data from wizard_draft where draft_id = $1 and account_id = $2")
            .bind(draft_id)
            .bind(account_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("draft", draft_id))
    }

    /// Replaces the answers.
    pub async fn update_draft(&self, draft_id: DraftId, account_id: AccountId, data: &Value) -> Result<()> {
        let changed = sqlx::query(
            "update wizard_draft set data = $3, updated_at = now() where draft_id = $1 and account_id = $2",
        )
        .bind(draft_id)
        .bind(account_id)
        .bind(Json(data))
        .execute(&self.pool)
        .await?;
        if changed.rows_affected() == 0 { Err(Error::not_found("draft", draft_id)) } else { Ok(()) }
    }

    /// Ends a draft; one that is gone is fine.
    pub async fn delete_draft(&self, draft_id: DraftId, account_id: AccountId) -> Result<()> {
        sqlx::query("delete from wizard_draft where draft_id = $1 and account_id = $2")
            .bind(draft_id)
            .bind(account_id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
