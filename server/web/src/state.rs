//! What the pages need from the rest of the server, and the few things the console itself remembers in memory.

use crate::backend::{Backend, DemoHosts};
use crate::live::Hub;
use domain::Clock;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use secrecy::SecretString;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the server gives to the console.
pub struct AppState {
    /// Rows.
    pub db: db::Database,
    /// Hosts and repositories.
    pub backend: Arc<dyn Backend>,
    /// Simulated hosts for a first try.
    pub demo: Arc<dyn DemoHosts>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Version of the binary.
    pub version: &'static str,
    /// What this server is called, usually its host name.
    pub server_name: String,
    /// The connection is TLS. False on plain HTTP, which is for loopback only.
    pub secure: bool,
    /// SHA-256 of the server's own certificate, to be compared at setup.
    pub certificate_sha256: Option<[u8; 32]>,
    /// Zone in which times are shown.
    pub time_zone: TimeZone,
    /// Cancelled when the server stops, so that live pages do not hold it.
    pub stopping: CancellationToken,
    /// Where workers on other machines find the database; `None`: they cannot.
    pub workers_reach: Option<db::Reach>,
    /// Facts for the settings page, such as the data folder: name and value, nothing secret.
    pub facts: Vec<(String, String)>,
}

/// State as handlers see it.
#[derive(Clone)]
pub struct App(Arc<Inner>);

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// See [`App`].
pub struct Inner {
    /// What the server gave.
    pub given: AppState,
    /// Password hashing takes memory; only so many at a time.
    pub hashing: Semaphore,
    /// An administrator exists; remembered once it is true.
    pub set_up: AtomicBool,
    /// Passwords of devices that are being added.
    pub pending: PendingSecrets,
    /// Live events.
    pub hub: Hub,
}

/// Password hashes that are worked on at the same time (19 MiB each).
const HASHING_AT_ONCE: usize = 2;

impl App {
    /// Wraps what was given.
    pub fn new(given: AppState) -> Self {
        let hub = Hub::new(&given.db);
        Self(Arc::new(Inner {
            given,
            hashing: Semaphore::new(HASHING_AT_ONCE),
            set_up: AtomicBool::new(false),
            pending: PendingSecrets::default(),
            hub,
        }))
    }

    /// The database.
    pub fn db(&self) -> &db::Database {
        &self.given.db
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.given.clock.now()
    }
}

/// Passwords between two steps of a wizard. They never travel back to the browser and never touch a disk.
#[derive(Default)]
pub struct PendingSecrets(Mutex<HashMap<Uuid, (SecretString, Timestamp)>>);

/// Wizards that hold a password at the same time.
const PENDING_SECRETS_MAX: usize = 64;
/// How long a password waits for its wizard to go on.
const PENDING_SECRET_SECONDS: i64 = 15 * 60;

impl PendingSecrets {
    /// Keeps a password for the wizard.
    pub fn put(&self, draft: Uuid, secret: SecretString, now: Timestamp) {
        let mut held = self.0.lock();
        held.retain(|_, (_, since)| now.as_second() - since.as_second() < PENDING_SECRET_SECONDS);
        if held.len() >= PENDING_SECRETS_MAX
            && let Some(oldest) = held.iter().min_by_key(|(_, (_, since))| *since).map(|(id, _)| *id)
        {
            held.remove(&oldest);
        }
        held.insert(draft, (secret, now));
    }

    /// The password, while it is fresh.
    pub fn get(&self, draft: Uuid, now: Timestamp) -> Option<SecretString> {
        let held = self.0.lock();
        let (secret, since) = held.get(&draft)?;
        (now.as_second() - since.as_second() < PENDING_SECRET_SECONDS).then(|| secret.clone())
    }

    /// Forgets it.
    pub fn forget(&self, draft: Uuid) {
        self.0.lock().remove(&draft);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn a_password_waits_for_a_while_only_and_room_is_limited() {
        let pending = PendingSecrets::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = Uuid::from_u128(1);
        pending.put(first, SecretString::from("one"), at(0));
        assert_eq!(pending.get(first, at(60)).unwrap().expose_secret(), "one");
        assert!(pending.get(first, at(PENDING_SECRET_SECONDS)).is_none());
        for id in 2..80 {
            pending.put(Uuid::from_u128(id), SecretString::from("x"), at(10));
        }
        assert!(pending.get(first, at(11)).is_none());
        assert!(pending.0.lock().len() <= PENDING_SECRETS_MAX);
    }
}
