//! Carries one message to one recipient: by SMTP, or by an HTTPS POST that is signed.
//!
//! Owns: the sockets of notices, what a receiver gets to see, what counts as delivered.
//! Must never: know Postgres or decide who is told what; send a password over a connection that is not encrypted; follow a
//! redirect; dial a link-local or metadata address; put a secret into an error.
//! Read next: `mail.rs`, `webhook.rs`, `/docs/notices.md`.

mod dial;
mod mail;
mod webhook;

use domain::notice::{ChannelConfig, Message};
use jiff::Timestamp;
use secrecy::SecretString;
use std::time::Duration;
use uuid::Uuid;

pub use webhook::signature;

/// A receiver that has not answered after this long is given up for now.
pub const DELIVERY_SECONDS_MAX: u64 = 30;
/// Of a receiver's answer, so much is read and shown, bytes.
pub const ANSWER_BYTES_MAX: usize = 2_000;
/// Shortest signing key, characters.
pub const SIGNING_KEY_CHARS_MIN: usize = 16;

/// Why a message was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{who}: {why}")]
pub struct Failure {
    /// Server and, of a mail, recipient.
    pub who: String,
    /// In a sentence, with the receiver's own words.
    pub why: String,
    /// What the operator can do.
    pub hint: String,
}

/// Result of a delivery: what the receiver said.
pub type Result<T = String, E = Failure> = std::result::Result<T, E>;

/// A message on its way.
#[derive(Debug)]
pub struct Parcel<'a> {
    /// The same at each attempt: receivers tell repetitions by it.
    pub delivery_id: Uuid,
    /// Of a mail: the address.
    pub recipient: &'a str,
    /// What it says.
    pub message: &'a Message,
    /// What this server is called.
    pub server: &'a str,
    /// Now.
    pub now: Timestamp,
}

/// Delivers it, and says what the receiver answered. `secret` is the account's password or the signing key.
pub async fn deliver(config: &ChannelConfig, secret: Option<&SecretString>, parcel: &Parcel<'_>) -> Result {
    deliver_within(config, secret, parcel, Duration::from_secs(DELIVERY_SECONDS_MAX)).await
}

/// The same with a limit of the caller's choice, for tests.
pub async fn deliver_within(
    config: &ChannelConfig,
    secret: Option<&SecretString>,
    parcel: &Parcel<'_>,
    limit: Duration,
) -> Result {
    let (who, sending) = match config {
        ChannelConfig::Mail { host, port, .. } => {
            (format!("{host}:{port}"), tokio::time::timeout(limit, mail::send(config, secret, parcel)).await)
        }
        ChannelConfig::Webhook { url, .. } => {
            (webhook::who(url), tokio::time::timeout(limit, webhook::send(config, secret, parcel)).await)
        }
    };
    sending.unwrap_or_else(|_| {
        let why = format!("no answer within {} s", limit.as_secs_f64());
        Err(Failure { who, why, hint: "Look whether the server is overloaded or a firewall drops packets.".to_owned() })
    })
}

/// Text of a receiver, without control characters and not longer than [`ANSWER_BYTES_MAX`].
pub(crate) fn tidy(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars().map(|it| if it.is_control() { ' ' } else { it }) {
        if out.len() + character.len_utf8() > ANSWER_BYTES_MAX {
            break;
        }
        out.push(character);
    }
    out.trim().to_owned()
}

/// An error with its causes, each once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    const CAUSES_MAX: usize = 8;
    let mut words = error.to_string();
    let mut cause = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(inner) = cause else { break };
        let text = inner.to_string();
        if !words.contains(&text) {
            words.push_str(": ");
            words.push_str(&text);
        }
        cause = inner.source();
    }
    tidy(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_receiver_says_is_bounded_and_without_controls() {
        assert_eq!(tidy("ok\r\nX: 1\0"), "ok  X: 1");
        assert!(tidy(&"ß".repeat(5_000)).len() <= ANSWER_BYTES_MAX);
    }
}
