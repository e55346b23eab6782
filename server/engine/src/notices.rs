//! Notices on their way out: looks at the database, then what waits is carried to its receivers.
//!
//! Owns: when, and how a failed delivery is tried again. Must never: decide what is worth telling (that is `db`'s), or
//! hold a transaction while a receiver is asked. Any number of servers may run it on one database.

use crate::core::Core;
use crate::errors;
use courier::Parcel;
use db::{Channel, ChannelId, Delivery};
use domain::job::JobError;
use domain::notice::{Message, NoticeSeverity, Subject};
use futures_util::future::join_all;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Messages that are delivered side by side.
const AT_ONCE: u32 = 8;

/// Looks for what began, what is over, and runs that did not happen.
pub async fn observe(core: Arc<Core>) -> db::Result<()> {
    core.db.observe_missed_runs().await?;
    core.db.observe_conditions().await?;
    core.db.prune_notices().await?;
    Ok(())
}

/// Makes messages of what is new and delivers what is due, until nothing is or the server stops.
pub async fn deliver(core: Arc<Core>, stopping: CancellationToken) -> db::Result<()> {
    core.db.make_due_digests().await?;
    core.db.route_notices().await?;
    while !stopping.is_cancelled() {
        let leased = core.db.lease_deliveries(&core.config.worker_name, AT_ONCE).await?;
        if leased.is_empty() {
            break;
        }
        for settled in join_all(leased.iter().map(|delivery| one(&core, delivery))).await {
            settled?;
        }
    }
    Ok(())
}

async fn one(core: &Core, delivery: &Delivery) -> db::Result<()> {
    let (channel, secret) = core.db.channel_to_use(delivery.channel_id).await?;
    let parcel = parcel(core, delivery.delivery_id.0, &delivery.recipient, &delivery.message);
    match courier::deliver(&channel.config, secret.as_ref(), &parcel).await {
        Ok(answer) => core.db.delivery_sent(delivery, &answer).await,
        Err(failure) => {
            let pause = core.config.notice_pause(delivery.attempt);
            let state = core.db.delivery_failed(delivery, &failure.to_string(), pause).await?;
            tracing::warn!(channel = %channel.name, attempt = delivery.attempt, ?state, %failure, "notice not delivered");
            Ok(())
        }
    }
}

fn parcel<'a>(core: &'a Core, delivery_id: Uuid, recipient: &'a str, message: &'a Message) -> Parcel<'a> {
    Parcel { delivery_id, recipient, message, server: &core.config.server_name, now: core.clock.now() }
}

/// Sends a test message to each recipient of a channel now, and says what each answered.
pub async fn test(core: &Core, channel_id: ChannelId) -> Result<Vec<(String, String)>, JobError> {
    let what = "The test message could not be sent.";
    let (channel, secret) = core.db.channel_to_use(channel_id).await.map_err(|error| errors::database(what, &error))?;
    let message = test_message(core, &channel);
    let mut answers = Vec::new();
    for recipient in channel.config.recipients() {
        let parcel = parcel(core, Uuid::new_v4(), &recipient, &message);
        let answer = courier::deliver(&channel.config, secret.as_ref(), &parcel).await;
        let answer = answer.map_err(|failure| {
            let what = format!("“{}” did not take the test message.", channel.name);
            JobError::fail("notice.not_delivered", what, errors::sentence(failure.to_string()), failure.hint)
        })?;
        answers.push((if recipient.is_empty() { channel.name.clone() } else { recipient }, answer));
    }
    Ok(answers)
}

fn test_message(core: &Core, channel: &Channel) -> Message {
    Message {
        kind: "test".to_owned(),
        severity: NoticeSeverity::Info,
        over: false,
        title: format!("Test of “{}”", channel.name),
        detail: "Someone pressed “Send a test” in the console. Notices come this way.".to_owned(),
        items: Vec::new(),
        items_total: 0,
        subject: Subject::default(),
        sections: Vec::new(),
        created_at: core.clock.now(),
    }
}
