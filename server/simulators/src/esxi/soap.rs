//! SOAP: the envelope, the checks every call goes through, and the form of answers and faults.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use super::config::License;
use super::fault::SoapFault;
use super::host::Host;
use super::inject::Action;
use super::methods;
use super::schema::{SCHEMA, VIM, Version};
use super::session::{Door, SessionView};
use super::value::Value;
use crate::xml::{self, Node};

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// Methods that need no session.
const OPEN_METHODS: [&str; 2] = ["RetrieveServiceContent", "Login"];

/// A request as it came.
pub(crate) struct Envelope {
    pub action: Option<String>,
    pub content_type: Option<String>,
    pub cookie: Option<String>,
    pub body: Bytes,
}

/// A parsed call.
pub(crate) struct Parsed {
    pub node: Node,
    pub version: Version,
}

/// A call on its way to its method.
pub(crate) struct Call<'a> {
    pub host: &'a Arc<Host>,
    pub node: &'a Node,
    pub session: Option<SessionView>,
    pub version: Version,
    pub injected: Option<Action>,
}

/// What a method answers.
#[derive(Default)]
pub(crate) struct Reply {
    pub value: Option<Value>,
    /// Declared type of the answer, where it matters for `xsi:type`.
    pub declared: &'static str,
    pub set_cookie: Option<String>,
}

impl Reply {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn of(value: impl Into<Value>) -> Self {
        let value = value.into();
        Self { value: Some(value), ..Self::default() }
    }
}

/// An answer on its way out.
pub(crate) struct Answered {
    pub status: u16,
    pub body: String,
    pub set_cookie: Option<String>,
    pub fault: Option<String>,
}

/// Opens the envelope: action, content type, version, one call in the body.
pub(crate) fn open(envelope: &Envelope) -> Result<Parsed, SoapFault> {
    let Some(action) = &envelope.action else {
        return Err(SoapFault::invalid_request("the SOAPAction header is missing"));
    };
    let action = action.trim().trim_matches('"');
    let version = match action.strip_prefix(VIM) {
        Some("") => Some(Version::V6_0),
        Some(rest) => rest.strip_prefix('/').and_then(Version::parse),
        None => None,
    };
    let Some(version) = version else {
        return Err(SoapFault::invalid_request(format!("Unsupported version URI \"{action}\"")));
    };
    if !envelope.content_type.as_deref().is_some_and(|kind| kind.trim_start().starts_with("text/xml")) {
        return Err(SoapFault::invalid_request("the content type must be text/xml"));
    }
    let text =
        std::str::from_utf8(&envelope.body).map_err(|_| SoapFault::invalid_request("the request is not UTF-8"))?;
    let root = xml::parse(text).map_err(SoapFault::invalid_request)?;
    let body = root.children.into_iter().find(|node| node.ns == ENVELOPE && node.name == "Body");
    let call = body.filter(|_| root.ns == ENVELOPE && root.name == "Envelope").map(|body| body.children);
    match call.and_then(|mut calls| if calls.len() == 1 { calls.pop() } else { None }) {
        Some(node) if node.ns == VIM => Ok(Parsed { node, version }),
        _ => Err(SoapFault::invalid_request(format!("the body must hold one call in the namespace {VIM}"))),
    }
}

/// Carries a call out and writes the answer.
pub(crate) fn answer(
    host: &Arc<Host>,
    parsed: Result<Parsed, SoapFault>,
    envelope: &Envelope,
    injected: Option<Action>,
) -> Answered {
    let version = parsed.as_ref().map_or(Version::V6_0, |parsed| parsed.version);
    let name = parsed.as_ref().map_or("Unknown", |parsed| parsed.node.name.as_str()).to_owned();
    let session = host.sessions.of_cookie(envelope.cookie.as_deref(), Door::Soap);
    let result = parsed.and_then(|parsed| {
        let Parsed { node, version } = parsed;
        dispatch(&Call { host, node: &node, session, version, injected })
    });
    let mut body = String::from(concat!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
        "<soapenv:Envelope xmlns:soapenc=\"http://schemas.xmlsoap.org/soap/encoding/\"",
        " xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\"",
        " xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n<soapenv:Body>\n"
    ));
    let (status, set_cookie, fault) = match result {
        Ok(reply) => {
            let _ = write!(body, "<{name}Response xmlns=\"urn:vim25\">");
            if let Some(value) = &reply.value {
                let declared = match (reply.declared, value) {
                    ("", Value::Object(object)) => object.kind.clone(),
                    ("", Value::List(kind, _)) => (*kind).to_owned(),
                    (declared, _) => declared.to_owned(),
                };
                value.write_return(&mut body, &declared, version);
            }
            let _ = write!(body, "</{name}Response>");
            (200, reply.set_cookie, None)
        }
        Err(fault) if fault.kind() == methods::TOO_MANY_SESSIONS => {
            return Answered { status: 503, body: fault.message, set_cookie: None, fault: Some(fault.detail.kind) };
        }
        Err(fault) => {
            fault.write(&mut body, version);
            (500, None, Some(format!("{}: {}", fault.kind(), fault.message)))
        }
    };
    body.push_str("\n</soapenv:Body>\n</soapenv:Envelope>\n");
    Answered { status, body, set_cookie, fault }
}

fn dispatch(call: &Call<'_>) -> Result<Reply, SoapFault> {
    let newest = Version::parse(&call.host.config.api_version).unwrap_or(Version::V6_0);
    if call.version > newest {
        return Err(SoapFault::invalid_request("Unsupported version URI: newer than this host"));
    }
    SCHEMA.check_call(call.node, call.version)?;
    let name = call.node.name.as_str();
    if call.session.is_none() && !OPEN_METHODS.contains(&name) {
        return Err(SoapFault::not_authenticated());
    }
    if let Some(Action::SoapFault { name, message }) = &call.injected {
        return Err(SoapFault::new(name.clone(), message.clone()));
    }
    if call.host.config.license == License::Free && methods::changes_something(name) {
        return Err(SoapFault::restricted());
    }
    methods::call(call)
}
