//! Sizes, times and counts as people read them, for job logs and errors.
//!
//! Owns: wording of figures. Must never: decide anything.

use jiff::Timestamp;
use std::time::Duration;

const KILO: f64 = 1000.0;
const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
const SECONDS_A_MINUTE: u64 = 60;
const SECONDS_AN_HOUR: u64 = 3600;

/// Decimal units, two or three digits: `1.2 GB`, `20 GB`, `512 B`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // 999.5 would print as 1000 of the smaller unit.
        if value < 999.5 {
            break;
        }
        value /= KILO;
        unit = next;
    }
    if unit == UNITS[0] || value >= 9.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `0.8 s`, `48 s`, `3 min 5 s`, `2 h 10 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..SECONDS_A_MINUTE => format!("{seconds} s"),
        SECONDS_A_MINUTE..SECONDS_AN_HOUR => {
            format!("{} min {} s", seconds / SECONDS_A_MINUTE, seconds % SECONDS_A_MINUTE)
        }
        _ => format!("{} h {} min", seconds / SECONDS_AN_HOUR, seconds % SECONDS_AN_HOUR / SECONDS_A_MINUTE),
    }
}

/// `21 Nov 22:00 UTC`.
pub fn moment(at: Timestamp) -> String {
    at.strftime("%-d %b %H:%M UTC").to_string()
}

/// `1 disk`, `3 disks`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_or_three_digits() {
        let cases =
            [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (1_249_000_000, "1.2 GB"), (20_000_000_000, "20 GB")];
        for (input, expected) in cases {
            assert_eq!(bytes(input), expected);
        }
        assert_eq!(bytes(999_999), "1.0 MB", "never 1000 kB");
        assert_eq!(bytes(u64::MAX), "18447 PB", "nothing above the largest unit");
    }

    #[test]
    fn durations_use_the_two_largest_units() {
        assert_eq!(duration(Duration::from_millis(840)), "0.8 s");
        assert_eq!(duration(Duration::from_secs(48)), "48 s");
        assert_eq!(duration(Duration::from_secs(185)), "3 min 5 s");
        assert_eq!(duration(Duration::from_secs(7800)), "2 h 10 min");
    }

    #[test]
    fn moments_name_their_zone() {
        assert_eq!(moment("2026-11-21T22:00:05Z".parse().unwrap()), "21 Nov 22:00 UTC");
        assert_eq!(count(1, "disk"), "1 disk");
        assert_eq!(count(2, "disk"), "2 disks");
    }
}
