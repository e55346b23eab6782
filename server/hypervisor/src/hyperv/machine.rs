//! A machine's definition as the host lists it, in our words, with what speaks against a backup.

use super::model::{
    CHECKPOINT_PREFIX, DISK_DRIVE, IDE_CONTROLLER, PHYSICAL_DRIVE, Rows, SCSI_CONTROLLER, SWITCH, VIRTUAL_DISK,
    is_machine, is_of, key_of_path, parent_id, parts, tail,
};
use super::tracking::DiskFacts;
use super::wire::CallError;
use super::wmi::Instance;
use crate::{DiskPlace, Finding, MachineInfo, MachineRef, OWN_SNAPSHOT_PREFIX, Severity};
use domain::machine::{
    Controller, ControllerKind, DiskConfig, DynamicMemory, Firmware, HyperVSettings, MachineConfig, NetworkAdapter,
    PowerState,
};
use std::collections::BTreeMap;

/// Devices of one kind in one machine.
const MAX_DEVICES: usize = 512;
const SECTOR_BYTES: u64 = 512;
/// The first keys of controllers, disks and adapters.
const IDE_KEY: i32 = 200;
const SCSI_KEY: i32 = 1000;
const SCSI_DISK_KEY: i32 = 2000;
const IDE_DISK_KEY: i32 = 3000;
const ADAPTER_KEY: i32 = 4000;
/// Places on a controller.
pub(super) const SCSI_UNITS: i32 = 64;
const IDE_UNITS: i32 = 2;
/// The first configuration version whose machines track changes.
const FIRST_TRACKING_VERSION: (u32, u32) = (6, 2);

/// `OperationMode` of a connection with one VLAN.
const ACCESS_MODE: u64 = 1;
const GENERATION_2: &str = "Microsoft:Hyper-V:SubType:2";
pub(super) const SYNTHETIC_MODEL: &str = "Synthetic";
pub(super) const EMULATED_MODEL: &str = "Emulated";

/// A disk as the host lists it.
#[derive(Debug, Clone)]
pub(super) struct DiskRow {
    pub key: i32,
    pub label: String,
    pub controller_key: i32,
    pub unit: i32,
    pub path: String,
    /// What follows the settings' id in its `InstanceID`, the same in a machine and in its checkpoints.
    pub tail: String,
    /// It is shared between machines, a pass-through disk, or the like.
    pub finding: Option<Finding>,
}

/// What is known of disks' files, by path.
pub(super) type Facts = BTreeMap<String, Result<DiskFacts, String>>;

pub(super) fn finding(severity: Severity, code: &str, message: impl Into<String>, hint: &str) -> Finding {
    Finding { severity, code: code.to_owned(), message: message.into(), hint: hint.to_owned() }
}

fn block(code: &str, message: String, hint: &str) -> Finding {
    finding(Severity::Blocker, code, message, hint)
}

pub(super) fn power_state(system: &Instance) -> PowerState {
    match system.number("EnabledState") {
        Some(3) => PowerState::Off,
        // Saved (6, and 32769 in older words), paused (9, 32768), and on the way there.
        Some(6 | 9 | 32768 | 32769 | 32773 | 32776 | 32777) => PowerState::Suspended,
        _ => PowerState::On,
    }
}

/// Controllers with their ids, in a stable order.
fn controllers(rows: &Rows, settings_id: &str) -> Vec<(String, Controller)> {
    let of_kind = |sub_type: &'static str| {
        let mut found: Vec<&Instance> = parts(&rows.resources, settings_id)
            .filter(|row| row.word("ResourceSubType") == sub_type)
            .take(MAX_DEVICES)
            .collect();
        // Lists come in any order, and a disk's key follows from its controller's place.
        found.sort_by_key(|row| tail(row.instance_id(), settings_id).map(str::to_ascii_lowercase));
        found
    };
    let ide = of_kind(IDE_CONTROLLER).into_iter().zip(0..).map(|(row, place)| {
        let bus = row.text("Address").and_then(|address| address.parse().ok()).unwrap_or(place);
        (row, Controller { key: IDE_KEY + bus, kind: ControllerKind::Ide, bus })
    });
    let scsi = of_kind(SCSI_CONTROLLER).into_iter().zip(0..);
    let scsi = scsi.map(|(row, bus)| (row, Controller { key: SCSI_KEY + bus, kind: ControllerKind::HyperVScsi, bus }));
    ide.chain(scsi).map(|(row, controller)| (row.instance_id().to_owned(), controller)).collect()
}

