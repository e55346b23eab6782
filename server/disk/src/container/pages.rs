//! Small parts of a file that are read again and again (bitmaps of sectors), each read once for all who wait.

use super::source::{ImageSource, read_exact};
use crate::{DiskError, Result};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Parts kept per image.
const PAGES_MAX: usize = 64;
/// Longest part, in bytes. So an image keeps at most 4 MiB.
pub(super) const PAGE_BYTES_MAX: usize = 64 * 1024;

type Page = Shared<BoxFuture<'static, std::result::Result<Bytes, Arc<io::Error>>>>;

/// The last parts that were read, by their offset in the file.
#[derive(Default)]
pub(super) struct Pages {
    kept: Mutex<VecDeque<(u64, Page)>>,
}

impl Pages {
    /// `length` bytes at `offset`; the same offset always comes with the same length.
    pub async fn get(
        &self,
        source: &Arc<dyn ImageSource>,
        format: &'static str,
        offset: u64,
        length: usize,
    ) -> Result<Bytes> {
        let page = self.page(source, offset, length.min(PAGE_BYTES_MAX));
        page.await.map_err(|cause| {
            self.forget(offset);
            DiskError::Read { format, source: io::Error::new(cause.kind(), cause) }
        })
    }

    fn page(&self, source: &Arc<dyn ImageSource>, offset: u64, length: usize) -> Page {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, page)) = kept.iter().find(|(at, _)| *at == offset) {
            return page.clone();
        }
        let source = source.clone();
        let page = async move { read_exact(source.as_ref(), offset, length).await.map_err(Arc::new) }.boxed().shared();
        if kept.len() == PAGES_MAX {
            kept.pop_front();
        }
        kept.push_back((offset, page.clone()));
        page
    }

    fn forget(&self, offset: u64) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).retain(|(at, _)| *at != offset);
    }
}
