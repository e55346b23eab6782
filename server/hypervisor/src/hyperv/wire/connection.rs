//! One HTTP/1.1 connection: dialled, logged in, then one request at a time.
//!
//! NTLM logs in a connection, not a request, so no pool of an HTTP client may stand between. Over plain HTTP every
//! message after the login is sealed; an answer that is not is refused, whatever it says.
//! Must never: send a password where TLS does not cover it, or a clear message on a connection without TLS.

use super::endpoint::{Endpoint, PATH, Timeouts, Transport};
use super::sealed::{self, SOAP_TYPE};
use crate::hyperv::ntlm::{self, Challenge, Secrets};
use crate::tls::{self, Pin};
use crate::{ErrorKind, HostError, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use domain::clock::{Clock as _, SystemClock};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use md5::{Digest as _, Md5};
use rustls::pki_types::{CertificateDer, ServerName};
use secrecy::{ExposeSecret as _, SecretString};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Longest answer that is read into memory. We ask for envelopes of 500 KiB; hosts may send more.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
const MAX_HEADERS: usize = 64;
/// A connection that was idle so long is not used again: hosts close theirs after two minutes.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// Who logs in, and how. `Debug` does not show the password.
#[derive(Debug, Clone)]
pub(in crate::hyperv) struct Login {
    pub account: String,
    pub password: SecretString,
    pub transport: Transport,
    /// SHA-256 of the host's certificate.
    pub pin: [u8; 32],
}

/// How a request ended, if it got no answer.
pub(super) enum SendError {
    /// The host has not seen it: it may be sent again on another connection, whatever it asks.
    Unsent,
    /// The host wants this connection to log in again; it has not looked at the request.
    LoggedOut,
    Failed(HostError),
}

/// What was agreed on for the messages.
enum Protection {
    /// Nothing yet: the connection is not logged in, and no message may go over it.
    None,
    /// TLS, with this header on each request.
    Basic(HeaderValue),
    /// TLS, and the connection is logged in.
    Tls,
    /// Plain HTTP: every message is sealed.
    Sealed(Box<ntlm::Session>),
}

pub(super) struct Connection {
    endpoint: Arc<Endpoint>,
    sender: SendRequest<Full<Bytes>>,
    protection: Protection,
    used: Instant,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Dials and logs in.
    pub(super) async fn open(endpoint: &Arc<Endpoint>, login: &Login, timeouts: &Timeouts) -> Result<Self> {
        let (sender, driver, bindings) = dial(endpoint, login, timeouts).await?;
        let mut connection =
            Self { endpoint: endpoint.clone(), sender, protection: Protection::None, used: Instant::now(), driver };
        if login.transport == Transport::TlsBasic {
            connection.protection = Protection::Basic(basic(login));
            return Ok(connection);
        }
        let session = timeout(timeouts.connect * 3, connection.log_in(login, bindings)).await.map_err(|_| {
            endpoint.error(ErrorKind::Timeout, "host.timeout", "log in", "the host did not answer in time")
        })??;
        connection.protection = match login.transport {
            Transport::SealedHttp => Protection::Sealed(Box::new(session)),
            Transport::TlsNtlm | Transport::TlsBasic => Protection::Tls,
        };
        Ok(connection)
    }

    /// Fit for one more request.
    pub(super) fn is_usable(&self) -> bool {
        !self.sender.is_closed() && self.used.elapsed() < MAX_IDLE
    }

    /// Sends an envelope and returns the answer's status and text.
    pub(super) async fn exchange(
        &mut self,
        envelope: &str,
        attempt: &str,
        budget: Duration,
    ) -> std::result::Result<(StatusCode, String), SendError> {
        let endpoint = self.endpoint.clone();
        timeout(budget, self.exchange_inner(envelope, attempt)).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {} s", budget.as_secs());
            Err(SendError::Failed(endpoint.error(ErrorKind::Timeout, "host.timeout", attempt, reason)))
        })
    }

    async fn exchange_inner(
        &mut self,
        envelope: &str,
        attempt: &str,
    ) -> std::result::Result<(StatusCode, String), SendError> {
        let mut request = self.request();
        let body = match &mut self.protection {
            Protection::None => return Err(SendError::LoggedOut),
            Protection::Sealed(session) => {
                request = request.header(CONTENT_TYPE, sealed::CONTENT_TYPE);
                sealed::wrap(session, envelope.as_bytes())
            }
            Protection::Basic(header) => {
                request = request.header(CONTENT_TYPE, SOAP_TYPE).header(AUTHORIZATION, header.clone());
                envelope.as_bytes().to_vec()
            }
            Protection::Tls => {
                request = request.header(CONTENT_TYPE, SOAP_TYPE);
                envelope.as_bytes().to_vec()
            }
        };
        let request = request.body(Full::new(Bytes::from(body))).map_err(|_| SendError::Failed(self.bad_request()))?;
        let answer = self.send(request, attempt).await?;
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err(match &self.protection {
                Protection::Basic(_) => SendError::Failed(refused_login(&self.endpoint, answer.headers(), "Basic")),
                _ => SendError::LoggedOut,
            });
        }
        let kind = header_text(answer.headers(), &CONTENT_TYPE).to_owned();
        let body = self.read(answer, attempt).await.map_err(SendError::Failed)?;
        self.used = Instant::now();
        let clear = match &mut self.protection {
            Protection::Sealed(session) => sealed::unwrap(session, &kind, &body).map_err(|error| {
                // An unsealed status is not trusted either, but it may help to find what is wrong.
                let reason = format!("its answer (HTTP status {status}) was refused: {error}");
                let failed = self.endpoint.error(ErrorKind::Protocol, "hyperv.unsealed", attempt, reason);
                SendError::Failed(HostError { source: Some(Box::new(error)), ..failed })
            })?,
            _ => body,
        };
        let text = String::from_utf8(clear).map_err(|_| {
            let reason = "its answer is not UTF-8";
            SendError::Failed(self.endpoint.error(ErrorKind::Protocol, "host.bad_answer", attempt, reason))
        })?;
        Ok((status, text))
    }

    /// NTLM in two legs, each with an empty body.
    async fn log_in(&mut self, login: &Login, bindings: Option<[u8; 16]>) -> Result<ntlm::Session> {
        let first = ntlm::negotiate();
        let answer = self.leg(&first).await?;
        let offered = negotiate_token(answer.headers());
        if answer.status() != StatusCode::UNAUTHORIZED {
            let reason = format!("it answered the login with HTTP status {} instead of a challenge", answer.status());
            return Err(not_wsman(&self.endpoint, answer.status(), reason));
        }
        let Some(challenge) = offered.filter(|token| !token.is_empty()) else {
            return Err(refused_login(&self.endpoint, answer.headers(), "Negotiate"));
        };
        self.drain(answer).await?;
        let broken = |error: ntlm::NtlmError| HostError {
            source: Some(Box::new(error)),
            ..self.endpoint.error(ErrorKind::Protocol, "hyperv.ntlm", "log in", error.to_string())
        };
        let challenge = Challenge::parse(&challenge).map_err(broken)?;
        let target = format!("HTTP/{}", self.endpoint.plain());
        let secrets = Secrets {
            account: &login.account,
            password: &login.password,
            target: &target,
            channel_bindings: bindings,
            unix_microseconds: u64::try_from(SystemClock.now().as_microsecond()).unwrap_or(0),
            client_nonce: random(),
            session_key: random(),
        };
        let (last, session) = ntlm::authenticate(&challenge, &first, &secrets).map_err(broken)?;
        let answer = self.leg(&last).await?;
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err(self.endpoint.login_refused("the host refused account or password"));
        }
        if !(status.is_success() || status.is_server_error()) {
            let reason = format!("it answered the login with HTTP status {status}");
            return Err(not_wsman(&self.endpoint, status, reason));
        }
        self.drain(answer).await?;
        Ok(session)
    }

    async fn leg(&mut self, token: &[u8]) -> Result<Response<Incoming>> {
        let value = HeaderValue::from_str(&format!("Negotiate {}", BASE64.encode(token)));
        let mut value = value.map_err(|_| self.bad_request())?;
        value.set_sensitive(true);
        let request = self.request().header(CONTENT_TYPE, SOAP_TYPE).header(AUTHORIZATION, value);
        let request = request.body(Full::default()).map_err(|_| self.bad_request())?;
        self.send(request, "log in").await.map_err(|error| match error {
            SendError::Failed(error) => error,
            SendError::Unsent | SendError::LoggedOut => {
                self.endpoint.error(ErrorKind::Interrupted, "host.interrupted", "log in", "the connection broke")
            }
        })
    }

    fn request(&self) -> hyper::http::request::Builder {
        Request::builder().method(Method::POST).uri(PATH).header(HOST, self.endpoint.authority())
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        attempt: &str,
    ) -> std::result::Result<Response<Incoming>, SendError> {
        // A connection takes the next request only once it is through with the last answer.
        if self.sender.ready().await.is_err() {
            return Err(SendError::Unsent);
        }
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|mut error| match error.take_message() {
            Some(_) => SendError::Unsent,
            None => SendError::Failed(self.broken(attempt, error.into_error())),
        })
    }

    async fn read(&self, answer: Response<Incoming>, attempt: &str) -> Result<Vec<u8>> {
        let mut body = answer.into_body();
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(attempt, error))?;
            let Ok(piece) = frame.into_data() else { continue };
            if whole.len() + piece.len() > MAX_ANSWER_BYTES {
                let reason = format!("its answer passes the limit of {MAX_ANSWER_BYTES} bytes");
                return Err(self.endpoint.error(ErrorKind::Protocol, "host.answer_too_long", attempt, reason));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    /// Reads what is left of an answer, so that the connection can be used again.
    async fn drain(&self, answer: Response<Incoming>) -> Result<()> {
        self.read(answer, "log in").await.map(drop)
    }

    fn broken(&self, attempt: &str, error: hyper::Error) -> HostError {
        let failed = self.endpoint.error(ErrorKind::Interrupted, "host.interrupted", attempt, "the connection broke");
        HostError { source: Some(Box::new(error)), ..failed }
    }

    fn bad_request(&self) -> HostError {
        self.endpoint.error(ErrorKind::Protocol, "hyperv.bad_request", "connect", "the request could not be written")
    }
}

