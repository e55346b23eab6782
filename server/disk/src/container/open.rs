//! Opens an image and everything it builds on, and checks that they belong together.

use super::chain::{ReadOptions, VirtualDisk};
use super::fields::shorten;
use super::segment::Segments;
use super::source::{ImageFolder, ImageSource, read};
use super::vhd::VhdImage;
use super::vhdx::VhdxImage;
use super::windows_path::{PATH_CHARS_MAX, beside, plain};
use crate::{DiskError, Result};
use bytes::Bytes;
use domain::Extent;
use std::sync::Arc;
use uuid::Uuid;

/// Longest chain. Hyper-V itself stops at 50 checkpoints.
pub const CHAIN_IMAGES_MAX: usize = 64;
/// Block tables of a chain, in memory together.
const CHAIN_TABLE_BYTES_MAX: u64 = 1 << 30;

const FORMAT: &str = "chain of images";

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// All of the disk is in the file.
    Fixed,
    /// Blocks come into the file as they are written.
    Dynamic,
    /// Only what differs from the parent is in the file.
    Differencing,
}

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Path it was opened by.
    pub path: String,
    /// `VHDX` or `VHD`.
    pub format: &'static str,
    /// Kind.
    pub kind: ImageKind,
    /// Size of the disk in bytes.
    pub size_bytes: u64,
    /// Length of the file in bytes, as far as its own log says it goes.
    pub file_bytes: u64,
    /// Bytes of a block, the unit of allocation; 0 for a fixed VHD, which has none.
    pub block_bytes: u32,
    /// 512 or 4096.
    pub logical_sector_bytes: u32,
    /// 512 or 4096.
    pub physical_sector_bytes: u32,
    /// The disk's identity: what the guest sees as page 83, or the unique id of a VHD.
    pub disk_id: Uuid,
    /// What a child remembers of this image: VHDX's data write id, VHD's unique id.
    pub content_id: Uuid,
    /// Bytes of metadata updates replayed from the log in memory; 0 when it was empty.
    pub replayed_bytes: u64,
}

/// How an image names its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParentLink {
    /// Any of these must be the parent's content id.
    pub ids: Vec<Uuid>,
    /// Paths to try, in this order.
    pub paths: Vec<ParentPath>,
}

/// A path as a child wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ParentPath {
    /// Seen from the child's folder.
    Relative(String),
    /// As it is.
    Absolute(String),
}

impl ParentPath {
    fn resolve(&self, child: &str) -> Option<String> {
        let resolved = match self {
            Self::Relative(path) => beside(child, path),
            Self::Absolute(path) => Some(plain(path)),
        };
        resolved.filter(|path| !path.is_empty() && path.chars().count() <= PATH_CHARS_MAX)
    }
}

/// An open image of any format.
pub(super) enum Image {
    Vhdx(VhdxImage),
    Vhd(VhdImage),
}

impl Image {
    async fn open(path: &str, source: Arc<dyn ImageSource>) -> Result<Self> {
        if VhdxImage::is_one(source.as_ref()).await? {
            VhdxImage::open(path, source).await.map(Self::Vhdx)
        } else if VhdImage::is_one(source.as_ref()).await? {
            VhdImage::open(path, source).await.map(Self::Vhd)
        } else {
            Err(DiskError::Malformed { format: "disk image", reason: "it is neither VHDX nor VHD".into() })
        }
    }

    pub fn info(&self) -> &ImageInfo {
        match self {
            Self::Vhdx(image) => image.info(),
            Self::Vhd(image) => image.info(),
        }
    }

    fn parent(&self) -> Option<&ParentLink> {
        match self {
            Self::Vhdx(image) => image.parent(),
            Self::Vhd(image) => image.parent(),
        }
    }

    fn table_bytes(&self) -> u64 {
        match self {
            Self::Vhdx(image) => image.table_bytes(),
            Self::Vhd(image) => image.table_bytes(),
        }
    }

    /// Appends what this image says about `range`; beyond its own end it says zero.
    pub async fn map(&self, range: Extent, into: &mut Segments) -> Result<()> {
        let size = self.info().size_bytes;
        if let Some(inside) = range.intersection(&Extent::new(0, size)) {
            match self {
                Self::Vhdx(image) => image.map(inside, into).await?,
                Self::Vhd(image) => image.map(inside, into).await?,
            }
        }
        let beyond = range.offset.max(size);
        into.push(Extent::new(beyond, range.end().saturating_sub(beyond)), super::segment::Place::Zero);
        Ok(())
    }

