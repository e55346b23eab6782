//! The frozen disks of a snapshot.
//!
//! With our snapshot in place the base file of each disk no longer changes, and because ours is the only snapshot the
//! base *is* the disk at that moment. All of that is checked before the first byte is read.
//! Must never: read the file a machine writes to.

use super::folder::{FilePath, Folder};
use super::inventory::{datastores, machine_ref};
use super::machine::{CONFIG_PATHS, DiskDetail, STATE_PATHS, read_config, snapshots, split_path};
use super::preflight::distrusted_tracking;
use super::property::of_object;
use super::session::{Session, Vim};
use super::snapshot::config_of;
use super::tracking::{self, ALLOCATED, Question, mark_is_stale};
use super::xml::MoRef;
use crate::{Areas, DiskReader, ErrorKind, FullReads, HostError, MachineRef, Result, Sealed, Snapshot};
use async_trait::async_trait;
use bytes::Bytes;
use disk::container::vmdk::Descriptor;
use domain::Extent;
use domain::point::ChangeMark;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use std::sync::Arc;

pub(super) struct SnapshotDisk {
    session: Arc<Session>,
    folder: Arc<Folder>,
    machine: MoRef,
    snapshot: MoRef,
    file: FilePath,
    key: i32,
    size_bytes: u64,
    uuid: Option<String>,
    change_id: Option<String>,
    /// Why allocated areas are not asked for; `None` when they can be trusted.
    no_allocated: Option<String>,
}

/// The snapshot's change ids, as far as its disks are tracked.
pub(super) async fn marks(vim: &dyn Vim, snapshot: &Snapshot) -> Result<Sealed> {
    let attempt = format!("read the change ids of snapshot {}", snapshot.reference.0);
    let frozen = config_of(vim, &snapshot.reference).await.map_err(|error| error.during(vim.host(), attempt))?;
    let (_, disks) = read_config(&frozen);
    let wanted = disks.into_iter().filter(|disk| snapshot.config.disks.iter().any(|own| own.key == disk.place.key));
    // A disk whose changes are not tracked is said to be so before it is read; nothing more is to be told here.
    let marks = wanted.filter_map(|disk| {
        Some(ChangeMark {
            disk_key: disk.place.key,
            token: trusted_change_id(vim, &disk)?,
            disk_uuid: disk.place.uuid,
            capacity_bytes: disk.place.capacity_bytes,
        })
    });
    Ok(Sealed { marks: marks.collect(), unmarked: Vec::new() })
}

fn trusted_change_id(vim: &dyn Vim, disk: &DiskDetail) -> Option<String> {
    disk.change_id.clone().filter(|_| distrusted_tracking(vim.content()).is_none())
}

/// Opens all disks of the snapshot that its config names.
pub(super) async fn open(
    session: &Arc<Session>,
    folder: &Arc<Folder>,
    machine: &MachineRef,
    snapshot: &Snapshot,
    full_reads: FullReads,
) -> Result<Vec<Arc<dyn DiskReader>>> {
    let attempt = format!("open the disks of machine {}", machine.0);
    let fail = |error: super::soap::CallError| error.during(session.host(), &attempt);
    let frozen = config_of(session.as_ref(), &snapshot.reference).await.map_err(fail)?;
    let paths: Vec<&str> = STATE_PATHS.iter().chain(&CONFIG_PATHS).copied().collect();
    let now = of_object(session.as_ref(), &machine_ref(machine), &paths).await.map_err(fail)?;
    let stores = datastores(session.as_ref()).await.map_err(fail)?;
    if let Some(other) = snapshots(&now).iter().find(|other| other.reference != snapshot.reference.0) {
        let reason = format!("the machine has another snapshot, \"{}\"", other.name);
        return Err(refuse(session, &attempt, "esxi.snapshots_exist", reason));
    }
    let (_, live) = read_config(&now);
    let (_, disks) = read_config(&frozen);
    let mut readers: Vec<Arc<dyn DiskReader>> = Vec::new();
    for wanted in &snapshot.config.disks {
        let disk = disks.iter().find(|disk| disk.place.key == wanted.key);
        let disk = disk.ok_or_else(|| {
            refuse(session, &attempt, "esxi.disk_missing", format!("{} is not in the snapshot", wanted.label))
        })?;
        let base = base_file(disk, &live).map_err(|(code, reason)| refuse(session, &attempt, code, reason))?;
        let file = flat_file(session, folder, disk, &base).await?;
        let kind = stores.iter().find(|store| store.name == file.datastore).map(|store| store.kind.as_str());
        readers.push(Arc::new(SnapshotDisk {
            session: session.clone(),
            folder: folder.clone(),
            machine: machine_ref(machine),
            snapshot: MoRef::new("VirtualMachineSnapshot", &snapshot.reference.0),
            file,
            key: disk.place.key,
            size_bytes: disk.place.capacity_bytes,
            uuid: disk.place.uuid.clone(),
            change_id: trusted_change_id(session.as_ref(), disk),
            no_allocated: no_allocated(full_reads, kind),
        }));
    }
    Ok(readers)
}