type Dialled = (SendRequest<Full<Bytes>>, JoinHandle<()>, Option<[u8; 16]>);

async fn dial(endpoint: &Endpoint, login: &Login, timeouts: &Timeouts) -> Result<Dialled> {
    let unreachable = |error: std::io::Error| HostError {
        source: Some(Box::new(error)),
        ..endpoint.error(ErrorKind::Unreachable, "host.unreachable", "connect", "no connection")
    };
    let late = |_| endpoint.error(ErrorKind::Unreachable, "host.unreachable", "connect", "no answer in time");
    let dialled = timeout(timeouts.connect, async {
        let addresses = tls::resolve(endpoint.plain(), endpoint.port).await?;
        let stream = TcpStream::connect(addresses.as_slice()).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    });
    let stream = dialled.await.map_err(late)?.map_err(unreachable)?;
    if !login.transport.is_tls() {
        let (sender, driver) = start(endpoint, stream).await?;
        return Ok((sender, driver, None));
    }
    let name = ServerName::try_from(endpoint.plain().to_owned())
        .map_err(|_| endpoint.error(ErrorKind::Unreachable, "host.bad_address", "connect", "this is no host name"))?;
    let connector = TlsConnector::from(Arc::new(tls::client_config(Pin::Sha256(login.pin))));
    let shaken = timeout(timeouts.connect, connector.connect(name, stream)).await.map_err(late)?;
    let stream = shaken.map_err(|error| tls::from_handshake(endpoint.plain(), endpoint.port, error))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let bindings = certificate.and_then(channel_bindings);
    let (sender, driver) = start(endpoint, stream).await?;
    Ok((sender, driver, bindings))
}

