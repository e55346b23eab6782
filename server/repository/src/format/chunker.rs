//! Cuts a page of a disk into data chunks and runs of zeros. Where a cut falls depends only on the page's content, so
//! that a page that is read again in part is cut as if it had been read whole (see `writer::changed`).

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use super::BLOCK_BYTES;

static ZERO_BLOCK: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// When to cut, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRule {
    minimum: usize,
    maximum: usize,
    zero_run: usize,
    /// A cut falls behind a block whose hash is below.
    threshold: u64,
}

impl ChunkRule {
    /// Lengths in blocks.
    pub fn new(average: usize, minimum: usize, maximum: usize, zero_run: usize) -> Self {
        let divisor = average.saturating_sub(minimum) as u64 + 1;
        Self { minimum, maximum, zero_run, threshold: u64::MAX / divisor }
    }

    /// Bytes of zeros that end a chunk.
    pub fn zero_run_bytes(&self) -> u64 {
        (self.zero_run * BLOCK_BYTES) as u64
    }
}

/// A piece of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Content of a chunk; its first block is not all zero.
    Data(Bytes),
    /// So many zeros.
    Zeros(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At a cut.
    Fresh,
    /// In a run of zeros of this many bytes.
    Zeros(u64),
    /// In a chunk.
    Data { blocks: usize, bytes: usize, zero_blocks: usize, zero_bytes: usize },
}

/// Cuts one page after the other. Whole blocks come in, in pieces of any length; a shorter block is only the disk's last.
pub struct Cutter {
    rule: ChunkRule,
    state: State,
    /// The part of the current chunk that came in earlier pieces.
    held: BytesMut,
}

/// Is it all zero? Answers at the first 64 bytes for most data.
pub fn is_zero(block: &[u8]) -> bool {
    block.chunks(64).all(|part| part.iter().fold(0, |all, &byte| all | byte) == 0)
}

impl Cutter {
    pub fn new(rule: ChunkRule) -> Self {
        Self { rule, state: State::Fresh, held: BytesMut::new() }
    }

    /// Takes a piece of whole blocks and appends what is complete to `out`. Chunks within the piece share its memory.
    pub fn push(&mut self, piece: &Bytes, out: &mut Vec<Segment>) {
        let mut from = 0; // where the part of the current chunk that is not in `held` begins
        let mut at = 0;
        while at < piece.len() {
            let end = (at + BLOCK_BYTES).min(piece.len());
            let block = &piece[at..end];
            let length = block.len();
            let zero = is_zero(block);
            match self.state {
                State::Fresh | State::Zeros(_) if zero => self.more_zeros(length as u64),
                State::Fresh | State::Zeros(_) => {
                    if let State::Zeros(run) = self.state {
                        out.push(Segment::Zeros(run));
                    }
                    from = at;
                    self.state = State::Data { blocks: 0, bytes: 0, zero_blocks: 0, zero_bytes: 0 };
                    self.data_block(block, false, piece, from..end, out);
                }
                State::Data { .. } => self.data_block(block, zero, piece, from..end, out),
            }
            at = end;
        }
        if matches!(self.state, State::Data { .. }) {
            self.held.extend_from_slice(&piece[from.min(piece.len())..]);
        }
    }

    /// Takes `length` zeros (whole blocks, or up to the disk's end) without their bytes.
    pub fn push_zeros(&mut self, mut length: u64, out: &mut Vec<Segment>) {
        while length > 0 {
            if !matches!(self.state, State::Data { .. }) {
                self.more_zeros(length);
                return;
            }
            let block = length.min(BLOCK_BYTES as u64);
            self.push(&Bytes::from_static(&ZERO_BLOCK).slice(..block as usize), out);
            length -= block;
        }
    }

    /// The page ends here.
    pub fn finish(&mut self, out: &mut Vec<Segment>) {
        match std::mem::replace(&mut self.state, State::Fresh) {
            State::Fresh => {}
            State::Zeros(run) => out.push(Segment::Zeros(run)),
            State::Data { .. } => out.push(Segment::Data(self.held.split().freeze())),
        }
    }

    /// Not within a chunk: what follows is cut as if nothing had been before.
    pub fn is_between_chunks(&self) -> bool {
        !matches!(self.state, State::Data { .. })
    }

    fn more_zeros(&mut self, length: u64) {
        self.state = State::Zeros(length + if let State::Zeros(run) = self.state { run } else { 0 });
    }

    /// Adds a block to the current chunk, whose bytes are `held` and `piece[part]`, the block included.
    fn data_block(
        &mut self,
        block: &[u8],
        zero: bool,
        piece: &Bytes,
        part: std::ops::Range<usize>,
        out: &mut Vec<Segment>,
    ) {
        let State::Data { mut blocks, mut bytes, mut zero_blocks, mut zero_bytes } = self.state else { return };
        blocks += 1;
        bytes += block.len();
        (zero_blocks, zero_bytes) = if zero { (zero_blocks + 1, zero_bytes + block.len()) } else { (0, 0) };
        if zero_blocks == self.rule.zero_run {
            self.cut(bytes - zero_bytes, piece, part, out);
            self.state = State::Zeros(zero_bytes as u64);
        } else if blocks == self.rule.maximum
            || (!zero && blocks >= self.rule.minimum && xxh3_64(block) < self.rule.threshold)
        {
            self.cut(bytes, piece, part, out);
            self.state = State::Fresh;
        } else {
            self.state = State::Data { blocks, bytes, zero_blocks, zero_bytes };
        }
    }

