//! The SOAP session: login, cookie, keep-alive, logout, and one new login when the host forgot us.

use super::soap::{CallError, Request, read_answer};
use super::transport::{Address, Timeouts, client, read_body, status_error};
use super::xml::{MoRef, Node};
use crate::tls::Pin;
use crate::{ErrorKind, HostError, Result};
use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;

/// API versions this driver models, newest first, as they are written in a `SOAPAction`.
const MODELLED_VERSIONS: [((u32, u32), &str); 4] = [((7, 0), "7.0"), ((6, 7), "6.7"), ((6, 5), "6.5"), ((6, 0), "6.0")];
/// Before the host has said which version it is.
const OLDEST_VERSION: &str = "6.0";
const COOKIE_NAME: &str = "vmware_soap_session";
const MAX_COOKIE_CHARS: usize = 4096;
/// A session ends after some 30 idle minutes.
const KEEP_ALIVE_SECONDS: u64 = 8 * 60;
/// Tries of a call that may be repeated without harm.
const MAX_READ_TRIES: u32 = 4;

/// Calls methods of a host. The session does; tests script it.
#[async_trait]
pub(super) trait Vim: Send + Sync {
    /// Name of the host in errors.
    fn host(&self) -> &str;

    fn content(&self) -> &ServiceContent;

    fn timeouts(&self) -> &Timeouts;

    /// Calls once (twice when the session had expired). Returns the `…Response` element.
    async fn call(&self, request: Request) -> std::result::Result<Node, CallError>;

    /// Calls until an answer comes, a few times. Only for methods that change nothing.
    async fn read(&self, request: Request) -> std::result::Result<Node, CallError>;
}

/// What the host says about itself and where its managers are.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceContent {
    pub product: String,
    pub api_version: String,
    pub api_type: String,
    pub build: String,
    managers: Vec<(String, MoRef)>,
}

impl ServiceContent {
    pub(super) fn from_node(node: &Node) -> Self {
        let about = |name| node.text_at(&["about", name]).unwrap_or_default().to_owned();
        let managers = node.children.iter().filter_map(|child| Some((child.name.clone(), child.reference()?)));
        Self {
            product: about("fullName"),
            api_version: about("apiVersion"),
            api_type: about("apiType"),
            build: about("build"),
            managers: managers.collect(),
        }
    }

    /// A manager by its property, e.g. `propertyCollector`.
    pub(super) fn manager(&self, host: &str, name: &str) -> Result<MoRef> {
        let found = self.managers.iter().find(|(property, _)| property == name).map(|(_, manager)| manager.clone());
        found.ok_or_else(|| HostError {
            kind: ErrorKind::Unsupported,
            code: "esxi.not_supported",
            host: host.to_owned(),
            attempt: format!("find its {name}"),
            reason: "the host does not have one".into(),
            hint: "Check that the address is the one of an ESXi host.".into(),
            source: None,
        })
    }

    /// API version as (major, minor); zeros when it is unreadable.
    pub(super) fn version(&self) -> (u32, u32) {
        let mut parts = self.api_version.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}

#[derive(Default)]
struct Cookie {
    /// `vmware_soap_session=…`, exactly as received.
    value: Option<HeaderValue>,
    /// Counts logins, so that of many calls that find the session gone only one logs in.
    generation: u64,
}

/// A logged-in session.
pub(super) struct Session {
    pub address: Address,
    pub client: Client,
    pub account: String,
    pub password: SecretString,
    pub timeouts: Timeouts,
    name: String,
    content: ServiceContent,
    action: HeaderValue,
    cookie: Mutex<Cookie>,
    login: tokio::sync::Mutex<()>,
    keep_alive: Mutex<Option<JoinHandle<()>>>,
}

impl Session {
    /// Asks the host what it is, and logs in.
    pub(super) async fn open(
        address: Address,
        pin: Pin,
        account: String,
        password: SecretString,
        timeouts: Timeouts,
    ) -> Result<Arc<Self>> {
        let mut session = Self {
            client: client(pin, &timeouts, &address)?,
            name: address.name(),
            address,
            account,
            password,
            timeouts,
            content: ServiceContent::default(),
            action: action(OLDEST_VERSION),
            cookie: Mutex::default(),
            login: tokio::sync::Mutex::default(),
            keep_alive: Mutex::default(),
        };
        session.content = session.identify().await?;
        let version = session.content.version();
        let Some((_, newest)) = MODELLED_VERSIONS.iter().find(|(modelled, _)| *modelled <= version) else {
            let reason = format!("it speaks vSphere API {}, older than 6.0", session.content.api_version);
            return Err(session.address.error(ErrorKind::Unsupported, "esxi.too_old", "connect", reason));
        };
        session.action = action(newest);
        session.log_in().await.map_err(|error| error.during(&session.name, "log in"))?;
        let session = Arc::new(session);
        session.keep_alive(Duration::from_secs(KEEP_ALIVE_SECONDS));
        Ok(session)
    }