async fn start<S>(endpoint: &Endpoint, stream: S) -> Result<(SendRequest<Full<Bytes>>, JoinHandle<()>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_headers(MAX_HEADERS);
    let started = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = started.map_err(|error| HostError {
        source: Some(Box::new(error)),
        ..endpoint.error(ErrorKind::Interrupted, "host.interrupted", "connect", "the connection broke")
    })?;
    // Ends with the connection; whoever waits for an answer is told by it.
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok((sender, driver))
}

/// `tls-server-end-point` of RFC 5929 within the structure of RFC 2744, hashed (MS-NLMP 3.1.5.1.2).
fn channel_bindings(certificate: &CertificateDer<'_>) -> Option<[u8; 16]> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let oid = parsed.signature_algorithm.algorithm.to_id_string();
    let hash = match oid.as_str() {
        // sha384WithRSA, ecdsa-with-SHA384
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => sha2_of::<sha2::Sha384>(certificate),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => sha2_of::<sha2::Sha512>(certificate),
        // SHA-256, and in the place of MD5 and SHA-1.
        _ => sha2_of::<sha2::Sha256>(certificate),
    };
    let data = [b"tls-server-end-point:".as_slice(), &hash].concat();
    // Neither initiator nor acceptor address: type and length of each are zero.
    let mut structure = vec![0; 16];
    structure.extend_from_slice(&(data.len() as u32).to_le_bytes());
    structure.extend_from_slice(&data);
    Some(Md5::digest(&structure).into())
}

