//! Machines: power, configuration, making, finding and removing them.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::super::build;
use super::super::fault::SoapFault;
use super::super::host::{Host, Shared, now};
use super::super::inject::Action;
use super::super::lease;
use super::super::machine::Machine;
use super::super::soap::{Call, Reply};
use super::super::spec::{ConfigSpec, Operation};
use super::super::task::{self, Subject};
use super::super::value::MoRef;
use crate::esxi::collector::{reference, reference_in, value_at};
use crate::esxi::value::Value;

/// How long a guest takes to shut down.
const GUEST_SHUTDOWN: Duration = Duration::from_millis(200);
/// Name of a machine's saved state in its folder after it was unregistered.
const UNREGISTERED: &str = ".simulated-machine.json";

/// A task that works on a machine under its lock and saves it.
fn machine_task(
    call: &Call<'_>,
    shared: &Shared,
    method: &'static str,
    work: impl FnOnce(&Arc<Host>, &mut Machine) -> Result<Option<Value>, SoapFault> + Send + 'static,
) -> Result<Reply, SoapFault> {
    let injected = call.injected.clone();
    let task = task::start_on_machine(call.host, shared, method, &call.user(), injected, move |host, machine| {
        let mut machine = machine.lock();
        let result = work(host, &mut machine)?;
        host.save(&machine)?;
        Ok(result)
    })?;
    Ok(Reply::of(task))
}

pub(super) fn power(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let shared = call.host.find_machine(this)?;
    let on = call.node.name == "PowerOnVM_Task";
    let running = shared.lock().running();
    match (on, running) {
        (true, true) => return Err(SoapFault::power_state("poweredOn", Some("poweredOn"))),
        (false, false) => return Err(SoapFault::power_state("poweredOff", Some("poweredOff"))),
        _ => {}
    }
    if on {
        shared.lock().check_unleased()?;
        machine_task(call, &shared, "PowerOnVM_Task", |host, machine| {
            machine.power_on(&host.locks, now()).map(|()| None)
        })
    } else {
        machine_task(call, &shared, "PowerOffVM_Task", |_, machine| machine.power_off().map(|()| None))
    }
}

/// What only VMware Tools could do.
pub(super) fn no_tools() -> SoapFault {
    SoapFault::new("ToolsUnavailable", "VMware Tools is not running.")
}

pub(super) fn shutdown_guest(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let shared = call.host.find_machine(this)?;
    if !shared.lock().running() {
        return Err(SoapFault::power_state("poweredOff", Some("poweredOn")));
    }
    if !shared.lock().tools {
        return Err(no_tools());
    }
    if call.injected == Some(Action::TaskStalls) {
        return Ok(Reply::none()); // the guest does not listen
    }
    let host = Arc::clone(call.host);
    call.host.runtime.spawn(async move {
        tokio::time::sleep(GUEST_SHUTDOWN).await;
        let mut machine = shared.lock();
        if machine.power_off().is_ok() {
            let _ = host.save(&machine);
        }
    });
    Ok(Reply::none())
}

pub(super) fn reconfigure(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let shared = call.host.find_machine(this)?;
    let node = call.node.child("spec").ok_or_else(|| SoapFault::invalid_argument("spec"))?;
    let mut spec = ConfigSpec::read(node)?;
    match call.injected {
        Some(Action::RefuseChangeTracking) if spec.tracking == Some(true) => {
            let fault =
                SoapFault::new("GenericVmConfigFault", "Change tracking is not supported for this virtual machine.");
            return machine_task(call, &shared, "ReconfigVM_Task", move |_, _| Err(fault));
        }
        Some(Action::IgnoreChangeTracking) => spec.tracking = None,
        _ => {}
    }
    machine_task(call, &shared, "ReconfigVM_Task", move |host, machine| {
        apply(host, machine, spec)?;
        Ok(None)
    })
}

