//! Notices: what is worth telling people and other programs, and the channels that carry it.
//!
//! Owns: kinds, severities, the message as it is stored and sent, what a channel is told and when.
//! Must never: hold a password or signing key.

use jiff::{Timestamp, ToSpan, civil, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// A run of a task ended and machines of it have no new point.
    BackupFailed,
    /// A run of a task ended with something to read.
    BackupWarning,
    /// A run of a task ended well.
    BackupSucceeded,
    /// A restore ended and the machine is not back.
    RestoreFailed,
    /// A restore ended well.
    RestoreSucceeded,
    /// A due time passed and no run began.
    RunMissed,
    /// The newest good point of a machine is older than its goal.
    GoalMissed,
    /// Data of restore points did not read back.
    Damage,
    /// A device does not answer.
    DeviceUnreachable,
    /// A repository cannot be used.
    RepositoryUnreachable,
    /// A repository's file system is nearly full.
    RepositorySpace,
    /// Something of ours stays on a host.
    LeftBehind,
}

/// How grave a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeSeverity {
    /// Needs someone.
    Error,
    /// Needs a look.
    Warning,
    /// Good to know; also the end of a trouble.
    Info,
}

/// When a channel is told of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tell {
    /// At once.
    Now,
    /// In the daily digest.
    Digest,
    /// Not.
    Never,
}

impl NoticeKind {
    /// All kinds, in the order of the settings.
    pub const ALL: [Self; 12] = [
        Self::BackupFailed,
        Self::BackupWarning,
        Self::BackupSucceeded,
        Self::RestoreFailed,
        Self::RestoreSucceeded,
        Self::RunMissed,
        Self::GoalMissed,
        Self::Damage,
        Self::DeviceUnreachable,
        Self::RepositoryUnreachable,
        Self::RepositorySpace,
        Self::LeftBehind,
    ];

    /// Stable word for storage and receivers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackupFailed => "backup_failed",
            Self::BackupWarning => "backup_warning",
            Self::BackupSucceeded => "backup_succeeded",
            Self::RestoreFailed => "restore_failed",
            Self::RestoreSucceeded => "restore_succeeded",
            Self::RunMissed => "run_missed",
            Self::GoalMissed => "goal_missed",
            Self::Damage => "damage",
            Self::DeviceUnreachable => "device_unreachable",
            Self::RepositoryUnreachable => "repository_unreachable",
            Self::RepositorySpace => "repository_space",
            Self::LeftBehind => "left_behind",
        }
    }

    /// The kind of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// As the settings call it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::BackupFailed => "A backup failed",
            Self::BackupWarning => "A backup ended with a warning",
            Self::BackupSucceeded => "A backup ended well",
            Self::RestoreFailed => "A restore failed",
            Self::RestoreSucceeded => "A restore ended well",
            Self::RunMissed => "A run did not happen",
            Self::GoalMissed => "A machine misses its goal",
            Self::Damage => "Damage was found",
            Self::DeviceUnreachable => "A device does not answer",
            Self::RepositoryUnreachable => "A location cannot be used",
            Self::RepositorySpace => "Space runs out",
            Self::LeftBehind => "Something was left on a host",
        }
    }

    /// How grave it is while it lasts.
    pub const fn severity(self) -> NoticeSeverity {
        match self {
            Self::BackupSucceeded | Self::RestoreSucceeded => NoticeSeverity::Info,
            Self::BackupWarning | Self::RepositorySpace | Self::LeftBehind => NoticeSeverity::Warning,
            _ => NoticeSeverity::Error,
        }
    }

    /// What a new channel does: trouble at once, the rest once a day.
    pub const fn usual(self) -> Tell {
        match self.severity() {
            NoticeSeverity::Error | NoticeSeverity::Warning => Tell::Now,
            NoticeSeverity::Info => Tell::Digest,
        }
    }
}

impl NoticeSeverity {
    /// Stable word for storage and receivers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl Tell {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Now, Self::Digest, Self::Never];

