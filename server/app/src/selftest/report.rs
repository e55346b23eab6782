//! The table: what, bytes read, stored, seconds, result.

use crate::failure::Failure;
use std::time::{Duration, Instant};

/// Rows are printed as they come.
pub struct Report {
    failed: usize,
    passed: usize,
    last: Instant,
}

/// What a step moved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Read from the host or the repository.
    pub read_bytes: Option<u64>,
    /// Written to the repository.
    pub stored_bytes: Option<u64>,
}

impl Report {
    /// Prints the head.
    pub fn start() -> Self {
        println!("{:<52} {:>12} {:>12} {:>8}  result", "what", "read", "stored", "seconds");
        Self { failed: 0, passed: 0, last: Instant::now() }
    }

    /// The time until now belongs to nothing.
    pub fn restart_clock(&mut self) {
        self.last = Instant::now();
    }

    /// A step that took the time since the last row. `Err` says what did not hold.
    pub fn row(&mut self, what: &str, figures: Figures, result: Result<String, String>) {
        let took = self.last.elapsed();
        self.row_of(what, figures, took, result);
        self.last = Instant::now();
    }

    fn row_of(&mut self, what: &str, figures: Figures, took: Duration, result: Result<String, String>) {
        let bytes =
            |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
        let (read, stored) = (bytes(figures.read_bytes), bytes(figures.stored_bytes));
        let (word, detail) = match result {
            Ok(detail) => {
                self.passed += 1;
                ("ok", detail)
            }
            Err(detail) => {
                self.failed += 1;
                ("FAILED", detail)
            }
        };
        println!("{what:<52} {read:>12} {stored:>12} {:>8.2}  {word}: {detail}", took.as_secs_f64());
    }

    /// The test could not go on.
    pub fn failed(&mut self, failure: &Failure) {
        self.failed += 1;
        println!("FAILED: {failure}");
    }

    /// Prints the sum; true when everything held.
    pub fn finish(&self) -> bool {
        println!("{} held, {} failed.", self.passed, self.failed);
        self.failed == 0 && self.passed > 0
    }
}
