//! Which recovery checkpoint is ours. A host gives it a name of its own, and answers before it is there.
//!
//! What counts: our name, which is asked for at the making and given again afterwards; the elements of the job that
//! made it; for a job that succeeded, that nothing else is new.
//! Must never: take another backup's checkpoint for ours. Where the answer to the making was lost only the name counts,
//! and what bears none is left and told.

use super::machine::{finding, is_checkpoint};
use super::model::{RECOVERY_CHECKPOINT, Rows, SETTINGS, all, is_of};
use super::snapshot::{error, remove_when_free};
use super::wire::{CallError, Wsman};
use super::wmi::{Instance, Reference, is_running};
use crate::{
    ErrorKind, Finding, HostError, HostSnapshot, MachineRef, OWN_SNAPSHOT_PREFIX, OwnSnapshot, Result, SnapshotRef,
};
use std::collections::BTreeSet;
use tokio::time::Instant;

/// What a job made or worked on.
const JOB_ELEMENTS: &str = "Msvm_AffectedJobElement";

type Call<T> = std::result::Result<T, CallError>;

/// A checkpoint that is being made.
pub(super) struct Making<'a> {
    pub wsman: &'a dyn Wsman,
    pub machine: &'a MachineRef,
    /// Recovery checkpoints that were there before, by their `InstanceID`.
    before: BTreeSet<String>,
    pub name: &'a str,
}

impl<'a> Making<'a> {
    pub(super) async fn begin(wsman: &'a dyn Wsman, machine: &'a MachineRef, name: &'a str) -> Call<Self> {
        let there = recovery_checkpoints(wsman, machine).await?;
        let before = there.iter().map(|row| row.instance_id().to_owned()).collect();
        Ok(Self { wsman, machine, before, name })
    }

    async fn fresh(&self) -> Call<Vec<Instance>> {
        let mut rows = recovery_checkpoints(self.wsman, self.machine).await?;
        rows.retain(|row| !self.before.contains(row.instance_id()));
        Ok(rows)
    }

    fn named<'r>(&self, fresh: &'r [Instance]) -> Option<&'r Instance> {
        fresh.iter().find(|row| row.word("ElementName") == self.name)
    }

    /// The checkpoint of a job that succeeded.
    pub(super) async fn made(&self, job: Option<&Reference>) -> Call<SnapshotRef> {
        let fresh = self.fresh().await?;
        let found = match (self.named(&fresh), fresh.as_slice()) {
            (Some(own), _) => own,
            (None, []) => return Err(self.refuse("hyperv.checkpoint_missing", NOT_MADE.to_owned())),
            (None, [one]) => one,
            (None, more) => made_by(self.wsman, job, more).await?.ok_or_else(|| {
                let count = more.len();
                let reason = format!("{count} recovery checkpoints came at once; ours cannot be told from another's");
                self.refuse("hyperv.checkpoint_ambiguous", reason)
            })?,
        };
        Ok(reference_of(found))
    }

    /// The checkpoint of a call whose answer was lost. Nothing but its name tells it from one that another backup makes at
    /// the same moment.
    pub(super) async fn lost(&self, cause: CallError) -> Call<SnapshotRef> {
        let (host, machine) = (self.wsman.host(), &self.machine.0);
        tracing::warn!(host, machine, "the answer to a checkpoint was lost; looking for it");
        let deadline = Instant::now() + self.wsman.timeouts().settle;
        loop {
            let seen = self.fresh().await;
            match &seen {
                Ok(fresh) => {
                    if let Some(own) = self.named(fresh) {
                        return Ok(reference_of(own));
                    }
                }
                Err(error) if error.is_passing() => {}
                Err(_) => return Err(cause),
            }
            if Instant::now() >= deadline {
                return Err(with_unnamed(cause, &seen.unwrap_or_default()));
            }
            tokio::time::sleep(self.wsman.timeouts().look_again()).await;
        }
    }

    /// Removes what a job that was given up has made, or still makes. The caller has an error to tell already.
    pub(super) async fn give_up(&self, job: &Reference) {
        let deadline = Instant::now() + self.wsman.timeouts().settle;
        loop {
            // Asked before: what it made last is seen below.
            let runs = is_running(self.wsman, job).await.unwrap_or(true);
            let fresh = self.fresh().await.unwrap_or_default();
            let own = match self.named(&fresh) {
                Some(own) => Some(own),
                None => made_by(self.wsman, Some(job), &fresh).await.unwrap_or_default(),
            };
            if let Some(own) = own.map(reference_of) {
                let removed = remove_when_free(self.wsman, self.machine, &own, deadline).await;
                if let Err(left) = removed {
                    tracing::warn!(host = self.wsman.host(), checkpoint = own.0, left = left.reason(), "left behind");
                }
                return;
            }
            if !runs || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(self.wsman.timeouts().look_again()).await;
        }
    }

    fn refuse(&self, code: &'static str, reason: String) -> CallError {
        let kind = if code == "hyperv.checkpoint_ambiguous" { ErrorKind::Busy } else { ErrorKind::Refused };
        CallError::Host(error(self.wsman, kind, code, reason))
    }
}

