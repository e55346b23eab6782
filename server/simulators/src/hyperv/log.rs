//! The record of requests, for assertions.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Requests that are remembered; older ones are forgotten.
const REQUESTS_KEPT_MAX: usize = 20_000;

/// One request and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// WMI method, or `Get`, `Enumerate`, `Pull`, `Release`, `Identify`; `?` where it could not be read.
    pub what: String,
    /// Resource URI with selectors or filter.
    pub subject: String,
    /// HTTP status; 0 when the connection was dropped.
    pub status: u16,
    /// Subcode and reason of the fault, or why the request was refused.
    pub fault: Option<String>,
    /// It came sealed.
    pub sealed: bool,
}

/// The last requests.
#[derive(Default)]
pub(crate) struct RequestLog {
    records: Mutex<VecDeque<RequestRecord>>,
}

impl RequestLog {
    pub fn add(&self, record: RequestRecord) {
        tracing::trace!(?record, "request");
        let mut records = self.records.lock();
        if records.len() >= REQUESTS_KEPT_MAX {
            records.pop_front();
        }
        records.push_back(record);
    }

    pub fn all(&self) -> Vec<RequestRecord> {
        self.records.lock().iter().cloned().collect()
    }
}
