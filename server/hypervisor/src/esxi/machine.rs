//! A machine's definition as the host gives it, in our words, with what speaks against a backup.

use super::property::Object;
use super::xml::Node;
use crate::{DiskPlace, Finding, HostSnapshot, MachineInfo, MachineRef, OWN_SNAPSHOT_PREFIX, Severity, SnapshotRef};
use domain::machine::{Controller, ControllerKind, DiskConfig, Firmware, MachineConfig, NetworkAdapter, PowerState};
use jiff::Timestamp;

/// Devices of one machine.
const MAX_DEVICES: usize = 1000;
const SECTOR_BYTES: u64 = 512;

/// What is read of a machine's or a snapshot's configuration. All exist since API 6.0.
pub(super) const CONFIG_PATHS: [&str; 13] = [
    "config.name",
    "config.guestId",
    "config.guestFullName",
    "config.version",
    "config.uuid",
    "config.instanceUuid",
    "config.annotation",
    "config.firmware",
    "config.bootOptions",
    "config.changeTrackingEnabled",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.hardware.device",
];

/// What is read of a machine besides its configuration.
pub(super) const STATE_PATHS: [&str; 10] = [
    "name",
    "parent",
    "snapshot",
    "config.template",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
    "guest.ipAddress",
    "guest.toolsRunningStatus",
    "guest.guestFullName",
];

/// A disk as the host describes it.
#[derive(Debug, Clone)]
pub(super) struct DiskDetail {
    pub place: DiskPlace,
    /// `None` when it cannot be backed up.
    pub config: Option<DiskConfig>,
    /// `<uuid>/<sequence>`, when change tracking is active on it.
    pub change_id: Option<String>,
    /// It is the top of a chain of deltas.
    pub has_parent: bool,
    /// Why it cannot be backed up.
    pub findings: Vec<Finding>,
}

pub(super) fn finding(severity: Severity, code: &str, message: impl Into<String>, hint: &str) -> Finding {
    Finding { severity, code: code.to_owned(), message: message.into(), hint: hint.to_owned() }
}

/// The machine's definition, and all its disks.
pub(super) fn read_config(object: &Object) -> (MachineConfig, Vec<DiskDetail>) {
    let devices: Vec<&Node> = object
        .get("config.hardware.device")
        .map(|list| list.children.iter().take(MAX_DEVICES).collect())
        .unwrap_or_default();
    let controllers: Vec<Controller> = devices.iter().filter_map(|device| controller(device)).collect();
    let details: Vec<DiskDetail> = devices
        .iter()
        .filter(|device| device.is_a("VirtualDisk"))
        .map(|device| disk(device, &controllers, &devices))
        .collect();
    let text = |path: &str| Some(object.text(path)).filter(|text| !text.is_empty()).map(str::to_owned);
    let config = MachineConfig {
        name: text("config.name").or_else(|| text("name")).unwrap_or_default(),
        guest_id: text("config.guestId").unwrap_or_default(),
        firmware: if object.text("config.firmware") == "efi" { Firmware::Efi } else { Firmware::Bios },
        secure_boot: object.get("config.bootOptions").is_some_and(|boot| boot.is_true_at(&["efiSecureBootEnabled"])),
        processors: object.text("config.hardware.numCPU").parse().unwrap_or(1),
        memory_mib: object.text("config.hardware.memoryMB").parse().unwrap_or(0),
        hardware_version: text("config.version").unwrap_or_default(),
        instance_uuid: text("config.instanceUuid"),
        bios_uuid: text("config.uuid"),
        notes: object.get("config.annotation").map(|node| node.text.clone()).unwrap_or_default(),
        controllers,
        disks: details.iter().filter_map(|detail| detail.config.clone()).collect(),
        adapters: devices.iter().filter_map(|device| adapter(device)).collect(),
        hyperv: None,
    };
    (config, details)
}

