//! SOAP requests and answers: the envelope, and what a call can end in.

use super::fault::Fault;
use super::xml::{MoRef, Node, Xml, parse};
use crate::{ErrorKind, HostError};

const ENVELOPE_BEGIN: &str = concat!(
    r#"<?xml version="1.0" encoding="UTF-8"?>"#,
    r#"<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" "#,
    r#"xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">"#,
    "<soapenv:Body>"
);
const ENVELOPE_END: &str = "</soapenv:Body></soapenv:Envelope>";

/// A method with its arguments. Has no `Debug`: a login holds a password.
pub(super) struct Request {
    pub method: &'static str,
    body: String,
}

impl Request {
    /// A call of `method` on `this`; `arguments` in the schema's order.
    pub(super) fn new(method: &'static str, this: &MoRef, arguments: impl FnOnce(&mut Xml)) -> Self {
        let mut xml = Xml::default();
        xml.reference("_this", this);
        arguments(&mut xml);
        Self { method, body: xml.into_string() }
    }

    /// The call's own element.
    pub(super) fn element(&self) -> String {
        let Self { method, body } = self;
        format!("<{method} xmlns=\"urn:vim25\">{body}</{method}>")
    }

    /// The whole document.
    pub(super) fn envelope(&self) -> String {
        format!("{ENVELOPE_BEGIN}{}{ENVELOPE_END}", self.element())
    }
}

/// How a call ended, if not well.
#[derive(Debug)]
pub(super) enum CallError {
    /// The host understood and refused.
    Fault(Fault),
    /// It did not come so far.
    Host(HostError),
}

impl CallError {
    pub(super) fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            Self::Host(_) => None,
        }
    }

    /// A fault of that name.
    pub(super) fn is_fault(&self, name: &str) -> bool {
        self.fault().is_some_and(|fault| fault.name == name)
    }

    /// The connection broke after the request may have been received: the host may or may not have done it.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Host(error) if matches!(error.kind, ErrorKind::Interrupted | ErrorKind::Timeout | ErrorKind::Unreachable))
    }

    /// As an error of this crate, saying what was tried.
    pub(super) fn during(self, host: &str, attempt: impl Into<String>) -> HostError {
        match self {
            Self::Fault(fault) => fault.into_error(host, attempt),
            Self::Host(error) => HostError { attempt: attempt.into(), ..error },
        }
    }
}

impl From<HostError> for CallError {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

/// The `…Response` element of an answer, or its fault. `Err(text)` says what is wrong with the document.
pub(super) fn read_answer(document: &str) -> Result<Result<Node, Fault>, String> {
    let mut envelope = parse(document).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("the answer cannot be read: {error}{cause}")
    })?;
    let body = envelope.children.iter_mut().find(|child| child.name == "Body").ok_or("the answer has no SOAP body")?;
    let content = body.children.drain(..).next().ok_or("the SOAP body is empty")?;
    if content.name == "Fault" { Ok(Err(Fault::from_soap(&content))) } else { Ok(Ok(content)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_holds_the_call() {
        let request = Request::new("Logout", &MoRef::new("SessionManager", "ha-sessionmgr"), |_| {});
        assert_eq!(
            request.element(),
            r#"<Logout xmlns="urn:vim25"><_this type="SessionManager">ha-sessionmgr</_this></Logout>"#
        );
        let parsed = parse(&request.envelope()).unwrap();
        assert_eq!(parsed.at(&["Body", "Logout"]).unwrap().child("_this").unwrap().text, "ha-sessionmgr");
    }

    #[test]
    fn answers_and_faults_are_told_apart() {
        let ok = "<e:Envelope xmlns:e='x'><e:Body><LoginResponse><returnval/></LoginResponse></e:Body></e:Envelope>";
        assert_eq!(read_answer(ok).unwrap().unwrap().name, "LoginResponse");
        for broken in ["<Envelope/>", "<Envelope><Body/></Envelope>", "<html>", "no xml"] {
            assert!(read_answer(broken).is_err(), "{broken}");
        }
    }
}
