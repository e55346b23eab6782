//! What of each disk to read: the host's changed areas against a point we hold, or everything, with the cause.
//!
//! Owns: the decision, and nothing else. Must never: trust a mark of another disk, size or repository.

use super::prepare::Source;
use super::snapshot::Held;
use crate::context::JobContext;
use crate::{errors, words};
use domain::job::JobError;
use domain::machine::DiskConfig;
use domain::point::{ChangeMark, PointKind};
use domain::{Extent, extent};
use hypervisor::{Areas, DiskReader, HostError};
use jiff::Timestamp;
use repository::{PointId, ReadPlan};
use std::sync::Arc;

/// Changed areas are widened to this grid, the guest's block size.
const AREA_GRID_BYTES: u64 = 4096;
/// Areas that lie closer are read in one request: a request costs more than these bytes.
const MAX_GAP_BYTES: u64 = 64 * 1024;

/// The point that is built on: the newest of this machine in this repository, or its newest full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Its id.
    pub point_id: PointId,
    /// Moment of its snapshot.
    pub taken_at: Timestamp,
    /// The host's marks of that moment.
    pub marks: Vec<ChangeMark>,
}

/// Why a full is read from the start, before any disk is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// The task's method is full.
    FullByMethod,
    /// The task reads a full every so many points.
    FullByCount,
    /// No point of this machine in the repository yet.
    First,
    /// A differential, but retention has removed the last full. That is the rule, and no loss.
    NoFullKept,
    /// What changed since this base, for a point of this kind.
    Since(PointKind, Base),
    /// An increment, but the point it would build on cannot be used, with the cause.
    BaseLost(String),
}

/// What was decided for one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlan {
    /// For the repository.
    pub read: ReadPlan,
    /// Bytes to read from the host, as far as is known before chunk borders widen them.
    pub planned_bytes: u64,
    /// What is read of this disk.
    pub kind: PointKind,
    /// Why a full although an increment was wished: the operator reads it as a warning.
    pub fallback: Option<String>,
    /// Why everything is read and not only what is allocated: for the log.
    pub note: Option<String>,
}

/// A disk of the snapshot with what will be read of it.
pub struct PlannedDisk {
    /// Its definition in the snapshot.
    pub config: DiskConfig,
    /// Reads it.
    pub reader: Arc<dyn DiskReader>,
    /// What was decided.
    pub plan: DiskPlan,
    number: usize,
}

impl PlannedDisk {
    /// `Disk 1 (Hard disk 1)`.
    pub fn title(&self) -> String {
        format!("Disk {} ({})", self.number, self.config.label)
    }
}

/// Opens the snapshot's disks and decides for each.
pub async fn plan_disks(ctx: &JobContext, source: &Source, held: &Held) -> Result<Vec<PlannedDisk>, JobError> {
    let host_error = |error| errors::host(&source.what, &error);
    ctx.check(&source.what)?;
    let readers = source.host.open_disks(&source.machine.reference, &held.snapshot).await.map_err(host_error)?;
    let mut disks = Vec::with_capacity(readers.len());
    for (index, config) in held.snapshot.config.disks.iter().enumerate() {
        ctx.check(&source.what)?;
        let reader = readers.iter().find(|reader| reader.key() == config.key).ok_or_else(|| {
            JobError::fail(
                "backup.disk_missing",
                &source.what,
                format!("The host does not give {} (key {}) of the snapshot to read.", config.label, config.key),
                "Look at the machine's disks on the host, then try again.",
            )
        })?;
        let plan = plan_disk(config, reader.as_ref(), &source.wish).await.map_err(host_error)?;
        disks.push(PlannedDisk { config: config.clone(), reader: Arc::clone(reader), plan, number: index + 1 });
    }
    one_full_for_all(&source.wish, &mut disks).await.map_err(host_error)?;
    for disk in &disks {
        announce(ctx, source, disk).await;
    }
    Ok(disks)
}

/// Differentials build on one full of all disks. When one disk has to be read as a whole they all are, or that disk would
/// be until the next full.
async fn one_full_for_all(wish: &Wish, disks: &mut [PlannedDisk]) -> Result<(), HostError> {
    let whole = disks.iter().find(|disk| disk.plan.kind == PointKind::Full).map(PlannedDisk::title);
    if let (Wish::Since(PointKind::Differential, _), Some(title)) = (wish, whole) {
        for disk in disks.iter_mut().filter(|disk| disk.plan.kind != PointKind::Full) {
            let cause = format!("{title} has to be, and differentials build on one full of all disks");
            disk.plan = full(disk.reader.as_ref(), Some(cause)).await?;
        }
    }
    Ok(())
}