/// The disks of some settings, also those that cannot be backed up.
pub(super) fn disk_rows(rows: &Rows, settings_id: &str) -> Vec<DiskRow> {
    let controllers = controllers(rows, settings_id);
    let mut found = Vec::new();
    for drive in parts(&rows.resources, settings_id).take(MAX_DEVICES) {
        let sub_type = drive.word("ResourceSubType");
        if sub_type != DISK_DRIVE && sub_type != PHYSICAL_DRIVE {
            continue;
        }
        let parent = parent_id(drive, "Parent").unwrap_or_default();
        let controller = controllers.iter().find(|(id, _)| id.eq_ignore_ascii_case(&parent));
        let unit = drive.text("AddressOnParent").and_then(|unit| unit.parse::<i32>().ok()).unwrap_or(0);
        let media = parts(&rows.storage, settings_id).find(|row| {
            row.word("ResourceSubType") == VIRTUAL_DISK
                && parent_id(row, "Parent").is_some_and(|id| id.eq_ignore_ascii_case(drive.instance_id()))
        });
        found.extend(disk_row(drive, media, controller.map(|(_, controller)| controller), unit, settings_id));
    }
    found.sort_by_key(|disk| disk.key);
    found
}

fn disk_row(
    drive: &Instance,
    media: Option<&Instance>,
    controller: Option<&Controller>,
    unit: i32,
    settings_id: &str,
) -> Option<DiskRow> {
    let is_physical = drive.word("ResourceSubType") == PHYSICAL_DRIVE;
    // An empty drive.
    if media.is_none() && !is_physical {
        return None;
    }
    let (name, first, units, controller_key, bus) = match controller {
        Some(Controller { kind: ControllerKind::Ide, key, bus }) => ("IDE", IDE_DISK_KEY, IDE_UNITS, *key, *bus),
        Some(Controller { key, bus, .. }) => ("SCSI", SCSI_DISK_KEY, SCSI_UNITS, *key, *bus),
        None => ("unknown controller", SCSI_DISK_KEY, SCSI_UNITS, -1, 0),
    };
    let label = format!("{name} {bus}:{unit}");
    let path = media.and_then(|media| media.text("HostResource")).unwrap_or_default().to_owned();
    let finding = if is_physical {
        let hint = "Back it up from inside the guest, or move it into a virtual hard disk.";
        Some(block("passthrough_disk", format!("{label} is a physical disk of the host"), hint))
    } else if controller.is_none() {
        let message = format!("{label}: the host lists no controller for it");
        Some(block("unknown_controller", message, "Leave the machine out."))
    } else if !(0..units).contains(&unit) {
        let message = format!("{label} has no such place on its controller");
        Some(block("unknown_controller", message, "Leave the machine out."))
    } else {
        media.and_then(|media| shared(&label, &path, media))
    };
    let id = media.unwrap_or(drive).instance_id();
    let key = first.checked_add(bus.checked_mul(units)?)?.checked_add(unit)?;
    let tail = tail(id, settings_id)?.to_owned();
    Some(DiskRow { key, label, controller_key, unit, path, tail, finding })
}

fn shared(label: &str, path: &str, media: &Instance) -> Option<Finding> {
    let is_set = path.to_ascii_lowercase().ends_with(".vhds");
    if !is_set && !media.is_true("PersistentReservationsSupported") {
        return None;
    }
    let message = format!("{label} is shared between machines ({path})");
    Some(block("shared_disk", message, "Back the cluster up from inside its guests."))
}

