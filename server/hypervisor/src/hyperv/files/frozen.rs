//! A frozen disk of the host: an image and its parents, read as one.

use super::failure::{Failure, carried};
use super::shares::Access;
use super::source::Folder;
use super::{PIECE_BYTES, PIECES_AHEAD};
use crate::{ErrorKind, HostError, Result};
use bytes::Bytes;
use disk::DiskError;
use disk::container::{ImageInfo, ReadOptions, VirtualDisk};
use domain::Extent;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use std::error::Error;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use uuid::Uuid;

/// Granularity of the list of allocated areas, in bytes.
const ALLOCATED_BYTES: u64 = 64 << 10;
/// Short areas that are fetched side by side.
const AREAS_AHEAD: usize = 16;
/// Errors within errors that are told.
const CAUSES_MAX: usize = 8;

/// A disk that nobody writes to. Cheap to clone; every call is safe to run beside others.
#[derive(Clone)]
pub struct FrozenDisk {
    access: Arc<Access>,
    disk: VirtualDisk,
    path: Arc<str>,
    info: ImageInfo,
}

impl fmt::Debug for FrozenDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenDisk").field("images", &self.disk).finish_non_exhaustive()
    }
}

impl FrozenDisk {
    pub(super) async fn open(access: &Arc<Access>, path: &str) -> Result<Self> {
        let options = ReadOptions { read_bytes: PIECE_BYTES, in_flight: PIECES_AHEAD };
        let opened = VirtualDisk::open(&Folder(access.clone()), path, options).await;
        let disk = opened.map_err(|error| translate(access, path, "open", &error))?;
        let info = disk.images().next().cloned();
        let info =
            info.ok_or_else(|| access.error(Failure::protocol("a chain of no image"), format!("open {path}")))?;
        Ok(Self { access: access.clone(), disk, path: path.into(), info })
    }

    /// Size of the disk in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    /// The disk's own identity: what the guest sees as page 83 of a VHDX, the unique id of a VHD. A child made by a
    /// checkpoint keeps that of its parent.
    pub fn identifier(&self) -> Uuid {
        self.info.disk_id
    }

    /// 512 or 4096.
    pub fn logical_sector_bytes(&self) -> u32 {
        self.info.logical_sector_bytes
    }

    /// 512 or 4096.
    pub fn physical_sector_bytes(&self) -> u32 {
        self.info.physical_sector_bytes
    }

    /// The images of the chain, the child first.
    pub fn images(&self) -> impl Iterator<Item = &ImageInfo> {
        self.disk.images()
    }

    /// The parts that some image holds, sorted and disjoint; everything else is zero.
    pub async fn allocated(&self) -> Result<Vec<Extent>> {
        let found = self.disk.allocated(Extent::new(0, self.size_bytes()), ALLOCATED_BYTES).await;
        found.map_err(|error| translate(&self.access, &self.path, "read the tables of", &error))
    }

    /// The bytes of `range` in order, exactly as many; several requests are under way while the stream is polled.
    pub fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes>> {
        let (access, path) = (self.access.clone(), self.path.clone());
        let pieces = self.disk.stream(range);
        pieces.map(move |piece| piece.map_err(|error| translate(&access, &path, "read", &error))).boxed()
    }

    /// The bytes of many areas in order, each piece with its place on the disk. Short areas are fetched side by side, where
    /// a [`FrozenDisk::stream`] for each would wait for one after the other.
    pub fn stream_areas(&self, areas: Vec<Extent>) -> BoxStream<'static, Result<(u64, Bytes)>> {
        let is_inside =
            |area: &Extent| area.offset.checked_add(area.length).is_some_and(|end| end <= self.size_bytes());
        if let Some(area) = areas.iter().find(|area| !is_inside(area)) {
            let text = format!("{}+{} passes the disk's end at {}", area.offset, area.length, self.size_bytes());
            let failure = Failure::new(ErrorKind::Protocol, "hyperv.areas_outside", text);
            let error = self.access.error(failure, format!("read {:.300}", self.path));
            return stream::once(std::future::ready(Err(error))).boxed();
        }
        let disk = self.clone();
        let pieces = areas.into_iter().flat_map(|area| {
            (0..area.length.div_ceil(PIECE_BYTES as u64)).map(move |index| {
                let offset = area.offset + index * PIECE_BYTES as u64;
                Extent::new(offset, (area.end() - offset).min(PIECE_BYTES as u64))
            })
        });
        let fetch = move |piece: Extent| {
            let disk = disk.clone();
            async move {
                let read = disk.disk.read(piece).await;
                let read = read.map_err(|error| translate(&disk.access, &disk.path, "read", &error));
                read.map(|bytes| (piece.offset, bytes))
            }
        };
        stream::iter(pieces).map(fetch).buffered(AREAS_AHEAD).boxed()
    }
}

/// The host's own error where one lies underneath, else what is wrong with the image.
pub(super) fn translate(access: &Access, path: &str, what: &str, error: &DiskError) -> HostError {
    if let Some(host) = carried(error) {
        let HostError { kind, code, host, attempt, reason, hint, source: _ } = host;
        let (host, attempt, reason, hint) = (host.clone(), attempt.clone(), reason.clone(), hint.clone());
        return HostError { kind: *kind, code, host, attempt, reason, hint, source: None };
    }
    let innermost = match error {
        DiskError::InImage { source, .. } => source,
        other => other,
    };
    let (kind, code, hint) = match innermost {
        DiskError::Parent { .. } => {
            (ErrorKind::NotFound, "hyperv.disk_chain", "Check the machine's checkpoints in Hyper-V Manager.")
        }
        DiskError::Unsupported { .. } | DiskError::Limit { .. } => {
            (ErrorKind::Unsupported, "hyperv.disk_unsupported", "Convert the disk to VHDX with Hyper-V's own tools.")
        }
        DiskError::Malformed { reason, .. } if reason == "there is no such file" => {
            (ErrorKind::NotFound, "hyperv.file_missing", "")
        }
        _ => (ErrorKind::Unsupported, "hyperv.disk_damaged", "Check the disk with Test-VHD on the host."),
    };
    let mut reason = error.to_string();
    let mut cause = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(inner) = cause else { break };
        let _ = write!(reason, ": {inner}");
        cause = inner.source();
    }
    access.error(Failure::new(kind, code, reason).with_hint(hint), format!("{what} {path:.300}"))
}