/// The machine in full. `folder` is its path for people, `datastores` are (name, type) of all datastores.
pub(super) fn machine_info(object: &Object, folder: String, datastores: &[(String, String)]) -> MachineInfo {
    let (config, details) = read_config(object);
    let mut findings: Vec<Finding> = details.iter().flat_map(|detail| detail.findings.clone()).collect();
    findings.extend(details.iter().filter_map(|detail| no_flat_file(&detail.place, datastores)));
    findings.extend(state_findings(object, &config, &details));
    findings.sort_by_key(|finding| finding.severity);
    let guest = [object.text("guest.guestFullName"), object.text("config.guestFullName")];
    MachineInfo {
        reference: MachineRef(object.reference.value.clone()),
        power: power_state(object),
        guest_name: guest.into_iter().find(|name| !name.is_empty()).unwrap_or_default().to_owned(),
        guest_address: Some(object.text("guest.ipAddress").to_owned()).filter(|address| !address.is_empty()),
        folder,
        pool: String::new(),
        disks: details.into_iter().map(|detail| detail.place).collect(),
        tracking_enabled: object.is_true("config.changeTrackingEnabled"),
        findings,
        config,
    }
}

pub(super) fn power_state(object: &Object) -> PowerState {
    match object.text("runtime.powerState") {
        "poweredOn" => PowerState::On,
        "suspended" => PowerState::Suspended,
        _ => PowerState::Off,
    }
}

/// All snapshots, parents before children.
pub(super) fn snapshots(object: &Object) -> Vec<SnapshotNode> {
    let mut found = Vec::new();
    let mut open: Vec<&Node> =
        object.get("snapshot").map(|tree| tree.all("rootSnapshotList").collect()).unwrap_or_default();
    while let Some(node) = open.pop() {
        if let Some(reference) = node.child("snapshot").and_then(Node::reference) {
            found.push(SnapshotNode {
                reference: reference.value,
                name: node.text_at(&["name"]).unwrap_or_default().to_owned(),
                quiesced: node.is_true_at(&["quiesced"]),
                created_at: node.text_at(&["createTime"]).and_then(|time| time.trim().parse().ok()),
            });
        }
        open.extend(node.all("childSnapshotList"));
    }
    found
}

/// A snapshot in the machine's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SnapshotNode {
    pub reference: String,
    pub name: String,
    pub quiesced: bool,
    pub created_at: Option<Timestamp>,
}

impl SnapshotNode {
    pub(super) fn on(self, machine: &MachineRef) -> HostSnapshot {
        HostSnapshot {
            machine: machine.clone(),
            reference: SnapshotRef(self.reference),
            name: self.name,
            created_at: self.created_at,
            is_recovery: false,
        }
    }
}

fn state_findings(object: &Object, config: &MachineConfig, details: &[DiskDetail]) -> Vec<Finding> {
    let name = &config.name;
    let mut found = Vec::new();
    let mut add = |severity, code, message: String, hint| found.push(finding(severity, code, message, hint));
    let connection = object.text("runtime.connectionState");
    if object.get("config.hardware.device").is_none() || !matches!(connection, "connected" | "") {
        let why = object.why_missing("config.hardware.device").map(|fault| format!(": {}", fault.reason()));
        let message = format!("{name} is not accessible on the host{}", why.unwrap_or_default());
        add(Severity::Blocker, "inaccessible", message, "Check the machine's datastore in the host's own console.");
        return found;
    }
    if object.is_true("config.template") {
        let hint = "Convert the template to a machine, or leave it out.";
        add(Severity::Blocker, "template", format!("{name} is a template"), hint);
    }
    let snapshots = snapshots(object);
    let foreign: Vec<&str> =
        snapshots.iter().map(|s| s.name.as_str()).filter(|name| !name.starts_with(OWN_SNAPSHOT_PREFIX)).collect();
    if let Some(first) = foreign.first() {
        let message = format!("{name} has snapshots of its own ({}, the first is \"{first}\")", foreign.len());
        let hint = "Remove the snapshots in the host's own console; a machine with snapshots cannot be read yet.";
        add(Severity::Blocker, "snapshots_exist", message, hint);
    } else if !snapshots.is_empty() {
        let message = format!("{name} has a snapshot that an earlier backup left");
        add(Severity::Warning, "own_snapshot_left", message, "It is removed before the next backup.");
    } else if let Some(disk) = details.iter().find(|detail| detail.has_parent) {
        let message = format!("{}: {} runs on a chain of deltas without a snapshot", name, disk.place.label);
        let hint = "Consolidate the machine's disks in the host's own console.";
        add(Severity::Blocker, "disk_chain", message, hint);
    }
    if object.is_true("runtime.consolidationNeeded") {
        let message = format!("the disks of {name} need consolidation");
        add(Severity::Warning, "consolidation_needed", message, "The host is asked to do it before the next snapshot.");
    }
    if details.is_empty() {
        add(Severity::Blocker, "no_disks", format!("{name} has no disks"), "Leave the machine out.");
    }
    let version = config.hardware_version.strip_prefix("vmx-").and_then(|version| version.parse::<u32>().ok());
    if version.is_some_and(|version| version < 7) {
        let message =
            format!("{name} has hardware version {}, which knows no change tracking", config.hardware_version);
        add(Severity::Warning, "old_hardware", message, "Every run reads the whole machine; upgrade its hardware.");
    } else if !object.is_true("config.changeTrackingEnabled") {
        let message = format!("change tracking is off on {name}");
        add(Severity::Info, "tracking_off", message, "It is switched on by the first backup.");
    }
    found
}

