//! A file in memory, for unit tests and fuzzing.

use super::source::ImageSource;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use std::future::Future;
use std::io;

/// A file in memory.
pub(super) struct Memory(pub Bytes);

#[async_trait]
impl ImageSource for Memory {
    fn len_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let end = (offset as usize).checked_add(length).filter(|&end| end <= self.0.len());
        end.map(|end| self.0.slice(offset as usize..end)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// The outcome of a future that never waits.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here waits")
}