fn apply(host: &Host, machine: &mut Machine, spec: ConfigSpec) -> Result<(), SoapFault> {
    machine.check_unleased()?;
    let hardware_changes = spec.processors.is_some() || spec.memory_mib.is_some() || spec.firmware.is_some();
    if machine.running() && hardware_changes {
        return Err(SoapFault::power_state("poweredOn", Some("poweredOff")));
    }
    if !spec.controllers.is_empty() || !spec.nics.is_empty() {
        return Err(SoapFault::new("NotSupported", "The simulator changes only disks of an existing machine."));
    }
    for disk in &spec.disks {
        if disk.operation != Operation::Edit {
            return Err(SoapFault::device(disk.index, "operation"));
        }
        let snapshots = !machine.snapshots.is_empty();
        let Some(existing) = machine.disks.iter_mut().find(|existing| existing.key == disk.key) else {
            return Err(SoapFault::device(disk.index, "key"));
        };
        match disk.capacity.cmp(&existing.capacity) {
            std::cmp::Ordering::Less => return Err(SoapFault::device(disk.index, "capacityInKB")),
            std::cmp::Ordering::Greater if snapshots => {
                return Err(SoapFault::new("GenericVmConfigFault", "A disk with snapshots cannot grow."));
            }
            std::cmp::Ordering::Greater => existing.grow(disk.capacity)?,
            std::cmp::Ordering::Equal => {}
        }
    }
    if let Some(name) = spec.name {
        set_name(host, machine, &name)?;
    }
    machine.processors = spec.processors.unwrap_or(machine.processors);
    machine.memory_mib = spec.memory_mib.unwrap_or(machine.memory_mib);
    machine.firmware = spec.firmware.unwrap_or(machine.firmware);
    machine.guest_id = spec.guest_id.unwrap_or_else(|| machine.guest_id.clone());
    machine.annotation = spec.annotation.unwrap_or_else(|| machine.annotation.clone());
    for (key, value) in spec.extra {
        machine.extra.retain(|(known, _)| *known != key);
        machine.extra.push((key, value));
    }
    if let Some(enabled) = spec.tracking {
        machine.set_tracking(enabled)?;
    }
    build::write_files(machine)
}

fn set_name(_host: &Host, machine: &mut Machine, name: &str) -> Result<(), SoapFault> {
    if name.trim().is_empty() || name.len() > 80 {
        return Err(SoapFault::new("InvalidName", format!("The name '{name}' is invalid.")));
    }
    name.clone_into(&mut machine.name);
    Ok(())
}

pub(super) fn rename(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let shared = call.host.find_machine(this)?;
    let name = call.text("newName").to_owned();
    if let Some(other) = call.host.machine_named(&name) {
        return Err(SoapFault::duplicate_name(&name, &other.lock().moref()));
    }
    machine_task(call, &shared, "Rename_Task", move |host, machine| set_name(host, machine, &name).map(|()| None))
}

/// Refuses to take away a machine that runs or that a lease holds.
fn check_removable(machine: &Machine) -> Result<(), SoapFault> {
    if machine.running() {
        return Err(SoapFault::power_state("poweredOn", Some("poweredOff")));
    }
    machine.check_unleased()
}

pub(super) fn destroy(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    if this.kind != "VirtualMachine" {
        return Err(SoapFault::new("NotSupported", "Only machines can be destroyed."));
    }
    let shared = call.host.find_machine(this)?;
    check_removable(&shared.lock())?;
    let injected = call.injected.clone();
    let task = task::start_on_machine(call.host, &shared, "Destroy_Task", &call.user(), injected, |host, machine| {
        let paths = machine.lock().data_paths();
        if host.locks.wait_free(&paths, host.config.limits.lock_wait).is_err() {
            return Err(SoapFault::locked("a disk of the machine"));
        }
        let machine = machine.lock();
        check_removable(&machine)?;
        host.remove(&machine.id);
        Host::delete_files(&machine);
        Ok(None)
    })?;
    Ok(Reply::of(task))
}

pub(super) fn unregister(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let shared = call.host.find_machine(this)?;
    let machine = shared.lock();
    check_removable(&machine)?;
    std::fs::copy(call.host.state_path(&machine.id), machine.dir.join(UNREGISTERED))?;
    call.host.remove(&machine.id);
    Ok(Reply::none())
}

/// A task that makes something new in the machine folder.
fn folder_task(
    call: &Call<'_>,
    method: &'static str,
    work: impl FnOnce(&Arc<Host>) -> Result<Option<Value>, SoapFault> + Send + 'static,
) -> Reply {
    let entity = MoRef::new("Folder", "ha-folder-vm");
    let subject = Subject { method, entity, entity_name: "vm".to_owned(), user: call.user() };
    Reply::of(task::start(call.host, subject, call.injected.clone(), work, || {}))
}

