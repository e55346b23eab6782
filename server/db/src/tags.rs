//! Tags of machines. They are the operators' own: an inventory leaves them as they are. Rules see a change with the next run.

use crate::database::Database;
use crate::error::{Conflict, Error, Result};
use crate::ids::VmId;
use domain::tag::Tags;

/// Machines whose tags are changed at once, at most.
const MACHINES_AT_ONCE_MAX: usize = 1000;
/// Tags that are offered to choose from, at most.
const KNOWN_TAGS_MAX: i64 = 1000;

/// What becomes of the tags of some machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagChange {
    /// They have these and no others.
    Set(Tags),
    /// They have these as well.
    Add(Tags),
    /// They have these no longer.
    Remove(Tags),
}

impl Database {
    /// Changes the tags of machines, of all or of none, and answers the names of those that changed. More tags than a machine
    /// takes are [`Conflict::TooManyTags`], more machines than are changed at once [`Error::OutOfLimits`].
    pub async fn change_tags(&self, machines: &[VmId], change: &TagChange) -> Result<Vec<String>> {
        if machines.len() > MACHINES_AT_ONCE_MAX {
            return Err(Error::OutOfLimits { rule: format!("{MACHINES_AT_ONCE_MAX} machines at once") });
        }
        let ids: Vec<i64> = machines.iter().map(|machine| machine.0).collect();
        let mut transaction = self.pool.begin().await?;
        let rows: Vec<(VmId, String, Vec<String>)> = sqlx::query_as(
            "select vm_id, name, tags from virtual_machine where vm_id = any($1) order by vm_id for no key update",
        )
        .bind(ids)
        .fetch_all(&mut *transaction)
        .await?;
        let mut changed = Vec::new();
        for (vm_id, name, stored) in rows {
            let before = Tags::stored(&stored);
            let after = match change {
                TagChange::Set(tags) => Ok(tags.clone()),
                TagChange::Add(tags) => before.with(tags),
                TagChange::Remove(tags) => Ok(before.without(tags)),
            };
            let after = after.map_err(|_| Error::Conflict(Conflict::TooManyTags(vm_id)))?;
            if after == before {
                continue;
            }
            sqlx::query("update virtual_machine set tags = $2 where vm_id = $1")
                .bind(vm_id)
                .bind(after.words())
                .execute(&mut *transaction)
                .await?;
            changed.push(name);
        }
        transaction.commit().await?;
        Ok(changed)
    }

    /// All tags that some machine has, in order.
    pub async fn known_tags(&self) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar("select distinct tag from virtual_machine, unnest(tags) tag order by tag limit $1")
            .bind(KNOWN_TAGS_MAX)
            .fetch_all(&self.pool)
            .await?)
    }
}
