//! Checkpoints and reference points.

use std::sync::Arc;

use uuid::Uuid;

use super::{Call, Output, RETURN_INVALID_PARAMETER, Refusal};
use crate::hyperv::disk::{DiskId, Merged};
use crate::hyperv::host::Host;
use crate::hyperv::inject::Action;
use crate::hyperv::inventory::{point_path, settings_path};
use crate::hyperv::jobs::{FAILED, JobError};
use crate::hyperv::machine::{Machine, ReferencePoint, Snapshot};
use crate::hyperv::model::path::ObjectPath;
use crate::hyperv::model::value::Value;
use crate::hyperv::parts::{HARD_DISK, PHYSICAL_DRIVE};
use crate::state::now;

/// `SnapshotType`: a user's checkpoint, and one for a backup.
const TYPE_FULL: u64 = 2;
const TYPE_RECOVERY: u64 = 32768;
/// `ConsistencyLevel`: application-consistent, crash-consistent.
const APPLICATION: u64 = 1;
const CRASH: u64 = 2;
/// Build of Windows 10 1703, which knows `GuestBackupType`.
const BUILD_1703: u32 = 15063;
/// Checkpoints of a machine, as on a real host.
const SNAPSHOTS_MAX: usize = 50;

/// What kind of checkpoint is made.
#[derive(Clone)]
struct Plan {
    recovery: bool,
    consistency: u64,
    /// Disks that take no part are left out instead of failing it.
    leaves_out: bool,
    /// Instead of the host's own.
    name: Option<String>,
}

pub(super) fn create(call: &Call<'_>) -> Result<Output, Refusal> {
    let machine = call.machine("AffectedSystem")?;
    let recovery = match call.number("SnapshotType")? {
        TYPE_FULL => false,
        TYPE_RECOVERY => true,
        _ => return Err(Refusal::Code(RETURN_INVALID_PARAMETER)),
    };
    let settings = call.instances("SnapshotSettings").first();
    let consistency = settings.and_then(|settings| settings.number("ConsistencyLevel")).unwrap_or(CRASH);
    let too_new = settings.is_some_and(|s| s.get("GuestBackupType").is_some()) && call.host.config.build < BUILD_1703;
    if !(APPLICATION..=CRASH).contains(&consistency) || too_new || machine.snapshots.len() >= SNAPSHOTS_MAX {
        return Err(Refusal::Code(RETURN_INVALID_PARAMETER));
    }
    let leaves_out = settings.and_then(|s| s.get("IgnoreNonSnapshottableDisks")) == Some(&Value::Flag(true));
    let name = settings.and_then(|s| s.text("ElementName")).filter(|_| call.host.config.names_checkpoints);
    let plan = Plan { recovery, consistency, leaves_out, name: name.map(str::to_owned) };
    if call.injected == Some(Action::Synchronous) {
        let made = make(call.host, &machine, &plan).map_err(|error| Refusal::Code(u32::from(error.code)))?;
        return Ok(Output::default().with("ResultingSnapshot", settings_path(made)));
    }
    call.start(Some(machine.id), move |host| {
        let machine = host.machine(machine.id).ok_or_else(gone)?;
        Ok(vec![settings_path(make(host, &machine, &plan)?)])
    })
}

fn gone() -> JobError {
    JobError::new(FAILED, "The virtual machine is gone.")
}

fn make(host: &Host, machine: &Machine, plan: &Plan) -> Result<Uuid, JobError> {
    if plan.recovery && plan.consistency == APPLICATION && machine.on && machine.quirks.no_consistency {
        let description = format!(
            "Checkpoint operation for '{}' failed. Production checkpoints cannot be created for '{}'. (0x80070780)",
            machine.name(),
            machine.name()
        );
        return Err(JobError::new(FAILED, description));
    }
    let left_out = |part: &crate::hyperv::machine::Part| {
        let is_file = part.sub_type() == HARD_DISK;
        part.sub_type() == PHYSICAL_DRIVE || is_file && part.backing.as_ref().is_some_and(|b| b.disk.is_none())
    };
    if !plan.leaves_out && machine.settings.parts.iter().any(left_out) {
        let description = format!("'{}' has disks that take no part in checkpoints.", machine.name());
        return Err(JobError::new(FAILED, description));
    }
    let disks: Vec<DiskId> = machine.settings.disks().into_iter().map(|(_, disk)| disk).collect();
    let frozen = host.store.checkpoint(&disks)?;
    let mut settings = machine.settings.clone();
    let mut tops = Vec::new();
    for (disk, path) in disks.iter().zip(&frozen) {
        settings.move_disk(*disk, path);
        tops.push((*disk, host.store.path(*disk)?));
    }
    let id = Uuid::new_v4();
    let created = now();
    let title = created.strftime("%-m/%-d/%Y - %-I:%M:%S %p");
    let name = if let Some(name) = &plan.name {
        name.clone()
    } else if plan.recovery {
        format!("{} - Backup - ({title})", machine.name())
    } else {
        format!("{} - ({title})", machine.name())
    };
    settings.values.insert("ElementName".to_owned(), name.into());
    let parent = machine.snapshots.last().map(|snapshot| snapshot.id);
    let snapshot = Snapshot { id, recovery: plan.recovery, consistency: plan.consistency, created, parent, settings };
    let there = host.change_machine(machine.id, |machine| {
        for (disk, path) in &tops {
            machine.settings.move_disk(*disk, path);
        }
        machine.snapshots.push(snapshot);
    })?;
    if there { Ok(id) } else { Err(gone()) }
}