async fn announce(ctx: &JobContext, source: &Source, disk: &PlannedDisk) {
    let (title, plan) = (disk.title(), &disk.plan);
    let size = words::bytes(disk.config.capacity_bytes);
    if let Some(cause) = &plan.fallback {
        ctx.warn(&format!("{title}: reading all of it instead of what changed, because {cause}.")).await;
    }
    let planned = words::bytes(plan.planned_bytes);
    let text = match (&plan.read, &source.wish) {
        (ReadPlan::Changed { .. }, Wish::Since(kind, base)) => {
            let full = if *kind == PointKind::Differential { "the last full, of " } else { "" };
            format!("{title}: reading {planned} of {size} that changed since {full}{}.", words::moment(base.taken_at))
        }
        (ReadPlan::Changed { .. }, _) => format!("{title}: reading {planned} of {size} that changed."),
        (ReadPlan::Allocated(_), _) => format!("{title}: reading {planned} of {size} that are in use."),
        (ReadPlan::Everything, _) => format!("{title}: reading all {size}."),
    };
    ctx.info(&text).await;
    if let Some(note) = &plan.note {
        ctx.info(&format!("{title}: the host does not say what is in use: {note}")).await;
    }
}

/// Decides for one disk. `config` is the disk's definition in the snapshot.
pub async fn plan_disk(disk: &DiskConfig, reader: &dyn DiskReader, wish: &Wish) -> Result<DiskPlan, HostError> {
    let fallback = match wish {
        Wish::Since(kind, base) => match usable_mark(disk, reader, *kind, base) {
            Ok(mark) => match reader.changed_since(mark).await? {
                Areas::Known(areas) => return Ok(changed(*kind, base, &areas, reader.size_bytes())),
                Areas::Unknown(cause) => Some(cause),
            },
            Err(cause) => Some(cause),
        },
        Wish::BaseLost(cause) => Some(cause.clone()),
        Wish::FullByMethod | Wish::FullByCount | Wish::First | Wish::NoFullKept => None,
    };
    full(reader, fallback).await
}

/// A point is full when all of its disks were read so.
pub fn point_kind(disks: &[PlannedDisk]) -> PointKind {
    disks.iter().map(|disk| disk.plan.kind).find(|kind| *kind != PointKind::Full).unwrap_or(PointKind::Full)
}

fn usable_mark<'a>(
    disk: &DiskConfig,
    reader: &dyn DiskReader,
    kind: PointKind,
    base: &'a Base,
) -> Result<&'a ChangeMark, String> {
    let point = if kind == PointKind::Differential { "the last full" } else { "the point before" };
    let size = reader.size_bytes();
    let Some(mark) = base.marks.iter().find(|mark| mark.disk_key == disk.key) else {
        return Err(format!("{point} holds no change mark of this disk"));
    };
    if mark.disk_uuid != disk.uuid {
        return Err(format!("it is another disk than in {point}"));
    }
    if mark.capacity_bytes != size {
        return Err(format!(
            "its size changed from {} to {}",
            crate::words::bytes(mark.capacity_bytes),
            crate::words::bytes(size)
        ));
    }
    if !reader.tracks_changes() {
        return Err("change tracking is not active on the host".to_owned());
    }
    Ok(mark)
}

fn changed(kind: PointKind, base: &Base, areas: &[Extent], size: u64) -> DiskPlan {
    let areas = extent::coalesce(areas, AREA_GRID_BYTES, MAX_GAP_BYTES, size);
    DiskPlan {
        planned_bytes: extent::total_bytes(&areas),
        read: ReadPlan::Changed { base: base.point_id, areas },
        kind,
        fallback: None,
        note: None,
    }
}

