//! The host's state as instances: one generator per family of classes, all of them data for the queries.
//!
//! A generator is only asked when the wanted class is of its family, so a `Get` of a job makes jobs and nothing else.

use uuid::Uuid;

use super::host::{Host, State, Switch};
use super::machine::{Machine, Part, ReferencePoint, STATE_OFF, STATE_ON, Settings, Snapshot, guid, settings_id};
use super::model::embedded;
use super::model::instance::Instance;
use super::model::path::ObjectPath;
use super::model::schema::{Class, schema};
use super::parts;

const SYSTEM: &str = "Msvm_ComputerSystem";
const SETTINGS: &str = "Msvm_VirtualSystemSettingData";
pub(crate) const REFERENCE_POINT: &str = "Msvm_VirtualSystemReferencePoint";
const SWITCH: &str = "Msvm_VirtualEthernetSwitch";
const SHUTDOWN: &str = "Msvm_ShutdownComponent";
const FREEZER: &str = "Msvm_VssComponent";
const EXCHANGE: &str = "Msvm_KvpExchangeComponent";
/// `Source` of what the guest says of itself.
const GUEST_INTRINSIC: u64 = 2;
/// The services, with their `Name`.
const SERVICES: [(&str, &str); 5] = [
    ("Msvm_VirtualSystemManagementService", "vmms"),
    ("Msvm_VirtualSystemSnapshotService", "vssvc"),
    ("Msvm_VirtualSystemReferencePointService", "vsrps"),
    ("Msvm_ImageManagementService", "ims"),
    ("Msvm_VirtualEthernetSwitchManagementService", "nvspwmi"),
];

pub(crate) fn machine_path(id: Uuid) -> ObjectPath {
    ObjectPath::new(SYSTEM, &[("CreationClassName", SYSTEM), ("Name", &guid(id))])
}

pub(crate) fn settings_path(id: Uuid) -> ObjectPath {
    ObjectPath::instance(SETTINGS, &settings_id(id))
}

pub(crate) fn part_path(settings: Uuid, class: &str, local: &str) -> ObjectPath {
    ObjectPath::instance(class, &format!("{}\\{local}", settings_id(settings)))
}

pub(crate) fn point_path(id: Uuid) -> ObjectPath {
    ObjectPath::instance(REFERENCE_POINT, &guid(id))
}

fn switch_path(id: Uuid) -> ObjectPath {
    ObjectPath::new(SWITCH, &[("CreationClassName", SWITCH), ("Name", &guid(id))])
}

fn wants(wanted: &Class, name: &str) -> bool {
    schema().class(name).is_some_and(|class| class.is(wanted.name))
}

/// All instances of a class and of what inherits from it.
pub(crate) fn instances(host: &Host, wanted: &Class) -> Vec<Instance> {
    let mut out = Vec::new();
    let any = |names: &[&str]| names.iter().any(|name| wants(wanted, name));
    if any(&["Msvm_ConcreteJob", "Msvm_StorageJob"]) {
        out.extend(host.jobs.instances());
    }
    if wanted.is("Msvm_AffectedJobElement") {
        out.extend(host.jobs.effects());
    }
    out.extend(super::inventory_host::instances(host, wanted));
    host.read(|state| {
        if any(&[SYSTEM]) {
            out.push(super::inventory_host::host_row(host));
            out.extend(state.machines.iter().map(|machine| system(host, machine)));
        }
        if any(&[SETTINGS]) {
            out.extend(state.machines.iter().flat_map(|machine| all_settings(host, machine)));
        }
        if wanted.is("CIM_ResourceAllocationSettingData") || any(&[parts::RASD]) {
            out.extend(state.machines.iter().flat_map(|machine| all_parts(host, state, machine)));
        }
        if any(&[REFERENCE_POINT]) {
            let points = |machine: &Machine| machine.points.iter().map(|p| point(machine.id, p)).collect::<Vec<_>>();
            out.extend(state.machines.iter().flat_map(points));
        }
        if any(&[SHUTDOWN]) {
            out.extend(state.machines.iter().filter(|machine| machine.on).map(shutdown));
        }
        if any(&[FREEZER]) {
            out.extend(state.machines.iter().filter(|machine| machine.on).map(freezer));
        }
        if any(&[EXCHANGE]) {
            out.extend(state.machines.iter().filter(|machine| machine.on).map(exchange));
        }
        if any(&[SWITCH, "Msvm_VirtualEthernetSwitchSettingData"]) {
            out.extend(state.switches.iter().flat_map(switch));
        }
        if wanted.is_association() {
            out.extend(associations(host, state));
        }
    });
    out.retain(|instance| instance.class.is(wanted.name));
    out
}

