//! One request at a time: signing, sending, limits on time and size, what a refusal means, and trying again.

use bytes::{Bytes, BytesMut};
use domain::Clock;
use futures_util::{StreamExt, stream};
use reqwest::header::{CONTENT_LENGTH, DATE, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Body, Certificate, Method, StatusCode};
use std::convert::Infallible;
use std::error::Error as StdError;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::Url;

use super::sign::{Headers, Signer, Subject, escape, sha256_parts};
use super::xml::Document;
use super::{S3Options, Tuning};
use crate::backend::BackendErrorKind;
use crate::backend::share::watch_own;

/// Longest answer that is not an object: a page of a list, an error.
pub const ANSWER_BYTES_MAX: u64 = 8 << 20;
/// Longest part of the storage's own words that is kept, in characters.
const WORDS_CHARS_MAX: usize = 400;
/// Errors within errors that are told.
const CAUSES_MAX: usize = 8;
/// Bytes of a body that are handed over at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of a body that were handed over and may be still on their way: what a system buffers of one connection at most.
const BUFFERED_BYTES_MAX: u64 = 4 << 20;

/// A request's body. Parts are shared, so that sending it again copies nothing.
pub struct Payload {
    pub parts: Vec<Bytes>,
    pub bytes: u64,
    pub sha256: [u8; 32],
}

impl Payload {
    pub fn new(parts: Vec<Bytes>) -> Self {
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        Self { sha256: sha256_parts(&parts), parts, bytes }
    }

    /// As a body of small pieces, counted when they are taken.
    fn body(&self, taken: Arc<AtomicU64>) -> Body {
        let pieces = self.parts.clone().into_iter().flat_map(|part| {
            let pieces = (0..part.len()).step_by(PIECE_BYTES);
            pieces.map(move |at| part.slice(at..part.len().min(at + PIECE_BYTES)))
        });
        Body::wrap_stream(stream::iter(pieces.map(move |piece| {
            taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok::<_, Infallible>(piece)
        })))
    }
}

/// A request.
pub struct Call<'a> {
    pub method: Method,
    /// Whole key, prefix included; `None` for the bucket.
    pub key: Option<&'a str>,
    pub query: Vec<(&'static str, String)>,
    pub headers: Headers,
    pub payload: Option<&'a Payload>,
    pub answer_bytes_max: u64,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, key: Option<&'a str>) -> Self {
        let (query, headers) = (Vec::new(), Vec::new());
        Self { method, key, query, headers, payload: None, answer_bytes_max: ANSWER_BYTES_MAX }
    }

    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn payload(mut self, payload: &'a Payload) -> Self {
        self.payload = Some(payload);
        self
    }
}

/// A whole answer of success.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// A header's value, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Why there is none.
#[derive(Debug)]
pub enum Trouble {
    /// The storage answered with an error.
    Refused { status: StatusCode, code: String, words: String },
    /// No answer, or not all of it. `sent` is false when the request cannot have arrived.
    Broken { sent: bool, words: String },
    /// An answer that makes no sense.
    Nonsense(String),
}

impl Trouble {
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// May trying again help?
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Broken { .. } => true,
            Self::Refused { status, code, .. } => {
                status.is_server_error() && !matches!(status.as_u16(), 501 | 507)
                    || matches!(status.as_u16(), 408 | 429)
                    || matches!(code.as_str(), "RequestTimeout" | "SlowDown" | "OperationAborted")
                    || code == "ConditionalRequestConflict"
            }
            Self::Nonsense(_) => false,
        }
    }

    /// May the request have had its effect all the same?
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Broken { sent, .. } => *sent,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Nonsense(_) => true,
        }
    }

    pub fn kind(&self) -> BackendErrorKind {
        let (status, code) = match self {
            Self::Broken { .. } => return BackendErrorKind::Unreachable,
            Self::Nonsense(_) => return BackendErrorKind::Other,
            Self::Refused { status, code, .. } => (status.as_u16(), code.as_str()),
        };
        match (code, status) {
            ("NoSuchBucket", _) => BackendErrorKind::NoLocation,
            ("RequestTimeTooSkewed" | "RequestExpired", _) => BackendErrorKind::ClockSkew,
            ("QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity", _) | (_, 507) => {
                BackendErrorKind::OutOfSpace
            }
            (
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "InvalidToken"
                | "ExpiredToken"
                | "AuthorizationHeaderMalformed"
                | "UserSuspended",
                _,
            )
            | (_, 401) => BackendErrorKind::Unauthorized,
            (_, 403) => BackendErrorKind::Forbidden,
            (_, 404) => BackendErrorKind::NotFound,
            (_, 412) => BackendErrorKind::AlreadyExists,
            (_, 416) => BackendErrorKind::TooShort,
            _ if self.is_passing() => BackendErrorKind::Unreachable,
            _ => BackendErrorKind::Other,
        }
    }

    pub fn words(&self) -> String {
        match self {
            Self::Refused { status, code, words } if code.is_empty() => format!("status {status}{words}"),
            Self::Refused { status, code, words } => format!("status {}, {code}{words}", status.as_u16()),
            Self::Broken { words, .. } | Self::Nonsense(words) => words.clone(),
        }
    }
}

