//! How a piece of the disk is fetched: which bytes of which file, in as few reads as are worth it.

use super::segment::Place;
use domain::Extent;

/// Bytes nobody asked for that are read rather than asking twice.
const GAP_BYTES_MAX: u64 = 64 * 1024;

/// A range of the disk and the image that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub range: Extent,
    /// Index of the image in its chain, the child first; `None` for zeros.
    pub image: Option<usize>,
    /// Offset in that image's file.
    pub file_offset: u64,
}

impl Piece {
    pub const fn new(range: Extent, image: usize, place: Place) -> Self {
        match place {
            Place::File(file_offset) => Self { range, image: Some(image), file_offset },
            Place::Zero | Place::Parent => Self { range, image: None, file_offset: 0 },
        }
    }
}

/// One read of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileRead {
    pub image: usize,
    pub area: Extent,
}

impl FileRead {
    /// Where the piece begins in this read, when the read holds it.
    pub fn offset_of(&self, piece: &Piece) -> Option<usize> {
        let holds = piece.image == Some(self.image)
            && self.area.offset <= piece.file_offset
            && piece.file_offset.saturating_add(piece.range.length) <= self.area.end();
        holds.then(|| (piece.file_offset - self.area.offset) as usize)
    }
}

/// The reads that bring all pieces. None is longer than `read_bytes`, as long as no piece is.
pub(super) fn reads_of(pieces: &[Piece], read_bytes: u64) -> Vec<FileRead> {
    let mut wanted: Vec<(usize, Extent)> = pieces
        .iter()
        .filter_map(|piece| Some((piece.image?, Extent::new(piece.file_offset, piece.range.length))))
        .collect();
    wanted.sort_unstable();
    let mut reads: Vec<FileRead> = Vec::new();
    for (image, area) in wanted {
        if let Some(last) = reads.last_mut()
            && last.image == image
            && area.offset <= last.area.end().saturating_add(GAP_BYTES_MAX)
            && area.end() - last.area.offset <= read_bytes
        {
            last.area.length = last.area.end().max(area.end()) - last.area.offset;
        } else {
            reads.push(FileRead { image, area });
        }
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_and_small_gaps_are_one_read() {
        let piece = |at: u64, image: usize, file: u64| Piece::new(Extent::new(at, 512), image, Place::File(file));
        let pieces = [piece(0, 0, 4096), piece(512, 1, 0), piece(1024, 0, 5120), piece(1536, 0, 1 << 20)];
        let reads = reads_of(&pieces, 1 << 20);
        let areas: Vec<(usize, u64, u64)> = reads.iter().map(|r| (r.image, r.area.offset, r.area.length)).collect();
        assert_eq!(areas, [(0, 4096, 1536), (0, 1 << 20, 512), (1, 0, 512)]);
    }

    proptest! {
        #[test]
        fn every_piece_is_in_one_read_of_bounded_length(
            raw in prop::collection::vec((0usize..3, 0u64..300_000, 1u64..9000), 0..40),
        ) {
            let mut at = 0;
            let pieces: Vec<Piece> = raw.iter().map(|&(image, file, length)| {
                let piece = Piece::new(Extent::new(at, length), image, Place::File(file));
                at += length;
                piece
            }).collect();
            let reads = reads_of(&pieces, 100_000);
            prop_assert!(reads.iter().all(|read| read.area.length <= 100_000));
            for piece in &pieces {
                prop_assert!(reads.iter().any(|read| read.offset_of(piece).is_some()));
            }
        }
    }
}
