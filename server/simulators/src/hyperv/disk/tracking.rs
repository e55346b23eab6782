//! Resilient change tracking of one disk: which units were written in which epoch. An epoch ends at every checkpoint.
//!
//! The log is a file beside the state of the disk, not on the host's drive: number of the first epoch, then one number per
//! first write of a unit in an epoch, or [`NEXT_EPOCH`]. It is written before the disk is, so it never knows too little.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::sparse::runs;

/// Bytes of a unit.
pub const TRACKING_UNIT_BYTES: u64 = 4096;
/// Record that starts the next epoch.
const NEXT_EPOCH: u64 = u64::MAX;
const MAGIC: &[u8; 8] = b"simrct01";

#[derive(Debug)]
struct Epoch {
    number: u64,
    units: BTreeSet<u64>,
}

#[derive(Debug)]
pub(super) struct Tracking {
    path: PathBuf,
    log: File,
    /// Oldest first, never empty.
    epochs: Vec<Epoch>,
}

impl Tracking {
    /// Opens the log, or makes a new one.
    pub fn open(path: &Path) -> io::Result<Self> {
        let epochs = match fs::read(path) {
            Ok(bytes) => read(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "tracking log"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let epochs = vec![Epoch { number: 1, units: BTreeSet::new() }];
                fs::write(path, encode(&epochs))?;
                epochs
            }
            Err(error) => return Err(error),
        };
        let log = OpenOptions::new().append(true).open(path)?;
        Ok(Self { path: path.to_owned(), log, epochs })
    }

    /// Number of the epoch that is written now.
    pub fn current(&self) -> u64 {
        self.epochs.last().map_or(0, |epoch| epoch.number)
    }

    /// Ends the epoch; answers the number of the new one.
    pub fn next_epoch(&mut self) -> io::Result<u64> {
        self.log.write_all(&NEXT_EPOCH.to_le_bytes())?;
        let number = self.current() + 1;
        self.epochs.push(Epoch { number, units: BTreeSet::new() });
        Ok(number)
    }

    /// Notes a write.
    pub fn touch(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let Some(epoch) = self.epochs.last_mut() else { return Ok(()) };
        let units = offset / TRACKING_UNIT_BYTES..offset.saturating_add(length).div_ceil(TRACKING_UNIT_BYTES);
        let fresh: Vec<u64> = units.filter(|unit| !epoch.units.contains(unit)).collect();
        let records: Vec<u8> = fresh.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        self.log.write_all(&records)?;
        epoch.units.extend(fresh);
        Ok(())
    }

    /// Runs of bytes written from epoch `from` on, up to the one before `until`, as offset and length.
    pub fn changed(&self, from: u64, until: Option<u64>, disk_bytes: u64) -> Vec<(u64, u64)> {
        let wanted =
            self.epochs.iter().filter(|epoch| epoch.number >= from && until.is_none_or(|until| epoch.number < until));
        let units: BTreeSet<u64> = wanted.flat_map(|epoch| epoch.units.iter().copied()).collect();
        runs(&units, TRACKING_UNIT_BYTES, disk_bytes)
    }

    /// Forgets epochs before `needed`; all but the current one when nobody needs any.
    pub fn prune(&mut self, needed: Option<u64>) -> io::Result<()> {
        let current = self.current();
        let needed = needed.unwrap_or(current).min(current);
        let before = self.epochs.len();
        self.epochs.retain(|epoch| epoch.number >= needed);
        if self.epochs.len() == before {
            return Ok(());
        }
        let next = self.path.with_extension("rct-next");
        fs::write(&next, encode(&self.epochs))?;
        fs::rename(&next, &self.path)?;
        self.log = OpenOptions::new().append(true).open(&self.path)?;
        Ok(())
    }
}

fn encode(epochs: &[Epoch]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&epochs.first().map_or(1, |epoch| epoch.number).to_le_bytes());
    for (index, epoch) in epochs.iter().enumerate() {
        if index > 0 {
            bytes.extend_from_slice(&NEXT_EPOCH.to_le_bytes());
        }
        bytes.extend(epoch.units.iter().flat_map(|unit| unit.to_le_bytes()));
    }
    bytes
}

fn read(bytes: &[u8]) -> Option<Vec<Epoch>> {
    let (records, _) = bytes.strip_prefix(MAGIC)?.as_chunks::<8>();
    let (first, records) = records.split_first()?;
    let mut epoch = Epoch { number: u64::from_le_bytes(*first), units: BTreeSet::new() };
    let mut epochs = Vec::new();
    for record in records {
        match u64::from_le_bytes(*record) {
            NEXT_EPOCH => {
                let next = Epoch { number: epoch.number + 1, units: BTreeSet::new() };
                epochs.push(std::mem::replace(&mut epoch, next));
            }
            unit => {
                epoch.units.insert(unit);
            }
        }
    }
    epochs.push(epoch);
    Some(epochs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_told_apart_survive_a_reload_and_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.rct");
        let mut tracking = Tracking::open(&path).unwrap();
        tracking.touch(0, 1).unwrap();
        let second = tracking.next_epoch().unwrap();
        tracking.touch(4000, 200).unwrap();
        let third = tracking.next_epoch().unwrap();
        tracking.touch(40_000, 1).unwrap();
        let mut tracking = Tracking::open(&path).unwrap();
        assert_eq!(tracking.changed(second, Some(third), 1 << 20), vec![(0, 8192)]);
        assert_eq!(tracking.changed(second, None, 40_000), vec![(0, 8192), (36_864, 3136)]);
        tracking.prune(Some(third)).unwrap();
        assert_eq!(tracking.changed(0, None, 1 << 20), vec![(36_864, 4096)]);
        let mut tracking = Tracking::open(&path).unwrap();
        assert_eq!((tracking.current(), tracking.changed(0, None, 1 << 20)), (third, vec![(36_864, 4096)]));
        tracking.touch(0, 1).unwrap();
        assert_eq!(Tracking::open(&path).unwrap().changed(0, None, 5000), vec![(0, 4096)]);
    }
}
