//! What SMB and NFS locations have in common. Owns the small trait that each protocol implements, the kinds of failure
//! and what cures them, and pieces of a transfer. Must never know a protocol. Next: `objects` (the five verbs).

mod objects;
mod patience;

use bytes::{Bytes, BytesMut};
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use super::BackendErrorKind;
pub(super) use objects::ShareBackend;
pub(super) use patience::{CEILING_FACTOR, MOVEMENT_BYTES_MIN, watch, watch_own};

/// Where objects are written before they get their names.
pub(super) const TEMPORARY_FOLDER: &str = "tmp";
/// Longest object that is read whole.
pub(super) const OBJECT_BYTES_MAX: u64 = 1 << 30;
/// Longest path of the location's folder inside a share or export.
const FOLDER_BYTES_MAX: usize = 1024;

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cure {
    /// Nothing: the server said no.
    None,
    /// The connection or session is gone, or was never made; another one may work.
    Reconnect,
    /// The server is silent. Trying again would only wait once more, but the connection is of no use either.
    Silent,
    /// Somebody else is in the way for a moment.
    Wait,
}

/// A failed request.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub kind: BackendErrorKind,
    pub cure: Cure,
    /// The protocol's own number for it, or 0.
    pub code: u32,
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// A failure that nothing cures.
    pub fn new(kind: BackendErrorKind, text: impl Into<String>) -> Self {
        Self { kind, cure: Cure::None, code: 0, text: text.into() }
    }

    /// The same, with what cures it.
    pub fn with_cure(self, cure: Cure) -> Self {
        Self { cure, ..self }
    }

    /// Nothing has moved on the connection for so long.
    pub fn silent(patience: Duration) -> Self {
        let text = format!("the server has not answered for {} s", patience.as_secs());
        Self::new(BackendErrorKind::Unreachable, text).with_cure(Cure::Silent)
    }

    /// The same, of another kind.
    pub fn with_kind(self, kind: BackendErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// The same with the protocol's number.
    pub fn with_code(self, code: u32) -> Self {
        Self { code, ..self }
    }

    /// True when the request may have taken effect although it failed.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self.cure, Cure::Reconnect | Cure::Silent)
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == BackendErrorKind::NotFound
    }
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Last write in seconds since any fixed moment, by the server's clock.
    pub written_at: u64,
    pub kind: EntryKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Folder,
    /// A link, a device: nothing of ours.
    Strange,
}

/// Whether a temporary file got its name, found out after the answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It has it.
    Published,
    /// It has not, and the name is free.
    NotPublished,
    /// It has not, and another has.
    Taken,
    /// It cannot be told.
    Unknown,
}

