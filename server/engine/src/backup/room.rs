//! The room that a snapshot may take: a datastore that runs full stops every machine on it.
//!
//! Owns: that no snapshot is made, and that one is given up, when a datastore has less free than its device's limit says.
//! Must never: keep a backup from ending because a host did not say how much is free.

use super::prepare::Source;
use crate::context::JobContext;
use crate::{errors, words};
use domain::job::JobError;
use std::collections::BTreeSet;

/// Before the snapshot: refuses while a datastore of the machine has too little free.
pub async fn check(ctx: &JobContext, source: &Source) -> Result<(), JobError> {
    let reserve = ctx.essential(ctx.core.db.device_limits(source.device_id).await)?.reserve_percent;
    match short(source, reserve).await {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(error(source, why)),
        Err(failed) => {
            ctx.info(&format!("The free space was not checked: {failed}.")).await;
            Ok(())
        }
    }
}

/// While the snapshot stands: ends when a datastore has too little free, with the reason to give the snapshot up.
pub async fn watch(ctx: &JobContext, source: &Source) -> JobError {
    loop {
        tokio::time::sleep(ctx.config().room_every).await;
        let Ok(limits) = ctx.core.db.device_limits(source.device_id).await else { continue };
        if let Ok(Some(why)) = short(source, limits.reserve_percent).await {
            return error(source, why);
        }
    }
}

/// Which datastore of the machine has less than so much free, if one has; or why it is not known.
async fn short(source: &Source, reserve_percent: u32) -> Result<Option<String>, String> {
    if reserve_percent == 0 {
        return Ok(None);
    }
    let own: BTreeSet<&str> = source.machine.disks.iter().map(|disk| disk.datastore.as_str()).collect();
    let stores = source.host.datastores().await.map_err(|error| errors::chain(&error))?;
    let full = stores.into_iter().filter(|store| own.contains(store.name.as_str()) && store.capacity_bytes > 0).find(
        |store| u128::from(store.free_bytes) * 100 < u128::from(store.capacity_bytes) * u128::from(reserve_percent),
    );
    Ok(full.map(|store| {
        format!(
            "{} has {} of {} free, and {reserve_percent} % are to stay free for the machines on it.",
            store.name,
            words::bytes(store.free_bytes),
            words::bytes(store.capacity_bytes)
        )
    }))
}

fn error(source: &Source, why: String) -> JobError {
    let word = source.snapshot_word();
    JobError::retry(
        "vm.datastore_full",
        source.what.as_str(),
        why,
        format!("Give the datastore more space, or remove what is not needed there. A {word} grows while it stands."),
    )
}
