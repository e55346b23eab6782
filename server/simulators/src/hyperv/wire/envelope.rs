//! Requests and answers: the SOAP envelope with its headers, read strictly.

use uuid::Uuid;

use super::fault::{Fault, code};
use super::names;
use crate::hyperv::crimes::Rule;
use crate::hyperv::model::schema::Namespace;
use crate::xml::{self, Node, escape_into};

/// Smallest envelope a client may ask for, DSP0226 R13.1-5.
const ENVELOPE_BYTES_MIN: usize = 8192;
/// Largest envelope this host writes (`MaxEnvelopeSizekb`).
const ENVELOPE_BYTES_MAX: usize = 512_000;
/// Selectors in a set.
const SELECTORS_MAX: usize = 16;
/// Headers this host understands.
const ADDRESSING_HEADERS: [&str; 5] = ["To", "Action", "MessageID", "ReplyTo", "FaultTo"];
const WSMAN_HEADERS: [&str; 7] =
    ["ResourceURI", "SelectorSet", "OptionSet", "MaxEnvelopeSize", "OperationTimeout", "Locale", "FragmentTransfer"];

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    pub action: String,
    pub message_id: String,
    pub resource: Resource,
    pub selectors: Vec<(String, String)>,
    pub envelope_bytes_max: usize,
    /// What is in the body.
    pub body: Option<Node>,
}

/// What a resource URI names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    pub uri: String,
    pub namespace: Namespace,
    /// A class, or `*`.
    pub class: String,
}

impl Resource {
    pub fn parse(uri: &str) -> Result<Self, Fault> {
        let bad = |why: &str| {
            let reason = format!("The WS-Management service cannot process the request. {why}: {uri}");
            Fault::new("a:DestinationUnreachable", code::INVALID_RESOURCE_URI, reason)
        };
        let path = uri.strip_prefix(names::WMI).ok_or_else(|| bad("The resource URI is not one of WMI"))?;
        let (namespace, class) = path.rsplit_once('/').ok_or_else(|| bad("The resource URI names no class"))?;
        let namespace = Namespace::parse(namespace).ok_or_else(|| bad("The CIM namespace is invalid"))?;
        Ok(Self { uri: uri.to_owned(), namespace, class: class.to_owned() })
    }
}

/// What a message is, as far as it must be known to answer it, even by a fault.
pub(crate) enum Message {
    Identify,
    Request(Box<Request>),
}

/// Reads a message. With the fault comes the id it relates to.
pub(crate) fn parse(text: &str) -> Result<Message, (String, Fault)> {
    let mut id = String::new();
    parse_into(text, &mut id).map_err(|fault| (id, fault))
}

fn parse_into(text: &str, id: &mut String) -> Result<Message, Fault> {
    let root = xml::parse(text).map_err(|error| {
        Fault::new("w:InvalidXml", code::INVALID_XML, format!("The XML is invalid: {error}")).breaks(Rule::Envelope)
    })?;
    if (root.ns.as_str(), root.name.as_str()) != (names::SOAP, "Envelope") {
        return Err(
            Fault::new("", code::INVALID_XML, "The namespace of the envelope is not SOAP 1.2's").breaks(Rule::Envelope)
        );
    }
    let mut parts = root.children.into_iter();
    let (header, body) = match (parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(body), None) if is(&header, "Header") && is(&body, "Body") => (header, body),
        _ => return Err(Fault::schema("An envelope has a header and a body.").breaks(Rule::Envelope)),
    };
    if body.children.len() > 1 {
        return Err(Fault::schema("The body has more than one child.").breaks(Rule::Envelope));
    }
    let content = body.children.into_iter().next();
    if content.as_ref().is_some_and(|node| node.ns == names::IDENTITY && node.name == "Identify") {
        return Ok(Message::Identify);
    }
    if let Some(found) = header.children.iter().find(|child| child.ns == names::ADDRESSING && child.name == "MessageID")
    {
        found.text.trim().clone_into(id);
    }
    request(&header, content, id).map(|request| Message::Request(Box::new(request)))
}

fn is(node: &Node, name: &str) -> bool {
    node.ns == names::SOAP && node.name == name
}

