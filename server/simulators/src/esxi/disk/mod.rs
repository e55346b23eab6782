//! Virtual disks as files of a datastore: a flat base, COWD deltas on top of it, and the change tracking of the whole.
//!
//! Owns: the chain of links of a disk, who is frozen and who is written, merging, and the files' names. One [`Disk`] belongs to
//! one machine, whose lock serialises everything here; [`image::DiskImage`] is how others read without that lock.

pub(crate) mod cowd;
pub(crate) mod image;
pub(crate) mod tracking;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::cowd::Cowd;
use self::image::{DiskImage, Layer};
use self::tracking::Tracking;
use super::config::DiskMode;
use crate::SimulatorError;

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;
/// Links of one disk; a host refuses more than 32 snapshots in a chain.
pub(crate) const LINKS_MAX: usize = 64;
/// Bytes moved at a time in merges.
const MERGE_CHUNK_BYTES: usize = 1 << 20;

/// A link of a chain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Link {
    pub parent: Option<u32>,
    cid: u32,
    /// Name without extension, e.g. `web-01-000001`.
    name: String,
}

/// The data file of a link, open.
#[derive(Debug)]
enum LinkFile {
    Flat(Arc<File>),
    Delta(Cowd),
}

/// A virtual disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub key: i32,
    pub capacity: u64,
    pub controller_key: i32,
    pub unit: i32,
    pub uuid: Uuid,
    pub mode: DiskMode,
    pub thin: bool,
    /// Folder of its files.
    #[serde(skip)]
    dir: PathBuf,
    /// Name of the base without extension.
    stem: String,
    /// Links by number; 0 is the flat base.
    links: BTreeMap<u32, Link>,
    /// The link that is written.
    pub top: u32,
    next_link: u32,
    pub tracking: Tracking,
    #[serde(skip)]
    files: BTreeMap<u32, LinkFile>,
}

/// What a merge did: links that were renamed (old, new), and the file whose reader stopped it.
pub(crate) type Collapsed = (Vec<(u32, u32)>, Option<PathBuf>);

/// What identifies a new disk.
pub(crate) struct NewDisk {
    pub key: i32,
    pub capacity: u64,
    pub controller_key: i32,
    pub unit: i32,
    pub uuid: Uuid,
    pub mode: DiskMode,
    pub thin: bool,
    pub dir: PathBuf,
    pub stem: String,
    pub tracking_unit: u64,
}

impl Disk {
    /// Makes an empty disk and its files.
    pub fn create(new: NewDisk) -> Result<Self, SimulatorError> {
        let NewDisk { key, capacity, controller_key, unit, uuid, mode, thin, dir, stem, tracking_unit } = new;
        let base = Link { parent: None, cid: uuid.as_fields().0 | 1, name: stem.clone() };
        let tracking = Tracking::new(dir.join(format!("{stem}-ctk.vmdk")), tracking_unit);
        let links = BTreeMap::from([(0, base)]);
        let mut disk = Self {
            key,
            capacity,
            controller_key,
            unit,
            uuid,
            mode,
            thin,
            dir,
            stem,
            links,
            top: 0,
            next_link: 1,
            tracking,
            files: BTreeMap::new(),
        };
        let path = disk.data_path(0);
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(SimulatorError::file("create", &path))?;
        file.set_len(capacity).map_err(SimulatorError::file("size", &path))?;
        disk.files.insert(0, LinkFile::Flat(Arc::new(file)));
        disk.write_descriptor(0)?;
        Ok(disk)
    }

    /// Opens the files of a disk that was loaded from the saved state. Answers links that were replaced by others since (old, new).
    pub fn open(&mut self, dir: &Path) -> Result<Vec<(u32, u32)>, SimulatorError> {
        dir.clone_into(&mut self.dir);
        let renamed = self.forget_merged();
        for (&id, link) in &self.links {
            let path = self.data_path(id);
            let file =
                OpenOptions::new().read(true).write(true).open(&path).map_err(SimulatorError::file("open", &path))?;
            let file = if link.parent.is_none() {
                LinkFile::Flat(Arc::new(file))
            } else {
                LinkFile::Delta(Cowd::load(file).map_err(SimulatorError::file("load", &path))?)
            };
            self.files.insert(id, file);
        }
        self.tracking.open(self.dir.join(format!("{}-ctk.vmdk", self.stem)));
        Ok(renamed)
    }

