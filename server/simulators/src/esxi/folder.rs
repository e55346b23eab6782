//! `/folder`: files of the datastores over HTTP, with a session of its own and the locks of the host.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, RANGE, SET_COOKIE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use super::answer::{self as answers, Answer, BodyReader, CHUNK_BYTES};
use super::config::DatastoreKind;
use super::host::{Host, now};
use super::inject::Action;
use super::locks::FileGuard;
use super::session::{Door, set_cookie};

/// Files up to this size may be answered whole although a range was asked.
const SMALL_FILE_BYTES: u64 = 64 << 10;
/// Bytes of an uploaded file at most.
const UPLOAD_BYTES_MAX: u64 = 4 << 40;
/// The only datacenter.
const DATACENTER: &str = "ha-datacenter";

/// A byte range: first and last byte.
pub(crate) type ByteRange = (u64, u64);

/// Reads a `Range` header of one range; open ends are filled in by `size`. `None` for anything else.
pub(crate) fn parse_range(headers: &HeaderMap, size: Option<u64>) -> Option<ByteRange> {
    let (start, end) = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let last = size.map(|size| size.saturating_sub(1));
    let start: u64 = start.trim().parse().ok()?;
    let end = match end.trim() {
        "" => last?,
        end => end.parse::<u64>().ok()?,
    };
    let end = last.map_or(end, |last| end.min(last));
    (start <= end).then_some((start, end))
}

/// Who asks.
enum Caller {
    /// Nobody we know.
    Stranger,
    /// The owner of a session.
    Known,
    /// Logged in with this request; the cookie goes with the answer.
    New(String),
}

/// Finds out who asks: by the cookie of this door, or by name and password, which opens a session.
fn authenticate(host: &Host, headers: &HeaderMap) -> Caller {
    let cookie = headers.get(COOKIE).and_then(|value| value.to_str().ok());
    if host.sessions.of_cookie(cookie, Door::Folder).is_some() {
        return Caller::Known;
    }
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
    let given = given.and_then(|given| base64::engine::general_purpose::STANDARD.decode(given.trim()).ok());
    let wanted = format!("{}:{}", host.config.account, host.config.password);
    if given.as_deref() != Some(wanted.as_bytes()) {
        return Caller::Stranger;
    }
    match host.sessions.open(Door::Folder, &host.config.account, now()) {
        Some(session) => Caller::New(set_cookie(&session.key)),
        None => Caller::Known, // no room for a session: the client has to show its password again
    }
}