fn no_flat_file(place: &DiskPlace, datastores: &[(String, String)]) -> Option<Finding> {
    let (_, kind) = datastores.iter().find(|(name, _)| *name == place.datastore)?;
    if !matches!(kind.to_ascii_uppercase().as_str(), "VSAN" | "VVOL" | "VSAND" | "PMEM") {
        return None;
    }
    let message =
        format!("{} lies on {}, a {kind} datastore, which has no files to read", place.label, place.datastore);
    Some(finding(Severity::Blocker, "no_flat_file", message, "Move the disk to a VMFS or NFS datastore."))
}

fn controller(device: &Node) -> Option<Controller> {
    let kind = match device.xsi_type.as_deref()? {
        "ParaVirtualSCSIController" => ControllerKind::ParavirtualScsi,
        "VirtualLsiLogicController" => ControllerKind::LsiLogic,
        "VirtualLsiLogicSASController" => ControllerKind::LsiLogicSas,
        "VirtualBusLogicController" => ControllerKind::BusLogic,
        "VirtualAHCIController" => ControllerKind::Sata,
        "VirtualNVMEController" => ControllerKind::Nvme,
        "VirtualIDEController" => ControllerKind::Ide,
        _ => return None,
    };
    Some(Controller { key: device.parse_at(&["key"])?, kind, bus: device.parse_at(&["busNumber"]).unwrap_or(0) })
}

fn adapter(device: &Node) -> Option<NetworkAdapter> {
    let model = device.xsi_type.as_deref()?;
    let known =
        ["VirtualVmxnet3", "VirtualVmxnet2", "VirtualVmxnet", "VirtualE1000", "VirtualE1000e", "VirtualPCNet32"];
    if !known.contains(&model) && device.child("macAddress").is_none() {
        return None;
    }
    Some(NetworkAdapter {
        key: device.parse_at(&["key"])?,
        model: model.to_owned(),
        network: device.text_at(&["backing", "deviceName"]).unwrap_or_default().to_owned(),
        mac: device.text_at(&["macAddress"]).filter(|mac| !mac.is_empty()).map(str::to_owned),
        connect_at_power_on: device.is_true_at(&["connectable", "startConnected"]),
        vlan: None,
    })
}