    /// Ends the session on the host. Hosts have few.
    pub(super) async fn close(&self) {
        if let Some(task) = self.keep_alive.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        if let Ok(manager) = self.content.manager(&self.name, "sessionManager")
            && self.cookie().0.is_some()
        {
            let _ = self.post(&Request::new("Logout", &manager, |_| {})).await;
            self.cookie.lock().unwrap_or_else(PoisonError::into_inner).value = None;
        }
    }

    async fn identify(&self) -> Result<ServiceContent> {
        let instance = MoRef::new("ServiceInstance", "ServiceInstance");
        let request = Request::new("RetrieveServiceContent", &instance, |_| {});
        let answer = self.post(&request).await.map_err(|error| error.during(&self.name, "connect"))?;
        let content = answer.child("returnval").map(ServiceContent::from_node).unwrap_or_default();
        match content.api_type.as_str() {
            "HostAgent" => Ok(content),
            "VirtualCenter" => Err(HostError {
                hint: "Add the ESXi hosts themselves, each by its own address.".into(),
                ..self.address.error(ErrorKind::Unsupported, "esxi.vcenter", "connect", "this is a vCenter")
            }),
            _ => Err(HostError {
                hint: "Check that address and port are those of an ESXi host's web client.".into(),
                ..self.address.error(ErrorKind::Unsupported, "esxi.not_esxi", "connect", "this is no ESXi host")
            }),
        }
    }

    async fn log_in(&self) -> std::result::Result<(), CallError> {
        let manager = self.content.manager(&self.name, "sessionManager")?;
        self.cookie.lock().unwrap_or_else(PoisonError::into_inner).value = None;
        let request = Request::new("Login", &manager, |xml| {
            xml.text("userName", &self.account).text("password", self.password.expose_secret());
        });
        self.post(&request).await?;
        let mut cookie = self.cookie.lock().unwrap_or_else(PoisonError::into_inner);
        if cookie.value.is_none() {
            let reason = "it accepted the login but gave no session";
            return Err(self.address.error(ErrorKind::Protocol, "esxi.no_session", "log in", reason).into());
        }
        cookie.generation += 1;
        Ok(())
    }

    /// Logs in unless another call did so since `generation`.
    async fn log_in_again(&self, generation: u64) -> std::result::Result<(), CallError> {
        let _one = self.login.lock().await;
        if self.cookie().1 != generation {
            return Ok(());
        }
        tracing::info!(host = self.name, "the host ended the session; logging in again");
        self.log_in().await
    }

    fn cookie(&self) -> (Option<HeaderValue>, u64) {
        let cookie = self.cookie.lock().unwrap_or_else(PoisonError::into_inner);
        (cookie.value.clone(), cookie.generation)
    }