    /// Emits the first `length` bytes of `held` and `piece[part]`.
    fn cut(&mut self, length: usize, piece: &Bytes, part: std::ops::Range<usize>, out: &mut Vec<Segment>) {
        let chunk = if self.held.is_empty() {
            piece.slice(part.start..part.start + length)
        } else if let Some(more) = length.checked_sub(self.held.len()) {
            self.held.extend_from_slice(&piece[part.start..part.start + more]);
            self.held.split().freeze()
        } else {
            self.held.truncate(length);
            self.held.split().freeze()
        };
        out.push(Segment::Data(chunk));
    }
}

/// Makes whole blocks of pieces of any length.
#[derive(Default)]
pub struct BlockAligner {
    partial: BytesMut,
}

impl BlockAligner {
    /// Up to two pieces of whole blocks: the one completed by the start of `piece`, and the whole blocks within it.
    pub fn push(&mut self, mut piece: Bytes) -> [Bytes; 2] {
        let mut completed = Bytes::new();
        if !self.partial.is_empty() {
            let missing = (BLOCK_BYTES - self.partial.len()).min(piece.len());
            self.partial.extend_from_slice(&piece.split_to(missing));
            if self.partial.len() == BLOCK_BYTES {
                completed = self.partial.split().freeze();
            }
        }
        let whole = piece.len() / BLOCK_BYTES * BLOCK_BYTES;
        let rest = piece.split_off(whole);
        self.partial.extend_from_slice(&rest);
        [completed, piece]
    }

    /// The disk's last, short block, if there is one.
    pub fn finish(&mut self) -> Bytes {
        self.partial.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule() -> ChunkRule {
        ChunkRule::new(32, 8, 128, 16)
    }

    fn cut_whole(content: &[u8], piece_bytes: usize) -> Vec<Segment> {
        let (mut cutter, mut out) = (Cutter::new(rule()), Vec::new());
        let mut aligner = BlockAligner::default();
        for piece in content.chunks(piece_bytes) {
            for whole in aligner.push(Bytes::copy_from_slice(piece)) {
                cutter.push(&whole, &mut out);
            }
        }
        cutter.push(&aligner.finish(), &mut out);
        cutter.finish(&mut out);
        out
    }

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    impl Segment {
        fn length(&self) -> u64 {
            match self {
                Self::Data(bytes) => bytes.len() as u64,
                Self::Zeros(length) => *length,
            }
        }
    }

    #[test]
    fn golden_cuts() {
        // Lengths in blocks of the chunks of 8 MiB of BLAKE3's output for eight zero bytes.
        let lengths: Vec<usize> = cut_whole(&noise(0, 8 << 20), 1 << 20)
            .iter()
            .map(|segment| segment.length() as usize / BLOCK_BYTES)
            .collect();
        assert_eq!(lengths.iter().sum::<usize>(), 2048);
        let digest = blake3::hash(&lengths.iter().map(|&length| length as u8).collect::<Vec<_>>());
        let golden = include_str!("../../../../tests/fixtures/repository-v1/golden-cuts.txt");
        assert_eq!(format!("{} {}\n", lengths.len(), digest.to_hex()), golden);
    }

    #[test]
    fn zeros_are_apart_and_a_long_run_ends_a_chunk() {
        let mut content = vec![0; 3 * BLOCK_BYTES];
        content.extend(noise(1, 2 * BLOCK_BYTES));
        content.extend(vec![0; 16 * BLOCK_BYTES]);
        content.extend(noise(2, BLOCK_BYTES));
        content.extend(vec![0; 15 * BLOCK_BYTES]);
        let lengths: Vec<(bool, u64)> = cut_whole(&content, 5000)
            .iter()
            .map(|segment| (matches!(segment, Segment::Data(_)), segment.length() / BLOCK_BYTES as u64))
            .collect();
        assert_eq!(lengths, [(false, 3), (true, 2), (false, 16), (true, 16)]);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_and_nothing_is_lost(
            parts in prop::collection::vec((0u64..6, 1usize..40), 1..12), tail in 0usize..BLOCK_BYTES, piece in 1usize..300_000,
        ) {
            let mut content = Vec::new();
            for (seed, blocks) in parts {
                content.extend(if seed < 2 { vec![0; blocks * BLOCK_BYTES] } else { noise(seed, blocks * BLOCK_BYTES) });
            }
            content.extend(noise(9, tail));
            let cuts = cut_whole(&content, piece);
            prop_assert_eq!(&cuts, &cut_whole(&content, content.len().max(1)));
            let mut joined = Vec::new();
            for segment in cuts {
                match segment {
                    Segment::Data(bytes) => {
                        prop_assert!(!is_zero(&bytes[..bytes.len().min(BLOCK_BYTES)]));
                        joined.extend_from_slice(&bytes);
                    }
                    Segment::Zeros(length) => joined.resize(joined.len() + length as usize, 0),
                }
            }
            prop_assert_eq!(joined, content);
        }
    }
}
