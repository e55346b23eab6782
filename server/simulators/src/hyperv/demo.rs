//! A small host for a first try.

use std::path::PathBuf;

use super::config::{Content, DiskSpec, GuestWrites, HostConfig, MachineSpec};

/// A host with three running machines of 64–512 MiB disks that keep changing: `app-01`, `sql-01` (two disks) and `legacy-01` (of
/// generation 1). Disks are dynamic; starting it takes about a second. The seed of the contents comes from the host's name, so
/// that two demo hosts differ.
pub fn demo_config(state_dir: impl Into<PathBuf>, name: &str) -> HostConfig {
    const MIB: u64 = 1 << 20;
    let seed = name.bytes().fold(23u64, |sum, byte| sum.wrapping_mul(131).wrapping_add(u64::from(byte)));
    let machine = |name: &str, generation: u8, disks: &[(u64, u64)], bytes_per_second: u64, number: u64| {
        let disk = |(index, &(size, used)): (usize, &(u64, u64))| {
            let seed = seed.wrapping_add(number * 10 + index as u64);
            DiskSpec::new(size * MIB, Content::Pattern { seed, used_bytes: used * MIB })
        };
        MachineSpec {
            on: true,
            generation,
            memory_mib: 2048,
            disks: disks.iter().enumerate().map(disk).collect(),
            writes: Some(GuestWrites { bytes_per_second, seed: seed ^ number }),
            ..MachineSpec::new(name)
        }
    };
    HostConfig {
        machines: vec![
            machine("app-01", 2, &[(256, 28)], 64 << 10, 1),
            machine("sql-01", 2, &[(128, 12), (512, 36)], 256 << 10, 2),
            machine("legacy-01", 1, &[(384, 24)], 32 << 10, 3),
        ],
        ..HostConfig::new(name, state_dir)
    }
}