fn disk(device: &Node, controllers: &[Controller], devices: &[&Node]) -> DiskDetail {
    let key = device.parse_at(&["key"]).unwrap_or(0);
    let label = device.text_at(&["deviceInfo", "label"]).filter(|label| !label.is_empty());
    let label = label.map_or_else(|| format!("Disk {key}"), str::to_owned);
    let bytes: Option<u64> = device.parse_at(&["capacityInBytes"]).filter(|bytes| *bytes > 0);
    let kib: u64 = device.parse_at(&["capacityInKB"]).unwrap_or(0);
    let capacity_bytes = bytes.unwrap_or_else(|| kib.saturating_mul(1024));
    let backing = device.child("backing");
    let field = |name: &str| backing.and_then(|backing| backing.text_at(&[name])).filter(|text| !text.is_empty());
    let path = field("fileName").unwrap_or_default().to_owned();
    let uuid = field("uuid").map(str::to_owned);
    let place = DiskPlace {
        key,
        label: label.clone(),
        capacity_bytes,
        datastore: datastore_of(&path).unwrap_or_default().to_owned(),
        path,
        uuid: uuid.clone(),
    };
    let controller_key = device.parse_at(&["controllerKey"]).unwrap_or(0);
    let mut findings = disk_findings(&place, backing);
    if !controllers.iter().any(|controller| controller.key == controller_key) {
        let message = format!("{label} is on a controller of an unknown kind");
        findings.push(finding(Severity::Blocker, "unknown_controller", message, "Leave the machine out."));
    }
    let bus = devices.iter().find(|node| node.parse_at::<i32>(&["key"]) == Some(controller_key));
    if let Some(sharing) = bus.and_then(|bus| bus.text_at(&["sharedBus"])).filter(|sharing| *sharing != "noSharing") {
        let message = format!("{label} is on a controller that is shared between machines ({sharing})");
        findings.push(finding(Severity::Blocker, "shared_bus", message, "Back the cluster up from inside its guests."));
    }
    let config = findings.is_empty().then(|| DiskConfig {
        key,
        label,
        capacity_bytes,
        controller_key,
        unit: device.parse_at(&["unitNumber"]).unwrap_or(0),
        uuid,
        thin: backing.is_some_and(|backing| backing.is_true_at(&["thinProvisioned"])),
        ..DiskConfig::default()
    });
    DiskDetail {
        place,
        config,
        change_id: field("changeId").map(str::to_owned),
        has_parent: backing.is_some_and(|backing| backing.child("parent").is_some()),
        findings,
    }
}

fn disk_findings(place: &DiskPlace, backing: Option<&Node>) -> Vec<Finding> {
    let label = &place.label;
    let mut found = Vec::new();
    let mut block = |code, message: String, hint| found.push(finding(Severity::Blocker, code, message, hint));
    let kind = backing.and_then(|backing| backing.xsi_type.as_deref()).unwrap_or("without a backing");
    match kind {
        "VirtualDiskFlatVer2BackingInfo" => {}
        kind if kind.contains("RawDisk") => {
            block("rdm", format!("{label} is a raw device mapping"), "Back it up from inside the guest.");
        }
        // A live link above a snapshot; the base underneath is what counts.
        "VirtualDiskSeSparseBackingInfo" | "VirtualDiskSparseVer2BackingInfo"
            if backing.is_some_and(|backing| backing.child("parent").is_some()) => {}
        kind => block("unsupported_disk", format!("{label} has a backing of kind {kind}"), "Leave the machine out."),
    }
    let text = |name: &str| backing.and_then(|backing| backing.text_at(&[name])).unwrap_or_default();
    match text("diskMode") {
        "persistent" | "" => {}
        mode if mode.starts_with("independent") => {
            let message = format!("{label} is independent ({mode}): snapshots leave it out");
            block("independent_disk", message, "Make the disk dependent while the machine is off.");
        }
        mode => block("disk_mode", format!("{label} has the mode {mode}"), "Make the disk persistent."),
    }
    if text("sharing") == "sharingMultiWriter" {
        block("shared_disk", format!("{label} is shared between machines"), "Back it up from inside a guest.");
    }
    if backing.is_some_and(|backing| backing.child("keyId").is_some()) {
        block("encrypted_disk", format!("{label} is encrypted by the host"), "Back it up from inside the guest.");
    }
    if place.capacity_bytes == 0 || !place.capacity_bytes.is_multiple_of(SECTOR_BYTES) {
        let message = format!("{label} has a size of {} bytes", place.capacity_bytes);
        block("disk_size", message, "Check the disk in the host's own console.");
    }
    if kind == "VirtualDiskFlatVer2BackingInfo" && place.datastore.is_empty() {
        block("missing_disk", format!("{label} has no file"), "Remove the disk from the machine, or restore its file.");
    }
    found
}

/// `datastore1` of `[datastore1] web/web.vmdk`.
pub(super) fn datastore_of(path: &str) -> Option<&str> {
    split_path(path).map(|(datastore, _)| datastore)
}

/// Datastore and path within it.
pub(super) fn split_path(path: &str) -> Option<(&str, &str)> {
    let (datastore, rest) = path.strip_prefix('[')?.split_once(']')?;
    let rest = rest.trim_start();
    (!datastore.is_empty() && !rest.is_empty()).then_some((datastore, rest))
}
