//! What a restore needs to know before it makes anything: the point, the target, whether name and space are there.
//!
//! Owns: refusing what cannot work. Must never: change anything.

use super::RestoreOrder;
use crate::context::JobContext;
use crate::reconcile::undo::{self, Undone};
use crate::{errors, words};
use db::DeviceId;
use domain::job::JobError;
use hypervisor::{DatastoreInfo, Hypervisor, Inventory};
use repository::{Point, PointId, Repository};
use std::sync::Arc;

/// What is restored, from where to where.
pub struct Plan {
    /// `web-01 was not restored to esx-2 as web-01-copy.`
    pub what: String,
    pub order: RestoreOrder,
    pub device_id: DeviceId,
    pub device_name: String,
    pub host: Arc<dyn Hypervisor>,
    pub repository: Repository,
    pub point: Point,
    free_bytes: u64,
}

impl Plan {
    /// Disks are thin: the target needs room for the data, not for the disks' sizes.
    pub fn check_space(&self, data_bytes: u64) -> Result<(), JobError> {
        if data_bytes <= self.free_bytes {
            return Ok(());
        }
        Err(JobError::fail(
            "restore.no_space",
            &self.what,
            format!(
                "The datastore “{}” has {} free, the machine needs {}.",
                self.order.datastore,
                words::bytes(self.free_bytes),
                words::bytes(data_bytes)
            ),
            "Choose another datastore, or free space on this one.",
        ))
    }
}

/// Reads and checks all of it.
pub async fn prepare(ctx: &JobContext) -> Result<Plan, JobError> {
    ctx.phase("Preparing").await;
    let order: RestoreOrder = serde_json::from_value(ctx.job.payload.clone()).map_err(|_| ctx.malformed())?;
    let db = &ctx.core.db;
    let row = ctx.essential(db.point(db::PointId(order.point_id)).await)?;
    let device = ctx.essential(db.device(DeviceId(order.device_id)).await)?;
    let what = format!("{} was not restored to {} as {}.", row.machine_name, device.name, order.name);
    let repository_row = ctx.essential(db.repository(row.repository_id).await)?;
    let repository = ctx.core.repository(&what, &repository_row).await?;
    let point = repository.point(PointId(order.point_id)).await.map_err(|error| errors::repository(&what, &error))?;
    let host = ctx.core.host(&what, &device).await?;
    undo_own(ctx, &what, host.as_ref(), device.device_id).await?;
    let inventory = host.inventory().await.map_err(|error| errors::host(&what, &error))?;
    refuse_name(&what, &order, &inventory)?;
    refuse_network(&what, &order, &inventory)?;
    let free_bytes = datastore(&what, &order, &inventory)?.free_bytes;
    ctx.info(&format!("Restore point of {}, on datastore “{}”.", words::moment(point.taken_at), order.datastore)).await;
    Ok(Plan { what, order, device_id: device.device_id, device_name: device.name, host, repository, point, free_bytes })
}

/// What a broken-off attempt of this very restore left goes first; it holds the name.
async fn undo_own(ctx: &JobContext, what: &str, host: &dyn Hypervisor, device_id: DeviceId) -> Result<(), JobError> {
    let open = ctx.core.db.open_changes(device_id).await.map_err(|error| errors::database(what, &error))?;
    for change in open.iter().filter(|change| change.job_id == Some(ctx.job.job_id) && !change.owner_alive) {
        if undo::undo(&ctx.core, host, change).await? == Undone::Removed {
            ctx.info("Removed the half-made machine that an earlier, broken-off attempt left on the host.").await;
        }
    }
    Ok(())
}

fn refuse_name(what: &str, order: &RestoreOrder, inventory: &Inventory) -> Result<(), JobError> {
    if inventory.machines.iter().all(|machine| machine.config.name != order.name) {
        return Ok(());
    }
    Err(JobError::fail(
        "restore.name_taken",
        what,
        format!("The host has a machine called “{}” already.", order.name),
        "Choose another name. A restore never replaces a machine.",
    ))
}

fn refuse_network(what: &str, order: &RestoreOrder, inventory: &Inventory) -> Result<(), JobError> {
    let Some(wanted) = &order.network else { return Ok(()) };
    if inventory.networks.iter().any(|network| &network.name == wanted) {
        return Ok(());
    }
    Err(JobError::fail(
        "restore.network_missing",
        what,
        format!("The host has no network called “{wanted}”."),
        "Choose one of the host's networks.",
    ))
}

fn datastore<'a>(what: &str, order: &RestoreOrder, inventory: &'a Inventory) -> Result<&'a DatastoreInfo, JobError> {
    let found = inventory.datastores.iter().find(|datastore| datastore.name == order.datastore);
    found.filter(|datastore| datastore.accessible).ok_or_else(|| {
        JobError::fail(
            "restore.datastore_missing",
            what,
            format!("The host has no usable datastore called “{}”.", order.datastore),
            "Choose one of the host's datastores.",
        )
    })
}
