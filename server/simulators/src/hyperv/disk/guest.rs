//! Guests that write while their machines run.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::virtual_disk::Disk;
use crate::content::{Generator, GuestWrites};

/// How often guests write.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Steps of writes: the smallest is a page, the largest 16 of them.
const PAGE_BYTES: u64 = 4096;
/// One write in so many is of zeros, as a cleared area is.
const ZERO_WRITES_EVERY: u64 = 32;

/// A guest.
pub(super) struct Guest {
    disks: Vec<Arc<Mutex<Disk>>>,
    writes: GuestWrites,
    generator: Generator,
}

impl Guest {
    pub fn new(disks: Vec<Arc<Mutex<Disk>>>, writes: GuestWrites) -> Self {
        Self { disks, writes, generator: Generator::new(writes.seed) }
    }

    /// Writes for one tick.
    pub fn tick(&mut self) {
        self.write(self.writes.bytes_per_second * TICK.as_millis() as u64 / 1000);
    }

    /// Writes about so many bytes. Each write has the disk's lock for itself.
    pub fn write(&mut self, bytes: u64) {
        let mut rest = bytes;
        while rest > 0 {
            let index = self.generator.random().below(self.disks.len() as u64) as usize;
            let Some(disk) = self.disks.get(index) else { return };
            let mut disk = disk.lock();
            let Ok(size) = disk.parameters().map(|parameters| parameters.disk_bytes) else { return };
            let length = PAGE_BYTES << self.generator.random().below(5);
            // Most writes hit the first eighth, as logs and hot tables do.
            let part = if self.generator.random().below(5) < 4 { size / 8 } else { size };
            let offset = self.generator.random().below(part.saturating_sub(length)) / PAGE_BYTES * PAGE_BYTES;
            let length = length.min(size.saturating_sub(offset)).min(rest.max(PAGE_BYTES));
            let mut buffer = vec![0; length as usize];
            if self.generator.random().below(ZERO_WRITES_EVERY) != 0 {
                self.generator.fill(&mut buffer);
            }
            if let Err(error) = disk.write(offset, &buffer) {
                tracing::warn!(%error, "guest write failed");
                return;
            }
            rest = rest.saturating_sub(length.max(1));
        }
    }

    /// Ends the sessions of its disks.
    pub fn stop(&self) -> std::io::Result<()> {
        self.disks.iter().try_for_each(|disk| disk.lock().close())
    }
}
