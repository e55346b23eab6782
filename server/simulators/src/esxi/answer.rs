//! HTTP helpers of the three doors: bodies that stream from threads, and answers.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use tokio::sync::mpsc;

/// Chunks on their way between a thread and the socket.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;
/// Bytes read from a disk file at a time.
pub(crate) const CHUNK_BYTES: usize = 512 << 10;

/// Body of every answer.
pub(crate) enum Answer {
    /// All at once.
    Whole(Option<Bytes>),
    /// From a thread.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(receiver) => receiver.poll_recv(context).map(|next| next.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => {
                hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// Sends what a thread makes into a streamed body.
pub(crate) struct Sink(mpsc::Sender<io::Result<Bytes>>);

impl Sink {
    /// Hands a chunk over; an error means that the client is gone.
    pub fn send(&self, bytes: Bytes) -> io::Result<()> {
        self.0.blocking_send(Ok(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends the body with an error: the connection is closed.
    pub fn fail(&self, error: io::Error) {
        let _ = self.0.blocking_send(Err(error));
    }
}

/// A streamed body and its sink.
pub(crate) fn stream() -> (Sink, Answer) {
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
    (Sink(sender), Answer::Stream(receiver))
}

/// A short text answer.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response<Answer> {
    with_type(status, "text/plain; charset=utf-8", body.into().into())
}

/// An answer with a content type.
pub(crate) fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Some(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// A request body, read by a thread.
pub(crate) struct BodyReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    left: u64,
}

impl BodyReader {
    /// Feeds the body to the reader from a task; more than `max` bytes are an error.
    pub fn new(mut body: Incoming, max: u64) -> Self {
        let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let chunk = match frame {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => Ok(data),
                        Err(_) => continue,
                    },
                    Err(error) => Err(io::Error::other(error)),
                };
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
        });
        Self { receiver, current: Bytes::new(), left: max }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.current = chunk?,
            }
            self.left = self
                .left
                .checked_sub(self.current.len() as u64)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the body is too large"))?;
        }
        let count = buffer.len().min(self.current.len());
        let part = self.current.split_to(count);
        if let Some(target) = buffer.get_mut(..count) {
            target.copy_from_slice(&part);
        }
        Ok(count)
    }
}
