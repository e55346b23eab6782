//! A small host for a first try.

use std::path::PathBuf;

use super::config::{DiskContent, DiskSpec, GuestWrites, HostConfig, MachineSpec, Power};

/// A host with three running machines of 64–512 MiB disks that keep changing: `web-01`, `db-01` (two disks) and `files-01`.
/// Disks are sparse; starting it takes well under a second. The seed of the contents comes from the host's name, so that two
/// demo hosts differ.
pub fn demo_config(state_dir: impl Into<PathBuf>, name: &str) -> HostConfig {
    const MIB: u64 = 1 << 20;
    let seed = name.bytes().fold(17u64, |sum, byte| sum.wrapping_mul(131).wrapping_add(u64::from(byte)));
    let machine = |name: &str, guest: &str, disks: &[(u64, u64)], bytes_per_second: u64, number: u64| {
        let content = |index: usize, used: u64| DiskContent::Generated {
            seed: seed.wrapping_add(number * 10 + index as u64),
            used_bytes: used * MIB,
        };
        let disks = disks.iter().enumerate();
        MachineSpec {
            power: Power::On,
            guest_id: guest.to_owned(),
            memory_mib: 2048,
            disks: disks.map(|(index, &(size, used))| DiskSpec::new(size * MIB, content(index, used))).collect(),
            writes: Some(GuestWrites { bytes_per_second, seed: seed ^ number }),
            ..MachineSpec::new(name)
        }
    };
    HostConfig {
        machines: vec![
            machine("web-01", "debian12_64Guest", &[(256, 28)], 64 << 10, 1),
            machine("db-01", "ubuntu64Guest", &[(128, 12), (512, 36)], 256 << 10, 2),
            machine("files-01", "windows2019srv_64Guest", &[(384, 24)], 32 << 10, 3),
        ],
        ..HostConfig::new(name, state_dir)
    }
}
