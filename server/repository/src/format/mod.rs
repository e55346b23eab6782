//! The byte-level format, version 1: `docs/repository-format.md` in code. Pure: bytes in, bytes out.
//! Must never do input or output, or trust a length it has not checked. Next: `crypto`, `chunker`, `pack`, `map`.

pub mod chunker;
pub mod codec;
pub mod config;
pub mod crypto;
pub mod envelope;
pub mod frame;
pub mod keyslot;
pub mod lease;
pub mod manifest;
pub mod map;
pub mod names;
pub mod pack;
pub mod segment;
pub mod stamp;

use std::fmt;

/// The version this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// A disk's blocks: cuts and zero tests fall on multiples of this.
pub const BLOCK_BYTES: usize = 4096;

/// A map page covers so much of a disk; a cut is forced at each multiple.
pub const PAGE_BYTES: u64 = 64 << 20;

/// Largest chunk, data or map node, before compression.
pub const CHUNK_BYTES_MAX: u32 = 4 << 20;

/// Most content of a frame that chunks share: what has to be decompressed to read one of them.
pub const FRAME_BYTES_MAX: u32 = 512 << 10;

/// Most chunks that share a frame.
pub const FRAME_CHUNKS_MAX: usize = 64;

/// Identity of a chunk: keyed BLAKE3-256 of its content. All zero stands for content of zeros, which is not stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// Stands for zeros.
    pub const ZERO: Self = Self([0; 32]);

    /// Does it stand for zeros?
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What a chunk holds. Each kind has an identity key of its own, so that a guest cannot pass data off as a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChunkKind {
    /// Bytes of a disk.
    Data = 0,
    /// A node of a disk's map.
    Map = 1,
}

/// How a chunk's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
    /// A part of the content of a zstd frame that neighbouring chunks share.
    Shared = 2,
}

/// Reads little-endian fields off a slice; `None` when it is too short.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }
}
