//! Whether a machine runs while it is backed up, and what happens when its guest does not shut down.

use serde::{Deserialize, Serialize};

/// Whether machines run while they are backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They keep running; a snapshot freezes their disks.
    #[default]
    Hot,
    /// Shut down, copied, switched on again.
    Cold,
    /// Shut down for as long as a snapshot takes, and copied from it while they run again.
    ColdSnapshot,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Hot, Self::Cold, Self::ColdSnapshot];

    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
            Self::ColdSnapshot => "cold_snapshot",
        }
    }

    /// The mode of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }

    /// The guest is shut down for it.
    pub const fn shuts_down(self) -> bool {
        !matches!(self, Self::Hot)
    }
}

/// What happens when a guest was asked to shut down and the machine still runs at the end of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfStillOn {
    /// No backup; the machine is left running.
    #[default]
    Fail,
    /// It is switched off like by a power failure.
    PowerOff,
    /// It is backed up running, with a warning on the point.
    Hot,
}

impl IfStillOn {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Fail, Self::PowerOff, Self::Hot];

    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::PowerOff => "power_off",
            Self::Hot => "hot",
        }
    }

    /// The policy of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == word)
    }
}

/// How a task shuts machines down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// A guest gets so long, minutes.
    pub limit_minutes: u32,
    /// What then.
    pub if_still_on: IfStillOn,
}

impl Shutdown {
    /// A guest gets at least so long.
    pub const LIMIT_MIN_MINUTES: u32 = 1;
    /// And at most.
    pub const LIMIT_MAX_MINUTES: u32 = 120;
    /// Unless the operator says otherwise.
    pub const LIMIT_DEFAULT_MINUTES: u32 = 10;
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { limit_minutes: Self::LIMIT_DEFAULT_MINUTES, if_still_on: IfStillOn::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for mode in Mode::ALL {
            assert_eq!(Mode::parse(mode.as_str()), Some(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
        }
        for policy in IfStillOn::ALL {
            assert_eq!(IfStillOn::parse(policy.as_str()), Some(policy));
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.as_str());
        }
        assert_eq!((Mode::parse("warm"), IfStillOn::parse("")), (None, None));
    }
}
