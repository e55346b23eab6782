//! Resource pools: a tree below the host's own pool, known by their paths.
//!
//! Owns: which pools exist. Every part of a machine's pool path is a pool, and so is every part of a configured one.

use std::collections::BTreeSet;

use super::host::Host;
use super::inventory::{entity, fixed, machines};
use super::value::{MoRef, Value};

/// The host's own pool, whose path is empty.
const ROOT: &str = "ha-root-pool";

/// Reference of the pool of that path.
pub(crate) fn pool_ref(path: &str) -> MoRef {
    if path.is_empty() {
        return MoRef::new("ResourcePool", ROOT);
    }
    let id = path.bytes().fold("pool-".to_owned(), |id, byte| format!("{id}{byte:02x}"));
    MoRef::new("ResourcePool", id)
}

/// Paths of all pools, the host's own among them.
fn paths(host: &Host) -> BTreeSet<String> {
    let mut leaves = host.config.pools.clone();
    leaves.extend(host.machines().iter().map(|machine| machine.lock().pool.clone()));
    let mut all = BTreeSet::from([String::new()]);
    for leaf in leaves {
        all.extend(leaf.match_indices('/').filter_map(|(end, _)| leaf.get(..end).map(str::to_owned)));
        all.insert(leaf);
    }
    all
}

fn above(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(above, _)| above)
}

pub(crate) fn exists(host: &Host, object: &MoRef) -> bool {
    paths(host).iter().any(|path| pool_ref(path) == *object)
}

/// A property by its first name; `None` when it is unset.
pub(crate) fn property(host: &Host, object: &MoRef, name: &str) -> Option<Value> {
    let all = paths(host);
    let path = all.iter().find(|path| pool_ref(path) == *object)?;
    let is_root = path.is_empty();
    match name {
        "owner" => Some(fixed("ha-compute-res").into()),
        "resourcePool" => {
            let below = all.iter().filter(|other| !other.is_empty() && above(other) == path);
            Some(Value::refs(below.map(|other| pool_ref(other))))
        }
        "vm" => Some(machines(host, |machine| machine.pool == *path)),
        _ if is_root => entity(name, "Resources", Some(fixed("ha-compute-res"))),
        _ => entity(name, path.rsplit('/').next().unwrap_or_default(), Some(pool_ref(above(path)))),
    }
}
