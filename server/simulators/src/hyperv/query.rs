//! Queries against the inventory: `Get` by selectors, WQL.

use super::host::Host;
use super::inventory::instances;
use super::model::instance::Instance;
use super::model::path::ObjectPath;
use super::model::schema::{Class, schema};
use super::model::value::Value;
use super::model::wql::Query;
use super::wire::envelope::Resource;
use super::wire::fault::{Fault, code};

/// What a query answers: instances, and which columns of them.
pub(crate) struct Rows {
    pub instances: Vec<Instance>,
    pub columns: Option<Vec<&'static str>>,
}

/// The class a resource names.
pub(crate) fn class_of(resource: &Resource) -> Result<&'static Class, Fault> {
    let found = schema().class(&resource.class).filter(|class| class.namespace == resource.namespace);
    found.ok_or_else(|| {
        let reason = format!(
            "The WS-Management service cannot process the request. The class {} does not exist in the {} namespace.",
            resource.class,
            resource.namespace.name()
        );
        Fault::new("a:DestinationUnreachable", code::INVALID_RESOURCE_URI, reason)
    })
}

/// The one instance of exactly this class that the selectors name.
pub(crate) fn get(host: &Host, class: &'static Class, selectors: &[(String, String)]) -> Result<Instance, Fault> {
    for (name, _) in selectors {
        let known = class.keys.iter().any(|key| key.eq_ignore_ascii_case(name));
        if !known && !name.eq_ignore_ascii_case("__cimnamespace") {
            let reason = format!("The selector {name} is no key of {}.", class.name);
            return Err(Fault::new("w:InvalidSelectors", code::INVALID_SELECTORS, reason));
        }
    }
    let meant = |instance: &Instance| {
        let fits = |name: &str, value: &str| {
            name.eq_ignore_ascii_case("__cimnamespace") || instance.get(name).plain().eq_ignore_ascii_case(value)
        };
        instance.class.name == class.name && selectors.iter().all(|(name, value)| fits(name, value))
    };
    let mut found = instances(host, class).into_iter().filter(meant);
    let first = found.next().ok_or_else(|| Fault::not_found(class.name))?;
    if found.next().is_some() {
        let reason = format!("The selectors name more than one {}.", class.name);
        return Err(Fault::new("w:InvalidSelectors", code::INVALID_SELECTORS, reason));
    }
    Ok(first)
}

/// The instance at a path, if there is one.
pub(crate) fn find(host: &Host, path: &ObjectPath) -> Option<Instance> {
    get(host, schema().class(&path.class)?, &path.keys).ok()
}

/// What a query finds.
pub(crate) fn run(host: &Host, query: Query) -> Result<Rows, Fault> {
    match query {
        Query::Select { class, columns, condition } => {
            let mut found = instances(host, class);
            found.retain(|instance| condition.as_ref().is_none_or(|condition| condition.holds(instance)));
            Ok(Rows { instances: found, columns })
        }
        Query::References { of, through } => Ok(Rows { instances: joins(host, &of, through)?, columns: None }),
        Query::Associators { of, through, result } => {
            let mut found: Vec<Instance> = Vec::new();
            for path in joins(host, &of, through)?.iter().flat_map(ends) {
                let wanted = schema().class(&path.class).is_some_and(|c| result.is_none_or(|result| c.is(result.name)));
                if !wanted || path.same(&of) || found.iter().any(|known| known.path().same(&path)) {
                    continue;
                }
                found.extend(find(host, &path));
            }
            Ok(Rows { instances: found, columns: None })
        }
    }
}

fn ends(row: &Instance) -> Vec<ObjectPath> {
    let end = |value: &Value| match value {
        Value::Reference(path) => Some(path.clone()),
        _ => None,
    };
    row.values.values().filter_map(end).collect()
}

/// The rows that join an instance with others.
fn joins(host: &Host, of: &ObjectPath, through: Option<&'static Class>) -> Result<Vec<Instance>, Fault> {
    if find(host, of).is_none() {
        return Err(Fault::internal(code::WBEM_NOT_FOUND, format!("Not found: {}", of.relative())));
    }
    let classes = schema().associations().filter(|class| through.is_none_or(|through| class.is(through.name)));
    let mut rows: Vec<Instance> = classes.flat_map(|class| instances(host, class)).collect();
    rows.retain(|row| ends(row).iter().any(|path| path.same(of)));
    Ok(rows)
}
