//! Merging index segments in the repository: each backup leaves a small one; few large ones are quicker to read.

use std::collections::HashSet;
use std::time::Duration;

use super::load::read_segment;
use crate::backend::{BackendErrorKind, ObjectInfo};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::names::{self, ObjectId};
use crate::format::pack::ENTRY_BYTES;
use crate::format::segment::{self, PackRecord, SEGMENT_ENTRIES_TARGET};

/// Segments up to half of the length a writer aims at are merged.
const SMALL_BYTES_MAX: u64 = (SEGMENT_ENTRIES_TARGET * ENTRY_BYTES / 2) as u64;
/// A merged segment is closed when what goes into it comes to this.
const MERGED_BYTES_MAX: u64 = (SEGMENT_ENTRIES_TARGET * ENTRY_BYTES) as u64;
/// Fewer small segments are left alone.
const SEGMENTS_MIN: usize = 8;

/// What merging segments did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentMerge {
    pub segments_deleted: u64,
    pub segments_written: u64,
    pub bytes_deleted: u64,
    pub bytes_written: u64,
}

/// Merges small segments into few: each merged one is durable, and in every list after `lag`, before the first it replaces
/// is deleted, so that at every moment each pack is named by a segment. Packs for which `keep` is false, and those that are
/// not there, are left out.
///
/// Only for whoever may delete packs, one at a time: a segment must not come back with packs that were deleted meanwhile.
pub async fn merge_segments(
    core: &Core,
    lag: Duration,
    keep: impl Fn(&ObjectId) -> bool + Send,
) -> Result<SegmentMerge> {
    let mut report = SegmentMerge::default();
    let mut small = core.backend.list(names::INDEX).await?;
    small.retain(|object| object.size <= SMALL_BYTES_MAX && names::parse_segment(&object.name).is_some());
    if small.len() < SEGMENTS_MIN {
        return Ok(report);
    }
    small.sort_by(|one, other| (one.size, &one.name).cmp(&(other.size, &other.name)));
    let mut replaced = Vec::new();
    for group in groups(small) {
        replaced.extend(merge_group(core, group, &keep, &mut report).await?);
    }
    if !replaced.is_empty() && !lag.is_zero() {
        tokio::time::sleep(lag).await;
    }
    for object in replaced {
        core.backend.delete(&object.name).await?;
        report.bytes_deleted += object.size;
        report.segments_deleted += 1;
    }
    Ok(report)
}

fn groups(objects: Vec<ObjectInfo>) -> Vec<Vec<ObjectInfo>> {
    let (mut groups, mut bytes): (Vec<Vec<ObjectInfo>>, u64) = (Vec::new(), 0);
    for object in objects {
        match groups.last_mut() {
            Some(group) if bytes + object.size <= MERGED_BYTES_MAX => {
                bytes += object.size;
                group.push(object);
            }
            _ => {
                bytes = object.size;
                groups.push(vec![object]);
            }
        }
    }
    groups
}

/// Writes what takes the place of a group: the segments to delete.
async fn merge_group(
    core: &Core,
    group: Vec<ObjectInfo>,
    keep: &(impl Fn(&ObjectId) -> bool + Send),
    report: &mut SegmentMerge,
) -> Result<Vec<ObjectInfo>> {
    let (mut merged, mut replaced, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for object in group {
        let records = match read_segment(core, &object.name, object.size).await {
            Ok(records) => records,
            // Verify tells; one that is damaged is not ours to remove.
            Err(error) if error.is_damage() => continue,
            // Another collector was quicker.
            Err(Error::Backend(error)) if error.kind == BackendErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let kept = records.into_iter().filter(|record| keep(&record.id) && seen.insert(record.id));
        merged.extend(kept.collect::<Vec<_>>());
        replaced.push(object);
    }
    if replaced.len() < 2 {
        return Ok(Vec::new());
    }
    let merged = only_present(core, merged).await?;
    if !merged.is_empty() {
        let id = core.new_id()?;
        let bytes = segment::encode(&core.keys, id, &merged)?;
        report.bytes_written += bytes.len() as u64;
        report.segments_written += 1;
        core.backend.put_new(&names::segment(&id), vec![bytes.into()]).await?;
        for record in &merged {
            core.index.add(record);
        }
        core.index.cover(id, &merged);
    }
    Ok(replaced)
}

async fn only_present(core: &Core, records: Vec<PackRecord>) -> Result<Vec<PackRecord>> {
    let mut present = Vec::with_capacity(records.len());
    for record in records {
        match core.backend.stat(&names::pack(&record.id)).await {
            Ok(_) => present.push(record),
            Err(error) if error.kind == BackendErrorKind::NotFound => {}
            Err(error) => return Err(Error::from(error)),
        }
    }
    Ok(present)
}
