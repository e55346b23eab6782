//! Snapshots and change tracking.

use std::path::PathBuf;

use super::super::config::DatastoreKind;
use super::super::disk::Disk;
use super::super::disk::tracking::{State, Unknown};
use super::super::fault::SoapFault;
use super::super::host::{Host, Shared, now};
use super::super::inject::{Action, Corruption};
use super::super::machine::Machine;
use super::super::soap::{Call, Reply};
use super::super::task;
use super::super::value::{MoRef, Object, Value};
use crate::esxi::collector::reference;

/// Starts tracking over on all disks, when told to.
fn lose_tracking(call: &Call<'_>, machine: &Shared) -> Result<(), SoapFault> {
    if call.injected == Some(Action::LostTracking) {
        for disk in &mut machine.lock().disks {
            disk.tracking.reset()?;
        }
    }
    Ok(())
}

pub(super) fn create(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let shared = call.host.find_machine(this)?;
    lose_tracking(call, &shared)?;
    {
        let machine = shared.lock();
        machine.check_unleased()?;
        let unfit = |disk: &&Disk| !disk.mode.in_snapshots() && call.node.flag("memory");
        if let Some(disk) = machine.disks.iter().find(unfit).filter(|_| machine.running()) {
            let text = format!("{} cannot take part in a memory snapshot", disk.descriptor_name(disk.top));
            return Err(SoapFault::new("SnapshotFault", text));
        }
    }
    let (name, description) = (call.text("name").to_owned(), call.text("description").to_owned());
    let quiesce = call.node.flag("quiesce");
    let heeded = call.injected != Some(Action::IgnoreQuiesce);
    let task = task::start_on_machine(
        call.host,
        &shared,
        "CreateSnapshot_Task",
        &call.user(),
        call.injected.clone(),
        move |host, machine| {
            let mut machine = machine.lock();
            if quiesce && machine.running() && !machine.tools {
                return Err(super::machines::no_tools());
            }
            let quiesced = quiesce && heeded && machine.running();
            let number = machine.create_snapshot(&name, &description, quiesced, now())?;
            host.save(&machine)?;
            host.record_snapshot(&machine, number)?;
            Ok(Some(machine.snapshot_ref(number).into()))
        },
    )?;
    Ok(Reply::of(task))
}

pub(super) fn remove(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let (shared, number) = call.host.find_snapshot(this)?;
    let with_children = call.node.flag("removeChildren");
    let consolidate = call.node.text_of("consolidate").is_none_or(|text| text == "true" || text == "1");
    let left = !consolidate || call.injected == Some(Action::ConsolidationNeeded);
    let task = task::start_on_machine(
        call.host,
        &shared,
        "RemoveSnapshot_Task",
        &call.user(),
        call.injected.clone(),
        move |host, machine| {
            forget_and_merge(host, machine, left, |machine| machine.forget_snapshots(number, with_children))
        },
    )?;
    Ok(Reply::of(task))
}

pub(super) fn remove_all(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let shared = call.host.find_machine(this)?;
    let consolidate = call.node.text_of("consolidate").is_none_or(|text| text == "true" || text == "1");
    let left = !consolidate || call.injected == Some(Action::ConsolidationNeeded);
    let task = task::start_on_machine(
        call.host,
        &shared,
        "RemoveAllSnapshots_Task",
        &call.user(),
        call.injected.clone(),
        move |host, machine| {
            forget_and_merge(host, machine, left, |machine| {
                machine.snapshots.clear();
                machine.current_snapshot = None;
            })
        },
    )?;
    Ok(Reply::of(task))
}

pub(super) fn consolidate(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let shared = call.host.find_machine(this)?;
    let fails = call.injected == Some(Action::ConsolidationNeeded);
    let task = task::start_on_machine(
        call.host,
        &shared,
        "ConsolidateVMDisks_Task",
        &call.user(),
        call.injected.clone(),
        move |host, machine| {
            if fails {
                return Err(SoapFault::locked("the disks"));
            }
            forget_and_merge(host, machine, false, |_| {})
        },
    )?;
    Ok(Reply::of(task))
}

/// Changes the snapshot tree, then merges, unless the merge is left out. A merge that meets a reader of a file leaves
/// `consolidationNeeded` and still counts as success, as removing the snapshot itself did succeed.
fn forget_and_merge(
    host: &Host,
    shared: &Shared,
    left: bool,
    change: impl FnOnce(&mut Machine),
) -> Result<Option<Value>, SoapFault> {
    let paths: Vec<PathBuf> = shared.lock().data_paths();
    let _ = host.locks.wait_free(&paths, host.config.limits.lock_wait);
    let mut machine = shared.lock();
    change(&mut machine);
    // Removing a snapshot stuns the machine.
    machine.stun()?;
    machine.consolidation_needed = true;
    // Saved before anything is merged: a crash in between leaves a machine that needs consolidation, as on a real host.
    host.save(&machine)?;
    if left {
        return Ok(None);
    }
    if let Err(fault) = machine.consolidate(&host.locks) {
        tracing::debug!(machine = machine.name, fault = fault.message, "consolidation is needed");
        if fault.kind() != "FileLocked" {
            host.save(&machine)?;
            return Err(fault);
        }
    }
    host.save(&machine)?;
    Ok(None)
}

