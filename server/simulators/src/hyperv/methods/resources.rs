//! Parts are added to machines, changed and taken away.

use std::sync::Arc;

use uuid::Uuid;

use super::{Call, Output, RETURN_INVALID_PARAMETER, RETURN_INVALID_STATE, Refusal, settings_of};
use crate::hyperv::crimes::Rule;
use crate::hyperv::host::Host;
use crate::hyperv::inventory::part_path;
use crate::hyperv::jobs::{FAILED, INVALID_PARAMETER, JobError};
use crate::hyperv::machine::{Backing, Machine, Part, Settings, guid, settings_id};
use crate::hyperv::model::embedded::{Embedded, blame};
use crate::hyperv::model::path::ObjectPath;
use crate::hyperv::model::value::Value;
use crate::hyperv::parts::{self, HARD_DISK, IDE, PHYSICAL_DRIVE, Role, SCSI};

/// Parts of a machine.
const PARTS_MAX: usize = 512;
const IDE_CONTROLLERS_MAX: usize = 2;
const SCSI_CONTROLLERS_MAX: usize = 4;
const ADAPTERS_MAX: usize = 12;
/// Properties that the host decides.
const OWN: [&str; 6] = ["InstanceID", "Parent", "HostResource", "ResourceType", "ResourceSubType", "AddressOnParent"];

fn invalid(what: impl Into<String>) -> JobError {
    JobError::new(INVALID_PARAMETER, what)
}

pub(super) fn add(call: &Call<'_>) -> Result<Output, Refusal> {
    let (machine, id) = call.settings("AffectedConfiguration")?;
    if id != machine.id || call.instances("ResourceSettings").is_empty() {
        return Err(Refusal::Code(RETURN_INVALID_PARAMETER));
    }
    if call.host.jobs.busy(machine.id) {
        return Err(Refusal::Code(RETURN_INVALID_STATE));
    }
    let mut made = Vec::new();
    let mut settings = machine.settings.clone();
    for wanted in call.instances("ResourceSettings") {
        match prepare(call.host, &machine, &settings, wanted) {
            Ok(part) => {
                settings.parts.push(part.clone());
                made.push(part);
            }
            Err(error) => return call.start_failing(error),
        }
    }
    let paths: Vec<ObjectPath> = made.iter().map(|part| part_path(machine.id, &part.class, &part.local)).collect();
    let resulting = paths.clone();
    let output = call.start(Some(machine.id), move |host| {
        attach(host, machine.id, made)?;
        Ok(paths)
    })?;
    Ok(output.with("ResultingResourceSettings", resulting))
}

/// Takes the files of new parts as disks and adds the parts.
pub(super) fn attach(host: &Arc<Host>, machine: Uuid, mut made: Vec<Part>) -> Result<(), JobError> {
    for index in 0..made.len() {
        let part = &mut made[index];
        let wants_disk = part.sub_type() == HARD_DISK;
        let Some(backing) = part.backing.as_mut().filter(|_| wants_disk) else { continue };
        match host.store.attach(&backing.path) {
            Ok(disk) => backing.disk = Some(disk),
            Err(error) => {
                for disk in made.iter().filter_map(|part| part.backing.as_ref()?.disk) {
                    host.store.detach(disk)?;
                }
                return Err(error.into());
            }
        }
    }
    host.change_machine(machine, |machine| machine.settings.parts.append(&mut made))?;
    host.apply_power(machine)?;
    Ok(())
}

