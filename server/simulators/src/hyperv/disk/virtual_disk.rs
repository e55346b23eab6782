//! One disk: its chain, who is frozen in it, what is tracked, and the file that keeps all this.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::chain::{Chain, Linkage, ParentNames};
use super::drive::Drive;
use super::spec::{ChangesRefused, Converted, Merged};
use super::tracking::Tracking;
use super::vhdx::{Parameters, Vhdx};
use crate::SimulatorError;

/// Names a disk of a store, also after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskId(Uuid);

/// A moment that changes are told from.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Moment {
    /// The first epoch after it.
    epoch: u64,
    /// SHA-256 of the disk, if the store notes them.
    digest: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Link {
    /// Windows path.
    path: String,
    /// When a checkpoint froze it; unset for the one that is written.
    frozen: Option<Moment>,
}

/// What is saved.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    id: DiskId,
    /// Base first.
    links: Vec<Link>,
    /// By tracking id.
    points: BTreeMap<String, Moment>,
    /// The link that the one above it was being merged into.
    merging: Option<usize>,
}

/// A disk of the store.
#[derive(Debug)]
pub(super) struct Disk {
    saved: Saved,
    state_file: PathBuf,
    drive: Drive,
    chain: Chain,
    tracking: Tracking,
    records_digests: bool,
    leaves_dirty_logs: bool,
}

/// What all disks of a store have in common.
pub(super) struct Place<'a> {
    pub drive: &'a Drive,
    pub state_dir: &'a Path,
    pub records_digests: bool,
    pub leaves_dirty_logs: bool,
}

impl Place<'_> {
    fn state_file(&self, id: DiskId) -> PathBuf {
        self.state_dir.join(format!("{}.json", id.0))
    }
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason.to_owned())
}

impl Disk {
    /// A disk of one file that is open already.
    pub fn adopt(place: &Place<'_>, path: String, base: Vhdx) -> Result<Self, SimulatorError> {
        let id = DiskId(Uuid::new_v4());
        let links = vec![Link { path, frozen: None }];
        let saved = Saved { id, links, points: BTreeMap::new(), merging: None };
        let mut disk = Self::assemble(place, saved, Chain::new(base))?;
        disk.save()?;
        disk.hold_in_log().map_err(SimulatorError::file("open", &disk.state_file))?;
        Ok(disk)
    }

    fn assemble(place: &Place<'_>, saved: Saved, chain: Chain) -> Result<Self, SimulatorError> {
        let state_file = place.state_file(saved.id);
        let log = state_file.with_extension("rct");
        Ok(Self {
            saved,
            drive: place.drive.clone(),
            chain,
            tracking: Tracking::open(&log).map_err(SimulatorError::file("open", &log))?,
            records_digests: place.records_digests,
            leaves_dirty_logs: place.leaves_dirty_logs,
            state_file,
        })
    }

    /// Opens a disk of an earlier run; none if somebody removed its files. A merge that was interrupted is done again.
    pub fn load(place: &Place<'_>, state_file: &Path) -> Result<Option<Self>, SimulatorError> {
        let text = fs::read(state_file).map_err(SimulatorError::file("read", state_file))?;
        let saved: Saved = serde_json::from_slice(&text)
            .map_err(|source| SimulatorError::State { path: state_file.to_owned(), source })?;
        let files = saved.links.iter().map(|link| place.drive.file(&link.path)).collect::<io::Result<Vec<_>>>();
        let files = files.map_err(SimulatorError::file("find the disk of", state_file))?;
        if files.iter().any(|file| !file.exists()) {
            tracing::warn!(state = %state_file.display(), "files of a simulated disk are gone");
            return Ok(None);
        }
        let linkage = if saved.merging.is_some() { Linkage::Ignored } else { Linkage::Checked };
        let chain = Chain::open(&files, linkage).map_err(SimulatorError::file("open the disk of", state_file))?;
        let mut disk = Self::assemble(place, saved, chain)?;
        let opened = disk.hold_in_log();
        opened.map_err(SimulatorError::file("open the disk of", state_file))?;
        if let Some(link) = disk.saved.merging {
            disk.merge_above(link, None)?;
        }
        Ok(Some(disk))
    }

    fn hold_in_log(&mut self) -> io::Result<()> {
        self.chain.hold_in_log(self.leaves_dirty_logs)
    }

