//! A machine that is being restored: imported by lease, each disk sent as a streamOptimized stream.
//!
//! Must never: leave a machine behind after [`abandon`](RestoreTarget::abandon), or remove one that is not ours.

use super::inventory::datastores;
use super::lease::{KeepAlive, Lease, Upload, wait_ready};
use super::machine::{CONFIG_PATHS, power_state};
use super::property::{of_all, of_object, returned_reference};
use super::session::{Session, Vim};
use super::soap::{CallError, Request};
use super::spec::{MAX_NAME_CHARS, Place, TOKEN_KEY, import_vapp, token_mark};
use super::task;
use super::transport::client;
use super::upload::DiskUpload;
use super::xml::MoRef;
use crate::{ErrorKind, HostError, MachineRef, RestoreRequest, RestoreTarget, Result};
use async_trait::async_trait;
use bytes::Bytes;
use domain::machine::PowerState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const DESTROY_BUDGET: Duration = Duration::from_secs(600);

pub(super) struct ImportTarget {
    session: Arc<Session>,
    lease: Lease,
    keep_alive: KeepAlive,
    name: String,
    sizes: Vec<(i32, u64)>,
    current: Option<(i32, DiskUpload)>,
    finished: Vec<i32>,
    percent: Arc<AtomicU32>,
}

/// Defines the machine and waits for its lease.
pub(super) async fn create(session: &Arc<Session>, request: &RestoreRequest) -> Result<Box<dyn RestoreTarget>> {
    let attempt = format!("restore {} as {}", request.config.name, request.name);
    check(session, request, &attempt)?;
    let vim: &dyn Vim = session.as_ref();
    let fail = |error: CallError| error.during(session.host(), &attempt);
    let (pool, folder, networks) = place(vim).await.map_err(fail)?;
    let stores = datastores(vim).await.map_err(fail)?;
    let store = stores.iter().find(|store| store.name == request.datastore && store.accessible);
    if store.is_none() {
        return Err(refuse(
            session,
            &attempt,
            "esxi.datastore",
            format!("it has no usable datastore {}", request.datastore),
        ));
    }
    if let Some(network) = request.network.as_ref().filter(|network| !networks.contains(network)) {
        return Err(refuse(session, &attempt, "esxi.network", format!("it has no network {network}")));
    }
    let content = session.content();
    let place = Place { api_version: &content.api_version, version: content.version(), networks: &networks };
    let answer = vim.call(import_vapp(&pool, &folder, request, &place)).await;
    let lease = answer.and_then(|answer| returned_reference(vim, &answer)).map_err(fail)?;
    let ready = match wait_ready(vim, &session.address, &lease, &request.config).await {
        Ok(ready) => ready,
        Err(error) => {
            let _ = vim.call(abort(&lease)).await;
            let _ = remove_by_token(vim, &request.token).await;
            return Err(fail(error));
        }
    };
    let percent = Arc::new(AtomicU32::new(0));
    Ok(Box::new(ImportTarget {
        keep_alive: KeepAlive::start(session.clone(), lease, percent.clone()),
        session: session.clone(),
        lease: ready,
        name: request.name.clone(),
        sizes: request.config.disks.iter().map(|disk| (disk.key, disk.capacity_bytes)).collect(),
        current: None,
        finished: Vec::new(),
        percent,
    }))
}

/// Removes the machine that carries `token`. Nothing to remove is no error; a machine that runs is not touched.
pub(super) async fn remove_half_made(session: &Arc<Session>, token: &str) -> Result<()> {
    let attempt = format!("remove the half-made machine of restore {token}");
    remove_by_token(session.as_ref(), token).await.map_err(|error| error.during(session.host(), attempt))
}

async fn remove_by_token(vim: &dyn Vim, token: &str) -> std::result::Result<(), CallError> {
    if token.trim().is_empty() {
        return Ok(());
    }
    let paths = ["config.extraConfig", "config.annotation", "runtime.powerState"];
    for machine in of_all(vim, &[("VirtualMachine", &paths)]).await? {
        let options = machine.get("config.extraConfig").map(|list| list.children.as_slice()).unwrap_or_default();
        let is_marked = options
            .iter()
            .any(|option| option.text_at(&["key"]) == Some(TOKEN_KEY) && option.text_at(&["value"]) == Some(token));
        let is_noted = machine.get("config.annotation").is_some_and(|note| note.text.contains(&token_mark(token)));
        if !is_marked && !is_noted {
            continue;
        }
        if power_state(&machine) == PowerState::On {
            tracing::warn!(host = vim.host(), machine = machine.reference.value, "a half-made machine runs; it stays");
            continue;
        }
        destroy(vim, &machine.reference).await?;
    }
    Ok(())
}

async fn destroy(vim: &dyn Vim, machine: &MoRef) -> std::result::Result<(), CallError> {
    match task::run(vim, Request::new("Destroy_Task", machine, |_| {}), DESTROY_BUDGET).await {
        Err(error) if !error.is_fault("ManagedObjectNotFound") => Err(error),
        _ => Ok(()),
    }
}

fn abort(lease: &MoRef) -> Request {
    Request::new("HttpNfcLeaseAbort", lease, |_| {})
}

fn check(session: &Session, request: &RestoreRequest, attempt: &str) -> Result<()> {
    let name = request.name.trim();
    if name.is_empty() || request.name.chars().count() > MAX_NAME_CHARS {
        let reason = format!("a machine's name has 1 to {MAX_NAME_CHARS} characters");
        return Err(refuse(session, attempt, "esxi.name", reason));
    }
    if request.config.disks.is_empty() {
        return Err(refuse(session, attempt, "esxi.no_disks", "the restore point has no disks".into()));
    }
    Ok(())
}