fn unauthorized() -> Response<Answer> {
    let mut response = answers::text(StatusCode::UNAUTHORIZED, "401 Unauthorized");
    let realm = HeaderValue::from_static("Basic realm=\"VMware HTTP server\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, realm);
    response
}

/// Answers a request below `/folder`.
pub(crate) async fn handle(
    host: &Arc<Host>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: Incoming,
    injected: Option<Action>,
) -> Response<Answer> {
    if let Some(Action::Status(status)) = injected {
        if status == 401 {
            host.sessions.close_all(Door::Folder);
            return unauthorized();
        }
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return answers::text(status, "injected");
    }
    let cookie = match authenticate(host, headers) {
        Caller::Stranger => return unauthorized(),
        Caller::Known => None,
        Caller::New(cookie) => Some(cookie),
    };
    let mut response = match locate(host, uri) {
        None => answers::text(StatusCode::NOT_FOUND, "404 Not Found"),
        Some((datastore, file)) => match *method {
            Method::GET | Method::HEAD if file.is_dir() => listing(&file),
            Method::GET => get(host, &datastore, &file, headers, injected.as_ref()),
            Method::HEAD => head(&file),
            Method::PUT => put(host, file, headers, body).await,
            _ => answers::text(StatusCode::METHOD_NOT_ALLOWED, "405"),
        },
    };
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// The file a URL means. `None` when the datacenter, the datastore or the path is not one of ours.
fn locate(host: &Host, uri: &Uri) -> Option<(String, PathBuf)> {
    let decode =
        |text: &str| percent_decode_str(&text.replace('+', "%20")).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    let mut datastore = None;
    let mut datacenter = None;
    for pair in uri.query().unwrap_or_default().split('&') {
        match pair.split_once('=') {
            Some(("dsName", value)) => datastore = decode(value),
            Some(("dcPath", value)) => datacenter = decode(value),
            _ => {}
        }
    }
    if datacenter? != DATACENTER {
        return None;
    }
    let datastore = datastore?;
    let path = percent_decode_str(uri.path().strip_prefix("/folder")?).decode_utf8().ok()?;
    let file = host.datastore_file(&datastore, &path)?;
    Some((datastore, file))
}

fn listing(folder: &Path) -> Response<Answer> {
    let mut page = String::from("<html><body><table>\n");
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    for name in names {
        page.push_str("<tr><td>");
        crate::xml::escape_into(&mut page, &name);
        page.push_str("</td></tr>\n");
    }
    page.push_str("</table></body></html>\n");
    answers::with_type(StatusCode::OK, "text/html; charset=utf-8", page.into())
}

fn head(file: &Path) -> Response<Answer> {
    let Ok(metadata) = fs::metadata(file) else { return answers::text(StatusCode::NOT_FOUND, "") };
    let mut response = Response::new(Answer::Whole(None));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(metadata.len()));
    response
}

/// Checks the host's locks; `Ok(None)` for files that need none.
fn lock_for_reading(host: &Host, datastore: &str, file: &Path) -> Result<Option<FileGuard>, Box<Response<Answer>>> {
    let locked =
        |why: &str| Box::new(answers::text(StatusCode::INTERNAL_SERVER_ERROR, format!("Failed to open file: {why}")));
    for machine in host.machines() {
        let machine = machine.lock();
        let Some((disk, link)) = machine.disks.iter().find_map(|disk| Some((disk, disk.link_of(file)?))) else {
            continue;
        };
        if host.datastore_kind(datastore) == DatastoreKind::Vsan {
            return Err(Box::new(answers::text(StatusCode::NOT_FOUND, "objects of vSAN have no flat file")));
        }
        if machine.running() && disk.top == link {
            return Err(locked("the file is in use by a running machine"));
        }
        return host
            .locks
            .acquire(vec![file.to_owned()])
            .map(Some)
            .map_err(|_| locked("the file is locked by another reader"));
    }
    Ok(None)
}

fn get(
    host: &Arc<Host>,
    datastore: &str,
    path: &Path,
    headers: &HeaderMap,
    injected: Option<&Action>,
) -> Response<Answer> {
    let guard = match lock_for_reading(host, datastore, path) {
        Ok(guard) => guard,
        Err(response) => return *response,
    };
    let Ok(file) = File::open(path) else { return answers::text(StatusCode::NOT_FOUND, "404 Not Found") };
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let whole = (0, size.saturating_sub(1));
    let ignore = injected == Some(&Action::IgnoreRange) || size <= SMALL_FILE_BYTES;
    let range = match headers.get(RANGE) {
        Some(_) if !ignore => match parse_range(headers, Some(size)) {
            Some(range) if range.0 < size => Some(range),
            _ => {
                let mut response = answers::text(StatusCode::RANGE_NOT_SATISFIABLE, "416: one range inside the file");
                let value = HeaderValue::from_str(&format!("bytes */{size}")).ok();
                value.and_then(|value| response.headers_mut().insert(CONTENT_RANGE, value));
                return response;
            }
        },
        _ => None,
    };
    let (start, end) = range.unwrap_or(whole);
    let length = if size == 0 { 0 } else { end - start + 1 };
    let cut = if let Some(Action::TruncateBody(at)) = injected { *at } else { u64::MAX };
    let mut response = Response::new(send_file(host, file, start, length, cut, guard));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    if range.is_some() && injected != Some(&Action::WrongStatus) {
        let shift = if let Some(Action::ShiftContentRange(shift)) = injected { *shift } else { 0 };
        let text = format!("bytes {}-{}/{size}", start + shift, end + shift);
        let value = HeaderValue::from_str(&text).ok();
        value.and_then(|value| response.headers_mut().insert(CONTENT_RANGE, value));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// Streams a part of a file; the guard is held until the last byte is handed over or the client is gone.
fn send_file(host: &Host, file: File, start: u64, length: u64, cut: u64, guard: Option<FileGuard>) -> Answer {
    let (sink, answer) = answers::stream();
    host.runtime.spawn_blocking(move || {
        let end = start + length.min(cut);
        let mut at = start;
        while at < end {
            let count = (end - at).min(CHUNK_BYTES as u64) as usize;
            let mut buffer = vec![0; count];
            if let Err(error) = file.read_exact_at(&mut buffer, at) {
                sink.fail(error);
                return;
            }
            at += count as u64;
            // The last chunk: a client that has it may ask for the next range at once.
            if at == start + length {
                drop(guard);
                let _ = sink.send(Bytes::from(buffer));
                return;
            }
            if sink.send(Bytes::from(buffer)).is_err() {
                return;
            }
        }
        if cut < length {
            sink.fail(std::io::Error::other("cut on purpose"));
        }
    });
    answer
}

async fn put(host: &Arc<Host>, path: PathBuf, headers: &HeaderMap, body: Incoming) -> Response<Answer> {
    if headers.contains_key(CONTENT_RANGE) {
        return answers::text(StatusCode::NOT_IMPLEMENTED, "only whole files can be put");
    }
    if path.parent().is_none_or(|parent| !parent.is_dir()) {
        return answers::text(StatusCode::NOT_FOUND, "no such folder");
    }
    for machine in host.machines() {
        let machine = machine.lock();
        if machine.disks.iter().any(|disk| disk.link_of(&path).is_some()) && (machine.running() || machine.leased) {
            return answers::text(StatusCode::INTERNAL_SERVER_ERROR, "the file is in use");
        }
    }
    let Ok(guard) = host.locks.acquire(vec![path.clone()]) else {
        return answers::text(StatusCode::INTERNAL_SERVER_ERROR, "the file is locked");
    };
    let existed = path.exists();
    let mut reader = BodyReader::new(body, UPLOAD_BYTES_MAX);
    let stored = host.runtime.spawn_blocking(move || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = reader.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            file.write_all(bytes)?;
        }
        drop(guard);
        Ok(())
    });
    match stored.await {
        Ok(Ok(())) => answers::text(if existed { StatusCode::OK } else { StatusCode::CREATED }, ""),
        _ => answers::text(StatusCode::INTERNAL_SERVER_ERROR, "the file was not stored"),
    }
}
