//! The two doors: HTTP requests to `/wsman`, who sends them, sealed or not, and the way to what answers them.
//!
//! Authentication belongs to the connection, as on Windows. Without TLS nothing but sealed messages is taken; a clear one, or
//! a password, is a client's crime.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::body::Whole;
use super::sealed;
use crate::hyperv::crimes::Rule;
use crate::hyperv::engine::{self, Answered};
use crate::hyperv::host::Host;
use crate::hyperv::log::RequestRecord;
use crate::hyperv::ntlm::{Acceptor, Challenged, Session, TOKEN_BYTES_MAX, spnego};
use crate::listen::{self, dropped};
use crate::state::now;

/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 1 << 20;
const SOAP_TYPE: &str = "application/soap+xml;charset=UTF-8";

/// Who is at the other end of a connection.
enum Peer {
    Nobody,
    /// With SPNEGO's list of mechanisms, where it is spoken.
    Challenged(Challenged, Option<Vec<u8>>),
    /// By NTLM: for as long as the connection lasts.
    Known(Box<Session>, Instant),
}

/// A connection.
struct Connection {
    host: Arc<Host>,
    tls: bool,
    peer: Mutex<Peer>,
}

/// Serves a door until the host stops.
pub(crate) async fn run(host: Arc<Host>, listener: TcpListener, tls: bool) {
    let acceptor = tls.then(|| TlsAcceptor::from(Arc::clone(&host.identity.config)));
    let stop = host.stop.clone();
    let connection = move || {
        let connection = Arc::new(Connection { host: Arc::clone(&host), tls, peer: Mutex::new(Peer::Nobody) });
        service_fn(move |request| {
            let connection = Arc::clone(&connection);
            async move { connection.handle(request).await }
        })
    };
    listen::run(listener, acceptor, stop, connection).await;
}

fn plain(status: StatusCode, text: &str) -> Response<Whole> {
    let mut response = Response::new(Whole::new(text.to_owned()));
    *response.status_mut() = status;
    response
}

fn is_basic(headers: &HeaderMap) -> bool {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic ")))
}

/// What the authentication of a request came to.
enum Verdict {
    /// Go on; by Basic, or by NTLM now or earlier. The answer carries SPNEGO's last token.
    Known(Option<Vec<u8>>),
    /// Answer this.
    Answer(Response<Whole>),
}