    /// Takes deltas out of the chain whose files are gone: they were merged just before a crash, and the saved state is older.
    /// Answers which link took the place of which.
    fn forget_merged(&mut self) -> Vec<(u32, u32)> {
        let mut renamed = Vec::new();
        let missing = |disk: &Self| {
            let mut deltas = disk.links.iter().filter_map(|(&id, link)| Some((id, link.parent?)));
            deltas.find(|&(id, _)| !disk.data_path(id).exists())
        };
        while let Some((id, parent)) = missing(self) {
            self.links.remove(&id);
            for link in self.links.values_mut().filter(|link| link.parent == Some(id)) {
                link.parent = Some(parent);
            }
            if self.top == id {
                self.top = parent;
            }
            renamed.push((id, parent));
        }
        renamed
    }

    /// The descriptor's file name, e.g. `web-01-000001.vmdk`.
    pub fn descriptor_name(&self, link: u32) -> String {
        format!("{}.vmdk", self.links.get(&link).map_or("missing", |link| link.name.as_str()))
    }

    /// Path of a link's data file.
    pub fn data_path(&self, link: u32) -> PathBuf {
        let kind = match self.links.get(&link) {
            Some(Link { parent: Some(_), .. }) => "delta",
            _ if matches!(self.mode, DiskMode::RawDevicePhysical) => "rdmp",
            _ if matches!(self.mode, DiskMode::RawDeviceVirtual) => "rdm",
            _ => "flat",
        };
        let name = self.links.get(&link).map_or("missing", |link| link.name.as_str());
        self.dir.join(format!("{name}-{kind}.vmdk"))
    }

    /// The link whose data file is `path`.
    pub fn link_of(&self, path: &Path) -> Option<u32> {
        self.links.keys().copied().find(|&link| self.data_path(link) == path)
    }

    /// A link and its ancestors, nearest first.
    pub fn chain(&self, link: u32) -> Vec<u32> {
        let mut chain = Vec::new();
        let mut next = Some(link);
        while let Some(id) = next.filter(|_| chain.len() <= LINKS_MAX) {
            chain.push(id);
            next = self.links.get(&id).and_then(|link| link.parent);
        }
        chain
    }

    /// All data files.
    pub fn data_paths(&self) -> Vec<PathBuf> {
        self.links.keys().map(|&link| self.data_path(link)).collect()
    }

    /// Every file of the disk.
    pub fn all_paths(&self) -> Vec<PathBuf> {
        let mut paths = self.data_paths();
        paths.extend(self.links.keys().map(|&link| self.dir.join(self.descriptor_name(link))));
        paths.push(self.tracking.path().to_owned());
        paths
    }

    /// The disk as it is at a link, to be read without the machine's lock. Stable for a frozen link only.
    pub fn image(&self, link: u32) -> DiskImage {
        let layers = self.chain(link).into_iter().filter_map(|id| self.files.get(&id)).map(|file| match file {
            LinkFile::Flat(file) => Layer::Flat(Arc::clone(file)),
            LinkFile::Delta(delta) => delta.layer(),
        });
        DiskImage::new(self.capacity, layers.collect())
    }