    fn save(&self) -> Result<(), SimulatorError> {
        let path = &self.state_file;
        let text = serde_json::to_vec_pretty(&self.saved);
        let text = text.map_err(|source| SimulatorError::State { path: path.clone(), source })?;
        let next = path.with_extension("json-next");
        fs::write(&next, text).and_then(|()| fs::rename(&next, path)).map_err(SimulatorError::file("write", path))
    }

    pub fn id(&self) -> DiskId {
        self.saved.id
    }

    /// Windows paths, base first.
    pub fn paths(&self) -> Vec<String> {
        self.saved.links.iter().map(|link| link.path.clone()).collect()
    }

    /// The link with that path, in any case and with or without `\\?\`.
    pub fn link_of(&self, path: &str) -> Option<usize> {
        let wanted = path.strip_prefix(r"\\?\").unwrap_or(path).to_lowercase();
        self.saved.links.iter().position(|link| link.path.to_lowercase() == wanted)
    }

    pub fn top(&self) -> usize {
        self.saved.links.len() - 1
    }

    pub fn parameters(&self) -> io::Result<&Parameters> {
        self.chain.parameters()
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    pub fn read(&self, link: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.chain.read(link, offset, buffer)
    }

    /// Writes at the top; the tracking log first.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset.saturating_add(bytes.len() as u64) > self.parameters()?.disk_bytes {
            return Err(refused("write past the end of the disk"));
        }
        self.tracking.touch(offset, bytes.len() as u64)?;
        self.chain.write(offset, bytes)
    }

    pub fn grow(&mut self, size_bytes: u64) -> io::Result<()> {
        self.chain.grow(size_bytes)
    }

    fn file(&self, link: usize) -> io::Result<PathBuf> {
        let link = self.saved.links.get(link).ok_or_else(|| io::Error::other("no such link"))?;
        self.drive.file(&link.path)
    }

    fn names(&self, link: usize) -> ParentNames {
        let path = self.saved.links.get(link).map_or("", |link| link.path.as_str());
        let name = path.rsplit('\\').next().unwrap_or(path);
        ParentNames { relative: format!(".\\{name}"), absolute: format!(r"\\?\{path}") }
    }

    /// Freezes the file that is written; the disk goes on in a new one beside the base. Answers the frozen path.
    pub fn checkpoint(&mut self) -> Result<String, SimulatorError> {
        let base = self.saved.links.first().map(|link| link.path.clone()).unwrap_or_default();
        let stem = base.rsplit_once('.').map_or(base.as_str(), |(stem, _)| stem);
        let path = format!("{stem}_{}.avhdx", Uuid::new_v4().to_string().to_uppercase());
        self.freeze(&path).map_err(SimulatorError::file("make", &path))?;
        self.save()?;
        let frozen = self.saved.links.iter().rev().nth(1);
        Ok(frozen.map(|link| link.path.clone()).unwrap_or_default())
    }

    fn freeze(&mut self, path: &str) -> io::Result<()> {
        let top = self.top();
        let digest = if self.records_digests { Some(self.chain.digest(top)?) } else { None };
        let file = self.drive.file(path)?;
        self.chain.push(&file, self.names(top))?;
        self.hold_in_log()?;
        settle_times(&self.file(top)?)?;
        let epoch = self.tracking.next_epoch()?;
        if let Some(link) = self.saved.links.get_mut(top) {
            link.frozen = Some(Moment { epoch, digest });
        }
        self.saved.links.push(Link { path: path.to_owned(), frozen: None });
        Ok(())
    }

    fn frozen_link(&self, operation: &'static str, frozen: &str) -> Result<usize, SimulatorError> {
        let link = self.link_of(frozen).filter(|&link| link < self.top());
        link.ok_or_else(|| SimulatorError::Refused {
            operation,
            machine: frozen.to_owned(),
            reason: "no checkpoint froze this file".to_owned(),
        })
    }

    /// Ends the checkpoint that froze a file: the file above is merged into it.
    pub fn merge(&mut self, frozen: &str) -> Result<Merged, SimulatorError> {
        let link = self.frozen_link("merge", frozen)?;
        self.merge_above(link, None)
    }

    /// The same, and changes since that checkpoint can be asked for from now on.
    pub fn convert(&mut self, frozen: &str) -> Result<Converted, SimulatorError> {
        let link = self.frozen_link("convert", frozen)?;
        let id = Uuid::new_v4().hyphenated().to_string().replace('-', ":");
        let tracking_id = format!("rctX:{id}:00000001");
        let merged = self.merge_above(link, Some(&tracking_id))?;
        Ok(Converted { tracking_id, merged })
    }

