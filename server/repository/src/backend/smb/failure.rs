//! What can go wrong between here and an SMB server, told so that an operator knows what to do.

use crate::backend::BackendErrorKind;
use crate::backend::share::{Cure, Failure};
use smb2::Error;
use smb2::types::status::NtStatus;

/// Statuses that the client library has no names for: MS-ERREF 2.3.1.
const MEDIA_WRITE_PROTECTED: NtStatus = NtStatus(0xC000_00A2);
const QUOTA_EXCEEDED: NtStatus = NtStatus(0xC000_0044);
const DISK_QUOTA_EXCEEDED: NtStatus = NtStatus(0xC000_0802);

/// A status that is not success.
pub(super) fn of_status(status: NtStatus) -> Failure {
    use BackendErrorKind as Kind;
    let (kind, cure, text) = match status {
        NtStatus::OBJECT_NAME_NOT_FOUND
        | NtStatus::OBJECT_PATH_NOT_FOUND
        | NtStatus::NO_SUCH_FILE
        | NtStatus::NOT_FOUND
        | NtStatus::FILE_IS_A_DIRECTORY => (Kind::NotFound, Cure::None, "there is no such file or folder"),
        NtStatus::DELETE_PENDING => (Kind::NotFound, Cure::None, "it is being deleted"),
        NtStatus::OBJECT_NAME_COLLISION => (Kind::AlreadyExists, Cure::None, "the name is taken"),
        NtStatus::DISK_FULL => (Kind::OutOfSpace, Cure::None, "the server's disk is full"),
        QUOTA_EXCEEDED | DISK_QUOTA_EXCEEDED => {
            (Kind::OutOfSpace, Cure::None, "the account's quota on the server is used up")
        }
        NtStatus::ACCESS_DENIED | NtStatus::CANNOT_DELETE => {
            (Kind::Forbidden, Cure::None, "the server denies this account access")
        }
        MEDIA_WRITE_PROTECTED => (Kind::Forbidden, Cure::None, "the share is read-only"),
        NtStatus::LOGON_FAILURE => {
            (Kind::Unauthorized, Cure::None, "the server does not accept this account and password")
        }
        NtStatus::PASSWORD_EXPIRED | NtStatus::PASSWORD_MUST_CHANGE => {
            (Kind::Unauthorized, Cure::None, "the account's password has expired")
        }
        NtStatus::ACCOUNT_DISABLED
        | NtStatus::ACCOUNT_EXPIRED
        | NtStatus::ACCOUNT_LOCKED_OUT
        | NtStatus::ACCOUNT_RESTRICTION
        | NtStatus::INVALID_LOGON_HOURS
        | NtStatus::INVALID_WORKSTATION => {
            (Kind::Unauthorized, Cure::None, "the account is disabled, locked or restricted")
        }
        NtStatus::BAD_NETWORK_NAME | NtStatus::BAD_NETWORK_PATH => {
            (Kind::NoLocation, Cure::None, "the server has no share of that name")
        }
        NtStatus::END_OF_FILE => (Kind::TooShort, Cure::None, "the file ends before the range does"),
        NtStatus::SHARING_VIOLATION | NtStatus::FILE_LOCK_CONFLICT => {
            (Kind::Other, Cure::Wait, "another program holds the file open")
        }
        NtStatus::NETWORK_NAME_DELETED
        | NtStatus::USER_SESSION_DELETED
        | NtStatus::NETWORK_SESSION_EXPIRED
        | NtStatus::FILE_CLOSED => (Kind::Unreachable, Cure::Reconnect, "the server ended the session"),
        NtStatus::INSUFFICIENT_RESOURCES | NtStatus::INSUFF_SERVER_RESOURCES => {
            (Kind::Other, Cure::Wait, "the server is short of memory")
        }
        _ => (Kind::Other, Cure::None, "the server refused"),
    };
    Failure::new(kind, format!("{text} ({status})")).with_cure(cure).with_code(status.0)
}

/// What the client library says.
#[allow(clippy::needless_pass_by_value)] // for `map_err`
pub(super) fn of_error(error: Error) -> Failure {
    use BackendErrorKind as Kind;
    if let Some(status) = error.status() {
        return of_status(status);
    }
    let (kind, cure) = match &error {
        Error::Disconnected
        | Error::SendFailed { .. }
        | Error::SessionExpired
        | Error::HandleInvalidated { .. }
        | Error::ConnectFailed { .. }
        | Error::Io(_) => (Kind::Unreachable, Cure::Reconnect),
        Error::Timeout
        | Error::ServerUnresponsive { .. }
        | Error::SendTimeout { .. }
        | Error::CreditStarvation { .. } => (Kind::Unreachable, Cure::Silent),
        Error::GuestSessionRefused { .. } | Error::Auth { .. } => (Kind::Unauthorized, Cure::None),
        _ => (Kind::Other, Cure::None),
    };
    let text = match (&error, cure) {
        (Error::GuestSessionRefused { .. }, _) => {
            "the server does not know this account and offers a guest session instead".to_owned()
        }
        (Error::ConnectFailed { attempts, .. }, _) => attempts
            .iter()
            .fold("the server cannot be reached".to_owned(), |text, attempt| format!("{text}; {attempt}")),
        (_, Cure::Reconnect) => format!("the connection was lost: {error}"),
        (_, Cure::Silent) => format!("the server does not answer: {error}"),
        _ => error.to_string(),
    };
    Failure::new(kind, text).with_cure(cure)
}
