//! The inventory of one device, read and written down.
//!
//! Owns: the translation from the host's words to the database's. Must never: keep anything between two runs.

use crate::context::JobContext;
use crate::errors;
use db::{
    DatastoreInput, DeviceId, DiskInput, ForeignInput, InventoryChanges, InventoryInput, MachineInput, NetworkInput,
    Outcome, Preflight,
};
use domain::foreign::Maker;
use domain::job::JobError;
use hypervisor::{DevicePreflight, HostSnapshot, Inventory, MachineInfo};
use serde_json::json;

/// Runs the job; a failure is also shown on the device's page.
pub async fn run(ctx: &JobContext) -> Result<Outcome, JobError> {
    let Some(device_id) = ctx.job.device_id else { return Err(ctx.malformed()) };
    ctx.phase("Reading the inventory").await;
    match read(ctx, device_id).await {
        Ok(outcome) => Ok(outcome),
        Err(error) => {
            if ctx.stop.reason().is_none() {
                ctx.heard(ctx.core.db.record_sync_failure(device_id, &error).await);
            }
            Err(error)
        }
    }
}

async fn read(ctx: &JobContext, device_id: DeviceId) -> Result<Outcome, JobError> {
    let device = ctx.essential(ctx.core.db.device(device_id).await)?;
    let what = format!("The inventory of {} could not be read.", device.name);
    let host = ctx.core.host(&what, &device).await?;
    let failed = |error| errors::host(&what, &error);
    let preflight = tokio::select! {
        preflight = host.preflight() => preflight.map_err(failed)?,
        () = ctx.stop.token().cancelled() => return Err(JobError::cancelled(what.as_str())),
    };
    let inventory = tokio::select! {
        inventory = host.inventory() => inventory.map_err(failed)?,
        () = ctx.stop.token().cancelled() => return Err(JobError::cancelled(what.as_str())),
    };
    ctx.essential(ctx.core.db.record_preflight(device_id, &preflight_row(preflight)).await)?;
    let changes = ctx.essential(ctx.core.db.apply_inventory(device_id, &input(inventory)).await)?;
    tell(ctx, &changes).await;
    Ok(ctx.done(json!({ "added": changes.added, "missing": changes.missing })))
}

async fn tell(ctx: &JobContext, changes: &InventoryChanges) {
    let lists = [("New", &changes.added), ("No longer on the host", &changes.missing), ("Back", &changes.returned)];
    for (title, names) in lists {
        if !names.is_empty() {
            ctx.info(&format!("{title}: {}.", names.join(", "))).await;
        }
    }
    for it in &changes.joined {
        let went = if it.is_in { "has joined" } else { "has left" };
        ctx.info(&format!("By its rules, {} {went} the task “{}”.", it.machine, it.task)).await;
    }
    for (before, now) in &changes.renamed {
        ctx.info(&format!("“{before}” is called “{now}” now.")).await;
    }
}

/// What the device's row keeps of a preflight.
pub fn preflight_row(preflight: DevicePreflight) -> Preflight {
    Preflight {
        product: preflight.product,
        api_version: preflight.api_version,
        host_uuid: preflight.host_uuid,
        findings: preflight.findings,
    }
}

fn input(inventory: Inventory) -> InventoryInput {
    InventoryInput {
        machines: inventory.machines.into_iter().filter_map(machine).collect(),
        datastores: inventory
            .datastores
            .into_iter()
            .map(|store| DatastoreInput {
                reference: store.reference,
                name: store.name,
                kind: store.kind,
                capacity_bytes: store.capacity_bytes,
                free_bytes: store.free_bytes,
                accessible: store.accessible,
            })
            .collect(),
        networks: inventory
            .networks
            .into_iter()
            .map(|network| NetworkInput { reference: network.reference, name: network.name })
            .collect(),
        foreign: inventory.snapshots.into_iter().filter_map(foreign).collect(),
    }
}

/// A snapshot that looks like another program's; whether the journal knows it is for the database to say.
fn foreign(snapshot: HostSnapshot) -> Option<ForeignInput> {
    Some(ForeignInput {
        maker: Maker::of(&snapshot.name, snapshot.is_recovery)?,
        created_at: snapshot.created_at?,
        machine: snapshot.machine.0,
        reference: snapshot.reference.0,
        name: snapshot.name,
    })
}

/// A machine without a unique id (a broken registration) cannot be recognised again and is left out.
pub fn machine(info: MachineInfo) -> Option<MachineInput> {
    info.config.instance_uuid.as_ref()?;
    let disks = info.disks.into_iter().map(|disk| DiskInput {
        disk_key: disk.key,
        label: disk.label,
        capacity_bytes: disk.capacity_bytes,
        datastore: disk.datastore,
        path: disk.path,
        uuid: disk.uuid,
    });
    Some(MachineInput {
        reference: info.reference.0,
        power: info.power,
        guest_name: info.guest_name,
        guest_address: info.guest_address,
        folder: info.folder,
        pool: info.pool,
        tracking_enabled: info.tracking_enabled,
        findings: info.findings,
        disks: disks.collect(),
        config: info.config,
    })
}
