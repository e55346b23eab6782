//! Counting bytes of a running job, and the speed shown for them.
//!
//! Owns: counters that copying threads bump, a smoothed rate. Must never: block a copying thread or touch the database.
//! Read next: `context.rs`, which writes the figures down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast old speed is forgotten.
const SMOOTHING_SECONDS: f64 = 8.0;

/// Counters of one disk.
#[derive(Debug, Default)]
struct Counters {
    planned: AtomicU64,
    done: AtomicU64,
    stored: AtomicU64,
}

/// Counters of a job, by disk key.
#[derive(Debug, Default)]
pub struct Tally {
    disks: BTreeMap<i32, Counters>,
}

/// Figures of one disk, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes to move, as far as is known.
    pub total: u64,
    /// Bytes moved.
    pub done: u64,
    /// Bytes that the repository stored for them.
    pub stored: u64,
}

impl Tally {
    /// Counters for these disks.
    pub fn new(disk_keys: impl IntoIterator<Item = i32>) -> Self {
        Self { disks: disk_keys.into_iter().map(|key| (key, Counters::default())).collect() }
    }

    /// Adds bytes that the disk is going to take.
    pub fn add_planned(&self, disk_key: i32, bytes: u64) {
        if let Some(disk) = self.disks.get(&disk_key) {
            disk.planned.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Adds bytes that were read from the host or written to it.
    pub fn add_done(&self, disk_key: i32, bytes: u64) {
        if let Some(disk) = self.disks.get(&disk_key) {
            disk.done.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Adds bytes that the repository stored.
    pub fn add_stored(&self, disk_key: i32, bytes: u64) {
        if let Some(disk) = self.disks.get(&disk_key) {
            disk.stored.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Figures of each disk, by key.
    pub fn disks(&self) -> Vec<(i32, Figures)> {
        self.disks.iter().map(|(key, counters)| (*key, counters.figures())).collect()
    }

    /// Figures of all disks together.
    pub fn sum(&self) -> Figures {
        self.disks.values().map(Counters::figures).fold(Figures::default(), |sum, disk| Figures {
            total: sum.total + disk.total,
            done: sum.done + disk.done,
            stored: sum.stored + disk.stored,
        })
    }
}

impl Counters {
    fn figures(&self) -> Figures {
        let done = self.done.load(Ordering::Relaxed);
        // Chunk borders make the repository read a little more than was planned; a bar never passes its end.
        Figures {
            total: self.planned.load(Ordering::Relaxed).max(done),
            done,
            stored: self.stored.load(Ordering::Relaxed),
        }
    }
}

impl repository::Progress for Tally {
    fn planned(&self, disk_key: i32, bytes: u64) {
        self.add_planned(disk_key, bytes);
    }

    fn read(&self, disk_key: i32, bytes: u64) {
        self.add_done(disk_key, bytes);
    }

    fn stored(&self, disk_key: i32, bytes: u64) {
        self.add_stored(disk_key, bytes);
    }
}

/// A speed that does not jump: exponentially forgotten, with the true time between samples as weight.
#[derive(Debug, Default)]
pub struct Rate {
    last_bytes: u64,
    bytes_per_second: Option<f64>,
}

impl Rate {
    /// Takes the count after `elapsed` since the last sample and gives the speed in bytes a second.
    pub fn sample(&mut self, bytes: u64, elapsed: Duration) -> u64 {
        let seconds = elapsed.as_secs_f64();
        if seconds > 0.0 {
            let now = bytes.saturating_sub(self.last_bytes) as f64 / seconds;
            let weight = 1.0 - (-seconds / SMOOTHING_SECONDS).exp();
            self.bytes_per_second = Some(self.bytes_per_second.map_or(now, |before| before + weight * (now - before)));
            self.last_bytes = bytes;
        }
        self.bytes_per_second.unwrap_or(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_has_its_speed_at_once_and_a_stall_fades() {
        let mut rate = Rate::default();
        assert_eq!(rate.sample(100, Duration::from_secs(1)), 100);
        assert_eq!(rate.sample(200, Duration::from_secs(1)), 100);
        let stalled = rate.sample(200, Duration::from_secs(8));
        assert!((30..45).contains(&stalled), "{stalled}: about 1/e is left after one time constant");
        assert_eq!(rate.sample(900, Duration::ZERO), stalled, "no time has passed");
    }

    #[test]
    fn the_total_never_falls_below_what_is_done() {
        let tally = Tally::new([2000, 2001]);
        tally.add_planned(2000, 4);
        tally.add_planned(2000, 6);
        tally.add_done(2000, 12);
        tally.add_stored(2001, 3);
        tally.add_done(9999, 5);
        assert_eq!(tally.sum(), Figures { total: 12, done: 12, stored: 3 });
        assert_eq!(tally.disks()[0], (2000, Figures { total: 12, done: 12, stored: 0 }));
    }
}
