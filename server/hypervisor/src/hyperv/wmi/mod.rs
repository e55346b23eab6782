//! WMI over WS-Management: typed instances, queries, methods and their jobs.
//!
//! Layers, from below: `instance`, `embedded` (values) — `call` (get, query, invoke) — `job` (what a method started).
//! Must never: know what a class is for. Read next: `call.rs`, then `job.rs`.

mod call;
mod embedded;
mod instance;
mod job;

pub(super) use call::{Arguments, get, invoke, query, service};
pub(super) use embedded::{Embedded, Kind, read_embedded};
pub(super) use instance::{Instance, Reference};
pub(super) use job::{is_running, run, start, wait};

/// A WMI namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Namespace {
    /// Windows itself.
    Cimv2,
    /// Hyper-V.
    Virtualization,
}

const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi";

impl Namespace {
    /// Resource URI of a class; `*` for queries.
    pub(super) fn uri(self, class: &str) -> String {
        let path = match self {
            Self::Cimv2 => "root/cimv2",
            Self::Virtualization => "root/virtualization/v2",
        };
        format!("{WMI}/{path}/{class}")
    }
}
