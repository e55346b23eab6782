//! What can go wrong between here and a host's files, told so that an operator knows what to do.

use crate::{ErrorKind, HostError};
use smb2::types::status::NtStatus;
use std::fmt;
use std::io;
use std::time::Duration;

/// Statuses that the protocol's crate has no names for: MS-ERREF 2.3.1.
const MEDIA_WRITE_PROTECTED: NtStatus = NtStatus(0xC000_00A2);
const QUOTA_EXCEEDED: NtStatus = NtStatus(0xC000_0044);
const DISK_QUOTA_EXCEEDED: NtStatus = NtStatus(0xC000_0802);

const CHECK_HOST: &str = "Check that the host is up, and that a firewall lets this server reach its SMB port (445).";
const CHECK_ACCOUNT: &str = "Check account and password; write a domain's account as DOMAIN\\name.";
const CHECK_RIGHTS: &str = "The account must be an administrator of the host. For a local account other than the \
     built-in Administrator, Windows takes the rights away over the network unless LocalAccountTokenFilterPolicy is 1 \
     (DWORD, HKLM\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Policies\\System); a domain's account is not affected.";
const CHECK_SHARE: &str = "The host must share the drive as an administrative share (C$, D$ …), which Windows does by itself \
     unless AutoShareServer is 0. On a cluster, the volume may be with another node.";
const CHECK_HOLDER: &str = "Another backup, an antivirus program or a storage job may hold the file.";
const REPORT: &str = "The host answered in a way it should not; please report it with the host's version.";

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cure {
    /// Nothing: the host said no.
    None,
    /// The connection is gone; another one may work.
    Reconnect,
    /// The host is silent. One more connection is worth a try, a second is not.
    Silent,
    /// Somebody else is in the way for a moment.
    Wait,
}

/// The result of a request.
pub(super) type Outcome<T> = Result<T, Failure>;

/// A failed request, without the host and what was tried.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub kind: ErrorKind,
    pub code: &'static str,
    pub cure: Cure,
    hint: &'static str,
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Failure {
    /// A failure that nothing cures.
    pub fn new(kind: ErrorKind, code: &'static str, text: impl Into<String>) -> Self {
        Self { kind, code, cure: Cure::None, hint: "", text: text.into() }
    }

    pub fn with_hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }

    pub fn with_cure(self, cure: Cure) -> Self {
        Self { cure, ..self }
    }

    /// Nothing has moved on the connection for so long.
    pub fn silent(patience: Duration) -> Self {
        let text = format!("the host has not answered for {} s", patience.as_secs());
        Self::new(ErrorKind::Timeout, "hyperv.smb_silent", text).with_cure(Cure::Silent).with_hint(CHECK_HOST)
    }

    /// The connection broke.
    pub fn lost(why: impl fmt::Display) -> Self {
        let text = format!("the connection was lost: {why}");
        Self::new(ErrorKind::Interrupted, "hyperv.smb_lost", text).with_cure(Cure::Reconnect).with_hint(CHECK_HOST)
    }

    /// No connection could be made.
    pub fn unreachable(why: impl fmt::Display) -> Self {
        let text = format!("no connection: {why}");
        Self::new(ErrorKind::Unreachable, "hyperv.smb_unreachable", text)
            .with_cure(Cure::Reconnect)
            .with_hint(CHECK_HOST)
    }

    /// The host broke the protocol. The connection is of no use any more.
    pub fn protocol(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, "hyperv.smb_protocol", text).with_cure(Cure::Reconnect).with_hint(REPORT)
    }

    pub fn is_not_found(&self) -> bool {
        self.code == "hyperv.file_missing"
    }

    /// Another connection may get further.
    pub fn wants_connection(&self) -> bool {
        matches!(self.cure, Cure::Reconnect | Cure::Silent)
    }

    /// The error for callers outside.
    pub fn during(self, host: &str, attempt: impl Into<String>) -> HostError {
        HostError {
            kind: self.kind,
            code: self.code,
            host: host.to_owned(),
            attempt: attempt.into(),
            reason: self.text,
            hint: self.hint.into(),
            source: None,
        }
    }
}

