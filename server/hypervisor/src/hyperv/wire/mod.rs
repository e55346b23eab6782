//! WS-Management over HTTP/1.1: connections, envelopes, faults.
//!
//! Layers, from below: `xml`, `sealed` (forms) — `endpoint`, `connection` (a logged-in connection) — `fault`,
//! `envelope` (words) — `client` (requests of many callers over a few connections).
//! Must never: know a class of WMI. Read next: `client.rs`.

mod client;
mod connection;
mod endpoint;
mod envelope;
mod fault;
#[cfg(test)]
mod peer;
mod sealed;
mod xml;

pub(super) use client::{Client, Wsman};
pub(super) use connection::Login;
pub(super) use endpoint::Endpoint;
pub use endpoint::{Timeouts, Transport};
pub(super) use envelope::{ANONYMOUS, CallError, Request, write_selectors};
pub(super) use fault::{Fault, RIGHTS_HINT};
pub(super) use xml::{Node, Xml, parse};
