//! Properties of managed objects, read in pages.

use super::fault::Fault;
use super::session::Vim;
use super::soap::{CallError, Request};
use super::xml::{MoRef, Node, Xml};
use crate::{ErrorKind, HostError};
use std::collections::BTreeMap;

/// Objects of one answer.
const PAGE_OBJECTS: u32 = 100;
/// Objects of one question; four times what vCenter supports.
const MAX_OBJECTS: usize = 200_000;
const MAX_PAGES: usize = 20_000;

/// Which properties of which type.
pub(super) type Wanted<'a> = (&'a str, &'a [&'a str]);

/// An object with the properties the host gave. Hosts leave out what is not set.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub reference: MoRef,
    properties: BTreeMap<String, Node>,
    missing: Vec<(String, Fault)>,
}

impl Object {
    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        self.properties.get(path)
    }

    pub(super) fn text(&self, path: &str) -> &str {
        self.get(path).map(|node| node.text.trim()).unwrap_or_default()
    }

    pub(super) fn is_true(&self, path: &str) -> bool {
        matches!(self.text(path), "true" | "1")
    }

    pub(super) fn reference_at(&self, path: &str) -> Option<MoRef> {
        self.get(path)?.reference()
    }

    /// Why the host did not give a property that was asked for, if it said so.
    pub(super) fn why_missing(&self, path: &str) -> Option<&Fault> {
        self.missing.iter().find(|(missing, _)| missing == path).map(|(_, fault)| fault)
    }

    fn from_node(node: &Node) -> Option<Self> {
        let reference = node.child("obj")?.reference()?;
        let properties = node.all("propSet").filter_map(|set| {
            Some((set.text_at(&["name"])?.to_owned(), set.child("val").cloned().unwrap_or_default()))
        });
        let missing = node
            .all("missingSet")
            .filter_map(|set| Some((set.text_at(&["path"])?.to_owned(), Fault::from_localized(set.child("fault")?))));
        Some(Self { reference, properties: properties.collect(), missing: missing.collect() })
    }
}

/// Properties of one object.
pub(super) async fn of_object(vim: &dyn Vim, object: &MoRef, paths: &[&str]) -> Result<Object, CallError> {
    let found = retrieve(vim, &[(&object.kind, paths)], |xml| {
        xml.group("objectSet", |set| {
            set.reference("obj", object).text("skip", false);
        });
    })
    .await?;
    found
        .into_iter()
        .find(|found| found.reference == *object)
        .ok_or_else(|| CallError::Fault(Fault { name: "ManagedObjectNotFound".into(), ..Fault::default() }))
}

/// Properties of all objects of the wanted types on the host, through a container view that is destroyed afterwards.
pub(super) async fn of_all(vim: &dyn Vim, wanted: &[Wanted<'_>]) -> Result<Vec<Object>, CallError> {
    let manager = vim.content().manager(vim.host(), "viewManager")?;
    let root = vim.content().manager(vim.host(), "rootFolder")?;
    let request = Request::new("CreateContainerView", &manager, |xml| {
        xml.reference("container", &root);
        for (kind, _) in wanted {
            xml.text("type", kind);
        }
        xml.text("recursive", true);
    });
    let view = returned_reference(vim, &vim.read(request).await?)?;
    let found = retrieve(vim, wanted, |xml| {
        xml.group("objectSet", |set| {
            set.reference("obj", &view).text("skip", true).typed("selectSet", "TraversalSpec", |select| {
                select.text("name", "view").text("type", "ContainerView").text("path", "view").text("skip", false);
            });
        });
    })
    .await;
    let _ = vim.call(Request::new("DestroyView", &view, |_| {})).await;
    found
}

/// The managed object a method returned.
pub(super) fn returned_reference(vim: &dyn Vim, answer: &Node) -> Result<MoRef, CallError> {
    answer
        .child("returnval")
        .and_then(Node::reference)
        .ok_or_else(|| bad_answer(vim, &answer.name, "it names no object"))
}

pub(super) fn bad_answer(vim: &dyn Vim, attempt: &str, reason: &str) -> CallError {
    CallError::Host(HostError {
        kind: ErrorKind::Protocol,
        code: "esxi.bad_answer",
        host: vim.host().to_owned(),
        attempt: attempt.to_owned(),
        reason: reason.to_owned(),
        hint: "The host answered in a way it should not; please report it with the host's version.".into(),
        source: None,
    })
}

async fn retrieve(
    vim: &dyn Vim,
    wanted: &[Wanted<'_>],
    objects: impl FnOnce(&mut Xml) + Send,
) -> Result<Vec<Object>, CallError> {
    let collector = vim.content().manager(vim.host(), "propertyCollector")?;
    let request = Request::new("RetrievePropertiesEx", &collector, |xml| {
        xml.group("specSet", |spec| {
            for (kind, paths) in wanted {
                spec.group("propSet", |set| {
                    set.text("type", kind);
                    for path in *paths {
                        set.text("pathSet", path);
                    }
                });
            }
            objects(spec);
        });
        xml.group("options", |options| {
            options.text("maxObjects", PAGE_OBJECTS);
        });
    });
    let mut found = Vec::new();
    let mut answer = vim.read(request).await?;
    for _ in 0..MAX_PAGES {
        // Nothing found is an answer without a value.
        let Some(page) = answer.child("returnval") else { return Ok(found) };
        found.extend(page.all("objects").filter_map(Object::from_node));
        let Some(token) = page.text_at(&["token"]).filter(|token| !token.is_empty()) else { return Ok(found) };
        if found.len() > MAX_OBJECTS {
            let cancel = Request::new("CancelRetrievePropertiesEx", &collector, |xml| {
                xml.text("token", token);
            });
            let _ = vim.call(cancel).await;
            break;
        }
        let next = Request::new("ContinueRetrievePropertiesEx", &collector, |xml| {
            xml.text("token", token);
        });
        answer = vim.call(next).await?;
    }
    Err(bad_answer(vim, "read the inventory", "it has more objects or pages than the limit"))
}
