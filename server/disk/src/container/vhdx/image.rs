//! One VHDX file, opened: everything but its data in memory.

use super::bat::{Bat, Block};
use super::geometry::Geometry;
use super::header::Header;
use super::layout::{FILE_BYTES_MAX, FILE_SIGNATURE, FORMAT, HEADER_SECTION_BYTES, limit, malformed};
use super::log;
use super::metadata::Metadata;
use super::occupancy::Occupancy;
use super::overlay::Replayed;
use super::region::Regions;
use crate::Result;
use crate::container::open::{ImageInfo, ImageKind, ParentLink};
use crate::container::pages::Pages;
use crate::container::segment::{Bits, Place, Segments};
use crate::container::source::{ImageSource, READ_BYTES_MAX, read};
use domain::Extent;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use std::sync::Arc;

/// A VHDX file.
pub(in crate::container) struct VhdxImage {
    info: ImageInfo,
    parent: Option<ParentLink>,
    /// The file, as it is once its log is replayed.
    source: Arc<dyn ImageSource>,
    geometry: Geometry,
    bat: Bat,
    pages: Pages,
}

impl VhdxImage {
    /// Whether the file begins like one.
    pub async fn is_one(source: &dyn ImageSource) -> Result<bool> {
        let length = FILE_SIGNATURE.len();
        Ok(source.len_bytes() >= length as u64 && read(source, FORMAT, 0, length).await? == FILE_SIGNATURE[..])
    }

    /// Reads the header section, the log if it is not empty, the metadata and the block table.
    pub async fn open(path: &str, file: Arc<dyn ImageSource>) -> Result<Self> {
        if file.len_bytes() > FILE_BYTES_MAX {
            return Err(limit(format!("a file of {} bytes", file.len_bytes()), FILE_BYTES_MAX));
        }
        if file.len_bytes() < HEADER_SECTION_BYTES as u64 {
            return Err(malformed(format!("a file of {} bytes", file.len_bytes())));
        }
        let mut section = Vec::from(read(file.as_ref(), FORMAT, 0, HEADER_SECTION_BYTES).await?);
        if !section.starts_with(&FILE_SIGNATURE) {
            return Err(malformed("it does not begin with `vhdxfile`"));
        }
        let header = Header::current(&section)?;
        let (source, replayed_bytes) = replay(file, &header, &mut section).await?;
        let mut occupied = Occupancy::new(source.len_bytes());
        if header.log.length > 0 {
            occupied.claim(header.log, || "the log".into())?;
        }
        let regions = Regions::decode(&section, &mut occupied)?;
        let metadata = Metadata::read(source.as_ref(), regions.metadata).await?;
        let geometry = metadata.geometry;
        let bat = Bat::read(source.as_ref(), regions.bat, &geometry, &mut occupied).await?;
        let info = ImageInfo {
            path: path.to_owned(),
            format: FORMAT,
            kind: match (geometry.has_parent, geometry.leave_allocated) {
                (true, _) => ImageKind::Differencing,
                (false, true) => ImageKind::Fixed,
                (false, false) => ImageKind::Dynamic,
            },
            size_bytes: geometry.size_bytes,
            file_bytes: source.len_bytes(),
            block_bytes: geometry.block_bytes,
            logical_sector_bytes: geometry.logical_sector_bytes,
            physical_sector_bytes: geometry.physical_sector_bytes,
            disk_id: metadata.disk_id,
            content_id: header.data_write_id,
            replayed_bytes,
        };
        Ok(Self { info, parent: metadata.parent, source, geometry, bat, pages: Pages::default() })
    }

    pub fn info(&self) -> &ImageInfo {
        &self.info
    }

    pub fn parent(&self) -> Option<&ParentLink> {
        self.parent.as_ref()
    }

    pub fn table_bytes(&self) -> u64 {
        self.bat.bytes()
    }

    pub fn source(&self) -> &Arc<dyn ImageSource> {
        &self.source
    }

    /// Where the bytes of `range`, which lies inside the disk, are.
    pub async fn map(&self, range: Extent, into: &mut Segments) -> Result<()> {
        let block_bytes = u64::from(self.geometry.block_bytes);
        for index in range.offset / block_bytes..range.end().div_ceil(block_bytes) {
            let block = self.geometry.block(index);
            let Some(part) = block.intersection(&range) else { continue };
            let within = part.offset - block.offset;
            match self.bat.block(index) {
                Block::Parent => into.push(part, Place::Parent),
                Block::Zero => into.push(part, Place::Zero),
                Block::Full(data) => into.push(part, Place::File(data + within)),
                Block::Partial { data, bitmap } => self.map_partial(index, part, data + within, bitmap, into).await?,
            }
        }
        Ok(())
    }

    /// A block's bits are a part of its chunk's bitmap: at most 64 KiB, and on a multiple of their own length.
    async fn map_partial(
        &self,
        index: u64,
        part: Extent,
        file_offset: u64,
        bitmap: u64,
        into: &mut Segments,
    ) -> Result<()> {
        let sector_bytes = u64::from(self.geometry.logical_sector_bytes);
        let sectors = u64::from(self.geometry.block_bytes) / sector_bytes;
        let bits_bytes = sectors / 8;
        let at = bitmap + index % self.geometry.chunk_ratio() * bits_bytes;
        let bytes = self.pages.get(&self.source, FORMAT, at, bits_bytes as usize).await?;
        let bits = Bits { bytes: &bytes, highest_first: false };
        let first = part.offset / sector_bytes % sectors;
        into.push_bits(part, file_offset, sector_bytes, bits, first);
        Ok(())
    }
}

/// The file with its log replayed, if there is anything in it, and how much that was. `section` is brought up to date.
async fn replay(
    file: Arc<dyn ImageSource>,
    header: &Header,
    section: &mut [u8],
) -> Result<(Arc<dyn ImageSource>, u64)> {
    if header.log_id.is_nil() {
        return Ok((file, 0));
    }
    if header.log.length == 0 || header.log.end() > file.len_bytes() {
        let (length, at) = (header.log.length, header.log.offset);
        return Err(malformed(format!("a log of {length} bytes at {at} in a file of {}", file.len_bytes())));
    }
    let pieces = (header.log.offset..header.log.end()).step_by(READ_BYTES_MAX).map(|at| {
        let length = (header.log.end() - at).min(READ_BYTES_MAX as u64) as usize;
        read(file.as_ref(), FORMAT, at, length)
    });
    let pieces: Vec<_> = stream::iter(pieces).buffered(2).try_collect().await?;
    let replay = log::replay(&pieces.concat(), header.log_id, file.len_bytes())?;
    if replay.overlay.is_empty() && replay.len_bytes == file.len_bytes() {
        return Ok((file, 0));
    }
    replay.overlay.apply(0, section);
    let source = Replayed { file, overlay: replay.overlay, len_bytes: replay.len_bytes };
    Ok((Arc::new(source), replay.replayed_bytes))
}
