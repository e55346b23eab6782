//! The record of requests, for assertions.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Requests that are remembered; older ones are forgotten.
const REQUESTS_KEPT_MAX: usize = 20_000;

/// One request and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// HTTP method.
    pub verb: String,
    /// SOAP method name, or the path of any other request.
    pub what: String,
    /// Asked byte range, first and last byte.
    pub range: Option<(u64, u64)>,
    /// HTTP status; 0 when the connection was dropped.
    pub status: u16,
    /// Type of the SOAP fault, or why the request was refused.
    pub fault: Option<String>,
}

/// The last requests.
#[derive(Default)]
pub(crate) struct RequestLog {
    records: Mutex<VecDeque<RequestRecord>>,
}

impl RequestLog {
    pub(crate) fn add(&self, record: RequestRecord) {
        tracing::trace!(?record, "request");
        let mut records = self.records.lock();
        if records.len() >= REQUESTS_KEPT_MAX {
            records.pop_front();
        }
        records.push_back(record);
    }

    pub(crate) fn all(&self) -> Vec<RequestRecord> {
        self.records.lock().iter().cloned().collect()
    }
}