pub(super) fn create(call: &Call<'_>) -> Result<Reply, SoapFault> {
    let node = call.node.child("config").ok_or_else(|| SoapFault::invalid_argument("config"))?;
    let spec = ConfigSpec::read(node)?;
    Ok(folder_task(call, "CreateVM_Task", move |host| {
        let machine = build::from_config_spec(host, spec, false)?;
        let reference = machine.lock().moref();
        Ok(Some(reference.into()))
    }))
}

pub(super) fn register(call: &Call<'_>) -> Result<Reply, SoapFault> {
    let path = call.text("path").to_owned();
    let (datastore, file) = Host::split_path(&path).ok_or_else(|| SoapFault::invalid_argument("path"))?;
    let vmx = call.host.datastore_file(datastore, file).filter(|vmx| vmx.exists());
    let not_found = || SoapFault::file("FileNotFound", &path, format!("File {path} was not found"));
    let state = vmx.and_then(|vmx| Some(vmx.parent()?.join(UNREGISTERED))).filter(|state| state.exists());
    let state = state.ok_or_else(not_found)?;
    let name = call.node.text_of("name").map(str::to_owned);
    Ok(folder_task(call, "RegisterVM_Task", move |host| {
        let mut machine = host.load_machine(&state)?;
        machine.id = host.new_machine_id()?;
        machine.name = name.unwrap_or(machine.name);
        let reference = machine.moref();
        host.insert(machine)?;
        std::fs::remove_file(&state)?;
        Ok(Some(reference.into()))
    }))
}

pub(super) fn import(call: &Call<'_>) -> Result<Reply, SoapFault> {
    let spec = call.node.child("spec").ok_or_else(|| SoapFault::invalid_argument("spec"))?;
    if spec.type_name() != Some("VirtualMachineImportSpec") {
        return Err(SoapFault::invalid_argument("spec"));
    }
    let config = spec.child("configSpec").ok_or_else(|| SoapFault::invalid_argument("spec.configSpec"))?;
    if let Some(folder) = call.node.child("folder").map(reference).filter(|folder| folder.id != "ha-folder-vm") {
        return Err(SoapFault::not_found(&folder));
    }
    let machine = build::from_config_spec(call.host, ConfigSpec::read(config)?, true)?;
    Ok(Reply::of(lease::import(call.host, &machine, call.injected.as_ref())))
}

pub(super) fn find(call: &Call<'_>) -> Result<Reply, SoapFault> {
    let machines = call.host.machines();
    let found = match call.node.name.as_str() {
        "FindByUuid" => {
            let Ok(uuid) = Uuid::parse_str(call.text("uuid")) else { return Ok(Reply::none()) };
            let instance = call.node.flag("instanceUuid");
            machines.iter().map(|machine| machine.lock()).find_map(|machine| {
                let own = if instance { machine.instance_uuid } else { machine.bios_uuid };
                (own == uuid).then(|| machine.moref())
            })
        }
        "FindByDatastorePath" => machines.iter().map(|machine| machine.lock()).find_map(|machine| {
            let own = machine.datastore_path(&format!("{}.vmx", machine.stem));
            (own == call.text("path")).then(|| machine.moref())
        }),
        "FindByInventoryPath" => {
            let path = call.text("inventoryPath").trim_matches('/');
            let name = path.strip_prefix("ha-datacenter/vm/").unwrap_or_default();
            call.host.machine_named(name).map(|machine| machine.lock().moref())
        }
        _ => {
            let entity = reference_in(call.node, "entity");
            let children = value_at(call.host, &entity, "childEntity")?;
            let Some(Value::List(_, children)) = children else { return Ok(Reply::none()) };
            children.into_iter().find_map(|child| {
                let Value::Ref(child) = child else { return None };
                let name = value_at(call.host, &child, "name").ok().flatten()?;
                (name == Value::Text(call.text("name").to_owned())).then_some(child)
            })
        }
    };
    Ok(found.map_or_else(Reply::none, Reply::of))
}
