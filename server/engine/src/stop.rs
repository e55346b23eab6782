//! Why a job has to stop, and the token that tells everyone who works for it.

use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// Who stopped the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// An operator asked for it: the job ends as cancelled.
    Operator,
    /// The hours in which its task may run are over: it ends as cancelled, with words of its own.
    HoursEnded,
    /// The server stops: the job goes back to the queue.
    ServerStops,
    /// Another worker may hold the job: nothing may be written about it any more.
    LeaseLost,
}

/// One job's stop signal. The first reason wins.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Stop {
    /// Tells everyone to stop.
    pub fn now(&self, reason: StopReason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Why, if it was told to.
    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// For code that only needs to know that it should stop.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_wins() {
        let stop = Stop::default();
        assert_eq!(stop.reason(), None);
        stop.now(StopReason::LeaseLost);
        stop.now(StopReason::Operator);
        assert_eq!(stop.reason(), Some(StopReason::LeaseLost));
        assert!(stop.token().is_cancelled());
    }
}
