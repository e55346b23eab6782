//! HTTP to one host: a client that knows one certificate, and the sorting of what goes wrong.

use crate::tls::{self, GuardedResolver, Pin};
use crate::{ErrorKind, HostError};
use futures_util::StreamExt as _;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use std::net::IpAddr;
use std::time::Duration;
use url::{Host, Url};

/// Longest answer that is read into memory.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
const POOL_IDLE_SECONDS: u64 = 20;

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a TCP connection with its TLS handshake.
    pub connect: Duration,
    /// For the whole of a SOAP call.
    pub call: Duration,
    /// Between two pieces of a disk's stream, either way.
    pub stall: Duration,
    /// For a host to store a disk after its last byte was sent.
    pub store: Duration,
    /// For a snapshot to be made.
    pub create_snapshot: Duration,
    /// For a snapshot to be removed and its disks to be consolidated.
    pub remove_snapshot: Duration,
    /// First pause before another try; doubled each time.
    pub back_off: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            call: Duration::from_secs(120),
            stall: Duration::from_secs(60),
            store: Duration::from_secs(15 * 60),
            create_snapshot: Duration::from_secs(30 * 60),
            remove_snapshot: Duration::from_secs(6 * 60 * 60),
            back_off: Duration::from_millis(500),
        }
    }
}

/// The base address of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Refuses what is not a plain host name or address, and addresses that are never dialled.
    pub(super) fn new(host: &str, port: u16) -> Result<Self, HostError> {
        let refuse = |reason: &str| HostError {
            kind: ErrorKind::Unreachable,
            code: "host.bad_address",
            host: format!("{host}:{port}"),
            attempt: "connect".into(),
            reason: reason.into(),
            hint: "Enter the host's name or address alone, without https:// and without a path.".into(),
            source: None,
        };
        let plain = host.trim_matches(['[', ']']);
        let written = if plain.contains(':') { format!("[{plain}]") } else { plain.to_owned() };
        let url = Url::parse(&format!("https://{written}:{port}/")).map_err(|_| refuse("this is no host name"))?;
        if plain.is_empty() || url.path() != "/" || !url.username().is_empty() || url.query().is_some() {
            return Err(refuse("this is no host name"));
        }
        let address = match url.host() {
            Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
            Some(Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
            _ => None,
        };
        if address.is_some_and(tls::is_forbidden) {
            return Err(refuse("link-local, multicast and metadata addresses are not allowed for a host"));
        }
        Ok(Self { host: url.host_str().unwrap_or(plain).to_owned(), port })
    }

    /// `https://host:port` plus a path that is escaped here, segment by segment.
    pub(super) fn url(&self, segments: &[&str]) -> Result<Url, HostError> {
        let base = Url::parse(&format!("https://{}:{}/", self.host, self.port));
        let mut url =
            base.map_err(|_| self.error(ErrorKind::Unreachable, "host.bad_address", "connect", "bad address"))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(segments);
        }
        Ok(url)
    }

    pub(super) fn name(&self) -> String {
        if self.port == 443 { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    pub(super) fn error(
        &self,
        kind: ErrorKind,
        code: &'static str,
        attempt: impl Into<String>,
        reason: impl Into<String>,
    ) -> HostError {
        let hint = match kind {
            ErrorKind::Interrupted | ErrorKind::Unreachable | ErrorKind::Timeout => {
                "Check that the host is up and reachable."
            }
            ErrorKind::Busy => "Another backup, a datastore browser or a running export may hold the file.",
            ErrorKind::Protocol => {
                "The host answered in a way it should not; please report it with the host's version."
            }
            _ => "",
        };
        HostError {
            kind,
            code,
            host: self.name(),
            attempt: attempt.into(),
            reason: reason.into(),
            hint: hint.into(),
            source: None,
        }
    }

    /// A request that did not get an answer, or whose answer broke off.
    pub(super) fn transport_error(&self, attempt: &str, error: reqwest::Error) -> HostError {
        // Addresses may carry a lease's key; the host's name is in the error already.
        let error = error.without_url();
        if error.is_connect() {
            return HostError {
                host: self.name(),
                attempt: attempt.to_owned(),
                ..tls::from_connect(&self.host, self.port, error)
            };
        }
        let (kind, code, reason) = if error.is_timeout() {
            (ErrorKind::Timeout, "host.timeout", "no answer in time")
        } else {
            (ErrorKind::Interrupted, "host.interrupted", "the connection broke")
        };
        HostError { source: Some(error.into()), ..self.error(kind, code, attempt, reason) }
    }
}

/// An HTTP client for hosts that show the pinned certificate. It has no limit on the whole of a request: a disk takes
/// hours. Callers set their own.
pub(super) fn client(pin: Pin, timeouts: &Timeouts, address: &Address) -> Result<Client, HostError> {
    Client::builder()
        .tls_backend_preconfigured(tls::client_config(pin))
        .https_only(true)
        .http1_only()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .dns_resolver(GuardedResolver)
        .connect_timeout(timeouts.connect)
        .pool_idle_timeout(Duration::from_secs(POOL_IDLE_SECONDS))
        .tcp_nodelay(true)
        .build()
        .map_err(|error| HostError {
            source: Some(error.into()),
            ..address.error(ErrorKind::Tls, "host.tls", "connect", "the HTTP client could not be set up")
        })
}

/// The whole body as text, within [`MAX_ANSWER_BYTES`].
pub(super) async fn read_body(address: &Address, attempt: &str, answer: Response) -> Result<String, HostError> {
    let mut body = Vec::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| address.transport_error(attempt, error))?;
        if body.len() + piece.len() > MAX_ANSWER_BYTES {
            let reason = format!("its answer passes the limit of {MAX_ANSWER_BYTES} bytes");
            return Err(address.error(ErrorKind::Protocol, "host.answer_too_long", attempt, reason));
        }
        body.extend_from_slice(&piece);
    }
    String::from_utf8(body)
        .map_err(|_| address.error(ErrorKind::Protocol, "host.bad_answer", attempt, "its answer is not UTF-8"))
}

