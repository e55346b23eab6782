//! Channels: where notices go, with their sealed secrets.

use crate::column::{MaybeTime, Time};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::ChannelId;
use crate::sealed::Place;
use domain::notice::{ChannelConfig, DigestTime, Rules};
use jiff::Timestamp;
use secrecy::SecretString;
use sqlx::types::Json;

/// Channels of one server.
const CHANNELS_MAX: i64 = 50;

/// A channel, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Channel {
    /// Its id.
    pub channel_id: ChannelId,
    /// The operator's name for it.
    pub name: String,
    /// Where it goes.
    #[sqlx(json)]
    pub config: ChannelConfig,
    /// A password or signing key is stored.
    pub has_secret: bool,
    /// It is used.
    pub enabled: bool,
    /// What it is told.
    #[sqlx(json)]
    pub rules: Rules,
    /// When its digest comes.
    #[sqlx(json(nullable))]
    pub digest: Option<DigestTime>,
    /// The next one.
    #[sqlx(try_from = "MaybeTime")]
    pub next_digest_at: Option<Timestamp>,
    /// At once in an hour, at most.
    pub hourly_max: i32,
}

/// What an operator decides about a channel.
#[derive(Debug, Clone)]
pub struct ChannelInput {
    /// Name.
    pub name: String,
    /// Where it goes.
    pub config: ChannelConfig,
    /// Sealed before it is written. `None` keeps what is there; an empty one removes it.
    pub secret: Option<SecretString>,
    /// It is used.
    pub enabled: bool,
    /// What it is told.
    pub rules: Rules,
    /// When its digest comes.
    pub digest: Option<DigestTime>,
    /// At once in an hour, at most.
    pub hourly_max: u32,
}

const COLUMNS: &str =
    "select channel_id, name, config, secret_sealed is not null as has_secret, enabled, rules, digest,
    next_digest_at, hourly_max from notice_channel";

fn secret_place(channel_id: ChannelId) -> Place {
    Place::new("notice_channel", "secret_sealed", channel_id)
}

impl Database {
    /// All channels, by name.
    pub async fn channels(&self) -> Result<Vec<Channel>> {
        let query = sqlx::AssertSqlSafe(format!("{COLUMNS} order by lower(name) limit $1"));
        Ok(sqlx::query_as(query).bind(CHANNELS_MAX).fetch_all(&self.pool).await?)
    }

    /// A channel.
    pub async fn channel(&self, channel_id: ChannelId) -> Result<Channel> {
        let query = sqlx::AssertSqlSafe(format!("{COLUMNS} where channel_id = $1"));
        sqlx::query_as(query)
            .bind(channel_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::not_found("channel", channel_id))
    }

    /// Its password or signing key, opened. For delivering, nothing else.
    pub async fn channel_secret(&self, channel_id: ChannelId) -> Result<Option<SecretString>> {
        let sealed: Option<Vec<u8>> =
            sqlx::query_scalar("select secret_sealed from notice_channel where channel_id = $1")
                .bind(channel_id)
                .fetch_optional(&self.pool)
                .await?
                .ok_or_else(|| Error::not_found("channel", channel_id))?;
        sealed.map(|sealed| self.key.open(&secret_place(channel_id), &sealed)).transpose()
    }

    /// Adds a channel. It is told what comes from now on.
    pub async fn insert_channel(&self, input: &ChannelInput) -> Result<ChannelId> {
        let mut transaction = self.pool.begin().await?;
        let count: i64 = sqlx::query_scalar("select count(*) from notice_channel").fetch_one(&mut *transaction).await?;
        if count >= CHANNELS_MAX {
            return Err(Error::OutOfLimits { rule: format!("at most {CHANNELS_MAX} channels") });
        }
        let channel_id: ChannelId = sqlx::query_scalar(
            "insert into notice_channel (name, kind, config) values ($1, $2, $3) returning channel_id",
        )
        .bind(&input.name)
        .bind(input.config.kind())
        .bind(Json(&input.config))
        .fetch_one(&mut *transaction)
        .await?;
        self.write_channel(&mut transaction, channel_id, input).await?;
        transaction.commit().await?;
        Ok(channel_id)
    }

    /// Replaces what was decided about a channel. What waits is sent the new way.
    pub async fn update_channel(&self, channel_id: ChannelId, input: &ChannelInput) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        self.write_channel(&mut transaction, channel_id, input).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn write_channel(
        &self,
        transaction: &mut sqlx::Transaction<'_, sqlx::Postgres>,
        channel_id: ChannelId,
        input: &ChannelInput,
    ) -> Result<()> {
        use secrecy::ExposeSecret;
        let Time(now) = sqlx::query_scalar("select now()").fetch_one(&mut **transaction).await?;
        let next_digest_at = input.digest.as_ref().and_then(|digest| digest.next_after(now));
        let secret = input.secret.as_ref().filter(|secret| !secret.expose_secret().is_empty());
        let sealed = secret.map(|secret| self.key.seal(&secret_place(channel_id), secret)).transpose()?;
        let changed = sqlx::query(
            "update notice_channel set name = $2, config = $3, enabled = $4, rules = $5, digest = $6, next_digest_at = $7,
                 hourly_max = $8, secret_sealed = case when $9 then $10 else secret_sealed end,
                 digested_until = case when digest is null then now() else digested_until end
             where channel_id = $1",
        )
        .bind(channel_id)
        .bind(&input.name)
        .bind(Json(&input.config))
        .bind(input.enabled)
        .bind(Json(&input.rules))
        .bind(input.digest.as_ref().map(Json))
        .bind(next_digest_at.map(Time))
        .bind(i32::try_from(input.hourly_max).unwrap_or(i32::MAX))
        .bind(input.secret.is_some())
        .bind(sealed)
        .execute(&mut **transaction)
        .await?;
        if changed.rows_affected() == 0 { Err(Error::not_found("channel", channel_id)) } else { Ok(()) }
    }

    /// Removes a channel with what waits for it.
    pub async fn remove_channel(&self, channel_id: ChannelId) -> Result<()> {
        let removed = sqlx::query("delete from notice_channel where channel_id = $1")
            .bind(channel_id)
            .execute(&self.pool)
            .await?;
        if removed.rows_affected() == 0 { Err(Error::not_found("channel", channel_id)) } else { Ok(()) }
    }
}
