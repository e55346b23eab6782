//! Messages on their way: leased, settled, tried again.

use super::channels::Channel;
use crate::column::{MaybeTime, Time, Word};
use crate::database::Database;
use crate::error::Result;
use crate::ids::{ChannelId, DeliveryId};
use domain::notice::{Message, NoticeSeverity};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A lease is longer than any delivery; what was not settled by then is tried by another.
const LEASE_SECONDS: i32 = 120;
/// After so many attempts a message is given up.
const ATTEMPTS_MAX: u32 = 12;
/// Longest answer that is kept, characters.
const ANSWER_CHARS_MAX: usize = 1_000;

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waits for its turn or its next attempt.
    Queued,
    /// A server is at it.
    Sending,
    /// The receiver took it.
    Sent,
    /// Given up.
    Failed,
    /// Waits for a summary.
    Held,
    /// Is in one.
    Summed,
}

/// A message to deliver now.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Delivery {
    /// The same at each attempt.
    pub delivery_id: DeliveryId,
    /// By which channel.
    pub channel_id: ChannelId,
    /// To whom.
    pub recipient: String,
    /// What.
    #[sqlx(json)]
    pub message: Message,
    /// The first is 1. Nothing is settled for an attempt that is not the last.
    #[sqlx(try_from = "i32")]
    pub attempt: u32,
}

/// A message in the list of the last ones.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeliveryLine {
    /// Its id.
    pub delivery_id: DeliveryId,
    /// By which channel.
    pub channel_id: ChannelId,
    /// Its name.
    pub channel: String,
    /// To whom.
    pub recipient: String,
    /// What it says.
    pub title: String,
    /// How grave.
    #[sqlx(try_from = "Word")]
    pub severity: NoticeSeverity,
    /// The end of a trouble.
    pub over: bool,
    /// Where it is.
    #[sqlx(try_from = "Word")]
    pub state: DeliveryState,
    /// Attempts so far.
    pub attempt: i32,
    /// The next one.
    #[sqlx(try_from = "Time")]
    pub run_after: Timestamp,
    /// What the receiver said, or why it did not.
    pub answer: Option<String>,
    /// When it was made.
    #[sqlx(try_from = "Time")]
    pub created_at: Timestamp,
    /// When it was settled.
    #[sqlx(try_from = "MaybeTime")]
    pub finished_at: Option<Timestamp>,
}

impl Database {
    /// Takes messages that are due, for [`LEASE_SECONDS`]. At most once at a time each, whoever asks.
    pub async fn lease_deliveries(&self, worker: &str, limit: u32) -> Result<Vec<Delivery>> {
        Ok(sqlx::query_as(
            "with candidate as (
                 select delivery_id from notice_delivery join notice_channel using (channel_id)
                 where enabled and ((state = 'queued' and run_after <= now())
                                    or (state = 'sending' and lease_expires_at <= now()))
                 order by run_after, delivery_id limit $2 for update of notice_delivery skip locked)
             update notice_delivery d set state = 'sending', attempt = attempt + 1, leased_by = $1,
                 lease_expires_at = now() + make_interval(secs => $3)
             from candidate where d.delivery_id = candidate.delivery_id
             returning d.delivery_id, d.channel_id, d.recipient, d.message, d.attempt",
        )
        .bind(worker)
        .bind(i64::from(limit))
        .bind(f64::from(LEASE_SECONDS))
        .fetch_all(&self.pool)
        .await?)
    }

    /// The receiver took it.
    pub async fn delivery_sent(&self, delivery: &Delivery, answer: &str) -> Result<()> {
        sqlx::query(
            "update notice_delivery set state = 'sent', answer = $3, finished_at = now(), leased_by = null,
                 lease_expires_at = null
             where delivery_id = $1 and attempt = $2 and state = 'sending'",
        )
        .bind(delivery.delivery_id)
        .bind(i32::try_from(delivery.attempt).unwrap_or(i32::MAX))
        .bind(cut(answer))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// It did not, and is asked again after a pause, or never. Says what state the message came to.
    pub async fn delivery_failed(&self, delivery: &Delivery, why: &str, pause: Duration) -> Result<DeliveryState> {
        let is_last = delivery.attempt >= ATTEMPTS_MAX;
        sqlx::query(
            "update notice_delivery set state = case when $4 then 'failed' else 'queued' end, answer = $3,
                 finished_at = case when $4 then now() end, run_after = now() + make_interval(secs => $5),
                 leased_by = null, lease_expires_at = null
             where delivery_id = $1 and attempt = $2 and state = 'sending'",
        )
        .bind(delivery.delivery_id)
        .bind(i32::try_from(delivery.attempt).unwrap_or(i32::MAX))
        .bind(cut(why))
        .bind(is_last)
        .bind(pause.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(if is_last { DeliveryState::Failed } else { DeliveryState::Queued })
    }

    /// The last messages, of one channel or all, newest first.
    pub async fn newest_deliveries(&self, channel: Option<ChannelId>, limit: u32) -> Result<Vec<DeliveryLine>> {
        Ok(sqlx::query_as(
            "select d.delivery_id, d.channel_id, c.name as channel, d.recipient, d.message ->> 'title' as title,
                    d.message ->> 'severity' as severity, coalesce((d.message ->> 'over')::boolean, false) as over,
                    d.state, d.attempt, d.run_after, d.answer, d.created_at, d.finished_at
             from notice_delivery d join notice_channel c using (channel_id)
             where $1::bigint is null or d.channel_id = $1
             order by d.created_at desc, d.delivery_id limit $2",
        )
        .bind(channel)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?)
    }

    /// The channel of a message, with its password or signing key: for delivering, nothing else.
    pub async fn channel_to_use(&self, channel_id: ChannelId) -> Result<(Channel, Option<secrecy::SecretString>)> {
        Ok((self.channel(channel_id).await?, self.channel_secret(channel_id).await?))
    }
}

fn cut(text: &str) -> String {
    text.chars()
        .take(ANSWER_CHARS_MAX)
        .map(|character| if character == '\0' { '\u{fffd}' } else { character })
        .collect()
}
