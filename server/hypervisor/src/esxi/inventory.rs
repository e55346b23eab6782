//! All machines, datastores and networks of a host.

use super::machine::{CONFIG_PATHS, STATE_PATHS, machine_info, snapshots};
use super::property::{Object, of_all, of_object};
use super::session::Vim;
use super::soap::CallError;
use super::xml::MoRef;
use crate::{DatastoreInfo, Inventory, MachineInfo, MachineRef, NetworkInfo};

const DATASTORE_PATHS: [&str; 5] =
    ["summary.name", "summary.type", "summary.capacity", "summary.freeSpace", "summary.accessible"];
/// Folders within folders, and pools within pools.
const MAX_FOLDER_LEVELS: usize = 32;
/// The property that names a machine's pool.
const POOL: &str = "resourcePool";

pub(super) async fn inventory(vim: &dyn Vim) -> Result<Inventory, CallError> {
    let machine_paths: Vec<&str> = STATE_PATHS.iter().chain(&CONFIG_PATHS).copied().chain([POOL]).collect();
    let found = of_all(
        vim,
        &[
            ("VirtualMachine", &machine_paths),
            ("Datastore", &DATASTORE_PATHS),
            ("Network", &["name"]),
            ("Folder", &["name", "parent"]),
            ("ResourcePool", &["name", "parent"]),
        ],
    )
    .await?;
    let of_kind = |kind: &'static str| found.iter().filter(move |object| object.reference.kind == kind);
    let datastores: Vec<DatastoreInfo> = of_kind("Datastore").map(datastore_info).collect();
    let kinds = datastore_kinds(&datastores);
    let folders: Vec<&Object> = of_kind("Folder").collect();
    let pools: Vec<&Object> = found.iter().filter(|object| is_pool(&object.reference)).collect();
    let machines = of_kind("VirtualMachine").map(|object| MachineInfo {
        pool: pool_path(object, &pools),
        ..machine_info(object, folder_path(object, &folders), &kinds)
    });
    // A distributed port group comes with its own type; it is a network all the same.
    let is_other = |kind: &str| matches!(kind, "VirtualMachine" | "Datastore" | "Folder");
    let networks = found.iter().filter(|object| !is_other(&object.reference.kind) && !is_pool(&object.reference));
    let snapshots = of_kind("VirtualMachine").flat_map(|object| {
        let machine = MachineRef(object.reference.value.clone());
        snapshots(object).into_iter().map(move |snapshot| snapshot.on(&machine))
    });
    Ok(Inventory {
        machines: machines.collect(),
        snapshots: snapshots.collect(),
        networks: networks
            .map(|object| NetworkInfo {
                reference: object.reference.value.clone(),
                name: object.text("name").to_owned(),
            })
            .collect(),
        datastores,
    })
}

pub(super) async fn machine(vim: &dyn Vim, machine: &MachineRef) -> Result<MachineInfo, CallError> {
    let paths: Vec<&str> = STATE_PATHS.iter().chain(&CONFIG_PATHS).copied().collect();
    let object = of_object(vim, &machine_ref(machine), &paths).await?;
    let kinds = datastore_kinds(&datastores(vim).await?);
    Ok(machine_info(&object, String::new(), &kinds))
}

pub(super) async fn datastores(vim: &dyn Vim) -> Result<Vec<DatastoreInfo>, CallError> {
    Ok(of_all(vim, &[("Datastore", &DATASTORE_PATHS)]).await?.iter().map(datastore_info).collect())
}

pub(super) fn machine_ref(machine: &MachineRef) -> MoRef {
    MoRef::new("VirtualMachine", &machine.0)
}

fn datastore_kinds(datastores: &[DatastoreInfo]) -> Vec<(String, String)> {
    datastores.iter().map(|datastore| (datastore.name.clone(), datastore.kind.clone())).collect()
}

fn datastore_info(object: &Object) -> DatastoreInfo {
    DatastoreInfo {
        reference: object.reference.value.clone(),
        name: object.text("summary.name").to_owned(),
        kind: object.text("summary.type").to_owned(),
        capacity_bytes: object.text("summary.capacity").parse().unwrap_or(0),
        free_bytes: object.text("summary.freeSpace").parse().unwrap_or(0),
        accessible: object.is_true("summary.accessible"),
    }
}

/// Names of the folders above a machine, without the host's own outermost ones.
fn folder_path(machine: &Object, folders: &[&Object]) -> String {
    let mut names = Vec::new();
    let mut parent = machine.reference_at("parent");
    for _ in 0..MAX_FOLDER_LEVELS {
        let Some(folder) = parent.and_then(|parent| folders.iter().find(|folder| folder.reference == parent)) else {
            break;
        };
        names.push(folder.text("name"));
        parent = folder.reference_at("parent");
    }
    // The last one is the datacenter's own `vm` folder.
    names.pop();
    names.reverse();
    names.join("/")
}

/// A vApp is a pool as well.
fn is_pool(reference: &MoRef) -> bool {
    matches!(reference.kind.as_str(), "ResourcePool" | "VirtualApp")
}

/// Names of the pools above a machine, without the outermost one, which every host has and does not show.
fn pool_path(machine: &Object, pools: &[&Object]) -> String {
    let mut names = Vec::new();
    let mut next = machine.reference_at(POOL);
    for _ in 0..MAX_FOLDER_LEVELS {
        let Some(pool) = next.and_then(|next| pools.iter().find(|pool| pool.reference == next)) else { break };
        next = pool.reference_at("parent");
        if !next.as_ref().is_some_and(is_pool) {
            break;
        }
        names.push(pool.text("name"));
    }
    names.reverse();
    names.join("/")
}
