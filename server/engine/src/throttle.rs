//! Bytes that go at a limited speed, by time of day.

use async_trait::async_trait;
use domain::Clock;
use domain::bandwidth::Bandwidth;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What several streams share: together they are not faster than the limit of the moment.
pub struct Throttle {
    bandwidth: Mutex<Bandwidth>,
    /// When the next bytes may go.
    next: Mutex<Option<Instant>>,
    clock: Arc<dyn Clock>,
}

impl Throttle {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self { bandwidth: Mutex::default(), next: Mutex::default(), clock }
    }

    /// There is a limit, now or later.
    pub fn is_limited(&self) -> bool {
        !self.bandwidth.lock().limits.is_empty()
    }

    /// Waits until `bytes` may go. What was not used earlier is not made up for.
    pub async fn pass(&self, bytes: u64) {
        let rate = {
            let bandwidth = self.bandwidth.lock();
            if bandwidth.limits.is_empty() { None } else { bandwidth.at(self.clock.now()) }
        };
        let Some(rate) = rate else { return };
        let begin = {
            let mut next = self.next.lock();
            let begin = next.unwrap_or_else(Instant::now).max(Instant::now());
            *next = Some(begin + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Throttle").field(&*self.bandwidth.lock()).finish()
    }
}

#[async_trait]
impl repository::Pace for Throttle {
    async fn pass(&self, bytes: u64) {
        Self::pass(self, bytes).await;
    }
}

/// One throttle for each device or repository: all jobs of this process share it.
pub struct Throttles<K> {
    by_key: Mutex<HashMap<K, Arc<Throttle>>>,
    clock: Arc<dyn Clock>,
}

impl<K: Eq + Hash> Throttles<K> {
    /// By this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { by_key: Mutex::default(), clock }
    }

    /// The one of `key`, under these limits from now on, also for what goes on.
    pub fn of(&self, key: K, bandwidth: Bandwidth) -> Arc<Throttle> {
        let new = || Arc::new(Throttle::new(Arc::clone(&self.clock)));
        let throttle = Arc::clone(self.by_key.lock().entry(key).or_insert_with(new));
        *throttle.bandwidth.lock() = bandwidth;
        throttle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::SystemClock;

    fn limited(mib: u32) -> Bandwidth {
        Bandwidth::parse(&mib.to_string(), "UTC").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn streams_share_the_speed() {
        let throttles = Throttles::new(Arc::new(SystemClock));
        let begin = Instant::now();
        let streams = (0..4).map(|_| {
            let throttle = throttles.of("one", limited(10));
            tokio::spawn(async move {
                for _ in 0..25 {
                    throttle.pass(1 << 20).await;
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
        let throttles = Throttles::new(Arc::new(SystemClock));
        let throttle = throttles.of("one", limited(1));
        throttle.pass(1 << 20).await;
        tokio::time::advance(Duration::from_secs(60)).await;
        let begin = Instant::now();
        for _ in 0..3 {
            throttle.pass(1 << 20).await;
        }
        assert_eq!(begin.elapsed().as_secs(), 2);
        throttles.of("one", Bandwidth::default());
        throttle.pass(1 << 40).await;
        assert_eq!(begin.elapsed().as_secs(), 2);
        assert!(!throttle.is_limited());
    }
}