fn request(header: &Node, body: Option<Node>, id: &str) -> Result<Request, Fault> {
    check_known(header)?;
    let find = |ns: &str, name: &str| header.children.iter().find(|node| node.ns == ns && node.name == name);
    let text = |ns: &str, name: &'static str| {
        let node = find(ns, name).ok_or_else(|| Fault::header(name))?;
        Ok::<_, Fault>(node.text.trim().to_owned())
    };
    text(names::ADDRESSING, "To")?;
    let reply_to = find(names::ADDRESSING, "ReplyTo").ok_or_else(|| Fault::header("ReplyTo"))?;
    let address = reply_to.children.iter().find(|node| node.ns == names::ADDRESSING && node.name == "Address");
    if address.is_none_or(|node| node.text.trim() != names::ANONYMOUS) {
        return Err(Fault::schema("ReplyTo is not the anonymous address.").breaks(Rule::Envelope));
    }
    if !id.starts_with("uuid:") && !id.starts_with("urn:uuid:") {
        return Err(Fault::header("MessageID"));
    }
    let size = text(names::WSMAN, "MaxEnvelopeSize")?;
    let size: usize =
        size.parse().map_err(|_| Fault::schema("MaxEnvelopeSize is not a number.").breaks(Rule::Envelope))?;
    if size < ENVELOPE_BYTES_MIN {
        let reason = format!("MaxEnvelopeSize must be {ENVELOPE_BYTES_MIN} or more");
        return Err(Fault::new("w:EncodingLimit", code::ENVELOPE_SIZE, reason).breaks(Rule::Envelope));
    }
    if let Some(timeout) = find(names::WSMAN, "OperationTimeout") {
        check_duration(timeout.text.trim())?;
    }
    Ok(Request {
        action: text(names::ADDRESSING, "Action")?,
        message_id: id.to_owned(),
        resource: Resource::parse(&text(names::WSMAN, "ResourceURI")?)?,
        selectors: find(names::WSMAN, "SelectorSet").map_or(Ok(Vec::new()), selectors)?,
        envelope_bytes_max: size.min(ENVELOPE_BYTES_MAX),
        body,
    })
}

/// Headers in the namespaces of this host must be known; others may be ignored unless they say otherwise.
fn check_known(header: &Node) -> Result<(), Fault> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for node in &header.children {
        let (ns, name) = (node.ns.as_str(), node.name.as_str());
        let known = match ns {
            names::ADDRESSING => ADDRESSING_HEADERS.contains(&name),
            names::WSMAN => WSMAN_HEADERS.contains(&name),
            _ => !must_be_understood(node),
        };
        if !known {
            let reason = format!("The header {name} in the namespace '{ns}' is not understood.");
            return Err(Fault::schema(reason).breaks(Rule::Envelope));
        }
        if seen.contains(&(ns, name)) {
            return Err(Fault::schema(format!("The header {name} is there twice.")).breaks(Rule::Envelope));
        }
        seen.push((ns, name));
    }
    Ok(())
}

fn must_be_understood(node: &Node) -> bool {
    let marked = node.attributes.iter().find(|(ns, name, _)| ns == names::SOAP && name == "mustUnderstand");
    marked.is_some_and(|(_, _, value)| value == "true" || value == "1")
}

/// `PT60S`, `PT60.000S`, `PT1M`: only what clients send.
fn check_duration(text: &str) -> Result<(), Fault> {
    let digits = text.strip_prefix("PT").and_then(|rest| rest.strip_suffix(['S', 'M', 'H']));
    match digits.map(str::parse::<f64>) {
        Some(Ok(seconds)) if seconds.is_finite() && seconds >= 0.0 => Ok(()),
        _ => Err(Fault::schema("OperationTimeout is not a duration.").breaks(Rule::Envelope)),
    }
}

/// The selectors of a set.
pub(crate) fn selectors(set: &Node) -> Result<Vec<(String, String)>, Fault> {
    if set.children.len() > SELECTORS_MAX {
        return Err(Fault::new("w:InvalidSelectors", code::INVALID_SELECTORS, "too many selectors"));
    }
    set.children
        .iter()
        .map(|node| match node.attribute("Name") {
            Some(name) if node.ns == names::WSMAN && node.name == "Selector" && node.children.is_empty() => {
                Ok((name.to_owned(), node.text.clone()))
            }
            _ => Err(Fault::schema("A selector set holds selectors with names.").breaks(Rule::Envelope)),
        })
        .collect()
}

/// The envelope of an answer.
pub(crate) fn answer(action: &str, relates_to: &str, body: &str) -> String {
    let mut out = String::with_capacity(body.len() + 1024);
    out += "<s:Envelope xml:lang=\"en-US\"";
    for (prefix, uri) in [("s", names::SOAP), ("a", names::ADDRESSING), ("n", names::ENUMERATION), ("w", names::WSMAN)]
    {
        out = out + " xmlns:" + prefix + "=\"" + uri + "\"";
    }
    out += "><s:Header><a:Action>";
    escape_into(&mut out, action);
    out += "</a:Action><a:MessageID>uuid:";
    out += &Uuid::new_v4().to_string().to_uppercase();
    out = out + "</a:MessageID><a:To>" + names::ANONYMOUS + "</a:To>";
    if !relates_to.is_empty() {
        out += "<a:RelatesTo>";
        escape_into(&mut out, relates_to);
        out += "</a:RelatesTo>";
    }
    out = out + "</s:Header><s:Body>" + body + "</s:Body></s:Envelope>";
    out
}
