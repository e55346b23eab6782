//! All disks of a host: what the host's services call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use uuid::Uuid;

use super::drive::Drive;
use super::guest::{Guest, TICK};
use super::spec::{ChangesRefused, Content, Converted, DiskLayout, DiskSpec, Merged, SectorSizes, StoreOptions};
use super::vhdx::{Access, Parameters, Vhdx};
use super::virtual_disk::{Disk, DiskId, Place};
use crate::SimulatorError;
use crate::content::{self, GuestWrites};

type SharedDisk = Arc<Mutex<Disk>>;

struct Inner {
    options: StoreOptions,
    drive: Drive,
    disks: Mutex<BTreeMap<DiskId, SharedDisk>>,
    /// By the name their owner gives them. Locked before any disk.
    guests: Mutex<BTreeMap<String, Guest>>,
    is_paused: AtomicBool,
}

/// The disks of a host. Every call may take as long as the files it touches: not for an executor's own threads.
pub struct DiskStore {
    inner: Arc<Inner>,
    stop: Option<mpsc::Sender<()>>,
    ticker: Option<JoinHandle<()>>,
}

impl DiskStore {
    /// Opens the store with the disks of an earlier run.
    pub fn open(options: StoreOptions) -> Result<Self, SimulatorError> {
        for folder in [&options.drive_dir, &options.state_dir] {
            fs::create_dir_all(folder).map_err(SimulatorError::file("make", folder))?;
        }
        let drive = Drive::new(options.drive_dir.clone());
        let inner = Inner {
            options,
            drive,
            disks: Mutex::default(),
            guests: Mutex::default(),
            is_paused: AtomicBool::new(false),
        };
        inner.load()?;
        let inner = Arc::new(inner);
        let (stop, stopped) = mpsc::channel();
        let own = Arc::clone(&inner);
        let ticker = std::thread::Builder::new().name("simulated-guests".to_owned()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                own.tick();
            }
        });
        let ticker = ticker.map_err(SimulatorError::file("start guests on", &inner.options.drive_dir))?;
        Ok(Self { inner, stop: Some(stop), ticker: Some(ticker) })
    }

    /// The drive the files are on.
    pub fn drive(&self) -> &Drive {
        &self.inner.drive
    }

    /// Makes a disk with its file.
    pub fn create(&self, spec: &DiskSpec) -> Result<DiskId, SimulatorError> {
        let file = self.inner.drive.file(&spec.path).map_err(SimulatorError::file("make", &spec.path))?;
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(SimulatorError::file("make", folder))?;
        }
        let base = fill(&file, spec).map_err(|error| {
            if error.kind() != io::ErrorKind::AlreadyExists {
                let _ = fs::remove_file(&file);
            }
            SimulatorError::file("make", &file)(error)
        })?;
        self.inner.adopt(&file, base)
    }

    /// Takes a file that somebody put on the drive as a disk. The file is judged as a host would: all of its structures.
    pub fn attach(&self, path: &str) -> Result<DiskId, SimulatorError> {
        let refuse = |reason: String| SimulatorError::Refused { operation: "attach", machine: path.to_owned(), reason };
        if self.inner.find(path).is_some() {
            return Err(refuse("another disk has the file".to_owned()));
        }
        let file = self.inner.drive.file(path).map_err(|error| refuse(error.to_string()))?;
        let base = Vhdx::open(&file, Access::Write).map_err(|error| refuse(error.to_string()))?;
        if base.parameters().parent.is_some() {
            return Err(refuse("it is a differencing file".to_owned()));
        }
        self.inner.adopt(&file, base)
    }

    /// Freezes disks in one instant; their machines go on in new `.avhdx` files. Answers the frozen paths, in order.
    pub fn checkpoint(&self, disks: &[DiskId]) -> Result<Vec<String>, SimulatorError> {
        let unique: BTreeSet<DiskId> = disks.iter().copied().collect();
        let shared = unique.iter().map(|&id| self.inner.disk(id)).collect::<Result<Vec<_>, _>>()?;
        let mut locked: Vec<_> = shared.iter().map(|disk| disk.lock()).collect();
        let mut frozen = BTreeMap::new();
        for index in 0..locked.len() {
            let Some(disk) = locked.get_mut(index) else { break };
            match disk.checkpoint() {
                Ok(path) => frozen.insert(disk.id(), path),
                Err(error) => {
                    for disk in &mut locked {
                        if let Some(path) = frozen.get(&disk.id()) {
                            disk.merge(path)?;
                        }
                    }
                    return Err(error);
                }
            };
        }
        Ok(disks.iter().filter_map(|id| frozen.get(id).cloned()).collect())
    }

    /// Ends the checkpoint that froze a file of a disk, and forgets its moment.
    pub fn merge(&self, disk: DiskId, frozen: &str) -> Result<Merged, SimulatorError> {
        self.inner.disk(disk)?.lock().merge(frozen)
    }

    /// Ends the checkpoint that froze a file of a disk; changes since then can be asked for with the tracking id.
    pub fn convert(&self, disk: DiskId, frozen: &str) -> Result<Converted, SimulatorError> {
        self.inner.disk(disk)?.lock().convert(frozen)
    }

    /// Forgets a tracking id; whether there was one.
    pub fn forget(&self, tracking_id: &str) -> Result<bool, SimulatorError> {
        for disk in self.inner.all() {
            if disk.lock().forget(tracking_id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What was written after the moment of the tracking id and before the one that froze the file (now, if it is written):
    /// offset and length, ascending, multiples of [`super::TRACKING_UNIT_BYTES`], cut to the range asked for.
    pub fn changes(
        &self,
        tracking_id: &str,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<Vec<(u64, u64)>, ChangesRefused> {
        let found = self.inner.find(path).ok_or_else(|| ChangesRefused::NoSuchDisk { path: path.to_owned() })?;
        let is_elsewhere = || self.inner.all().iter().any(|disk| disk.lock().knows(tracking_id));
        let changes = {
            let disk = found.lock();
            let size = disk.parameters().map_or(0, |parameters| parameters.disk_bytes);
            if offset.checked_add(length).is_none_or(|end| end > size) {
                return Err(ChangesRefused::OutOfRange);
            }
            let link = disk.link_of(path).unwrap_or_default();
            disk.changes(tracking_id, link)
        };
        let changes = match changes {
            Err(ChangesRefused::UnknownId) if is_elsewhere() => return Err(ChangesRefused::OtherDisk),
            changes => changes?,
        };
        let cut = |(start, count): (u64, u64)| {
            let (from, to) = (start.max(offset), (start + count).min(offset + length));
            (from < to).then(|| (from, to - from))
        };
        Ok(changes.into_iter().filter_map(cut).collect())
    }

    /// Forgets a disk; its files stay.
    pub fn detach(&self, disk: DiskId) -> Result<(), SimulatorError> {
        self.inner.remove(disk, false)
    }

    /// Forgets a disk and removes its files.
    pub fn remove(&self, disk: DiskId) -> Result<(), SimulatorError> {
        self.inner.remove(disk, true)
    }

    /// All disks.
    pub fn disks(&self) -> Vec<DiskId> {
        self.inner.disks.lock().keys().copied().collect()
    }

    /// The disk that has a file, in whatever place of its chain.
    pub fn disk_of(&self, path: &str) -> Option<DiskId> {
        self.inner.find(path).map(|disk| disk.lock().id())
    }

    /// Windows path of the file that is written.
    pub fn path(&self, disk: DiskId) -> Result<String, SimulatorError> {
        self.chain(disk).map(|mut paths| paths.pop().unwrap_or_default())
    }

    /// Windows paths of all files, base first.
    pub fn chain(&self, disk: DiskId) -> Result<Vec<String>, SimulatorError> {
        Ok(self.inner.disk(disk)?.lock().paths())
    }

    /// Size of the disk, in bytes.
    pub fn size(&self, disk: DiskId) -> Result<u64, SimulatorError> {
        self.parameters(disk).map(|parameters| parameters.disk_bytes)
    }

    /// Virtual disk id, as the file says it.
    pub fn identifier(&self, disk: DiskId) -> Result<Uuid, SimulatorError> {
        self.parameters(disk).map(|parameters| parameters.disk_id)
    }

    /// Sector sizes.
    pub fn sectors(&self, disk: DiskId) -> Result<SectorSizes, SimulatorError> {
        let parameters = self.parameters(disk)?;
        Ok(SectorSizes { logical: parameters.logical_sector_bytes, physical: parameters.physical_sector_bytes })
    }

    /// How blocks of the base are allocated, and how large those of the file that is written are.
    pub fn layout(&self, disk: DiskId) -> Result<(DiskLayout, u64), SimulatorError> {
        let shared = self.inner.disk(disk)?;
        let locked = shared.lock();
        let fixed = locked.chain().link(0).is_some_and(|base| base.parameters().fixed);
        let layout = if fixed { DiskLayout::Fixed } else { DiskLayout::Dynamic };
        Ok((layout, locked.parameters().map_or(0, |parameters| parameters.block_bytes)))
    }

    fn parameters(&self, disk: DiskId) -> Result<Parameters, SimulatorError> {
        let shared = self.inner.disk(disk)?;
        let locked = shared.lock();
        locked.parameters().cloned().map_err(SimulatorError::file("look at", locked.paths().concat()))
    }

    /// Reads whole sectors of the disk as it is now.
    pub fn read(&self, disk: DiskId, offset: u64, buffer: &mut [u8]) -> Result<(), SimulatorError> {
        self.act(disk, "read", |disk| disk.read(disk.top(), offset, buffer))
    }

    /// Writes as the guest would, or as somebody with the machine off.
    pub fn write(&self, disk: DiskId, offset: u64, bytes: &[u8]) -> Result<(), SimulatorError> {
        self.act(disk, "write to", |disk| disk.write(offset, bytes))
    }

    /// Makes a disk without checkpoints larger.
    pub fn grow(&self, disk: DiskId, size_bytes: u64) -> Result<(), SimulatorError> {
        self.act(disk, "grow", |disk| disk.grow(size_bytes))
    }

    /// SHA-256 of the disk as it is now, in hexadecimal.
    pub fn digest(&self, disk: DiskId) -> Result<String, SimulatorError> {
        self.act(disk, "read", |disk| disk.chain().digest(disk.top()))
    }

    /// SHA-256 of the disk at the moment of a tracking id or of a frozen path, if the store notes them.
    pub fn recorded_digest(&self, moment: &str) -> Option<String> {
        self.inner.all().iter().find_map(|disk| disk.lock().recorded_digest(moment))
    }

    /// Copies what a file of a disk stands for (with its parents) into a new sparse raw file.
    pub fn copy_raw(&self, path: &str, target: &Path) -> Result<(), SimulatorError> {
        let disk = self.inner.find(path).ok_or_else(|| SimulatorError::Unknown { name: path.to_owned() })?;
        let disk = disk.lock();
        let link = disk.link_of(path).unwrap_or_default();
        disk.chain().copy_raw(link, target).map_err(SimulatorError::file("copy into", target))
    }

    /// A machine runs: its guest writes to its disks from now on, if it writes at all. Takes the place of an earlier guest of
    /// that name.
    pub fn run_guest(&self, name: &str, disks: &[DiskId], writes: Option<GuestWrites>) -> Result<(), SimulatorError> {
        let shared = disks.iter().map(|&id| self.inner.disk(id)).collect::<Result<Vec<_>, _>>()?;
        let writes = writes.unwrap_or(GuestWrites { bytes_per_second: 0, seed: 0 });
        self.inner.guests.lock().insert(name.to_owned(), Guest::new(shared, writes));
        Ok(())
    }

    /// A machine is off: nothing more is written once this returns, and its files are closed.
    pub fn stop_guest(&self, name: &str) -> Result<(), SimulatorError> {
        match self.inner.guests.lock().remove(name) {
            Some(guest) => guest.stop().map_err(SimulatorError::file("close the disks of", name)),
            None => Ok(()),
        }
    }

    /// Holds all guests' writes back, or lets them go on.
    pub fn pause_guests(&self, paused: bool) {
        let _guests = self.inner.guests.lock();
        self.inner.is_paused.store(paused, Ordering::SeqCst);
    }

    /// Lets a guest write so many bytes at once, by its own generator. Does nothing for one that is off.
    pub fn guest_burst(&self, name: &str, bytes: u64) {
        if let Some(guest) = self.inner.guests.lock().get_mut(name) {
            guest.write(bytes);
        }
    }

    fn act<T>(
        &self,
        disk: DiskId,
        action: &'static str,
        act: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> Result<T, SimulatorError> {
        let shared = self.inner.disk(disk)?;
        let mut locked = shared.lock();
        act(&mut locked).map_err(|error| {
            let path = locked.paths().pop().unwrap_or_default();
            SimulatorError::file(action, path)(error)
        })
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
        for disk in self.inner.all() {
            if let Err(error) = disk.lock().close() {
                tracing::warn!(%error, "a simulated disk was not closed");
            }
        }
    }
}

impl Inner {
    fn place(&self) -> Place<'_> {
        Place {
            drive: &self.drive,
            state_dir: &self.options.state_dir,
            records_digests: self.options.records_digests,
            leaves_dirty_logs: self.options.leaves_dirty_logs,
        }
    }

    fn load(&self) -> Result<(), SimulatorError> {
        let folder = &self.options.state_dir;
        let entries = fs::read_dir(folder).map_err(SimulatorError::file("list", folder))?;
        let files: BTreeSet<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "json")) {
            if let Some(disk) = Disk::load(&self.place(), file)? {
                self.disks.lock().insert(disk.id(), Arc::new(Mutex::new(disk)));
            }
        }
        Ok(())
    }

    fn adopt(&self, file: &Path, base: Vhdx) -> Result<DiskId, SimulatorError> {
        let path = self.drive.path(file).unwrap_or_default();
        let disk = Disk::adopt(&self.place(), path, base)?;
        let id = disk.id();
        self.disks.lock().insert(id, Arc::new(Mutex::new(disk)));
        Ok(id)
    }

    fn disk(&self, id: DiskId) -> Result<SharedDisk, SimulatorError> {
        let disk = self.disks.lock().get(&id).cloned();
        disk.ok_or_else(|| SimulatorError::Unknown { name: format!("{id:?}") })
    }

    fn all(&self) -> Vec<SharedDisk> {
        self.disks.lock().values().cloned().collect()
    }

    fn find(&self, path: &str) -> Option<SharedDisk> {
        self.all().into_iter().find(|disk| disk.lock().link_of(path).is_some())
    }

    fn remove(&self, id: DiskId, files: bool) -> Result<(), SimulatorError> {
        let disk = self.disk(id)?;
        disk.lock().remove(files)?;
        self.disks.lock().remove(&id);
        Ok(())
    }

    fn tick(&self) {
        let mut guests = self.guests.lock();
        if !self.is_paused.load(Ordering::SeqCst) {
            guests.values_mut().for_each(Guest::tick);
        }
    }
}

/// Makes the file of a disk with its content.
fn fill(file: &Path, spec: &DiskSpec) -> io::Result<Vhdx> {
    let mut base = Vhdx::create(
        file,
        Parameters {
            block_bytes: spec.block_bytes,
            disk_bytes: spec.size_bytes,
            disk_id: spec.identifier.unwrap_or_else(Uuid::new_v4),
            logical_sector_bytes: spec.sectors.logical,
            physical_sector_bytes: spec.sectors.physical,
            fixed: spec.layout == DiskLayout::Fixed,
            parent: None,
        },
    )?;
    let sector = spec.sectors.logical as usize;
    let mut write = |offset: u64, bytes: &[u8]| {
        let mut whole = bytes.to_vec();
        whole.resize(bytes.len().next_multiple_of(sector), 0);
        base.write(offset, &whole)
    };
    match &spec.content {
        Content::Zeros => {}
        Content::Pattern { seed, used_bytes } => {
            content::generate(spec.size_bytes, *seed, *used_bytes, &mut write)?;
        }
        Content::Raw(source) => content::each_data(&fs::File::open(source)?, spec.size_bytes, &mut write)?,
    }
    base.finish()?;
    Ok(base)
}
