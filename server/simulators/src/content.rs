//! Bytes that a seed decides: contents of generated disks and what guests write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use crate::sparse::{data_ranges, is_zero};

/// Content is placed in runs of this size.
const RUN_BYTES: u64 = 256 << 10;
/// Block with a header of its own, so that no two blocks are equal.
const BLOCK_BYTES: usize = 4096;
/// Text that blocks are cut from.
const POOL_BYTES: usize = 1 << 20;
/// Copies leave blocks of zeros of this size out.
const BLOCK_COPY_BYTES: u64 = 64 << 10;

const WORDS: [&str; 24] = [
    "order",
    "invoice",
    "customer",
    "shipped",
    "pending",
    "2024-05-17",
    "error",
    "retry",
    "index",
    "session",
    "user",
    "select",
    "from",
    "where",
    "commit",
    "checkpoint",
    "segment",
    "/var/lib/",
    "GET /api/v1/",
    "200 OK",
    "timeout",
    "null",
    "true",
    "0.00",
];

/// What a guest writes while its machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestWrites {
    /// About this many bytes a second over all disks.
    pub bytes_per_second: u64,
    /// Decides where and what.
    pub seed: u64,
}

/// A small generator of numbers (`SplitMix64`).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// Makes compressible blocks.
pub(crate) struct Generator {
    random: Random,
    pool: Vec<u8>,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut pool = Vec::with_capacity(POOL_BYTES + 64);
        while pool.len() < POOL_BYTES {
            let word = WORDS.get(random.below(WORDS.len() as u64) as usize).copied().unwrap_or_default();
            pool.extend_from_slice(word.as_bytes());
            if random.below(4) == 0 {
                pool.extend_from_slice(random.below(1_000_000).to_string().as_bytes());
            }
            pool.push(if random.below(12) == 0 { b'\n' } else { b' ' });
        }
        pool.truncate(POOL_BYTES);
        Self { random, pool }
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for block in buffer.chunks_mut(BLOCK_BYTES) {
            let start = self.random.below((POOL_BYTES - BLOCK_BYTES) as u64) as usize;
            if let Some(source) = self.pool.get(start..start + block.len()) {
                block.copy_from_slice(source);
            }
            for (byte, number) in block.iter_mut().zip(self.random.next().to_le_bytes()) {
                *byte = number;
            }
        }
    }

    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

/// Takes bytes at a place.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(u64, &[u8]) -> io::Result<()>;

/// Fills a sparse file of `size` bytes with about `used` bytes of content, the first run always.
pub(crate) fn fill_disk(file: &File, size: u64, seed: u64, used: u64) -> io::Result<()> {
    generate(size, seed, used, &mut |offset, bytes| file.write_all_at(bytes, offset))
}

/// The same for whatever takes the bytes.
pub(crate) fn generate(size: u64, seed: u64, used: u64, sink: Sink<'_>) -> io::Result<()> {
    let mut generator = Generator::new(seed);
    let mut buffer = vec![0; RUN_BYTES as usize];
    let runs = size.div_ceil(RUN_BYTES);
    let mut wanted = used.div_ceil(RUN_BYTES).min(runs);
    for run in 0..runs {
        if wanted == 0 {
            break;
        }
        let chosen = run == 0 || generator.random().below(runs - run) < wanted;
        if !chosen {
            continue;
        }
        wanted -= 1;
        let start = run * RUN_BYTES;
        let count = (size - start).min(RUN_BYTES) as usize;
        generator.fill(&mut buffer);
        if let Some(bytes) = buffer.get(..count) {
            sink(start, bytes)?;
        }
    }
    Ok(())
}

/// Copies the data of a sparse file, up to `size` bytes, into another that is empty.
pub(crate) fn copy_sparse(source: &File, target: &File, size: u64) -> io::Result<()> {
    each_data(source, size, &mut |offset, bytes| target.write_all_at(bytes, offset))
}

/// The same for whatever takes the bytes: blocks of 64 KiB that are not zero, at multiples of 64 KiB.
pub(crate) fn each_data(source: &File, size: u64, sink: Sink<'_>) -> io::Result<()> {
    let length = source.metadata()?.len();
    if length > size {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the image is larger than the disk"));
    }
    let mut buffer = vec![0; 1 << 20];
    for (start, end) in data_ranges(source, length)? {
        let mut at = start / BLOCK_COPY_BYTES * BLOCK_COPY_BYTES;
        while at < end {
            let count = (end - at).min(buffer.len() as u64) as usize;
            let Some(bytes) = buffer.get_mut(..count) else { break };
            source.read_exact_at(bytes, at)?;
            let blocks = bytes.chunks(BLOCK_COPY_BYTES as usize).enumerate();
            for (index, block) in blocks.filter(|(_, block)| !is_zero(block)) {
                sink(at + index as u64 * BLOCK_COPY_BYTES, block)?;
            }
            at += count as u64;
        }
    }
    Ok(())
}
