//! What a host is, and what will not work on it.

use super::fault::FREE_LICENCE;
use super::machine::finding;
use super::property::{of_all, of_object};
use super::session::{ServiceContent, Vim};
use super::soap::CallError;
use super::xml::Node;
use crate::{DevicePreflight, Finding, Severity};

/// ESXi600-201511001, the first build of 6.0 whose change tracking can be trusted (Broadcom KB 317933).
const FIRST_TRUSTED_BUILD_6_0: u32 = 3_247_720;
/// The edition of the free licence, and how its product is called.
const FREE_EDITION: &str = "esxBasic";
const FREE_NAME: &str = "Hypervisor";

pub(super) async fn preflight(vim: &dyn Vim) -> Result<DevicePreflight, CallError> {
    let content = vim.content();
    let hosts = of_all(vim, &[("HostSystem", &["summary.hardware.uuid"])]).await?;
    let uuid = hosts.first().map(|host| host.text("summary.hardware.uuid").to_owned());
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(licence(vim).await?);
    if let Some(reason) = distrusted_tracking(content) {
        let hint = "Update the host; until then every run reads the whole machine.";
        findings.push(finding(Severity::Warning, "tracking_untrusted", reason, hint));
    }
    findings.sort_by_key(|finding| finding.severity);
    Ok(DevicePreflight {
        product: content.product.clone(),
        api_version: content.api_version.clone(),
        host_uuid: uuid.filter(|uuid| !uuid.is_empty()),
        findings,
    })
}

/// Why change tracking of this host must not be used.
pub(super) fn distrusted_tracking(content: &ServiceContent) -> Option<String> {
    let build: u32 = content.build.parse().ok()?;
    (content.version() == (6, 0) && build < FIRST_TRUSTED_BUILD_6_0).then(|| {
        format!("change tracking of ESXi 6.0 before ESXi600-201511001 loses changes, and this host has build {build}")
    })
}

/// Looks at the installed licences. Changes nothing: the refusal of a call would be surer, but every call that a free
/// licence refuses would change something under another.
async fn licence(vim: &dyn Vim) -> Result<Option<Finding>, CallError> {
    let Ok(manager) = vim.content().manager(vim.host(), "licenseManager") else { return Ok(None) };
    let licences = match of_object(vim, &manager, &["licenses"]).await {
        Ok(object) => object,
        // An account may be barred from licences and allowed all else.
        Err(CallError::Fault(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_free = licences.get("licenses").is_some_and(|list| {
        let mut known = list.children.iter().filter(|licence| licence.child("editionKey").is_some()).peekable();
        known.peek().is_some() && known.all(is_free_licence)
    });
    Ok(is_free.then(|| {
        let hint = "Assign a paid licence, or use the host's evaluation period.";
        finding(Severity::Blocker, "free_licence", FREE_LICENCE, hint)
    }))
}

/// The free edition by its key, or by its product's name ("VMware vSphere 7 Hypervisor") on hosts that call it otherwise.
fn is_free_licence(licence: &Node) -> bool {
    let edition = licence.text_at(&["editionKey"]).unwrap_or_default();
    let name = licence.text_at(&["name"]).unwrap_or_default();
    let is_evaluation = edition.to_ascii_lowercase().contains("eval");
    !is_evaluation && (edition.starts_with(FREE_EDITION) || name.ends_with(FREE_NAME))
}
