//! Snapshots of a machine: made within a budget, found again when an answer was lost, removed with their deltas.
//!
//! Must never: remove a snapshot with its children, start a snapshot while disks wait for consolidation.

use super::fault::Fault;
use super::inventory::machine_ref;
use super::machine::{CONFIG_PATHS, STATE_PATHS, SnapshotNode, power_state, read_config, snapshots};
use super::property::{Object, of_object};
use super::session::Vim;
use super::soap::{CallError, Request};
use super::task;
use super::xml::MoRef;
use crate::{
    ErrorKind, HostError, HostSnapshot, MachineRef, OWN_SNAPSHOT_PREFIX, OwnSnapshot, Quiesce, Result, Snapshot,
    SnapshotRef, SnapshotRequest,
};
use domain::machine::PowerState;
use domain::point::Consistency;
use std::time::Duration;
use tokio::time::Instant;

/// Between looks at a machine whose answer was lost, or that another task holds.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// How long a snapshot whose answer was lost is looked for.
const FIND_BUDGET: Duration = Duration::from_secs(120);
/// Faults of a quiesced snapshot after which a crash-consistent one is worth a try.
const QUIESCE_FAULTS: [&str; 6] = [
    "ApplicationQuiesceFault",
    "FilesystemQuiesceFault",
    "SnapshotFault",
    "GenericVmConfigFault",
    "ToolsUnavailable",
    "OperationNotSupportedByGuest",
];

/// `guest.toolsRunningStatus`: at work, and on their way to it.
const TOOLS_RUN: &str = "guestToolsRunning";
const TOOLS_START: &str = "guestToolsExecutingScripts";

pub(super) async fn create(vim: &dyn Vim, machine: &MachineRef, request: &SnapshotRequest) -> Result<Snapshot> {
    let attempt = format!("make snapshot {} of machine {}", request.name, machine.0);
    create_inner(vim, machine, request).await.map_err(|error| error.during(vim.host(), attempt))
}

async fn create_inner(
    vim: &dyn Vim,
    machine: &MachineRef,
    request: &SnapshotRequest,
) -> std::result::Result<Snapshot, CallError> {
    let before = of_object(vim, &machine_ref(machine), &STATE_PATHS).await?;
    if before.is_true("runtime.consolidationNeeded") {
        consolidate(vim, machine).await?;
    }
    let power = power_state(&before);
    let mut warnings = Vec::new();
    let required = request.quiesce == Quiesce::Require;
    let mut quiesce = request.quiesce != Quiesce::Off && power == PowerState::On;
    let tools = before.text("guest.toolsRunningStatus");
    if quiesce && tools != TOOLS_RUN {
        if required {
            return Err(without_tools(vim, tools));
        }
        warnings.push("VMware Tools are not running in the guest, so the point is crash-consistent".to_owned());
        quiesce = false;
    }
    let (reference, quiesced) = match make(vim, machine, request, quiesce).await {
        Ok(reference) => (reference, quiesce),
        Err(CallError::Fault(fault)) if quiesce && fault.is_any(&QUIESCE_FAULTS) => {
            if required {
                return Err(not_quiesced(vim, &fault));
            }
            warnings
                .push(format!("The guest could not be quiesced, so the point is crash-consistent: {}", fault.reason()));
            (make(vim, machine, request, false).await?, false)
        }
        Err(error) => return Err(error),
    };
    let after = of_object(vim, &machine_ref(machine), &["snapshot"]).await?;
    let node = snapshots(&after).into_iter().find(|snapshot| snapshot.reference == reference.0);
    let consistency = match power {
        PowerState::Off => Consistency::Offline,
        _ if quiesced && node.is_some_and(|node| node.quiesced) => Consistency::Application,
        _ => Consistency::Crash,
    };
    if quiesced && consistency != Consistency::Application {
        warnings.push("The host did not quiesce the guest, so the point is crash-consistent".to_owned());
    }
    let (config, _) = read_config(&config_of(vim, &reference).await?);
    Ok(Snapshot { reference, consistency, config, warnings })
}

