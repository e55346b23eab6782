//! An index of chunks that do not exist, by number: what scale costs, measured without data. For `examples/index_scale.rs`
//! and tests.

use std::path::Path;

use super::{Index, IndexOptions, Location};
use crate::environment::Environment;
use crate::error::Result;
use crate::format::crypto::{GenerationSecrets, Keys, Secrets};
use crate::format::names::ObjectId;
use crate::format::pack::PackEntry;
use crate::format::segment::PackRecord;
use crate::format::{ChunkId, ChunkKind, Codec};
use zeroize::Zeroizing;

/// Chunks in a pack: 32 MiB of chunks of 128 KiB.
pub const PACK_CHUNKS: u64 = 254;
/// Packs in a segment.
const SEGMENT_PACKS: u64 = 1024;
const STORED_BYTES: u32 = 70_000;

/// See the module.
pub struct SyntheticIndex {
    index: Index,
}

impl SyntheticIndex {
    /// Opens what the cache folder holds.
    pub fn open(cache: Option<&Path>, memory_chunks_max: usize) -> Result<Self> {
        let secrets = Secrets::new(GenerationSecrets {
            data_key: Zeroizing::new([7; 32]),
            signing_seed: Zeroizing::new([8; 32]),
        });
        let options = IndexOptions { cache: cache.map(Path::to_path_buf), memory_chunks_max };
        let environment = Environment { index: options, ..Environment::default() };
        let index = Index::new(&Keys::new([9; 16], &secrets)?, &environment);
        if cache.is_some() {
            index.tiers.open_cache();
        }
        Ok(Self { index })
    }

    /// Adds the chunks of these packs, as loading their segments does.
    pub fn add(&self, packs: std::ops::Range<u64>) -> std::io::Result<()> {
        self.index.tiers.fill();
        let mut first = packs.start;
        while first < packs.end {
            let end = packs.end.min(first + SEGMENT_PACKS);
            let mut records = Vec::new();
            for pack in first..end {
                let mut record = record(pack);
                self.index.insert(&record);
                record.entries.clear();
                records.push(record);
            }
            self.index.cover(pack_id(first), &records);
            self.index.tiers.gather()?;
            first = end;
        }
        Ok(())
    }

    /// Writes and merges what is due; `all`: also a table that is not full.
    pub fn settle(&self, all: bool) -> std::io::Result<()> {
        if all {
            self.index.tiers.spill()?;
        }
        self.index.tiers.filled()
    }

    /// Number of files with records.
    pub fn runs(&self) -> usize {
        self.index.tiers.view().runs.len()
    }

    /// Bytes of memory that grow with the number of chunks: fences, filters, packs, the table.
    pub fn memory_bytes(&self) -> u64 {
        self.index.tiers.memory_bytes()
    }

    /// Most bytes that runs took while they were merged.
    #[cfg(test)]
    pub fn peak_bytes(&self) -> u64 {
        self.index.tiers.peak_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Number of segments that need not be read.
    pub fn segments(&self) -> usize {
        self.index.tiers.segments.lock().len()
    }

    /// May a writer refer to the chunk?
    pub fn has(&self, chunk: u64) -> bool {
        self.index.has(&chunk_id(chunk))
    }

    /// Number of the pack that holds the chunk, by its first place.
    pub fn is_where_it_was_put(&self, chunk: u64) -> bool {
        self.index.known(&chunk_id(chunk)).is_some_and(|place: Location| {
            place.pack == pack_id(chunk / PACK_CHUNKS) && u64::from(place.spot.ordinal) == chunk % PACK_CHUNKS
        })
    }
}

fn pack_id(pack: u64) -> ObjectId {
    xxhash_rust::xxh3::xxh3_128_with_seed(&pack.to_le_bytes(), 1).to_le_bytes()
}

fn chunk_id(chunk: u64) -> ChunkId {
    let mut id = [0; 32];
    for (half, seed) in id.chunks_mut(16).zip(2..) {
        half.copy_from_slice(&xxhash_rust::xxh3::xxh3_128_with_seed(&chunk.to_le_bytes(), seed).to_le_bytes());
    }
    ChunkId(id)
}

fn record(pack: u64) -> PackRecord {
    let chunks = pack * PACK_CHUNKS..(pack + 1) * PACK_CHUNKS;
    let entry = |chunk| PackEntry {
        id: chunk_id(chunk),
        kind: ChunkKind::Data,
        codec: Codec::Zstd,
        length: 128 << 10,
        stored: STORED_BYTES,
    };
    PackRecord { id: pack_id(pack), object_bytes: 32 << 20, generation: 0, entries: chunks.map(entry).collect() }
}
