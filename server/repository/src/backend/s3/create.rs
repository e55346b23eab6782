//! Creating an object when replies may be lost. Each creation carries a random mark in the object's metadata: whoever
//! finds an object under the name can tell whether it is its own.

use reqwest::Method;

use super::client::{Call, Payload, Reply, Trouble};
use super::lock;
use super::{BackendError, BackendErrorKind, Inner};

/// Metadata that tells our creation from another's.
pub const MARK_HEADER: &str = "x-amz-meta-stillframe-mark";
/// Bytes of randomness in a mark.
const MARK_BYTES: usize = 16;

/// Whose object lies under the name.
enum Found {
    Nothing,
    Ours,
    Anothers,
}

impl Inner {
    /// See [`super::ObjectBackend::put_new`].
    pub async fn create(&self, name: &str, payload: Payload) -> Result<(), BackendError> {
        let key = self.check_name("store", name)?;
        let mark =
            new_mark().ok_or_else(|| self.error(BackendErrorKind::Other, "store", name, "no randomness".to_owned()))?;
        let exists = || self.error(BackendErrorKind::AlreadyExists, "store", name, String::new());
        // Where the storage itself does not refuse, looking first spares most harm; the rest is left to unique names.
        if !self.capabilities.refuses_to_replace {
            match self.find(&key, &mark).await {
                Ok(Found::Nothing) => {}
                Ok(_) => return Err(exists()),
                Err(_) => match self.stat("store", name).await {
                    Ok(_) => return Err(exists()),
                    Err(error) if error.kind == BackendErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                },
            }
        }
        let lock = self.lock_for(name);
        let mut call = Call::new(Method::PUT, Some(&key)).header(MARK_HEADER, &mark).payload(&payload);
        if self.capabilities.refuses_to_replace {
            call = call.header("if-none-match", "*");
        }
        if let Some((mode, until)) = lock {
            call.headers.extend(lock::headers(mode, until, &payload));
        }
        let reply = self.put_until_known(name, &key, &mark, &call).await?;
        if self.capabilities.keeps_versions && !self.is_first(name, &key, &mark).await? {
            self.withdraw(&key, reply.as_ref()).await;
            return Err(exists());
        }
        if let Some((_, until)) = lock {
            self.note_lock(name, until);
        }
        Ok(())
    }

    /// Sends the PUT until it is known what became of it. The reply is missing when it was lost and the object found.
    async fn put_until_known(
        &self,
        name: &str,
        key: &str,
        mark: &str,
        call: &Call<'_>,
    ) -> Result<Option<Reply>, BackendError> {
        let (mut patience, mut ambiguous) = (self.client.patience(), false);
        loop {
            let trouble = match self.client.send(call).await {
                Ok(reply) => return Ok(Some(reply)),
                Err(trouble) => trouble,
            };
            let taken = trouble.kind() == BackendErrorKind::AlreadyExists;
            ambiguous |= trouble.is_ambiguous();
            if taken && !ambiguous {
                return Err(self.trouble("store", name, &trouble));
            }
            if ambiguous {
                match self.find(key, mark).await {
                    Ok(Found::Ours) => return Ok(None),
                    Ok(Found::Anothers) => {
                        return Err(self.error(BackendErrorKind::AlreadyExists, "store", name, String::new()));
                    }
                    // An attempt may still be on its way, which only its own refusal or the end of patience settles.
                    Ok(Found::Nothing) | Err(_) if trouble.is_passing() || taken => {}
                    Ok(Found::Nothing) => return Err(self.trouble("store", name, &trouble)),
                    Err(_) => return Err(self.unknown(name, &trouble)),
                }
            } else if !trouble.is_passing() {
                return Err(self.trouble("store", name, &trouble));
            }
            if !patience.pause().await {
                return Err(if ambiguous {
                    self.unknown(name, &trouble)
                } else {
                    self.trouble("store", name, &trouble)
                });
            }
        }
    }

    fn unknown(&self, name: &str, trouble: &Trouble) -> BackendError {
        self.error(BackendErrorKind::OutcomeUnknown, "store", name, trouble.words())
    }

    /// Looks once: whoever calls has its own patience.
    async fn find(&self, key: &str, mark: &str) -> Result<Found, Trouble> {
        match self.client.send(&Call::new(Method::HEAD, Some(key))).await {
            Ok(reply) if reply.header(MARK_HEADER) == Some(mark) => Ok(Found::Ours),
            Ok(_) => Ok(Found::Anothers),
            Err(trouble) if trouble.status() == Some(404) => Ok(Found::Nothing),
            Err(trouble) => Err(trouble),
        }
    }

    /// In a bucket with versions: is ours the oldest, and so the object?
    async fn is_first(&self, name: &str, key: &str, mark: &str) -> Result<bool, BackendError> {
        let fail = |trouble: Trouble| self.unknown(name, &trouble);
        let versions = self.client.versions_of(key).await.map_err(fail)?;
        let counted = self.effective(&versions);
        let Some(oldest) = counted.iter().rev().find(|version| !version.is_mark) else { return Ok(true) };
        if versions.len() == 1 {
            return Ok(true);
        }
        let call = Call::new(Method::HEAD, Some(key)).query("versionId", &oldest.id);
        let reply = self.client.send_patiently(&call).await.map_err(fail)?;
        let first = reply.header(MARK_HEADER) == Some(mark);
        self.settle_version(name, &versions);
        Ok(first)
    }

    /// Removes the version that came too late. One that is locked stays, shadowing nothing, until its lock ends.
    async fn withdraw(&self, key: &str, reply: Option<&Reply>) {
        let Some(version) = reply.and_then(|reply| reply.header("x-amz-version-id")) else { return };
        let call = Call::new(Method::DELETE, Some(key)).query("versionId", version);
        if let Err(trouble) = self.client.send_patiently(&call).await {
            tracing::debug!(key, reason = trouble.words(), "a version that came too late stays");
        }
    }
}

/// A new random mark.
pub fn new_mark() -> Option<String> {
    let mut mark = [0; MARK_BYTES];
    aws_lc_rs::rand::fill(&mut mark).ok()?;
    Some(hex::encode(mark))
}