/// The definition that some settings hold; its disks are those that can be backed up.
pub(super) fn read_config(rows: &Rows, settings: &Instance, facts: &Facts) -> (MachineConfig, Vec<DiskRow>) {
    let id = settings.instance_id();
    let disks = disk_rows(rows, id);
    let number = |list: &[Instance]| parts(list, id).find_map(|row| row.number("VirtualQuantity"));
    let is_second = settings.word("VirtualSystemSubType") == GENERATION_2;
    let config = MachineConfig {
        name: settings.word("ElementName").to_owned(),
        // Hyper-V is not told which system is in the guest.
        guest_id: String::new(),
        firmware: if is_second { Firmware::Efi } else { Firmware::Bios },
        secure_boot: is_second && settings.is_true("SecureBootEnabled"),
        processors: number(&rows.processors).and_then(|count| u32::try_from(count).ok()).unwrap_or(1),
        memory_mib: number(&rows.memories).unwrap_or(0),
        hardware_version: settings.word("Version").to_owned(),
        instance_uuid: settings.text("VirtualSystemIdentifier").map(str::to_owned),
        bios_uuid: settings.text("BIOSGUID").map(|id| id.trim_matches(['{', '}']).to_owned()),
        notes: settings.list("Notes").join("\n"),
        controllers: controllers(rows, id).into_iter().map(|(_, controller)| controller).collect(),
        disks: disks.iter().filter_map(|disk| disk_config(disk, facts)).collect(),
        adapters: adapters(rows, id),
        hyperv: Some(hyperv_settings(rows, settings, &disks)),
    };
    (config, disks)
}

/// What only Hyper-V knows.
fn hyperv_settings(rows: &Rows, settings: &Instance, disks: &[DiskRow]) -> HyperVSettings {
    let id = settings.instance_id();
    let none = Instance::default();
    let memory = parts(&rows.memories, id).next().unwrap_or(&none);
    let processor = parts(&rows.processors, id).next().unwrap_or(&none);
    let small = |row: &Instance, name: &str| row.number(name).and_then(|number| u32::try_from(number).ok());
    let word = |name: &str| settings.number(name).and_then(|number| u16::try_from(number).ok());
    let first = settings.list("BootSourceOrder").into_iter().next();
    HyperVSettings {
        generation: if settings.word("VirtualSystemSubType") == GENERATION_2 { 2 } else { 1 },
        secure_boot_template: settings.text("SecureBootTemplateId").map(str::to_owned),
        tpm: parts(&rows.security, id).any(|row| row.is_true("TpmEnabled")),
        dynamic_memory: memory.is_true("DynamicMemoryEnabled").then(|| DynamicMemory {
            minimum_mib: memory.number("Reservation").unwrap_or(0),
            maximum_mib: memory.number("Limit").unwrap_or(0),
            buffer_percent: small(memory, "TargetMemoryBuffer").unwrap_or(0),
        }),
        memory_weight: small(memory, "Weight"),
        processor_reservation: processor.number("Reservation"),
        processor_limit: processor.number("Limit"),
        processor_weight: small(processor, "Weight"),
        limit_processor_features: processor.is_true("LimitProcessorFeatures"),
        nested_virtualization: processor.is_true("ExposeVirtualizationExtensions"),
        automatic_start: word("AutomaticStartupAction"),
        automatic_stop: word("AutomaticShutdownAction"),
        checkpoint_type: word("UserSnapshotType"),
        boot_order: settings.numbers("BootOrder").unwrap_or_default().into_iter().map(|entry| entry as u16).collect(),
        boot_disk_key: first.and_then(|path| boot_disk(path, id, disks)),
    }
}