pub(super) const NOT_MADE: &str = "the job succeeded, and yet the machine has no new checkpoint";

fn reference_of(row: &Instance) -> SnapshotRef {
    SnapshotRef(row.instance_id().to_owned())
}

/// The one that the job names as its own. A host that keeps no such list is no error.
async fn made_by<'r>(wsman: &dyn Wsman, job: Option<&Reference>, fresh: &'r [Instance]) -> Call<Option<&'r Instance>> {
    let Some(id) = job.and_then(|job| job.selector("InstanceID")).filter(|_| !fresh.is_empty()) else {
        return Ok(None);
    };
    let rows = match all(wsman, JOB_ELEMENTS).await {
        Ok(rows) => rows,
        Err(CallError::Fault(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let key =
        |row: &Instance, end: &str| row.reference(end).and_then(|end| end.selector("InstanceID").map(str::to_owned));
    let of_job = rows.iter().filter(|row| key(row, "AffectingElement").is_some_and(|job| job.eq_ignore_ascii_case(id)));
    let made: Vec<String> = of_job.filter_map(|row| key(row, "AffectedElement")).collect();
    Ok(fresh.iter().find(|row| made.iter().any(|id| id.eq_ignore_ascii_case(row.instance_id()))))
}

/// The error of a lost answer, with the checkpoints that came meanwhile and were left.
fn with_unnamed(cause: CallError, fresh: &[Instance]) -> CallError {
    match (cause, fresh.first()) {
        (CallError::Host(error), Some(row)) => {
            let name = row.word("ElementName");
            CallError::Host(HostError {
                reason: format!("{}; the checkpoint \"{name}\" came meanwhile, ours or another backup's", error.reason),
                hint: "Look at the machine's checkpoints with Get-VMSnapshot: if no other backup runs, remove it with \
                       Remove-VMSnapshot."
                    .into(),
                ..error
            })
        }
        (cause, _) => cause,
    }
}

pub(super) async fn checkpoints(wsman: &dyn Wsman, machine: &MachineRef) -> Call<Vec<Instance>> {
    let mut rows = all(wsman, SETTINGS).await?;
    rows.retain(|row| is_of(row, &machine.0) && is_checkpoint(row));
    Ok(rows)
}

async fn recovery_checkpoints(wsman: &dyn Wsman, machine: &MachineRef) -> Call<Vec<Instance>> {
    let mut rows = checkpoints(wsman, machine).await?;
    rows.retain(|row| row.word("VirtualSystemType") == RECOVERY_CHECKPOINT);
    Ok(rows)
}

pub(super) async fn list_own(wsman: &dyn Wsman, machine: &MachineRef) -> Result<Vec<OwnSnapshot>> {
    let found = checkpoints(wsman, machine).await;
    let found =
        found.map_err(|error| error.during(wsman.host(), format!("list the checkpoints of machine {}", machine.0)))?;
    let own = found.into_iter().filter(|row| row.word("ElementName").starts_with(OWN_SNAPSHOT_PREFIX));
    Ok(own.map(|row| OwnSnapshot { reference: reference_of(&row), name: row.word("ElementName").to_owned() }).collect())
}

/// All checkpoints of a machine.
pub(super) async fn list(wsman: &dyn Wsman, machine: &MachineRef) -> Result<Vec<HostSnapshot>> {
    let found = checkpoints(wsman, machine).await;
    let found =
        found.map_err(|error| error.during(wsman.host(), format!("list the checkpoints of machine {}", machine.0)))?;
    Ok(found.iter().map(|row| checkpoint(row, machine)).collect())
}

pub(super) fn checkpoint(row: &Instance, machine: &MachineRef) -> HostSnapshot {
    HostSnapshot {
        machine: machine.clone(),
        reference: reference_of(row),
        name: row.word("ElementName").to_owned(),
        created_at: row.time("CreationTime"),
        is_recovery: row.word("VirtualSystemType") == RECOVERY_CHECKPOINT,
    }
}

/// Checkpoints of backups that are not known to be ours, for a machine's findings.
pub(super) fn foreign(rows: &Rows, machine: &str) -> Option<Finding> {
    let of_machine = rows.settings.iter().filter(|row| is_of(row, machine));
    let foreign = of_machine.filter(|row| {
        let is_recovery = row.word("VirtualSystemType") == RECOVERY_CHECKPOINT;
        is_recovery && !row.word("ElementName").starts_with(OWN_SNAPSHOT_PREFIX)
    });
    let name = foreign.map(|row| row.word("ElementName")).next()?;
    let message = format!("another backup's checkpoint (\"{name}\") stands, or is being made");
    let hint = "Let the other backup end. If none runs it was left, by another program or by a backup of ours that broke \
                off as it began: remove it with Remove-VMSnapshot.";
    Some(finding(crate::Severity::Warning, crate::FOREIGN_CHECKPOINT, message, hint))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unnecessary_wraps, clippy::format_collect)] // a list of answers holds faults as well

    use super::*;
    use crate::hyperv::script::{Answer, Script, state};
    use crate::hyperv::wmi::Namespace;

    /// Rows by id and name.
    fn list(rows: &[(&str, &str)]) -> Answer {
        let rows: String = rows
            .iter()
            .map(|(id, name)| {
                format!(
                    "<V><InstanceID>{id}</InstanceID><VirtualSystemIdentifier>VM</VirtualSystemIdentifier>\
                     <ElementName>{name}</ElementName><VirtualSystemType>{RECOVERY_CHECKPOINT}</VirtualSystemType></V>"
                )
            })
            .collect();
        Ok(format!("<E><Items>{rows}</Items><EndOfSequence/></E>").leak())
    }

    fn elements(job: &str, made: &str) -> Answer {
        let end = |name: &str, id: &str| {
            format!(
                "<{name}><Address>x</Address><ReferenceParameters><ResourceURI>u</ResourceURI><SelectorSet>\
                 <Selector Name=\"InstanceID\">{id}</Selector></SelectorSet></ReferenceParameters></{name}>"
            )
        };
        let row = format!("<R>{}{}</R>", end("AffectingElement", job), end("AffectedElement", made));
        Ok(format!("<E><Items>{row}</Items><EndOfSequence/></E>").leak())
    }

    fn job() -> Reference {
        Reference::new(Namespace::Virtualization.uri("Msvm_ConcreteJob"), &[("InstanceID", "J")])
    }

    fn making<'a>(script: &'a Script, machine: &'a MachineRef) -> Making<'a> {
        Making { wsman: script, machine, before: BTreeSet::from(["A".to_owned()]), name: "stillframe-1" }
    }

    fn lost() -> CallError {
        CallError::Host(HostError {
            kind: ErrorKind::Interrupted,
            code: "host.interrupted",
            host: "h".into(),
            attempt: "a".into(),
            reason: "the connection broke".into(),
            hint: String::new(),
            source: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_new_checkpoints_ours_has_our_name_or_is_the_jobs() {
        let machine = MachineRef("VM".into());
        let two = || list(&[("A", ""), ("B", "web - Backup"), ("C", "web - Backup")]);
        let script = Script::new([list(&[("A", ""), ("B", "web - Backup"), ("C", "stillframe-1")])]);
        assert_eq!(making(&script, &machine).made(Some(&job())).await.unwrap().0, "C");
        let script = Script::new([two(), elements("j", "b")]);
        assert_eq!(making(&script, &machine).made(Some(&job())).await.unwrap().0, "B");
        for elements in [elements("other", "B"), Err("0x80041010")] {
            let script = Script::new([two(), elements]);
            let error = making(&script, &machine).made(Some(&job())).await.unwrap_err();
            assert!(matches!(error, CallError::Host(error) if error.code == "hyperv.checkpoint_ambiguous"));
        }
        let script = Script::new([list(&[("A", "")])]);
        let error = making(&script, &machine).made(Some(&job())).await.unwrap_err();
        assert!(matches!(error, CallError::Host(error) if error.code == "hyperv.checkpoint_missing"));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_lost_answer_a_checkpoint_without_our_name_is_left_and_told() {
        let machine = MachineRef("VM".into());
        let script = Script::new([list(&[]), list(&[("B", "x")]), list(&[("B", "x"), ("C", "stillframe-1")])]);
        assert_eq!(making(&script, &machine).lost(lost()).await.unwrap().0, "C");
        let script = Script::new((0..60).map(|_| list(&[("B", "web - Backup")])));
        let error = making(&script, &machine).lost(lost()).await.unwrap_err();
        let CallError::Host(error) = error else { panic!("{error:?}") };
        assert!(error.kind == ErrorKind::Interrupted && error.reason.contains("\"web - Backup\""), "{error}");
        assert!(!script.asked().iter().any(|request| request.action.contains("Destroy")));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_removed_after_a_job_that_made_nothing() {
        let machine = MachineRef("VM".into());
        let script = Script::new([state(8, ""), list(&[("B", "web - Backup")]), elements("other", "B")]);
        making(&script, &machine).give_up(&job()).await;
        assert_eq!(script.asked().len(), 3);
    }
}
