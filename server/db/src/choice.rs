//! Machines that are in a task by rule: `backup_task_machine` is kept what the rules say, so that everything else only reads it.

use crate::database::Database;
use crate::error::Result;
use crate::ids::{DeviceId, TaskId, VmId};
use domain::choice::{Choice, Facts};
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use std::collections::HashSet;

/// A machine that a rule took into a task or let go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Name of the machine.
    pub machine: String,
    /// Name of the task.
    pub task: String,
    /// Taken in, or let go.
    pub is_in: bool,
}

#[derive(sqlx::FromRow)]
struct TaskRules {
    task_id: TaskId,
    name: String,
    choice: Json<Choice>,
}

#[derive(sqlx::FromRow)]
struct Known {
    vm_id: VmId,
    device_id: DeviceId,
    name: String,
    folder: String,
    pool: String,
    tags: Vec<String>,
}

impl Database {
    /// Takes a machine out of a task, whoever put it in. A rule that fits takes it in again: make an exception then.
    pub async fn remove_task_machine(&self, task_id: TaskId, vm_id: VmId) -> Result<bool> {
        let removed = sqlx::query("delete from backup_task_machine where task_id = $1 and vm_id = $2")
            .bind(task_id)
            .bind(vm_id)
            .execute(&self.pool)
            .await?;
        Ok(removed.rows_affected() > 0)
    }

    /// Machines that are there and that `choice` would take in, by name.
    pub async fn machines_by_rule(&self, choice: &Choice) -> Result<Vec<VmId>> {
        if choice.rules.is_empty() {
            return Ok(Vec::new());
        }
        let known: Vec<Known> = sqlx::query_as(KNOWN).bind(None::<DeviceId>).fetch_all(&self.pool).await?;
        Ok(known.iter().filter(|machine| choice.takes(machine.facts())).map(|machine| machine.vm_id).collect())
    }
}

/// Machines that are no longer on their host are left as they are: they are told of, not forgotten.
const KNOWN: &str = "select vm_id, device_id, name, folder, pool, tags from virtual_machine
     where missing_since is null and ($1::bigint is null or device_id = $1) order by lower(name), vm_id";

impl Known {
    fn facts(&self) -> Facts<'_> {
        Facts {
            name: &self.name,
            folder: &self.folder,
            pool: &self.pool,
            device_id: self.device_id.0,
            tags: &self.tags,
        }
    }
}

/// Brings the members by rule up to date: of one task or all, with the machines of one device or all.
pub(crate) async fn settle_members(
    transaction: &mut Transaction<'_, Postgres>,
    device: Option<DeviceId>,
    task: Option<TaskId>,
) -> Result<Vec<Joined>> {
    let tasks: Vec<TaskRules> = sqlx::query_as(
        "select task_id, name, choice from backup_task t where deleted_at is null and ($1::bigint is null or task_id = $1)
             and (jsonb_array_length(coalesce(choice->'rules', '[]')) > 0
                  or exists (select from backup_task_machine m where m.task_id = t.task_id and m.by_rule))
         order by task_id for update",
    )
    .bind(task)
    .fetch_all(&mut **transaction)
    .await?;
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let known: Vec<Known> = sqlx::query_as(KNOWN).bind(device).fetch_all(&mut **transaction).await?;
    let mut changes = Vec::new();
    for task in tasks {
        settle(transaction, &task, &known, &mut changes).await?;
    }
    Ok(changes)
}

async fn settle(
    transaction: &mut Transaction<'_, Postgres>,
    task: &TaskRules,
    known: &[Known],
    changes: &mut Vec<Joined>,
) -> Result<()> {
    let members: Vec<(VmId, bool)> =
        sqlx::query_as("select vm_id, by_rule from backup_task_machine where task_id = $1")
            .bind(task.task_id)
            .fetch_all(&mut **transaction)
            .await?;
    let by_rule: HashSet<VmId> = members.iter().filter(|member| member.1).map(|member| member.0).collect();
    let all: HashSet<VmId> = members.iter().map(|member| member.0).collect();
    let mut told = |machine: &Known, is_in| {
        changes.push(Joined { machine: machine.name.clone(), task: task.name.clone(), is_in });
        machine.vm_id.0
    };
    let fits = |machine: &Known| task.choice.takes(machine.facts());
    let (mut joining, mut leaving): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
    for machine in known {
        if fits(machine) && !all.contains(&machine.vm_id) {
            joining.push(told(machine, true));
        } else if !fits(machine) && by_rule.contains(&machine.vm_id) {
            leaving.push(told(machine, false));
        }
    }
    sqlx::query(
        "insert into backup_task_machine (task_id, vm_id, by_rule) select $1, vm, true from unnest($2::bigint[]) vm
         on conflict do nothing",
    )
    .bind(task.task_id)
    .bind(&joining)
    .execute(&mut **transaction)
    .await?;
    sqlx::query("delete from backup_task_machine where task_id = $1 and by_rule and vm_id = any($2)")
        .bind(task.task_id)
        .bind(&leaving)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
