//! A disk as a chain of files: read from the top down, written at the top, merged downwards.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::vhdx::{Access, Parameters, Parent, Source, Vhdx};
use crate::sparse::is_zero;

/// Files of a chain; a host refuses deeper ones.
pub(super) const LINKS_MAX: usize = 50;
/// Block of differencing files, in bytes.
const DIFFERENCING_BLOCK_BYTES: u64 = 2 << 20;
/// Bytes moved at a time.
const COPY_CHUNK_BYTES: u64 = 1 << 20;
/// Copies leave zeros of this size out.
const HOLE_BYTES: usize = 64 << 10;

/// An open chain.
#[derive(Debug)]
pub(super) struct Chain {
    /// Base first.
    links: Vec<Vhdx>,
}

/// Whether children name the parent they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Linkage {
    Checked,
    /// A merge was interrupted: the parent has changed under its child.
    Ignored,
}

impl Chain {
    pub fn new(base: Vhdx) -> Self {
        Self { links: vec![base] }
    }

    /// Opens files, base first; the last one for writing.
    pub fn open(paths: &[PathBuf], linkage: Linkage) -> io::Result<Self> {
        let mut links: Vec<Vhdx> = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            let access = if index + 1 == paths.len() { Access::Write } else { Access::Read };
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            let link = Vhdx::open(path, access).map_err(named)?;
            let expected = links.last().map(Vhdx::data_write_guid);
            let found = link.parameters().parent.as_ref().map(|parent| parent.linkage);
            let is_child = expected.is_some() == found.is_some();
            if !is_child || (linkage == Linkage::Checked && expected != found) {
                let reason = format!("{}: the parent of the file is not the one it was made for", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            links.push(link);
        }
        Ok(Self { links })
    }

    fn top(&mut self) -> io::Result<&mut Vhdx> {
        self.links.last_mut().ok_or_else(|| io::Error::other("empty chain"))
    }

    /// Parameters of the disk.
    pub fn parameters(&self) -> io::Result<&Parameters> {
        self.links.last().map(Vhdx::parameters).ok_or_else(|| io::Error::other("empty chain"))
    }

    /// A link's file, for those who want to look.
    pub fn link(&self, index: usize) -> Option<&Vhdx> {
        self.links.get(index)
    }

    /// Reads whole sectors of the disk as it is at a link.
    pub fn read(&self, link: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let Some(file) = self.links.get(link) else { return Err(io::Error::other("no such link")) };
        let mut rest = buffer;
        for segment in file.segments(offset, rest.len() as u64) {
            let Some((part, others)) = rest.split_at_mut_checked(segment.length as usize) else { break };
            match segment.source {
                Source::Zero => part.fill(0),
                Source::File(place) => file.read_payload(place, part)?,
                Source::Parent => {
                    let parent = link.checked_sub(1).ok_or_else(|| io::Error::other("a base with a parent"))?;
                    self.read(parent, segment.offset, part)?;
                }
            }
            rest = others;
        }
        Ok(())
    }

    /// Writes at the top; sectors that are hit in part keep their other bytes.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let sector = self.parameters()?.logical_sector_bytes;
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| Some(end) <= self.size());
        let end = end.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "write past the end of the disk"))?;
        let (first, last) = (offset / sector * sector, end.next_multiple_of(sector));
        if first == offset && last == end {
            return self.top()?.write(offset, bytes);
        }
        let mut whole = vec![0; (last - first) as usize];
        self.read(self.links.len() - 1, first, &mut whole)?;
        if let Some(part) = whole.get_mut((offset - first) as usize..).and_then(|tail| tail.get_mut(..bytes.len())) {
            part.copy_from_slice(bytes);
        }
        self.top()?.write(first, &whole)
    }

    fn size(&self) -> Option<u64> {
        self.links.last().map(|top| top.parameters().disk_bytes)
    }

    /// Leaves the last updates of metadata of the top in its log; see [`Vhdx::hold_in_log`].
    pub fn hold_in_log(&mut self, hold: bool) -> io::Result<()> {
        self.top()?.hold_in_log(hold);
        Ok(())
    }

    /// Ends the session of the top.
    pub fn finish(&mut self) -> io::Result<()> {
        self.top()?.finish()
    }

    /// Freezes the top under a new differencing file.
    pub fn push(&mut self, path: &Path, names: ParentNames) -> io::Result<()> {
        if self.links.len() >= LINKS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many files in the chain"));
        }
        let top = self.top()?;
        top.finish()?;
        let parameters = Parameters {
            block_bytes: DIFFERENCING_BLOCK_BYTES,
            fixed: false,
            parent: Some(names.linked_to(top.data_write_guid())),
            ..top.parameters().clone()
        };
        self.links.push(Vhdx::create(path, parameters)?);
        Ok(())
    }

    /// Merges the file above `link` into it and leaves that file out of the chain. `parent` is the path of the one that is
    /// merged into, `names` what the next child (if there is one, at `grandchild`) has to say of it.
    pub fn merge(
        &mut self,
        link: usize,
        parent: &Path,
        grandchild: Option<&Path>,
        names: ParentNames,
    ) -> io::Result<()> {
        if link + 1 >= self.links.len() {
            return Err(io::Error::other("nothing to merge"));
        }
        let is_held = self.links.last().is_some_and(Vhdx::holds_in_log);
        let mut child = self.links.remove(link + 1);
        child.finish()?;
        let mut target = Vhdx::open(parent, Access::Write)?;
        copy_own(&child, &mut target)?;
        let identity = target.data_write_guid();
        if let Some(slot) = self.links.get_mut(link) {
            target.hold_in_log(is_held);
            *slot = target;
        }
        if let (Some(path), Some(slot)) = (grandchild, self.links.get_mut(link + 1)) {
            slot.finish()?;
            let mut next = Vhdx::open(path, Access::Write)?;
            next.set_parent(names.linked_to(identity))?;
            next.hold_in_log(is_held);
            next.finish()?;
            *slot = next;
        }
        match self.links.get_mut(link) {
            Some(merged) if grandchild.is_some() => merged.finish(),
            _ => Ok(()),
        }
    }

    /// Makes a disk of one file larger.
    pub fn grow(&mut self, disk_bytes: u64) -> io::Result<()> {
        if self.links.len() != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the disk has checkpoints"));
        }
        self.top()?.grow(disk_bytes)
    }

    /// SHA-256 of the disk as it is at a link, in hexadecimal.
    pub fn digest(&self, link: usize) -> io::Result<String> {
        let mut hash = Sha256::new();
        self.for_each_chunk(link, |_, bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        Ok(hex::encode(hash.finalize()))
    }

    /// Copies the disk as it is at a link into a new sparse raw file.
    pub fn copy_raw(&self, link: usize, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let target = std::fs::File::create(path)?;
        target.set_len(self.size().unwrap_or_default())?;
        self.for_each_chunk(link, |offset, bytes| {
            for (index, block) in bytes.chunks(HOLE_BYTES).enumerate().filter(|(_, block)| !is_zero(block)) {
                target.write_all_at(block, offset + (index * HOLE_BYTES) as u64)?;
            }
            Ok(())
        })
    }

    fn for_each_chunk(&self, link: usize, mut act: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let size = self.size().unwrap_or_default();
        let mut buffer = vec![0; COPY_CHUNK_BYTES as usize];
        for offset in (0..size).step_by(COPY_CHUNK_BYTES as usize) {
            let count = (size - offset).min(COPY_CHUNK_BYTES) as usize;
            let Some(bytes) = buffer.get_mut(..count) else { break };
            self.read(link, offset, bytes)?;
            act(offset, bytes)?;
        }
        Ok(())
    }
}

