//! `/nfc/<lease>/disk-N.vmdk`: the bytes of leases, out and in.

use std::io::{self, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;

use super::answer::{self, Answer, BodyReader, CHUNK_BYTES, Sink};
use super::disk::image::DiskImage;
use super::host::Host;
use super::inject::Action;
use super::lease::LeaseDisk;
use super::stream_vmdk::{self, StreamWriter};

/// Bytes of an uploaded stream at most.
const UPLOAD_BYTES_MAX: u64 = 4 << 40;
/// Grain of the stream.
const GRAIN_BYTES: usize = 64 << 10;
/// Content type a disk is posted with.
const DISK_TYPE: &str = "application/x-vnd.vmware-streamVmdk";

/// Answers a request below `/nfc/`.
pub(crate) async fn handle(
    host: &Arc<Host>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: Incoming,
    injected: Option<Action>,
) -> Response<Answer> {
    let mut parts = path.trim_start_matches("/nfc/").splitn(2, '/');
    let lease = parts.next().unwrap_or_default();
    let name = parts.next().unwrap_or_default();
    let index = name.strip_prefix("disk-").and_then(|rest| rest.strip_suffix(".vmdk")).and_then(|n| n.parse().ok());
    let Some((disk, import)) = index.and_then(|index: usize| host.leases.disk(lease, index)) else {
        return answer::text(StatusCode::NOT_FOUND, "no such disk, or its lease is not ready");
    };
    match (method, import) {
        (&Method::GET, false) => download(host, disk, name.to_owned(), injected.as_ref()),
        (&Method::POST | &Method::PUT, true) => {
            let content_type = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            if content_type != Some(DISK_TYPE) {
                return answer::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("a disk is posted as {DISK_TYPE}"));
            }
            upload(host, disk, body).await
        }
        _ => answer::text(StatusCode::METHOD_NOT_ALLOWED, "the lease is for the other direction"),
    }
}

fn download(host: &Arc<Host>, disk: LeaseDisk, name: String, injected: Option<&Action>) -> Response<Answer> {
    let Some(image) = disk.image else { return answer::text(StatusCode::INTERNAL_SERVER_ERROR, "nothing to read") };
    let cut = if let Some(Action::TruncateBody(at)) = injected { Some(*at) } else { None };
    let (sink, answer) = answer::stream();
    host.runtime.spawn_blocking(move || {
        let mut out = ChunkWriter { sink, buffer: Vec::with_capacity(CHUNK_BYTES), left: cut };
        if let Err(error) = export(&image, &name, &mut out) {
            out.sink.fail(error);
        }
    });
    let mut response = Response::new(answer);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(DISK_TYPE));
    response
}

fn export(image: &DiskImage, name: &str, out: &mut ChunkWriter) -> io::Result<()> {
    let capacity = image.capacity();
    let mut writer = StreamWriter::new(out, capacity, name)?;
    let mut buffer = vec![0; GRAIN_BYTES];
    let mut at = 0;
    while at < capacity {
        let count = (capacity - at).min(GRAIN_BYTES as u64) as usize;
        let Some(bytes) = buffer.get_mut(..count) else { break };
        image.read_at(at, bytes)?;
        writer.grain(bytes)?;
        at += count as u64;
    }
    writer.finish()?.flush()
}

/// Collects writes into chunks of a streamed body.
struct ChunkWriter {
    sink: Sink,
    buffer: Vec<u8>,
    /// Bytes until the connection is to break.
    left: Option<u64>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(left) = &mut self.left {
            if *left < bytes.len() as u64 {
                return Err(io::Error::other("cut on purpose"));
            }
            *left -= bytes.len() as u64;
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        if full.is_empty() { Ok(()) } else { self.sink.send(Bytes::from(full)) }
    }
}

async fn upload(host: &Arc<Host>, disk: LeaseDisk, body: Incoming) -> Response<Answer> {
    let Some(target) = disk.target else { return answer::text(StatusCode::INTERNAL_SERVER_ERROR, "nothing to write") };
    let reader = BodyReader::new(body, UPLOAD_BYTES_MAX);
    let stored = host.runtime.spawn_blocking(move || {
        // A second upload of the same disk replaces the first.
        target.set_len(0)?;
        target.set_len(disk.capacity)?;
        let mut buffered = BufReader::with_capacity(CHUNK_BYTES, reader);
        let taken = stream_vmdk::read(&mut buffered, disk.capacity, |offset, bytes| target.write_all_at(bytes, offset));
        if taken.is_err() {
            // A client that still sends would never read why.
            io::copy(&mut buffered, &mut io::sink())?;
        }
        taken
    });
    match stored.await {
        Ok(Ok(())) => answer::text(StatusCode::CREATED, ""),
        Ok(Err(error)) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("the disk was not taken: {error}")),
        Err(_) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the disk was not taken"),
    }
}
