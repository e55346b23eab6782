//! `WaitForUpdatesEx`: what has changed since a client looked last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::collector::{FilterSpec, paths_for, select_objects, values};
use super::fault::SoapFault;
use super::host::Host;
use super::schema::Version;
use super::value::{MoRef, Object, Value};

/// Longest wait for updates.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often updates are looked for.
const WAIT_STEP: Duration = Duration::from_millis(15);

/// Waits until a filter of the collector has news for the client that knows `version`, or `limit` is over.
pub(crate) fn wait_for_updates(
    host: &Host,
    session: &str,
    collector: &MoRef,
    version: &str,
    limit: Option<Duration>,
    client: Version,
) -> Result<Option<Value>, SoapFault> {
    let deadline = Instant::now() + limit.unwrap_or(WAIT_MAX).min(WAIT_MAX);
    loop {
        let ids: Vec<(String, Arc<FilterSpec>)> = {
            let mut open = host.views.lock();
            let own = open.filters.iter_mut().filter(|(_, f)| f.session == session && f.collector == *collector);
            own.map(|(id, filter)| {
                if version.is_empty() {
                    filter.sent.clear();
                    filter.reported.clear();
                }
                (id.clone(), Arc::clone(&filter.spec))
            })
            .collect()
        };
        let mut updates = Vec::new();
        let mut newest = version.parse::<u64>().unwrap_or(0);
        for (id, spec) in ids {
            if let Some((update, at)) = filter_update(host, &id, &spec, client)? {
                updates.push(update);
                newest = newest.max(at);
            }
        }
        if !updates.is_empty() {
            let set = Object::new("UpdateSet")
                .with("version", (newest + 1).to_string())
                .with("filterSet", Value::objects("PropertyFilterUpdate", updates));
            return Ok(Some(set.into()));
        }
        if Instant::now() >= deadline || host.stop.is_cancelled() {
            return Ok(None);
        }
        std::thread::sleep(WAIT_STEP);
    }
}

fn filter_update(
    host: &Host,
    id: &str,
    spec: &FilterSpec,
    client: Version,
) -> Result<Option<(Object, u64)>, SoapFault> {
    let mut current = Vec::new();
    for object in select_objects(host, spec).unwrap_or_default() {
        let Some(paths) = paths_for(spec, &object.kind) else { continue };
        if let Some(found) = values(host, &object, &paths) {
            current.push((object, found));
        }
    }
    let mut open = host.views.lock();
    let Some(filter) = open.filters.get_mut(id) else {
        return Err(SoapFault::not_found(&MoRef::new("PropertyFilter", id)));
    };
    let mut objects = Vec::new();
    for (object, found) in current {
        let mut changes = Vec::new();
        for (path, value) in found {
            let mut text = String::new();
            value.write_any(&mut text, "val", client);
            let key = (object.clone(), path.clone());
            if filter.sent.get(&key) != Some(&text) {
                filter.sent.insert(key, text);
                changes.push(
                    Object::new("PropertyChange")
                        .with("name", path)
                        .with("op", Value::enumeration("PropertyChangeOp", "assign"))
                        .with("val", value),
                );
            }
        }
        let entered = filter.reported.insert(object.clone());
        if entered || !changes.is_empty() {
            let kind = Value::enumeration("ObjectUpdateKind", if entered { "enter" } else { "modify" });
            objects.push(
                Object::new("ObjectUpdate")
                    .with("kind", kind)
                    .with("obj", object)
                    .with("changeSet", Value::objects("PropertyChange", changes)),
            );
        }
    }
    if objects.is_empty() {
        return Ok(None);
    }
    filter.version += 1;
    let update = Object::new("PropertyFilterUpdate")
        .with("filter", MoRef::new("PropertyFilter", id))
        .with("objectSet", Value::objects("ObjectUpdate", objects));
    Ok(Some((update, filter.version)))
}