fn refuse(session: &Session, attempt: &str, code: &'static str, reason: String) -> HostError {
    let hint = "Choose another target, or refresh the host's inventory.";
    HostError { hint: hint.into(), ..session.address.error(ErrorKind::Refused, code, attempt, reason) }
}

/// The pool and folder new machines go to, and the names of all networks.
async fn place(vim: &dyn Vim) -> std::result::Result<(MoRef, MoRef, Vec<String>), CallError> {
    let found =
        of_all(vim, &[("ComputeResource", &["resourcePool"]), ("Datacenter", &["vmFolder"]), ("Network", &["name"])])
            .await?;
    let first = |path: &str| found.iter().find_map(|object| object.reference_at(path));
    let missing = || super::property::bad_answer(vim, "find a place for the machine", "it names no pool or folder");
    let pool = first("resourcePool").ok_or_else(missing)?;
    let folder = first("vmFolder").ok_or_else(missing)?;
    let networks = found.iter().filter_map(|object| object.get("name")).map(|name| name.text.trim().to_owned());
    Ok((pool, folder, networks.collect()))
}

impl ImportTarget {
    fn error(&self, code: &'static str, reason: String) -> HostError {
        self.session.address.error(ErrorKind::Refused, code, format!("restore {}", self.name), reason)
    }

    fn upload_of(&self, disk_key: i32) -> Option<(&Upload, u64)> {
        let upload = self.lease.uploads.iter().find(|upload| upload.disk_key == disk_key)?;
        let size = self.sizes.iter().find(|(key, _)| *key == disk_key).map(|(_, size)| *size)?;
        Some((upload, size))
    }

    fn total_bytes(&self) -> u64 {
        self.sizes.iter().map(|(_, size)| size).sum::<u64>().max(1)
    }

    fn note_progress(&self, within: u64) {
        let done: u64 = self.sizes.iter().filter(|(key, _)| self.finished.contains(key)).map(|(_, size)| size).sum();
        let percent = done.saturating_add(within).saturating_mul(99) / self.total_bytes();
        self.percent.store(percent as u32, Ordering::Relaxed);
    }
}

#[async_trait]
impl RestoreTarget for ImportTarget {
    fn machine(&self) -> Option<MachineRef> {
        Some(MachineRef(self.lease.machine.value.clone()))
    }

    async fn begin_disk(&mut self, disk_key: i32) -> Result<()> {
        if self.current.is_some() || self.finished.contains(&disk_key) {
            return Err(
                self.error("esxi.disk_order", format!("disk {disk_key} begins before the last one ended, or twice"))
            );
        }
        let Some((upload, size)) = self.upload_of(disk_key) else {
            return Err(self.error("esxi.disk_missing", format!("the machine has no disk {disk_key}")));
        };
        let http = match upload.pin {
            Some(pin) => client(pin, &self.session.timeouts, &self.session.address)?,
            None => self.session.client.clone(),
        };
        let attempt = format!("send disk {disk_key} of {}", self.name);
        let started = DiskUpload::start(
            &http,
            self.session.address.clone(),
            self.session.timeouts,
            upload.url.clone(),
            size,
            attempt,
        )?;
        self.current = Some((disk_key, started));
        Ok(())
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        match &mut self.current {
            Some((_, upload)) => upload.write(offset, &data).await?,
            None => return Err(self.error("esxi.disk_order", "bytes came before a disk was begun".into())),
        }
        self.note_progress(end);
        Ok(())
    }

    async fn finish_disk(&mut self) -> Result<()> {
        let Some((disk_key, upload)) = self.current.take() else {
            return Err(self.error("esxi.disk_order", "a disk ended that was not begun".into()));
        };
        upload.finish().await?;
        self.finished.push(disk_key);
        self.note_progress(0);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<MachineRef> {
        if let Some((key, _)) = self.sizes.iter().find(|(key, _)| !self.finished.contains(key)) {
            let error = self.error("esxi.disk_missing", format!("disk {key} was not sent"));
            self.abandon().await?;
            return Err(error);
        }
        self.percent.store(100, Ordering::Relaxed);
        let attempt = format!("complete the import of {}", self.name);
        let session = self.session.clone();
        let complete = Request::new("HttpNfcLeaseComplete", &self.lease.reference, |_| {});
        match session.call(complete).await {
            Ok(_) => Ok(MachineRef(self.lease.machine.value.clone())),
            // The answer was lost: the lease is gone or done exactly when the host completed it.
            Err(error) if error.is_lost() => match of_object(session.as_ref(), &self.lease.reference, &["state"]).await
            {
                Ok(lease) if lease.text("state") != "done" => Err(error.during(session.host(), attempt)),
                Err(CallError::Host(_)) => Err(error.during(session.host(), attempt)),
                Ok(_) | Err(CallError::Fault(_)) => Ok(MachineRef(self.lease.machine.value.clone())),
            },
            Err(error) => {
                let error = error.during(session.host(), attempt);
                self.abandon().await?;
                Err(error)
            }
        }
    }

    async fn abandon(self: Box<Self>) -> Result<()> {
        let Self { session, lease, keep_alive, name, current, .. } = *self;
        drop(current);
        drop(keep_alive);
        let vim: &dyn Vim = session.as_ref();
        // A lease that has ended already is as good as aborted.
        let _ = vim.call(abort(&lease.reference)).await;
        match of_object(vim, &lease.machine, &CONFIG_PATHS[..1]).await {
            Err(error) if error.is_fault("ManagedObjectNotFound") => Ok(()),
            _ => destroy(vim, &lease.machine)
                .await
                .map_err(|error| error.during(session.host(), format!("remove the half-made machine {name}"))),
        }
    }
}
