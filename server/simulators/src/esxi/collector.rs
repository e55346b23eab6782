//! The property collector and the container views: which objects a client selects, and pages of their properties.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::fault::SoapFault;
use super::host::Host;
use super::inventory;
use super::schema::SCHEMA;
use super::value::{MoRef, Object, Value};
use crate::xml::Node;

/// Views and filters that are open at a time, over all sessions.
const VIEWS_MAX: usize = 500;
/// Result pages that wait to be fetched.
const PAGES_MAX: usize = 100;
/// Objects one request can select.
const OBJECTS_MAX: usize = 20_000;

#[derive(Clone)]
struct View {
    session: String,
    container: MoRef,
    kinds: Vec<String>,
    recursive: bool,
}

pub(crate) struct Filter {
    pub session: String,
    pub collector: MoRef,
    pub spec: Arc<FilterSpec>,
    /// Last value sent, by object and path.
    pub sent: BTreeMap<(MoRef, String), String>,
    pub reported: HashSet<MoRef>,
    pub version: u64,
}

/// What sessions have open.
#[derive(Default)]
pub(crate) struct Open {
    next: u64,
    views: BTreeMap<String, View>,
    pub filters: BTreeMap<String, Filter>,
    pages: BTreeMap<String, (String, Vec<Object>)>,
}

/// Views, filters and pages of all sessions.
#[derive(Default)]
pub(crate) struct Views(Mutex<Open>);

struct PropertySet {
    kind: String,
    all: bool,
    paths: Vec<String>,
}

struct Start {
    object: MoRef,
    skip: bool,
    select: Vec<Select>,
}

enum Select {
    Named(String),
    Traverse { name: String, kind: String, path: String, skip: bool, select: Vec<Select> },
}

/// A `PropertyFilterSpec`.
pub(crate) struct FilterSpec {
    sets: Vec<PropertySet>,
    starts: Vec<Start>,
}

/// A reference in a request.
pub(crate) fn reference(node: &Node) -> MoRef {
    MoRef::new(node.plain_type.clone().unwrap_or_default(), node.text.trim())
}

/// The reference in a child element; an empty one when it is absent.
pub(crate) fn reference_in(node: &Node, name: &str) -> MoRef {
    node.child(name).map_or_else(|| MoRef::new("", ""), reference)
}

impl FilterSpec {
    pub fn read(node: &Node) -> Result<Self, SoapFault> {
        let mut sets = Vec::new();
        for set in node.all("propSet") {
            let kind = set.text_of("type").unwrap_or_default().to_owned();
            let paths: Vec<String> = set.all("pathSet").map(|path| path.text.trim().to_owned()).collect();
            if kind != "ManagedObject" && !SCHEMA.knows(&kind) {
                return Err(SoapFault::invalid_argument("propSet.type"));
            }
            for path in &paths {
                if !SCHEMA.has_path(&kind, path) {
                    return Err(SoapFault::invalid_property(path));
                }
            }
            sets.push(PropertySet { kind, all: set.flag("all"), paths });
        }
        let start = |set: &Node| Start {
            object: reference_in(set, "obj"),
            skip: set.flag("skip"),
            select: set.all("selectSet").map(read_select).collect(),
        };
        Ok(Self { sets, starts: node.all("objectSet").map(start).collect() })
    }
}

fn read_select(node: &Node) -> Select {
    let name = node.text_of("name").unwrap_or_default().to_owned();
    if node.type_name() != Some("TraversalSpec") {
        return Select::Named(name);
    }
    Select::Traverse {
        name,
        kind: node.text_of("type").unwrap_or_default().to_owned(),
        path: node.text_of("path").unwrap_or_default().to_owned(),
        skip: node.flag("skip"),
        select: node.all("selectSet").map(read_select).collect(),
    }
}

/// Objects that the specification selects, each once, in the order they are met.
pub(crate) fn select_objects(host: &Host, spec: &FilterSpec) -> Result<Vec<MoRef>, SoapFault> {
    let mut chosen = Chosen { host, order: Vec::new(), taken: HashSet::new(), walked: HashSet::new() };
    for start in &spec.starts {
        if !inventory::exists(host, &start.object) {
            return Err(SoapFault::not_found(&start.object));
        }
        if !start.skip {
            chosen.take(&start.object);
        }
        let mut named = BTreeMap::new();
        index_names(&start.select, &mut named);
        for select in &start.select {
            chosen.walk(&start.object, select, &named, 0)?;
        }
    }
    Ok(chosen.order)
}

fn index_names<'a>(selects: &'a [Select], named: &mut BTreeMap<&'a str, &'a Select>) {
    for select in selects {
        if let Select::Traverse { name, select: below, .. } = select {
            if !name.is_empty() {
                named.insert(name, select);
            }
            index_names(below, named);
        }
    }
}

struct Chosen<'a> {
    host: &'a Host,
    order: Vec<MoRef>,
    taken: HashSet<MoRef>,
    walked: HashSet<(MoRef, usize)>,
}

