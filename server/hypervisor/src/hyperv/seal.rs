//! A checkpoint becomes a reference point: the marks that a later run asks with.
//!
//! Must never: take another backup's reference point for ours, or one disk's tracking id for another's.

use super::machine::DiskRow;
use super::model::{Rows, SETTINGS, SNAPSHOT_SERVICE, any_tail, instance_reference};
use super::tracking::{TOKEN_VERSION, bad_answer, destroy, reference_points};
use super::wire::{CallError, Wsman};
use super::wmi::{Arguments, Instance, run, service};
use crate::{MachineRef, Result, Sealed, Snapshot};
use domain::point::ChangeMark;
use std::collections::BTreeSet;
use tokio::time::Instant;

type Call<T> = std::result::Result<T, CallError>;

/// Converts a recovery checkpoint into a reference point, and returns the marks of the disks it tracks.
pub(super) async fn seal(wsman: &dyn Wsman, machine: &MachineRef, snapshot: &Snapshot) -> Result<Sealed> {
    let attempt = format!("convert checkpoint {} of machine {} to a reference point", snapshot.reference.0, machine.0);
    seal_inner(wsman, machine, snapshot).await.map_err(|error| error.during(wsman.host(), attempt))
}

async fn seal_inner(wsman: &dyn Wsman, machine: &MachineRef, snapshot: &Snapshot) -> Call<Sealed> {
    // Which disk is which is read before the conversion: the checkpoint is gone after it.
    let rows = Rows::fetch(wsman).await?;
    let disks = super::machine::disk_rows(&rows, &snapshot.reference.0);
    let before = reference_points(wsman, machine).await?;
    let point = convert(wsman, machine, snapshot, &before).await?;
    let sealed = marks(&point, &disks, snapshot);
    if sealed.marks.is_empty() {
        // Nobody would remember it, and the host would track changes for nothing.
        if let Err(left) = destroy(wsman, machine, point.instance_id()).await {
            tracing::warn!(host = wsman.host(), point = point.instance_id(), left = left.reason(), "left behind");
        }
    }
    Ok(sealed)
}

/// Returns the reference point that the checkpoint became. Another backup's would be of another moment, and what changed
/// since would be missing in the next point; so there must be no doubt.
async fn convert(wsman: &dyn Wsman, machine: &MachineRef, snapshot: &Snapshot, before: &[Instance]) -> Call<Instance> {
    let known: BTreeSet<&str> = before.iter().map(Instance::instance_id).collect();
    let arguments =
        Arguments::default().reference("AffectedSnapshot", &instance_reference(SETTINGS, &snapshot.reference.0));
    let budget = wsman.timeouts().remove_snapshot;
    let converted = run(wsman, &service(SNAPSHOT_SERVICE), "ConvertToReferencePoint", arguments, budget).await;
    let named = match &converted {
        Ok(called) => called.output.reference("ResultingReferencePoint").and_then(|point| point.selector("InstanceID")),
        Err(_) => None,
    };
    let named = named.map(str::to_owned);
    if let Err(error) = converted {
        // The host may have done it all the same: then the checkpoint goes.
        if !error.is_lost() || !goes(wsman, machine, snapshot).await {
            return Err(error);
        }
    }
    let mut fresh = reference_points(wsman, machine).await?;
    fresh.retain(|point| !known.contains(point.instance_id()));
    let count = fresh.len();
    let point = match named {
        Some(id) => fresh.into_iter().find(|point| point.instance_id() == id),
        None => fresh.pop().filter(|_| count == 1),
    };
    point.ok_or_else(|| {
        let reason = format!("the host lists {count} new reference points of the machine instead of one");
        bad_answer(wsman, "convert the checkpoint", reason)
    })
}

/// Whether the checkpoint goes away within the time that a lost answer takes to show.
async fn goes(wsman: &dyn Wsman, machine: &MachineRef, snapshot: &Snapshot) -> bool {
    let deadline = Instant::now() + wsman.timeouts().settle;
    loop {
        let rows = super::recovery::checkpoints(wsman, machine).await;
        let is_gone = rows.is_ok_and(|rows| rows.iter().all(|row| row.instance_id() != snapshot.reference.0));
        if is_gone || Instant::now() >= deadline {
            return is_gone;
        }
        tokio::time::sleep(wsman.timeouts().look_again()).await;
    }
}

