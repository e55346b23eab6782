//! How long a server may be silent. A request may wait long behind others on a slow line; what counts is whether
//! anything moves on its connection.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// A request is given up after so many times the patience, even where others move.
pub(in crate::backend) const CEILING_FACTOR: u32 = 6;
/// Looks at the connection during one patience.
const LOOKS: u32 = 20;
/// Requests of at least this many bytes count as movement when they were sent. Smaller ones vanish in the buffers between
/// here and a server that is gone.
pub(in crate::backend) const MOVEMENT_BYTES_MIN: usize = 64 << 10;

/// Waits for an answer; `None` when nothing has moved for `patience`. `moved` counts the bytes that came, and those that
/// went in large requests. Looks are counted in place of time: a machine that slept was not waiting.
pub(in crate::backend) async fn watch<T>(
    patience: Duration,
    moved: impl Fn() -> u64,
    answer: impl Future<Output = T>,
) -> Option<T> {
    watch_for(LOOKS * CEILING_FACTOR, patience, moved, answer).await
}

/// The same where the movement is the request's own, and so may go on for as long as it takes.
pub(in crate::backend) async fn watch_own<T>(
    patience: Duration,
    moved: impl Fn() -> u64,
    answer: impl Future<Output = T>,
) -> Option<T> {
    watch_for(u32::MAX, patience, moved, answer).await
}

async fn watch_for<T>(
    looks_max: u32,
    patience: Duration,
    moved: impl Fn() -> u64,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let mut answer = pin!(answer);
    let (mut before, mut silent_looks) = (moved(), 0);
    for _ in 0..looks_max {
        if let Ok(answer) = timeout(patience / LOOKS, &mut answer).await {
            return Some(answer);
        }
        let now = moved();
        silent_looks = if now == before { silent_looks + 1 } else { 0 };
        if silent_looks >= LOOKS {
            return None;
        }
        before = now;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::{Instant, sleep};

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn silence_ends_the_wait() {
        let start = Instant::now();
        assert_eq!(watch(PATIENCE, || 7, pending::<()>()).await, None);
        assert!(start.elapsed() >= PATIENCE && start.elapsed() < PATIENCE * 11 / 10, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn movement_prolongs_the_wait() {
        let start = Instant::now();
        let moved = || start.elapsed().as_secs() / 15;
        let slow = async {
            sleep(PATIENCE * 5).await;
            "answer"
        };
        assert_eq!(watch(PATIENCE, moved, slow).await, Some("answer"));
    }

    #[tokio::test(start_paused = true)]
    async fn own_movement_prolongs_it_without_end() {
        let start = Instant::now();
        let moved = || (start.elapsed().as_secs() / 15).min(100);
        assert_eq!(watch_own(PATIENCE, moved, pending::<()>()).await, None);
        assert!(start.elapsed() > Duration::from_secs(1500) && start.elapsed() < Duration::from_secs(1525));
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_that_is_never_answered_ends_though_others_move() {
        let start = Instant::now();
        assert_eq!(watch(PATIENCE, || start.elapsed().as_secs(), pending::<()>()).await, None);
        assert!(start.elapsed() >= PATIENCE * CEILING_FACTOR && start.elapsed() < PATIENCE * (CEILING_FACTOR + 1));
    }
}
