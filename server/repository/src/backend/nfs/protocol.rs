//! NFS version 3 and its mount and port mapper protocols (RFC 1813, RFC 1833): numbers, arguments and results. Owns
//! what a status means. Knows no connection.

use bytes::Bytes;

use super::rpc::INSECURE_HINT;
use super::xdr::{Decoder, Encoder};
use crate::backend::BackendErrorKind;
use crate::backend::share::{Cure, Failure};

/// Programs and their versions.
pub(super) const PORT_MAPPER: (u32, u32) = (100_000, 2);
pub(super) const NFS: (u32, u32) = (100_003, 3);
pub(super) const MOUNT: (u32, u32) = (100_005, 3);
/// Where the port mapper listens.
pub(super) const PORT_MAPPER_PORT: u16 = 111;

/// Procedures.
pub(super) const PORT_MAPPER_GETPORT: u32 = 3;
pub(super) const MOUNT_MNT: u32 = 1;
pub(super) const MOUNT_EXPORT: u32 = 5;
pub(super) const GETATTR: u32 = 1;
pub(super) const LOOKUP: u32 = 3;
pub(super) const READ: u32 = 6;
pub(super) const WRITE: u32 = 7;
pub(super) const CREATE: u32 = 8;
pub(super) const MKDIR: u32 = 9;
pub(super) const REMOVE: u32 = 12;
pub(super) const LINK: u32 = 15;
pub(super) const READDIRPLUS: u32 = 17;
pub(super) const FSINFO: u32 = 19;
pub(super) const COMMIT: u32 = 21;

/// `createmode3` GUARDED: an existing file is an error.
pub(super) const GUARDED: u32 = 1;
/// `stable_how`: `UNSTABLE` and `FILE_SYNC`.
pub(super) const UNSTABLE: u32 = 0;
pub(super) const FILE_SYNC: u32 = 2;
/// `IPPROTO_TCP`.
pub(super) const TCP: u32 = 6;
/// `properties` of FSINFO: hard links are there.
pub(super) const HAS_LINKS: u32 = 1;

/// Statuses that are looked at by number.
pub(super) const NOENT: u32 = 2;
pub(super) const BAD_COOKIE: u32 = 10_003;

/// Longest file handle and name in bytes.
pub(super) const HANDLE_BYTES_MAX: usize = 64;
pub(super) const NAME_BYTES_MAX: usize = 1024;
/// Exports, and groups of an export, that a list may have.
const EXPORTS_MAX: usize = 10_000;
const GROUPS_MAX: usize = 10_000;
/// Flavours of authentication that a mount reply may list.
const FLAVOURS_MAX: u32 = 64;

/// A server's name for a file or folder.
pub(super) type FileHandle = Bytes;
/// Changes when a server may have lost what was not committed.
pub(super) type WriteVerifier = [u8; 8];

/// Of the attributes of a file (`fattr3`), those that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    kind: u32,
    pub size: u64,
    pub file_id: u64,
    /// Seconds by the server's clock.
    pub modified_at: u64,
}

impl Attributes {
    pub fn is_file(&self) -> bool {
        self.kind == 1
    }

    pub fn is_folder(&self) -> bool {
        self.kind == 2
    }
}

pub(super) fn attributes(reply: &mut Decoder) -> Result<Attributes, Failure> {
    let kind = reply.u32()?;
    reply.skip(16)?; // mode, links, owner, group
    let size = reply.u64()?;
    reply.skip(24)?; // space used, device, file system
    let file_id = reply.u64()?;
    reply.skip(8)?; // last access
    let modified_at = reply.u32()?.into();
    reply.skip(12)?; // its nanoseconds, and when the attributes changed
    Ok(Attributes { kind, size, file_id, modified_at })
}

/// `post_op_attr`.
pub(super) fn some_attributes(reply: &mut Decoder) -> Result<Option<Attributes>, Failure> {
    if reply.bool()? { attributes(reply).map(Some) } else { Ok(None) }
}

/// `post_op_fh3`.
pub(super) fn some_handle(reply: &mut Decoder) -> Result<Option<FileHandle>, Failure> {
    if reply.bool()? { handle(reply).map(Some) } else { Ok(None) }
}

pub(super) fn handle(reply: &mut Decoder) -> Result<FileHandle, Failure> {
    // Copied: a slice would keep the whole reply.
    Ok(Bytes::copy_from_slice(&reply.opaque(HANDLE_BYTES_MAX)?))
}

