//! Memory of packs being filled. One buffer per pack, used again for the next: thousands of small allocations that are
//! made on one thread and freed on another would leave the heap twice as large as what is in it.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

use crate::format::{CHUNK_BYTES_MAX, ChunkKind};

/// Buffers of data packs kept for the next pack.
const IDLE_BUFFERS_MAX: usize = 1;
/// Start of a buffer in memory.
const ALIGNMENT_BYTES: usize = 4096;
/// A pack is closed by the chunk that goes past its target.
const BEYOND_TARGET_BYTES: usize = CHUNK_BYTES_MAX as usize + 2 * ALIGNMENT_BYTES;

/// Where a writer's buffers go when their packs are stored.
pub struct PackBuffers {
    pack_bytes: usize,
    idle: Mutex<Vec<Vec<u8>>>,
}

impl PackBuffers {
    /// For packs of data that are closed at so many bytes.
    pub fn new(pack_bytes: u32) -> Arc<Self> {
        Arc::new(Self { pack_bytes: pack_bytes as usize, idle: Mutex::default() })
    }

    /// A buffer for a pack of that kind; only those of data are worth keeping.
    pub fn take(self: &Arc<Self>, kind: ChunkKind) -> PackBuffer {
        match kind {
            ChunkKind::Data => {
                // Room for all of it, of which nothing is touched before it is used.
                let new = || Vec::with_capacity(self.pack_bytes + BEYOND_TARGET_BYTES);
                let memory = self.idle.lock().pop().unwrap_or_else(new);
                PackBuffer { memory, filled: 0, home: Arc::downgrade(self) }
            }
            ChunkKind::Map => PackBuffer::default(),
        }
    }
}

/// A buffer that is filled in any order. It begins at a multiple of [`ALIGNMENT_BYTES`] in memory, so that backends can
/// write it past the page cache.
#[derive(Default)]
pub struct PackBuffer {
    memory: Vec<u8>,
    filled: usize,
    home: Weak<PackBuffers>,
}

/// Bytes before the first that is aligned.
fn lead(memory: &[u8]) -> usize {
    memory.as_ptr().addr().next_multiple_of(ALIGNMENT_BYTES) - memory.as_ptr().addr()
}

impl PackBuffer {
    /// Puts `part` at `offset`. What lies before may follow later.
    pub fn put(&mut self, offset: usize, part: &[u8]) {
        let end = offset + part.len();
        self.reach(end);
        let lead = lead(&self.memory);
        self.memory[lead + offset..lead + end].copy_from_slice(part);
        self.filled = self.filled.max(end);
    }

    /// Makes room for `length` bytes.
    fn reach(&mut self, length: usize) {
        let wanted = ALIGNMENT_BYTES + length;
        if wanted > self.memory.capacity() {
            // Elsewhere, where the lead may be another. Doubling keeps the copies few.
            let mut memory = Vec::with_capacity(wanted.max(self.memory.capacity() * 2));
            memory.resize(lead(&memory), 0);
            memory.extend_from_slice(self.as_ref());
            self.memory = memory;
        }
        if wanted > self.memory.len() {
            self.memory.resize(wanted, 0);
        }
    }

    /// All of it, from 0 to the end of the last part. The memory goes home when the last reference is gone.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PackBuffer {
    fn as_ref(&self) -> &[u8] {
        let lead = lead(&self.memory);
        self.memory.get(lead..lead + self.filled).unwrap_or_default()
    }
}

impl Drop for PackBuffer {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else { return };
        let mut idle = home.idle.lock();
        if idle.len() < IDLE_BUFFERS_MAX {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_stays_aligned_while_it_grows() {
        let mut buffer = PackBuffers::new(1 << 20).take(ChunkKind::Data);
        let part = |number: usize| vec![number as u8; 100_000];
        for number in 0..40 {
            buffer.put(number * 100_000, &part(number));
            assert!(buffer.as_ref().as_ptr().addr().is_multiple_of(ALIGNMENT_BYTES));
        }
        let frozen = buffer.freeze();
        assert_eq!(frozen.len(), 4_000_000);
        assert!((0..40).all(|number| frozen[number * 100_000..][..100_000] == part(number)[..]));
    }

    #[test]
    fn parts_come_in_any_order_and_memory_is_used_again() {
        let buffers = PackBuffers::new(1 << 20);
        let mut buffer = buffers.take(ChunkKind::Data);
        buffer.put(3, b"def");
        buffer.put(0, b"abc");
        let frozen = buffer.freeze();
        assert_eq!(frozen, "abcdef");
        let address = frozen.as_ptr();
        drop(frozen);
        let mut buffer = buffers.take(ChunkKind::Data);
        buffer.put(0, b"xy");
        let frozen = buffer.freeze();
        assert_eq!((&frozen[..], frozen.as_ptr()), (&b"xy"[..], address), "no trace of what was in it");
    }
}