/// The names by which a child knows its parent.
pub(super) struct ParentNames {
    pub relative: String,
    pub absolute: String,
}

impl ParentNames {
    fn linked_to(self, linkage: Uuid) -> Parent {
        Parent { linkage, relative_path: self.relative, absolute_path: self.absolute }
    }
}

/// Writes what a child has of its own into its parent.
fn copy_own(child: &Vhdx, parent: &mut Vhdx) -> io::Result<()> {
    let largest = child.parameters().block_bytes.max(parent.parameters().block_bytes);
    let mut buffer = vec![0; COPY_CHUNK_BYTES as usize];
    for segment in child.own_segments() {
        // Zeros go in pieces of whole blocks, which a differencing parent need not allocate.
        let step = if segment.source == Source::Zero { largest } else { COPY_CHUNK_BYTES };
        buffer.resize(step as usize, 0);
        let mut at = segment.offset;
        while at < segment.offset + segment.length {
            let count = (segment.offset + segment.length - at).min(step - at % step);
            let Some(bytes) = buffer.get_mut(..count as usize) else { break };
            match segment.source {
                Source::File(place) => child.read_payload(place + (at - segment.offset), bytes)?,
                _ => bytes.fill(0),
            }
            parent.write(at, bytes)?;
            at += count;
        }
    }
    Ok(())
}
