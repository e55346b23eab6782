//! Reading no faster than is wanted.

use std::time::Duration;
use tokio::time::Instant;

/// How much may be caught up after a pause.
const BURST: Duration = Duration::from_secs(1);

/// Spreads bytes over time.
pub struct Pace {
    bytes_per_second: Option<u64>,
    /// When what was admitted so far will be through.
    through: Option<Instant>,
}

impl Pace {
    /// Without a limit it never waits.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, through: None }
    }

    /// How long to wait before reading `bytes`, which count as read then.
    pub fn admit(&mut self, bytes: u64) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let now = Instant::now();
        let begin = self.through.unwrap_or(now).max(now.checked_sub(BURST).unwrap_or(now));
        self.through = Some(begin + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
        begin.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time() {
        let mut pace = Pace::new(Some(100));
        let start = Instant::now();
        for _ in 0..5 {
            tokio::time::sleep(pace.admit(200)).await;
        }
        assert_eq!(start.elapsed().as_secs(), 8, "the last 200 are being read");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(pace.admit(100), Duration::ZERO);
        assert_eq!(pace.admit(100), Duration::ZERO, "a second may be caught up");
        assert_eq!(pace.admit(100), Duration::from_secs(1), "a minute may not");
        assert_eq!(Pace::new(None).admit(u64::MAX), Duration::ZERO);
    }
}
