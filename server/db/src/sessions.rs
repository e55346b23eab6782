//! Browser sessions and the throttling of sign-ins. Tokens are stored as hashes only.

use crate::accounts::Account;
use crate::database::Database;
use crate::error::Result;
use crate::ids::AccountId;
use std::time::Duration;

/// A session is written back when it was last seen longer ago than this: not on every request.
const SEEN_GRANULARITY_SECONDS: f64 = 30.0;
/// Failures older than this are forgotten.
const FAILURES_KEPT_HOURS: i32 = 24;

/// A session to start.
#[derive(Debug)]
pub struct NewSession<'a> {
    /// SHA-256 of the cookie's 256 random bits.
    pub token_sha256: [u8; 32],
    /// Who signed in.
    pub account_id: AccountId,
    /// Token that forms of this session carry.
    pub form_token: &'a str,
    /// It ends after this long, whatever happens.
    pub absolute: Duration,
}

/// A session that is valid now.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Session {
    /// Who.
    #[sqlx(flatten)]
    pub account: Account,
    /// Token that its forms carry.
    pub form_token: String,
}

/// Failed sign-ins of one subject within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginFailures {
    /// How many.
    pub count: u32,
    /// How long ago the last one was.
    pub since_last: Option<Duration>,
}

impl Database {
    /// Starts a session.
    pub async fn create_session(&self, session: &NewSession<'_>) -> Result<()> {
        sqlx::query(
            "insert into session (token_hash, account_id, form_token, expires_at)
             values ($1, $2, $3, now() + make_interval(secs => $4))",
        )
        .bind(session.token_sha256.as_slice())
        .bind(session.account_id)
        .bind(session.form_token)
        .bind(session.absolute.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The session of a cookie, if it was seen within `idle`, has not reached its absolute end and its account may
    /// sign in; it counts as seen now.
    pub async fn touch_session(&self, token_sha256: [u8; 32], idle: Duration) -> Result<Option<Session>> {
        let row: Option<(bool,)> = sqlx::query_as(
            "select last_seen_at < now() - make_interval(secs => $3) from session
             where token_hash = $1 and expires_at > now() and last_seen_at > now() - make_interval(secs => $2)",
        )
        .bind(token_sha256.as_slice())
        .bind(idle.as_secs_f64())
        .bind(SEEN_GRANULARITY_SECONDS)
        .fetch_optional(&self.pool)
        .await?;
        let Some((stale,)) = row else { return Ok(None) };
        if stale {
            sqlx::query("update session set last_seen_at = now() where token_hash = $1")
                .bind(token_sha256.as_slice())
                .execute(&self.pool)
                .await?;
        }
        Ok(sqlx::query_as(
            "select a.*, s.form_token from session s join account a using (account_id)
             where s.token_hash = $1 and not a.disabled",
        )
        .bind(token_sha256.as_slice())
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Ends a session.
    pub async fn delete_session(&self, token_sha256: [u8; 32]) -> Result<()> {
        sqlx::query("delete from session where token_hash = $1")
            .bind(token_sha256.as_slice())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Ends all sessions of an account.
    pub async fn delete_sessions_of(&self, account_id: AccountId) -> Result<()> {
        sqlx::query("delete from session where account_id = $1").bind(account_id).execute(&self.pool).await?;
        Ok(())
    }

    /// Removes sessions that can no longer be used, and failures nobody asks for any more.
    pub async fn purge_sessions(&self, idle: Duration) -> Result<u64> {
        let gone = sqlx::query(
            "delete from session where expires_at <= now() or last_seen_at <= now() - make_interval(secs => $1)",
        )
        .bind(idle.as_secs_f64())
        .execute(&self.pool)
        .await?;
        sqlx::query("delete from login_failure where failed_at < now() - make_interval(hours => $1)")
            .bind(FAILURES_KEPT_HOURS)
            .execute(&self.pool)
            .await?;
        Ok(gone.rows_affected())
    }

    /// Notes a failed sign-in; `subject` is an account's name or an address, with a prefix that tells which.
    pub async fn record_login_failure(&self, subject: &str) -> Result<()> {
        sqlx::query("insert into login_failure (subject) values ($1)").bind(subject).execute(&self.pool).await?;
        Ok(())
    }

    /// Failures of a subject within the window.
    pub async fn login_failures(&self, subject: &str, window: Duration) -> Result<LoginFailures> {
        let (count, since_last): (i64, Option<f64>) = sqlx::query_as(
            "select count(*), extract(epoch from now() - max(failed_at))::float8 from login_failure
             where subject = $1 and failed_at > now() - make_interval(secs => $2)",
        )
        .bind(subject)
        .bind(window.as_secs_f64())
        .fetch_one(&self.pool)
        .await?;
        Ok(LoginFailures {
            count: u32::try_from(count).unwrap_or(u32::MAX),
            since_last: since_last.map(|seconds| Duration::from_secs_f64(seconds.max(0.0))),
        })
    }

    /// Forgets the failures of a subject, after a sign-in.
    pub async fn clear_login_failures(&self, subject: &str) -> Result<()> {
        sqlx::query("delete from login_failure where subject = $1").bind(subject).execute(&self.pool).await?;
        Ok(())
    }
}
