//! Enumerations: `Enumerate`, `Pull`, `Release`, with real paging. Source: DSP0226 8.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use super::envelope::Request;
use super::fault::{Fault, code};
use super::names;
use crate::hyperv::crimes::Rule;
use crate::xml::Node;

/// Enumerations at a time.
const CONTEXTS_MAX: usize = 64;
/// Bytes of an envelope that are not items.
const ENVELOPE_OVERHEAD_BYTES: usize = 2048;

/// An enumeration that has more.
struct Context {
    id: Uuid,
    resource: String,
    /// The XML of what is left.
    items: VecDeque<String>,
    used: Instant,
}

/// The enumerations of a host.
#[derive(Default)]
pub(crate) struct Contexts {
    open: Mutex<Vec<Context>>,
}

/// What a client asked for.
pub(crate) struct Wanted {
    pub filter: Option<String>,
    /// Items in the first answer; none without `OptimizeEnumeration`.
    pub first: Option<usize>,
}

fn invalid_context() -> Fault {
    let reason = "The WS-Enumeration context in the enumeration is not valid. Enumeration may have been completed or \
                  canceled. You cannot use this enumeration context anymore. Start a new enumeration.";
    let fault = Fault::new("n:InvalidEnumerationContext", code::INVALID_CONTEXT, reason);
    Fault { receiver: true, ..fault }
}

fn bad(what: String) -> Fault {
    Fault::schema(what).breaks(Rule::Envelope)
}

fn count(node: &Node) -> Result<usize, Fault> {
    let count = node.text.trim().parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| bad(format!("{} is not a positive number.", node.name)))
}

/// Reads the body of `Enumerate` and checks it against the resource.
pub(crate) fn wanted(request: &Request) -> Result<Wanted, Fault> {
    let body = request.body.as_ref().filter(|node| node.ns == names::ENUMERATION && node.name == "Enumerate");
    let body = body.ok_or_else(|| bad("The body of Enumerate is an Enumerate element.".to_owned()))?;
    let (mut filter, mut optimize, mut most) = (None, false, 1);
    for node in &body.children {
        match (node.ns.as_str(), node.name.as_str()) {
            (names::WSMAN, "OptimizeEnumeration") => optimize = true,
            (names::WSMAN, "MaxElements") => most = count(node)?,
            (names::WSMAN, "EnumerationMode") if node.text.trim() == "EnumerateObject" => {}
            (names::ENUMERATION, "Expires") => {}
            (names::WSMAN | names::ENUMERATION, "Filter") => {
                if node.attribute("Dialect") != Some(names::WQL) {
                    let reason = "The filtering dialect is not supported.";
                    return Err(Fault::new("n:FilterDialectRequestedUnavailable", code::CANNOT_PROCESS_FILTER, reason));
                }
                filter = Some(node.text.trim().to_owned());
            }
            (ns, name) => return Err(bad(format!("Enumerate has an unknown element {name} in the namespace '{ns}'."))),
        }
    }
    if filter.is_some() != (request.resource.class == "*") {
        let reason =
            "The resource URI of an enumeration with a WQL filter ends in '*', and that of one without in a class.";
        return Err(Fault::filter(reason).breaks(Rule::FilterOnClass));
    }
    Ok(Wanted { filter, first: optimize.then_some(most) })
}

impl Contexts {
    /// Answers `Enumerate` with the items' XML.
    pub fn enumerate(
        &self,
        request: &Request,
        wanted: &Wanted,
        items: Vec<String>,
        most: usize,
    ) -> Result<String, Fault> {
        let mut context = Context {
            id: Uuid::new_v4(),
            resource: request.resource.uri.clone(),
            items: items.into(),
            used: Instant::now(),
        };
        let mut body = String::from("<n:EnumerateResponse>");
        let page = match wanted.first {
            Some(first) => Some(take(&mut context.items, first.min(most), request.envelope_bytes_max)?),
            None => None,
        };
        let ended = page.is_some() && context.items.is_empty();
        body += "<n:EnumerationContext>";
        if !ended {
            body = body + "uuid:" + &context.id.to_string().to_uppercase();
        }
        body += "</n:EnumerationContext>";
        if let Some(page) = page {
            body = body + "<w:Items>" + &page + "</w:Items>";
        }
        if ended {
            body += "<w:EndOfSequence/>";
        } else {
            self.keep(context);
        }
        Ok(body + "</n:EnumerateResponse>")
    }