/// Sends requests to one bucket.
pub struct Client {
    http: reqwest::Client,
    signer: Signer,
    clock: Arc<dyn Clock>,
    /// Scheme and host of the bucket.
    origin: String,
    host: String,
    /// Escaped path of the bucket, without a `/` at its end.
    base: String,
    pub tuning: Tuning,
    slots: Semaphore,
}

impl Client {
    /// The error says what is wrong with the options.
    pub fn new(options: &S3Options) -> Result<Self, String> {
        let location = &options.location;
        let bad = |what: &str| Err(format!("{what} is not usable"));
        let Ok(mut url) = Url::parse(location.endpoint.trim()) else { return bad("the endpoint's address") };
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if !matches!(url.scheme(), "http" | "https") || !plain || url.fragment().is_some() {
            return bad("the endpoint's address");
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !(3..=63).contains(&location.bucket.len()) || !location.bucket.bytes().all(is_name) {
            return bad("the bucket's name");
        }
        let mut base = url.path().trim_end_matches('/').to_owned();
        let Some(host) = url.host_str().map(str::to_owned) else { return bad("the endpoint's address") };
        if location.path_style {
            base = format!("{base}/{}", location.bucket);
        } else if url.set_host(Some(&format!("{}.{host}", location.bucket))).is_err() {
            return bad("the bucket's name in a host name");
        }
        let Some(host) = url.host_str() else { return bad("the endpoint's address") };
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Self {
            http: http_client(options)?,
            signer: Signer {
                access_key: location.access_key.clone(),
                secret_key: options.secret_key.clone(),
                region: location.region.clone(),
            },
            clock: Arc::clone(&options.clock),
            origin: format!("{}://{host}", url.scheme()),
            host,
            base,
            tuning: options.tuning,
            slots: Semaphore::new(options.tuning.requests_at_once.max(1)),
        })
    }

    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// Sends a request once.
    pub async fn send(&self, call: &Call<'_>) -> Result<Reply, Trouble> {
        let _slot = self.slots.acquire().await.map_err(|_| Trouble::Nonsense("closed".to_owned()))?;
        let path = match call.key {
            Some(key) => format!("{}/{}", self.base, escape(key, true)),
            None => format!("{}/", self.base),
        };
        let mut query: Vec<String> =
            call.query.iter().map(|(name, value)| format!("{name}={}", escape(value, false))).collect();
        query.sort_unstable();
        let query = query.join("&");
        let mut headers = call.headers.clone();
        let empty = Payload::new(Vec::new());
        let payload = call.payload.unwrap_or(&empty);
        let (method, host) = (call.method.as_str(), self.host.as_str());
        let subject = Subject { method, host, path: &path, query: &query, payload_sha256: &payload.sha256 };
        self.signer.sign(&subject, &mut headers, self.now());
        let separator = if query.is_empty() { "" } else { "?" };
        let mut request = self.http.request(call.method.clone(), format!("{}{path}{separator}{query}", self.origin));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let taken = Arc::new(AtomicU64::new(0));
        if call.payload.is_some() {
            request = request.header(CONTENT_LENGTH, payload.bytes).body(payload.body(Arc::clone(&taken)));
        }
        let transferred = payload.bytes + call.answer_bytes_max;
        let answer = request.timeout(self.tuning.request_timeout(transferred)).send();
        let answer = match call.payload {
            Some(payload) => self.while_taken(payload, &taken, answer).await?.map_err(broken)?,
            None => self.unstalled(answer).await?.map_err(broken)?,
        };
        self.read_answer(call, answer).await
    }

    /// Waits for an answer as long as the storage takes the body, however slowly; and for a time after it took all.
    async fn while_taken<T>(
        &self,
        payload: &Payload,
        taken: &AtomicU64,
        answer: impl Future<Output = T>,
    ) -> Result<T, Trouble> {
        let (mut answer, taken) = (pin!(answer), || taken.load(Ordering::Relaxed));
        if let Some(answer) = watch_own(self.tuning.stall_timeout, taken, answer.as_mut()).await {
            return Ok(answer);
        }
        let (got, bytes) = (taken(), payload.bytes);
        if got < bytes {
            let words = format!("the storage took {got} of {bytes} bytes and then no more");
            return Err(Trouble::Broken { sent: true, words });
        }
        let on_its_way = self.tuning.time_of(bytes.min(BUFFERED_BYTES_MAX));
        let silent = |_| Trouble::Broken { sent: true, words: format!("no answer came to {bytes} bytes") };
        tokio::time::timeout(on_its_way, answer).await.map_err(silent)
    }