fn system(host: &Host, machine: &Machine) -> Instance {
    let id = guid(machine.id);
    let mut status = vec![2u64];
    if host.jobs.busy(machine.id) {
        status.push(11);
    }
    Instance::of(SYSTEM)
        .with("Caption", "Virtual Machine")
        .with("CreationClassName", SYSTEM)
        .with("Description", "Microsoft Virtual Machine")
        .with("ElementName", machine.name())
        .with("EnabledDefault", 3u64)
        .with("EnabledState", if machine.on { STATE_ON } else { STATE_OFF })
        .with("EnhancedSessionModeState", 3u64)
        .with("HealthState", 5u64)
        .with("InstallDate", machine.created)
        .with("Name", id)
        .with("NumberOfNumaNodes", 1u64)
        .with("OnTimeInMilliseconds", if machine.on { 60_000u64 } else { 0 })
        .with("OperationalStatus", status)
        .with("RequestedState", 12u64)
        .with("ResetCapability", 1u64)
        .with("Status", "OK")
        .with("StatusDescriptions", vec!["Operating normally"])
        .with("TimeOfLastConfigurationChange", machine.changed)
        .with("TimeOfLastStateChange", machine.changed)
}

/// The settings of a machine and of its checkpoints.
fn all_settings(host: &Host, machine: &Machine) -> Vec<Instance> {
    let mut own = settings(machine, machine.id, &machine.settings)
        .with("VirtualSystemType", "Microsoft:Hyper-V:System:Realized")
        .with("CreationTime", machine.created);
    if let Some(last) = machine.snapshots.iter().rfind(|snapshot| !snapshot.recovery) {
        own.set("Parent", settings_path(last.id).full(&host.config.name).into());
    }
    let mut all = vec![own];
    all.extend(machine.snapshots.iter().map(|snapshot| snapshot_settings(host, machine, snapshot)));
    all
}

fn snapshot_settings(host: &Host, machine: &Machine, snapshot: &Snapshot) -> Instance {
    let kind = if snapshot.recovery { "Recovery" } else { "Realized" };
    let mut instance = settings(machine, snapshot.id, &snapshot.settings)
        .with("VirtualSystemType", format!("Microsoft:Hyper-V:Snapshot:{kind}"))
        .with("CreationTime", snapshot.created);
    if let Some(parent) = snapshot.parent {
        instance.set("Parent", settings_path(parent).full(&host.config.name).into());
    }
    instance
}

fn settings(machine: &Machine, id: Uuid, settings: &Settings) -> Instance {
    let mut instance = Instance::of(SETTINGS);
    for (name, value) in &settings.values {
        instance.set(name, value.clone());
    }
    instance
        .with("InstanceID", settings_id(id))
        .with("ConfigurationID", guid(id))
        .with("VirtualSystemIdentifier", guid(machine.id))
        .with("VirtualSystemSubType", format!("Microsoft:Hyper-V:SubType:{}", machine.generation))
}

/// All settings there are: their id and what they are made of.
fn every_settings(machine: &Machine) -> Vec<(Uuid, &Settings)> {
    let snapshots = machine.snapshots.iter().map(|snapshot| (snapshot.id, &snapshot.settings));
    std::iter::once((machine.id, &machine.settings)).chain(snapshots).collect()
}

fn all_parts(host: &Host, state: &State, machine: &Machine) -> Vec<Instance> {
    let every = every_settings(machine);
    let parts = every.iter().flat_map(|(id, settings)| settings.parts.iter().map(|part| (*id, *settings, part)));
    parts.map(|(id, settings, own)| part(host, state, id, settings, own)).collect()
}

fn part(host: &Host, state: &State, id: Uuid, settings: &Settings, part: &Part) -> Instance {
    let mut instance = Instance::of(&part.class).with("InstanceID", format!("{}\\{}", settings_id(id), part.local));
    for (name, value) in &part.values {
        instance.set(name, value.clone());
    }
    if let Some(parent) = part.parent.as_deref().and_then(|local| settings.part(local)) {
        let path = part_path(id, &parent.class, &parent.local);
        instance.set("Parent", path.full(&host.config.name).into());
    }
    if let Some(backing) = &part.backing {
        instance.set("HostResource", vec![backing.path.as_str()].into());
    }
    if let Some(switch) = part.switch.and_then(|id| state.switches.iter().find(|switch| switch.id == id)) {
        instance.set("HostResource", vec![switch_path(switch.id).full(&host.config.name)].into());
        instance.set("LastKnownSwitchName", switch.name.as_str().into());
    }
    instance
}

fn point(machine: Uuid, point: &ReferencePoint) -> Instance {
    // The other way round than the disks are: nobody promised an order.
    let disks = point.tracking.iter().rev();
    let identifiers: Vec<String> =
        disks.clone().map(|(local, _)| format!("{}\\{local}", settings_id(machine))).collect();
    Instance::of(REFERENCE_POINT)
        .with("InstanceID", guid(point.id))
        .with("ElementName", "Reference Point")
        .with("ConsistencyLevel", point.consistency)
        .with("HasAssociatedData", false)
        .with("ReferencePointType", 2u64)
        .with("VirtualSystemIdentifier", guid(machine))
        .with("VirtualDiskIdentifiers", identifiers)
        .with("ResilientChangeTrackingIdentifiers", disks.map(|(_, id)| id.as_str()).collect::<Vec<_>>())
}

