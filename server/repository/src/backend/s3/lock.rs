//! Object lock. What is needed to restore is locked when it is made, for the days asked for and a quarter more, so that
//! daily points that reuse a pack need not extend its lock every day.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;

use super::client::{Call, Payload};
use super::list::Version;
use super::sign::Headers;
use super::{BackendError, BackendErrorKind, Inner};
use crate::format::names;
use crate::location::{Retention, RetentionMode};

/// Longest retention: a hundred years.
const DAYS_MAX: u32 = 36_500;
/// Ends of locks kept in mind.
const KNOWN_MAX: usize = 200_000;
pub const MODE_HEADER: &str = "x-amz-object-lock-mode";
pub const UNTIL_HEADER: &str = "x-amz-object-lock-retain-until-date";

pub fn check(retention: Retention) -> Result<(), &'static str> {
    if (1..=DAYS_MAX).contains(&retention.days) { Ok(()) } else { Err("a lock lasts 1 to 36500 days") }
}

/// As the storage writes it.
pub const fn mode(retention: Retention) -> &'static str {
    match retention.mode {
        RetentionMode::Governance => "GOVERNANCE",
        RetentionMode::Compliance => "COMPLIANCE",
    }
}

/// Whole seconds, as the storage keeps it.
pub fn until_text(until: Timestamp) -> String {
    until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Headers that lock what is put. A checksum is required with them.
pub fn headers(mode: &str, until: Timestamp, payload: &Payload) -> Headers {
    vec![
        (MODE_HEADER, mode.to_owned()),
        (UNTIL_HEADER, until_text(until)),
        ("x-amz-checksum-sha256", BASE64.encode(payload.sha256)),
    ]
}

/// Everything without which nothing is restored. The rest comes and goes (leases, epochs).
fn is_kept(name: &str) -> bool {
    name == names::CONFIG
        || [names::KEYS, names::PACKS, names::INDEX, names::POINTS].iter().any(|prefix| name.starts_with(prefix))
}

fn after_days(now: Timestamp, days: u32) -> Timestamp {
    now.checked_add(SignedDuration::from_hours(i64::from(days) * 24)).unwrap_or(Timestamp::MAX)
}

impl Inner {
    pub fn lock_needed_until(&self) -> Option<Timestamp> {
        self.location.object_lock.map(|retention| after_days(self.client.now(), retention.days))
    }

    /// Mode and end of the lock of an object made now.
    pub fn lock_for(&self, name: &str) -> Option<(&'static str, Timestamp)> {
        let retention = self.location.object_lock.filter(|_| is_kept(name))?;
        let days = retention.days + (retention.days / 4).max(1);
        Some((mode(retention), after_days(self.client.now(), days)))
    }

    pub fn note_lock(&self, name: &str, until: Timestamp) {
        let mut known = self.locked_until.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(name.to_owned(), until);
    }

    pub async fn extend_lock(&self, name: &str) -> Result<Option<Timestamp>, BackendError> {
        let (Some(needed), Some((mode, until))) = (self.lock_needed_until(), self.lock_for(name)) else {
            return Ok(None);
        };
        if let Some(known) = self.locked_until.lock().get(name).copied().filter(|known| *known >= needed) {
            return Ok(Some(known));
        }
        let (reply, _) = self.stat("lock", name).await?;
        let now_until = reply.header(UNTIL_HEADER).and_then(|value| value.parse::<Timestamp>().ok());
        if let Some(now_until) = now_until.filter(|now_until| *now_until >= needed) {
            self.note_lock(name, now_until);
            return Ok(Some(now_until));
        }
        // A stricter lock is never loosened.
        let mode = if reply.header(MODE_HEADER) == Some("COMPLIANCE") { "COMPLIANCE" } else { mode };
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            until_text(until)
        );
        let payload = Payload::new(vec![body.into()]);
        let key = self.key(name);
        let mut call = Call::new(Method::PUT, Some(&key))
            .query("retention", "")
            .header("x-amz-checksum-sha256", BASE64.encode(payload.sha256))
            .payload(&payload);
        if let Some(version) = reply.header("x-amz-version-id") {
            call = call.query("versionId", version);
        }
        // Setting the same end twice is setting it once.
        self.client.send_patiently(&call).await.map_err(|trouble| self.trouble("lock", name, &trouble))?;
        self.note_lock(name, until);
        Ok(Some(until))
    }

    /// What keeps a version that could not be deleted, if it is under a lock.
    pub async fn lock_of(&self, version: &Version) -> Option<String> {
        let call = Call::new(Method::HEAD, Some(&version.key)).query("versionId", &version.id);
        let reply = self.client.send_patiently(&call).await.ok()?;
        if reply.header("x-amz-object-lock-legal-hold") == Some("ON") {
            return Some("a legal hold is on it, which has no end".to_owned());
        }
        let until = reply.header(UNTIL_HEADER).and_then(|value| value.parse::<Timestamp>().ok());
        let until = until.filter(|until| *until > self.client.now())?;
        Some(format!("nobody can delete it before {}", until_text(until)))
    }

    pub fn locked_without_a_lock(&self, what: &str) -> BackendError {
        let words = format!("object lock was asked for, but {what}");
        self.error(BackendErrorKind::Unsuitable, "open", "", words)
    }
}