/// The part that a client asks for, checked against what is there.
pub(super) fn prepare(
    host: &Host,
    machine: &Machine,
    settings: &Settings,
    wanted: &Embedded,
) -> Result<Part, JobError> {
    let sub_type = wanted.text("ResourceSubType").unwrap_or_default();
    let kind = parts::find(wanted.class.name, sub_type)
        .filter(|kind| wanted.number("ResourceType").is_none_or(|number| number == kind.resource_type))
        .ok_or_else(|| invalid(format!("There is no resource '{sub_type}' of the class {}.", wanted.class.name)))?;
    if settings.parts.len() >= PARTS_MAX {
        return Err(invalid("The virtual machine has too many resources."));
    }
    let count = |sub_type: &str| settings.parts.iter().filter(|part| part.sub_type() == sub_type).count();
    let mut part = match kind.role {
        Role::Unit => return Err(invalid(format!("The virtual machine has its {} already.", kind.name))),
        Role::Controller(_) => {
            let most = if sub_type == IDE { IDE_CONTROLLERS_MAX } else { SCSI_CONTROLLERS_MAX };
            if count(sub_type) >= most || (sub_type == IDE && machine.generation != 1) {
                return Err(invalid(format!("The virtual machine takes no further {}.", kind.name)));
            }
            parts::controller(if sub_type == IDE { IDE } else { SCSI }, count(sub_type))
        }
        Role::Drive => drive(host, machine, settings, wanted, kind.sub_type)?,
        Role::Image => image(host, machine, settings, wanted, kind.sub_type)?,
        Role::Adapter => {
            if count(sub_type) >= ADAPTERS_MAX {
                return Err(invalid("The virtual machine takes no further network adapter."));
            }
            adapter(host, wanted, kind)?
        }
        Role::Connection => connection(host, machine, settings, wanted)?,
    };
    merge(&mut part, wanted);
    Ok(part)
}

/// What the client says wins over what the kind begins with.
fn merge(part: &mut Part, wanted: &Embedded) {
    for (name, value) in wanted.values.iter().filter(|(name, _)| !OWN.contains(name)) {
        part.values.insert((*name).to_owned(), value.clone());
    }
}

/// Reads a WMI path in a property of an embedded instance.
fn path(host: &Host, text: &str) -> Result<ObjectPath, JobError> {
    ObjectPath::parse(text).map_err(|bad| {
        if let Some(rule) = blame(&bad) {
            host.crimes.add(rule, text);
        }
        invalid(format!("Failed to add device: the path '{text}' is invalid."))
    })
}

/// The part that `Parent` names.
fn parent<'a>(host: &Host, machine: &Machine, settings: &'a Settings, wanted: &Embedded) -> Result<&'a Part, JobError> {
    let text = wanted.text("Parent").ok_or_else(|| invalid("The resource has no Parent."))?;
    if text.starts_with("Microsoft:") {
        host.crimes.add(Rule::SingleBackslash, text);
    }
    let path = path(host, text)?;
    let id = path.key("InstanceID").unwrap_or_default();
    let prefix = settings_id(machine.id) + "\\";
    let local = id.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(&prefix)).map(|_| &id[prefix.len()..]);
    let found = local.and_then(|local| settings.part(local)).filter(|part| part.class == path.class);
    found.ok_or_else(|| invalid(format!("Parent names nothing of this virtual machine: {text}")))
}

fn drive(
    host: &Host,
    machine: &Machine,
    settings: &Settings,
    wanted: &Embedded,
    sub_type: &str,
) -> Result<Part, JobError> {
    if sub_type == PHYSICAL_DRIVE {
        return Err(invalid("This simulated host passes no disks through."));
    }
    let controller = parent(host, machine, settings, wanted)?;
    let Role::Controller(places) = parts::role(controller) else { return Err(invalid("Parent is no controller.")) };
    let place = wanted.text("AddressOnParent").and_then(|place| place.trim().parse::<u64>().ok());
    let place = place.filter(|place| *place < places).ok_or_else(|| invalid("AddressOnParent is no place there."))?;
    let part = parts::drive(sub_type, controller, place);
    // A place has one drive, whatever its kind.
    if settings.part(&part.local).is_some() {
        return Err(invalid(format!("The place {place} of the controller is taken.")));
    }
    Ok(part)
}

fn image(
    host: &Host,
    machine: &Machine,
    settings: &Settings,
    wanted: &Embedded,
    sub_type: &str,
) -> Result<Part, JobError> {
    let drive = parent(host, machine, settings, wanted)?;
    let mut part = parts::image(sub_type, drive);
    if parts::role(drive) != Role::Drive || settings.part(&part.local).is_some() {
        return Err(invalid("Parent is no empty drive."));
    }
    let path = wanted.first("HostResource").ok_or_else(|| invalid("The resource has no HostResource."))?.to_owned();
    let there = host.store.drive().file(&path).is_ok_and(|file| file.exists());
    if sub_type == HARD_DISK && !there {
        let description = format!("The system cannot find the file specified: '{path}'. (0x80070002)");
        return Err(JobError::new(FAILED, description));
    }
    part.backing = Some(Backing { disk: None, path });
    Ok(part)
}

