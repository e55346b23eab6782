//! What can go wrong with a repository, and where. Texts name the object, machine, disk and bytes; never a secret.

use domain::Extent;

use crate::backend::BackendError;
use crate::point::PointId;

/// A failed read of the disk being backed up, as the caller's source gave it. Can be downcast.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Shorthand of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything this crate fails with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The place exists or not, but holds no repository.
    #[error("{place} is not a repository: {reason}")]
    NotARepository { place: String, reason: &'static str },
    /// `init` was asked to create a repository over something else.
    #[error("{place} is not empty: a new repository needs a place of its own")]
    NotEmpty { place: String },
    /// No key slot opens with this passphrase.
    #[error(
        "the passphrase does not open the repository in {place}: check for capitals and the keyboard's language, or use \
         the recovery key"
    )]
    WrongPassphrase { place: String },
    /// A recovery key whose check characters hold, but no slot opens with it.
    #[error(
        "the recovery key is typed correctly but does not open the repository in {place}: it belongs to another \
         repository, or was replaced by a newer one"
    )]
    WrongRecoveryKey { place: String },
    /// It looks like a recovery key, but its check characters do not match.
    #[error(
        "the recovery key is mistyped: its check characters do not match; compare it with the paper group by group"
    )]
    MistypedRecoveryKey,
    /// No key slot is left that this kind of secret could open.
    #[error(
        "no key slot for a {kind} is left in {place}: put the files of its folder keys/ back from a copy{}",
        if *other { " or use the other secret, for which there is one" } else { "; without one nothing can be read" }
    )]
    NoKeySlot { place: String, kind: &'static str, other: bool },
    /// The key slots this kind of secret could open are damaged.
    #[error(
        "key slot {object} is damaged, {reason}: put that file back from a copy, or open the repository with the other \
         secret, passphrase or recovery key"
    )]
    KeySlotDamaged { object: String, reason: String },
    /// Sealed with keys made after this program opened the repository.
    #[error(
        "{object} is sealed with keys of generation {generation}, this program holds those up to {newest}: the keys were \
         rotated; enter the repository's present passphrase again"
    )]
    KeysRotated { object: String, generation: u8, newest: u8 },
    /// Somebody else changed the key slots at the same time; nothing was changed here.
    #[error("the keys in {place} are being changed by somebody else: try again when that is done")]
    KeysBusy { place: String },
    /// No such key slot.
    #[error("there is no key slot {id} in {place}")]
    NoSuchKeySlot { place: String, id: String },
    /// Removing it might leave nothing that opens the repository.
    #[error("key slot {id} is the one that opened: it is removed with the help of another passphrase or recovery key")]
    KeySlotInUse { id: String },
    /// An object does not hold what was written into it.
    #[error("{object} is damaged: {reason}")]
    Damaged { object: String, reason: String },
    /// An object or chunk that others refer to is gone.
    #[error("{object} is missing")]
    Missing { object: String },
    /// Written by a newer program.
    #[error("{object} has format version {version}, this program knows version {known}")]
    UnknownVersion { object: String, version: u32, known: u32 },
    /// Part of a disk of a restore point cannot be read.
    #[error("disk {disk} of {machine} at restore point {point} cannot be read at {}+{}", extent.offset, extent.length)]
    DiskDamaged { point: PointId, machine: String, disk: i32, extent: Extent, source: Box<Error> },
    /// The storage location refused or failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The disk being backed up could not be read.
    #[error("disk {disk} could not be read from its host at byte {offset}")]
    Source { disk: i32, offset: u64, source: SourceError },
    /// The source gave fewer or more bytes than the range it was asked for.
    #[error("disk {disk}: the host sent {got} bytes at byte {offset}, {wanted} were asked for")]
    SourceLength { disk: i32, offset: u64, wanted: u64, got: u64 },
    /// What was read could not be put where the caller wants it.
    #[error("disk {disk} could not be written at byte {offset}")]
    Sink { disk: i32, offset: u64, source: std::io::Error },
    /// The read plan does not fit the disk or its base.
    #[error("disk {disk} cannot be backed up as planned: {reason}")]
    Plan { disk: i32, reason: String },
    /// The writer could not show in time that it is alive; the point was given up. Trying again helps.
    #[error("restore point {point} was given up: its writer could not renew its lease in {place} in time")]
    LeaseLost { point: PointId, place: String },
    /// The index said that a pack is there, and it is not. Trying again helps: its chunks are stored again.
    #[error("{object} is gone, to which restore point {point} refers; it was given up")]
    ReferredGone { point: PointId, object: String },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// No such restore point here.
    #[error("restore point {0} is not in this repository")]
    NoSuchPoint(PointId),
    /// A restore point of that id is there already.
    #[error("restore point {0} exists already")]
    PointExists(PointId),
    /// The point has no disk of that key.
    #[error("restore point {point} has no disk {disk}")]
    NoSuchDisk { point: PointId, disk: i32 },
    /// A read that starts or ends after the disk does.
    #[error("disk {disk} is {size} bytes long: {}+{} is outside", extent.offset, extent.length)]
    OutOfRange { disk: i32, size: u64, extent: Extent },
    /// An option or value outside its limits.
    #[error("{what} is outside its limits: {value}")]
    Limit { what: &'static str, value: u64 },
    /// A defect of this program; says which step.
    #[error("internal failure in {0}")]
    Internal(&'static str),
}

impl Error {
    /// A damaged object.
    pub(crate) fn damaged(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged { object: object.into(), reason: reason.into() }
    }

    /// True when what the repository holds is at fault (damaged, missing, too new), so that reading everything again helps.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::DiskDamaged { .. }
            | Self::UnknownVersion { .. }
            | Self::NoKeySlot { .. }
            | Self::KeySlotDamaged { .. } => true,
            Self::Backend(error) => error.kind == crate::backend::BackendErrorKind::NotFound,
            _ => false,
        }
    }

    /// True when the storage location is full.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Backend(error) if error.kind == crate::backend::BackendErrorKind::OutOfSpace)
    }
}
