//! How fast bytes may go, by time of day.

use crate::schedule::{Hours, HoursRule, Span, Weekday};
use jiff::Timestamp;
use jiff::civil::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Limits of speed with the hours in which they hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bandwidth {
    /// IANA time zone of the hours.
    pub time_zone: String,
    /// Of several that hold the lowest counts; none: no limit.
    pub limits: Vec<SpeedLimit>,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeedLimit {
    /// MiB a second.
    pub mib_per_second: u32,
    /// When it holds; none: always.
    pub span: Option<Span>,
}

/// Why a line is none of a [`Bandwidth`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line such as “20” or “20 mon-fri 08:00-18:00”, with 1 to 100 000 MiB a second; 14 lines at most")]
pub struct NotALimit;

/// Highest limit.
const MIB_PER_SECOND_MAX: u32 = 100_000;
/// Limits of one device or repository.
const LIMITS_MAX: usize = 14;

impl Default for Bandwidth {
    fn default() -> Self {
        Self { time_zone: "UTC".to_owned(), limits: Vec::new() }
    }
}

impl Bandwidth {
    /// A limit a line: MiB a second, then days and hours, or nothing for always.
    pub fn parse(text: &str, time_zone: &str) -> Result<Self, NotALimit> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let limits = lines.map(SpeedLimit::parse).collect::<Result<Vec<_>, _>>()?;
        if limits.len() > LIMITS_MAX {
            return Err(NotALimit);
        }
        Ok(Self { time_zone: time_zone.to_owned(), limits })
    }

    /// What [`Self::parse`] reads.
    pub fn text(&self) -> String {
        self.limits.iter().map(SpeedLimit::to_string).collect::<Vec<_>>().join("\n")
    }

    /// Bytes a second that may go at that moment, if there is a limit. A zone that has become unknown leaves it in force.
    pub fn at(&self, now: Timestamp) -> Option<u64> {
        let holds = |limit: &&SpeedLimit| {
            limit.span.as_ref().is_none_or(|span| {
                let hours = Hours { rule: HoursRule::Within, spans: vec![span.clone()], stop: false };
                hours.is_open(&self.time_zone, now).unwrap_or(true)
            })
        };
        self.limits.iter().filter(holds).map(|limit| u64::from(limit.mib_per_second) << 20).min()
    }
}

impl SpeedLimit {
    fn parse(line: &str) -> Result<Self, NotALimit> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (speed, span) = match words[..] {
            [speed] => (speed, None),
            [speed, hours] => (speed, Some((None, hours))),
            [speed, days, hours] => (speed, Some((Some(days), hours))),
            _ => return Err(NotALimit),
        };
        let mib_per_second = speed.parse().ok().filter(|speed| (1..=MIB_PER_SECOND_MAX).contains(speed));
        let span = span.map(|(days, hours)| parse_span(days, hours).ok_or(NotALimit)).transpose()?;
        Ok(Self { mib_per_second: mib_per_second.ok_or(NotALimit)?, span })
    }
}

/// `mon-fri` or `sat,sun`, and `08:00-18:00`.
fn parse_span(days: Option<&str>, hours: &str) -> Option<Span> {
    let (from, until) = hours.split_once('-')?;
    let days = match days {
        None => Weekday::ALL.into(),
        Some(days) => parse_days(&days.to_ascii_lowercase())?,
    };
    Some(Span { days, from: parse_time(from)?, until: parse_time(until)? })
}

fn parse_days(words: &str) -> Option<BTreeSet<Weekday>> {
    let mut days = BTreeSet::new();
    for word in words.split(',') {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last) = (Weekday::parse(first)?, Weekday::parse(last)?);
        // Sat-Mon goes over the end of the week.
        let mut from_first = Weekday::ALL.into_iter().cycle().skip_while(|day| *day != first).take(7);
        loop {
            let day = from_first.next()?;
            days.insert(day);
            if day == last {
                break;
            }
        }
    }
    Some(days)
}

fn parse_time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

impl fmt::Display for SpeedLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mib_per_second)?;
        let Some(span) = &self.span else { return Ok(()) };
        if span.days.len() < Weekday::ALL.len() {
            let days: Vec<&str> = span.days.iter().map(|day| day.as_str()).collect();
            write!(f, " {}", days.join(","))?;
        }
        write!(f, " {}-{}", span.from.strftime("%H:%M"), span.until.strftime("%H:%M"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bandwidth: &Bandwidth, moment: &str) -> Option<u64> {
        bandwidth.at(moment.parse().unwrap()).map(|bytes| bytes >> 20)
    }

    #[test]
    fn the_lowest_limit_that_holds_counts() {
        let text = "200\n20 mon-fri 08:00-18:00\n50 22:00-06:00";
        let bandwidth = Bandwidth::parse(text, "Europe/Vienna").unwrap();
        // Monday 30 November 2026, an hour before the zone's time.
        assert_eq!(at(&bandwidth, "2026-11-30T06:59:59Z"), Some(200));
        assert_eq!(at(&bandwidth, "2026-11-30T07:00:00Z"), Some(20));
        assert_eq!(at(&bandwidth, "2026-11-30T17:00:00Z"), Some(200));
        assert_eq!(at(&bandwidth, "2026-11-30T23:00:00Z"), Some(50));
        assert_eq!(at(&bandwidth, "2026-12-05T12:00:00Z"), Some(200), "Saturday");
        assert_eq!(at(&Bandwidth::default(), "2026-12-05T12:00:00Z"), None);
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        let text = "200\n20 mon,tue,wed,thu,fri 08:00-18:00\n50 22:00-06:00";
        let bandwidth = Bandwidth::parse(text, "UTC").unwrap();
        assert_eq!(bandwidth.text(), text);
        assert_eq!(
            Bandwidth::parse("20 Mon-Fri 8:00-18:00\n", "UTC").unwrap().text(),
            "20 mon,tue,wed,thu,fri 08:00-18:00"
        );
        assert_eq!(Bandwidth::parse("5 sat-mon 00:00-00:00", "UTC").unwrap().text(), "5 mon,sat,sun 00:00-00:00");
        let stored = serde_json::to_string(&bandwidth).unwrap();
        assert_eq!(serde_json::from_str::<Bandwidth>(&stored).unwrap(), bandwidth);
        assert_eq!(serde_json::from_str::<Bandwidth>("{}").unwrap(), Bandwidth::default());
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for line in ["0", "-1", "x", "20 mon-fri", "20 mon-xyz 08:00-18:00", "20 08:00", "20 08:00-25:00", "1 2 3 4"] {
            assert_eq!(Bandwidth::parse(line, "UTC"), Err(NotALimit), "{line}");
        }
        assert_eq!(Bandwidth::parse(&"1\n".repeat(15), "UTC"), Err(NotALimit));
    }
}
