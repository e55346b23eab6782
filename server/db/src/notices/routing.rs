//! From notices to messages: which channel is told at once, what is held back for a summary.

use super::Notice;
use super::channels::Channel;
use crate::database::Database;
use crate::error::Result;
use crate::ids::NoticeId;
use domain::notice::{Message, NoticeSeverity, Section, Subject, Tell};
use jiff::Timestamp;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, Transaction};
use std::collections::HashMap;
use uuid::Uuid;

/// One server routes at a time: the hourly limits are counted.
const ROUTE_LOCK: i64 = 0x5346_4e6f_7469;
/// Notices that are routed in one go; the rest at the next tick.
const ROUTED_MAX: i64 = 200;
/// What is held back comes as a summary when its oldest is this old.
const SUMMARY_MINUTES: i32 = 15;
/// Notices that a summary names; the rest is counted.
const SUMMARY_LINES_MAX: usize = 50;

impl Database {
    /// Makes the messages of notices that have none yet, and summaries of what was held back. Says how many there are.
    pub async fn route_notices(&self) -> Result<usize> {
        let channels: Vec<Channel> = self.channels().await?.into_iter().filter(|channel| channel.enabled).collect();
        let mut transaction = self.pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock($1)").bind(ROUTE_LOCK).execute(&mut *transaction).await?;
        let notices: Vec<Notice> =
            sqlx::query_as("select * from notice where routed_at is null order by notice_id limit $1")
                .bind(ROUTED_MAX)
                .fetch_all(&mut *transaction)
                .await?;
        let mut room = HashMap::new();
        for channel in &channels {
            room.insert(channel.channel_id, room_of(&mut transaction, channel).await?);
        }
        let mut made = 0;
        for notice in &notices {
            let message = notice.message();
            for channel in channels.iter().filter(|channel| channel.rules.of(notice.kind) == Tell::Now) {
                let left = room.entry(channel.channel_id).or_default();
                let held = *left <= 0;
                *left -= 1;
                made += deliver(&mut transaction, channel, Some(notice.notice_id), &message, held).await?;
            }
        }
        let ids: Vec<i64> = notices.iter().map(|notice| notice.notice_id.0).collect();
        sqlx::query("update notice set routed_at = now() where notice_id = any($1)")
            .bind(ids)
            .execute(&mut *transaction)
            .await?;
        for channel in &channels {
            made += summarise(&mut transaction, channel).await?;
        }
        transaction.commit().await?;
        Ok(made)
    }
}

/// How many notices may still go at once in this hour.
async fn room_of(connection: &mut PgConnection, channel: &Channel) -> Result<i64> {
    let sent: i64 = sqlx::query_scalar(
        "select count(distinct notice_id) from notice_delivery
         where channel_id = $1 and created_at > now() - interval '1 hour' and state not in ('held', 'summed')",
    )
    .bind(channel.channel_id)
    .fetch_one(connection)
    .await?;
    Ok(i64::from(channel.hourly_max) - sent)
}

/// Queues a message to each recipient, or holds it back.
pub(super) async fn deliver(
    transaction: &mut Transaction<'_, Postgres>,
    channel: &Channel,
    notice_id: Option<NoticeId>,
    message: &Message,
    held: bool,
) -> Result<usize> {
    let recipients = if held { vec![String::new()] } else { channel.config.recipients() };
    for recipient in &recipients {
        sqlx::query(
            "insert into notice_delivery (delivery_id, channel_id, notice_id, recipient, message, state)
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(Uuid::new_v4())
        .bind(channel.channel_id)
        .bind(notice_id)
        .bind(recipient)
        .bind(Json(message))
        .bind(if held { "held" } else { "queued" })
        .execute(&mut **transaction)
        .await?;
    }
    Ok(recipients.len())
}

#[derive(sqlx::FromRow)]
struct Held {
    #[sqlx(json)]
    message: Message,
}

/// One message for all that was held back, when the oldest of it waited long enough.
async fn summarise(transaction: &mut Transaction<'_, Postgres>, channel: &Channel) -> Result<usize> {
    let is_due: bool = sqlx::query_scalar(
        "select exists (select from notice_delivery where channel_id = $1 and state = 'held'
             and created_at < now() - make_interval(mins => $2))",
    )
    .bind(channel.channel_id)
    .bind(SUMMARY_MINUTES)
    .fetch_one(&mut **transaction)
    .await?;
    if !is_due {
        return Ok(0);
    }
    let held: Vec<Held> = sqlx::query_as(
        "with summed as (update notice_delivery set state = 'summed', finished_at = now()
             where channel_id = $1 and state = 'held' returning message, created_at)
         select message from summed order by created_at",
    )
    .bind(channel.channel_id)
    .fetch_all(&mut **transaction)
    .await?;
    let messages: Vec<Message> = held.into_iter().map(|it| it.message).collect();
    let Some(last) = messages.last() else { return Ok(0) };
    let summary = summary(&messages, last.created_at, channel.hourly_max);
    deliver(transaction, channel, None, &summary, false).await
}

fn summary(messages: &[Message], created_at: Timestamp, hourly_max: i32) -> Message {
    let worst = |severity| messages.iter().any(|message| message.severity == severity);
    let severity = [NoticeSeverity::Error, NoticeSeverity::Warning].into_iter().find(|it| worst(*it));
    let mut lines: Vec<String> = messages
        .iter()
        .take(SUMMARY_LINES_MAX)
        .map(|message| format!("{}: {}", message.created_at.strftime("%H:%M UTC"), message.title))
        .collect();
    let more = messages.len().saturating_sub(SUMMARY_LINES_MAX);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    Message {
        kind: "summary".to_owned(),
        severity: severity.unwrap_or(NoticeSeverity::Info),
        over: false,
        title: format!("{} more notices", messages.len()),
        detail: format!("More than {hourly_max} came within an hour; these were held back and are told together."),
        items: Vec::new(),
        items_total: 0,
        subject: Subject::default(),
        sections: vec![Section { title: "Held back".to_owned(), lines }],
        created_at,
    }
}
