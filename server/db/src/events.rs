//! What happens in the database, as it happens: Postgres's NOTIFY turned into typed events for this process.
//!
//! Events are hints to look again, never the data itself: one may be lost while the connection is down, and
//! [`Event::Reconnected`] says so.

use crate::database::Database;
use crate::error::Result;
use crate::ids::{DeviceId, JobId, RunId};
use sqlx::PgConnection;
use sqlx::postgres::{PgListener, PgNotification};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

const JOB_CHANNEL: &str = "stillframe_job";
const RUN_CHANNEL: &str = "stillframe_run";
const DEVICE_CHANNEL: &str = "stillframe_device";

/// A reader that is further behind than this gets `Lagged`, and should look again as after [`Event::Reconnected`].
const EVENTS_BUFFERED_MAX: usize = 1024;
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Jobs may be ready to be leased: one was queued, or one ended and freed its slot.
    JobsWaiting,
    /// Someone asked for the end of this running job.
    CancelRequested(JobId),
    /// State, progress or log of the run or one of its jobs changed.
    RunChanged(RunId),
    /// The device, its inventory or its last synchronisation changed.
    DeviceChanged(DeviceId),
    /// The connection was lost and is back: anything may have happened.
    Reconnected,
}

/// The stream of events. Dropping it ends the connection.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Event>,
    task: JoinHandle<()>,
}

impl Events {
    /// A reader of everything that happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Database {
    /// Starts to listen, on one connection for the whole process.
    pub async fn events(&self) -> Result<Events> {
        let (sender, _) = broadcast::channel(EVENTS_BUFFERED_MAX);
        let listener = listen(self).await?;
        let task = tokio::spawn(forward(self.clone(), listener, sender.clone()));
        Ok(Events { sender, task })
    }
}

async fn listen(database: &Database) -> Result<PgListener> {
    let mut listener = PgListener::connect_with(&database.pool).await?;
    listener.listen_all([JOB_CHANNEL, RUN_CHANNEL, DEVICE_CHANNEL]).await?;
    Ok(listener)
}

async fn forward(database: Database, mut listener: PgListener, sender: broadcast::Sender<Event>) {
    loop {
        match listener.try_recv().await {
            Ok(Some(notification)) => {
                if let Some(event) = parse(&notification) {
                    // No reader is fine: pages come and go.
                    let _ = sender.send(event);
                }
            }
            // The listener reconnects by itself on its next call.
            Ok(None) => drop(sender.send(Event::Reconnected)),
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) => {
                tracing::warn!(%error, "listening to the database was interrupted");
                listener = loop {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    if database.pool.is_closed() {
                        return;
                    }
                    if let Ok(listener) = listen(&database).await {
                        break listener;
                    }
                };
                drop(sender.send(Event::Reconnected));
            }
        }
    }
}

fn parse(notification: &PgNotification) -> Option<Event> {
    let payload = notification.payload();
    match notification.channel() {
        JOB_CHANNEL if payload.is_empty() => Some(Event::JobsWaiting),
        JOB_CHANNEL => Some(Event::CancelRequested(payload.parse().ok()?)),
        RUN_CHANNEL => Some(Event::RunChanged(payload.parse().ok()?)),
        DEVICE_CHANNEL => Some(Event::DeviceChanged(payload.parse().ok()?)),
        _ => None,
    }
}

/// Sends an event with the transaction it belongs to: readers hear of it at its commit.
pub(crate) async fn notify(connection: &mut PgConnection, event: Event) -> Result<()> {
    let (channel, payload) = match event {
        Event::JobsWaiting => (JOB_CHANNEL, String::new()),
        Event::CancelRequested(job) => (JOB_CHANNEL, job.to_string()),
        Event::RunChanged(run) => (RUN_CHANNEL, run.to_string()),
        Event::DeviceChanged(device) => (DEVICE_CHANNEL, device.to_string()),
        Event::Reconnected => return Ok(()),
    };
    sqlx::query("select pg_notify($1, $2)").bind(channel).bind(payload).execute(connection).await?;
    Ok(())
}
