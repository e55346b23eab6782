//! Time as a capability: code that needs the time is given a [`Clock`], so that tests and simulations own it.

use jiff::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The current instant, to the microsecond at least.
    fn now(&self) -> Timestamp;
}

/// The clock of the machine. The only place that reads it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