    async fn unstalled<T>(&self, step: impl Future<Output = T>) -> Result<T, Trouble> {
        let stalled = |_| Trouble::Broken { sent: true, words: "the answer stopped coming".to_owned() };
        tokio::time::timeout(self.tuning.stall_timeout, step).await.map_err(stalled)
    }

    async fn read_answer(&self, call: &Call<'_>, answer: reqwest::Response) -> Result<Reply, Trouble> {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let max = if status.is_success() { call.answer_bytes_max } else { ANSWER_BYTES_MAX };
        let too_long = || Trouble::Nonsense(format!("the answer is longer than {max} bytes"));
        let has_body = call.method != Method::HEAD;
        if has_body && declared.is_some_and(|declared| declared > max) {
            return Err(too_long());
        }
        let mut body = BytesMut::with_capacity(if has_body { declared.unwrap_or(0) as usize } else { 0 });
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = self.unstalled(pieces.next()).await? {
            let piece = piece.map_err(broken)?;
            if (body.len() + piece.len()) as u64 > max {
                return Err(too_long());
            }
            body.extend_from_slice(&piece);
        }
        if has_body && declared.is_some_and(|declared| declared != body.len() as u64) {
            return Err(Trouble::Broken { sent: true, words: "the answer was cut short".to_owned() });
        }
        if status.is_success() {
            return Ok(Reply { status, headers, body: body.freeze() });
        }
        Err(refusal(status, &headers, &body))
    }

    /// Sends a request that may be repeated until it is answered, refused for good, or patience ends.
    pub async fn send_patiently(&self, call: &Call<'_>) -> Result<Reply, Trouble> {
        let mut patience = self.patience();
        loop {
            match self.send(call).await {
                Err(trouble) if trouble.is_passing() && patience.pause().await => {}
                other => return other,
            }
        }
    }

    pub fn patience(&self) -> Patience {
        Patience { tuning: self.tuning, attempts: 1, until: Instant::now() + self.tuning.patience }
    }
}

/// Counts attempts and pauses between them.
pub struct Patience {
    tuning: Tuning,
    attempts: u32,
    until: Instant,
}

impl Patience {
    /// Waits before the next attempt; false when there is to be none.
    pub async fn pause(&mut self) -> bool {
        let doubled = self.tuning.pause.saturating_mul(1 << (self.attempts - 1).min(16)).min(self.tuning.pause_max);
        if self.attempts >= self.tuning.attempts || Instant::now() + doubled >= self.until {
            return false;
        }
        self.attempts += 1;
        // Between half and all of it, so that those who were sent away together do not come back together.
        let mut random = [0; 2];
        let share = aws_lc_rs::rand::fill(&mut random)
            .map_or(1.0, |()| 0.5 + f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX) / 2.0);
        tokio::time::sleep(doubled.mul_f64(share)).await;
        true
    }
}

/// What the storage says of it.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Trouble {
    let document = Document::parse(body).unwrap_or_default();
    let mut words: String = document.text("Message").chars().take(WORDS_CHARS_MAX).collect();
    if !words.is_empty() {
        words.insert_str(0, ": ");
    }
    let code: String = document.text("Code").chars().take(WORDS_CHARS_MAX).collect();
    if code.contains("Skew") || code == "RequestExpired" {
        let date = headers.get(DATE).and_then(|value| value.to_str().ok()).unwrap_or("unknown");
        words.push_str(", its clock says ");
        words.push_str(date);
    }
    Trouble::Refused { status, code, words }
}

fn broken(error: reqwest::Error) -> Trouble {
    let sent = !error.is_connect() && !error.is_builder();
    let error = error.without_url(); // the location is told already
    let mut words = error.to_string();
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(inner) = cause else { break };
        let text = inner.to_string();
        if !words.contains(&text) {
            words.push_str(": ");
            words.push_str(&text);
        }
        cause = inner.source();
    }
    Trouble::Broken { sent, words }
}

fn http_client(options: &S3Options) -> Result<reqwest::Client, String> {
    // Fails when one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let tuning = &options.tuning;
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(tuning.connect_timeout)
        .pool_idle_timeout(Duration::from_secs(20))
        .tcp_nodelay(true);
    if let Some(pem) = &options.location.ca_pem {
        let authorities = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|_| "the CA certificate is not PEM")?;
        if authorities.is_empty() {
            return Err("the CA file has no certificate".to_owned());
        }
        builder = builder.tls_certs_only(authorities);
    }
    builder.build().map_err(|error| format!("the HTTP client could not be set up: {}", broken(error).words()))
}