fn shutdown(machine: &Machine) -> Instance {
    let id = guid(machine.id);
    Instance::of(SHUTDOWN)
        .with("Caption", "Shutdown")
        .with("ElementName", "Shutdown")
        .with("CreationClassName", SHUTDOWN)
        .with("DeviceID", format!("Microsoft:{id}\\9F8233AC-BE49-4C79-8EE3-E7E1985B2077"))
        .with("SystemCreationClassName", SYSTEM)
        .with("SystemName", id)
        .with("EnabledState", 2u64)
        .with("OperationalStatus", vec![2u64])
}

/// What freezes the guest for a backup: in contact with it (2), or not (12).
fn freezer(machine: &Machine) -> Instance {
    let id = guid(machine.id);
    Instance::of(FREEZER)
        .with("Caption", "Backup (volume shadow copy)")
        .with("ElementName", "Backup (volume shadow copy)")
        .with("CreationClassName", FREEZER)
        .with("DeviceID", format!("Microsoft:{id}\\5CED1297-4598-4915-A5FC-AD21BB4D02A4"))
        .with("SystemCreationClassName", SYSTEM)
        .with("SystemName", id)
        .with("EnabledState", 2u64)
        .with("OperationalStatus", vec![if machine.quirks.no_consistency { 12u64 } else { 2 }])
}

/// What the guest says of itself.
fn exchange(machine: &Machine) -> Instance {
    let id = guid(machine.id);
    let items = machine.guest_says.iter().map(|(name, data)| {
        let item = Instance::of("Msvm_KvpExchangeDataItem")
            .with("Caption", "Key-Value Pair Exchange Data Item")
            .with("Data", data.as_str())
            .with("Name", name.as_str())
            .with("Source", GUEST_INTRINSIC);
        embedded::write(&item)
    });
    Instance::of(EXCHANGE)
        .with("Caption", "Key-Value Pair Exchange")
        .with("CreationClassName", EXCHANGE)
        .with("DeviceID", format!("Microsoft:{id}\\2A34B1C2-FD73-4043-8A5B-DD2159BC743F"))
        .with("ElementName", "Key-Value Pair Exchange")
        .with("EnabledState", 2u64)
        .with("GuestExchangeItems", Vec::<String>::new())
        .with("GuestIntrinsicExchangeItems", items.collect::<Vec<String>>())
        .with("OperationalStatus", vec![2u64])
        .with("SystemCreationClassName", SYSTEM)
        .with("SystemName", id)
}

fn switch(switch: &Switch) -> [Instance; 2] {
    let id = guid(switch.id);
    [
        Instance::of(SWITCH)
            .with("Caption", "Virtual Switch")
            .with("CreationClassName", SWITCH)
            .with("ElementName", switch.name.as_str())
            .with("EnabledState", 2u64)
            .with("HealthState", 5u64)
            .with("Name", id.as_str()),
        Instance::of("Msvm_VirtualEthernetSwitchSettingData")
            .with("ElementName", switch.name.as_str())
            .with("InstanceID", format!("Microsoft:{id}"))
            .with("VirtualSystemIdentifier", id)
            .with("VirtualSystemType", "Microsoft:Hyper-V:VirtualSwitch"),
    ]
}

fn row(class: &str, first: (&str, ObjectPath), second: (&str, ObjectPath)) -> Instance {
    Instance::of(class).with(first.0, first.1).with(second.0, second.1)
}

/// The rows that join instances.
fn associations(host: &Host, state: &State) -> Vec<Instance> {
    let mut rows = Vec::new();
    for machine in &state.machines {
        let own = || machine_path(machine.id);
        rows.push(row(
            "Msvm_SettingsDefineState",
            ("ManagedElement", own()),
            ("SettingData", settings_path(machine.id)),
        ));
        for (id, settings) in every_settings(machine) {
            rows.extend(settings.parts.iter().map(|part| {
                let part = part_path(id, &part.class, &part.local);
                let group = ("GroupComponent", settings_path(id));
                row("Msvm_VirtualSystemSettingDataComponent", group, ("PartComponent", part))
            }));
        }
        let joined = |class: &str, dependent: ObjectPath| row(class, ("Antecedent", own()), ("Dependent", dependent));
        for snapshot in &machine.snapshots {
            rows.push(joined("Msvm_SnapshotOfVirtualSystem", settings_path(snapshot.id)));
        }
        if let Some(last) = machine.snapshots.iter().rfind(|snapshot| !snapshot.recovery) {
            rows.push(joined("Msvm_MostCurrentSnapshotInBranch", settings_path(last.id)));
        }
        for point in &machine.points {
            rows.push(joined("Msvm_ReferencePointOfVirtualSystem", point_path(point.id)));
        }
        if machine.on {
            rows.push(row("Msvm_SystemDevice", ("GroupComponent", own()), ("PartComponent", shutdown(machine).path())));
        }
    }
    rows.push(super::inventory_host::service_settings(host));
    rows
}

/// A service's name, as its key has it.
pub(crate) fn services() -> impl Iterator<Item = (&'static str, &'static str)> {
    SERVICES.into_iter()
}
