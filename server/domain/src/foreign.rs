//! Snapshots and checkpoints that another program's backup has left on a host, told by their names.
//!
//! Owns: the table of names, and from which age on one counts as left. Must never: take a user's snapshot for a backup's;
//! what is in doubt is not in the table.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A backup's snapshot stands for hours at most; one that is older was left.
pub const STALE_AFTER_HOURS: i32 = 24;
const SECONDS_AN_HOUR: i64 = 3600;
/// No program gives a longer name.
const NAME_BYTES_MAX: usize = 512;
/// Of Stillframe's own names: `stillframe-<job>-<token>`.
const OWN_PREFIX: &str = "stillframe-";
const OWN_TOKEN_DIGITS: usize = 32;

/// Which program seems to have made a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Maker {
    /// Veeam Backup & Replication.
    Veeam,
    /// Commvault.
    Commvault,
    /// Veritas `NetBackup`.
    NetBackup,
    /// The script ghettoVCB.
    GhettoVcb,
    /// Programs built on VMware Consolidated Backup.
    ConsolidatedBackup,
    /// Stillframe on another server, or of another database.
    Stillframe,
    /// A program that backs up Hyper-V machines by recovery checkpoints.
    RecoveryCheckpoint,
}

enum Sign {
    Is(&'static str),
    Starts(&'static str),
}

/// Names, and where each is known from.
const NAMES: [(Sign, Maker); 5] = [
    // Veeam's knowledge base, KB1790: what the snapshot of a running job is called.
    (Sign::Is("VEEAM BACKUP TEMPORARY SNAPSHOT"), Maker::Veeam),
    // The constant in Commvault's own Python toolkit, and vCheck's list of backup programs' snapshots.
    (Sign::Is("__GX_BACKUP__"), Maker::Commvault),
    // vCheck for vSphere, the same list.
    (Sign::Starts("NBU_SNAPSHOT"), Maker::NetBackup),
    // The script itself: the date follows.
    (Sign::Starts("ghettoVCB-snapshot-"), Maker::GhettoVcb),
    // Documentation of CA ARCserve, "How the Agent Names Mount Points".
    (Sign::Is("_VCB-BACKUP_"), Maker::ConsolidatedBackup),
];

impl Maker {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Veeam => "veeam",
            Self::Commvault => "commvault",
            Self::NetBackup => "net_backup",
            Self::GhettoVcb => "ghetto_vcb",
            Self::ConsolidatedBackup => "consolidated_backup",
            Self::Stillframe => "stillframe",
            Self::RecoveryCheckpoint => "recovery_checkpoint",
        }
    }

    /// Whose snapshot that is, from its name and from whether the host calls it a recovery checkpoint. None: a user's, as
    /// far as one can tell.
    pub fn of(name: &str, is_recovery: bool) -> Option<Self> {
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        let by_name = NAMES.iter().find(|(sign, _)| match sign {
            Sign::Is(whole) => name == *whole,
            Sign::Starts(start) => name.starts_with(start),
        });
        let by_name = by_name.map(|(_, maker)| *maker).or_else(|| is_stillframes(name).then_some(Self::Stillframe));
        // Microsoft's documentation of Msvm_VirtualSystemSettingData: users cannot make a checkpoint of this type.
        by_name.or_else(|| is_recovery.then_some(Self::RecoveryCheckpoint))
    }

    /// The cause of the suspicion, in a sentence.
    pub const fn because(self) -> &'static str {
        match self {
            Self::Veeam => "Veeam Backup & Replication gives its temporary snapshots this name.",
            Self::Commvault => "Commvault gives its snapshots this name.",
            Self::NetBackup => "Its name begins as those of Veritas NetBackup do.",
            Self::GhettoVcb => "Its name begins as those of the script ghettoVCB do.",
            Self::ConsolidatedBackup => "Programs built on VMware Consolidated Backup give their snapshots this name.",
            Self::Stillframe => "It has a name of Stillframe’s, and this server never made it: another one did.",
            Self::RecoveryCheckpoint => "It is a recovery checkpoint, which only backup programs make.",
        }
    }
}

/// Whether a snapshot of that moment is old enough to count as left.
pub fn is_stale(created_at: Timestamp, now: Timestamp) -> bool {
    now.as_second().saturating_sub(created_at.as_second()) >= i64::from(STALE_AFTER_HOURS) * SECONDS_AN_HOUR
}

fn is_stillframes(name: &str) -> bool {
    let Some((job, token)) = name.strip_prefix(OWN_PREFIX).and_then(|rest| rest.split_once('-')) else { return false };
    let is_job = !job.is_empty() && job.bytes().all(|digit| digit.is_ascii_digit());
    is_job && token.len() == OWN_TOKEN_DIGITS && token.bytes().all(|digit| digit.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_programs_are_known_by_their_names_and_users_snapshots_are_not() {
        for (name, maker) in [
            ("VEEAM BACKUP TEMPORARY SNAPSHOT", Maker::Veeam),
            ("__GX_BACKUP__", Maker::Commvault),
            ("NBU_SNAPSHOT host 1498592412", Maker::NetBackup),
            ("ghettoVCB-snapshot-2026-11-30", Maker::GhettoVcb),
            ("_VCB-BACKUP_", Maker::ConsolidatedBackup),
            ("stillframe-12-0123456789abcdef0123456789abcdef", Maker::Stillframe),
        ] {
            assert_eq!(Maker::of(name, false), Some(maker), "{name}");
            let word: Maker = serde_json::from_value(maker.as_str().into()).unwrap();
            assert_eq!(word, maker);
        }
        for name in [
            "",
            "before the update",
            "my VEEAM BACKUP TEMPORARY SNAPSHOT",
            "stillframe-test",
            "stillframe-12-before",
            "stillframe--0123456789abcdef0123456789abcdef",
            "Backup",
        ] {
            assert_eq!(Maker::of(name, false), None, "{name}");
        }
        assert_eq!(Maker::of(&format!("NBU_SNAPSHOT{}", "x".repeat(NAME_BYTES_MAX)), false), None);
    }

    #[test]
    fn a_recovery_checkpoint_is_a_backups_whatever_its_name() {
        assert_eq!(Maker::of("web - Backup - (1/2/2026)", true), Some(Maker::RecoveryCheckpoint));
        assert_eq!(Maker::of("VEEAM BACKUP TEMPORARY SNAPSHOT", true), Some(Maker::Veeam));
    }

    #[test]
    fn a_day_makes_it_stale() {
        let made: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        assert!(!is_stale(made, "2026-11-30T11:59:59Z".parse().unwrap()));
        assert!(is_stale(made, "2026-11-30T12:00:00Z".parse().unwrap()));
        assert!(!is_stale(made, "2026-11-01T12:00:00Z".parse().unwrap()), "a clock that is wrong");
    }
}