/// The disk a boot entry starts: entries have their drive's id with `\B` behind it, and a disk's ends in another letter.
fn boot_disk(path: &str, settings_id: &str, disks: &[DiskRow]) -> Option<i32> {
    let entry = key_of_path(path, "InstanceID")?;
    let entry = tail(&entry, settings_id)?;
    let drive = entry.strip_suffix("\\B").unwrap_or(entry);
    let stem = |tail: &str| tail.rsplit_once('\\').map(|(stem, _)| stem.to_ascii_lowercase());
    disks.iter().find(|disk| stem(&disk.tail).is_some() && stem(&disk.tail) == stem(drive)).map(|disk| disk.key)
}

fn disk_config(disk: &DiskRow, facts: &Facts) -> Option<DiskConfig> {
    let facts = facts.get(&disk.path)?.as_ref().ok()?;
    (disk.finding.is_none() && is_whole(facts.size_bytes)).then(|| DiskConfig {
        key: disk.key,
        label: disk.label.clone(),
        capacity_bytes: facts.size_bytes,
        controller_key: disk.controller_key,
        unit: disk.unit,
        uuid: facts.disk_id.clone(),
        thin: facts.is_dynamic,
        sector_bytes: facts.sector_bytes,
    })
}

const fn is_whole(bytes: u64) -> bool {
    bytes > 0 && bytes.is_multiple_of(SECTOR_BYTES)
}

fn adapters(rows: &Rows, settings_id: &str) -> Vec<NetworkAdapter> {
    let mut ports: Vec<&Instance> = parts(&rows.ports, settings_id).take(MAX_DEVICES).collect();
    ports.sort_by_key(|row| row.instance_id().to_ascii_lowercase());
    ports
        .into_iter()
        .zip(ADAPTER_KEY..)
        .map(|(port, key)| {
            let link = parts(&rows.connections, settings_id)
                .find(|row| parent_id(row, "Parent").is_some_and(|id| id.eq_ignore_ascii_case(port.instance_id())));
            let switch = link.and_then(|link| key_of_path(link.text("HostResource")?, "Name"));
            let name = switch.and_then(|id| switch_name(rows, &id)).unwrap_or_default();
            let model = if port.class.contains(EMULATED_MODEL) { EMULATED_MODEL } else { SYNTHETIC_MODEL };
            NetworkAdapter {
                key,
                model: model.to_owned(),
                connect_at_power_on: !name.is_empty() && link.is_none_or(|link| link.number("EnabledState") != Some(3)),
                network: name,
                mac: port.text("Address").and_then(with_colons),
                vlan: link.and_then(|link| vlan(rows, link.instance_id())),
            }
        })
        .collect()
}

/// The VLAN of a connection in access mode; its settings hang on the connection's id.
fn vlan(rows: &Rows, connection_id: &str) -> Option<u16> {
    let own = parts(&rows.vlans, connection_id).find(|row| row.number("OperationMode") == Some(ACCESS_MODE))?;
    own.number("AccessVlanId").and_then(|id| u16::try_from(id).ok()).filter(|id| (1..=4094).contains(id))
}

fn switch_name(rows: &Rows, id: &str) -> Option<String> {
    let switch = rows.switches.iter().find(|row| row.word("Name").eq_ignore_ascii_case(id))?;
    debug_assert!(switch.class.is_empty() || switch.class == SWITCH);
    switch.text("ElementName").map(str::to_owned)
}

/// `00155D010203` as `00:15:5d:01:02:03`; nothing for an address that is not given yet.
fn with_colons(address: &str) -> Option<String> {
    let bytes = hex::decode(address).ok().filter(|bytes| bytes.len() == 6 && bytes.iter().any(|byte| *byte != 0))?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
}

