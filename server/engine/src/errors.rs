//! From the errors of the crates below to the error a job ends with: what, why, what to do, and whether to try again.
//!
//! Owns: dispositions and the engine's own codes, listed in `docs/error-codes.md`.
//! Must never: drop the host's or the system's own words.

use domain::job::{Disposition, JobError};
use hypervisor::{ErrorKind, HostError};
use repository::{BackendErrorKind, Error as RepositoryError};
use std::error::Error;

/// What to do about a repository that is not where it should be.
pub const FOLDER_HINT: &str =
    "Check that the folder is there and, if it lies on another disk or share, that this is mounted.";

/// Longest chain of causes that is written out.
const MAX_CAUSES: usize = 8;

/// An error with its causes, each once: `a: b: c`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    with_causes(error.to_string(), error.source())
}

/// The chain as a sentence.
fn said(error: &(dyn Error + 'static)) -> String {
    sentence(chain(error))
}

/// Ends like a sentence: the pieces of an error are shown one after the other.
pub(crate) fn sentence(mut text: String) -> String {
    if text.ends_with(|last: char| !matches!(last, '.' | ':' | '…')) {
        text.push('.');
    }
    text
}

/// The task requires a quiesced guest, and nothing that happens by itself makes it one.
pub fn not_quiesced(what: &str, why: impl Into<String>) -> JobError {
    JobError::fail(
        "vm.not_quiesced",
        what,
        why,
        "Look at the guest’s VMware Tools or integration services, or choose in the task to quiesce “if possible”.",
    )
}

/// A host's error. `what` says what the job was doing, naming the machine.
pub fn host(what: &str, error: &HostError) -> JobError {
    let why = format!("{}, {}: {}", error.host, error.attempt, error.reason);
    JobError {
        disposition: host_disposition(error.kind),
        code: error.code.to_owned(),
        what: what.to_owned(),
        why: sentence(with_causes(why, Error::source(error))),
        hint: sentence(error.hint.clone()),
    }
}

/// Refusals and full datastores often pass by themselves; wrong credentials and missing rights do not.
const fn host_disposition(kind: ErrorKind) -> Disposition {
    match kind {
        ErrorKind::Unreachable
        | ErrorKind::Busy
        | ErrorKind::Refused
        | ErrorKind::Protocol
        | ErrorKind::Timeout
        | ErrorKind::Interrupted
        | ErrorKind::NoSpace => Disposition::Retry,
        ErrorKind::CertificateChanged
        | ErrorKind::Tls
        | ErrorKind::Login
        | ErrorKind::Permission
        | ErrorKind::Licence
        | ErrorKind::NotFound
        | ErrorKind::Unsupported => Disposition::Fail,
    }
}

fn with_causes(mut text: String, mut cause: Option<&(dyn Error + 'static)>) -> String {
    for _ in 0..MAX_CAUSES {
        let Some(inner) = cause else { break };
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}

/// The location's own failures.
fn storage(what: &str, kind: BackendErrorKind, why: String) -> JobError {
    match kind {
        BackendErrorKind::Forbidden => JobError::fail(
            "repository.forbidden",
            what,
            why,
            "Let the account that runs the server, or the location’s own account, read and write there.",
        ),
        BackendErrorKind::NoLocation => JobError::fail("repository.not_found", what, why, FOLDER_HINT),
        BackendErrorKind::Unauthorized => {
            JobError::fail("repository.login", what, why, "Check the location’s account and its password or key.")
        }
        BackendErrorKind::Unreachable => {
            JobError::retry("repository.unreachable", what, why, "Check that the server is on and the network works.")
        }
        BackendErrorKind::ClockSkew => {
            JobError::fail("repository.clock", what, why, "Set the clocks here and at the storage, by NTP for example.")
        }
        BackendErrorKind::Locked => {
            JobError::fail("repository.locked", what, why, "It can be removed when its retention ends.")
        }
        BackendErrorKind::Unsuitable => {
            JobError::fail("repository.unsuitable", what, why, "Choose another location, or change its settings.")
        }
        _ => JobError::retry("repository.storage", what, why, "Check the location and its disk."),
    }
}

/// A repository's error; a host's error underneath keeps its own words.
pub fn repository(what: &str, error: &RepositoryError) -> JobError {
    if let RepositoryError::Source { source, .. } = error {
        return match source.downcast_ref::<HostError>() {
            Some(host_error) => host(what, host_error),
            None => JobError::retry("backup.read_failed", what, source.to_string(), ""),
        };
    }
    if error.is_out_of_space() {
        return JobError::retry(
            "repository.no_space",
            what,
            said(error),
            "Free space at the location, then try again.",
        );
    }
    match error {
        RepositoryError::Cancelled => JobError::cancelled(what),
        RepositoryError::WrongPassphrase { .. }
        | RepositoryError::WrongRecoveryKey { .. }
        | RepositoryError::MistypedRecoveryKey => JobError::fail(
            "repository.wrong_passphrase",
            what,
            said(error),
            "Enter the passphrase that was chosen when the repository was made, or its recovery key.",
        ),
        RepositoryError::KeysRotated { .. } => JobError::fail(
            "repository.keys_rotated",
            what,
            said(error),
            "Enter the passphrase that was chosen when the keys were rotated, or the recovery key printed then.",
        ),
        RepositoryError::NoKeySlot { .. } | RepositoryError::KeySlotDamaged { .. } => JobError::fail(
            "repository.key_slots",
            what,
            said(error),
            "Put the files of the repository's folder “keys” back from a copy, or enter the other secret.",
        ),
        RepositoryError::NotARepository { .. } => {
            JobError::fail("repository.not_found", what, said(error), FOLDER_HINT)
        }
        RepositoryError::NotEmpty { .. } => {
            JobError::fail("repository.not_empty", what, said(error), "Choose an empty or a new folder.")
        }
        RepositoryError::UnknownVersion { .. } => JobError::fail(
            "repository.newer_version",
            what,
            said(error),
            "Update this server to the version that wrote the repository.",
        ),
        RepositoryError::NoSuchPoint(_) => JobError::fail(
            "repository.point_missing",
            what,
            said(error),
            "Choose another restore point: this one was removed from the repository.",
        ),
        RepositoryError::LeaseLost { .. } => JobError::retry(
            "repository.lease_lost",
            what,
            said(error),
            "The location or this server stood still for too long. Nothing was lost; look at both, then try again.",
        ),
        RepositoryError::ReferredGone { .. } => {
            JobError::retry("repository.pack_gone", what, said(error), "Verify the repository if it happens again.")
        }
        RepositoryError::SourceLength { .. } => {
            JobError::retry("backup.read_length", what, said(error), "Look at the host's log, then try again.")
        }
        RepositoryError::Plan { .. } => JobError::fail("backup.plan", what, said(error), ""),
        _ if error.is_damage() => JobError::fail(
            "repository.damaged",
            what,
            said(error),
            "Verify the repository to see what else is affected. Other restore points may be whole.",
        ),
        RepositoryError::Backend(backend) => storage(what, backend.kind, said(error)),
        _ => JobError::retry("repository.storage", what, said(error), "Check the location and its disk."),
    }
}

/// A database error.
pub fn database(what: &str, error: &db::Error) -> JobError {
    if let db::Error::NotFound { .. } = error {
        return JobError::fail("job.row_gone", what, format!("Meanwhile the {error}."), "");
    }
    JobError::retry("db.unavailable", what, said(error), "Check the server's database.")
}
