//! S3-compatible storage. An object is a key under a prefix of one bucket, written by one PUT: it is there whole or not.
//!
//! Correctness rests on unique names. Where the bucket refuses to replace (`If-None-Match`), or keeps versions so that
//! the first one can be told from later ones, that is used as well. In a bucket with versions the *oldest* version of a
//! name is the object: whatever shadows it later is ignored by lists and reads, and deleting removes all versions, by
//! their ids, because anything else frees nothing. [`S3Backend::open`] tries what the bucket does and refuses what cannot
//! be relied on.
//!
//! Must never: commit by a multipart upload (completing one replaces), take a short answer for a whole one, or call a
//! creation failed that may have happened. Next: `create` (the lost replies), `probe`, `lock`, `list`, `client`, `sign`.

mod client;
mod create;
mod list;
mod lock;
mod probe;
mod sign;
mod xml;

use bytes::Bytes;
use domain::{Clock, SystemClock};
use jiff::Timestamp;
use parking_lot::Mutex;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{BackendError, BackendErrorKind, ObjectBackend, ObjectInfo, valid_name};
use crate::location::S3Location;
use client::{Call, Client, Payload, Reply, Trouble};
use list::Version;

/// Longest object that is read whole or in one range, in bytes.
const OBJECT_BYTES_MAX: u64 = 512 << 20;
/// Longest prefix, in bytes.
const PREFIX_BYTES_MAX: usize = 200;

/// For how long a list that was seen to lag is not relied on.
const LIST_LAG: Duration = Duration::from_secs(15 * 60);

/// Limits on time, and how often to try. The default suits storage across the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Requests in flight at once.
    pub requests_at_once: usize,
    /// Attempts at one request, the first included.
    pub attempts: u32,
    /// First pause between attempts; doubled each time.
    pub pause: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// No attempt begins later than this after the first.
    pub patience: Duration,
    /// For a connection with its TLS handshake.
    pub connect_timeout: Duration,
    /// Between two pieces of an answer, for its beginning, and between two pieces of a body that the storage takes.
    pub stall_timeout: Duration,
    /// For a whole request, beside the time its bytes take.
    pub request_timeout: Duration,
    /// A transfer slower than this many bytes a second is given up, even if it never stands still.
    pub bytes_per_second_min: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            requests_at_once: 32,
            attempts: 12,
            pause: Duration::from_millis(100),
            pause_max: Duration::from_secs(10),
            patience: Duration::from_secs(180),
            connect_timeout: Duration::from_secs(10),
            // A large PUT is answered only when all copies are written.
            stall_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(120),
            bytes_per_second_min: 32 << 10,
        }
    }
}

impl Tuning {
    /// For a request that moves at most so many bytes.
    pub fn request_timeout(&self, bytes: u64) -> Duration {
        self.request_timeout + self.time_of(bytes)
    }

    /// What so many bytes take at the slowest.
    fn time_of(&self, bytes: u64) -> Duration {
        Duration::from_secs(bytes / self.bytes_per_second_min.max(1))
    }
}

/// What a backend is made of.
#[derive(Clone)]
pub struct S3Options {
    /// Where.
    pub location: S3Location,
    /// Belongs to the location's access key.
    pub secret_key: SecretString,
    /// Signatures and locks carry the time.
    pub clock: Arc<dyn Clock>,
    /// Limits.
    pub tuning: Tuning,
}

impl S3Options {
    /// With the machine's clock and the default limits.
    pub fn new(location: S3Location, secret_key: SecretString) -> Self {
        Self { location, secret_key, clock: Arc::new(SystemClock), tuning: Tuning::default() }
    }
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options").field("location", &self.location).finish_non_exhaustive()
    }
}

/// What the bucket was found to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools)] // four questions, each answered by itself
pub struct S3Capabilities {
    /// A second creation of the same name is refused by the storage itself.
    pub refuses_to_replace: bool,
    /// It keeps versions.
    pub keeps_versions: bool,
    /// Its lists were seen to lag.
    pub list_lags: bool,
    /// It locks objects, and a locked one cannot be deleted. Looked for only when a lock is asked for.
    pub locks: bool,
}

/// Objects under a prefix of a bucket. Clones share it.
#[derive(Clone)]
pub struct S3Backend {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    location: S3Location,
    place: String,
    capabilities: S3Capabilities,
    /// Version to read of names that something newer lies over.
    shadowed: Mutex<HashMap<String, String>>,
    /// Ends of locks, as far as known.
    locked_until: Mutex<HashMap<String, Timestamp>>,
}

impl fmt::Debug for S3Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Backend")
            .field("place", &self.inner.place)
            .field("capabilities", &self.inner.capabilities)
            .finish_non_exhaustive()
    }
}

