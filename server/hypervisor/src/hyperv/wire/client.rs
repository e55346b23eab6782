//! Requests of many callers over a few logged-in connections.

use super::connection::{Connection, Login, SendError};
use super::endpoint::{Endpoint, Timeouts};
use super::envelope::{CallError, Request, read_answer};
use super::xml::Node;
use crate::{ErrorKind, HostError};
use async_trait::async_trait;
use hyper::StatusCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Connections at a time. Windows allows 25 per user in its oldest default.
const MAX_CONNECTIONS: usize = 6;
/// Tries of a request that changes nothing.
const MAX_READ_TRIES: u32 = 4;
/// Connections that turn out to be closed, in a row, before it counts as a failure.
const MAX_STALE: u32 = MAX_CONNECTIONS as u32 + 1;
/// What the host may take, as we ask for it; less than what we wait, so that its own fault comes first.
const HOST_MARGIN: Duration = Duration::from_secs(15);

/// Sends requests to a host. The client does; tests script it.
#[async_trait]
pub(in crate::hyperv) trait Wsman: Send + Sync {
    /// Name of the host in errors.
    fn host(&self) -> &str;

    fn timeouts(&self) -> &Timeouts;

    /// The element of the answer's body. Reads are tried again when the connection breaks; nothing else is.
    async fn send(&self, request: Request) -> Result<Node, CallError>;
}

/// A host and the connections to it.
pub(in crate::hyperv) struct Client {
    endpoint: Arc<Endpoint>,
    name: String,
    login: Login,
    timeouts: Timeouts,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
}

impl Client {
    pub(in crate::hyperv) fn new(endpoint: Endpoint, login: Login, timeouts: Timeouts) -> Self {
        Self {
            name: endpoint.name(),
            endpoint: Arc::new(endpoint),
            login,
            timeouts,
            idle: Mutex::default(),
            places: Semaphore::new(MAX_CONNECTIONS),
        }
    }

    /// Closes idle connections.
    pub(in crate::hyperv) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(Connection::is_usable);
        idle.pop()
    }

    async fn once(&self, request: &Request) -> Result<Node, CallError> {
        let Ok(_place) = self.places.acquire().await else {
            return Err(self.error(ErrorKind::Interrupted, "host.interrupted", request, "the client is closed").into());
        };
        let host_time = self.timeouts.call.saturating_sub(HOST_MARGIN).max(Duration::from_secs(1));
        let envelope = request.envelope(&self.endpoint.url(), host_time);
        let mut forgotten = false;
        for _ in 0..MAX_STALE {
            let taken = self.take_idle();
            let was_idle = taken.is_some();
            let mut connection = match taken {
                Some(connection) => connection,
                None => Connection::open(&self.endpoint, &self.login, &self.timeouts).await?,
            };
            match connection.exchange(&envelope, request.name(), self.timeouts.call).await {
                Ok((status, text)) => {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                    return self.read(request, status, &text);
                }
                Err(SendError::Failed(error)) => return Err(error.into()),
                // The host closed or forgot it while it was idle; it has not looked at the request.
                Err(SendError::Unsent | SendError::LoggedOut) if was_idle => {}
                Err(SendError::Unsent) => {
                    let reason = "the host closes new connections";
                    return Err(self.error(ErrorKind::Interrupted, "host.interrupted", request, reason).into());
                }
                // A host may forget a login at any moment, once.
                Err(SendError::LoggedOut) if !forgotten => forgotten = true,
                Err(SendError::LoggedOut) => {
                    let reason = "the host asks for a login again right after one";
                    return Err(self.endpoint.login_refused(reason).into());
                }
            }
        }
        Err(self.error(ErrorKind::Interrupted, "host.interrupted", request, "the host closes its connections").into())
    }

    /// A fault comes as status 500 with a SOAP body: the body says more than the status.
    fn read(&self, request: &Request, status: StatusCode, text: &str) -> Result<Node, CallError> {
        match read_answer(text) {
            Ok(Ok(node)) if status.is_success() => Ok(node),
            Ok(Err(fault)) => Err(CallError::Fault(fault)),
            Ok(Ok(_)) | Err(_) if !status.is_success() => Err(self.status_error(request, status).into()),
            Ok(Ok(node)) => Ok(node),
            Err(reason) => Err(self.error(ErrorKind::Protocol, "hyperv.bad_answer", request, reason).into()),
        }
    }

    fn status_error(&self, request: &Request, status: StatusCode) -> HostError {
        let (kind, code, hint) = match status {
            StatusCode::FORBIDDEN => (
                ErrorKind::Permission,
                "hyperv.no_permission",
                "Use an administrator of the host, and allow it remote management (WinRM).",
            ),
            StatusCode::NOT_FOUND => (
                ErrorKind::Unsupported,
                "hyperv.not_wsman",
                "Check the port: Windows' remote management (WinRM) listens on 5986 with TLS, on 5985 without.",
            ),
            status if status.is_server_error() => (
                ErrorKind::Busy,
                "hyperv.http_error",
                "Look at the host's event log under Windows Remote Management; restarting its WinRM service may help.",
            ),
            _ => {
                return self.error(ErrorKind::Protocol, "hyperv.http_status", request, format!("HTTP status {status}"));
            }
        };
        HostError { hint: hint.into(), ..self.error(kind, code, request, format!("HTTP status {status}")) }
    }

    fn error(&self, kind: ErrorKind, code: &'static str, request: &Request, reason: impl Into<String>) -> HostError {
        self.endpoint.error(kind, code, request.name(), reason)
    }
}

#[async_trait]
impl Wsman for Client {
    fn host(&self) -> &str {
        &self.name
    }

    fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    async fn send(&self, request: Request) -> Result<Node, CallError> {
        let mut pause = self.timeouts.back_off;
        for _ in 1..if request.is_read { MAX_READ_TRIES } else { 1 } {
            match self.once(&request).await {
                Err(CallError::Host(error)) if error.kind.is_transient() => {
                    tracing::debug!(host = self.name, request = request.name(), %error, "trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
        self.once(&request).await
    }
}
