//! The image service: what files say, and what changed in them.

use super::{Call, Output, RETURN_FAILED, RETURN_INVALID_PARAMETER, Refusal};
use crate::SimulatorError;
use crate::hyperv::disk::{DiskId, DiskLayout, DiskStore};
use crate::hyperv::inject::Action;
use crate::hyperv::machine::guid;
use crate::hyperv::model::embedded;
use crate::hyperv::model::instance::Instance;

/// `Format` and `Type` of `Msvm_VirtualHardDiskSettingData`.
const FORMAT_VHDX: u64 = 3;
const TYPE_FIXED: u64 = 2;
const TYPE_DYNAMIC: u64 = 3;
const TYPE_DIFFERENCING: u64 = 4;

/// Does something with the disk that has a file. A file of no machine is a disk for that long.
fn with_disk<T>(
    store: &DiskStore,
    path: &str,
    look: impl FnOnce(DiskId) -> Result<T, SimulatorError>,
) -> Result<T, SimulatorError> {
    if let Some(disk) = store.disk_of(path) {
        return look(disk);
    }
    let disk = store.attach(path)?;
    let seen = look(disk);
    store.detach(disk)?;
    seen
}

fn path<'a>(call: &'a Call<'_>) -> Result<&'a str, Refusal> {
    call.text("Path").ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))
}

pub(super) fn changes(call: &Call<'_>) -> Result<Output, Refusal> {
    let path = path(call)?;
    let store = &call.host.store;
    let size = store.disk_of(path).and_then(|disk| store.size(disk).ok());
    let size = size.ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?;
    let (offset, length) = (call.number("ByteOffset")?, call.number("ByteLength")?);
    let limit = call.text("LimitId").map(str::trim).filter(|id| !id.is_empty());
    let limit = limit.ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?;
    // Target snapshots are of VHD Sets only.
    let targeted = call.text("TargetSnapshotId").is_some_and(|id| !id.trim().is_empty());
    let inside = offset.checked_add(length).is_some_and(|end| end <= size);
    if targeted || !inside || length == 0 {
        return Err(Refusal::Code(RETURN_INVALID_PARAMETER));
    }
    if call.injected == Some(Action::RefuseTracking) {
        return Err(Refusal::Code(RETURN_FAILED));
    }
    let limits = &call.host.config.limits;
    let mut processed = length.min(limits.bytes_per_answer);
    if let Some(Action::ShortChanges(bytes)) = call.injected {
        processed = processed.min(bytes);
    }
    let mut ranges = match processed {
        0 => Vec::new(),
        _ => store.changes(limit, path, offset, processed).map_err(|reason| {
            tracing::debug!(%reason, "changes refused");
            Refusal::Code(RETURN_FAILED)
        })?,
    };
    if let Some((next, _)) = ranges.get(limits.ranges_per_answer) {
        processed = next - offset;
        ranges.truncate(limits.ranges_per_answer);
    }
    match call.injected {
        Some(Action::OverlappingAreas) => ranges.extend(ranges.first().copied()),
        Some(Action::LoseAreas) => ranges.clear(),
        Some(Action::AreaPastAnswer) => ranges.push((offset + processed, 4096)),
        _ => {}
    }
    let (offsets, lengths): (Vec<u64>, Vec<u64>) = ranges.into_iter().unzip();
    Ok(Output::default()
        .with("ChangedByteLengths", lengths)
        .with("ChangedByteOffsets", offsets)
        .with("ProcessedByteLength", processed))
}

pub(super) fn settings(call: &Call<'_>) -> Result<Output, Refusal> {
    let path = path(call)?;
    let store = &call.host.store;
    let described = with_disk(store, path, |disk| describe(store, path, disk));
    let instance = described.map_err(|error| {
        tracing::debug!(%error, "a file was not described");
        Refusal::Code(RETURN_INVALID_PARAMETER)
    })?;
    Ok(Output::default().with("SettingData", embedded::write(&instance)))
}

fn describe(store: &DiskStore, path: &str, disk: DiskId) -> Result<Instance, SimulatorError> {
    let chain = store.chain(disk)?;
    let place = chain.iter().position(|own| own.eq_ignore_ascii_case(path)).unwrap_or_default();
    let parent = place.checked_sub(1).and_then(|below| chain.get(below));
    let (layout, block_bytes) = store.layout(disk)?;
    let sectors = store.sectors(disk)?;
    let kind = match (parent, layout) {
        (Some(_), _) => TYPE_DIFFERENCING,
        (None, DiskLayout::Fixed) => TYPE_FIXED,
        (None, DiskLayout::Dynamic) => TYPE_DYNAMIC,
    };
    Ok(Instance::of("Msvm_VirtualHardDiskSettingData")
        .with("BlockSize", block_bytes)
        .with("ElementName", path.rsplit('\\').next().unwrap_or(path))
        .with("Format", FORMAT_VHDX)
        .with("InstanceID", path)
        .with("LogicalSectorSize", sectors.logical)
        .with("MaxInternalSize", store.size(disk)?)
        .with("ParentPath", parent.map_or("", String::as_str))
        .with("Path", path)
        .with("PhysicalSectorSize", sectors.physical)
        .with("Type", kind)
        .with("VirtualDiskId", guid(store.identifier(disk)?)))
}

/// Judges a file, in a job of the storage kind.
pub(super) fn validate(call: &Call<'_>) -> Result<Output, Refusal> {
    let path = path(call)?.to_owned();
    call.start(None, move |host| {
        with_disk(&host.store, &path, |_| Ok(()))?;
        Ok(Vec::new())
    })
}