fn adapter(host: &Host, wanted: &Embedded, kind: &parts::Kind) -> Result<Part, JobError> {
    let fixed = wanted.get("StaticMacAddress") == Some(&Value::Flag(true));
    let address = wanted.text("Address").unwrap_or_default();
    if fixed && (address.len() != 12 || hex::decode(address).is_err()) {
        return Err(invalid(format!("'{address}' is no MAC address.")));
    }
    let mac = host.change(super::super::host::State::mac)?;
    let mut part = parts::adapter(&mac);
    if kind.class == parts::LEGACY_NIC {
        part = kind.part(guid(Uuid::new_v4()), None);
        part.values.insert("Address".to_owned(), mac.into());
    }
    Ok(part)
}

fn connection(host: &Host, machine: &Machine, settings: &Settings, wanted: &Embedded) -> Result<Part, JobError> {
    let adapter = parent(host, machine, settings, wanted)?;
    if parts::role(adapter) != Role::Adapter {
        return Err(invalid("Parent is no network adapter."));
    }
    let switch = match wanted.first("HostResource").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let path = path(host, text)?;
            let id = path.key("Name").and_then(|name| Uuid::parse_str(name).ok());
            let known = host.read(|state| state.switches.iter().any(|switch| Some(switch.id) == id));
            if path.class != "Msvm_VirtualEthernetSwitch" || !known {
                return Err(invalid(format!("There is no switch {text}.")));
            }
            id
        }
    };
    let part = parts::connection(adapter, switch);
    if settings.part(&part.local).is_some() {
        return Err(invalid("The network adapter has its connection already."));
    }
    Ok(part)
}

/// A part by its `InstanceID`: its machine and its local id.
fn find(host: &Host, id: &str) -> Option<(Machine, String)> {
    let at = id.find('\\')?;
    let (machine, own) = settings_of(host, &id[..at])?;
    let part = machine.settings.part(&id[at + 1..]).filter(|_| own == machine.id)?;
    let local = part.local.clone();
    Some((machine, local))
}

pub(super) fn modify(call: &Call<'_>) -> Result<Output, Refusal> {
    let mut changes = Vec::new();
    for wanted in call.instances("ResourceSettings") {
        let found = wanted.text("InstanceID").and_then(|id| find(call.host, id));
        changes.push((found.ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?, wanted.clone()));
    }
    let Some(machine) = changes.first().map(|((machine, _), _)| machine.id) else {
        return Err(Refusal::Code(RETURN_INVALID_PARAMETER));
    };
    if changes.iter().any(|((other, _), _)| other.id != machine) {
        return Err(Refusal::Code(RETURN_INVALID_PARAMETER));
    }
    call.start(Some(machine), move |host| {
        host.change_machine(machine, |machine| {
            for ((_, local), wanted) in &changes {
                for part in machine.settings.parts.iter_mut().filter(|part| part.local == *local) {
                    merge(part, wanted);
                }
            }
        })?;
        Ok(Vec::new())
    })
}

pub(super) fn remove(call: &Call<'_>) -> Result<Output, Refusal> {
    let mut locals = Vec::new();
    let mut owner = None;
    for path in call.references("ResourceSettings") {
        let found = find(call.host, path.key("InstanceID").unwrap_or_default());
        let (machine, local) = found.ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?;
        // What hangs on a part goes first.
        let carries = |part: &Part| part.parent.as_deref() == Some(local.as_str()) && !locals.contains(&part.local);
        if machine.settings.parts.iter().any(carries) || owner.is_some_and(|known| known != machine.id) {
            return Err(Refusal::Code(RETURN_INVALID_PARAMETER));
        }
        owner = Some(machine.id);
        locals.push(local);
    }
    let machine = owner.ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?;
    call.start(Some(machine), move |host| {
        let mut gone = Vec::new();
        host.change_machine(machine, |machine| {
            let all = machine.settings.parts.drain(..);
            (gone, machine.settings.parts) = all.partition(|part| locals.contains(&part.local));
        })?;
        for disk in gone.iter().filter_map(|part| part.backing.as_ref()?.disk) {
            host.store.detach(disk)?;
        }
        Ok(Vec::new())
    })
}