    pub async fn read(&self, file_offset: u64, length: usize) -> Result<Bytes> {
        match self {
            Self::Vhdx(image) => read(image.source().as_ref(), "VHDX", file_offset, length).await,
            Self::Vhd(image) => read(image.source().as_ref(), "VHD", file_offset, length).await,
        }
    }

    /// The error, with this image's name.
    pub fn blame(&self, error: DiskError) -> DiskError {
        blame(&self.info().path, error)
    }
}

fn blame(path: &str, error: DiskError) -> DiskError {
    match error {
        named @ (DiskError::InImage { .. } | DiskError::Parent { .. }) => named,
        error => DiskError::InImage { image: shorten(path), source: Box::new(error) },
    }
}

impl VirtualDisk {
    /// Opens the image at `path` in `folder` with all its parents. Reads headers and block tables, no data.
    pub async fn open(folder: &dyn ImageFolder, path: &str, options: ReadOptions) -> Result<Self> {
        let path = plain(path);
        let source =
            folder.open(&path).await.map_err(|source| blame(&path, DiskError::Read { format: FORMAT, source }))?;
        let source = source.ok_or_else(|| {
            blame(&path, DiskError::Malformed { format: FORMAT, reason: "there is no such file".into() })
        })?;
        let mut images = vec![Image::open(&path, source).await.map_err(|error| blame(&path, error))?];
        let mut table_bytes = 0;
        while let Some(child) = images.last() {
            table_bytes += child.table_bytes();
            if table_bytes > CHAIN_TABLE_BYTES_MAX {
                let what = "the block tables of all images together, in bytes".to_owned();
                return Err(child.blame(DiskError::Limit { format: FORMAT, what, limit: CHAIN_TABLE_BYTES_MAX }));
            }
            let Some(link) = child.parent() else { break };
            if images.len() == CHAIN_IMAGES_MAX {
                let what = "the number of images".to_owned();
                return Err(child.blame(DiskError::Limit { format: FORMAT, what, limit: CHAIN_IMAGES_MAX as u64 }));
            }
            let parent = find_parent(folder, child, link).await?;
            images.push(parent);
        }
        let size_bytes = images.first().map_or(0, |image| image.info().size_bytes);
        Ok(Self::new(images, size_bytes, options))
    }

    /// Opens a single image that needs no parent.
    pub async fn open_file(path: &str, source: Arc<dyn ImageSource>, options: ReadOptions) -> Result<Self> {
        let image = Image::open(path, source).await.map_err(|error| blame(path, error))?;
        if image.parent().is_some() {
            let reason = "it was opened without a folder to look for it in".to_owned();
            return Err(DiskError::Parent { image: shorten(path), reason });
        }
        let size_bytes = image.info().size_bytes;
        Ok(Self::new(vec![image], size_bytes, options))
    }
}

/// The first of the paths where the parent is, and is still the one the child was made on.
async fn find_parent(folder: &dyn ImageFolder, child: &Image, link: &ParentLink) -> Result<Image> {
    let info = child.info();
    let mut tried = Vec::new();
    for path in link.paths.iter().filter_map(|path| path.resolve(&info.path)) {
        let source = folder.open(&path).await;
        let source = source.map_err(|source| blame(&path, DiskError::Read { format: FORMAT, source }))?;
        let Some(source) = source else {
            tried.push(format!("there is no {}", shorten(&path)));
            continue;
        };
        let parent = Image::open(&path, source).await.map_err(|error| blame(&path, error))?;
        match misfit(info, link, parent.info()) {
            None => return Ok(parent),
            Some(reason) => tried.push(format!("{} {reason}", shorten(&path))),
        }
    }
    let reason = if tried.is_empty() { "it names no path".to_owned() } else { tried.join("; ") };
    Err(DiskError::Parent { image: shorten(&info.path), reason })
}

/// Why `parent` cannot be the image the child was made on.
fn misfit(child: &ImageInfo, link: &ParentLink, parent: &ImageInfo) -> Option<String> {
    if parent.format != child.format {
        return Some(format!("is a {}, not a {}", parent.format, child.format));
    }
    if !link.ids.contains(&parent.content_id) {
        let ids: Vec<String> = link.ids.iter().map(Uuid::to_string).collect();
        return Some(format!("has the identity {}, not {}: it was changed since", parent.content_id, ids.join(" or ")));
    }
    if parent.logical_sector_bytes != child.logical_sector_bytes {
        return Some(format!("has sectors of {} bytes", parent.logical_sector_bytes));
    }
    None
}
