//! Bytes that go through at a limited speed.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// What several streams share: together they are not faster than the limit.
#[derive(Debug, Default)]
pub struct Throttle {
    /// When the next bytes may go.
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    /// Waits until `bytes` may go at so many a second; without a limit, not at all. Bytes that were not sent earlier are not
    /// made up for.
    pub async fn pass(&self, bytes: u64, bytes_per_second: Option<u64>) {
        let Some(rate) = bytes_per_second else { return };
        let begin = {
            let mut next = self.next.lock();
            let begin = next.unwrap_or_else(Instant::now).max(Instant::now());
            *next = Some(begin + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn streams_share_the_speed() {
        let throttle = Arc::new(Throttle::default());
        let begin = Instant::now();
        let streams = (0..4).map(|_| {
            let throttle = Arc::clone(&throttle);
            tokio::spawn(async move {
                for _ in 0..25 {
                    throttle.pass(1 << 20, Some(10 << 20)).await;
                }
            })
        });
        for stream in streams.collect::<Vec<_>>() {
            stream.await.unwrap();
        }
        let seconds = begin.elapsed().as_secs_f64();
        assert!((9.8..=10.0).contains(&seconds), "100 MiB at 10 MiB a second took {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_made_up_for_and_without_a_limit_nothing_waits() {
        let throttle = Throttle::default();
        throttle.pass(1 << 20, Some(1 << 20)).await;
        tokio::time::advance(Duration::from_secs(60)).await;
        let begin = Instant::now();
        for _ in 0..3 {
            throttle.pass(1 << 20, Some(1 << 20)).await;
        }
        assert_eq!(begin.elapsed().as_secs(), 2);
        throttle.pass(1 << 40, None).await;
        assert_eq!(begin.elapsed().as_secs(), 2);
    }
}
