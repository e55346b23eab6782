//! Files of a datastore over HTTPS (`/folder`): its own session, one reader a file, ranges that are checked.
//!
//! Must never: return fewer bytes than were asked for without an error, or bytes of another range.

use super::session::Session;
use super::transport::{Address, read_body, status_error};
use crate::{ErrorKind, HostError, Result};
use bytes::{Bytes, BytesMut};
use domain::Extent;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, COOKIE, HeaderMap, HeaderValue, RANGE, SET_COOKIE};
use reqwest::{Response, StatusCode};
use secrecy::ExposeSecret as _;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Pieces that are read ahead of the consumer, and their size: 8 MiB a stream.
const READ_AHEAD_PIECES: usize = 8;
const PIECE_BYTES: usize = 1024 * 1024;
/// Tries in a row that bring less than [`PROGRESS_BYTES`].
const MAX_TRIES: u32 = 7;
const PROGRESS_BYTES: u64 = 1024 * 1024;
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Hosts answer a range that covers a small file with 200 and the whole of it; a larger 200 is a range ignored.
const SMALL_FILE_BYTES: u64 = 4 * 1024 * 1024;
const MAX_COOKIE_CHARS: usize = 4096;
const MAX_COOKIES: usize = 8;
/// The only datacenter of an ESXi host.
const DATACENTER: &str = "ha-datacenter";

/// A file on a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FilePath {
    pub datastore: String,
    pub path: String,
}

impl std::fmt::Display for FilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {}", self.datastore, self.path)
    }
}

/// The host's `/folder`, with the session that it keeps beside the SOAP one.
pub(super) struct Folder {
    session: Arc<Session>,
    cookie: Mutex<Option<HeaderValue>>,
    /// A lock per file: the host allows one reader.
    files: Mutex<HashMap<FilePath, Arc<AsyncMutex<()>>>>,
}

/// Why a try failed, and whether the next may succeed.
enum Failure {
    /// The session of `/folder` has ended.
    Session(HostError),
    /// Worth another try after a pause.
    Passing(HostError),
    Final(HostError),
}