/// No snapshot is asked for: without Tools nobody freezes the guest. Tools that are starting will run soon.
fn without_tools(vim: &dyn Vim, tools: &str) -> CallError {
    if tools == TOOLS_START {
        let reason = "VMware Tools are still starting in the guest, and the task requires that it is quiesced";
        return CallError::Host(unquiesced(vim, ErrorKind::Busy, reason.to_owned()));
    }
    let reason = "VMware Tools are not running in the guest, and the task requires that it is quiesced";
    CallError::Host(HostError {
        code: "esxi.cannot_quiesce",
        hint: "Install or start VMware Tools in the guest, or choose in the task to quiesce “if possible”.".into(),
        ..unquiesced(vim, ErrorKind::Unsupported, reason.to_owned())
    })
}

/// A guest whose writers were too slow may do better next time; one that cannot at all will not.
fn not_quiesced(vim: &dyn Vim, fault: &Fault) -> CallError {
    let reason = format!("the guest could not be quiesced, which the task requires: {}", fault.reason());
    if fault.is_any(&["OperationNotSupportedByGuest"]) {
        let error = unquiesced(vim, ErrorKind::Unsupported, reason);
        return CallError::Host(HostError { code: "esxi.cannot_quiesce", ..error });
    }
    CallError::Host(unquiesced(vim, ErrorKind::Refused, reason))
}

fn unquiesced(vim: &dyn Vim, kind: ErrorKind, reason: String) -> HostError {
    HostError {
        kind,
        code: "esxi.quiesce_failed",
        host: vim.host().to_owned(),
        attempt: "make a quiesced snapshot".into(),
        reason,
        hint: "Check VMware Tools and, on Windows, the VSS writers of the guest, or choose in the task to quiesce “if \
               possible”."
            .into(),
        source: None,
    }
}

/// The machine's definition within the snapshot: disk keys, files and change ids are those of its moment.
pub(super) async fn config_of(vim: &dyn Vim, snapshot: &SnapshotRef) -> std::result::Result<Object, CallError> {
    of_object(vim, &snapshot_ref(snapshot), &CONFIG_PATHS).await
}

