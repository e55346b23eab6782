//! Memory of packs being filled. One buffer per pack, used again for the next: thousands of small allocations that are
//! made on one thread and freed on another would leave the heap twice as large as what is in it.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

use crate::format::ChunkKind;

/// Buffers of data packs kept for the next pack.
const IDLE_BUFFERS_MAX: usize = 1;

/// Where a writer's buffers go when their packs are stored.
#[derive(Default)]
pub struct PackBuffers {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl PackBuffers {
    /// A buffer for a pack of that kind; only those of data are worth keeping.
    pub fn take(self: &Arc<Self>, kind: ChunkKind) -> PackBuffer {
        match kind {
            ChunkKind::Data => {
                let bytes = self.idle.lock().pop().unwrap_or_default();
                PackBuffer { bytes, filled: 0, home: Arc::downgrade(self) }
            }
            ChunkKind::Map => PackBuffer::default(),
        }
    }
}

/// A buffer that is filled in any order.
#[derive(Default)]
pub struct PackBuffer {
    bytes: Vec<u8>,
    filled: usize,
    home: Weak<PackBuffers>,
}

impl PackBuffer {
    /// Puts `part` at `offset`. What lies before may follow later.
    pub fn put(&mut self, offset: usize, part: &[u8]) {
        let end = offset + part.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(part);
        self.filled = self.filled.max(end);
    }

    /// All of it, from 0 to the end of the last part. The memory goes home when the last reference is gone.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PackBuffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }
}

impl Drop for PackBuffer {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else { return };
        let mut idle = home.idle.lock();
        if idle.len() < IDLE_BUFFERS_MAX {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_any_order_and_memory_is_used_again() {
        let buffers = Arc::new(PackBuffers::default());
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