/// A status that is not success.
pub(super) fn of_status(status: NtStatus) -> Failure {
    let (kind, code, cure, hint, text) = sort(status);
    Failure { kind, code, cure, hint, text: format!("{text} ({status})") }
}

fn sort(status: NtStatus) -> (ErrorKind, &'static str, Cure, &'static str, &'static str) {
    use ErrorKind as Kind;
    match status {
        NtStatus::OBJECT_NAME_NOT_FOUND
        | NtStatus::OBJECT_PATH_NOT_FOUND
        | NtStatus::NO_SUCH_FILE
        | NtStatus::NOT_FOUND => (Kind::NotFound, "hyperv.file_missing", Cure::None, "", "there is no such file"),
        NtStatus::FILE_IS_A_DIRECTORY => (Kind::Refused, "hyperv.not_a_file", Cure::None, "", "it is a folder"),
        NtStatus::DELETE_PENDING => {
            (Kind::Busy, "hyperv.file_in_use", Cure::Wait, CHECK_HOLDER, "the file is being deleted")
        }
        NtStatus::OBJECT_NAME_COLLISION => (Kind::Refused, "hyperv.file_exists", Cure::None, "", "the file exists"),
        NtStatus::DISK_FULL => (Kind::NoSpace, "hyperv.no_space", Cure::None, "", "the volume is full"),
        QUOTA_EXCEEDED | DISK_QUOTA_EXCEEDED => {
            (Kind::NoSpace, "hyperv.no_space", Cure::None, "", "the account's quota on the volume is used up")
        }
        NtStatus::ACCESS_DENIED | NtStatus::CANNOT_DELETE => {
            (Kind::Permission, "hyperv.smb_denied", Cure::None, CHECK_RIGHTS, "the host denies this account access")
        }
        MEDIA_WRITE_PROTECTED => {
            (Kind::Permission, "hyperv.smb_denied", Cure::None, "", "the volume or share is read-only")
        }
        NtStatus::LOGON_FAILURE => {
            (Kind::Login, "hyperv.smb_login", Cure::None, CHECK_ACCOUNT, "the host refuses this account and password")
        }
        NtStatus::PASSWORD_EXPIRED | NtStatus::PASSWORD_MUST_CHANGE => {
            (Kind::Login, "hyperv.smb_login", Cure::None, "", "the account's password has expired")
        }
        NtStatus::ACCOUNT_DISABLED
        | NtStatus::ACCOUNT_EXPIRED
        | NtStatus::ACCOUNT_LOCKED_OUT
        | NtStatus::ACCOUNT_RESTRICTION
        | NtStatus::INVALID_LOGON_HOURS
        | NtStatus::INVALID_WORKSTATION => {
            (Kind::Login, "hyperv.smb_login", Cure::None, "", "the account is disabled, locked or restricted")
        }
        NtStatus::BAD_NETWORK_NAME | NtStatus::BAD_NETWORK_PATH => {
            (Kind::NotFound, "hyperv.share_missing", Cure::None, CHECK_SHARE, "the host has no share of that name")
        }
        NtStatus::END_OF_FILE => (
            Kind::Protocol,
            "hyperv.file_changed",
            Cure::None,
            "",
            "the file is shorter than it was when it was opened",
        ),
        NtStatus::SHARING_VIOLATION | NtStatus::FILE_LOCK_CONFLICT => {
            (Kind::Busy, "hyperv.file_in_use", Cure::Wait, CHECK_HOLDER, "another program holds the file open")
        }
        NtStatus::NETWORK_NAME_DELETED
        | NtStatus::USER_SESSION_DELETED
        | NtStatus::NETWORK_SESSION_EXPIRED
        | NtStatus::FILE_CLOSED => {
            (Kind::Interrupted, "hyperv.smb_lost", Cure::Reconnect, CHECK_HOST, "the host ended the session")
        }
        NtStatus::INSUFFICIENT_RESOURCES | NtStatus::INSUFF_SERVER_RESOURCES => {
            (Kind::Busy, "hyperv.smb_refused", Cure::Wait, "", "the host is short of memory")
        }
        _ => (Kind::Refused, "hyperv.smb_refused", Cure::None, "", "the host refused"),
    }
}