/// The machine in full; `None` when the host has no such machine.
pub(super) fn machine_info(rows: &Rows, machine: &str, facts: &Facts) -> Option<MachineInfo> {
    let system = rows.system(machine)?;
    let settings = rows.realized(machine)?;
    let (config, disks) = read_config(rows, settings, facts);
    let power = power_state(system);
    let mut findings: Vec<Finding> = disks.iter().flat_map(|disk| disk_findings(disk, facts)).collect();
    findings.extend(state_findings(rows, machine, &config, &disks, power));
    findings.extend(super::recovery::foreign(rows, machine));
    findings.sort_by_key(|finding| finding.severity);
    Some(MachineInfo {
        reference: MachineRef(system.word("Name").to_owned()),
        power,
        guest_name: String::new(),
        guest_address: None,
        folder: settings.word("ConfigurationDataRoot").to_owned(),
        pool: String::new(),
        disks: disks.iter().map(|disk| place(disk, facts)).collect(),
        tracking_enabled: no_tracking(&config).is_none(),
        findings,
        config,
    })
}

/// All machines of the host.
pub(super) fn machines(rows: &Rows, facts: &Facts) -> Vec<MachineInfo> {
    let names = rows.systems.iter().filter(|row| is_machine(row)).map(|row| row.word("Name"));
    names.filter_map(|name| machine_info(rows, name, facts)).collect()
}

fn place(disk: &DiskRow, facts: &Facts) -> DiskPlace {
    let known = facts.get(&disk.path).and_then(|facts| facts.as_ref().ok());
    DiskPlace {
        key: disk.key,
        label: disk.label.clone(),
        capacity_bytes: known.map_or(0, |facts| facts.size_bytes),
        datastore: volume_of(&disk.path).unwrap_or_default(),
        path: disk.path.clone(),
        uuid: known.and_then(|facts| facts.disk_id.clone()),
    }
}

/// `D:` of `d:\vm\web.vhdx`.
pub(super) fn volume_of(path: &str) -> Option<String> {
    let mut letters = path.chars();
    match (letters.next(), letters.next()) {
        (Some(drive), Some(':')) if drive.is_ascii_alphabetic() => Some(format!("{}:", drive.to_ascii_uppercase())),
        _ => None,
    }
}

fn disk_findings(disk: &DiskRow, facts: &Facts) -> Vec<Finding> {
    if let Some(finding) = &disk.finding {
        return vec![finding.clone()];
    }
    let label = &disk.label;
    match facts.get(&disk.path) {
        Some(Err(reason)) => {
            let message = format!("{label}: the host cannot read {}: {reason}", disk.path);
            let hint = "Remove the disk from the machine, or restore its file.";
            vec![block("missing_disk", message, hint)]
        }
        Some(Ok(facts)) if !is_whole(facts.size_bytes) => {
            let message = format!("{label} has a size of {} bytes", facts.size_bytes);
            vec![block("disk_size", message, "Check the disk in Hyper-V Manager.")]
        }
        Some(Ok(facts)) if facts.is_vhd => {
            let message = format!("{label} is a VHD, whose changes Hyper-V does not track");
            vec![finding(Severity::Warning, "vhd", message, "Every run reads the whole disk; convert it to VHDX.")]
        }
        // Drives without a file have been said above.
        Some(Ok(_)) | None => Vec::new(),
    }
}

/// Why the host cannot tell what changed on this machine.
pub(super) fn no_tracking(config: &MachineConfig) -> Option<String> {
    let (major, minor) = config.hardware_version.split_once('.').unwrap_or((&config.hardware_version, "0"));
    let version = (major.parse::<u32>().ok()?, minor.parse::<u32>().unwrap_or(0));
    (version < FIRST_TRACKING_VERSION)
        .then(|| format!("machines of configuration version {} do not track changes", config.hardware_version))
}

