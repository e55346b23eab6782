//! The one error of this crate.

use std::error::Error;

/// What kind of failure it was, which decides whether another try makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No connection: refused, unreachable, name unknown, time out.
    Unreachable,
    /// The certificate is not the pinned one.
    CertificateChanged,
    /// TLS could not be agreed on.
    Tls,
    /// Account or password refused.
    Login,
    /// The account lacks a right.
    Permission,
    /// Free licence: the host forbids the call.
    Licence,
    /// Machine, snapshot, datastore … is not there.
    NotFound,
    /// The host is busy with the object or its files are locked.
    Busy,
    /// The host refused, with its own reason.
    Refused,
    /// The machine cannot be handled this way (RDM, independent disk …).
    Unsupported,
    /// The host broke its protocol: short body, wrong range, areas that overlap …
    Protocol,
    /// It took longer than its budget.
    Timeout,
    /// The connection broke in the middle.
    Interrupted,
    /// No space left on a datastore.
    NoSpace,
}

impl ErrorKind {
    /// Likely to pass by itself.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Unreachable | Self::Busy | Self::Timeout | Self::Interrupted | Self::Protocol)
    }
}

/// A failure, with the host, what was tried, and the host's own words.
#[derive(Debug, thiserror::Error)]
#[error("{host}: {attempt}: {reason}")]
pub struct HostError {
    /// Kind.
    pub kind: ErrorKind,
    /// Stable code, e.g. `esxi.snapshot_refused`.
    pub code: &'static str,
    /// Address of the host.
    pub host: String,
    /// What was tried, naming the machine, disk or file.
    pub attempt: String,
    /// Why it failed.
    pub reason: String,
    /// What the operator can do.
    pub hint: String,
    /// The cause underneath.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}
