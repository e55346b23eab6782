//! The frozen disks of a checkpoint.
//!
//! While a checkpoint stands the machine writes to new files; those the checkpoint names do not change.
//! Must never: read the file a machine writes to.

use super::bytes::{Files, Frozen};
use super::machine::no_tracking;
use super::model::Rows;
use super::tracking::{Question, changed_since, frozen_paths};
use super::wire::Wsman;
use crate::{Areas, DiskReader, ErrorKind, FullReads, HostError, MachineRef, Result, Snapshot};
use async_trait::async_trait;
use bytes::Bytes;
use domain::Extent;
use domain::point::ChangeMark;
use futures_util::stream::BoxStream;
use std::sync::Arc;

struct FrozenReader {
    wsman: Arc<dyn Wsman>,
    file: Arc<dyn Frozen>,
    path: String,
    label: String,
    key: i32,
    uuid: Option<String>,
    tracks: bool,
    full_reads: FullReads,
}

pub(super) async fn open(
    wsman: &Arc<dyn Wsman>,
    files: &dyn Files,
    machine: &MachineRef,
    snapshot: &Snapshot,
    full_reads: FullReads,
) -> Result<Vec<Arc<dyn DiskReader>>> {
    let attempt = format!("open the disks of machine {}", machine.0);
    let fail = |error: super::wire::CallError| error.during(wsman.host(), &attempt);
    let rows = Rows::fetch(wsman.as_ref()).await.map_err(fail)?;
    let frozen = frozen_paths(wsman.as_ref(), &rows, snapshot).map_err(fail)?;
    let live: Vec<String> = match rows.realized(&machine.0) {
        Some(settings) => {
            super::machine::disk_rows(&rows, settings.instance_id()).into_iter().map(|d| d.path).collect()
        }
        None => Vec::new(),
    };
    let refuse = |code, reason: String| HostError {
        kind: ErrorKind::Protocol,
        code,
        host: wsman.host().to_owned(),
        attempt: attempt.clone(),
        reason,
        hint: "See the machine's checkpoints in Hyper-V Manager.".into(),
        source: None,
    };
    let mut readers: Vec<Arc<dyn DiskReader>> = Vec::new();
    for wanted in &snapshot.config.disks {
        let found = frozen.iter().find(|(key, _)| *key == wanted.key);
        let Some((_, path)) = found else {
            return Err(refuse("hyperv.disk_missing", format!("{} is not in the checkpoint", wanted.label)));
        };
        if live.iter().any(|live| live.eq_ignore_ascii_case(path)) {
            let reason = format!("the machine still writes to {path}, which its checkpoint names for {}", wanted.label);
            return Err(refuse("hyperv.not_frozen", reason));
        }
        let file = files.open_disk(path).await?;
        if file.size_bytes() != wanted.capacity_bytes {
            let (is, was) = (file.size_bytes(), wanted.capacity_bytes);
            return Err(refuse("hyperv.disk_size", format!("{path} holds {is} bytes, and the host said {was}")));
        }
        if wanted.uuid.as_deref().is_some_and(|uuid| !uuid.eq_ignore_ascii_case(&file.identifier())) {
            return Err(refuse("hyperv.other_disk", format!("{path} is another disk than the host said")));
        }
        readers.push(Arc::new(FrozenReader {
            wsman: wsman.clone(),
            file,
            path: path.clone(),
            label: wanted.label.clone(),
            key: wanted.key,
            uuid: wanted.uuid.clone(),
            tracks: no_tracking(&snapshot.config).is_none() && !is_vhd(path),
            full_reads,
        }));
    }
    Ok(readers)
}

/// The old format has no change tracking; neither have its differencing files.
pub(super) fn is_vhd(path: &str) -> bool {
    let ending = path.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    matches!(ending.as_deref(), Some("vhd" | "avhd"))
}

#[async_trait]
impl DiskReader for FrozenReader {
    fn key(&self) -> i32 {
        self.key
    }

    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn tracks_changes(&self) -> bool {
        self.tracks
    }

    async fn changed_since(&self, mark: &ChangeMark) -> Result<Areas> {
        if !self.tracks {
            return Ok(Areas::Unknown("Hyper-V does not track changes of this disk".into()));
        }
        let question = Question {
            path: &self.path,
            label: &self.label,
            disk_uuid: self.uuid.as_deref(),
            capacity_bytes: self.file.size_bytes(),
        };
        changed_since(self.wsman.as_ref(), &question, mark).await
    }

    async fn allocated(&self) -> Result<Areas> {
        match self.full_reads {
            FullReads::AllocatedAreas => self.file.allocated().await.map(Areas::Known),
            FullReads::Everything => Ok(Areas::Unknown("the device is set to read everything".into())),
        }
    }

    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes>> {
        self.file.stream(range)
    }

    fn stream_areas(&self, areas: Vec<Extent>) -> BoxStream<'static, Result<(u64, Bytes)>> {
        self.file.stream_areas(areas)
    }

    fn lanes(&self) -> usize {
        super::files::LANES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperv::script::{FakeFiles, Script};
    use crate::hyperv::snapshot::tests::{lists_with_live, snapshot_with};
    use domain::machine::DiskConfig;

    const SIZE: u64 = 1 << 20;

    async fn open_it(files: &FakeFiles, live: &str) -> Result<Vec<Arc<dyn DiskReader>>> {
        let wsman: Arc<dyn Wsman> = Arc::new(Script::new(lists_with_live(live)));
        let disk = DiskConfig { key: 2000, capacity_bytes: SIZE, uuid: Some("d-1".into()), ..DiskConfig::default() };
        let mut snapshot = snapshot_with(vec![disk]);
        snapshot.reference = crate::SnapshotRef("Microsoft:S".into());
        open(&wsman, files, &MachineRef("VM".into()), &snapshot, FullReads::AllocatedAreas).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_frozen_file_is_read_and_not_the_one_the_machine_writes() {
        let files = FakeFiles::with_disk(SIZE, "D-1");
        let readers = open_it(&files, "C:\\vm\\a_new.avhdx").await.unwrap();
        assert_eq!(files.deeds(), ["open C:\\vm\\a.vhdx"]);
        assert_eq!((readers[0].key(), readers[0].size_bytes(), readers[0].tracks_changes()), (2000, SIZE, true));
        assert_eq!(readers[0].allocated().await.unwrap(), Areas::Known(vec![Extent::new(0, 512)]));
        let error = open_it(&files, "c:\\VM\\a.vhdx").await.err().unwrap();
        assert_eq!(error.code, "hyperv.not_frozen");
    }

    #[tokio::test(start_paused = true)]
    async fn another_disk_or_size_is_refused() {
        let code = async |size, id| open_it(&FakeFiles::with_disk(size, id), "C:\\n.avhdx").await.err().map(|e| e.code);
        assert_eq!(code(SIZE * 2, "d-1").await, Some("hyperv.disk_size"));
        assert_eq!(code(SIZE, "d-2").await, Some("hyperv.other_disk"));
        assert_eq!(code(SIZE, "d-1").await, None);
    }

    #[test]
    fn the_old_format_tracks_nothing() {
        assert!(is_vhd("C:\\a.VHD") && is_vhd("C:\\a_1.avhd"));
        assert!(!is_vhd("C:\\a.vhdx") && !is_vhd("C:\\a_1.avhdx"));
    }
}
