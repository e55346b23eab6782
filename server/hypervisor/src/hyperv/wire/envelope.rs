//! Requests and answers: the envelope, and what a call can end in.

use super::fault::Fault;
use super::xml::{Node, Xml, parse};
use crate::{ErrorKind, HostError};
use std::time::Duration;
use uuid::Uuid;

const ENVELOPE: &str = concat!(
    "s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"",
    " xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\"",
    " xmlns:n=\"http://schemas.xmlsoap.org/ws/2004/09/enumeration\"",
    " xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\"",
);
/// The address that means "this connection", and "wherever you are".
pub(in crate::hyperv) const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";
/// What Windows sends at most by default; larger answers are read all the same.
const MAX_ENVELOPE_BYTES: u32 = 512_000;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::hyperv) struct Request {
    /// URI of the operation.
    pub action: String,
    /// URI of the class, or of the namespace for a query.
    pub resource: String,
    pub selectors: Vec<(String, String)>,
    /// The body's element; empty for `Get`.
    pub body: String,
    /// It changes nothing and may be sent again.
    pub is_read: bool,
}

impl Request {
    /// The last word of the action, for errors.
    pub(in crate::hyperv) fn name(&self) -> &str {
        self.action.rsplit_once('/').map_or(&self.action, |(_, name)| name)
    }

    /// The whole document.
    pub(super) fn envelope(&self, to: &str, timeout: Duration) -> String {
        let mut xml = Xml::default();
        xml.group(ENVELOPE, |envelope| {
            envelope.group("s:Header", |header| self.header(header, to, timeout));
            if self.body.is_empty() {
                envelope.empty("s:Body");
            } else {
                envelope.group("s:Body", |body| {
                    body.raw(&self.body);
                });
            }
        });
        xml.into_string()
    }

    fn header(&self, header: &mut Xml, to: &str, timeout: Duration) {
        header.text("a:To", to);
        header.text("w:ResourceURI s:mustUnderstand=\"true\"", &self.resource);
        header.group("a:ReplyTo", |reply| {
            reply.text("a:Address s:mustUnderstand=\"true\"", ANONYMOUS);
        });
        header.text("a:Action s:mustUnderstand=\"true\"", &self.action);
        header.text("w:MaxEnvelopeSize s:mustUnderstand=\"true\"", MAX_ENVELOPE_BYTES);
        header.text("a:MessageID", format_args!("uuid:{}", Uuid::new_v4().hyphenated().to_string().to_uppercase()));
        header.text("w:OperationTimeout", format_args!("PT{}S", timeout.as_secs().max(1)));
        if !self.selectors.is_empty() {
            header.group("w:SelectorSet", |set| write_selectors(set, &self.selectors));
        }
    }
}

pub(in crate::hyperv) fn write_selectors(xml: &mut Xml, selectors: &[(String, String)]) {
    for (name, value) in selectors {
        xml.attributed("w:Selector", ("Name", name), value);
    }
}

/// How a call ended, if not well.
#[derive(Debug)]
pub(in crate::hyperv) enum CallError {
    /// The host understood and refused.
    Fault(Fault),
    /// It did not come so far.
    Host(HostError),
}

impl CallError {
    pub(in crate::hyperv) fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            Self::Host(_) => None,
        }
    }

    pub(in crate::hyperv) fn is_any_fault(&self, names: &[&str]) -> bool {
        self.fault().is_some_and(|fault| fault.is_any(names))
    }

    pub(in crate::hyperv) fn is_not_found(&self) -> bool {
        self.fault().is_some_and(Fault::is_not_found)
    }

    /// The connection broke after the request may have been received: the host may or may not have done it.
    pub(in crate::hyperv) fn is_lost(&self) -> bool {
        matches!(self, Self::Host(error) if matches!(error.kind, ErrorKind::Interrupted | ErrorKind::Timeout | ErrorKind::Unreachable))
    }

    /// Likely to pass by itself.
    pub(in crate::hyperv) fn is_passing(&self) -> bool {
        match self {
            Self::Fault(fault) => {
                fault.is_any(&["QuotaLimit", "TimedOut", "Concurrency", "EndpointUnavailable", "32774", "32775"])
            }
            Self::Host(error) => error.kind.is_transient() && error.code != "hyperv.job_timeout",
        }
    }

    /// As an error of this crate, saying what was tried.
    pub(in crate::hyperv) fn during(self, host: &str, attempt: impl Into<String>) -> HostError {
        match self {
            Self::Fault(fault) => fault.into_error(host, attempt),
            Self::Host(error) => HostError { attempt: attempt.into(), ..error },
        }
    }

    /// What the host said, or what went wrong.
    pub(in crate::hyperv) fn reason(&self) -> String {
        match self {
            Self::Fault(fault) => fault.reason(),
            Self::Host(error) => error.reason.clone(),
        }
    }
}

impl From<HostError> for CallError {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

impl From<Fault> for CallError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The body's element of an answer (an empty node when there is none), or its fault. `Err(text)` says what is wrong
/// with the document.
pub(super) fn read_answer(document: &str) -> Result<Result<Node, Fault>, String> {
    let mut envelope = parse(document).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("the answer cannot be read: {error}{cause}")
    })?;
    let body = envelope.children.iter_mut().find(|child| child.name == "Body").ok_or("the answer has no SOAP body")?;
    let content = body.children.drain(..).next().unwrap_or_default();
    if content.name == "Fault" { Ok(Err(Fault::from_soap(&content))) } else { Ok(Ok(content)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_all_that_windows_asks_for() {
        let request = Request {
            action: "urn:x/Get".into(),
            resource: "urn:c".into(),
            selectors: vec![("Name".into(), "a<b\"".into())],
            ..Request::default()
        };
        let text = request.envelope("http://h:5985/wsman", Duration::from_secs(60));
        let envelope = parse(&text).unwrap();
        let header = envelope.child("Header").unwrap();
        let names: Vec<&str> = header.children.iter().map(|child| child.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "To",
                "ResourceURI",
                "ReplyTo",
                "Action",
                "MaxEnvelopeSize",
                "MessageID",
                "OperationTimeout",
                "SelectorSet"
            ]
        );
        assert_eq!(header.text_at(&["OperationTimeout"]), Some("PT60S"));
        assert_eq!(header.at(&["ReplyTo", "Address"]).unwrap().attribute("mustUnderstand"), Some("true"));
        let selector = header.at(&["SelectorSet", "Selector"]).unwrap();
        assert_eq!((selector.attribute("Name"), selector.text.as_str()), (Some("Name"), "a<b\""));
        assert!(text.contains("<s:Body/>"));
        assert_ne!(text, request.envelope("http://h:5985/wsman", Duration::from_secs(60)), "message ids are unique");
    }

    #[test]
    fn answers_and_faults_are_told_apart() {
        let ok = "<e:Envelope xmlns:e='x'><e:Body><p:A_OUTPUT xmlns:p='y'/></e:Body></e:Envelope>";
        assert_eq!(read_answer(ok).unwrap().unwrap().name, "A_OUTPUT");
        let empty = "<e:Envelope xmlns:e='x'><e:Body/></e:Envelope>";
        assert_eq!(read_answer(empty).unwrap().unwrap(), Node::default());
        let fault = "<Envelope><Body><Fault/></Body></Envelope>";
        assert!(read_answer(fault).unwrap().is_err());
        for broken in ["<Envelope/>", "<html>", "no xml"] {
            assert!(read_answer(broken).is_err(), "{broken}");
        }
    }
}