impl Folder {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self { session, cookie: Mutex::default(), files: Mutex::default() }
    }

    /// Bytes of `range` of a file that has `size` bytes. The request starts when the stream is first polled.
    pub(super) fn stream(
        self: &Arc<Self>,
        file: FilePath,
        size: u64,
        range: Extent,
    ) -> BoxStream<'static, Result<Bytes>> {
        let folder = self.clone();
        stream::once(async move { folder.start(file, size, range) }).flatten().boxed()
    }

    /// The whole of a small file, e.g. a descriptor. One try: what it is for must work without it.
    pub(super) async fn small_file(&self, file: &FilePath) -> Result<String> {
        let attempt = format!("read {file}");
        let lock = self.lock_of(file);
        let _reading = lock.lock().await;
        let answer = self.get(file, None, &attempt).await?;
        if answer.status() != StatusCode::OK {
            return Err(status_error(self.address(), &attempt, answer.status()));
        }
        read_body(self.address(), &attempt, answer).await
    }

    fn start(self: Arc<Self>, file: FilePath, size: u64, range: Extent) -> BoxStream<'static, Result<Bytes>> {
        let attempt = format!("read bytes {}..{} of {file}", range.offset, range.end());
        if range.length == 0 {
            return stream::empty().boxed();
        }
        if range.offset.checked_add(range.length).is_none_or(|end| end > size) {
            let reason = format!("the disk has {size} bytes");
            let error = self.address().error(ErrorKind::Protocol, "esxi.range_past_end", attempt, reason);
            return stream::once(async { Err(error) }).boxed();
        }
        let address = self.address().clone();
        let (sender, receiver) = mpsc::channel(READ_AHEAD_PIECES);
        let job = Copy { folder: self, file, size, range, attempt: attempt.clone() };
        let task = AbortOnDrop(tokio::spawn(async move {
            if let Err(error) = job.run(&sender).await {
                let _ = sender.send(Err(error)).await;
            }
        }));
        // Counts what comes through: a task that vanished must not look like the end of the range.
        let state = (receiver, task, range.length, false);
        stream::unfold(state, move |(mut receiver, task, left, failed)| {
            let (address, attempt) = (address.clone(), attempt.clone());
            async move {
                if left == 0 || failed {
                    return None;
                }
                let item = receiver.recv().await.unwrap_or_else(|| {
                    let reason = format!("the stream ended {left} bytes early");
                    Err(address.error(ErrorKind::Interrupted, "esxi.short_read", attempt, reason))
                });
                let left = item.as_ref().map_or(left, |piece| left.saturating_sub(piece.len() as u64));
                let failed = item.is_err();
                Some((item, (receiver, task, left, failed)))
            }
        })
        .boxed()
    }

    fn address(&self) -> &Address {
        &self.session.address
    }

    fn lock_of(&self, file: &FilePath) -> Arc<AsyncMutex<()>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|_, lock| Arc::strong_count(lock) > 1);
        files.entry(file.clone()).or_default().clone()
    }

    /// One GET, by the session's cookie if there is one, else by account and password.
    async fn get(&self, file: &FilePath, range: Option<Extent>, attempt: &str) -> Result<Response> {
        let segments: Vec<&str> = std::iter::once("folder").chain(file.path.split('/')).collect();
        let mut url = self.address().url(&segments)?;
        url.query_pairs_mut().append_pair("dcPath", DATACENTER).append_pair("dsName", &file.datastore);
        let mut request = self.session.client.get(url);
        let cookie = self.cookie.lock().unwrap_or_else(PoisonError::into_inner).clone();
        request = match cookie {
            Some(cookie) => request.header(COOKIE, cookie),
            None => request.basic_auth(&self.session.account, Some(self.session.password.expose_secret())),
        };
        if let Some(range) = range {
            request = request.header(RANGE, format!("bytes={}-{}", range.offset, range.end() - 1));
        }
        let sent = timeout(self.session.timeouts.stall, request.send()).await.map_err(|_| self.stalled(attempt))?;
        let answer = sent.map_err(|error| self.address().transport_error(attempt, error))?;
        if answer.status().is_success()
            && let Some(cookies) = cookies(answer.headers())
        {
            *self.cookie.lock().unwrap_or_else(PoisonError::into_inner) = Some(cookies);
        }
        Ok(answer)
    }

    fn stalled(&self, attempt: &str) -> HostError {
        let reason = format!("nothing came for {} seconds", self.session.timeouts.stall.as_secs());
        self.address().error(ErrorKind::Timeout, "host.timeout", attempt, reason)
    }

    /// Forgets the session. Says whether there was one.
    fn forget_session(&self) -> bool {
        self.cookie.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

/// One range on its way.
struct Copy {
    folder: Arc<Folder>,
    file: FilePath,
    size: u64,
    range: Extent,
    attempt: String,
}

impl Copy {
    async fn run(&self, sender: &mpsc::Sender<Result<Bytes>>) -> Result<()> {
        let lock = self.folder.lock_of(&self.file);
        let _reading = lock.lock().await;
        let mut position = self.range.offset;
        let (mut tries, mut mark, mut asked_again) = (0, position, false);
        let mut pause = self.folder.session.timeouts.back_off;
        while position < self.range.end() {
            let Err(failure) = self.read_on(&mut position, sender).await else { break };
            if position - mark >= PROGRESS_BYTES {
                (tries, mark, asked_again) = (0, position, false);
                pause = self.folder.session.timeouts.back_off;
            }
            match failure {
                // Once more by password; a second refusal is one, and more tries would lock the account.
                Failure::Session(error) => {
                    if !self.folder.forget_session() && asked_again {
                        return Err(error);
                    }
                    asked_again = true;
                }
                Failure::Final(error) => return Err(error),
                Failure::Passing(error) => {
                    tries += 1;
                    if tries == MAX_TRIES {
                        return Err(HostError {
                            reason: format!("{} (after {MAX_TRIES} tries)", error.reason),
                            ..error
                        });
                    }
                    tracing::debug!(%error, position, "trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Ok(())
    }

    /// One request from `position` to the end of the range; `position` moves with what was handed over.
    async fn read_on(
        &self,
        position: &mut u64,
        sender: &mpsc::Sender<Result<Bytes>>,
    ) -> std::result::Result<(), Failure> {
        let wanted = Extent::new(*position, self.range.end() - *position);
        let answer = self.folder.get(&self.file, Some(wanted), &self.attempt).await.map_err(sort)?;
        let mut skip = self.check(&answer, wanted)?;
        let mut pieces = answer.bytes_stream();
        let mut gathered = BytesMut::with_capacity(PIECE_BYTES);
        let mut left = wanted.length;
        while left > 0 {
            let piece = match timeout(self.folder.session.timeouts.stall, pieces.next()).await {
                Ok(Some(Ok(piece))) => piece,
                broken => {
                    // What came before the break is good; it need not come twice.
                    self.hand_over(gathered.split().freeze(), position, sender).await?;
                    return Err(Failure::Passing(match broken {
                        Err(_) => self.folder.stalled(&self.attempt),
                        Ok(Some(Err(error))) => self.folder.address().transport_error(&self.attempt, error),
                        Ok(_) => self.error(
                            ErrorKind::Interrupted,
                            "esxi.short_read",
                            format!("it ended {left} bytes early"),
                        ),
                    }));
                }
            };
            let drop = (skip.min(piece.len() as u64)) as usize;
            skip -= drop as u64;
            let piece = piece.slice(drop..);
            let piece = piece.slice(..(left.min(piece.len() as u64)) as usize);
            left -= piece.len() as u64;
            gathered.extend_from_slice(&piece);
            if gathered.len() >= PIECE_BYTES {
                let full = std::mem::replace(&mut gathered, BytesMut::with_capacity(PIECE_BYTES)).freeze();
                self.hand_over(full, position, sender).await?;
            }
        }
        self.hand_over(gathered.freeze(), position, sender).await
    }

    async fn hand_over(
        &self,
        piece: Bytes,
        position: &mut u64,
        sender: &mpsc::Sender<Result<Bytes>>,
    ) -> std::result::Result<(), Failure> {
        if piece.is_empty() {
            return Ok(());
        }
        *position += piece.len() as u64;
        sender.send(Ok(piece)).await.map_err(|_| {
            Failure::Final(self.error(ErrorKind::Interrupted, "esxi.cancelled", "nobody reads the stream any more"))
        })
    }

    /// Whether the answer is the range that was asked for. Returns the bytes to skip in front.
    fn check(&self, answer: &Response, wanted: Extent) -> std::result::Result<u64, Failure> {
        let status = answer.status();
        match status {
            StatusCode::PARTIAL_CONTENT => {
                let stated =
                    answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or("nothing");
                if is_range(stated, wanted, self.size) {
                    return Ok(0);
                }
                let asked = format!("{}-{} of {}", wanted.offset, wanted.end() - 1, self.size);
                let reason = format!("asked for bytes {asked}, the host says it sent `{stated:.60}`");
                Err(Failure::Final(self.error(ErrorKind::Protocol, "esxi.wrong_range", reason)))
            }
            StatusCode::OK => {
                let length =
                    answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                if length == Some(self.size) && self.size <= SMALL_FILE_BYTES {
                    return Ok(wanted.offset);
                }
                let reason = "the host ignored the range and sent the whole file (status 200)";
                Err(Failure::Final(self.error(ErrorKind::Protocol, "esxi.range_ignored", reason)))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Failure::Session(status_error(self.folder.address(), &self.attempt, status)))
            }
            status => Err(sort(status_error(self.folder.address(), &self.attempt, status))),
        }
    }

    fn error(&self, kind: ErrorKind, code: &'static str, reason: impl Into<String>) -> HostError {
        self.folder.address().error(kind, code, &self.attempt, reason)
    }
}

fn sort(error: HostError) -> Failure {
    if error.kind.is_transient() { Failure::Passing(error) } else { Failure::Final(error) }
}

/// `bytes 0-499/1234`: exactly what was asked for, of a file of exactly the disk's size.
fn is_range(stated: &str, wanted: Extent, size: u64) -> bool {
    let parse = || {
        let (range, total) = stated.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total))
    };
    parse().is_some_and(|(first, last, total)| {
        first == wanted.offset && last == wanted.end() - 1 && (total == "*" || total.parse() == Ok(size))
    })
}

/// Names and values of all cookies an answer set, as a request sends them back.
fn cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    let pairs: Vec<&str> = headers
        .get_all(SET_COOKIE)
        .iter()
        .take(MAX_COOKIES)
        .filter_map(|header| header.to_str().ok()?.split(';').next())
        .map(str::trim)
        .filter(|pair| {
            pair.split_once('=').is_some_and(|(_, value)| !value.is_empty()) && pair.len() <= MAX_COOKIE_CHARS
        })
        .collect();
    let mut value = HeaderValue::from_str(&pairs.join("; ")).ok().filter(|_| !pairs.is_empty())?;
    value.set_sensitive(true);
    Some(value)
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_asked_range_is_taken() {
        let wanted = Extent::new(100, 50);
        assert!(is_range("bytes 100-149/1000", wanted, 1000));
        assert!(is_range("bytes 100-149/*", wanted, 1000));
        for other in [
            "bytes 100-149/999",
            "bytes 0-149/1000",
            "bytes 100-150/1000",
            "bytes 100-148/1000",
            "bytes */1000",
            "",
            "100-149/1000",
            "bytes -149/1000",
        ] {
            assert!(!is_range(other, wanted, 1000), "{other}");
        }
    }

    #[test]
    fn all_cookies_go_back_as_they_came() {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("vmware_soap_session=\"a-b\"; Path=/; Secure"));
        headers.append(SET_COOKIE, HeaderValue::from_static("other=1"));
        headers.append(SET_COOKIE, HeaderValue::from_static("gone=; Max-Age=0"));
        assert_eq!(cookies(&headers).unwrap(), "vmware_soap_session=\"a-b\"; other=1");
        assert_eq!(cookies(&HeaderMap::new()), None);
    }
}