fn no_allocated(full_reads: FullReads, datastore_kind: Option<&str>) -> Option<String> {
    match (full_reads, datastore_kind) {
        (FullReads::Everything, _) => Some("the device is set to read everything".into()),
        (FullReads::AllocatedAreas, Some("VMFS")) => None,
        (FullReads::AllocatedAreas, kind) => Some(format!(
            "allocated areas are reliable on VMFS only, and this datastore is {}",
            kind.unwrap_or("unknown")
        )),
    }
}

/// The base file below our snapshot, after making sure that nothing writes to it.
fn base_file(disk: &DiskDetail, live: &[DiskDetail]) -> std::result::Result<String, (&'static str, String)> {
    let label = &disk.place.label;
    let path = &disk.place.path;
    if disk.has_parent {
        return Err(("esxi.disk_chain", format!("{label} lies on a chain of deltas ({path})")));
    }
    match live.iter().find(|now| now.place.key == disk.place.key) {
        Some(now) if now.place.path == *path => Err((
            "esxi.disk_is_live",
            format!("{label}: the machine still writes to {path}, the snapshot did not freeze it"),
        )),
        None => Err(("esxi.disk_missing", format!("{label} was removed from the machine since the snapshot"))),
        Some(_) => Ok(path.clone()),
    }
}

/// `x-flat.vmdk` for the descriptor `x.vmdk`. The descriptor itself is asked where it can be read: it must name one flat
/// extent of the disk's size.
async fn flat_file(session: &Arc<Session>, folder: &Arc<Folder>, disk: &DiskDetail, base: &str) -> Result<FilePath> {
    let attempt = format!("find the file of {}", disk.place.label);
    let (datastore, path) = split_path(base)
        .ok_or_else(|| refuse(session, &attempt, "esxi.disk_path", format!("`{base:.200}` is no datastore path")))?;
    let Some(stem) = path.strip_suffix(".vmdk") else {
        return Err(refuse(session, &attempt, "esxi.disk_path", format!("`{base:.200}` is no VMDK")));
    };
    let on = |path: String| FilePath { datastore: datastore.to_owned(), path };
    let by_rule = on(format!("{stem}-flat.vmdk"));
    let text = match folder.small_file(&on(path.to_owned())).await {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(%error, "the descriptor cannot be read; its flat file is taken by name");
            return Ok(by_rule);
        }
    };
    let Ok(descriptor) = Descriptor::parse(text.as_bytes()) else {
        return Ok(by_rule);
    };
    let Some(name) = descriptor.flat_file().filter(|name| !name.is_empty() && !name.contains("..")) else {
        let reason = format!("its descriptor is of kind {}, not one flat file", descriptor.create_type);
        return Err(refuse(session, &attempt, "esxi.disk_chain", reason));
    };
    if descriptor.capacity_bytes() != Some(disk.place.capacity_bytes) {
        let reason = format!("the host says {} bytes, the descriptor otherwise", disk.place.capacity_bytes);
        return Err(refuse(session, &attempt, "esxi.disk_size", reason));
    }
    if name.contains('/') {
        return Ok(by_rule);
    }
    let folder_path = path.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
    Ok(on(format!("{folder_path}{name}")))
}

fn refuse(session: &Session, attempt: &str, code: &'static str, reason: impl Into<String>) -> HostError {
    let hint = "Check the machine's snapshots and disks in the host's own console.";
    HostError { hint: hint.into(), ..session.address.error(ErrorKind::Unsupported, code, attempt, reason) }
}

impl SnapshotDisk {
    async fn ask(&self, change_id: &str) -> Result<Areas> {
        let question = Question {
            machine: &self.machine,
            snapshot: &self.snapshot,
            disk_key: self.key,
            capacity_bytes: self.size_bytes,
            change_id,
        };
        tracking::query(self.session.as_ref(), &question).await
    }
}

#[async_trait]
impl DiskReader for SnapshotDisk {
    fn key(&self) -> i32 {
        self.key
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn tracks_changes(&self) -> bool {
        self.change_id.is_some()
    }

    async fn changed_since(&self, mark: &ChangeMark) -> Result<Areas> {
        match mark_is_stale(mark, self.change_id.as_deref(), self.uuid.as_deref(), self.size_bytes) {
            Some(reason) => Ok(Areas::Unknown(reason)),
            None => self.ask(&mark.token).await,
        }
    }

    async fn allocated(&self) -> Result<Areas> {
        match (&self.no_allocated, &self.change_id) {
            (Some(reason), _) => Ok(Areas::Unknown(reason.clone())),
            (None, None) => Ok(Areas::Unknown("change tracking is not active on the disk".into())),
            (None, Some(_)) => self.ask(ALLOCATED).await,
        }
    }

    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes>> {
        self.folder.stream(self.file.clone(), self.size_bytes, range)
    }

    fn stream_areas(&self, areas: Vec<Extent>) -> BoxStream<'static, Result<(u64, Bytes)>> {
        let (folder, file, size) = (self.folder.clone(), self.file.clone(), self.size_bytes);
        let placed = move |area: Extent| {
            let mut at = area.offset;
            folder.stream(file.clone(), size, area).map_ok(move |piece| {
                let offset = at;
                at += piece.len() as u64;
                (offset, piece)
            })
        };
        stream::iter(areas).map(placed).flatten().boxed()
    }

    /// The host allows one reader a file.
    fn lanes(&self) -> usize {
        1
    }
}