impl S3Backend {
    /// Checks address, key and bucket, finds out what the bucket does, and refuses one that does not do what is asked.
    /// Leaves nothing behind, but for a locked object of a few bytes, hidden from lists, where a lock is asked for.
    pub async fn open(options: S3Options) -> Result<Self, BackendError> {
        let location = options.location.clone();
        let place = crate::location::Location::S3(location.clone()).to_string();
        let unfit = |reason: String| BackendError {
            kind: BackendErrorKind::Unsuitable,
            verb: "open",
            name: String::new(),
            place: place.clone(),
            source: Some(Arc::new(io::Error::other(reason))),
        };
        if !location.prefix.is_empty() && (!valid_name(&location.prefix) || location.prefix.len() > PREFIX_BYTES_MAX) {
            return Err(unfit("the prefix has characters or parts an object name may not have".to_owned()));
        }
        if let Some(retention) = location.object_lock {
            lock::check(retention).map_err(|reason| unfit(reason.to_owned()))?;
        }
        let client = Client::new(&options).map_err(unfit)?;
        let (shadowed, locked_until) = (Mutex::default(), Mutex::default());
        let capabilities = S3Capabilities::default();
        let mut inner = Inner { client, location, place, capabilities, shadowed, locked_until };
        inner.capabilities = inner.probe().await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same for a new repository: nothing may lie under the prefix.
    pub async fn create(options: S3Options) -> Result<Self, BackendError> {
        let backend = Self::open(options).await?;
        if backend.inner.list("").await?.is_empty() {
            return Ok(backend);
        }
        let reason = "there is something under the prefix already".to_owned();
        Err(backend.inner.error(BackendErrorKind::AlreadyExists, "create", "", reason))
    }

    /// What the bucket was found to do when it was opened.
    pub fn capabilities(&self) -> S3Capabilities {
        self.inner.capabilities
    }
}

impl Inner {
    fn key(&self, name: &str) -> String {
        if self.location.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.location.prefix) }
    }

    /// The object name a key stands for, if it does.
    fn name_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        let name = match self.location.prefix.as_str() {
            "" => key,
            prefix => key.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        valid_name(name).then_some(name)
    }

    fn error(&self, kind: BackendErrorKind, verb: &'static str, name: &str, words: String) -> BackendError {
        let source = (!words.is_empty()).then(|| Arc::new(io::Error::other(words)));
        BackendError { kind, verb, name: name.to_owned(), place: self.place.clone(), source }
    }

    fn trouble(&self, verb: &'static str, name: &str, trouble: &Trouble) -> BackendError {
        self.error(trouble.kind(), verb, name, trouble.words())
    }

    fn check_name(&self, verb: &'static str, name: &str) -> Result<String, BackendError> {
        if valid_name(name) {
            return Ok(self.key(name));
        }
        Err(self.error(BackendErrorKind::BadName, verb, name, String::new()))
    }

    /// A call on the version that counts.
    fn on_version<'a>(&self, call: Call<'a>, name: &str) -> Call<'a> {
        match self.shadowed.lock().get(name) {
            Some(version) => call.query("versionId", version),
            None => call,
        }
    }

    /// A request without body: its refusal does not say more than a number. The bucket's own answer does.
    async fn explain(&self, trouble: Trouble) -> Trouble {
        if !matches!(trouble.status(), Some(400..=404))
            || !matches!(&trouble, Trouble::Refused { code, .. } if code.is_empty())
        {
            return trouble;
        }
        let call = Call::new(Method::GET, None).query("list-type", "2").query("max-keys", "0");
        match self.client.send_patiently(&call).await {
            Ok(_) => trouble,
            Err(bucket) => bucket,
        }
    }

    async fn head(&self, name: &str, key: &str) -> Result<Reply, Trouble> {
        let call = self.on_version(Call::new(Method::HEAD, Some(key)), name);
        match self.client.send_patiently(&call).await {
            Err(trouble) => Err(self.explain(trouble).await),
            ok => ok,
        }
    }

    async fn stat(&self, verb: &'static str, name: &str) -> Result<(Reply, u64), BackendError> {
        let key = self.check_name(verb, name)?;
        let reply = self.head(name, &key).await.map_err(|trouble| self.trouble(verb, name, &trouble))?;
        match reply.header(CONTENT_LENGTH.as_str()).and_then(|value| value.parse().ok()) {
            Some(size) => Ok((reply, size)),
            None => Err(self.error(BackendErrorKind::Other, verb, name, "the answer has no length".to_owned())),
        }
    }

    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        let key = self.check_name("read", name)?;
        let fail = |kind, words: &str| Err(self.error(kind, "read", name, words.to_owned()));
        let mut call = self.on_version(Call::new(Method::GET, Some(&key)), name);
        call.answer_bytes_max = OBJECT_BYTES_MAX;
        let Some(range) = range else {
            let reply = self.client.send_patiently(&call).await.map_err(|t| self.trouble("read", name, &t))?;
            // Without a length nobody can tell whether it is whole.
            return match reply.header(CONTENT_LENGTH.as_str()) {
                Some(_) if reply.status == StatusCode::OK => Ok(reply.body),
                _ => fail(BackendErrorKind::Other, "the answer has no length"),
            };
        };
        let length = match range.end.checked_sub(range.start) {
            None | Some(OBJECT_BYTES_MAX..) => return fail(BackendErrorKind::TooShort, "no such range"),
            // There is no way to ask for nothing.
            Some(0) => {
                let (_, size) = self.stat("read", name).await?;
                return if range.end <= size { Ok(Bytes::new()) } else { fail(BackendErrorKind::TooShort, "") };
            }
            Some(length) => length,
        };
        call.answer_bytes_max = length;
        let last = range.end - 1;
        let call = call.header("range", format!("bytes={}-{last}", range.start));
        let reply = self.client.send_patiently(&call).await.map_err(|t| self.trouble("read", name, &t))?;
        let wanted = format!("bytes {}-{last}/", range.start);
        let is_wanted = reply.header("content-range").is_some_and(|got| got.starts_with(&wanted));
        if reply.status == StatusCode::PARTIAL_CONTENT && is_wanted && reply.body.len() as u64 == length {
            return Ok(reply.body);
        }
        let short = reply.header("content-range").and_then(|got| got.rsplit_once('/')?.1.parse::<u64>().ok());
        match short {
            Some(size) if size < range.end => fail(BackendErrorKind::TooShort, ""),
            _ => fail(BackendErrorKind::Other, "the answer is not the range that was asked for"),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        let start = prefix.trim_end_matches('/');
        if !start.is_empty() && !valid_name(start) {
            return Err(self.error(BackendErrorKind::BadName, "list", prefix, String::new()));
        }
        let key = if prefix.is_empty() && self.location.prefix.is_empty() { String::new() } else { self.key(prefix) };
        let fail = |trouble: Trouble| self.trouble("list", prefix, &trouble);
        let mut found: Vec<ObjectInfo> = Vec::new();
        if self.capabilities.keeps_versions {
            for (key, versions) in self.client.list_versions(&key).await.map_err(fail)? {
                let Some(name) = self.name_of(&key) else { continue };
                if let Some(version) = self.settle_version(name, &versions) {
                    found.push(ObjectInfo { name: name.to_owned(), size: version.size });
                }
            }
        } else {
            for object in self.client.list_keys(&key).await.map_err(fail)? {
                if let Some(name) = self.name_of(&object.name) {
                    found.push(ObjectInfo { name: name.to_owned(), size: object.size });
                }
            }
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        Ok(found)
    }

    /// The version that is the object, of those of one name, newest first; remembers it if another lies over it.
    fn settle_version<'a>(&self, name: &str, versions: &'a [Version]) -> Option<&'a Version> {
        let counts = self.effective(versions);
        let oldest = counts.iter().rev().find(|version| !version.is_mark);
        let mut shadowed = self.shadowed.lock();
        match oldest {
            Some(version) if versions.first() != Some(version) => {
                shadowed.insert(name.to_owned(), version.id.clone());
            }
            _ => drop(shadowed.remove(name)),
        }
        oldest
    }

    /// Without locks, a deletion by hand counts. With them nothing that comes later does.
    fn effective<'a>(&self, versions: &'a [Version]) -> &'a [Version] {
        if self.location.object_lock.is_some() {
            return versions;
        }
        let mark = versions.iter().position(|version| version.is_mark).unwrap_or(versions.len());
        versions.get(..mark).unwrap_or_default()
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        let key = self.check_name("delete", name)?;
        let fail = |trouble: Trouble| self.trouble("delete", name, &trouble);
        if !self.capabilities.keeps_versions {
            return match self.client.send_patiently(&Call::new(Method::DELETE, Some(&key))).await {
                Err(trouble) if trouble.kind() == BackendErrorKind::NotFound => Ok(()),
                other => other.map(drop).map_err(fail),
            };
        }
        // Newest first: as long as the true one is there, so is the object.
        for version in self.client.versions_of(&key).await.map_err(fail)? {
            let call = Call::new(Method::DELETE, Some(&key)).query("versionId", &version.id);
            match self.client.send_patiently(&call).await {
                Ok(_) => {}
                Err(trouble) if trouble.kind() == BackendErrorKind::NotFound => {}
                Err(trouble) => {
                    return Err(match self.lock_of(&version).await {
                        Some(words) => self.error(BackendErrorKind::Locked, "delete", name, words),
                        None => fail(trouble),
                    });
                }
            }
        }
        self.shadowed.lock().remove(name);
        self.locked_until.lock().remove(name);
        Ok(())
    }
}

#[async_trait::async_trait]
impl ObjectBackend for S3Backend {
    fn place(&self) -> String {
        self.inner.place.clone()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        self.inner.create(name, Payload::new(parts)).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        self.inner.read(name, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        self.inner.list(prefix).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        let (_, size) = self.inner.stat("look up", name).await?;
        Ok(ObjectInfo { name: name.to_owned(), size })
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        self.inner.delete(name).await
    }

    fn list_lag(&self) -> Duration {
        if self.inner.capabilities.list_lags { LIST_LAG } else { Duration::ZERO }
    }

    fn lock_needed_until(&self) -> Option<Timestamp> {
        self.inner.lock_needed_until()
    }

    async fn extend_lock(&self, name: &str) -> Result<Option<Timestamp>, BackendError> {
        self.inner.extend_lock(name).await
    }
}