pub(super) fn revert(call: &Call<'_>, shared: &Shared, number: i32) -> Result<Reply, SoapFault> {
    shared.lock().check_unleased()?;
    let task = task::start_on_machine(
        call.host,
        shared,
        "RevertToSnapshot_Task",
        &call.user(),
        call.injected.clone(),
        move |host, machine| {
            let mut machine = machine.lock();
            machine.revert(number)?;
            host.save(&machine)?;
            Ok(None)
        },
    )?;
    Ok(Reply::of(task))
}

pub(super) fn changed_areas(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let shared = call.host.find_machine(this)?;
    lose_tracking(call, &shared)?;
    let machine = shared.lock();
    let key: i32 = call.node.number("deviceKey").unwrap_or(-1);
    let disk = machine.disk(key).ok_or_else(|| SoapFault::invalid_argument("deviceKey"))?;
    let file_fault = || {
        let file = machine.datastore_path(&disk.descriptor_name(disk.top));
        SoapFault::file("FileFault", &file, format!("Error caused by file {file}"))
    };
    if call.injected == Some(Action::RefuseChangeTracking) {
        return Err(file_fault());
    }
    let snapshot = match call.node.child("snapshot").map(reference) {
        None if machine.running() => return Err(file_fault()),
        None => None,
        Some(reference) => {
            let snapshot = machine.snapshots.iter().find(|snapshot| machine.snapshot_ref(snapshot.number) == reference);
            Some(snapshot.ok_or_else(|| SoapFault::not_found(&reference))?)
        }
    };
    let frozen = match snapshot {
        None => None,
        Some(snapshot) => {
            let frozen = snapshot.disks.iter().find(|frozen| frozen.key == key && frozen.frozen);
            Some(frozen.ok_or_else(|| SoapFault::invalid_argument("deviceKey"))?)
        }
    };
    let capacity = frozen.map_or(disk.capacity, |frozen| frozen.capacity);
    let start: u64 = call.node.number("startOffset").ok_or_else(|| SoapFault::invalid_argument("startOffset"))?;
    if start >= capacity {
        return Err(SoapFault::invalid_argument("startOffset"));
    }
    let until = frozen.map(|frozen| frozen.change_id.clone());
    let all = match (call.text("changeId"), until) {
        _ if disk.tracking.state != State::Active => return Err(file_fault()),
        (_, Some(None)) => return Err(file_fault()), // the snapshot is older than the tracking
        ("*", _) => {
            let link = frozen.map_or(disk.top, |frozen| frozen.link);
            if call.host.datastore_kind(&machine.datastore) == DatastoreKind::Vmfs {
                disk.image(link).allocated(disk.tracking.unit())?
            } else {
                vec![(0, capacity)]
            }
        }
        (_, _) if call.injected == Some(Action::LoseAreas) => Vec::new(),
        (since, until) => match disk.tracking.changed(since, until.flatten().as_deref(), capacity) {
            Ok(areas) => areas,
            Err(Unknown::NotTracked) => return Err(file_fault()),
            Err(Unknown::Malformed) => return Err(SoapFault::invalid_argument("changeId")),
        },
    };
    let limit = call.host.config.limits.areas_per_answer;
    let (mut areas, mut end) = page(&all, start, capacity, limit);
    if let Some(Action::CorruptAreas(corruption)) = call.injected {
        corrupt(&mut areas, &mut end, corruption, start, capacity);
    }
    let extents = areas.iter().map(|&(offset, length)| {
        Object::new("DiskChangeExtent").with("start", offset as i64).with("length", length as i64)
    });
    Ok(Reply::of(
        Object::new("DiskChangeInfo")
            .with("startOffset", start as i64)
            .with("length", (end - start) as i64)
            .with("changedArea", Value::objects("DiskChangeExtent", extents)),
    ))
}

/// Areas from `start` on, `limit` at most, and the byte up to which they are complete.
fn page(all: &[(u64, u64)], start: u64, capacity: u64, limit: usize) -> (Vec<(u64, u64)>, u64) {
    let mut areas = Vec::new();
    for &(offset, length) in all {
        let end = (offset + length).min(capacity);
        let offset = offset.max(start);
        if offset >= end {
            continue;
        }
        if areas.len() == limit {
            let end = areas.last().map_or(capacity, |(offset, length)| offset + length);
            return (areas, end);
        }
        areas.push((offset, end - offset));
    }
    (areas, capacity)
}

fn corrupt(areas: &mut Vec<(u64, u64)>, end: &mut u64, corruption: Corruption, start: u64, capacity: u64) {
    match corruption {
        Corruption::Overlap => {
            areas.clear();
            areas.extend([(start, 128 << 10), (start + (64 << 10), 128 << 10)]);
        }
        Corruption::PastEnd => areas.push((capacity - 512, 64 << 10)),
        Corruption::Empty => areas.push((areas.last().map_or(start, |(offset, length)| offset + length), 0)),
        Corruption::NoProgress => {
            areas.clear();
            *end = start;
        }
        Corruption::Descending => {
            areas.clear();
            areas.extend([(start + (128 << 10), 64 << 10), (start, 64 << 10)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_complete_up_to_their_end() {
        let all = [(0, 10), (20, 10), (40, 10)];
        assert_eq!(page(&all, 0, 100, 2), (vec![(0, 10), (20, 10)], 30));
        assert_eq!(page(&all, 30, 100, 2), (vec![(40, 10)], 100));
        assert_eq!(page(&all, 25, 100, 5), (vec![(25, 5), (40, 10)], 100));
        assert_eq!(page(&all, 0, 100, 3), (all.to_vec(), 100));
        assert_eq!(page(&[], 0, 100, 3), (vec![], 100));
    }
}
