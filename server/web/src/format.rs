//! Figures and times in words, as the design guide wants them: decimal units, 24-hour clock, one place for rounding.
//! Figures are taken by value or by reference, because templates pass fields by reference.

use jiff::{Timestamp, Zoned, tz::TimeZone};

const KB: u64 = 1_000;
const MB: u64 = 1_000_000;
const GB: u64 = 1_000_000_000;
const TB: u64 = 1_000_000_000_000;

/// A small value, itself or behind a reference: what a template has in its hands differs from place to place.
pub trait Of<T> {
    /// The value.
    fn value(&self) -> T;
}

impl<T: Copy> Of<T> for T {
    fn value(&self) -> T {
        *self
    }
}

impl<T: Copy> Of<T> for &T {
    fn value(&self) -> T {
        **self
    }
}

impl<T: Copy> Of<T> for &&T {
    fn value(&self) -> T {
        ***self
    }
}

/// `405 GB`, `6.1 GB`, `1.84 TB`: three figures at most.
pub fn bytes(count: impl Of<u64>) -> String {
    let count = count.value();
    let (unit, name) = unit_of(count);
    if unit == 1 {
        return format!("{count} B");
    }
    format!("{} {name}", in_unit(count, unit))
}

/// `190 of 640 GB`, `0.4 of 1.10 TB`: one unit, the larger one's, unless the first would read as zero.
pub fn bytes_of(done: impl Of<u64>, total: impl Of<u64>) -> String {
    let (done, total) = (done.value(), total.value());
    let (unit, name) = unit_of(total);
    if unit == 1 || (done > 0 && done < unit / 10) {
        return format!("{} of {}", bytes(done), bytes(total));
    }
    format!("{} of {} {name}", in_unit(done, unit), in_unit(total, unit))
}

/// `308 MB/s`.
pub fn speed(bytes_per_second: impl Of<u64>) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// 0 to 100; 100 only when all is done.
pub fn percent(done: impl Of<u64>, total: impl Of<u64>) -> u64 {
    let (done, total) = (done.value(), total.value());
    if total == 0 {
        return 0;
    }
    (u128::from(done.min(total)) * 100 / u128::from(total)) as u64
}

/// `45 s`, `35 min`, `4 h 10`, `3 d 16 h`.
pub fn duration(seconds: impl Of<u64>) -> String {
    let seconds = seconds.value();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    if seconds < 60 {
        format!("{seconds} s")
    } else if minutes < 60 {
        format!("{minutes} min")
    } else if hours < 24 {
        let rest = minutes % 60;
        if rest == 0 { format!("{hours} h") } else { format!("{hours} h {rest:02}") }
    } else if days < 10 && hours % 24 != 0 {
        format!("{days} d {} h", hours % 24)
    } else {
        format!("{days} d")
    }
}

/// `just now`, `5 h 20 ago`, `in 35 min`.
pub fn relative(then: Timestamp, now: Timestamp) -> String {
    let seconds = then.as_second() - now.as_second();
    let span = duration(seconds.unsigned_abs());
    match seconds {
        -4..=4 => "just now".to_owned(),
        ..=-5 => format!("{span} ago"),
        _ => format!("in {span}"),
    }
}

/// `Sun 22 Nov, 06:00`, with the year when it is not the present one.
pub fn moment(then: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let (then, now) = (then.to_zoned(zone.clone()), now.to_zoned(zone.clone()));
    let pattern = if then.year() == now.year() { "%a %-d %b, %H:%M" } else { "%a %-d %b %Y, %H:%M" };
    write(&then, pattern)
}

/// A moment by a `strftime` pattern.
pub fn pattern(then: Timestamp, zone: &TimeZone, pattern: &str) -> String {
    write(&then.to_zoned(zone.clone()), pattern)
}

fn write(then: &Zoned, pattern: &str) -> String {
    jiff::fmt::strtime::format(pattern, then).unwrap_or_else(|_| then.to_string())
}

/// `1 machine`, `3 machines`.
pub fn count(number: impl Figure, one: &str, many: &str) -> String {
    let number = number.figure();
    if number == 1 { format!("1 {one}") } else { format!("{} {many}", grouped(number)) }
}

/// The words with a capital at their start.
pub fn sentence(words: &str) -> String {
    let mut rest = words.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

/// A count in any of the types that rows and lists have.
pub trait Figure {
    /// As a number that is not negative.
    fn figure(&self) -> u64;
}

macro_rules! figures {
    ($($name:ty),+) => {$(
        impl Figure for $name {
            fn figure(&self) -> u64 {
                u64::try_from(*self).unwrap_or_default()
            }
        }
    )+};
}

figures!(i32, i64, u32, u64, usize);

impl<F: Figure> Figure for &F {
    fn figure(&self) -> u64 {
        (**self).figure()
    }
}

/// `1 482`: groups of three by a narrow no-break space.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + 6);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn unit_of(count: u64) -> (u64, &'static str) {
    match count {
        TB.. => (TB, "TB"),
        GB.. => (GB, "GB"),
        MB.. => (MB, "MB"),
        KB.. => (KB, "kB"),
        _ => (1, "B"),
    }
}

fn in_unit(count: u64, unit: u64) -> String {
    let value = count as f64 / unit as f64;
    let decimals = match (unit, value) {
        (_, 0.0) => 0,
        (TB, value) if value < 10.0 => 2,
        (TB, value) if value < 100.0 => 1,
        (GB | MB, value) if value < 10.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_figures_at_most() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (4_200, "4 kB"),
            (6_100_000, "6.1 MB"),
            (498_000_000_000, "498 GB"),
            (6_100_000_000, "6.1 GB"),
            (1_840_000_000_000, "1.84 TB"),
            (24_000_000_000_000, "24.0 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes_of(190 * GB, 640 * GB), "190 of 640 GB");
        assert_eq!(bytes_of(405 * GB, 1_100 * GB), "0.41 of 1.10 TB");
        assert_eq!(bytes_of(20 * MB, 640 * GB), "20 MB of 640 GB");
        assert_eq!(bytes_of(0, 640 * GB), "0 of 640 GB");
    }

    #[test]
    fn a_hundred_percent_means_done() {
        assert_eq!(percent(999, 1000), 99);
        assert_eq!(percent(1000, 1000), 100);
        assert_eq!(percent(1200, 1000), 100);
        assert_eq!(percent(5, 0), 0);
    }

    #[test]
    fn durations_read_as_one_says_them() {
        for (seconds, text) in
            [(9, "9 s"), (2_100, "35 min"), (15_000, "4 h 10"), (316_800, "3 d 16 h"), (1_000_000, "11 d")]
        {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn times_say_their_day_and_the_year_when_it_is_another() {
        let now: Timestamp = "2026-11-22T13:20:00Z".parse().unwrap();
        let zone = TimeZone::UTC;
        assert_eq!(moment("2026-11-22T06:00:00Z".parse().unwrap(), now, &zone), "Sun 22 Nov, 06:00");
        assert_eq!(moment("2025-11-22T06:00:00Z".parse().unwrap(), now, &zone), "Sat 22 Nov 2025, 06:00");
        assert_eq!(relative("2026-11-22T08:00:00Z".parse().unwrap(), now), "5 h 20 ago");
        assert_eq!(relative("2026-11-22T13:55:00Z".parse().unwrap(), now), "in 35 min");
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(grouped(1482), "1\u{202f}482");
        assert_eq!(count(1, "machine", "machines"), "1 machine");
        assert_eq!(count(0, "machine", "machines"), "0 machines");
    }
}
