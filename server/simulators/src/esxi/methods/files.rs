//! Files of datastores.

use std::fs;
use std::path::Path;

use super::super::fault::SoapFault;
use super::super::host::Host;
use super::super::inventory::datastore_ref;
use super::super::soap::{Call, Reply};
use super::super::task::{self, Subject};
use super::super::value::{MoRef, Object, Value};

/// Files in one listing.
const LISTED_MAX: usize = 5000;

fn start(
    call: &Call<'_>,
    this: &MoRef,
    method: &'static str,
    work: impl FnOnce(&std::sync::Arc<Host>) -> Result<Option<Value>, SoapFault> + Send + 'static,
) -> Reply {
    let subject = Subject { method, entity: this.clone(), entity_name: this.id.clone(), user: call.user() };
    Reply::of(task::start(call.host, subject, call.injected.clone(), work, || {}))
}

fn not_found(path: &str) -> SoapFault {
    SoapFault::file("FileNotFound", path, format!("File {path} was not found"))
}

pub(super) fn search(call: &Call<'_>, this: &MoRef) -> Reply {
    let path = call.text("datastorePath").to_owned();
    let patterns: Vec<String> = call
        .node
        .child("searchSpec")
        .map(|spec| spec.all("matchPattern").map(|pattern| pattern.text.trim().to_owned()).collect())
        .unwrap_or_default();
    start(call, this, "SearchDatastore_Task", move |host| {
        let (datastore, rest) = Host::split_path(&path).ok_or_else(|| SoapFault::invalid_argument("datastorePath"))?;
        let folder =
            host.datastore_file(datastore, rest).filter(|folder| folder.is_dir()).ok_or_else(|| not_found(&path))?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder)?.flatten().take(LISTED_MAX) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || !(patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, &name)))
            {
                continue;
            }
            let size = entry.metadata().map_or(0, |metadata| metadata.len() as i64);
            files.push(Object::new(kind_of(&entry.path())).with("path", name).with("fileSize", size));
        }
        let result = Object::new("HostDatastoreBrowserSearchResults")
            .with("datastore", datastore_ref(host, datastore))
            .with("folderPath", path)
            .with("file", Value::objects("FileInfo", files));
        Ok(Some(result.into()))
    })
}

fn kind_of(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        _ if path.is_dir() => "FolderFileInfo",
        Some("vmdk") => "VmDiskFileInfo",
        Some("vmx") => "VmConfigFileInfo",
        _ => "FileInfo",
    }
}

/// Matches a pattern of literal text and `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name
            .strip_prefix(head)
            .is_some_and(|tail| (0..=tail.len()).any(|at| tail.get(at..).is_some_and(|tail| matches(rest, tail)))),
    }
}

pub(super) fn delete(call: &Call<'_>, this: &MoRef) -> Reply {
    let path = call.text("name").to_owned();
    start(call, this, "DeleteDatastoreFile_Task", move |host| {
        let (datastore, rest) = Host::split_path(&path).ok_or_else(|| SoapFault::invalid_argument("name"))?;
        let file = host.datastore_file(datastore, rest).filter(|file| file.exists()).ok_or_else(|| not_found(&path))?;
        for machine in host.machines() {
            let machine = machine.lock();
            let uses = machine.dir == file || machine.disks.iter().any(|disk| disk.all_paths().contains(&file));
            if uses || host.locks.is_held(&file) {
                return Err(SoapFault::locked(&path));
            }
        }
        if file.is_dir() {
            fs::remove_dir_all(&file)?;
        } else {
            fs::remove_file(&file)?;
        }
        Ok(None)
    })
}

pub(super) fn make_directory(call: &Call<'_>) -> Result<Reply, SoapFault> {
    let path = call.text("name");
    let (datastore, rest) = Host::split_path(path).ok_or_else(|| SoapFault::invalid_argument("name"))?;
    let folder = call.host.datastore_file(datastore, rest).ok_or_else(|| SoapFault::invalid_argument("name"))?;
    if folder.exists() {
        return Err(SoapFault::file("FileAlreadyExists", path, format!("{path} already exists")));
    }
    let made =
        if call.node.flag("createParentDirectories") { fs::create_dir_all(&folder) } else { fs::create_dir(&folder) };
    made.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => not_found(path),
        _ => error.into(),
    })?;
    Ok(Reply::none())
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        assert!(matches("*.vmdk", "a.vmdk") && matches("a*b*c", "aXbYc") && matches("*", "") && matches("x", "x"));
        assert!(!matches("*.vmdk", "a.vmx") && !matches("x", "xy"));
    }
}
