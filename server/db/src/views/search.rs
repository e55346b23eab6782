//! The search box.

use super::contains;
use crate::ids::{DeviceId, RunId, TaskId, VmId};
use crate::{Database, Result};

/// Hits of each kind.
const HITS_MAX: i64 = 20;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Machines: id, name, device, simulated.
    pub machines: Vec<(VmId, String, String, bool)>,
    /// Devices: id, name, address, simulated.
    pub devices: Vec<(DeviceId, String, String, bool)>,
    /// Tasks: id, name.
    pub tasks: Vec<(TaskId, String)>,
    /// Machines with restore points, also those that are gone: key, name, points.
    pub points: Vec<(String, String, i64)>,
    /// A run with that number.
    pub run: Option<(RunId, String)>,
}

impl Found {
    /// Nothing.
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
            && self.devices.is_empty()
            && self.tasks.is_empty()
            && self.points.is_empty()
            && self.run.is_none()
    }
}

/// Looks for the words in names, and for the number among runs.
pub async fn search(db: &Database, words: &str) -> Result<Found> {
    let pattern = contains(words);
    let machines = sqlx::query_as(
        "select v.vm_id, v.name, d.name, d.simulated from virtual_machine v join device d using (device_id)
         where v.name ilike $1 or v.guest_address ilike $1 order by lower(v.name) limit $2",
    )
    .bind(&pattern)
    .bind(HITS_MAX)
    .fetch_all(&db.pool)
    .await?;
    let devices = sqlx::query_as(
        "select device_id, name, host, simulated from device where name ilike $1 or host ilike $1
         order by lower(name) limit $2",
    )
    .bind(&pattern)
    .bind(HITS_MAX)
    .fetch_all(&db.pool)
    .await?;
    let tasks = sqlx::query_as(
        "select task_id, name from backup_task where deleted_at is null and name ilike $1 order by lower(name) limit $2",
    )
    .bind(&pattern)
    .bind(HITS_MAX)
    .fetch_all(&db.pool)
    .await?;
    let points = sqlx::query_as(
        "select machine_key, max(machine_name), count(*) from restore_point
         where machine_name ilike $1 and expiring_since is null group by machine_key order by 2 limit $2",
    )
    .bind(&pattern)
    .bind(HITS_MAX)
    .fetch_all(&db.pool)
    .await?;
    let run = match words.trim().parse::<i64>() {
        Ok(number) => {
            sqlx::query_as("select run_id, title from run where run_id = $1")
                .bind(number)
                .fetch_optional(&db.pool)
                .await?
        }
        Err(_) => None,
    };
    Ok(Found { machines, devices, tasks, points, run })
}