    /// Writes to the top link. `running` says whether the machine runs; a write to a machine that is off counts as a new
    /// epoch of change tracking, because its current change id may have been read already.
    pub fn write(&mut self, offset: u64, bytes: &[u8], running: bool) -> std::io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= self.capacity);
        if end.is_none() {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "write past the end of the disk"));
        }
        if !running {
            self.tracking.next_epoch()?;
        }
        self.tracking.touch(offset, bytes.len() as u64)?;
        if let Some(LinkFile::Flat(file)) = self.files.get(&self.top) {
            return file.write_all_at(bytes, offset);
        }
        let start = offset / SECTOR * SECTOR;
        let stop = (offset + bytes.len() as u64).next_multiple_of(SECTOR);
        let mut aligned = vec![0; (stop - start) as usize];
        if start != offset || stop != offset + bytes.len() as u64 {
            self.image(self.top).read_at(start, &mut aligned)?;
        }
        if let Some(part) = aligned.get_mut((offset - start) as usize..).and_then(|tail| tail.get_mut(..bytes.len())) {
            part.copy_from_slice(bytes);
        }
        match self.files.get_mut(&self.top) {
            Some(LinkFile::Delta(delta)) => delta.write(start / SECTOR, &aligned),
            _ => Err(std::io::Error::other("top link is not open")),
        }
    }

    /// Freezes the top link under a new delta; answers the frozen link.
    pub fn freeze(&mut self) -> Result<u32, SimulatorError> {
        let frozen = self.top;
        self.top = self.add_delta(frozen)?;
        Ok(frozen)
    }

    /// Goes back to `link`: what was written to the top is lost, and tracking starts over.
    pub fn revert(&mut self, link: u32) -> Result<(), SimulatorError> {
        let old = self.top;
        self.top = self.add_delta(link)?;
        self.remove_link(old)?;
        self.tracking.reset().map_err(SimulatorError::file("reset tracking of", &self.stem))
    }

    fn add_delta(&mut self, parent: u32) -> Result<u32, SimulatorError> {
        if self.links.len() >= LINKS_MAX {
            return Err(SimulatorError::Config { reason: format!("{}: too many links", self.stem) });
        }
        let id = self.next_link;
        self.next_link += 1;
        let parent_cid = self.links.get(&parent).map_or(0, |link| link.cid);
        let link = Link {
            parent: Some(parent),
            cid: parent_cid.wrapping_mul(0x9E37_79B1) ^ id,
            name: format!("{}-{id:06}", self.stem),
        };
        self.links.insert(id, link);
        let path = self.data_path(id);
        // A crash between making a delta and saving the state leaves a file that belongs to nobody.
        let _ = fs::remove_file(&path);
        let delta = Cowd::create(&path, self.capacity / SECTOR).map_err(SimulatorError::file("create", &path))?;
        self.files.insert(id, LinkFile::Delta(delta));
        self.write_descriptor(id)?;
        Ok(id)
    }

    /// Merges every link that neither the machine nor a snapshot needs into its neighbour. `frozen` holds the links of
    /// snapshots and is updated; `busy` says whether a data file has a reader, in which case nothing more is merged and the
    /// file is answered.
    pub fn collapse(
        &mut self,
        frozen: &mut BTreeSet<u32>,
        busy: &dyn Fn(&Path) -> bool,
    ) -> Result<Collapsed, SimulatorError> {
        let mut renamed = Vec::new();
        while let Some((parent, child)) = self.next_merge(frozen) {
            let paths = [Some(parent), child].into_iter().flatten().map(|link| self.data_path(link));
            if let Some(path) = paths.into_iter().find(|path| busy(path)) {
                return Ok((renamed, Some(path)));
            }
            let Some(child) = child else {
                self.remove_link(parent)?;
                continue;
            };
            self.merge(child, parent).map_err(SimulatorError::file("merge", self.data_path(child)))?;
            if frozen.remove(&child) {
                frozen.insert(parent);
            }
            renamed.push((child, parent));
            self.remove_link(child)?;
        }
        Ok((renamed, None))
    }

    /// A link that can go: with its only child, or alone when nothing is above it.
    fn next_merge(&self, frozen: &BTreeSet<u32>) -> Option<(u32, Option<u32>)> {
        self.links.keys().copied().filter(|link| *link != self.top && !frozen.contains(link)).find_map(|link| {
            let mut children = self.links.iter().filter(|(_, other)| other.parent == Some(link)).map(|(&id, _)| id);
            match (children.next(), children.next()) {
                (Some(child), None) => Some((link, Some(child))),
                (None, _) => Some((link, None)),
                _ => None,
            }
        })
    }

    fn merge(&mut self, child: u32, parent: u32) -> std::io::Result<()> {
        let Some(LinkFile::Delta(delta)) = self.files.remove(&child) else {
            return Err(std::io::Error::other("child link is not open"));
        };
        let mut buffer = vec![0; MERGE_CHUNK_BYTES];
        for (sector, count) in delta.runs((MERGE_CHUNK_BYTES as u64) / SECTOR) {
            let Some(bytes) = buffer.get_mut(..(count * SECTOR) as usize) else { continue };
            delta.overlay(sector, bytes)?;
            match self.files.get_mut(&parent) {
                Some(LinkFile::Flat(file)) => file.write_all_at(bytes, sector * SECTOR)?,
                Some(LinkFile::Delta(under)) => under.write(sector, bytes)?,
                None => return Err(std::io::Error::other("parent link is not open")),
            }
        }
        for link in self.links.values_mut().filter(|link| link.parent == Some(child)) {
            link.parent = Some(parent);
        }
        if self.top == child {
            self.top = parent;
        }
        let moved: Vec<u32> =
            self.links.iter().filter(|(_, link)| link.parent == Some(parent)).map(|(&id, _)| id).collect();
        for id in moved.into_iter().filter(|&id| id != child) {
            self.write_descriptor(id).map_err(std::io::Error::other)?;
        }
        Ok(())
    }

    fn remove_link(&mut self, link: u32) -> Result<(), SimulatorError> {
        self.files.remove(&link);
        for path in [self.data_path(link), self.dir.join(self.descriptor_name(link))] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SimulatorError::file("remove", &path)(error));
                }
                _ => {}
            }
        }
        self.links.remove(&link);
        Ok(())
    }

    /// Grows the disk. Only a disk without deltas can grow.
    pub fn grow(&mut self, capacity: u64) -> Result<(), SimulatorError> {
        let path = self.data_path(0);
        let Some(LinkFile::Flat(file)) = self.files.get(&0).filter(|_| self.links.len() == 1) else {
            return Err(SimulatorError::Config { reason: format!("{} has snapshots", self.stem) });
        };
        file.set_len(capacity).map_err(SimulatorError::file("grow", &path))?;
        self.capacity = capacity;
        self.tracking.reset().map_err(SimulatorError::file("reset tracking of", &path))?;
        self.write_descriptor(0)
    }

    /// The open base file, for filling a fresh disk.
    pub fn base_file(&self) -> Option<Arc<File>> {
        match self.files.get(&0) {
            Some(LinkFile::Flat(file)) => Some(Arc::clone(file)),
            _ => None,
        }
    }

    fn write_descriptor(&self, id: u32) -> Result<(), SimulatorError> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        let parent = link.parent.and_then(|parent| self.links.get(&parent));
        let (create_type, extent) = if parent.is_some() { ("vmfsSparse", "VMFSSPARSE") } else { ("vmfs", "VMFS") };
        let data = self.data_path(id);
        let data = data.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let hint = parent.map(|parent| format!("parentFileNameHint=\"{}.vmdk\"\n", parent.name)).unwrap_or_default();
        let geometry = format!(
            "ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{}\"\nddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\n",
            self.capacity / SECTOR / (255 * 63)
        );
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={:08x}\nparentCID={:08x}\ncreateType=\"{create_type}\"\n{hint}\n\
             # Extent description\nRW {} {extent} \"{data}\"\n\n# The Disk Data Base\n#DDB\n\n{geometry}ddb.thinProvisioned = \"{}\"\n\
             ddb.uuid = \"{}\"\nddb.virtualHWVersion = \"19\"\n",
            link.cid,
            parent.map_or(u32::MAX, |parent| parent.cid),
            self.capacity / SECTOR,
            u8::from(self.thin),
            spaced_hex(self.uuid.as_bytes()),
        );
        let path = self.dir.join(self.descriptor_name(id));
        fs::write(&path, text).map_err(SimulatorError::file("write", &path))
    }

    /// Bytes the data file of a link takes on the datastore.
    pub fn file_bytes(&self, link: u32) -> u64 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(self.data_path(link)).map_or(0, |metadata| metadata.blocks() * SECTOR)
    }

    /// Content id of a link, as the API shows it.
    pub fn content_id(&self, link: u32) -> String {
        self.links.get(&link).map(|link| format!("{:032x}", link.cid)).unwrap_or_default()
    }
}

/// A 16-byte id as the host writes them: `52 6b … 0c-1f …`.
pub(crate) fn spaced_hex(bytes: &[u8; 16]) -> String {
    let (front, back) = bytes.split_at(8);
    let join = |half: &[u8]| half.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    format!("{}-{}", join(front), join(back))
}
