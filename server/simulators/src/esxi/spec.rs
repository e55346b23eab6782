//! A client's `VirtualMachineConfigSpec`, read into plain data. The schema check has been done before.

use uuid::Uuid;

use super::config::{DiskMode, Firmware, NicModel};
use super::fault::SoapFault;
use super::machine::ControllerKind;
use crate::xml::Node;

/// What a device change asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Edit,
    Remove,
}

/// A controller in the specification.
pub(crate) struct SpecController {
    pub index: usize,
    pub key: i32,
    pub kind: ControllerKind,
    pub bus: i32,
}

/// A disk in the specification.
pub(crate) struct SpecDisk {
    pub index: usize,
    pub operation: Operation,
    /// `fileOperation` is `create`.
    pub create: bool,
    pub key: i32,
    pub controller_key: i32,
    pub unit: i32,
    pub capacity: u64,
    pub file_name: String,
    pub mode: DiskMode,
    pub thin: bool,
    pub uuid: Option<Uuid>,
}

/// A network adapter in the specification.
pub(crate) struct SpecNic {
    pub index: usize,
    pub model: NicModel,
    pub network: String,
    pub mac: Option<String>,
    pub start_connected: bool,
}

/// The specification.
#[derive(Default)]
pub(crate) struct ConfigSpec {
    pub name: Option<String>,
    pub version: Option<String>,
    pub bios_uuid: Option<Uuid>,
    pub instance_uuid: Option<Uuid>,
    pub guest_id: Option<String>,
    pub annotation: Option<String>,
    pub vm_path_name: Option<String>,
    pub processors: Option<u32>,
    pub memory_mib: Option<u64>,
    pub firmware: Option<Firmware>,
    pub secure_boot: Option<bool>,
    pub tracking: Option<bool>,
    pub extra: Vec<(String, String)>,
    pub controllers: Vec<SpecController>,
    pub disks: Vec<SpecDisk>,
    pub nics: Vec<SpecNic>,
}

impl ConfigSpec {
    /// Reads the element. Devices the simulator does not model (keyboard, CD, video, …) are taken and forgotten.
    pub fn read(node: &Node) -> Result<Self, SoapFault> {
        let text = |name: &str| node.text_of(name).map(str::to_owned);
        let uuid = |name: &'static str| match node.text_of(name) {
            None | Some("") => Ok(None),
            Some(text) => Uuid::parse_str(text).map(Some).map_err(|_| SoapFault::invalid_argument(name)),
        };
        let firmware = match node.text_of("firmware") {
            None => None,
            Some("bios") => Some(Firmware::Bios),
            Some("efi") => Some(Firmware::Efi),
            Some(_) => return Err(SoapFault::invalid_argument("configSpec.firmware")),
        };
        let mut spec = Self {
            name: text("name"),
            version: text("version"),
            bios_uuid: uuid("uuid")?,
            instance_uuid: uuid("instanceUuid")?,
            guest_id: text("guestId"),
            annotation: text("annotation"),
            vm_path_name: node.child("files").and_then(|files| files.text_of("vmPathName")).map(str::to_owned),
            processors: node.number("numCPUs"),
            memory_mib: node.number("memoryMB"),
            firmware,
            secure_boot: node.child("bootOptions").map(|boot| boot.flag("efiSecureBootEnabled")),
            tracking: node.child("changeTrackingEnabled").map(|_| node.flag("changeTrackingEnabled")),
            ..Self::default()
        };
        for extra in node.all("extraConfig") {
            let pair = |name: &str| extra.text_of(name).unwrap_or_default().to_owned();
            spec.extra.push((pair("key"), pair("value")));
        }
        for (index, change) in node.all("deviceChange").enumerate() {
            spec.device(index, change)?;
        }
        Ok(spec)
    }

    fn device(&mut self, index: usize, change: &Node) -> Result<(), SoapFault> {
        let operation = match change.text_of("operation") {
            None | Some("add") => Operation::Add,
            Some("edit") => Operation::Edit,
            Some("remove") => Operation::Remove,
            Some(_) => return Err(SoapFault::device(index, "operation")),
        };
        let Some(device) = change.child("device") else { return Err(SoapFault::device(index, "device")) };
        let kind = device.type_name().unwrap_or_default();
        let key = device.number("key").unwrap_or(-1);
        if let Some(kind) = ControllerKind::ALL.into_iter().find(|known| known.type_name() == kind) {
            if kind.is_scsi() && device.text_of("sharedBus").is_none() {
                return Err(SoapFault::device(index, "sharedBus"));
            }
            let bus = device.number("busNumber").unwrap_or(0);
            self.controllers.push(SpecController { index, key, kind, bus });
        } else if kind == "VirtualDisk" {
            let create = change.text_of("fileOperation") == Some("create");
            self.disks.push(read_disk(index, operation, create, key, device)?);
        } else if let Some(model) = NicModel::ALL.into_iter().find(|known| known.type_name() == kind) {
            self.nics.push(read_nic(index, model, device)?);
        } else if kind.is_empty() || kind == "VirtualDevice" {
            return Err(SoapFault::device(index, "device"));
        }
        Ok(())
    }
}