impl Chosen<'_> {
    fn take(&mut self, object: &MoRef) {
        if self.order.len() < OBJECTS_MAX && self.taken.insert(object.clone()) {
            self.order.push(object.clone());
        }
    }

    fn walk(
        &mut self,
        object: &MoRef,
        select: &Select,
        named: &BTreeMap<&str, &Select>,
        depth: usize,
    ) -> Result<(), SoapFault> {
        if depth > 32 || !self.walked.insert((object.clone(), std::ptr::from_ref(select) as usize)) {
            return Ok(());
        }
        match select {
            Select::Named(name) => match named.get(name.as_str()) {
                Some(target) => self.walk(object, target, named, depth + 1),
                None => Err(SoapFault::invalid_argument("selectSet.name")),
            },
            Select::Traverse { kind, path, skip, select, .. } => {
                if !SCHEMA.is_a(&object.kind, kind) {
                    return Ok(());
                }
                let value = value_at(self.host, object, path)?;
                for next in references(value.as_ref()) {
                    if !*skip {
                        self.take(&next);
                    }
                    for below in select {
                        self.walk(&next, below, named, depth + 1)?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn references(value: Option<&Value>) -> Vec<MoRef> {
    match value {
        Some(Value::Ref(reference)) => vec![reference.clone()],
        Some(Value::List(_, items)) => items.iter().flat_map(|item| references(Some(item))).collect(),
        _ => Vec::new(),
    }
}

/// The value at a property path; `None` when unset.
pub(crate) fn value_at(host: &Host, object: &MoRef, path: &str) -> Result<Option<Value>, SoapFault> {
    Properties::of(host, object).at(path)
}

/// Properties of one object, each looked up once, so that the parts of one answer fit together.
struct Properties<'a> {
    host: &'a Host,
    object: &'a MoRef,
    known: BTreeMap<String, Option<Value>>,
}

impl<'a> Properties<'a> {
    fn of(host: &'a Host, object: &'a MoRef) -> Self {
        let mut known = BTreeMap::new();
        if object.kind == "HttpNfcLease" {
            // State and info change together.
            let all = super::lease::properties(host, &object.id);
            known.extend(all.into_iter().map(|(name, value)| (name.to_owned(), value)));
        }
        Self { host, object, known }
    }

    fn at(&mut self, path: &str) -> Result<Option<Value>, SoapFault> {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let (name, key) = first.split_once('[').map_or((first, None), |(name, key)| (name, Some(key)));
        if !self.known.contains_key(name) {
            let value = inventory::property(self.host, self.object, name)?;
            self.known.insert(name.to_owned(), value);
        }
        let Some(value) = self.known.get(name).and_then(Option::as_ref) else { return Ok(None) };
        let element = match key {
            Some(key) => value.element(key.trim_end_matches(']').trim_matches('"')),
            None => Some(value.clone()),
        };
        Ok(element.and_then(|value| if rest.is_empty() { Some(value) } else { value.follow(rest) }))
    }
}

pub(crate) fn paths_for(spec: &FilterSpec, kind: &str) -> Option<Vec<String>> {
    let mut paths = Vec::new();
    let mut selected = false;
    for set in &spec.sets {
        if set.kind != "ManagedObject" && !SCHEMA.is_a(kind, &set.kind) {
            continue;
        }
        selected = true;
        if set.all {
            paths.extend(SCHEMA.fields(kind).iter().map(|field| field.name.clone()));
        }
        paths.extend(set.paths.iter().cloned());
    }
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    selected.then_some(paths)
}

/// The wanted values of one object; `None` when it is gone by now.
pub(crate) fn values(host: &Host, object: &MoRef, paths: &[String]) -> Option<Vec<(String, Value)>> {
    let mut found = Vec::new();
    let mut properties = Properties::of(host, object);
    for path in paths {
        match properties.at(path) {
            Ok(Some(value)) => found.push((path.clone(), value)),
            Ok(None) => {}
            Err(_) => return None,
        }
    }
    Some(found)
}

/// Carries out specifications: one `ObjectContent` per object.
pub(crate) fn retrieve(host: &Host, specs: &[FilterSpec]) -> Result<Vec<Object>, SoapFault> {
    let mut contents = Vec::new();
    for spec in specs {
        for object in select_objects(host, spec)? {
            let Some(paths) = paths_for(spec, &object.kind) else { continue };
            let Some(found) = values(host, &object, &paths) else { continue };
            let set = found
                .into_iter()
                .map(|(path, value)| Object::new("DynamicProperty").with("name", path).with("val", value));
            contents.push(
                Object::new("ObjectContent")
                    .with("obj", &object)
                    .with("propSet", Value::objects("DynamicProperty", set)),
            );
        }
    }
    Ok(contents)
}

impl Views {
    /// For [`super::updates`].
    pub fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock()
    }

    /// One page of results; the rest waits under a token.
    pub fn page(&self, session: &str, mut contents: Vec<Object>, max: usize) -> Object {
        let rest = if contents.len() > max { contents.split_off(max) } else { Vec::new() };
        let mut result = Object::new("RetrieveResult");
        if !rest.is_empty() {
            let mut open = self.0.lock();
            open.next += 1;
            let token = open.next.to_string();
            open.pages.insert(token.clone(), (session.to_owned(), rest));
            while open.pages.len() > PAGES_MAX {
                open.pages.pop_first();
            }
            result = result.with("token", token);
        }
        result.with("objects", Value::objects("ObjectContent", contents))
    }

    /// The rest behind a token; a token is good once.
    pub fn rest(&self, session: &str, token: &str) -> Result<Vec<Object>, SoapFault> {
        let mut open = self.0.lock();
        match open.pages.get(token) {
            Some((owner, _)) if owner == session => {
                Ok(open.pages.remove(token).map(|(_, rest)| rest).unwrap_or_default())
            }
            _ => Err(SoapFault::invalid_argument("token")),
        }
    }

    pub fn exists(&self, object: &MoRef) -> bool {
        let open = self.0.lock();
        open.views.contains_key(&object.id) || open.filters.contains_key(&object.id)
    }

    /// Opens a container view.
    pub fn create_view(
        &self,
        session: &str,
        container: MoRef,
        kinds: Vec<String>,
        recursive: bool,
    ) -> Result<MoRef, SoapFault> {
        let mut open = self.0.lock();
        if open.views.len() >= VIEWS_MAX {
            return Err(SoapFault::system("too many views: destroy what is no longer used"));
        }
        open.next += 1;
        let id = format!("session[{}]view-{}", session.get(..8).unwrap_or(session), open.next);
        open.views.insert(id.clone(), View { session: session.to_owned(), container, kinds, recursive });
        Ok(MoRef::new("ContainerView", id))
    }

    /// Destroys a view or filter.
    pub fn destroy(&self, object: &MoRef) -> Result<(), SoapFault> {
        let mut open = self.0.lock();
        let found = open.views.remove(&object.id).is_some() || open.filters.remove(&object.id).is_some();
        if found { Ok(()) } else { Err(SoapFault::not_found(object)) }
    }

    /// Forgets what a session leaves behind.
    pub fn end_session(&self, session: &str) {
        let mut open = self.0.lock();
        open.views.retain(|_, view| view.session != session);
        open.filters.retain(|_, filter| filter.session != session);
        open.pages.retain(|_, (owner, _)| owner != session);
    }

    /// Views that are open.
    pub fn open_views(&self) -> usize {
        self.0.lock().views.len()
    }

    /// Opens a filter for `WaitForUpdatesEx`.
    pub fn create_filter(&self, session: &str, collector: MoRef, spec: FilterSpec) -> Result<MoRef, SoapFault> {
        let mut open = self.0.lock();
        if open.filters.len() >= VIEWS_MAX {
            return Err(SoapFault::system("too many filters"));
        }
        open.next += 1;
        let id = format!("session[{}]filter-{}", session.get(..8).unwrap_or(session), open.next);
        let filter = Filter {
            session: session.to_owned(),
            collector,
            spec: Arc::new(spec),
            sent: BTreeMap::new(),
            reported: HashSet::new(),
            version: 0,
        };
        open.filters.insert(id.clone(), filter);
        Ok(MoRef::new("PropertyFilter", id))
    }
}

/// `view` and its relatives of a container view.
pub(crate) fn view_property(host: &Host, object: &MoRef, name: &str) -> Option<Value> {
    let view = host.views.0.lock().views.get(&object.id).cloned()?;
    match name {
        "view" => {
            let mut found = Vec::new();
            contained(host, &view.container, view.recursive, 0, &mut found);
            let wanted =
                |object: &MoRef| view.kinds.is_empty() || view.kinds.iter().any(|kind| SCHEMA.is_a(&object.kind, kind));
            Some(Value::refs(found.into_iter().filter(wanted)))
        }
        "container" => Some(view.container.into()),
        "type" => Some(Value::texts(view.kinds)),
        "recursive" => Some(view.recursive.into()),
        _ => None,
    }
}

/// Properties through which a container holds others.
fn contained(host: &Host, container: &MoRef, recursive: bool, depth: usize, found: &mut Vec<MoRef>) {
    let properties: &[&str] = match container.kind.as_str() {
        "Folder" => &["childEntity"],
        "Datacenter" => &["vmFolder", "hostFolder", "datastoreFolder", "networkFolder"],
        "ComputeResource" => &["host", "resourcePool"],
        "ResourcePool" => &["resourcePool", "vm"],
        "HostSystem" => &["vm"],
        _ => &[],
    };
    for property in properties {
        let value = inventory::property(host, container, property).ok().flatten();
        for object in references(value.as_ref()) {
            if found.contains(&object) || found.len() >= OBJECTS_MAX {
                continue;
            }
            found.push(object.clone());
            if recursive && depth < 16 {
                contained(host, &object, recursive, depth + 1, found);
            }
        }
    }
}
