//! The way of a message: read, disturbed on demand, answered by queries or methods, recorded.

use std::sync::Arc;

use super::host::Host;
use super::inject::Action;
use super::log::RequestRecord;
use super::methods;
use super::model::wql::Query;
use super::query;
use super::wire::enumerate;
use super::wire::envelope::{self, Message, Request};
use super::wire::fault::Fault;
use super::wire::names;

/// What becomes of a message.
pub(crate) enum Answered {
    /// HTTP status and envelope.
    Message(u16, String),
    /// An envelope that breaks off after so many bytes.
    Truncated(String, usize),
    /// HTTP status and nothing.
    Status(u16),
    /// 401; the connection has to authenticate anew.
    Expired,
    /// The connection is closed.
    Dropped,
}

/// Answers a message.
pub(crate) async fn answer(host: &Arc<Host>, message: Vec<u8>, sealed: bool) -> Answered {
    let mut record = RequestRecord { what: "?".to_owned(), subject: String::new(), status: 0, fault: None, sealed };
    let text = String::from_utf8(message).unwrap_or_default();
    let request = match envelope::parse(&text) {
        Ok(Message::Request(request)) => request,
        Ok(Message::Identify) => {
            "Identify".clone_into(&mut record.what);
            record.status = 200;
            host.log.add(record);
            return Answered::Message(200, identify(host));
        }
        Err((id, fault)) => return failed(host, record, &id, &fault),
    };
    record.what = name(&request);
    record.subject = subject(&request);
    let injected = host.faults.for_call(&record.what, &record.subject);
    match &injected {
        Some(Action::Drop) => {
            host.log.add(record);
            return Answered::Dropped;
        }
        Some(Action::Stall(time)) => tokio::time::sleep(*time).await,
        Some(Action::Status(status)) => {
            record.status = *status;
            host.log.add(record);
            return Answered::Status(*status);
        }
        Some(Action::Expired) => {
            record.status = 401;
            host.log.add(record);
            return Answered::Expired;
        }
        Some(Action::Fault { subcode, code, reason }) => {
            let fault = Fault::new(subcode, *code, reason);
            return failed(host, record, &request.message_id, &fault);
        }
        _ => {}
    }
    let lost = injected == Some(Action::DropAfter);
    let cut = if let Some(Action::Truncate(after)) = injected { Some(after) } else { None };
    let own = Arc::clone(host);
    // Calls touch files and locks, so they run on a thread.
    let work = move || {
        let body = body(&own, &request, injected);
        (request, body)
    };
    let Ok((request, body)) = host.runtime.spawn_blocking(work).await else { return Answered::Dropped };
    if lost {
        host.log.add(record);
        return Answered::Dropped;
    }
    match body {
        Err(fault) => failed(host, record, &request.message_id, &fault),
        Ok(body) => {
            record.status = 200;
            host.log.add(record);
            let action = request.action.clone() + "Response";
            let text = envelope::answer(&action, &request.message_id, &body);
            match cut {
                Some(after) => Answered::Truncated(text, after),
                None => Answered::Message(200, text),
            }
        }
    }
}

fn failed(host: &Host, mut record: RequestRecord, id: &str, fault: &Fault) -> Answered {
    if let Some(rule) = fault.broken {
        host.crimes.add(rule, format!("{} {}: {}", record.what, record.subject, fault.reason));
    }
    record.status = 500;
    record.fault = Some(format!("{}: {}", fault.subcode, fault.reason));
    host.log.add(record);
    Answered::Message(500, envelope::answer(names::FAULT, id, &fault.write(&host.config.name)))
}

/// What faults on demand and the record call it.
fn name(request: &Request) -> String {
    let name = match request.action.as_str() {
        names::GET => "Get",
        names::ENUMERATE => "Enumerate",
        names::PULL => "Pull",
        names::RELEASE => "Release",
        _ => methods::name_of(request).unwrap_or("?"),
    };
    name.to_owned()
}

fn subject(request: &Request) -> String {
    let mut subject = request.resource.uri.clone();
    for (name, value) in &request.selectors {
        subject = subject + " " + name + "=" + value;
    }
    let filter = request.body.iter().flat_map(|body| &body.children).find(|node| node.name == "Filter");
    if let Some(filter) = filter {
        subject = subject + " " + filter.text.trim();
    }
    subject
}

fn body(host: &Arc<Host>, request: &Request, injected: Option<Action>) -> Result<String, Fault> {
    let limits = &host.config.limits;
    match request.action.as_str() {
        names::GET => {
            let class = query::class_of(&request.resource)?;
            Ok(query::get(host, class, &request.selectors)?.write())
        }
        names::ENUMERATE => {
            let wanted = enumerate::wanted(request)?;
            let query = if let Some(filter) = &wanted.filter {
                Query::parse(filter, request.resource.namespace)?
            } else {
                Query::Select { class: query::class_of(&request.resource)?, columns: None, condition: None }
            };
            let rows = query::run(host, query)?;
            let items = rows.instances.iter().map(|instance| match &rows.columns {
                Some(columns) => instance.write_columns(columns),
                None => instance.write(),
            });
            host.contexts.enumerate(request, &wanted, items.collect(), limits.items_per_pull)
        }
        names::PULL => host.contexts.pull(request, limits.items_per_pull, limits.context_idle),
        names::RELEASE => host.contexts.release(request, limits.context_idle),
        _ => methods::invoke(host, request, injected),
    }
}

fn identify(host: &Host) -> String {
    let body = format!(
        "<wsmid:IdentifyResponse xmlns:wsmid=\"{}\"><wsmid:ProtocolVersion>{}</wsmid:ProtocolVersion>\
         <wsmid:ProductVendor>Microsoft Corporation (simulated)</wsmid:ProductVendor>\
         <wsmid:ProductVersion>OS: 10.0.{} SP: 0.0 Stack: 3.0</wsmid:ProductVersion></wsmid:IdentifyResponse>",
        names::IDENTITY,
        names::WSMAN,
        host.config.build
    );
    format!(
        "<s:Envelope xml:lang=\"en-US\" xmlns:s=\"{}\"><s:Header/><s:Body>{body}</s:Body></s:Envelope>",
        names::SOAP
    )
}
