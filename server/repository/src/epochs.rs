//! Epochs as writers and collectors read them: lists of packs that are condemned, for ever. See `collector`.

use crate::backend::BackendErrorKind;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::lease::{EPOCH_BYTES_MAX, decode_epoch};
use crate::format::names::{self, ObjectId};

/// An epoch that is there.
pub struct Epoch {
    pub id: ObjectId,
    pub packs: Vec<ObjectId>,
    pub bytes: u64,
}

/// Ids of the epochs that are there.
pub async fn list(core: &Core) -> Result<Vec<ObjectId>> {
    let listed = core.backend.list(names::EPOCHS).await?;
    Ok(listed.iter().filter_map(|object| names::last_part_as_id(&object.name)).collect())
}

/// Reads all epochs. One that goes away meanwhile is done. One that cannot be read is an error: nobody knows what it
/// condemns.
pub async fn load(core: &Core) -> Result<Vec<Epoch>> {
    let mut epochs = Vec::new();
    for object in core.backend.list(names::EPOCHS).await? {
        let name = &object.name;
        let id = names::last_part_as_id(name).filter(|id| names::epoch(id) == *name);
        let id = id.ok_or_else(|| Error::damaged(name, "its name is not that of an epoch"))?;
        if object.size > EPOCH_BYTES_MAX {
            return Err(Error::damaged(name, "it is longer than any epoch"));
        }
        match core.backend.get(name, None).await {
            Ok(bytes) => {
                let packs = match decode_epoch(&core.keys, name, &bytes) {
                    Err(error) => return Err(core.settle_generation(error).await),
                    Ok(packs) => packs,
                };
                epochs.push(Epoch { id, packs, bytes: object.size });
            }
            Err(error) if error.kind == BackendErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(epochs)
}