/// A full of what is allocated, or of everything where the host cannot tell.
pub async fn full(reader: &dyn DiskReader, fallback: Option<String>) -> Result<DiskPlan, HostError> {
    let size = reader.size_bytes();
    let (read, planned_bytes, note) = match reader.allocated().await? {
        Areas::Known(areas) => {
            let areas = extent::coalesce(&areas, AREA_GRID_BYTES, MAX_GAP_BYTES, size);
            let bytes = extent::total_bytes(&areas);
            (ReadPlan::Allocated(areas), bytes, None)
        }
        Areas::Unknown(cause) => (ReadPlan::Everything, size, Some(cause)),
    };
    Ok(DiskPlan { read, planned_bytes, kind: PointKind::Full, fallback, note })
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use bytes::Bytes;
    use futures_util::stream::{BoxStream, StreamExt};

    const SIZE: u64 = 1 << 20;

    /// A disk whose host answers as told.
    struct Scripted {
        changed: Areas,
        allocated: Areas,
        active: bool,
    }

    #[async_trait]
    impl DiskReader for Scripted {
        fn key(&self) -> i32 {
            2000
        }
        fn size_bytes(&self) -> u64 {
            SIZE
        }
        fn tracks_changes(&self) -> bool {
            self.active
        }
        async fn changed_since(&self, _: &ChangeMark) -> hypervisor::Result<Areas> {
            Ok(self.changed.clone())
        }
        async fn allocated(&self) -> hypervisor::Result<Areas> {
            Ok(self.allocated.clone())
        }
        fn stream(&self, _: Extent) -> BoxStream<'static, hypervisor::Result<Bytes>> {
            futures_util::stream::empty().boxed()
        }
        fn stream_areas(&self, _: Vec<Extent>) -> BoxStream<'static, hypervisor::Result<(u64, Bytes)>> {
            futures_util::stream::empty().boxed()
        }
        fn lanes(&self) -> usize {
            1
        }
    }

    fn mark(capacity_bytes: u64) -> ChangeMark {
        ChangeMark { disk_key: 2000, disk_uuid: Some("u".to_owned()), capacity_bytes, token: "a/1".to_owned() }
    }

    fn base(marks: Vec<ChangeMark>) -> Wish {
        let point_id = PointId("018f3c1e-0000-7000-8000-000000000001".parse().unwrap());
        Wish::Since(PointKind::Incremental, Base { point_id, taken_at: Timestamp::UNIX_EPOCH, marks })
    }

    fn disk() -> DiskConfig {
        DiskConfig {
            key: 2000,
            label: "Hard disk 1".to_owned(),
            capacity_bytes: SIZE,
            controller_key: 1000,
            unit: 0,
            uuid: Some("u".to_owned()),
            thin: true,
            ..DiskConfig::default()
        }
    }

    fn host() -> Scripted {
        Scripted {
            changed: Areas::Known(vec![Extent::new(100, 10), Extent::new(5000, 10), Extent::new(900_000, 1)]),
            allocated: Areas::Known(vec![Extent::new(0, 4096)]),
            active: true,
        }
    }

    async fn plan(disk: &DiskConfig, reader: &Scripted, wish: &Wish) -> DiskPlan {
        plan_disk(disk, reader, wish).await.unwrap()
    }

    #[tokio::test]
    async fn an_increment_reads_whole_blocks_and_joins_near_ones() {
        let plan = plan(&disk(), &host(), &base(vec![mark(SIZE)])).await;
        let ReadPlan::Changed { areas, .. } = &plan.read else { panic!("{plan:?}") };
        assert_eq!(areas, &[Extent::new(0, 8192), Extent::new(897_024, 4096)]);
        assert_eq!((plan.planned_bytes, plan.kind, plan.fallback), (12_288, PointKind::Incremental, None));
    }

    #[tokio::test]
    async fn whatever_does_not_fit_leads_to_a_full_with_its_cause() {
        let swapped = DiskConfig { uuid: Some("other".to_owned()), ..disk() };
        let inactive = Scripted { active: false, ..host() };
        let lost = Scripted { changed: Areas::Unknown("tracking was reset".to_owned()), ..host() };
        let good = base(vec![mark(SIZE)]);
        let cases = [
            (plan(&disk(), &host(), &base(vec![])).await, "no change mark"),
            (plan(&swapped, &host(), &good).await, "another disk"),
            (plan(&disk(), &host(), &base(vec![mark(SIZE / 2)])).await, "size changed from 524 kB to 1.0 MB"),
            (plan(&disk(), &inactive, &good).await, "not active"),
            (plan(&disk(), &lost, &good).await, "tracking was reset"),
            (plan(&disk(), &host(), &Wish::BaseLost("it is gone".to_owned())).await, "it is gone"),
        ];
        for (plan, cause) in cases {
            assert_eq!(plan.kind, PointKind::Full);
            assert!(plan.fallback.as_ref().is_some_and(|text| text.contains(cause)), "{plan:?}");
            assert_eq!(plan.read, ReadPlan::Allocated(vec![Extent::new(0, 4096)]));
        }
    }

    #[tokio::test]
    async fn a_wished_full_is_no_fallback_and_reads_everything_where_the_host_cannot_tell() {
        let silent = Scripted { allocated: Areas::Unknown("an NFS datastore".to_owned()), ..host() };
        for wish in [Wish::First, Wish::FullByMethod, Wish::FullByCount, Wish::NoFullKept] {
            let plan = plan(&disk(), &silent, &wish).await;
            assert_eq!((plan.read, plan.planned_bytes, plan.fallback), (ReadPlan::Everything, SIZE, None));
            assert_eq!(plan.note.as_deref(), Some("an NFS datastore"));
        }
    }

    #[tokio::test]
    async fn differentials_read_all_disks_or_none_as_a_whole() {
        let Wish::Since(_, base) = base(vec![mark(SIZE)]) else { panic!("a base") };
        let disks = async |wish: &Wish, second: Scripted| {
            let mut disks = Vec::new();
            for (reader, number) in [host(), second].into_iter().zip(1..) {
                let plan = plan(&disk(), &reader, wish).await;
                disks.push(PlannedDisk { config: disk(), reader: Arc::new(reader), plan, number });
            }
            one_full_for_all(wish, &mut disks).await.unwrap();
            disks
        };
        let differential = Wish::Since(PointKind::Differential, base.clone());
        assert_eq!(point_kind(&disks(&differential, host()).await), PointKind::Differential);
        let inactive = || Scripted { active: false, ..host() };
        let planned = disks(&differential, inactive()).await;
        assert_eq!(point_kind(&planned), PointKind::Full);
        assert!(planned[0].plan.fallback.as_ref().is_some_and(|cause| cause.contains("Disk 2")), "it says which");
        let planned = disks(&Wish::Since(PointKind::Incremental, base), inactive()).await;
        assert_eq!(point_kind(&planned), PointKind::Incremental, "an increment builds on the newest, disk by disk");
    }
}