/// A connection to a share, joined at the location's folder. Paths are relative to that, of valid object names; the
/// empty path is the folder itself. Clones share the connection.
pub(super) trait Share: Clone + Send + Sync + 'static {
    type Options: Send + Sync + 'static;
    /// An open file.
    type File: Send + Sync;
    /// True when `publish` gives a second name, so that the temporary one has to be removed.
    const KEEPS_TEMPORARY: bool;

    /// Connects and signs in. Does not look for the location's folder.
    fn connect(options: &Self::Options) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// True when nothing can be asked any more.
    fn is_dead(&self) -> bool;

    /// Most bytes in one `read` and one `write`.
    fn piece_bytes(&self) -> (u64, u64);

    /// Succeeds when the location's own folder is there, and is `NotFound` when it is not.
    fn find_root(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes the location's own folder, with its parents.
    fn make_root(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes a folder whose parent is there; one that is there already is fine.
    fn make_folder(&self, path: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes a new file. Also the server's clock in seconds.
    fn create(&self, path: &str) -> impl Future<Output = Result<(Self::File, u64), Failure>> + Send;

    /// Writes at most a piece. How many bytes of it were written: servers may take less than they are given.
    fn write(&self, file: &Self::File, offset: u64, data: Bytes)
    -> impl Future<Output = Result<usize, Failure>> + Send;

    /// Makes what was written durable.
    fn sync(&self, file: &Self::File) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Gives a file made by `create` its name, durably, never replacing one.
    fn publish(
        &self,
        file: &Self::File,
        temporary: &str,
        path: &str,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether `publish` took effect; the file may be of a connection that is gone.
    fn settle(
        &self,
        file: &Self::File,
        temporary: &str,
        path: &str,
    ) -> impl Future<Output = Result<Settled, Failure>> + Send;

    /// Opens an existing file for reading; its length.
    fn open(&self, path: &str) -> impl Future<Output = Result<(Self::File, u64), Failure>> + Send;

    /// Exactly `length` bytes, at most a piece.
    fn read(&self, file: &Self::File, offset: u64, length: u64) -> impl Future<Output = Result<Bytes, Failure>> + Send;

    /// Lets go of a file.
    fn close(&self, file: Self::File) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The length of a file.
    fn look_up(&self, path: &str) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// Removes a file; true when it was there.
    fn remove(&self, path: &str) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Everything in a folder, in any order, without `.` and `..`.
    fn list_folder(&self, path: &str) -> impl Future<Output = Result<Vec<Entry>, Failure>> + Send;
}

/// Writes a piece to its end.
pub(super) async fn write_whole<S: Share>(
    session: &S,
    file: &S::File,
    mut offset: u64,
    mut data: Bytes,
) -> Result<(), Failure> {
    while !data.is_empty() {
        let count = session.write(file, offset, data.clone()).await?;
        if count == 0 || count > data.len() {
            let text = format!("the server wrote {count} of {} bytes", data.len());
            let kind = if count == 0 { BackendErrorKind::OutOfSpace } else { BackendErrorKind::Other };
            return Err(Failure::new(kind, text));
        }
        data = data.split_off(count);
        offset += count as u64;
    }
    Ok(())
}

/// The parts of the location's folder, each a name that stands for nothing else on a server.
pub(super) fn folder_parts(folder: &str) -> Option<Vec<&str>> {
    if folder.len() > FOLDER_BYTES_MAX {
        return None;
    }
    let parts: Vec<&str> = folder.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    let is_plain =
        |part: &&str| *part != "." && *part != ".." && !part.chars().any(|c| c.is_control() || ":*?\"<>|".contains(c));
    parts.iter().all(is_plain).then_some(parts)
}

/// A range in pieces of at most `length`.
fn pieces(range: Range<u64>, length: u64) -> impl Iterator<Item = Range<u64>> {
    let length = length.max(1);
    (0..(range.end - range.start).div_ceil(length)).map(move |number| {
        let start = range.start + number * length;
        start..(start + length).min(range.end)
    })
}

/// The parts of an object as pieces of equal length, copied only where a piece spans parts.
struct Gather<'a> {
    parts: &'a [Bytes],
    /// Bytes of the first part that are used up.
    used: usize,
    length: usize,
}

impl Iterator for Gather<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut piece = BytesMut::new();
        while let Some((first, others)) = self.parts.split_first() {
            let rest = first.len() - self.used;
            let wanted = (self.length - piece.len()).min(rest);
            let slice = first.slice(self.used..self.used + wanted);
            if wanted == rest {
                (self.parts, self.used) = (others, 0);
            } else {
                self.used += wanted;
            }
            if wanted == self.length {
                return Some(slice);
            }
            if piece.is_empty() {
                piece.reserve(self.length);
            }
            piece.extend_from_slice(&slice);
            if piece.len() == self.length {
                break;
            }
        }
        (!piece.is_empty()).then(|| piece.freeze())
    }
}

/// The parts in pieces of at most `length` bytes.
fn gather(parts: &[Bytes], length: u64) -> Gather<'_> {
    Gather { parts, used: 0, length: length.max(1) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_the_parts_in_order(lengths in proptest::collection::vec(0usize..40, 0..12), length in 1u64..50) {
            let whole: Vec<u8> = (0..lengths.iter().sum::<usize>()).map(|byte| byte as u8).collect();
            let mut rest = Bytes::from(whole.clone());
            let parts: Vec<Bytes> = lengths.iter().map(|&length| rest.split_to(length)).collect();
            let gathered: Vec<Bytes> = gather(&parts, length).collect();
            prop_assert_eq!(gathered.concat(), whole.clone());
            let ranges: Vec<u64> = pieces(0..whole.len() as u64, length).map(|range| range.end - range.start).collect();
            let lengths: Vec<u64> = gathered.iter().map(|piece| piece.len() as u64).collect();
            prop_assert_eq!(ranges, lengths);
        }
    }

    #[test]
    fn a_folder_stays_inside_its_share() {
        assert_eq!(folder_parts("a/b c\\d/"), Some(vec!["a", "b c", "d"]));
        assert_eq!(folder_parts(""), Some(vec![]));
        for folder in ["..", "a/../b", "a/./b", "a:b", "a\0b"] {
            assert_eq!(folder_parts(folder), None, "{folder:?}");
        }
    }
}
