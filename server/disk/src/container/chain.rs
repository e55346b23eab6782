//! A disk: an image and the images it builds on, read as one.
//!
//! Every range is asked of the child first; what it does not hold is asked of its parent, and so on; what none holds is
//! zero. Nothing that is zero by the images' own word is ever read. Next: `open` (chains), `plan` (reads).

use super::open::{Image, ImageInfo};
use super::plan::{FileRead, Piece, reads_of};
use super::segment::{Place, Segments};
use super::source::READ_BYTES_MAX;
use crate::{DiskError, Result};
use bytes::{Bytes, BytesMut};
use domain::Extent;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _, future};
use std::fmt;
use std::sync::Arc;

/// Step in which the maps of a disk are walked, in bytes: bounds what one step may hold in memory.
const WALK_BYTES: u64 = 256 << 20;
/// Steps of the walk that run side by side, because each may have to fetch bitmaps.
const WALK_STEPS: usize = 4;
/// Longest list of extents; beyond it, gaps are closed, the smallest first.
const EXTENTS_MAX: usize = 1 << 20;

/// How the bytes of a stream are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// Bytes of one read, and of one piece of the stream: a power of two from 64 KiB to 8 MiB, others are rounded.
    pub read_bytes: usize,
    /// Pieces that are fetched ahead of the reader. Memory is about the product of both.
    pub in_flight: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { read_bytes: 1 << 20, in_flight: 8 }
    }
}

impl ReadOptions {
    const IN_FLIGHT_MAX: usize = 64;

    fn bounded(self) -> Self {
        let read_bytes = self.read_bytes.clamp(64 << 10, READ_BYTES_MAX).next_power_of_two();
        Self { read_bytes, in_flight: self.in_flight.clamp(1, Self::IN_FLIGHT_MAX) }
    }
}

/// A virtual disk that can be read. Cheap to clone; every call is safe to run beside others.
#[derive(Clone)]
pub struct VirtualDisk {
    shared: Arc<Shared>,
}

struct Shared {
    /// The child first, the base last.
    images: Vec<Image>,
    size_bytes: u64,
    zeros: Bytes,
    options: ReadOptions,
}

impl fmt::Debug for VirtualDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.images().map(|image| &image.path)).finish()
    }
}

impl VirtualDisk {
    pub(super) fn new(images: Vec<Image>, size_bytes: u64, options: ReadOptions) -> Self {
        let options = options.bounded();
        let zeros = Bytes::from(vec![0; options.read_bytes]);
        Self { shared: Arc::new(Shared { images, size_bytes, zeros, options }) }
    }

    /// Size of the disk in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.shared.size_bytes
    }

    /// The images of the chain, the child first.
    pub fn images(&self) -> impl Iterator<Item = &ImageInfo> {
        self.shared.images.iter().map(Image::info)
    }

    /// The parts of `range` that some image holds; everything else in it is zero. Ascending, disjoint, rounded outwards to
    /// `granularity_bytes` (and to more where the list would grow beyond all use).
    pub async fn allocated(&self, range: Extent, granularity_bytes: u64) -> Result<Vec<Extent>> {
        let range = self.shared.check(range)?;
        let mut found = ExtentList::new(granularity_bytes, self.shared.size_bytes);
        let shared = &self.shared;
        let mut steps = stream::iter(cut(range, WALK_BYTES)).map(|step| shared.pieces(step)).buffered(WALK_STEPS);
        while let Some(pieces) = steps.try_next().await? {
            for piece in pieces.iter().filter(|piece| piece.image.is_some()) {
                found.push(piece.range);
            }
        }
        Ok(found.finish())
    }

    /// The bytes of `range` in ascending order, exactly `range.length` of them; zeros are not read. Reads run ahead while
    /// the stream is polled.
    pub fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes>> {
        let shared = self.shared.clone();
        let range = match shared.check(range) {
            Ok(range) => range,
            Err(error) => return stream::once(future::ready(Err(error))).boxed(),
        };
        let ReadOptions { read_bytes, in_flight } = shared.options;
        stream::iter(cut(range, read_bytes as u64))
            .map(move |unit| fetch(shared.clone(), unit))
            .buffered(in_flight)
            .boxed()
    }

    /// The bytes of a short range, at most 8 MiB.
    pub async fn read(&self, range: Extent) -> Result<Bytes> {
        if range.length > READ_BYTES_MAX as u64 {
            let what = format!("a read of {} bytes at once", range.length);
            return Err(DiskError::Limit { format: FORMAT, what, limit: READ_BYTES_MAX as u64 });
        }
        let pieces: Vec<Bytes> = self.stream(range).try_collect().await?;
        match <[Bytes; 1]>::try_from(pieces) {
            Ok([one]) => Ok(one),
            Err(pieces) => Ok(pieces.concat().into()),
        }
    }
}

const FORMAT: &str = "virtual disk";

impl Shared {
    fn check(&self, range: Extent) -> Result<Extent> {
        match range.offset.checked_add(range.length) {
            Some(end) if end <= self.size_bytes => Ok(range),
            _ => Err(DiskError::Misuse {
                format: FORMAT,
                reason: format!("{}+{} passes its end at {}", range.offset, range.length, self.size_bytes),
            }),
        }
    }

