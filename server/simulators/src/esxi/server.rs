//! The listening socket, TLS, and the way of a request to its door.

use std::io;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::COOKIE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, text, with_type};
use super::folder;
use super::host::Host;
use super::inject::Action;
use super::log::RequestRecord;
use super::nfc;
use super::schema::{SCHEMA, Version};
use super::soap;
use crate::listen::{self, dropped};

/// Bytes of a SOAP request at most.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Accepts connections until the host stops.
pub(crate) async fn run(host: Arc<Host>, listener: TcpListener) {
    let tls = Some(TlsAcceptor::from(Arc::clone(&host.identity.config)));
    let stop = host.stop.clone();
    let connection = move || {
        let host = Arc::clone(&host);
        service_fn(move |request| {
            let host = Arc::clone(&host);
            async move { handle(&host, request).await }
        })
    };
    listen::run(listener, tls, stop, connection).await;
}

async fn handle(host: &Arc<Host>, request: Request<Incoming>) -> Result<Response<Answer>, io::Error> {
    let path = request.uri().path().to_owned();
    if path == "/sdk" || path == "/sdk/" {
        return sdk(host, request).await;
    }
    let range = folder::parse_range(request.headers(), None);
    let (parts, body) = request.into_parts();
    let injected = host.faults.for_path(&path, range);
    let mut record =
        RequestRecord { verb: parts.method.to_string(), what: path.clone(), range, status: 0, fault: None };
    match &injected {
        Some(Action::Drop | Action::DropAfter) => {
            host.log.add(record);
            return Err(dropped());
        }
        Some(Action::Stall(time)) => tokio::time::sleep(*time).await,
        _ => {}
    }
    let response = match path.as_str() {
        "/sdk/vimServiceVersions.xml" => versions(host),
        _ if path == "/folder" || path.starts_with("/folder/") => {
            folder::handle(host, &parts.method, &parts.uri, &parts.headers, body, injected).await
        }
        _ => match injected {
            Some(Action::Status(status)) => {
                text(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "injected")
            }
            injected if path.starts_with("/nfc/") => {
                nfc::handle(host, &parts.method, &path, &parts.headers, body, injected).await
            }
            _ => text(StatusCode::NOT_FOUND, "404 Not Found: this is a simulated host (Stillframe)"),
        },
    };
    record.status = response.status().as_u16();
    if let Answer::Whole(Some(reason)) = response.body()
        && !response.status().is_success()
    {
        record.fault = Some(String::from_utf8_lossy(reason).into_owned());
    }
    host.log.add(record);
    Ok(response)
}

fn versions(host: &Host) -> Response<Answer> {
    const KNOWN: [&str; 9] = ["8.0.2.0", "8.0.1.0", "8.0.0.0", "7.0.3.0", "7.0.0.0", "6.7.3", "6.7", "6.5", "6.0"];
    let own = &host.config.api_version;
    let newest = Version::parse(own).unwrap_or(Version::V6_0);
    let prior = KNOWN.iter().filter(|known| Version::parse(known).is_some_and(|known| known < newest));
    let prior = prior.fold(String::new(), |list, known| list + "<version>" + known + "</version>");
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<namespaces version=\"1.0\"><namespace><name>urn:vim25</name><version>{own}</version>\
         <priorVersions>{prior}</priorVersions></namespace></namespaces>\n"
    );
    with_type(StatusCode::OK, "text/xml", body.into())
}

async fn sdk(host: &Arc<Host>, request: Request<Incoming>) -> Result<Response<Answer>, io::Error> {
    if request.method() != Method::POST {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "405"));
    }
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let envelope = soap::Envelope {
        action: header("soapaction"),
        content_type: header("content-type"),
        cookie: header(COOKIE.as_str()),
        body: match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "request too large")),
        },
    };
    let parsed = soap::open(&envelope);
    let name = parsed.as_ref().map_or("?", |call| call.node.name.as_str()).to_owned();
    let injected = host.faults.for_method(&name);
    let mut record = RequestRecord { verb: "POST".to_owned(), what: name, range: None, status: 0, fault: None };
    match &injected {
        Some(Action::Drop) => {
            host.log.add(record);
            return Err(dropped());
        }
        Some(Action::Stall(time)) => tokio::time::sleep(*time).await,
        Some(Action::Status(status)) => {
            record.status = *status;
            host.log.add(record);
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Ok(text(status, "injected"));
        }
        _ => {}
    }
    let drop_answer = injected == Some(Action::DropAfter);
    let own = Arc::clone(host);
    // Calls touch files and locks, so they run on a thread.
    let answered = host.runtime.spawn_blocking(move || soap::answer(&own, parsed, &envelope, injected)).await;
    let answered = answered.map_err(|_| dropped())?;
    record.fault = answered.fault;
    if drop_answer {
        host.log.add(record);
        return Err(dropped());
    }
    record.status = answered.status;
    host.log.add(record);
    let status = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_type(status, "text/xml; charset=utf-8", Bytes::from(answered.body));
    if let Some(cookie) = answered.set_cookie.and_then(|cookie| http::HeaderValue::from_str(&cookie).ok()) {
        response.headers_mut().insert(http::header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Forces the schema table to be parsed before the first request.
pub(crate) fn warm_up() {
    LazyLock::force(&SCHEMA);
}