    /// Stable word for storage and forms.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::Digest => "digest",
            Self::Never => "never",
        }
    }

    /// The one of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == word)
    }
}

/// What a channel is told, by kind; a kind that is not in it follows [`NoticeKind::usual`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rules(pub BTreeMap<NoticeKind, Tell>);

impl Rules {
    /// When the channel is told of it.
    pub fn of(&self, kind: NoticeKind) -> Tell {
        self.0.get(&kind).copied().unwrap_or_else(|| kind.usual())
    }
}

/// How an SMTP connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailSecurity {
    /// Begins in the clear, is encrypted before anything is said, or ends.
    #[default]
    Starttls,
    /// Encrypted from the first byte.
    Tls,
    /// In the clear. Without an account only.
    Plain,
}

impl MailSecurity {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Starttls, Self::Tls, Self::Plain];

    /// Stable word for forms.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starttls => "starttls",
            Self::Tls => "tls",
            Self::Plain => "plain",
        }
    }

    /// The one of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == word)
    }

    /// The port that servers usually have for it.
    pub const fn usual_port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Tls => 465,
            Self::Plain => 25,
        }
    }
}

/// Where notices go, without the secret that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ChannelConfig {
    /// To an SMTP server, one message a recipient.
    Mail {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
        /// How the connection is protected.
        security: MailSecurity,
        /// Empty: no login.
        account: String,
        /// The sender's address.
        from: String,
        /// Addresses.
        to: Vec<String>,
        /// The only certificates, or authorities of certificates, that are accepted; empty: those of the system.
        #[serde(default)]
        ca_pem: String,
    },
    /// To a program, by POST.
    Webhook {
        /// `https://…`, or `http://…` where [`ChannelConfig::Webhook::plain_confirmed`] says so.
        url: String,
        /// The operator confirmed that this very address may be reached without TLS.
        #[serde(default)]
        plain_confirmed: bool,
        /// As for mail.
        #[serde(default)]
        ca_pem: String,
    },
}

impl ChannelConfig {
    /// Stable word for storage.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Mail { .. } => "mail",
            Self::Webhook { .. } => "webhook",
        }
    }

    /// Whom a message goes to, each by itself; one empty recipient for a webhook.
    pub fn recipients(&self) -> Vec<String> {
        match self {
            Self::Mail { to, .. } => to.clone(),
            Self::Webhook { .. } => vec![String::new()],
        }
    }
}

/// A time of day in a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestTime {
    /// Local time.
    pub at: civil::Time,
    /// IANA name.
    pub time_zone: String,
    /// Sent also when there is no trouble.
    pub also_when_well: bool,
}

impl DigestTime {
    /// The first such time strictly after `after`, once each local day; `None` for an unknown zone.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let zone = TimeZone::get(&self.time_zone).ok()?;
        let mut date = after.to_zoned(zone.clone()).date();
        // Today's may have passed; around a change of the clock one more day can be needed.
        for _ in 0..3 {
            let due = zone.to_ambiguous_zoned(date.to_datetime(self.at)).compatible().ok()?.timestamp();
            if due > after {
                return Some(due);
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

/// One line of a notice that is about several things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What it is about, by name.
    pub name: String,
    /// What is the matter with it.
    pub text: String,
}

/// A part of a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// Its lines.
    pub lines: Vec<String>,
}

/// What a notice is about, by id; all may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Task.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub task_id: Option<i64>,
    /// Machine.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine_id: Option<i64>,
    /// Device.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device_id: Option<i64>,
    /// Repository, a UUID.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub repository_id: Option<String>,
    /// Run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run_id: Option<i64>,
}