/// Makes a checkpoint of that name, a user's or that of another program's backup; says which.
pub(crate) fn make_named(host: &Host, machine: Uuid, name: &str, recovery: bool) -> Result<Uuid, JobError> {
    let plan = Plan { recovery, consistency: CRASH, leaves_out: true, name: Some(name.to_owned()) };
    make(host, &host.machine(machine).ok_or_else(gone)?, &plan)
}

/// The checkpoint a call is about.
fn affected(call: &Call<'_>) -> Result<(Machine, Snapshot), Refusal> {
    let (machine, id) = call.settings("AffectedSnapshot")?;
    let snapshot = machine.snapshot(id).cloned().ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?;
    Ok((machine, snapshot))
}

pub(super) fn destroy(call: &Call<'_>) -> Result<Output, Refusal> {
    let (machine, snapshot) = affected(call)?;
    call.start(Some(machine.id), move |host| {
        end(host, machine.id, &snapshot, |host, disk, frozen| Ok(host.store.merge(disk, frozen)?))?;
        Ok(Vec::new())
    })
}

pub(super) fn convert(call: &Call<'_>) -> Result<Output, Refusal> {
    let (machine, snapshot) = affected(call)?;
    if !snapshot.recovery {
        return Err(Refusal::Code(RETURN_INVALID_PARAMETER));
    }
    let injected = call.injected.clone();
    call.start(Some(machine.id), move |host| {
        let mut tracking = Vec::new();
        end(host, machine.id, &snapshot, |host, disk, frozen| {
            let converted = host.store.convert(disk, frozen)?;
            let local = snapshot.settings.disks().into_iter().find(|(_, own)| *own == disk);
            tracking.extend(local.map(|(local, _)| (local, converted.tracking_id)));
            Ok(converted.merged)
        })?;
        match injected {
            Some(Action::ForeignTracking) => {
                for (_, id) in &mut tracking {
                    *id = format!("rctX:{}", Uuid::new_v4());
                }
            }
            Some(Action::NoTracking) => {
                for (_, id) in &mut tracking {
                    id.clear();
                }
            }
            Some(Action::SwappedTracking) => {
                let mut ids: Vec<String> = tracking.iter().map(|(_, id): &(String, String)| id.clone()).collect();
                ids.rotate_left(1);
                for ((_, own), other) in tracking.iter_mut().zip(ids) {
                    *own = other;
                }
            }
            _ => {}
        }
        let point = ReferencePoint { id: Uuid::new_v4(), consistency: snapshot.consistency, tracking };
        let path = point_path(point.id);
        host.change_machine(machine.id, |machine| machine.points.push(point))?;
        Ok(vec![path])
    })
}

/// Ends a checkpoint: `merge` its disks, tell everybody where the files are, forget it.
fn end(
    host: &Arc<Host>,
    machine: Uuid,
    snapshot: &Snapshot,
    mut merge: impl FnMut(&Arc<Host>, DiskId, &str) -> Result<Merged, JobError>,
) -> Result<(), JobError> {
    let backings = snapshot.settings.parts.iter().filter_map(|part| part.backing.as_ref());
    for (disk, frozen) in backings.filter_map(|backing| Some((backing.disk?, backing.path.as_str()))) {
        let merged = merge(host, disk, frozen)?;
        let top = host.store.path(disk)?;
        host.change_machine(machine, |machine| {
            machine.settings.move_disk(disk, &top);
            let parts = machine.snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.settings.parts);
            let paths = parts.filter_map(|part| part.backing.as_mut()).filter(|backing| backing.disk == Some(disk));
            for backing in paths.filter(|backing| backing.path.eq_ignore_ascii_case(&merged.gone)) {
                merged.into.clone_into(&mut backing.path);
            }
        })?;
    }
    host.change_machine(machine, |machine| {
        machine.snapshots.retain(|known| known.id != snapshot.id);
        for child in machine.snapshots.iter_mut().filter(|known| known.parent == Some(snapshot.id)) {
            child.parent = snapshot.parent;
        }
    })?;
    Ok(())
}

pub(super) fn destroy_point(call: &Call<'_>) -> Result<Output, Refusal> {
    let path: &ObjectPath = call.reference("AffectedReferencePoint")?;
    let id = path.key("InstanceID").and_then(|id| Uuid::parse_str(id).ok());
    let found = call.host.read(|state| {
        let holds = |machine: &&Machine| machine.points.iter().any(|point| Some(point.id) == id);
        state.machines.iter().find(holds).map(|machine| machine.id)
    });
    let (Some(machine), Some(id)) = (found, id) else { return Err(Refusal::Code(RETURN_INVALID_PARAMETER)) };
    call.start(Some(machine), move |host| {
        let mut forgotten = Vec::new();
        host.change_machine(machine, |machine| {
            let (gone, kept) = machine.points.drain(..).partition(|point: &ReferencePoint| point.id == id);
            machine.points = kept;
            forgotten = gone;
        })?;
        for (_, tracking) in forgotten.iter().flat_map(|point| &point.tracking) {
            host.store.forget(tracking)?;
        }
        Ok(Vec::new())
    })
}
