//! Sessions of `/sdk` and `/folder`: cookies, idle expiry, the cap.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

/// Name of the cookie.
pub(crate) const COOKIE: &str = "vmware_soap_session";

/// Which door a session was opened at; it is worth nothing at the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Soap,
    Folder,
}

struct Session {
    door: Door,
    user: String,
    since: Timestamp,
    last: Instant,
}

/// A session as its owner sees it.
#[derive(Debug, Clone)]
pub(crate) struct SessionView {
    pub key: String,
    pub user: String,
    pub since: Timestamp,
}

/// The sessions of a host.
pub(crate) struct Sessions {
    idle: Duration,
    max: usize,
    open: Mutex<HashMap<String, Session>>,
}

impl Sessions {
    pub fn new(idle: Duration, max: usize) -> Self {
        Self { idle, max, open: Mutex::new(HashMap::new()) }
    }

    /// Opens a session; `None` when there are too many. Answers its key.
    pub fn open(&self, door: Door, user: &str, now: Timestamp) -> Option<SessionView> {
        let mut open = self.open.lock();
        open.retain(|_, session| session.last.elapsed() < self.idle);
        if open.values().filter(|session| session.door == door).count() >= self.max {
            return None;
        }
        let key = hex::encode(Uuid::new_v4().as_bytes());
        let session = Session { door, user: user.to_owned(), since: now, last: Instant::now() };
        open.insert(key.clone(), session);
        Some(SessionView { key, user: user.to_owned(), since: now })
    }

    /// The session of a `Cookie` header, refreshed. The value must be echoed as it was given: quoted.
    pub fn of_cookie(&self, header: Option<&str>, door: Door) -> Option<SessionView> {
        let value = header?.split(';').find_map(|part| part.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
        let key = value.trim().strip_prefix('"')?.strip_suffix('"')?;
        let mut open = self.open.lock();
        let session = open.get_mut(key).filter(|session| session.door == door)?;
        if session.last.elapsed() >= self.idle {
            open.remove(key);
            return None;
        }
        session.last = Instant::now();
        Some(SessionView { key: key.to_owned(), user: session.user.clone(), since: session.since })
    }

    /// Ends a session.
    pub fn close(&self, key: &str) {
        self.open.lock().remove(key);
    }

    /// Ends all sessions of a door.
    pub fn close_all(&self, door: Door) {
        self.open.lock().retain(|_, session| session.door != door);
    }

    /// Open sessions of a door.
    pub fn count(&self, door: Door) -> usize {
        let open = self.open.lock();
        open.values().filter(|session| session.door == door && session.last.elapsed() < self.idle).count()
    }
}

/// The `Set-Cookie` header of a session.
pub(crate) fn set_cookie(key: &str) -> String {
    format!("{COOKIE}=\"{key}\"; Path=/; HttpOnly; Secure;")
}