impl Connection {
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Whole>, io::Error> {
        let (parts, body) = request.into_parts();
        if parts.uri.path() != "/wsman" {
            return Ok(plain(StatusCode::NOT_FOUND, "404 Not Found: this is a simulated host (Stillframe)"));
        }
        if parts.method != Method::POST {
            return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "405"));
        }
        let Ok(body) = Limited::new(body, REQUEST_BYTES_MAX).collect().await else {
            return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "request too large"));
        };
        let body = body.to_bytes();
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let is_sealed = sealed::is_sealed(&kind);
        if !self.tls && !is_sealed && !body.is_empty() {
            self.host.crimes.add(Rule::ClearBody, format!("{} bytes without TLS", body.len()));
            self.refused("a message in the clear");
            if is_basic(&parts.headers) {
                self.host.crimes.add(Rule::ClearPassword, "Basic without TLS");
            }
            return Ok(self.challenge("unencrypted traffic is disabled"));
        }
        let last = match self.authenticate(&parts.headers) {
            Verdict::Known(last) => last,
            Verdict::Answer(response) => return Ok(response),
        };
        let mut response = self.serve(body, is_sealed, &kind).await?;
        let last = last.map(|token| HeaderValue::from_str(&format!("Negotiate {}", BASE64.encode(token))));
        response.headers_mut().extend(last.and_then(Result::ok).map(|value| (WWW_AUTHENTICATE, value)));
        Ok(response)
    }

    /// Answers somebody who is known.
    async fn serve(&self, body: Bytes, is_sealed: bool, kind: &str) -> Result<Response<Whole>, io::Error> {
        if body.is_empty() {
            return Ok(plain(StatusCode::OK, ""));
        }
        let message = if is_sealed {
            match self.open(&body) {
                Ok(message) => message,
                Err(reason) => {
                    self.host.crimes.add(Rule::BrokenSeal, reason);
                    self.refused(reason);
                    *self.peer.lock() = Peer::Nobody;
                    return Ok(self.challenge(reason));
                }
            }
        } else if kind.to_ascii_lowercase().starts_with("application/soap+xml") {
            body.to_vec()
        } else {
            return Ok(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type is not application/soap+xml"));
        };
        self.answer(message, is_sealed).await
    }

    async fn answer(&self, message: Vec<u8>, is_sealed: bool) -> Result<Response<Whole>, io::Error> {
        let host = Arc::clone(&self.host);
        let answered = engine::answer(&host, message, is_sealed).await;
        let (status, text, cut) = match answered {
            Answered::Message(status, text) => (status, text, None),
            Answered::Truncated(text, after) => (StatusCode::OK.as_u16(), text, Some(after)),
            Answered::Dropped => return Err(dropped()),
            Answered::Status(status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                return Ok(plain(status, "injected"));
            }
            Answered::Expired => {
                *self.peer.lock() = Peer::Nobody;
                return Ok(self.challenge("the session has expired"));
            }
        };
        let (body, kind) = match &mut *self.peer.lock() {
            Peer::Known(session, used) if is_sealed => {
                *used = Instant::now();
                (sealed::seal(session, text.into_bytes()), sealed::CONTENT_TYPE)
            }
            _ => (text.into_bytes(), SOAP_TYPE),
        };
        let body = Whole::new(body);
        let mut response = Response::new(match cut {
            Some(after) => body.broken_off(after),
            None => body,
        });
        if let Some(length) = response.body().promise() {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }

    fn open(&self, body: &[u8]) -> Result<Vec<u8>, &'static str> {
        match &mut *self.peer.lock() {
            Peer::Known(session, _) if session.seals => sealed::open(session, body),
            _ => Err("no session that seals"),
        }
    }

    fn refused(&self, reason: &str) {
        self.host.log.add(RequestRecord {
            what: "?".to_owned(),
            subject: String::new(),
            status: StatusCode::UNAUTHORIZED.as_u16(),
            fault: Some(reason.to_owned()),
            sealed: false,
        });
    }

    /// 401 with what this door takes.
    fn challenge(&self, reason: &str) -> Response<Whole> {
        let mut response = plain(StatusCode::UNAUTHORIZED, reason);
        response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static("Negotiate"));
        if self.tls {
            response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"WSMAN\""));
        }
        response
    }

    fn deny(&self, reason: &str) -> Verdict {
        self.refused(reason);
        *self.peer.lock() = Peer::Nobody;
        Verdict::Answer(self.challenge("access denied"))
    }

    fn authenticate(&self, headers: &HeaderMap) -> Verdict {
        let Some(value) = headers.get(AUTHORIZATION) else { return self.known_already() };
        let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).unwrap_or_default();
        let token = BASE64.decode(token.trim()).ok().filter(|token| token.len() <= TOKEN_BYTES_MAX);
        let Some(token) = token else { return self.deny("an authorization that cannot be read") };
        match scheme.to_ascii_lowercase().as_str() {
            "basic" if self.tls => self.basic(&token),
            "basic" => {
                self.host.crimes.add(Rule::ClearPassword, "Basic without TLS");
                self.deny("a password in the clear")
            }
            "negotiate" => self.negotiate(&token),
            _ => self.deny("an unknown authentication scheme"),
        }
    }

    fn known_already(&self) -> Verdict {
        let mut peer = self.peer.lock();
        match &mut *peer {
            Peer::Known(_, used) if used.elapsed() < self.host.config.limits.session_idle => {
                *used = Instant::now();
                Verdict::Known(None)
            }
            _ => {
                *peer = Peer::Nobody;
                drop(peer);
                self.refused("not authenticated");
                Verdict::Answer(self.challenge("authentication is required"))
            }
        }
    }

    fn basic(&self, token: &[u8]) -> Verdict {
        let config = &self.host.config;
        let known =
            std::str::from_utf8(token).ok().and_then(|text| text.split_once(':')).is_some_and(|(user, password)| {
                let user = user.rsplit('\\').next().unwrap_or(user);
                user.eq_ignore_ascii_case(&config.account) && password == config.password
            });
        if known { Verdict::Known(None) } else { self.deny("wrong account or password") }
    }

    fn negotiate(&self, token: &[u8]) -> Verdict {
        let config = &self.host.config;
        let acceptor = Acceptor {
            account: &config.account,
            password: &config.password,
            computer: &config.name,
            certificate_sha256: self.tls.then_some(self.host.identity.sha256),
        };
        let begun = std::mem::replace(&mut *self.peer.lock(), Peer::Nobody);
        let Peer::Challenged(begun, mechanisms) = begun else { return self.begin(&acceptor, token) };
        let opened = match &mechanisms {
            None => Some((token.to_vec(), None)),
            Some(_) => spnego::open_response(token),
        };
        let Some((message, mic)) = opened else { return self.deny("not a token of SPNEGO") };
        let mut session = match acceptor.authenticate(&begun, &message) {
            Ok(session) if self.tls || session.seals => session,
            Ok(_) => return self.deny("the client does not seal"),
            Err(reason) => return self.deny(reason),
        };
        let mut last = None;
        if let Some(list) = &mechanisms {
            let signed = mic.as_deref().map(|mic| session.sign_mechanisms(list, mic));
            if signed == Some(None) {
                return self.deny("the list of mechanisms was changed on its way");
            }
            last = Some(spnego::accepted(signed.flatten()));
        }
        *self.peer.lock() = Peer::Known(Box::new(session), Instant::now());
        Verdict::Known(last)
    }

    fn begin(&self, acceptor: &Acceptor<'_>, token: &[u8]) -> Verdict {
        // A random UUID has its fixed bits in the middle; its first eight bytes are good enough for a simulated host.
        let (random, _) = Uuid::new_v4().as_u64_pair();
        let (mechanisms, message) = match spnego::open_init(token) {
            Some((mechanisms, message)) => (Some(mechanisms), message),
            None => (None, token.to_vec()),
        };
        match acceptor.challenge(&message, random.to_be_bytes(), now().as_second()) {
            Ok((begun, challenge)) => {
                let challenge = if mechanisms.is_some() { spnego::challenge(&challenge) } else { challenge };
                *self.peer.lock() = Peer::Challenged(begun, mechanisms);
                let mut response = plain(StatusCode::UNAUTHORIZED, "");
                let value = HeaderValue::from_str(&format!("Negotiate {}", BASE64.encode(challenge)));
                response.headers_mut().extend(value.ok().map(|value| (WWW_AUTHENTICATE, value)));
                Verdict::Answer(response)
            }
            Err(reason) => self.deny(reason),
        }
    }
}
