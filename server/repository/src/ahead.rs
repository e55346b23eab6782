//! Reading ahead.

use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};

/// Work that gets on by itself from the first look at it on, and ends when nobody wants its outcome any more.
///
/// A stream of futures is not looked at while what comes of it is worked on. A future of it that looks chunks up would keep
/// the lock of the index's loading meanwhile, and the work may wait for that lock: for ever, then.
pub async fn driven<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    AbortOnDropHandle::new(tokio::spawn(work)).await.unwrap_or(Err(Error::Internal("a task that reads ahead")))
}
