//! A guest that never stops writing: on the data disk anywhere, on the system disk only behind the guest's own image.

use super::stage::{DATA_DISK, DATA_DISK_BYTES, MACHINE, SYSTEM_DISK, TAIL_BYTES};
use simulators::esxi::SimulatedHost;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const BLOCK_BYTES: u64 = 4096;
const WRITE_EVERY: Duration = Duration::from_millis(5);
const BURST_BLOCKS: u64 = 1500;

/// The running writer.
pub struct Guest {
    host: Arc<SimulatedHost>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Guest {
    /// Starts to write.
    pub fn start(host: Arc<SimulatedHost>) -> Self {
        let stop = CancellationToken::new();
        let (own, token) = (Arc::clone(&host), stop.clone());
        let task = tokio::spawn(async move {
            let mut numbers = Numbers(0x5eed);
            while !token.is_cancelled() {
                write_one(&own, &mut numbers);
                tokio::time::sleep(WRITE_EVERY).await;
            }
        });
        Self { host, stop, task }
    }

    /// Writes a good deal at once, so that there is something to find between two runs.
    pub fn burst(&self, seed: u64) {
        let mut numbers = Numbers(seed | 1);
        for _ in 0..BURST_BLOCKS {
            write_one(&self.host, &mut numbers);
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

fn write_one(host: &SimulatedHost, numbers: &mut Numbers) {
    let (key, first, blocks) = if numbers.next().is_multiple_of(8) {
        let size = system_disk_bytes(host);
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
    if let Err(error) = host.write(MACHINE, key, offset, &block) {
        tracing::warn!(%error, "the simulated guest could not write");
    }
}

fn system_disk_bytes(host: &SimulatedHost) -> u64 {
    let disks = host.machine(MACHINE).map(|machine| machine.disks).unwrap_or_default();
    disks.iter().find(|disk| disk.key == SYSTEM_DISK).map_or(TAIL_BYTES, |disk| disk.capacity_bytes)
}