async fn make(
    vim: &dyn Vim,
    machine: &MachineRef,
    request: &SnapshotRequest,
    quiesce: bool,
) -> std::result::Result<SnapshotRef, CallError> {
    let call = Request::new("CreateSnapshot_Task", &machine_ref(machine), |xml| {
        xml.text("name", &request.name)
            .text("description", &request.description)
            .text("memory", false)
            .text("quiesce", quiesce);
    });
    match task::run(vim, call, vim.timeouts().create_snapshot).await {
        Ok(result) => match result.reference() {
            Some(reference) => Ok(SnapshotRef(reference.value)),
            None => find(vim, machine, &request.name).await?.ok_or_else(not_made),
        },
        Err(error) if error.is_lost() => {
            tracing::warn!(host = vim.host(), machine = machine.0, "the answer to a snapshot was lost; looking for it");
            let deadline = Instant::now() + FIND_BUDGET;
            loop {
                match find(vim, machine, &request.name).await {
                    Ok(Some(reference)) => return Ok(reference),
                    Ok(None) | Err(CallError::Host(_)) if Instant::now() < deadline => {
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                    Ok(None) | Err(CallError::Host(_)) => return Err(error),
                    Err(other) => return Err(other),
                }
            }
        }
        Err(error) => Err(error),
    }
}

async fn find(vim: &dyn Vim, machine: &MachineRef, name: &str) -> std::result::Result<Option<SnapshotRef>, CallError> {
    let found = tree(vim, machine).await?.into_iter().find(|snapshot| snapshot.name == name);
    Ok(found.map(|snapshot| SnapshotRef(snapshot.reference)))
}

pub(super) async fn list_own(vim: &dyn Vim, machine: &MachineRef) -> Result<Vec<OwnSnapshot>> {
    match tree(vim, machine).await {
        Ok(tree) => Ok(tree
            .into_iter()
            .filter(|snapshot| snapshot.name.starts_with(OWN_SNAPSHOT_PREFIX))
            .map(|snapshot| OwnSnapshot { reference: SnapshotRef(snapshot.reference), name: snapshot.name })
            .collect()),
        Err(error) if error.is_fault("ManagedObjectNotFound") => Ok(Vec::new()),
        Err(error) => Err(error.during(vim.host(), format!("list the snapshots of machine {}", machine.0))),
    }
}

/// All snapshots of a machine; none of one that is gone.
pub(super) async fn list(vim: &dyn Vim, machine: &MachineRef) -> Result<Vec<HostSnapshot>> {
    match tree(vim, machine).await {
        Ok(tree) => Ok(tree.into_iter().map(|snapshot| snapshot.on(machine)).collect()),
        Err(error) if error.is_fault("ManagedObjectNotFound") => Ok(Vec::new()),
        Err(error) => Err(error.during(vim.host(), format!("list the snapshots of machine {}", machine.0))),
    }
}

pub(super) async fn remove(vim: &dyn Vim, machine: &MachineRef, snapshot: &SnapshotRef) -> Result<()> {
    let attempt = format!("remove snapshot {} of machine {}", snapshot.0, machine.0);
    remove_inner(vim, machine, snapshot).await.map_err(|error| error.during(vim.host(), attempt))
}

async fn remove_inner(
    vim: &dyn Vim,
    machine: &MachineRef,
    snapshot: &SnapshotRef,
) -> std::result::Result<(), CallError> {
    let deadline = Instant::now() + vim.timeouts().remove_snapshot;
    loop {
        let request = Request::new("RemoveSnapshot_Task", &snapshot_ref(snapshot), |xml| {
            xml.text("removeChildren", false).text("consolidate", true);
        });
        let left = deadline.saturating_duration_since(Instant::now());
        match task::run(vim, request, left).await {
            Ok(_) => break,
            // Gone already, or the answer to an earlier try was lost.
            Err(error) if error.is_fault("ManagedObjectNotFound") => break,
            Err(error) if is_passing(&error) && Instant::now() + LOOK_AGAIN < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            // The entry may be gone from the list while its delta stayed: consolidation decides.
            Err(error) => match tree(vim, machine).await {
                Ok(tree) if tree.iter().any(|node| node.reference == snapshot.0) => return Err(error),
                Ok(_) => break,
                Err(_) => return Err(error),
            },
        }
    }
    let state = match of_object(vim, &machine_ref(machine), &["runtime.consolidationNeeded"]).await {
        Err(error) if error.is_fault("ManagedObjectNotFound") => return Ok(()),
        other => other?,
    };
    if state.is_true("runtime.consolidationNeeded") { consolidate(vim, machine).await } else { Ok(()) }
}

/// Merges deltas that no snapshot refers to, once.
async fn consolidate(vim: &dyn Vim, machine: &MachineRef) -> std::result::Result<(), CallError> {
    tracing::info!(host = vim.host(), machine = machine.0, "asking the host to consolidate");
    let request = Request::new("ConsolidateVMDisks_Task", &machine_ref(machine), |_| {});
    let ran = task::run(vim, request, vim.timeouts().remove_snapshot).await;
    let state = of_object(vim, &machine_ref(machine), &["runtime.consolidationNeeded"]).await?;
    if !state.is_true("runtime.consolidationNeeded") {
        return Ok(());
    }
    let why = match ran {
        Err(CallError::Fault(fault)) => fault.reason(),
        Err(CallError::Host(error)) => error.reason,
        Ok(_) => "the host reports that it is still needed".into(),
    };
    Err(CallError::Host(HostError {
        kind: ErrorKind::Busy,
        code: "esxi.consolidation_needed",
        host: vim.host().to_owned(),
        attempt: "consolidate".into(),
        reason: format!("the machine's disks could not be consolidated: {why}"),
        hint: "Consolidate the disks in the host's own console. Until then no new snapshot is made.".into(),
        source: None,
    }))
}

async fn tree(vim: &dyn Vim, machine: &MachineRef) -> std::result::Result<Vec<SnapshotNode>, CallError> {
    Ok(snapshots(&of_object(vim, &machine_ref(machine), &["snapshot"]).await?))
}

fn is_passing(error: &CallError) -> bool {
    error.is_fault("TaskInProgress")
        || matches!(error, CallError::Host(host) if host.kind.is_transient() && host.code != "esxi.task_timeout")
}

fn snapshot_ref(snapshot: &SnapshotRef) -> MoRef {
    MoRef::new("VirtualMachineSnapshot", &snapshot.0)
}

fn not_made() -> CallError {
    CallError::Fault(Fault {
        name: "SnapshotFault".into(),
        message: "The task succeeded, and yet the machine has no such snapshot".into(),
        fields: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esxi::script::Script;

    /// `Result` is this crate's own here.
    type Answer = std::result::Result<String, &'static str>;

    const XSI: &str = r#"xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance""#;

    /// One object with one property, as `RetrievePropertiesEx` answers it.
    #[allow(clippy::unnecessary_wraps)] // a list of answers holds faults as well
    fn object(kind: &str, id: &str, property: &str, value: &str) -> Answer {
        Ok(format!(
            "<returnval><objects><obj type='{kind}'>{id}</obj><propSet><name>{property}</name>\
             <val {XSI}>{value}</val></propSet></objects></returnval>"
        ))
    }

    fn task(state: &str) -> Answer {
        object("Task", "t", "info", &format!("<state>{state}</state>"))
    }

    #[allow(clippy::unnecessary_wraps)] // a list of answers holds faults as well
    fn started() -> Answer {
        Ok("<returnval type='Task'>t</returnval>".into())
    }

    fn consolidation(needed: bool) -> Answer {
        object("VirtualMachine", "VM", "runtime.consolidationNeeded", &needed.to_string())
    }

    async fn remove_from(script: &Script) -> crate::Result<()> {
        remove(script, &MachineRef("VM".into()), &SnapshotRef("S".into())).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_removed_alone_and_awaited() {
        let script = Script::new([started(), task("running"), task("success"), consolidation(false)]);
        remove_from(&script).await.unwrap();
        assert_eq!(
            script.asked()[0],
            concat!(
                r#"<RemoveSnapshot_Task xmlns="urn:vim25"><_this type="VirtualMachineSnapshot">S</_this>"#,
                "<removeChildren>false</removeChildren><consolidate>true</consolidate></RemoveSnapshot_Task>"
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn consolidation_is_asked_for_once_and_checked() {
        let script = Script::new([
            Err("ManagedObjectNotFound"),
            consolidation(true),
            started(),
            task("success"),
            consolidation(true),
        ]);
        let error = remove_from(&script).await.unwrap_err();
        assert_eq!((error.code, error.kind), ("esxi.consolidation_needed", ErrorKind::Busy));
        assert_eq!(script.asked().iter().filter(|call| call.starts_with("<ConsolidateVMDisks_Task ")).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_machine_is_asked_again() {
        let script = Script::new([Err("TaskInProgress"), started(), task("success"), consolidation(false)]);
        remove_from(&script).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_asked_for_without_memory() {
        let script = Script::new([Err("NoPermission")]);
        let request = SnapshotRequest { name: "n".into(), description: "d".into(), quiesce: Quiesce::Prefer };
        assert!(make(&script, &MachineRef("VM".into()), &request, true).await.is_err());
        assert_eq!(
            script.asked()[0],
            concat!(
                r#"<CreateSnapshot_Task xmlns="urn:vim25"><_this type="VirtualMachine">VM</_this><name>n</name>"#,
                "<description>d</description><memory>false</memory><quiesce>true</quiesce></CreateSnapshot_Task>"
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_cancelled() {
        let answers = (0..60).map(|n| if n == 0 { started() } else { task("running") });
        let script = Script::new(answers);
        let call = Request::new("X_Task", &MoRef::new("VirtualMachine", "VM"), |_| {});
        let error = task::run(&script, call, Duration::from_secs(30)).await.unwrap_err();
        assert!(matches!(error, CallError::Host(error) if error.code == "esxi.task_timeout"));
        assert!(script.asked().last().unwrap().starts_with("<CancelTask "));
    }
}