/// `wcc_data`.
pub(super) fn skip_change(reply: &mut Decoder) -> Result<(), Failure> {
    if reply.bool()? {
        reply.skip(24)?;
    }
    some_attributes(reply).map(drop)
}

pub(super) fn verifier(reply: &mut Decoder) -> Result<WriteVerifier, Failure> {
    let bytes = reply.fixed(8)?;
    Ok(bytes.as_ref().try_into().unwrap_or_default())
}

/// `sattr3` with a mode and nothing else.
pub(super) fn with_mode(arguments: Encoder, mode: u32) -> Encoder {
    arguments.u32(1).u32(mode).u32(0).u32(0).u32(0).u32(0).u32(0)
}

/// Reads a status; anything but success is a failure.
pub(super) fn check(reply: &mut Decoder) -> Result<(), Failure> {
    match reply.u32()? {
        0 => Ok(()),
        status => Err(of_status(status)),
    }
}

fn of_status(status: u32) -> Failure {
    use BackendErrorKind as Kind;
    let (kind, cure, text) = match status {
        1 | 13 => (Kind::Forbidden, Cure::None, "the server denies this user access"),
        NOENT | 20 | 21 => (Kind::NotFound, Cure::None, "there is no such file or folder"),
        17 => (Kind::AlreadyExists, Cure::None, "the name is taken"),
        27 | 28 => (Kind::OutOfSpace, Cure::None, "the server's disk is full"),
        69 => (Kind::OutOfSpace, Cure::None, "the user's quota on the server is used up"),
        30 => (Kind::Forbidden, Cure::None, "the export is read-only"),
        31 | 10_004 => (Kind::Unsuitable, Cure::None, "the server's file system cannot do this"),
        63 => (Kind::BadName, Cure::None, "the name is too long for the server"),
        // A handle that was good once: the file or the export was replaced. What is there now is found from the start.
        70 | 10_001 => (Kind::Other, Cure::Reconnect, "the file or export was replaced on the server"),
        10_008 => (Kind::Other, Cure::Wait, "the server is busy"),
        _ => (Kind::Other, Cure::None, "the server failed"),
    };
    Failure::new(kind, format!("{text} (NFS status {status})")).with_cure(cure).with_code(status)
}

/// The handle of an export, out of the reply to MNT.
pub(super) fn mounted(reply: &mut Decoder, export: &str) -> Result<FileHandle, Failure> {
    let failure = match reply.u32()? {
        0 => {
            let root = handle(reply)?;
            let flavours = reply.u32()?;
            if flavours > FLAVOURS_MAX {
                return Err(Failure::new(BackendErrorKind::Other, "the server lists too many ways to authenticate"));
            }
            return Ok(root);
        }
        NOENT | 20 => Failure::new(BackendErrorKind::NoLocation, format!("the server exports no {export}")),
        status @ (1 | 13) => {
            let text = format!("the server does not let us use {export} (mount status {status}): {INSECURE_HINT}");
            Failure::new(BackendErrorKind::Forbidden, text)
        }
        status => Failure::new(BackendErrorKind::Other, format!("the server failed (mount status {status})")),
    };
    Err(failure)
}

/// Whether a list of exports, the reply to EXPORT, has this path or a folder above it.
pub(super) fn is_exported(reply: &mut Decoder, export: &str) -> Result<bool, Failure> {
    let too_many = || Failure::new(BackendErrorKind::Other, "the server has too many exports");
    let mut is_there = false;
    for _ in 0..EXPORTS_MAX {
        if !reply.bool()? {
            return Ok(is_there);
        }
        let path = reply.opaque(NAME_BYTES_MAX)?;
        let above = path.strip_suffix(b"/").unwrap_or(&path);
        is_there |= export.as_bytes().strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        let mut groups = 0;
        while reply.bool()? {
            reply.opaque(NAME_BYTES_MAX)?;
            groups += 1;
            if groups > GROUPS_MAX {
                return Err(too_many());
            }
        }
    }
    Err(too_many())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_found_in_the_list() {
        let list = || {
            let list = Encoder::default().u32(1).opaque(b"/a").u32(1).opaque(b"host").u32(0);
            Decoder::new(list.u32(1).opaque(b"/b/c").u32(0).u32(0).finish())
        };
        for (path, is_there) in [("/a", true), ("/a/x", true), ("/ab", false), ("/b/c", true), ("/b", false)] {
            assert_eq!(is_exported(&mut list(), path).unwrap(), is_there, "{path}");
        }
        assert!(is_exported(&mut Decoder::new(Encoder::default().u32(1).finish()), "/a").is_err());
    }
}
