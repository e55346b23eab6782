//! Bodies of answers: whole, or broken off on demand.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::listen::dropped;

/// A body that is there at once.
pub(crate) struct Whole {
    bytes: Option<Bytes>,
    /// What its header promises; more than there is breaks the connection off.
    promised: usize,
    breaks: bool,
}

impl Whole {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { promised: bytes.len(), bytes: Some(bytes), breaks: false }
    }

    /// Ends after so many bytes, and the connection with it.
    #[must_use]
    pub fn broken_off(self, after: usize) -> Self {
        let bytes = self.bytes.map(|bytes| bytes.slice(..after.min(bytes.len())));
        Self { bytes, breaks: true, ..self }
    }

    /// What the header has to say, where hyper cannot know it.
    pub fn promise(&self) -> Option<usize> {
        self.breaks.then_some(self.promised)
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.bytes.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Poll::Ready(self.breaks.then(|| Err(dropped()))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.bytes, self.breaks) {
            (Some(bytes), false) => SizeHint::with_exact(bytes.len() as u64),
            (None, false) => SizeHint::with_exact(0),
            (_, true) => SizeHint::default(),
        }
    }
}
