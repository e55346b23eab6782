//! Values of properties, and how they look in XML and in CIM-XML.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::path::ObjectPath;
use crate::xml::escape_into;

/// Microseconds of a day.
const DAY_US: u64 = 86_400_000_000;

/// A value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Value {
    Null,
    Text(String),
    Number(u64),
    Flag(bool),
    Time(Timestamp),
    /// In microseconds.
    Interval(u64),
    Reference(ObjectPath),
    List(Vec<Value>),
}

impl Value {
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// As text for comparisons.
    pub fn plain(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => if *flag { "TRUE" } else { "FALSE" }.to_owned(),
            Self::Time(time) => cim_time(*time),
            Self::Interval(us) => cim_interval(*us),
            Self::Reference(path) => path.relative(),
            Self::List(items) => items.iter().map(Self::plain).collect::<Vec<_>>().join(","),
        }
    }

    /// Appends the element or elements of a property, as in the body of an answer.
    pub fn write(&self, out: &mut String, prefix: &str, name: &str) {
        match self {
            Self::Null => {
                let _ = write!(out, "<{prefix}:{name} xsi:nil=\"true\"/>");
            }
            Self::List(items) => {
                for item in items {
                    item.write(out, prefix, name);
                }
            }
            Self::Reference(path) => {
                let _ = write!(out, "<{prefix}:{name}>");
                path.write(out);
                let _ = write!(out, "</{prefix}:{name}>");
            }
            _ => {
                let _ = write!(out, "<{prefix}:{name}>");
                match self {
                    Self::Time(time) => {
                        let _ = write!(out, "<cim:Datetime>{time}</cim:Datetime>");
                    }
                    Self::Interval(us) => {
                        let (days, rest) = (us / DAY_US, us % DAY_US / 1_000_000);
                        let (hours, minutes, seconds) = (rest / 3600, rest / 60 % 60, rest % 60);
                        let _ = write!(out, "<cim:Interval>P{days}DT{hours}H{minutes}M{seconds}S</cim:Interval>");
                    }
                    Self::Flag(flag) => out.push_str(if *flag { "true" } else { "false" }),
                    other => escape_into(out, &other.plain()),
                }
                let _ = write!(out, "</{prefix}:{name}>");
            }
        }
    }
}

/// `yyyymmddHHMMSS.mmmmmm+000`
fn cim_time(time: Timestamp) -> String {
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC);
    format!("{}.{:06}+000", zoned.strftime("%Y%m%d%H%M%S"), time.subsec_nanosecond().unsigned_abs() / 1000)
}

/// `ddddddddHHMMSS.mmmmmm:000`
pub(crate) fn cim_interval(us: u64) -> String {
    let (days, rest) = (us / DAY_US, us % DAY_US);
    let (seconds, us) = (rest / 1_000_000, rest % 1_000_000);
    format!("{days:08}{:02}{:02}{:02}.{us:06}:000", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Reads `ddddddddHHMMSS.mmmmmm:000`.
pub(crate) fn parse_interval(text: &str) -> Option<u64> {
    let (digits, us) = text.strip_suffix(":000").filter(|rest| rest.len() == 21)?.split_once('.')?;
    if digits.len() != 14 || us.len() != 6 || !digits.bytes().chain(us.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |range: std::ops::Range<usize>| digits.get(range)?.parse::<u64>().ok();
    let (hours, minutes, seconds) = (part(8..10)?, part(10..12)?, part(12..14)?);
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(part(0..8)? * DAY_US + ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + us.parse::<u64>().ok()?)
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

impl From<ObjectPath> for Value {
    fn from(path: ObjectPath) -> Self {
        Self::Reference(path)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_and_times_have_the_cim_form() {
        assert_eq!(cim_interval(30 * 60 * 1_000_000), "00000000003000.000000:000");
        assert_eq!(parse_interval("00000001020304.000005:000"), Some(DAY_US + 7_384_000_005));
        for bad in ["P0DT0H30M0S", "PT30M", "", "00000000003000.000000+000", "0000000000300x.000000:000"] {
            assert_eq!(parse_interval(bad), None, "{bad}");
        }
        assert_eq!(cim_time(Timestamp::UNIX_EPOCH), "19700101000000.000000+000");
    }
}
