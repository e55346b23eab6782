//! What a host is, and what will not work on it.

use super::bytes::Files;
use super::inventory::volumes;
use super::machine::finding;
use super::model::{COMPUTER_SYSTEM, MANAGEMENT_SERVICE, SNAPSHOT_SERVICE, all};
use super::wire::{CallError, RIGHTS_HINT, Wsman};
use super::wmi::{Namespace, query};
use crate::{DevicePreflight, Finding, Severity};

/// Windows Server 2016 and Windows 10 1607: the first with resilient change tracking and reference points.
const FIRST_BUILD: u32 = 14_393;
/// A volume with less is said to be full.
const LOW_SPACE_BYTES: u64 = 4 << 30;
/// The folder whose share tells whether files can be reached.
const SYSTEM_FOLDER: &str = "C:\\";

pub(super) async fn preflight(wsman: &dyn Wsman, files: &dyn Files) -> Result<DevicePreflight, CallError> {
    let systems = query(wsman, Namespace::Cimv2, "SELECT * FROM Win32_OperatingSystem").await?;
    let windows = systems.first().cloned().unwrap_or_default();
    let version = windows.word("Version").to_owned();
    let caption = Some(windows.word("Caption")).filter(|text| !text.is_empty()).unwrap_or("Windows");
    let mut findings = Vec::new();
    if let Some(build) = windows.text("BuildNumber").and_then(|build| build.parse::<u32>().ok())
        && build < FIRST_BUILD
    {
        let message = format!("{caption} (build {build}) is older than Windows Server 2016");
        findings.push(finding(Severity::Blocker, "windows_too_old", message, "Update the host."));
    }
    findings.extend(hyperv(wsman).await?);
    findings.extend(space(wsman).await?);
    if let Err(error) = files.free_bytes(SYSTEM_FOLDER).await {
        let message = format!("the host's files cannot be reached over SMB: {}", error.reason);
        findings.push(finding(Severity::Blocker, "no_file_access", message, &error.hint));
    }
    findings.sort_by_key(|finding| finding.severity);
    Ok(DevicePreflight {
        product: format!("{caption} {version}").trim().to_owned(),
        api_version: version,
        host_uuid: host_uuid(wsman).await,
        findings,
    })
}

/// Hyper-V is there, and the account sees it.
async fn hyperv(wsman: &dyn Wsman) -> Result<Vec<Finding>, CallError> {
    let missing = |message: &str| {
        let hint = "Install the Hyper-V role, and check that the Virtual Machine Management service runs.";
        Ok(vec![finding(Severity::Blocker, "no_hyperv", message, hint)])
    };
    let services = match all(wsman, MANAGEMENT_SERVICE).await {
        Ok(services) => services,
        Err(CallError::Fault(fault))
            if fault.is_any(&["0x8004100E", "0x80041010", "0x80338000", "0x8033803B", "DestinationUnreachable"]) =>
        {
            return missing("the host has no Hyper-V");
        }
        Err(CallError::Fault(fault)) if fault.is_any(&["AccessDenied", "5", "0x80041003"]) => {
            let message = format!("the account may not use Hyper-V: {}", fault.reason());
            return Ok(vec![finding(Severity::Blocker, "no_rights", message, RIGHTS_HINT)]);
        }
        Err(error) => return Err(error),
    };
    // An account without rights is not refused; it just sees nothing.
    if services.is_empty() || all(wsman, COMPUTER_SYSTEM).await?.is_empty() {
        let message = "the account sees neither machines nor the host itself";
        return Ok(vec![finding(Severity::Blocker, "no_rights", message, RIGHTS_HINT)]);
    }
    if all(wsman, SNAPSHOT_SERVICE).await?.is_empty() {
        return missing("the host has no service for checkpoints");
    }
    Ok(Vec::new())
}

async fn space(wsman: &dyn Wsman) -> Result<Vec<Finding>, CallError> {
    let full =
        volumes(wsman).await?.into_iter().filter(|volume| volume.accessible && volume.free_bytes < LOW_SPACE_BYTES);
    Ok(full
        .map(|volume| {
            let message = format!("volume {} has {} MiB free", volume.name, volume.free_bytes >> 20);
            let hint = "Free space: a checkpoint grows by what the guest writes while it exists.";
            finding(Severity::Warning, "volume_full", message, hint)
        })
        .collect())
}

/// The host's own id; not every account may read it.
async fn host_uuid(wsman: &dyn Wsman) -> Option<String> {
    let rows = query(wsman, Namespace::Cimv2, "SELECT * FROM Win32_ComputerSystemProduct").await.ok()?;
    rows.first()?.text("UUID").map(str::to_lowercase)
}