fn state_findings(
    rows: &Rows,
    machine: &str,
    config: &MachineConfig,
    disks: &[DiskRow],
    power: PowerState,
) -> Vec<Finding> {
    let name = &config.name;
    let mut found = Vec::new();
    let mut add = |severity, code, message: String, hint| found.push(finding(severity, code, message, hint));
    if disks.is_empty() {
        add(Severity::Blocker, "no_disks", format!("{name} has no disks"), "Leave the machine out.");
    }
    let checkpoints = rows.settings.iter().filter(|row| is_of(row, machine) && is_checkpoint(row));
    if checkpoints.clone().any(|row| row.word("ElementName").starts_with(OWN_SNAPSHOT_PREFIX)) {
        let message = format!("{name} has a checkpoint that an earlier backup left");
        add(Severity::Warning, "own_snapshot_left", message, "It is removed before the next backup.");
    }
    if power == PowerState::Suspended {
        let message = format!("{name} is saved or paused: its disks are backed up, its memory is not");
        add(Severity::Warning, "saved", message, "Start the machine, or shut it down, for a clean point.");
    }
    if let Some(reason) = no_tracking(config) {
        let hint = "Every run reads the whole machine; update its configuration version.";
        add(Severity::Warning, "old_hardware", format!("{name}: {reason}"), hint);
    }
    found
}

pub(super) fn is_checkpoint(settings: &Instance) -> bool {
    settings.word("VirtualSystemType").starts_with(CHECKPOINT_PREFIX)
}