    fn keep(&self, context: Context) {
        let mut open = self.open.lock();
        if open.len() >= CONTEXTS_MAX {
            open.remove(0);
        }
        open.push(context);
    }

    /// Answers `Pull`.
    pub fn pull(&self, request: &Request, most: usize, idle: Duration) -> Result<String, Fault> {
        let (id, wanted) = pulled(request, "Pull")?;
        let mut context = self.take(&id, &request.resource.uri, idle)?;
        let page = match take(&mut context.items, wanted.min(most), request.envelope_bytes_max) {
            Ok(page) => page,
            Err(fault) => {
                self.keep(context);
                return Err(fault);
            }
        };
        let mut body = String::from("<n:PullResponse>");
        if !context.items.is_empty() {
            body = body
                + "<n:EnumerationContext>uuid:"
                + &context.id.to_string().to_uppercase()
                + "</n:EnumerationContext>";
        }
        body = body + "<n:Items>" + &page + "</n:Items>";
        if context.items.is_empty() {
            body += "<n:EndOfSequence/>";
        } else {
            context.used = Instant::now();
            self.keep(context);
        }
        Ok(body + "</n:PullResponse>")
    }

    /// Answers `Release`.
    pub fn release(&self, request: &Request, idle: Duration) -> Result<String, Fault> {
        let (id, _) = pulled(request, "Release")?;
        self.take(&id, &request.resource.uri, idle)?;
        Ok("<n:ReleaseResponse/>".to_owned())
    }

    fn take(&self, id: &str, resource: &str, idle: Duration) -> Result<Context, Fault> {
        let mut open = self.open.lock();
        open.retain(|context| context.used.elapsed() < idle);
        let known = |context: &Context| {
            let own = context.id.to_string();
            id.strip_prefix("uuid:").is_some_and(|id| id.eq_ignore_ascii_case(&own)) && context.resource == resource
        };
        let at = open.iter().position(known).ok_or_else(invalid_context)?;
        Ok(open.remove(at))
    }

    /// Enumerations that wait to be pulled.
    pub fn count(&self) -> usize {
        self.open.lock().len()
    }
}

fn pulled(request: &Request, name: &str) -> Result<(String, usize), Fault> {
    let body = request.body.as_ref().filter(|node| node.ns == names::ENUMERATION && node.name == name);
    let body = body.ok_or_else(|| bad(format!("The body of {name} is a {name} element.")))?;
    let (mut id, mut most) = (None, 1);
    for node in &body.children {
        match (node.ns.as_str(), node.name.as_str()) {
            (names::ENUMERATION, "EnumerationContext") => id = Some(node.text.trim().to_owned()),
            (names::ENUMERATION, "MaxElements") if name == "Pull" => most = count(node)?,
            (names::ENUMERATION, "MaxTime" | "MaxCharacters") if name == "Pull" => {}
            (ns, unknown) => {
                return Err(bad(format!("{name} has an unknown element {unknown} in the namespace '{ns}'.")));
            }
        }
    }
    Ok((id.ok_or_else(|| bad(format!("{name} has no EnumerationContext.")))?, most))
}

/// Takes items until there are enough, or the envelope is full.
fn take(items: &mut VecDeque<String>, most: usize, envelope_bytes_max: usize) -> Result<String, Fault> {
    let mut page = String::new();
    for taken in 0..most {
        let Some(item) = items.front() else { break };
        if ENVELOPE_OVERHEAD_BYTES + page.len() + item.len() > envelope_bytes_max {
            if taken == 0 {
                let reason = "The response is larger than the envelope that the client allows.";
                return Err(Fault::new("w:EncodingLimit", code::ENVELOPE_SIZE, reason));
            }
            break;
        }
        page += item;
        items.pop_front();
    }
    Ok(page)
}