fn read_disk(index: usize, operation: Operation, create: bool, key: i32, device: &Node) -> Result<SpecDisk, SoapFault> {
    let in_kb = device.number::<u64>("capacityInKB").unwrap_or(0);
    let in_bytes = device.number::<u64>("capacityInBytes");
    if in_bytes.is_some_and(|bytes| in_kb != 0 && bytes.div_ceil(1024) != in_kb) {
        return Err(SoapFault::device(index, "capacityInBytes"));
    }
    let mut disk = SpecDisk {
        index,
        operation,
        create,
        key,
        controller_key: device.number("controllerKey").unwrap_or(i32::MIN),
        unit: device.number("unitNumber").unwrap_or(0),
        capacity: in_bytes.unwrap_or(in_kb.saturating_mul(1024)),
        file_name: String::new(),
        mode: DiskMode::Persistent,
        thin: false,
        uuid: None,
    };
    let Some(backing) = device.child("backing") else {
        return if operation == Operation::Edit { Ok(disk) } else { Err(SoapFault::device(index, "backing")) };
    };
    if backing.type_name() != Some("VirtualDiskFlatVer2BackingInfo") {
        return Err(SoapFault::device(index, "backing"));
    }
    backing.text_of("fileName").unwrap_or_default().clone_into(&mut disk.file_name);
    disk.mode = match backing.text_of("diskMode") {
        Some("persistent") => DiskMode::Persistent,
        Some("independent_persistent") => DiskMode::IndependentPersistent,
        Some("independent_nonpersistent") => DiskMode::IndependentNonpersistent,
        _ => return Err(SoapFault::device(index, "backing.diskMode")),
    };
    disk.thin = backing.flag("thinProvisioned");
    disk.uuid = match backing.text_of("uuid") {
        None | Some("") => None,
        Some(text) => Some(Uuid::parse_str(text).map_err(|_| SoapFault::device(index, "backing.uuid"))?),
    };
    Ok(disk)
}

fn read_nic(index: usize, model: NicModel, device: &Node) -> Result<SpecNic, SoapFault> {
    let backing = device.child("backing").and_then(|backing| backing.text_of("deviceName"));
    let Some(network) = backing else { return Err(SoapFault::device(index, "backing")) };
    let mac = match (device.text_of("addressType"), device.text_of("macAddress")) {
        (Some("manual" | "Manual"), Some(mac)) if is_mac(mac) => Some(mac.to_lowercase()),
        (Some("manual" | "Manual"), _) => return Err(SoapFault::device(index, "macAddress")),
        _ => None,
    };
    let connectable = device.child("connectable");
    Ok(SpecNic {
        index,
        model,
        network: network.to_owned(),
        mac,
        start_connected: connectable.is_none_or(|connectable| connectable.flag("startConnected")),
    })
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit()))
}