/// What the protocol's crate says while signing in, or of a message it cannot read.
#[allow(clippy::needless_pass_by_value)] // for `map_err`
pub(super) fn of_error(error: smb2::Error) -> Failure {
    use smb2::Error;
    if let Some(status) = error.status() {
        return of_status(status);
    }
    match &error {
        Error::GuestSessionRefused { .. } => {
            let text = "the host does not know this account and offers a guest session instead";
            Failure::new(ErrorKind::Login, "hyperv.smb_login", text).with_hint(CHECK_ACCOUNT)
        }
        Error::Auth { .. } => {
            Failure::new(ErrorKind::Login, "hyperv.smb_login", error.to_string()).with_hint(CHECK_ACCOUNT)
        }
        Error::Disconnected | Error::SendFailed { .. } | Error::SessionExpired | Error::Io(_) => Failure::lost(&error),
        Error::Timeout | Error::ServerUnresponsive { .. } | Error::SendTimeout { .. } => {
            let text = format!("the host does not answer: {error}");
            Failure { cure: Cure::Silent, text, ..Failure::silent(Duration::ZERO) }
        }
        _ => Failure::protocol(error.to_string()),
    }
}

/// As the disk crate's traits carry it; [`carried`] finds it again.
pub(super) fn into_io(error: HostError) -> io::Error {
    let kind = match error.kind {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        ErrorKind::Permission => io::ErrorKind::PermissionDenied,
        ErrorKind::Timeout => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// Errors within errors that are looked through.
const CAUSES_MAX: usize = 16;

/// The host's error that lies underneath another one.
pub(super) fn carried<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a HostError> {
    let mut next: Option<&'a (dyn std::error::Error + 'static)> = Some(error);
    for _ in 0..CAUSES_MAX {
        let error = next?;
        if let Some(found) = error.downcast_ref::<HostError>() {
            return Some(found);
        }
        // An I/O error hides what it wraps from `source`, and a shared one hides the I/O error.
        let inside = match (error.downcast_ref::<io::Error>(), error.downcast_ref::<std::sync::Arc<io::Error>>()) {
            (Some(io), _) => io.get_ref().map(|inside| inside as &(dyn std::error::Error + 'static)),
            (None, Some(shared)) => Some(shared.as_ref() as &(dyn std::error::Error + 'static)),
            (None, None) => None,
        };
        next = inside.or_else(|| error.source());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_hosts_error_is_found_under_what_the_disk_crate_makes_of_it() {
        let host = Failure::lost("x").during("hv", "read");
        let shared = Arc::new(into_io(host));
        let again = io::Error::new(shared.kind(), shared);
        let disk = disk::DiskError::Read { format: "VHDX", source: again };
        let outer = disk::DiskError::InImage { image: "a".into(), source: Box::new(disk) };
        assert_eq!(carried(&outer).map(|error| error.code), Some("hyperv.smb_lost"));
        let other = disk::DiskError::Malformed { format: "VHDX", reason: String::new() };
        assert!(carried(&other).is_none());
    }

    #[test]
    fn a_denial_names_the_policy() {
        let error = of_status(NtStatus::ACCESS_DENIED).during("hv", "open");
        assert_eq!(error.kind, ErrorKind::Permission);
        assert!(error.hint.contains("LocalAccountTokenFilterPolicy"));
    }
}
