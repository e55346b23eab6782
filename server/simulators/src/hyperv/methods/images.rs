//! The image service: what files say, and what changed in them.

use super::{Call, Output, RETURN_FAILED, RETURN_INVALID_PARAMETER, Refusal};
use crate::hyperv::inject::Action;
use crate::hyperv::machine::guid;
use crate::hyperv::model::embedded;
use crate::hyperv::model::instance::Instance;
use crate::hyperv::store::DiskInfo;

/// `Format` and `Type` of `Msvm_VirtualHardDiskSettingData`.
const FORMAT_VHDX: u64 = 3;
const TYPE_FIXED: u64 = 2;
const TYPE_DYNAMIC: u64 = 3;
const TYPE_DIFFERENCING: u64 = 4;

fn file(call: &Call<'_>) -> Result<(String, DiskInfo), Refusal> {
    let path = call.text("Path").ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?.to_owned();
    let info = call.host.store.info(&path).ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?;
    Ok((path, info))
}

pub(super) fn changes(call: &Call<'_>) -> Result<Output, Refusal> {
    let (path, info) = file(call)?;
    let (offset, length) = (call.number("ByteOffset")?, call.number("ByteLength")?);
    let limit = call.text("LimitId").map(str::trim).filter(|id| !id.is_empty());
    let limit = limit.ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?;
    // Target snapshots are of VHD Sets only.
    let targeted = call.text("TargetSnapshotId").is_some_and(|id| !id.trim().is_empty());
    let inside = offset.checked_add(length).is_some_and(|end| end <= info.size_bytes);
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
        _ => call.host.store.changes(limit, &path, offset, processed).map_err(|reason| {
            tracing::debug!(reason, "changes refused");
            Refusal::Code(RETURN_FAILED)
        })?,
    };
    if let Some((next, _)) = ranges.get(limits.ranges_per_answer) {
        processed = next - offset;
        ranges.truncate(limits.ranges_per_answer);
    }
    let (offsets, lengths): (Vec<u64>, Vec<u64>) = ranges.into_iter().unzip();
    Ok(Output::default()
        .with("ChangedByteLengths", lengths)
        .with("ChangedByteOffsets", offsets)
        .with("ProcessedByteLength", processed))
}

pub(super) fn settings(call: &Call<'_>) -> Result<Output, Refusal> {
    let (path, info) = file(call)?;
    let kind = match (&info.parent, info.fixed) {
        (Some(_), _) => TYPE_DIFFERENCING,
        (None, true) => TYPE_FIXED,
        (None, false) => TYPE_DYNAMIC,
    };
    let name = path.rsplit('\\').next().unwrap_or(&path);
    let instance = Instance::of("Msvm_VirtualHardDiskSettingData")
        .with("BlockSize", u64::from(info.block_bytes))
        .with("ElementName", name)
        .with("Format", FORMAT_VHDX)
        .with("InstanceID", path.as_str())
        .with("LogicalSectorSize", u64::from(info.sector_bytes.0))
        .with("MaxInternalSize", info.size_bytes)
        .with("ParentPath", info.parent.as_deref().unwrap_or_default())
        .with("Path", path.as_str())
        .with("PhysicalSectorSize", u64::from(info.sector_bytes.1))
        .with("Type", kind)
        .with("VirtualDiskId", guid(info.identifier));
    Ok(Output::default().with("SettingData", embedded::write(&instance)))
}

/// Judges a file, in a job of the storage kind.
pub(super) fn validate(call: &Call<'_>) -> Result<Output, Refusal> {
    file(call)?;
    call.start(None, |_| Ok(Vec::new()))
}