/// A message as it is stored and sent. `docs/notices.md` describes its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// A [`NoticeKind`]'s word, or `digest`, `summary`, `test`.
    pub kind: String,
    /// How grave.
    pub severity: NoticeSeverity,
    /// It is over: what an earlier notice told is no more.
    pub over: bool,
    /// One line.
    pub title: String,
    /// Cause and remedy, in sentences; may be empty.
    pub detail: String,
    /// What it is about, one by one; the first of [`Message::items_total`].
    pub items: Vec<Item>,
    /// How many there are.
    pub items_total: u64,
    /// Ids, when it is about one thing.
    pub subject: Subject,
    /// Parts of a digest or summary.
    pub sections: Vec<Section>,
    /// When it came to be.
    pub created_at: Timestamp,
}

impl Message {
    /// The text of a mail.
    pub fn text(&self) -> String {
        let mut lines = vec![self.title.clone()];
        if !self.detail.is_empty() {
            lines.extend([String::new(), self.detail.clone()]);
        }
        if !self.items.is_empty() {
            lines.push(String::new());
        }
        for Item { name, text } in &self.items {
            lines.push(if text.is_empty() { format!("- {name}") } else { format!("- {name}: {text}") });
        }
        let more = self.items_total.saturating_sub(self.items.len() as u64);
        if more > 0 {
            lines.push(format!("- and {more} more"));
        }
        for section in &self.sections {
            lines.extend([String::new(), section.title.clone()]);
            lines.extend(section.lines.iter().map(|line| format!("- {line}")));
        }
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message {
            kind: NoticeKind::BackupFailed.as_str().to_owned(),
            severity: NoticeSeverity::Error,
            over: false,
            title: "Nightly: 21 of 40 machines failed".to_owned(),
            detail: "Look at the run.".to_owned(),
            items: vec![Item { name: "web-01".to_owned(), text: "The host refused.".to_owned() }],
            items_total: 21,
            subject: Subject { task_id: Some(3), ..Subject::default() },
            sections: Vec::new(),
            created_at: "2026-11-22T06:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn the_text_of_a_mail_lists_the_first_and_counts_the_rest() {
        let text = message().text();
        assert!(text.starts_with("Nightly: 21 of 40 machines failed\n\nLook at the run.\n"), "{text}");
        assert!(text.contains("- web-01: The host refused.\n- and 20 more\n"), "{text}");
    }

    #[test]
    fn a_message_survives_storage() {
        let json = serde_json::to_value(message()).unwrap();
        assert_eq!(json["kind"], "backup_failed");
        assert_eq!(json["subject"], serde_json::json!({ "task_id": 3 }), "ids that are absent are left out");
        assert_eq!(serde_json::from_value::<Message>(json).unwrap(), message());
    }

    #[test]
    fn a_channel_tells_trouble_at_once_unless_it_says_otherwise() {
        let mut rules = Rules::default();
        assert_eq!(
            (rules.of(NoticeKind::BackupFailed), rules.of(NoticeKind::BackupSucceeded)),
            (Tell::Now, Tell::Digest)
        );
        rules.0.insert(NoticeKind::BackupFailed, Tell::Never);
        let json = serde_json::to_value(&rules).unwrap();
        assert_eq!(json, serde_json::json!({ "backup_failed": "never" }));
        assert_eq!(serde_json::from_value::<Rules>(json).unwrap().of(NoticeKind::BackupFailed), Tell::Never);
    }

    #[test]
    fn a_digest_comes_once_each_local_day() {
        let digest =
            DigestTime { at: "02:30".parse().unwrap(), time_zone: "Europe/Vienna".to_owned(), also_when_well: true };
        let mut now: Timestamp = "2026-03-28T12:00:00Z".parse().unwrap();
        let due: Vec<String> = (0..2)
            .map(|_| {
                now = digest.next_after(now).unwrap();
                now.to_string()
            })
            .collect();
        assert_eq!(due, ["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]);
        assert_eq!(DigestTime { time_zone: "Mars/Olympus".to_owned(), ..digest }.next_after(now), None);
    }

    #[test]
    fn words_are_stable() {
        for kind in NoticeKind::ALL {
            assert_eq!(NoticeKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
