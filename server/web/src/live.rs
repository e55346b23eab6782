//! Live pages: server-sent events made of the same parts that the pages are made of.
//!
//! A message holds one `<hx-partial>` for each part whose markup differs from the last one sent, so that a client that
//! missed messages loses nothing: the next one brings the present state. Log lines are appended once, by their ids; the
//! event's id is the last line's, and a browser that comes back says it in `Last-Event-ID`.

use crate::state::App;
use axum::response::sse::{Event, KeepAlive, Sse};
use db::Events;
use futures_util::Stream;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::{OnceCell, broadcast, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// At most two messages a second.
const PAUSE: Duration = Duration::from_millis(500);
/// Without news the parts are looked at again after this long: times and speeds age.
const TICK: Duration = Duration::from_secs(10);
/// A stream ends after this long; the browser comes back at once, and its session is looked at again.
const STREAM_LIFE: Duration = Duration::from_secs(600);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where streams hear that something changed.
pub struct Hub {
    db: db::Database,
    events: OnceCell<Events>,
}

impl Hub {
    /// Listens when the first page asks.
    pub fn new(db: &db::Database) -> Self {
        Self { db: db.clone(), events: OnceCell::new() }
    }

    async fn subscribe(&self) -> db::Result<broadcast::Receiver<db::Event>> {
        Ok(self.events.get_or_try_init(|| self.db.events()).await?.subscribe())
    }
}

/// Parts of a page, by the id of their element.
#[derive(Default)]
pub struct Parts {
    /// `(id, markup)`: replaces the element, keeping what the reader typed or opened.
    pub replace: Vec<(String, String)>,
    /// `(id, markup)`: goes to the end of the element.
    pub append: Vec<(String, String)>,
    /// Id of the message, if it moves on.
    pub id: Option<i64>,
    /// This was the last; the browser must not come back.
    pub done: bool,
}

/// Something that can be looked at again and again.
pub trait Source: Send + Sync + 'static {
    /// Whether the event may concern it.
    fn concerns(&self, event: &db::Event) -> bool;

    /// Its parts as they are now.
    fn look(&mut self, app: &App) -> impl Future<Output = crate::failure::Result<Parts>> + Send;
}

/// Streams the source until it is done, the browser leaves, or the stream is old.
pub async fn stream(
    app: App,
    source: impl Source,
) -> crate::failure::Result<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    let events = app.hub.subscribe().await?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(pump(app, source, events, sender));
    let sse = Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(sse)
}

async fn pump(
    app: App,
    mut source: impl Source,
    mut events: broadcast::Receiver<db::Event>,
    sender: mpsc::Sender<Result<Event, Infallible>>,
) {
    let end = Instant::now() + STREAM_LIFE;
    let mut sent = std::collections::HashMap::new();
    let mut last_id = None;
    while Instant::now() < end {
        let parts = match source.look(&app).await {
            Ok(parts) => parts,
            Err(error) => {
                tracing::warn!(%error, "a live page could not be read");
                return;
            }
        };
        let done = parts.done;
        last_id = parts.id.or(last_id);
        let message = message(parts, &mut sent);
        if !message.is_empty() && sender.send(Ok(with_id(message, last_id))).await.is_err() {
            return;
        }
        if done {
            let _ = sender.send(Ok(with_id("ok".to_owned(), last_id).event("run-done"))).await;
            // hx-sse closes on that event; a browser that does not would come back, so leave it the time to.
            sender.closed().await;
            return;
        }
        tokio::select! {
            () = sender.closed() => return,
            () = app.given.stopping.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        tokio::select! {
            () = sender.closed() => return,
            () = app.given.stopping.cancelled() => return,
            () = wait(&mut events, &source) => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn wait(events: &mut broadcast::Receiver<db::Event>, source: &impl Source) {
    loop {
        match events.recv().await {
            Ok(db::Event::Reconnected) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Ok(event) if source.concerns(&event) => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn message(parts: Parts, sent: &mut std::collections::HashMap<String, String>) -> String {
    let mut out = String::new();
    for (id, markup) in parts.replace {
        if sent.get(&id).is_some_and(|before| *before == markup) {
            continue;
        }
        partial(&mut out, &id, "outerMorph", &markup);
        sent.insert(id, markup);
    }
    for (id, markup) in parts.append {
        partial(&mut out, &id, "beforeend", &markup);
    }
    out
}

fn partial(out: &mut String, id: &str, swap: &str, markup: &str) {
    out.push_str(r##"<hx-partial hx-target="#"##);
    out.push_str(id);
    out.push_str(r#"" hx-swap=""#);
    out.push_str(swap);
    out.push_str(r#"">"#);
    out.push_str(markup);
    out.push_str("</hx-partial>\n");
}

fn with_id(data: String, id: Option<i64>) -> Event {
    // A carriage return would end the event's line; names from hosts may hold one.
    let event = Event::default().data(if data.contains('\r') { data.replace('\r', " ") } else { data });
    match id {
        Some(id) => event.id(id.to_string()),
        None => event,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_sent_again() {
        let mut sent = std::collections::HashMap::new();
        let parts = |text: &str| Parts {
            replace: vec![("a".to_owned(), text.to_owned()), ("b".to_owned(), "same".to_owned())],
            ..Parts::default()
        };
        let first = message(parts("one"), &mut sent);
        assert_eq!(first.matches("<hx-partial").count(), 2);
        assert!(message(parts("one"), &mut sent).is_empty());
        let third = message(parts("two"), &mut sent);
        assert!(third.contains("two") && !third.contains("same"), "{third}");
    }

    #[test]
    fn appended_lines_are_sent_as_they_come() {
        let mut sent = std::collections::HashMap::new();
        let parts = Parts { append: vec![("log".to_owned(), "<li>x</li>".to_owned())], ..Parts::default() };
        let text = message(parts, &mut sent);
        assert_eq!(text, "<hx-partial hx-target=\"#log\" hx-swap=\"beforeend\"><li>x</li></hx-partial>\n");
    }
}
