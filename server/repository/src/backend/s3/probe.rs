//! What a bucket does, found out by doing it to an object of a few bytes. Names of such objects begin with a dot, which
//! no object of ours does: lists do not show them.

use jiff::SignedDuration;
use reqwest::Method;

use super::client::{Call, Payload, Trouble};
use super::create::{MARK_HEADER, new_mark};
use super::list::Version;
use super::lock::{self, MODE_HEADER, UNTIL_HEADER};
use super::{BackendError, BackendErrorKind, Inner, ObjectInfo, S3Capabilities};

const PROBE: &str = ".probe-";
/// What a probe holds.
const PROBE_TEXT: &[u8] = b"Stillframe looks at what this storage does.\n";
/// For so long a probe is locked. Longer than clocks that may sign requests can differ.
const PROBE_LOCK_MINUTES: i64 = 20;
/// Probes of earlier times that are removed at once.
const SWEEP_MAX: usize = 50;

impl Inner {
    /// See [`S3Capabilities`].
    pub async fn probe(&self) -> Result<S3Capabilities, BackendError> {
        let fail = |trouble: Trouble| self.trouble("open", "", &trouble);
        let mark = new_mark().ok_or_else(|| self.unfit("there is no randomness"))?;
        let key = self.key(&format!("{PROBE}{mark}"));
        let payload = Payload::new(vec![PROBE_TEXT.into()]);
        let put = |conditional: bool| {
            let mut call = Call::new(Method::PUT, Some(&key)).header(MARK_HEADER, &mark).payload(&payload);
            if conditional {
                call = call.header("if-none-match", "*");
            }
            if let Some(retention) = self.location.object_lock {
                let until = self.client.now() + SignedDuration::from_mins(PROBE_LOCK_MINUTES);
                call.headers.extend(lock::headers(lock::mode(retention), until, &payload));
            }
            call
        };
        let mut capabilities = S3Capabilities::default();
        let mut knows_condition = true;
        let mut first = self.client.send_patiently(&put(true)).await;
        if first.as_ref().is_err_and(|trouble| trouble.status() == Some(501)) {
            knows_condition = false;
            first = self.client.send_patiently(&put(false)).await;
        }
        match first {
            Ok(reply) => capabilities.keeps_versions = reply.header("x-amz-version-id").is_some(),
            // Ours, of an attempt whose reply was lost: the name is random.
            Err(trouble) if trouble.kind() == BackendErrorKind::AlreadyExists => {}
            Err(trouble) if self.location.object_lock.is_some() && trouble.status() == Some(400) => {
                return Err(self.locked_without_a_lock(&format!("the bucket refuses it ({})", trouble.words())));
            }
            Err(trouble) => return Err(fail(trouble)),
        }
        if knows_condition {
            let again = self.client.send_patiently(&put(true)).await;
            capabilities.refuses_to_replace =
                again.is_err_and(|trouble| trouble.kind() == BackendErrorKind::AlreadyExists);
        }
        self.probe_reading(&key, &mark, &mut capabilities).await?;
        let versions = self.probe_versions(&key, &mut capabilities).await?;
        if self.location.object_lock.is_some() {
            capabilities.locks = self.probe_lock(&key, &versions, capabilities).await?;
        } else {
            self.probe_deleting(&key, &versions, capabilities).await?;
        }
        self.sweep(capabilities).await;
        Ok(capabilities)
    }

    fn unfit(&self, reason: &str) -> BackendError {
        self.error(BackendErrorKind::Unsuitable, "open", "", reason.to_owned())
    }

    async fn probe_reading(&self, key: &str, mark: &str, found: &mut S3Capabilities) -> Result<(), BackendError> {
        let fail = |trouble: Trouble| self.trouble("open", "", &trouble);
        let head = self.client.send_patiently(&Call::new(Method::HEAD, Some(key))).await.map_err(fail)?;
        if head.header(MARK_HEADER) != Some(mark) {
            return Err(self.unfit("it does not keep an object's metadata"));
        }
        found.keeps_versions |= head.header("x-amz-version-id").is_some();
        let call = Call::new(Method::GET, Some(key)).header("range", "bytes=3-9");
        let read = self.client.send_patiently(&call).await.map_err(fail)?;
        if PROBE_TEXT.get(3..10) != Some(&*read.body) {
            return Err(self.unfit("it does not read a range of an object as asked"));
        }
        Ok(())
    }

