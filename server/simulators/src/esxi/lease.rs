//! Leases for export and import of whole disks (`HttpNfcLease`).
//!
//! Owns: their states, time-outs and locks. The bytes go through [`super::nfc`]. A lease holds its machine (no power on, no
//! destroy) and the files of its disks (no `/folder` reader, no merge) until it is done, aborted, failed or expired; a failed
//! import takes its half-made machine along.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use uuid::Uuid;

use super::disk::Disk;
use super::disk::image::DiskImage;
use super::fault::SoapFault;
use super::host::{Host, Shared};
use super::inject::Action;
use super::locks::FileGuard;
use super::machine::Machine;
use super::value::{MoRef, Object, Value};

/// Leases that are remembered.
const LEASES_KEPT_MAX: usize = 200;

#[derive(Debug, Clone, PartialEq)]
enum State {
    Initializing,
    Ready,
    Done,
    Error(SoapFault),
}

/// One disk of a lease.
#[derive(Clone)]
pub(crate) struct LeaseDisk {
    pub capacity: u64,
    /// What to read, for an export.
    pub image: Option<DiskImage>,
    /// Where to write, for an import.
    pub target: Option<Arc<File>>,
    /// Device key of the disk.
    key: String,
    file_bytes: u64,
}

struct Lease {
    import: bool,
    machine: Shared,
    entity: MoRef,
    state: State,
    /// What an initializing lease will become.
    outcome: Option<SoapFault>,
    created: Instant,
    progress: Instant,
    disks: Vec<LeaseDisk>,
    guard: Option<FileGuard>,
}

/// The leases of a host.
#[derive(Default)]
pub(crate) struct Leases(Mutex<BTreeMap<String, Lease>>);

fn device_key(machine: &Machine, owner: &str, disk: &Disk) -> String {
    let slot = machine.controller(disk.controller_key);
    let (kind, bus) = slot.map_or(("VirtualController", 0), |controller| (controller.kind.type_name(), controller.bus));
    format!("/{owner}/{kind}{bus}:{}", disk.unit)
}

/// Opens a lease to read the disks at a snapshot, or of a machine that is off.
pub(crate) fn export(
    host: &Host,
    shared: &Shared,
    snapshot: Option<i32>,
    injected: Option<&Action>,
) -> Result<MoRef, SoapFault> {
    let mut machine = shared.lock();
    machine.check_unleased()?;
    if snapshot.is_none() && machine.running() {
        return Err(SoapFault::power_state("poweredOn", Some("poweredOff")));
    }
    let mut disks = Vec::new();
    let mut paths: Vec<PathBuf> = Vec::new();
    for disk in &machine.disks {
        let link = match snapshot.and_then(|number| machine.snapshot(number)) {
            None => disk.top,
            Some(snapshot) => match snapshot.disks.iter().find(|frozen| frozen.key == disk.key && frozen.frozen) {
                Some(frozen) => frozen.link,
                None => continue,
            },
        };
        paths.extend(disk.chain(link).into_iter().map(|link| disk.data_path(link)));
        disks.push(LeaseDisk {
            capacity: disk.capacity,
            image: Some(disk.image(link)),
            target: None,
            key: device_key(&machine, &machine.id, disk),
            file_bytes: disk.chain(link).into_iter().map(|link| disk.file_bytes(link)).sum(),
        });
    }
    let (guard, mut outcome) = match host.locks.acquire(paths) {
        Ok(guard) => (Some(guard), None),
        Err(path) => (None, Some(SoapFault::locked(&machine.shown_path(&path)))),
    };
    if injected == Some(&Action::LeaseFails) {
        outcome = Some(SoapFault::system("the lease could not be initialized"));
    }
    machine.leased = true;
    let entity = machine.moref();
    drop(machine);
    Ok(host.leases.add(Lease::new(false, shared, entity, disks, guard, outcome)))
}

/// Opens a lease to fill the disks of a machine that an import has made.
pub(crate) fn import(host: &Host, shared: &Shared, injected: Option<&Action>) -> MoRef {
    let mut machine = shared.lock();
    let name = machine.name.clone();
    let disks: Vec<LeaseDisk> = machine
        .disks
        .iter()
        .map(|disk| LeaseDisk {
            capacity: disk.capacity,
            image: None,
            target: disk.base_file(),
            key: device_key(&machine, &name, disk),
            file_bytes: 0,
        })
        .collect();
    let guard = host.locks.acquire(machine.data_paths()).ok();
    let outcome =
        (injected == Some(&Action::LeaseFails)).then(|| SoapFault::system("the lease could not be initialized"));
    machine.leased = true;
    let entity = machine.moref();
    drop(machine);
    host.leases.add(Lease::new(true, shared, entity, disks, guard, outcome))
}

impl Lease {
    fn new(
        import: bool,
        machine: &Shared,
        entity: MoRef,
        disks: Vec<LeaseDisk>,
        guard: Option<FileGuard>,
        outcome: Option<SoapFault>,
    ) -> Self {
        let (machine, created) = (Arc::clone(machine), Instant::now());
        let state = State::Initializing;
        Self { import, machine, entity, state, outcome, created, progress: created, disks, guard }
    }

    fn open(&self) -> bool {
        matches!(self.state, State::Initializing | State::Ready)
    }

    /// Lets go of machine and files.
    fn release(&mut self) {
        self.guard = None;
        self.disks.iter_mut().for_each(|disk| {
            disk.image = None;
            disk.target = None;
        });
        self.machine.lock().leased = false;
    }

    fn fail(&mut self, host: &Host, fault: SoapFault) {
        if !self.open() {
            return;
        }
        self.state = State::Error(fault);
        self.release();
        if self.import {
            let machine = self.machine.lock();
            host.remove(&machine.id);
            Host::delete_files(&machine);
        }
    }

