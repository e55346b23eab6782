//! Why a guest that had to be frozen was not: looked at after the host said no, to tell what may pass from what will not.

use super::model::all;
use super::wire::{CallError, Fault, Wsman};
use super::wmi::Instance;
use crate::{ErrorKind, HostError, MachineRef};

/// The integration service that freezes the guest, on Linux as well.
const FREEZER: &str = "Msvm_VssComponent";
/// `EnabledState`: switched off in the machine's settings.
const DISABLED: &str = "3";
/// `OperationalStatus`: the guest speaks no version of it that the host knows; nothing in the guest answers.
const SILENT: [&str; 2] = ["7", "12"];
/// Refusals of the host that no later time changes.
const UNSUPPORTED: [&str; 1] = ["32770"];

/// The end of a checkpoint that a task wanted application-consistent or not at all.
pub(super) async fn refused(wsman: &dyn Wsman, machine: &MachineRef, fault: &Fault) -> CallError {
    let said = fault.reason();
    let why = match all(wsman, FREEZER).await {
        Ok(rows) => cannot(rows.iter().find(|row| row.word("SystemName").eq_ignore_ascii_case(&machine.0))),
        // Not to know it is no reason to give up.
        Err(_) => None,
    };
    let reason = "the guest could not be quiesced, which the task requires";
    if let Some(why) = why {
        return error(wsman, ErrorKind::Unsupported, "hyperv.cannot_quiesce", format!("{reason}: {why}; {said}"));
    }
    if fault.is_any(&UNSUPPORTED) {
        return error(wsman, ErrorKind::Unsupported, "hyperv.cannot_quiesce", format!("{reason}: {said}"));
    }
    error(wsman, ErrorKind::Refused, "hyperv.quiesce_failed", format!("{reason}: {said}"))
}

/// What a person has to change first.
fn cannot(freezer: Option<&Instance>) -> Option<&'static str> {
    let Some(freezer) = freezer else { return Some("it has no integration service for backups") };
    if freezer.word("EnabledState") == DISABLED {
        return Some("its integration service for backups is switched off");
    }
    let silent = freezer.list("OperationalStatus").iter().any(|status| SILENT.contains(status));
    silent.then_some("nothing in it answers the integration service for backups")
}

fn error(wsman: &dyn Wsman, kind: ErrorKind, code: &'static str, reason: String) -> CallError {
    CallError::Host(HostError {
        kind,
        code,
        host: wsman.host().to_owned(),
        attempt: "make an application-consistent checkpoint".into(),
        reason,
        hint: "Switch the integration service “Backup (volume shadow copy)” on and start it in the guest (on Linux: \
               hv_vss_daemon), check the VSS writers of Windows, or choose in the task to quiesce “if possible”."
            .into(),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperv::script::{Answer, Script};

    async fn end(answer: Answer, fault: &str) -> (&'static str, ErrorKind) {
        let fault = Fault { names: vec![fault.to_owned()], message: "no writers".to_owned() };
        match refused(&Script::new([answer]), &MachineRef("VM".into()), &fault).await {
            CallError::Host(error) => {
                assert!(error.reason.contains("no writers") && error.hint.contains("if possible"), "{error:?}");
                (error.code, error.kind)
            }
            CallError::Fault(fault) => panic!("{fault:?}"),
        }
    }

    #[allow(clippy::unnecessary_wraps)] // a script takes answers and faults
    fn component(system: &str, enabled: u32, status: u32) -> Answer {
        let row = format!(
            "<E><Items><Msvm_VssComponent><SystemName>{system}</SystemName><EnabledState>{enabled}</EnabledState>\
             <OperationalStatus>{status}</OperationalStatus></Msvm_VssComponent></Items><EndOfSequence/></E>"
        );
        Ok(row.leak())
    }

    #[tokio::test]
    async fn what_will_not_change_by_itself_is_told_from_what_may() {
        let (never, perhaps) =
            (("hyperv.cannot_quiesce", ErrorKind::Unsupported), ("hyperv.quiesce_failed", ErrorKind::Refused));
        assert_eq!(end(component("vm", 2, 2), "32768").await, perhaps, "its writers were too slow, perhaps");
        assert_eq!(end(component("VM", 2, 13), "32768").await, perhaps, "the guest is busy or starts anew");
        assert_eq!(end(component("VM", 2, 12), "32768").await, never, "no contact");
        assert_eq!(end(component("VM", 3, 2), "32768").await, never, "switched off");
        assert_eq!(end(component("another", 2, 2), "32768").await, never, "it has none");
        assert_eq!(end(component("VM", 2, 2), "32770").await, never, "not supported");
        assert_eq!(end(Err("AccessDenied"), "32768").await, perhaps, "nobody knows");
    }
}
