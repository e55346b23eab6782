//! All machines, volumes and switches of a host.

use super::machine::{Facts, disk_rows, is_checkpoint, machine_info, machines, why};
use super::model::{Rows, is_machine};
use super::recovery::checkpoint;
use super::tracking::disk_facts;
use super::wire::{CallError, Fault, Wsman};
use super::wmi::{Instance, Namespace, query};
use crate::{DatastoreInfo, HostSnapshot, Inventory, MachineInfo, MachineRef, NetworkInfo};
use futures_util::StreamExt as _;
use std::collections::BTreeSet;

/// Questions about disks' files that are under way at once.
const FACTS_AT_ONCE: usize = 4;
/// Fixed disks.
pub(super) const VOLUMES: &str = "SELECT * FROM Win32_LogicalDisk WHERE DriveType = 3";

pub(super) async fn inventory(wsman: &dyn Wsman) -> Result<Inventory, CallError> {
    let rows = Rows::fetch(wsman).await?;
    let own = rows.settings.iter().filter(|row| row.word("VirtualSystemType") == super::model::REALIZED);
    let paths: Vec<String> =
        own.flat_map(|settings| disk_rows(&rows, settings.instance_id())).map(|disk| disk.path).collect();
    let facts = facts(wsman, paths).await?;
    let mut machines = machines(&rows, &facts);
    super::guest::add(wsman, &mut machines).await;
    Ok(Inventory {
        machines,
        datastores: volumes(wsman).await?,
        snapshots: snapshots(&rows),
        networks: rows
            .switches
            .iter()
            .map(|row| NetworkInfo { reference: row.word("Name").to_owned(), name: row.word("ElementName").to_owned() })
            .collect(),
    })
}

/// Checkpoints of all machines.
fn snapshots(rows: &Rows) -> Vec<HostSnapshot> {
    let checkpoints = rows.settings.iter().filter(|row| is_checkpoint(row));
    let of_machine = checkpoints.filter_map(|row| {
        let system = rows.system(row.word("VirtualSystemIdentifier"))?;
        Some(checkpoint(row, &MachineRef(system.word("Name").to_owned())))
    });
    of_machine.collect()
}

pub(super) async fn machine(wsman: &dyn Wsman, machine: &MachineRef) -> Result<MachineInfo, CallError> {
    let rows = Rows::fetch(wsman).await?;
    let Some(settings) = rows.realized(&machine.0).filter(|_| rows.system(&machine.0).is_some()) else {
        return Err(not_found(&rows, machine));
    };
    let paths = disk_rows(&rows, settings.instance_id()).into_iter().map(|disk| disk.path);
    let facts = facts(wsman, paths).await?;
    machine_info(&rows, &machine.0, &facts).ok_or_else(|| not_found(&rows, machine))
}

fn not_found(rows: &Rows, machine: &MachineRef) -> CallError {
    let count = rows.systems.iter().filter(|row| is_machine(row)).count();
    let message = format!("The host lists {count} machines, and {} is none of them", machine.0);
    CallError::Fault(Fault { names: vec!["InvalidSelectors".into()], message })
}

/// What the host says of some disks' files. A file it cannot read is a fact, too.
pub(super) async fn facts(wsman: &dyn Wsman, paths: impl IntoIterator<Item = String>) -> Result<Facts, CallError> {
    let paths: BTreeSet<String> = paths.into_iter().filter(|path| !path.is_empty()).collect();
    let mut asked = futures_util::stream::iter(paths)
        .map(|path| async move {
            let found = disk_facts(wsman, &path).await;
            (path, found)
        })
        .buffer_unordered(FACTS_AT_ONCE);
    let mut facts = Facts::new();
    while let Some((path, found)) = asked.next().await {
        let found = match found {
            Ok(found) => Ok(found),
            Err(error @ CallError::Fault(_)) => Err(why(&error)),
            Err(error) => return Err(error),
        };
        facts.insert(path, found);
    }
    Ok(facts)
}

pub(super) async fn volumes(wsman: &dyn Wsman) -> Result<Vec<DatastoreInfo>, CallError> {
    Ok(query(wsman, Namespace::Cimv2, VOLUMES).await?.iter().map(volume).collect())
}

fn volume(row: &Instance) -> DatastoreInfo {
    let size = row.number("Size").unwrap_or(0);
    DatastoreInfo {
        reference: row.word("DeviceID").to_owned(),
        name: row.word("DeviceID").to_owned(),
        kind: row.word("FileSystem").to_owned(),
        capacity_bytes: size,
        free_bytes: row.number("FreeSpace").unwrap_or(0),
        accessible: size > 0,
    }
}
