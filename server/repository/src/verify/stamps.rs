//! Stamps in the repository: read by writers for what is known to be bad, kept by verification. A stamp is never
//! changed: a new one says more, and those it includes are deleted after it is durable.

use std::collections::{HashMap, HashSet};

use crate::backend::{BackendErrorKind, ObjectInfo};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::names::{self, ObjectId};
use crate::format::stamp::{self, PackCheck, STAMP_BYTES_MAX, STAMP_BYTES_TARGET, Stamp};

/// What an open repository took from stamps already.
#[derive(Default)]
pub struct Seen {
    names: HashSet<String>,
    /// Packs that were bad once, and when they were last checked.
    bad: HashMap<ObjectId, u64>,
}

/// Tells the index what stamps that were not there before say is bad.
pub async fn load_new(core: &Core) -> Result<()> {
    let mut new = core.backend.list(names::STAMPS).await?;
    new.retain(|object| !core.stamps.lock().names.contains(&object.name));
    let mut found = Stamp::default();
    let known: HashSet<ObjectId> = core.stamps.lock().bad.keys().copied().collect();
    // A clean check matters only for a pack that another stamp calls bad: a second pass, hardly ever needed, saves
    // keeping the millions that never were.
    let mut again = false;
    for object in &new {
        let each = |pack, check: PackCheck| {
            if !check.bad.is_none() || known.contains(&pack) {
                again |= !known.contains(&pack) && new.len() > 1;
                found.note(pack, check);
            }
        };
        read_each(core, object, each).await?;
    }
    for object in new.iter().filter(|_| again) {
        let each = |pack, check: PackCheck| {
            if check.bad.is_none() && found.packs.contains_key(&pack) {
                found.note(pack, check);
            }
        };
        read_each(core, object, each).await?;
    }
    let mut seen = core.stamps.lock();
    for (pack, check) in found.packs {
        if seen.bad.get(&pack).is_none_or(|at| *at <= check.checked_at) {
            seen.bad.insert(pack, check.checked_at);
            core.index.set_bad(pack, check.bad);
        }
    }
    seen.names.extend(new.into_iter().map(|object| object.name));
    Ok(())
}

/// One that vanished or cannot be read says nothing: chunks it called bad are found bad again.
async fn read_each(core: &Core, object: &ObjectInfo, each: impl FnMut(ObjectId, PackCheck)) -> Result<()> {
    let read = async { stamp::decode_each(&core.keys, &object.name, &read_bytes(core, object).await?, each) };
    let error = match read.await {
        Ok(_) => return Ok(()),
        Err(error) => core.settle_generation(error).await,
    };
    if !error.is_damage() && !matches!(error, Error::KeysRotated { .. }) {
        return Err(error);
    }
    tracing::warn!(stamp = object.name, %error, "stamp of a verification is unreadable");
    Ok(())
}

async fn read_bytes(core: &Core, object: &ObjectInfo) -> Result<bytes::Bytes> {
    if object.size > STAMP_BYTES_MAX {
        return Err(Error::damaged(&object.name, "it is longer than any stamp"));
    }
    Ok(core.backend.get(&object.name, None).await?)
}

/// All stamps, as one; their names; and those that cannot be read.
#[derive(Default)]
pub struct AllStamps {
    pub stamp: Stamp,
    pub names: Vec<String>,
    pub damaged: Vec<(String, Error)>,
}

/// Reads all stamps.
pub async fn read_all(core: &Core) -> Result<AllStamps> {
    let mut all = AllStamps::default();
    for object in core.backend.list(names::STAMPS).await? {
        let read = async { Stamp::decode(&core.keys, &object.name, &read_bytes(core, &object).await?) };
        let read = match read.await {
            Err(error) => Err(core.settle_generation(error).await),
            read => read,
        };
        match read {
            Ok(stamp) => all.stamp.merge(stamp),
            // Merged into another by a verification that runs as well.
            Err(Error::Backend(error)) if error.kind == BackendErrorKind::NotFound => continue,
            Err(error) if error.is_damage() => all.damaged.push((object.name.clone(), error)),
            Err(error) => return Err(error),
        }
        all.names.push(object.name);
    }
    Ok(all)
}

/// Stores what a stamp says, in as few objects as may be: their names.
pub async fn write(core: &Core, stamp: &Stamp) -> Result<Vec<String>> {
    let mut written = Vec::new();
    let mut packs = stamp.packs.iter().peekable();
    while packs.peek().is_some() {
        let mut part = Stamp { unfinished_since: stamp.unfinished_since, ..Stamp::default() };
        let mut bytes = 0;
        while let Some((pack, check)) = packs.next_if(|_| bytes < STAMP_BYTES_TARGET) {
            bytes += check.encoded_bytes();
            part.packs.insert(*pack, check.clone());
        }
        let id = core.new_id()?;
        let name = names::stamp(&id);
        core.backend.put_new(&name, vec![part.encode(&core.keys, id)?.into()]).await?;
        core.stamps.lock().names.insert(name.clone());
        written.push(name);
    }
    Ok(written)
}

/// Deletes stamps that others include by now. One that stays (a locked object) does no harm.
pub async fn delete(core: &Core, names: &[String]) {
    for name in names {
        if let Err(error) = core.backend.delete(name).await {
            tracing::debug!(stamp = name, %error, "an old stamp stays");
        }
    }
}
