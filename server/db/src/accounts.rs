//! Accounts of the console, and how the first one comes to be.

use crate::column::Word;
use crate::database::Database;
use crate::error::{Conflict, Error, Result};
use crate::ids::AccountId;
use domain::permission::Role;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// An account, without its password hash.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Account {
    /// Id.
    pub account_id: AccountId,
    /// Name to sign in with; compared without case.
    pub name: String,
    /// What it may do.
    #[sqlx(try_from = "Word")]
    pub role: Role,
    /// How the console looks.
    #[sqlx(try_from = "Word")]
    pub theme: Theme,
    /// May not sign in.
    pub disabled: bool,
}

/// How the console looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Theme {
    /// As the browser says.
    #[default]
    Auto,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

impl Theme {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

#[derive(sqlx::FromRow)]
struct AccountWithHash {
    #[sqlx(flatten)]
    account: Account,
    password_hash: String,
}

impl Database {
    /// True until the first administrator exists.
    pub async fn needs_setup(&self) -> Result<bool> {
        Ok(sqlx::query_scalar("select not exists (select from account)").fetch_one(&self.pool).await?)
    }

    /// Makes the token with this SHA-256 the one that lets the first administrator in; the one before is void.
    /// False, and nothing is changed, when an account exists.
    pub async fn set_setup_token(&self, token_sha256: [u8; 32]) -> Result<bool> {
        let changed =
            sqlx::query("update installation set setup_token_hash = $1 where not exists (select from account)")
                .bind(token_sha256.as_slice())
                .execute(&self.pool)
                .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Uses up the setup token and makes the first administrator, both or neither.
    /// [`Error::SetupToken`] for a wrong token, [`Conflict::AlreadySetUp`] once an account exists.
    pub async fn create_first_administrator(
        &self,
        token_sha256: [u8; 32],
        name: &str,
        password_hash: &SecretString,
    ) -> Result<AccountId> {
        let mut transaction = self.pool.begin().await?;
        let expected: Option<Vec<u8>> = sqlx::query_scalar("select setup_token_hash from installation for update")
            .fetch_one(&mut *transaction)
            .await?;
        let exists: bool =
            sqlx::query_scalar("select exists (select from account)").fetch_one(&mut *transaction).await?;
        if exists {
            return Err(Error::Conflict(Conflict::AlreadySetUp));
        }
        if expected.as_deref() != Some(token_sha256.as_slice()) {
            return Err(Error::SetupToken);
        }
        sqlx::query("update installation set setup_token_hash = null").execute(&mut *transaction).await?;
        let account_id = sqlx::query_scalar(
            "insert into account (name, password_hash, role) values ($1, $2, 'administrator') returning account_id",
        )
        .bind(name)
        .bind(password_hash.expose_secret())
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(account_id)
    }

    /// Makes another account.
    pub async fn create_account(&self, name: &str, role: Role, password_hash: &SecretString) -> Result<AccountId> {
        Ok(sqlx::query_scalar(
            "insert into account (name, role, password_hash) values ($1, $2, $3) returning account_id",
        )
        .bind(name)
        .bind(role.as_str())
        .bind(password_hash.expose_secret())
        .fetch_one(&self.pool)
        .await?)
    }

    /// The account of that name with its password hash, for signing in. Disabled ones too: the caller says so.
    pub async fn account_by_name(&self, name: &str) -> Result<Option<(Account, SecretString)>> {
        let row: Option<AccountWithHash> = sqlx::query_as("select * from account where lower(name) = lower($1)")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| (row.account, SecretString::from(row.password_hash))))
    }

    /// An account.
    pub async fn account(&self, account_id: AccountId) -> Result<Account> {
        sqlx::query_as("select * from account where account_id = $1")
            .bind(account_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("account", account_id))
    }

    /// All accounts, by name.
    pub async fn accounts(&self) -> Result<Vec<Account>> {
        Ok(sqlx::query_as("select * from account order by lower(name)").fetch_all(&self.pool).await?)
    }

    /// Replaces the password and ends all sessions of the account.
    pub async fn set_password(&self, account_id: AccountId, password_hash: &SecretString) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let changed = sqlx::query("update account set password_hash = $2 where account_id = $1")
            .bind(account_id)
            .bind(password_hash.expose_secret())
            .execute(&mut *transaction)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(Error::not_found("account", account_id));
        }
        sqlx::query("delete from session where account_id = $1").bind(account_id).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Remembers how the console looks for this account.
    pub async fn set_theme(&self, account_id: AccountId, theme: Theme) -> Result<()> {
        sqlx::query("update account set theme = $2 where account_id = $1")
            .bind(account_id)
            .bind(theme.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