    async fn probe_versions(&self, key: &str, found: &mut S3Capabilities) -> Result<Vec<Version>, BackendError> {
        let fail = |trouble: Trouble| self.trouble("open", "", &trouble);
        let mut patience = self.client.patience();
        loop {
            let versions = if found.keeps_versions {
                self.client.versions_of(key).await.map_err(fail)?
            } else {
                let only = |ObjectInfo { name: key, size }| Version { key, id: String::new(), size, is_mark: false };
                self.client.list_keys(key).await.map_err(fail)?.into_iter().map(only).collect()
            };
            if !versions.is_empty() {
                return Ok(versions);
            }
            found.list_lags = true;
            if !patience.pause().await {
                return Err(self.unfit("its list does not show what was stored"));
            }
        }
    }

    /// The lock's headers come back, and deleting a locked version is refused.
    async fn probe_lock(&self, key: &str, versions: &[Version], found: S3Capabilities) -> Result<bool, BackendError> {
        let fail = |trouble: Trouble| self.trouble("open", "", &trouble);
        if !found.keeps_versions {
            return Err(self.locked_without_a_lock("the bucket keeps no versions"));
        }
        let Some(version) = versions.last() else { return Err(self.unfit("it lists no versions")) };
        let head = Call::new(Method::HEAD, Some(key)).query("versionId", &version.id);
        let reply = self.client.send_patiently(&head).await.map_err(fail)?;
        if reply.header(MODE_HEADER).is_none() || reply.header(UNTIL_HEADER).is_none() {
            return Err(self.locked_without_a_lock("the bucket does not keep the lock"));
        }
        let delete = Call::new(Method::DELETE, Some(key)).query("versionId", &version.id);
        match self.client.send_patiently(&delete).await {
            Err(trouble) if matches!(trouble.status(), Some(400..=409)) => {}
            Err(trouble) => return Err(fail(trouble)),
            Ok(_) => return Err(self.locked_without_a_lock("a locked object could be deleted")),
        }
        self.client.send_patiently(&head).await.map_err(fail)?;
        Ok(true)
    }

    /// What is deleted is gone at once.
    async fn probe_deleting(&self, key: &str, versions: &[Version], found: S3Capabilities) -> Result<(), BackendError> {
        let fail = |trouble: Trouble| self.trouble("open", "", &trouble);
        for version in versions {
            let mut call = Call::new(Method::DELETE, Some(key));
            if found.keeps_versions {
                call = call.query("versionId", &version.id);
            }
            self.client.send_patiently(&call).await.map_err(fail)?;
        }
        match self.client.send_patiently(&Call::new(Method::HEAD, Some(key))).await {
            Err(trouble) if trouble.status() == Some(404) => Ok(()),
            Err(trouble) => Err(fail(trouble)),
            Ok(_) => Err(self.unfit("it still shows an object that was deleted")),
        }
    }

    /// Removes probes whose lock has ended. What does not go now goes another time.
    async fn sweep(&self, found: S3Capabilities) {
        if !found.locks {
            return;
        }
        let Ok(listed) = self.client.list_versions(&self.key(PROBE)).await else { return };
        let now = self.client.now();
        for version in listed.into_values().flatten().take(SWEEP_MAX) {
            let head = Call::new(Method::HEAD, Some(&version.key)).query("versionId", &version.id);
            let Ok(reply) = self.client.send(&head).await else { continue };
            let until = reply.header(UNTIL_HEADER).and_then(|value| value.parse::<jiff::Timestamp>().ok());
            if until.is_some_and(|until| until < now) {
                let call = Call::new(Method::DELETE, Some(&version.key)).query("versionId", &version.id);
                let _ = self.client.send(&call).await;
            }
        }
    }
}
