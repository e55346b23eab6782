//! WS-Management over HTTP: sockets, authentication, sealed bodies, envelopes, enumerations. Knows nothing of machines.

mod body;
pub(crate) mod enumerate;
pub(crate) mod envelope;
pub(crate) mod fault;
pub(crate) mod names;
pub(crate) mod sealed;
pub(crate) mod server;