fn sha2_of<D: sha2::Digest>(data: &[u8]) -> Vec<u8> {
    D::digest(data).to_vec()
}

fn basic(login: &Login) -> HeaderValue {
    let pair = format!("{}:{}", login.account, login.password.expose_secret());
    let text = format!("Basic {}", BASE64.encode(pair));
    let mut value = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // A system without random bytes cannot run TLS either.
    getrandom::fill(&mut bytes).unwrap_or_else(|error| panic!("the operating system gives no random bytes: {error}"));
    bytes
}

fn header_text<'a>(headers: &'a HeaderMap, name: &hyper::header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The token of a `WWW-Authenticate: Negotiate …`; empty when it carries none.
fn negotiate_token(headers: &HeaderMap) -> Option<Vec<u8>> {
    headers.get_all(WWW_AUTHENTICATE).iter().find_map(|header| {
        let (scheme, token) = header.to_str().ok()?.split_once(' ').unwrap_or((header.to_str().ok()?, ""));
        if !scheme.eq_ignore_ascii_case("Negotiate") {
            return None;
        }
        BASE64.decode(token.trim()).ok()
    })
}

fn refused_login(endpoint: &Endpoint, headers: &HeaderMap, wanted: &str) -> HostError {
    let offered: Vec<&str> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|header| header.to_str().ok()?.split_whitespace().next())
        .take(8)
        .collect();
    if offered.iter().any(|scheme| scheme.eq_ignore_ascii_case(wanted)) {
        return endpoint.login_refused("the host refused account or password");
    }
    let offers = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
    HostError {
        hint: format!("Enable {wanted} for the WinRM service on the host, or choose another transport."),
        ..endpoint.login_refused(format!("the host does not offer {wanted} (it offers {offers})"))
    }
}

fn not_wsman(endpoint: &Endpoint, status: StatusCode, reason: String) -> HostError {
    let kind = if status == StatusCode::FORBIDDEN { ErrorKind::Permission } else { ErrorKind::Protocol };
    HostError {
        hint: "Check that the port is the one of WinRM (5986 with TLS, 5985 without).".into(),
        ..endpoint.error(kind, "hyperv.not_wsman", "log in", reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_found_among_the_offers() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Kerberos"));
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Negotiate TlRMTQ=="));
        assert_eq!(negotiate_token(&headers).unwrap(), b"NTLM");
        headers.clear();
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"WSMAN\""));
        assert_eq!(negotiate_token(&headers), None);
        let endpoint = Endpoint::new("h", 5986, Transport::TlsNtlm).unwrap();
        let refused = refused_login(&endpoint, &headers, "Negotiate");
        assert!(refused.reason.contains("it offers Basic"), "{refused}");
        assert!(refused_login(&endpoint, &headers, "Basic").reason.contains("password"));
    }

    #[test]
    fn a_login_does_not_show_its_password() {
        let login = Login {
            account: "a".into(),
            password: SecretString::from("hunter2"),
            transport: Transport::TlsBasic,
            pin: [0; 32],
        };
        assert!(!format!("{login:?} {:?}", basic(&login)).contains("hunter2"));
        assert!(!format!("{:?}", basic(&login)).contains("Basic"));
    }
}