/// Pairs tracking ids with disks. A disk without one gets no mark: it is read whole next time, with the cause.
fn marks(point: &Instance, disks: &[DiskRow], snapshot: &Snapshot) -> Sealed {
    let mut sealed = Sealed::default();
    if super::machine::no_tracking(&snapshot.config).is_some() {
        return sealed;
    }
    let ids = point.list("VirtualDiskIdentifiers");
    let tracking = point.list("ResilientChangeTrackingIdentifiers");
    for config in &snapshot.config.disks {
        let Some(disk) = disks.iter().find(|disk| disk.key == config.key) else { continue };
        if super::reader::is_vhd(&disk.path) {
            continue;
        }
        let is_disk = |id: &&str| any_tail(id).is_some_and(|tail| tail.eq_ignore_ascii_case(&disk.tail));
        let tracking_id = match ids.iter().position(is_disk) {
            _ if tracking.iter().all(|id| id.is_empty()) => Err("the host gave no tracking ids".to_owned()),
            _ if ids.len() != tracking.len() => {
                Err(format!("the host named {} disks and {} tracking ids", ids.len(), tracking.len()))
            }
            None => Err("the host does not name it among the disks it tracks".to_owned()),
            Some(place) => match tracking.get(place) {
                Some(id) if !id.is_empty() && !id.contains('|') => Ok(*id),
                _ => Err("the host gave no tracking id for it".to_owned()),
            },
        };
        match tracking_id {
            Ok(id) => sealed.marks.push(ChangeMark {
                disk_key: config.key,
                disk_uuid: config.uuid.clone(),
                capacity_bytes: config.capacity_bytes,
                token: format!("{TOKEN_VERSION}|{id}|{}", point.instance_id()),
            }),
            Err(cause) => sealed.unmarked.push(format!("{}: {cause}", config.label)),
        }
    }
    sealed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperv::model::REFERENCE_POINT;
    use domain::machine::DiskConfig;

    const CAPACITY: u64 = 1 << 20;

    #[test]
    fn tracking_ids_are_paired_by_disk_and_not_by_place() {
        let row = |key: i32, tail: &str| DiskRow {
            key,
            label: String::new(),
            controller_key: 1000,
            unit: 0,
            path: String::new(),
            tail: tail.into(),
            finding: None,
        };
        let config = |key: i32| DiskConfig {
            key,
            label: format!("SCSI {key}"),
            capacity_bytes: CAPACITY,
            controller_key: 1000,
            unit: 0,
            uuid: Some(format!("disk-{key}")),
            thin: true,
            sector_bytes: 512,
        };
        let snapshot = crate::hyperv::snapshot::tests::snapshot_with(vec![config(2000), config(2001)]);
        let disks = [row(2000, "ctl\\0\\0\\L"), row(2001, "ctl\\0\\1\\L"), row(2002, "ctl\\0\\2\\L")];
        let point = |ids: &[&str], tracking: &[&str]| {
            let mut fields = vec![("InstanceID", "Microsoft:P")];
            fields.extend(ids.iter().map(|id| ("VirtualDiskIdentifiers", *id)));
            fields.extend(tracking.iter().map(|id| ("ResilientChangeTrackingIdentifiers", *id)));
            Instance::of(REFERENCE_POINT, &fields)
        };
        let found = marks(
            &point(
                &["Microsoft:VM\\ctl\\0\\2\\L", "Microsoft:VM\\CTL\\0\\1\\L", "Microsoft:VM\\ctl\\0\\0\\L"],
                &["r2", "r1", ""],
            ),
            &disks,
            &snapshot,
        );
        let mark = &found.marks[0];
        assert_eq!(found.marks.len(), 1, "one has no id, one was not backed up: {found:?}");
        assert_eq!((mark.disk_key, mark.token.as_str()), (2001, "rct1|r1|Microsoft:P"));
        assert_eq!(mark.disk_uuid.as_deref(), Some("disk-2001"));
        assert_eq!(found.unmarked, ["SCSI 2000: the host gave no tracking id for it"]);
        let first = "Microsoft:VM\\ctl\\0\\0\\L";
        for (ids, tracking, cause) in [
            (&[first][..], &["a", "b"][..], "named 1 disks and 2 tracking ids"),
            (&[first], &[""], "gave no tracking ids"),
            (&[first], &[], "gave no tracking ids"),
            (&[first], &["a"], "SCSI 2001: the host does not name it"),
        ] {
            let found = marks(&point(ids, tracking), &disks, &snapshot);
            assert!(found.unmarked.iter().any(|text| text.contains(cause)), "{cause}: {found:?}");
        }
    }
}