    /// Who holds what of `range`, ascending, without gaps.
    async fn pieces(&self, range: Extent) -> Result<Vec<Piece>> {
        let mut found = Vec::new();
        let mut open = vec![range];
        for (index, image) in self.images.iter().enumerate() {
            let mut segments = Segments::default();
            for part in open.drain(..) {
                image.map(part, &mut segments).await.map_err(|error| image.blame(error))?;
            }
            let last = index + 1 == self.images.len();
            for segment in segments.0 {
                if segment.place == Place::Parent && !last {
                    open.push(segment.range);
                } else {
                    found.push(Piece::new(segment.range, index, segment.place));
                }
            }
        }
        found.sort_unstable_by_key(|piece| piece.range.offset);
        Ok(found)
    }
}

/// The bytes of one unit of a stream.
async fn fetch(shared: Arc<Shared>, unit: Extent) -> Result<Bytes> {
    let pieces = shared.pieces(unit).await?;
    let reads = reads_of(&pieces, shared.options.read_bytes as u64);
    let read = |read: FileRead| {
        let image = shared.images.get(read.image);
        async move {
            let image = image.ok_or_else(|| misuse("an image that the chain does not have"))?;
            image.read(read.area.offset, read.area.length as usize).await.map_err(|error| image.blame(error))
        }
    };
    let answers = stream::iter(reads.iter().copied()).map(read).buffered(shared.options.in_flight);
    let answers: Vec<Bytes> = answers.try_collect().await?;
    if reads.is_empty() {
        return Ok(shared.zeros.slice(..shared.zeros.len().min(unit.length as usize)));
    }
    let bytes_of = |piece: &Piece| {
        let found = reads.iter().zip(&answers).find_map(|(read, answer)| Some((read.offset_of(piece)?, answer)));
        let (start, answer) = found.ok_or_else(|| misuse("a piece that was not read"))?;
        Ok(answer.slice(start..start + piece.range.length as usize))
    };
    if let [only] = pieces.as_slice() {
        return bytes_of(only);
    }
    let mut whole = BytesMut::with_capacity(unit.length as usize);
    for piece in &pieces {
        match piece.image {
            None => whole.resize(whole.len() + piece.range.length as usize, 0),
            Some(_) => whole.extend_from_slice(&bytes_of(piece)?),
        }
    }
    Ok(whole.freeze())
}

fn misuse(reason: &str) -> DiskError {
    DiskError::Misuse { format: FORMAT, reason: reason.to_owned() }
}

/// `range` in parts that end at multiples of `step`.
fn cut(range: Extent, step: u64) -> impl Iterator<Item = Extent> + Send + 'static {
    let mut at = range.offset;
    std::iter::from_fn(move || {
        let end = (at / step).saturating_add(1).saturating_mul(step).min(range.end());
        let part = (at < end).then(|| Extent::new(at, end - at));
        at = end;
        part
    })
}

/// Extents in ascending order; grows coarse rather than long.
struct ExtentList {
    found: Vec<Extent>,
    granularity: u64,
    size_bytes: u64,
}

impl ExtentList {
    fn new(granularity_bytes: u64, size_bytes: u64) -> Self {
        Self { found: Vec::new(), granularity: granularity_bytes.clamp(1, 1 << 40).next_power_of_two(), size_bytes }
    }

    fn push(&mut self, range: Extent) {
        if self.found.len() == EXTENTS_MAX {
            while self.found.len() > EXTENTS_MAX / 2 {
                self.granularity = self.granularity.saturating_mul(2);
                self.found = domain::extent::coalesce(&self.found, self.granularity, 0, self.size_bytes);
            }
        }
        let offset = range.offset / self.granularity * self.granularity;
        let end = range.end().next_multiple_of(self.granularity).min(self.size_bytes);
        match self.found.last_mut() {
            Some(last) if offset <= last.end() => last.length = last.end().max(end) - last.offset,
            _ => self.found.push(Extent::new(offset, end - offset)),
        }
    }

    fn finish(self) -> Vec<Extent> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_multiples() {
        let parts: Vec<Extent> = cut(Extent::new(100, 250), 128).collect();
        assert_eq!(parts, [Extent::new(100, 28), Extent::new(128, 128), Extent::new(256, 94)]);
        assert_eq!(cut(Extent::new(100, 0), 128).count(), 0);
    }

    #[test]
    fn a_list_that_would_be_too_long_grows_coarse() {
        let size = 8 * EXTENTS_MAX as u64;
        let mut list = ExtentList::new(1, size);
        for index in 0..2 * EXTENTS_MAX as u64 {
            list.push(Extent::new(index * 4, 1));
        }
        let found = list.finish();
        assert!(found.len() <= EXTENTS_MAX, "{}", found.len());
        assert_eq!(domain::extent::check_areas(&found, size), Ok(()));
        assert_eq!(found.first().map(|area| area.offset), Some(0));
        assert!(found.last().is_some_and(|area| area.end() > (2 * EXTENTS_MAX as u64 - 1) * 4));
    }
}