/// What the host said of a disk's file, for a finding.
pub(super) fn why(error: &CallError) -> String {
    error.reason()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperv::model::{REALIZED, wmi_path};

    const VM: &str = "AAAAAAAA-0000-0000-0000-000000000001";
    const ID: &str = "Microsoft:AAAAAAAA-0000-0000-0000-000000000001";

    fn row(class: &str, tail: &str, fields: &[(&str, &str)]) -> Instance {
        let id = if tail.is_empty() { ID.to_owned() } else { format!("{ID}\\{tail}") };
        let mut all = vec![("InstanceID", id.as_str())];
        all.extend_from_slice(fields);
        Instance::of(class, &all)
    }

    fn parent(tail: &str) -> String {
        wmi_path("Msvm_ResourceAllocationSettingData", &[("InstanceID", &format!("{ID}\\{tail}"))])
    }

    fn drive(tail: &str, controller: &str, unit: &str, sub_type: &str) -> Instance {
        let parent = parent(controller);
        row("R", tail, &[("ResourceSubType", sub_type), ("Parent", &parent), ("AddressOnParent", unit)])
    }

    fn media(tail: &str, drive: &str, path: &str) -> Instance {
        let parent = parent(drive);
        row("S", tail, &[("ResourceSubType", VIRTUAL_DISK), ("Parent", &parent), ("HostResource", path)])
    }

    fn rows() -> Rows {
        let settings = [
            ("VirtualSystemIdentifier", VM),
            ("VirtualSystemType", REALIZED),
            ("VirtualSystemSubType", GENERATION_2),
            ("ElementName", "web"),
            ("SecureBootEnabled", "true"),
            ("Version", "9.0"),
            ("BIOSGUID", "{B-1}"),
            (
                "BootSourceOrder",
                r#"\\H\root\virtualization\v2:Msvm_BootSourceSettingData.InstanceID="Microsoft:AAAAAAAA-0000-0000-0000-000000000001\\c1\\0\\5\\D\\B""#,
            ),
        ];
        let switch = wmi_path(SWITCH, &[("CreationClassName", SWITCH), ("Name", "SW-1")]);
        let port = wmi_path("Msvm_SyntheticEthernetPortSettingData", &[("InstanceID", &format!("{ID}\\nic"))]);
        Rows {
            systems: vec![
                Instance::of("S", &[("Name", "HOST1"), ("EnabledState", "2")]),
                Instance::of("S", &[("Name", VM), ("EnabledState", "2")]),
            ],
            settings: vec![row("V", "", &settings)],
            resources: vec![
                row("R", "c2\\0", &[("ResourceSubType", SCSI_CONTROLLER)]),
                row("R", "c1\\0", &[("ResourceSubType", SCSI_CONTROLLER)]),
                drive("c1\\0\\5\\D", "c1\\0", "5", DISK_DRIVE),
                drive("c2\\0\\0\\D", "c2\\0", "0", DISK_DRIVE),
                drive("c2\\0\\1\\D", "c2\\0", "1", "Microsoft:Hyper-V:Synthetic DVD Drive"),
                drive("c2\\0\\2\\D", "c2\\0", "2", DISK_DRIVE),
            ],
            storage: vec![
                media("c2\\0\\0\\L", "c2\\0\\0\\D", "D:\\vm\\b.vhdx"),
                media("c1\\0\\5\\L", "c1\\0\\5\\D", "C:\\vm\\a.vhdx"),
            ],
            processors: vec![row("P", "cpu", &[("VirtualQuantity", "4"), ("Limit", "100000")])],
            memories: vec![row(
                "M",
                "mem",
                &[
                    ("VirtualQuantity", "2048"),
                    ("DynamicMemoryEnabled", "true"),
                    ("Reservation", "512"),
                    ("Limit", "4096"),
                ],
            )],
            ports: vec![row("Msvm_SyntheticEthernetPortSettingData", "nic", &[("Address", "00155D01020A")])],
            connections: vec![row(
                "C",
                "nic\\C",
                &[("Parent", &port), ("HostResource", &switch), ("EnabledState", "2")],
            )],
            switches: vec![Instance::of(SWITCH, &[("Name", "SW-1"), ("ElementName", "LAN")])],
            security: vec![row("T", "sec", &[("TpmEnabled", "true")])],
            vlans: vec![row("L", "nic\\C\\vlan", &[("OperationMode", "1"), ("AccessVlanId", "42")])],
        }
    }

    fn facts() -> Facts {
        let of = |size_bytes, id: &str| {
            let sector_bytes = 512;
            Ok(DiskFacts { size_bytes, disk_id: Some(id.into()), is_vhd: false, is_dynamic: true, sector_bytes })
        };
        Facts::from([
            ("C:\\vm\\a.vhdx".to_owned(), of(1 << 30, "disk-a")),
            ("D:\\vm\\b.vhdx".to_owned(), of(2 << 30, "disk-b")),
        ])
    }

    #[test]
    fn a_machine_is_put_together_from_its_rows() {
        let found = machines(&rows(), &facts());
        let [web] = found.as_slice() else { panic!("the host's own row is no machine: {found:?}") };
        assert_eq!((web.reference.0.as_str(), web.power), (VM, PowerState::On));
        assert!(web.findings.is_empty() && web.tracking_enabled, "{:?}", web.findings);
        let config = &web.config;
        assert_eq!((config.name.as_str(), config.processors, config.memory_mib), ("web", 4, 2048));
        assert!(config.firmware == Firmware::Efi && config.secure_boot);
        assert_eq!(config.bios_uuid.as_deref(), Some("B-1"));
        let places: Vec<(i32, i32, i32, &str)> = config
            .disks
            .iter()
            .map(|disk| (disk.key, disk.controller_key, disk.unit, disk.uuid.as_deref().unwrap()))
            .collect();
        // Controllers are ordered by id, whatever order they are listed in; an empty drive and a DVD are no disks.
        assert_eq!(places, [(2005, 1000, 5, "disk-a"), (2064, 1001, 0, "disk-b")]);
        assert_eq!(web.disks.iter().map(|disk| disk.datastore.as_str()).collect::<Vec<_>>(), ["C:", "D:"]);
        let [adapter] = config.adapters.as_slice() else { panic!("one adapter") };
        assert_eq!((adapter.network.as_str(), adapter.mac.as_deref()), ("LAN", Some("00:15:5d:01:02:0a")));
        assert!(adapter.connect_at_power_on && adapter.vlan == Some(42));
        let own = config.hyperv.as_ref().unwrap();
        assert_eq!((own.generation, own.tpm, own.boot_disk_key), (2, true, Some(2005)));
        assert_eq!(own.dynamic_memory.unwrap().maximum_mib, 4096);
    }

    fn codes(rows: &Rows, facts: &Facts) -> Vec<(Severity, String)> {
        let info = machine_info(rows, VM, facts).unwrap();
        info.findings.into_iter().map(|finding| (finding.severity, finding.code)).collect()
    }

    #[test]
    fn what_cannot_be_backed_up_is_said() {
        let mut passthrough = rows();
        passthrough.resources.push(drive("c1\\0\\6\\D", "c1\\0", "6", PHYSICAL_DRIVE));
        assert_eq!(codes(&passthrough, &facts()), [(Severity::Blocker, "passthrough_disk".into())]);
        let mut shared = rows();
        shared.resources.push(drive("c1\\0\\6\\D", "c1\\0", "6", DISK_DRIVE));
        shared.storage.push(media("c1\\0\\6\\L", "c1\\0\\6\\D", "C:\\ClusterStorage\\v\\q.VHDS"));
        assert_eq!(codes(&shared, &facts()), [(Severity::Blocker, "shared_disk".into())]);
        let mut lost = facts();
        lost.insert("C:\\vm\\a.vhdx".into(), Err("file not found (32779)".into()));
        assert_eq!(codes(&rows(), &lost), [(Severity::Blocker, "missing_disk".into())]);
        assert_eq!(machine_info(&rows(), VM, &lost).unwrap().config.disks.len(), 1);
        let mut orphan = rows();
        orphan.resources.retain(|row| !row.instance_id().ends_with("c1\\0"));
        assert!(codes(&orphan, &facts()).contains(&(Severity::Blocker, "unknown_controller".into())));
    }

    #[test]
    fn what_is_a_drawback_is_a_warning() {
        let mut saved = rows();
        saved.systems[1] = Instance::of("S", &[("Name", VM), ("EnabledState", "6")]);
        assert_eq!(codes(&saved, &facts()), [(Severity::Warning, "saved".into())]);
        let mut vhd = facts();
        if let Some(Ok(facts)) = vhd.get_mut("C:\\vm\\a.vhdx") {
            facts.is_vhd = true;
        }
        assert_eq!(codes(&rows(), &vhd), [(Severity::Warning, "vhd".into())]);
        let mut left = rows();
        let checkpoint = [
            ("InstanceID", "Microsoft:S"),
            ("VirtualSystemIdentifier", VM),
            ("VirtualSystemType", "Microsoft:Hyper-V:Snapshot:Recovery"),
            ("ElementName", "stillframe-1"),
        ];
        left.settings.push(Instance::of("V", &checkpoint));
        assert_eq!(codes(&left, &facts()), [(Severity::Warning, "own_snapshot_left".into())]);
        let old = MachineConfig { hardware_version: "5.0".into(), ..MachineConfig::default() };
        assert!(no_tracking(&old).is_some());
        assert!(no_tracking(&MachineConfig { hardware_version: "10.5".into(), ..old }).is_none());
    }

    #[test]
    fn generation_1_has_its_disks_on_ide() {
        let mut first = rows();
        first.resources = vec![
            row("R", "ide\\1", &[("ResourceSubType", IDE_CONTROLLER), ("Address", "1")]),
            row("R", "ide\\0", &[("ResourceSubType", IDE_CONTROLLER), ("Address", "0")]),
            drive("ide\\1\\0\\D", "ide\\1", "0", DISK_DRIVE),
        ];
        first.storage = vec![media("ide\\1\\0\\L", "ide\\1\\0\\D", "C:\\vm\\a.vhdx")];
        let info = machine_info(&first, VM, &facts()).unwrap();
        assert_eq!(info.config.disks[0].key, 3002);
        assert_eq!(info.config.disks[0].controller_key, 201);
        assert_eq!(info.config.controllers.len(), 2);
    }
}
