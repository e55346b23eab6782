//! Disks without bytes: paths, checkpoints and change tracking in memory, for tests of the WMI side.

use std::collections::HashMap;

use parking_lot::Mutex;
use uuid::Uuid;

use super::config::{DiskKind, DiskSpec, GuestWrites};
use super::store::{DiskId, DiskInfo, DiskStore, Merged};
use crate::SimulatorError;

/// Disks in memory.
#[derive(Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    disks: HashMap<DiskId, Disk>,
    tracking: HashMap<String, (DiskId, usize)>,
}

struct Disk {
    info: DiskInfo,
    /// Base first, with how many writes there had been when the file was frozen.
    files: Vec<(String, Option<usize>)>,
    writes: Vec<(u64, u64)>,
}

fn unknown(name: impl Into<String>) -> SimulatorError {
    SimulatorError::Unknown { name: name.into() }
}

impl MemoryStore {
    /// Notes that a guest wrote.
    pub fn write(&self, disk: DiskId, offset: u64, length: u64) {
        if let Some(disk) = self.inner.lock().disks.get_mut(&disk) {
            disk.writes.push((offset, length));
        }
    }

    fn add(&self, path: &str, size_bytes: u64, kind: DiskKind) -> DiskId {
        let id = DiskId(Uuid::new_v4());
        let logical = if kind == DiskKind::Dynamic4K { 4096 } else { 512 };
        let info = DiskInfo {
            size_bytes,
            identifier: Uuid::new_v4(),
            parent: None,
            fixed: kind == DiskKind::Fixed,
            block_bytes: 32 << 20,
            sector_bytes: (logical, 4096),
        };
        let disk = Disk { info, files: vec![(path.to_owned(), None)], writes: Vec::new() };
        self.inner.lock().disks.insert(id, disk);
        id
    }
}

impl Disk {
    fn merge(&mut self, frozen: &str) -> Result<(usize, Merged), SimulatorError> {
        let at = self.files.iter().position(|(path, _)| path.eq_ignore_ascii_case(frozen));
        let at = at.filter(|at| at + 1 < self.files.len()).ok_or_else(|| unknown(frozen))?;
        let moment = self.files[at].1.unwrap_or_default();
        let (gone, later) = self.files.remove(at + 1);
        self.files[at].1 = later;
        Ok((moment, Merged { gone, into: self.files[at].0.clone() }))
    }
}

impl DiskStore for MemoryStore {
    fn create(&self, path: &str, spec: &DiskSpec) -> Result<DiskId, SimulatorError> {
        Ok(self.add(path, spec.size_bytes, spec.kind))
    }

    fn attach(&self, path: &str) -> Result<DiskId, SimulatorError> {
        let inner = self.inner.lock();
        let found = inner.disks.iter().find(|(_, disk)| disk.files.iter().any(|(p, _)| p.eq_ignore_ascii_case(path)));
        found.map(|(id, _)| *id).ok_or_else(|| unknown(path))
    }

    fn detach(&self, _: DiskId) {}

    fn checkpoint(&self, disks: &[DiskId]) -> Result<Vec<String>, SimulatorError> {
        let mut inner = self.inner.lock();
        let freeze = |id: &DiskId| {
            let disk = inner.disks.get_mut(id).ok_or_else(|| unknown("disk"))?;
            let moment = disk.writes.len();
            let base = disk.files[0].0.trim_end_matches(".vhdx").to_owned();
            let top = disk.files.last_mut().ok_or_else(|| unknown("disk"))?;
            top.1 = Some(moment);
            let frozen = top.0.clone();
            disk.files.push((format!("{base}_{}.avhdx", super::machine::guid(Uuid::new_v4())), None));
            Ok(frozen)
        };
        disks.iter().map(freeze).collect()
    }

    fn merge(&self, disk: DiskId, frozen: &str) -> Result<Merged, SimulatorError> {
        let mut inner = self.inner.lock();
        Ok(inner.disks.get_mut(&disk).ok_or_else(|| unknown(frozen))?.merge(frozen)?.1)
    }

    fn convert(&self, disk: DiskId, frozen: &str) -> Result<(String, Merged), SimulatorError> {
        let mut inner = self.inner.lock();
        let (moment, merged) = inner.disks.get_mut(&disk).ok_or_else(|| unknown(frozen))?.merge(frozen)?;
        let id = format!("rctX:{}", Uuid::new_v4());
        inner.tracking.insert(id.clone(), (disk, moment));
        Ok((id, merged))
    }

    fn forget(&self, tracking: &str) {
        self.inner.lock().tracking.remove(tracking);
    }

    fn changes(&self, tracking: &str, path: &str, offset: u64, length: u64) -> Result<Vec<(u64, u64)>, String> {
        let inner = self.inner.lock();
        let (id, from) = inner.tracking.get(tracking).ok_or("unknown tracking id")?;
        let disk = inner.disks.get(id).ok_or("the disk is gone")?;
        let file = disk.files.iter().find(|(own, _)| own.eq_ignore_ascii_case(path)).ok_or("of another disk")?;
        let until = file.1.unwrap_or(disk.writes.len());
        let writes = disk.writes.get(*from..until).ok_or("the file is older than the tracking id")?;
        let cut = |&(start, bytes): &(u64, u64)| {
            let (start, end) = (start.max(offset), (start + bytes).min(offset + length));
            (start < end).then(|| (start, end - start))
        };
        let mut found: Vec<_> = writes.iter().filter_map(cut).collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn path(&self, disk: DiskId) -> Result<String, SimulatorError> {
        let inner = self.inner.lock();
        let top = inner.disks.get(&disk).and_then(|disk| disk.files.last());
        top.map(|(path, _)| path.clone()).ok_or_else(|| unknown("disk"))
    }

    fn info(&self, path: &str) -> Option<DiskInfo> {
        let inner = self.inner.lock();
        inner.disks.values().find_map(|disk| {
            let at = disk.files.iter().position(|(own, _)| own.eq_ignore_ascii_case(path))?;
            let parent = at.checked_sub(1).map(|below| disk.files[below].0.clone());
            Some(DiskInfo { parent, ..disk.info.clone() })
        })
    }

    fn run_guest(&self, _: &str, _: &[DiskId], _: Option<GuestWrites>) {}

    fn stop_guest(&self, _: &str) {}
}
