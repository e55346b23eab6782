//! A guest that never stops writing: on the data disk anywhere, on the system disk only behind the guest's own image.

use super::hosts::{DATA_DISK, DATA_DISK_BYTES, Hosts, SYSTEM_DISK, TAIL_BYTES};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const BLOCK_BYTES: u64 = 4096;
const WRITE_EVERY: Duration = Duration::from_millis(5);
const BURST_BLOCKS: u64 = 1500;

/// The running writer.
pub struct Guest {
    hosts: Arc<Hosts>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Guest {
    /// Starts to write.
    pub fn start(hosts: Arc<Hosts>) -> Self {
        let stop = CancellationToken::new();
        let (own, token) = (Arc::clone(&hosts), stop.clone());
        let task = tokio::spawn(async move {
            let mut numbers = Numbers(0x5eed);
            while !token.is_cancelled() {
                write_one(&own, &mut numbers);
                tokio::time::sleep(WRITE_EVERY).await;
            }
        });
        Self { hosts, stop, task }
    }

    /// Writes a good deal at once, so that there is something to find between two runs.
    pub fn burst(&self, seed: u64) {
        let mut numbers = Numbers(seed | 1);
        for _ in 0..BURST_BLOCKS {
            write_one(&self.hosts, &mut numbers);
        }
    }

    /// Ends it.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// A small generator (xorshift64): what is written must differ, nothing more.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn write_one(hosts: &Hosts, numbers: &mut Numbers) {
    let (disk, first, blocks) = if numbers.next().is_multiple_of(8) {
        let size = hosts.system_disk_bytes();
        (SYSTEM_DISK, size - TAIL_BYTES, TAIL_BYTES / BLOCK_BYTES)
    } else {
        (DATA_DISK, 0, DATA_DISK_BYTES / BLOCK_BYTES)
    };
    let offset = first + numbers.next() % blocks * BLOCK_BYTES;
    // Half of each block repeats, as data does; now and then a block is cleared.
    let mut block = vec![0; BLOCK_BYTES as usize];
    if !numbers.next().is_multiple_of(16) {
        for (index, part) in block.chunks_exact_mut(8).enumerate() {
            let value = if index % 2 == 0 { numbers.next() } else { offset };
            part.copy_from_slice(&value.to_le_bytes());
        }
    }
    if let Err(error) = hosts.write(disk, offset, &block) {
        tracing::warn!(%error, "the simulated guest could not write");
    }
}