    async fn post(&self, request: &Request) -> std::result::Result<Node, CallError> {
        let mut post = self.client.post(self.address.url(&["sdk"])?).timeout(self.timeouts.call);
        post = post.header(CONTENT_TYPE, "text/xml; charset=utf-8").header("SOAPAction", self.action.clone());
        if let Some(cookie) = self.cookie().0 {
            post = post.header(COOKIE, cookie);
        }
        let sent = post.body(request.envelope()).send().await;
        let answer = sent.map_err(|error| self.address.transport_error(request.method, error))?;
        let status = answer.status();
        if let Some(value) = session_cookie(answer.headers()) {
            self.cookie.lock().unwrap_or_else(PoisonError::into_inner).value = Some(value);
        }
        // A fault comes as status 500 with a SOAP body: the body says more than the status.
        let body = read_body(&self.address, request.method, answer).await?;
        match read_answer(&body) {
            Ok(Ok(node)) if status.is_success() => Ok(node),
            Ok(Err(fault)) => Err(CallError::Fault(fault)),
            Ok(Ok(_)) => Err(status_error(&self.address, request.method, status).into()),
            Err(_) if status != StatusCode::OK => Err(status_error(&self.address, request.method, status).into()),
            Err(reason) => {
                Err(self.address.error(ErrorKind::Protocol, "esxi.bad_answer", request.method, reason).into())
            }
        }
    }

    /// Touches the session now and then, for as long as someone holds it.
    fn keep_alive(self: &Arc<Self>, every: Duration) {
        let weak: Weak<Self> = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(session) = weak.upgrade() else { return };
                let instance = MoRef::new("ServiceInstance", "ServiceInstance");
                let _ = session.call(Request::new("CurrentTime", &instance, |_| {})).await;
            }
        });
        *self.keep_alive.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(task) = self.keep_alive.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

#[async_trait]
impl Vim for Session {
    fn host(&self) -> &str {
        &self.name
    }

    fn content(&self) -> &ServiceContent {
        &self.content
    }

    fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    async fn call(&self, request: Request) -> std::result::Result<Node, CallError> {
        let generation = self.cookie().1;
        match self.post(&request).await {
            Err(error) if error.is_fault("NotAuthenticated") => {
                self.log_in_again(generation).await?;
                self.post(&request).await
            }
            other => other,
        }
    }

    async fn read(&self, request: Request) -> std::result::Result<Node, CallError> {
        let mut pause = self.timeouts.back_off;
        for _ in 1..MAX_READ_TRIES {
            let generation = self.cookie().1;
            match self.post(&request).await {
                Err(error) if error.is_fault("NotAuthenticated") => self.log_in_again(generation).await?,
                Err(CallError::Host(error)) if error.kind.is_transient() => {
                    tracing::debug!(host = self.name, method = request.method, %error, "trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
        self.post(&request).await
    }
}

fn action(version: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("\"urn:vim25/{version}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("urn:vim25/6.0"))
}

/// Name and value of the session cookie, exactly as received: some hosts quote the value, some do not.
fn session_cookie(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get_all(SET_COOKIE).iter().find_map(|header| {
        let pair = header.to_str().ok()?.split(';').next()?.trim();
        let (name, value) = pair.split_once('=')?;
        if name != COOKIE_NAME || value.is_empty() || pair.len() > MAX_COOKIE_CHARS {
            return None;
        }
        let mut value = HeaderValue::from_str(pair).ok()?;
        value.set_sensitive(true);
        Some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_kept_as_received() {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("other=1"));
        headers
            .append(SET_COOKIE, HeaderValue::from_static("vmware_soap_session=\"5290-ab\"; Path=/; HttpOnly; Secure"));
        assert_eq!(session_cookie(&headers).unwrap(), "vmware_soap_session=\"5290-ab\"");
        assert!(!format!("{:?}", session_cookie(&headers)).contains("5290"));
    }

    #[test]
    fn the_newest_modelled_version_is_asked_for() {
        let pick = |version: (u32, u32)| MODELLED_VERSIONS.iter().find(|(m, _)| *m <= version).map(|(_, name)| *name);
        assert_eq!(pick((8, 0)), Some("7.0"));
        assert_eq!(pick((6, 7)), Some("6.7"));
        assert_eq!(pick((6, 0)), Some("6.0"));
        assert_eq!(pick((5, 5)), None);
        assert_eq!(action("6.0"), "\"urn:vim25/6.0\"");
    }
}