    fn merge_above(&mut self, link: usize, tracking_id: Option<&str>) -> Result<Merged, SimulatorError> {
        self.saved.merging = Some(link);
        self.save()?;
        let parent = self.file(link).map_err(SimulatorError::file("find", &self.state_file))?;
        let child = self.file(link + 1).map_err(SimulatorError::file("find", &self.state_file))?;
        let grandchild = self.file(link + 2).ok();
        let names = self.names(link);
        let merged = self.chain.merge(link, &parent, grandchild.as_deref(), names);
        merged.map_err(SimulatorError::file("merge", &child))?;
        let gone = self.saved.links.remove(link + 1);
        self.saved.merging = None;
        let mut into = String::new();
        if let Some(under) = self.saved.links.get_mut(link) {
            let moment = std::mem::replace(&mut under.frozen, gone.frozen);
            if let (Some(moment), Some(id)) = (moment, tracking_id) {
                self.saved.points.insert(id.to_owned(), moment);
            }
            into.clone_from(&under.path);
        }
        self.save()?;
        fs::remove_file(&child).map_err(SimulatorError::file("remove", &child))?;
        self.prune()?;
        Ok(Merged { gone: gone.path, into })
    }

    /// Forgets a tracking id; whether there was one.
    pub fn forget(&mut self, tracking_id: &str) -> Result<bool, SimulatorError> {
        let known = self.saved.points.remove(tracking_id).is_some();
        if known {
            self.save()?;
            self.prune()?;
        }
        Ok(known)
    }

    /// Drops epochs that neither a tracking id nor a checkpoint needs.
    fn prune(&mut self) -> Result<(), SimulatorError> {
        let frozen = self.saved.links.iter().filter_map(|link| link.frozen.as_ref());
        let needed = self.saved.points.values().chain(frozen).map(|moment| moment.epoch).min();
        self.tracking.prune(needed).map_err(SimulatorError::file("shorten the tracking log of", &self.state_file))
    }

    pub fn knows(&self, tracking_id: &str) -> bool {
        self.saved.points.contains_key(tracking_id)
    }

    /// SHA-256 of the disk at the moment that a tracking id or a frozen path stands for, if the store notes them.
    pub fn recorded_digest(&self, moment: &str) -> Option<String> {
        let link = self.link_of(moment).and_then(|link| self.saved.links.get(link)?.frozen.as_ref());
        self.saved.points.get(moment).or(link)?.digest.clone()
    }

    /// What was written since a tracking id was given, up to the moment that froze the link.
    pub fn changes(&self, tracking_id: &str, link: usize) -> Result<Vec<(u64, u64)>, ChangesRefused> {
        let point = self.saved.points.get(tracking_id).ok_or(ChangesRefused::UnknownId)?;
        let until = self.saved.links.get(link).and_then(|link| link.frozen.as_ref()).map(|moment| moment.epoch);
        if until.is_some_and(|until| until < point.epoch) {
            return Err(ChangesRefused::OlderFile);
        }
        let size = self.parameters().map_or(0, |parameters| parameters.disk_bytes);
        Ok(self.tracking.changed(point.epoch, until, size))
    }

    /// Removes what the store knows of the disk; its files stay unless they are to go too.
    pub fn remove(&mut self, files: bool) -> Result<(), SimulatorError> {
        self.chain.finish().map_err(SimulatorError::file("close", &self.state_file))?;
        let _ = fs::remove_file(self.state_file.with_extension("rct"));
        fs::remove_file(&self.state_file).map_err(SimulatorError::file("remove", &self.state_file))?;
        for path in self.paths().into_iter().rev().filter(|_| files) {
            let file = self.drive.file(&path).map_err(SimulatorError::file("find", &path))?;
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(SimulatorError::file("remove", &file)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends the session of the file that is written, as switching its machine off does.
    pub fn close(&mut self) -> io::Result<()> {
        self.chain.finish()
    }
}

/// Samba takes the oldest of a file's times for that of its creation, which on Windows never changes: the first read of a
/// frozen file would move it from the file's making to its last write.
fn settle_times(file: &Path) -> io::Result<()> {
    let file = fs::File::options().write(true).open(file)?;
    let modified = file.metadata()?.modified()?;
    file.set_times(fs::FileTimes::new().set_accessed(modified).set_modified(modified))
}