    fn tick(&mut self, host: &Host) {
        let limits = &host.config.limits;
        match self.state {
            State::Initializing if self.created.elapsed() >= limits.lease_initializing => {
                if let Some(fault) = self.outcome.take() {
                    self.fail(host, fault);
                } else {
                    self.state = State::Ready;
                    self.progress = Instant::now();
                }
            }
            State::Ready if self.progress.elapsed() >= limits.lease_timeout => {
                self.fail(host, SoapFault::new("Timedout", "The lease expired: no progress was reported."));
            }
            _ => {}
        }
    }
}

impl Leases {
    fn add(&self, lease: Lease) -> MoRef {
        let id = format!("ha-nfc-lease-{}", Uuid::new_v4());
        let mut all = self.0.lock();
        all.insert(id.clone(), lease);
        if all.len() > LEASES_KEPT_MAX {
            let ended = all.iter().find(|(_, lease)| !lease.open()).map(|(id, _)| id.clone());
            ended.and_then(|id| all.remove(&id));
        }
        MoRef::new("HttpNfcLease", id)
    }

    pub fn exists(&self, id: &str) -> bool {
        self.0.lock().contains_key(id)
    }

    /// Leases that hold something.
    pub fn open_count(&self) -> usize {
        self.0.lock().values().filter(|lease| lease.open()).count()
    }

    /// Moves states along. Called often.
    pub fn tick(&self, host: &Host) {
        self.0.lock().values_mut().for_each(|lease| lease.tick(host));
    }

    /// The disk behind a URL, when its lease is ready: also says whether it is an import.
    pub fn disk(&self, id: &str, index: usize) -> Option<(LeaseDisk, bool)> {
        let all = self.0.lock();
        let lease = all.get(id).filter(|lease| lease.state == State::Ready)?;
        Some((lease.disks.get(index)?.clone(), lease.import))
    }

    fn with_ready<T>(&self, host: &Host, lease: &MoRef, act: impl FnOnce(&mut Lease) -> T) -> Result<T, SoapFault> {
        let mut all = self.0.lock();
        let Some(found) = all.get_mut(&lease.id) else { return Err(SoapFault::not_found(lease)) };
        found.tick(host);
        match &found.state {
            State::Ready => Ok(act(found)),
            State::Error(fault) if fault.kind() == "Timedout" => Err(fault.clone()),
            _ => Err(SoapFault::invalid_state("The lease is not ready.")),
        }
    }

    /// `HttpNfcLeaseProgress`: keeps the lease alive.
    pub fn progress(&self, host: &Host, lease: &MoRef) -> Result<(), SoapFault> {
        self.with_ready(host, lease, |lease| lease.progress = Instant::now())
    }

    /// `HttpNfcLeaseComplete`.
    pub fn complete(&self, host: &Host, lease: &MoRef) -> Result<(), SoapFault> {
        self.with_ready(host, lease, |lease| {
            lease.state = State::Done;
            lease.release();
            let mut machine = lease.machine.lock();
            if lease.import {
                machine.importing = false;
                host.save(&machine)?;
            }
            Ok(())
        })?
    }

    /// `HttpNfcLeaseAbort`.
    pub fn abort(&self, host: &Host, lease: &MoRef) -> Result<(), SoapFault> {
        let mut all = self.0.lock();
        let Some(found) = all.get_mut(&lease.id) else { return Err(SoapFault::not_found(lease)) };
        if !found.open() {
            return Err(SoapFault::invalid_state("The lease has ended."));
        }
        found.fail(host, SoapFault::new("RequestCanceled", "The lease was aborted by its client."));
        Ok(())
    }
}

/// The properties of a lease, all of one instant; none when it is gone.
pub(crate) fn properties(host: &Host, id: &str) -> Vec<(&'static str, Option<Value>)> {
    let mut all = host.leases.0.lock();
    let Some(lease) = all.get_mut(id) else { return Vec::new() };
    lease.tick(host);
    let state = match lease.state {
        State::Initializing => "initializing",
        State::Ready => "ready",
        State::Done => "done",
        State::Error(_) => "error",
    };
    let error = match &lease.state {
        State::Error(fault) => Some(fault.localized().into()),
        _ => None,
    };
    vec![
        ("initializeProgress", Some(Value::Int(if lease.state == State::Initializing { 0 } else { 100 }))),
        ("transferProgress", Some(Value::Int(0))),
        ("mode", Some("pushOrGet".into())),
        ("state", Some(Value::enumeration("HttpNfcLeaseState", state))),
        ("error", error),
        ("info", (lease.state == State::Ready).then(|| info(host, id, lease).into())),
    ]
}

fn info(host: &Host, id: &str, lease: &Lease) -> Object {
    let urls = lease.disks.iter().enumerate().map(|(index, disk)| {
        Object::new("HttpNfcLeaseDeviceUrl")
            .with("key", &disk.key)
            .with("importKey", &disk.key)
            .with("url", format!("https://*/nfc/{id}/disk-{index}.vmdk"))
            .with("sslThumbprint", &host.identity.thumbprint)
            .with("disk", true)
            .with("targetId", format!("disk-{index}.vmdk"))
            .maybe("fileSize", (!lease.import).then_some(disk.file_bytes as i64))
    });
    let total: u64 = lease.disks.iter().map(|disk| disk.capacity / 1024).sum();
    Object::new("HttpNfcLeaseInfo")
        .with("lease", MoRef::new("HttpNfcLease", id))
        .with("entity", &lease.entity)
        .with("deviceUrl", Value::objects("HttpNfcLeaseDeviceUrl", urls))
        .with("totalDiskCapacityInKB", total as i64)
        .with("leaseTimeout", host.config.limits.lease_timeout.as_secs().max(1) as i32)
}