/// An HTTP status that says all there is to say.
pub(super) fn status_error(address: &Address, attempt: &str, status: StatusCode) -> HostError {
    let (kind, code) = match status {
        StatusCode::UNAUTHORIZED => (ErrorKind::Login, "esxi.login_refused"),
        StatusCode::FORBIDDEN => (ErrorKind::Permission, "esxi.no_permission"),
        StatusCode::NOT_FOUND => (ErrorKind::NotFound, "esxi.not_found"),
        StatusCode::INSUFFICIENT_STORAGE => (ErrorKind::NoSpace, "esxi.no_space"),
        status if status.is_server_error() => (ErrorKind::Busy, "esxi.http_error"),
        _ => (ErrorKind::Protocol, "esxi.http_status"),
    };
    address.error(kind, code, attempt, format!("HTTP status {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_plain_and_allowed() {
        assert_eq!(Address::new("esxi1.example.org", 443).unwrap().name(), "esxi1.example.org");
        assert_eq!(Address::new("127.0.0.1", 8443).unwrap().name(), "127.0.0.1:8443");
        assert_eq!(Address::new("::1", 443).unwrap().host, "[::1]");
        for bad in [
            "",
            "https://esxi1",
            "esxi1/sdk",
            "user@esxi1",
            "esxi 1",
            "esxi1?x",
            "169.254.169.254",
            "2852039166",
            "0xA9FEA9FE",
            "[fe80::1]",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            assert!(Address::new(bad, 443).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_escaped_by_segment() {
        let url = Address::new("h", 1).unwrap().url(&["folder", "a b#?/c", "d%.vmdk"]).unwrap();
        assert_eq!(url.as_str(), "https://h:1/folder/a%20b%23%3F%2Fc/d%25.vmdk");
    }
}
