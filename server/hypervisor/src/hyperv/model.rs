//! The rows that describe machines: settings and their parts, as a host lists them.
//!
//! Parts belong to settings by their `InstanceID`: `Microsoft:<settings>\<device>\…`. Lists are read whole and filtered
//! here: hosts refuse some filters, and one reading serves all machines.

use super::wire::{CallError, Wsman};
use super::wmi::{Instance, Namespace, Reference, query};
use crate::MachineRef;
use futures_util::future::try_join_all;

pub(super) const COMPUTER_SYSTEM: &str = "Msvm_ComputerSystem";
pub(super) const SETTINGS: &str = "Msvm_VirtualSystemSettingData";
pub(super) const RESOURCE: &str = "Msvm_ResourceAllocationSettingData";
pub(super) const STORAGE: &str = "Msvm_StorageAllocationSettingData";
pub(super) const PROCESSOR: &str = "Msvm_ProcessorSettingData";
pub(super) const MEMORY: &str = "Msvm_MemorySettingData";
pub(super) const SYNTHETIC_PORT: &str = "Msvm_SyntheticEthernetPortSettingData";
pub(super) const EMULATED_PORT: &str = "Msvm_EmulatedEthernetPortSettingData";
pub(super) const CONNECTION: &str = "Msvm_EthernetPortAllocationSettingData";
pub(super) const SWITCH: &str = "Msvm_VirtualEthernetSwitch";
pub(super) const SECURITY: &str = "Msvm_SecuritySettingData";
pub(super) const VLAN: &str = "Msvm_EthernetSwitchPortVlanSettingData";
/// Classes without which a machine can be described all the same.
const OPTIONAL: [&str; 3] = [EMULATED_PORT, SECURITY, VLAN];
pub(super) const REFERENCE_POINT: &str = "Msvm_VirtualSystemReferencePoint";

pub(super) const MANAGEMENT_SERVICE: &str = "Msvm_VirtualSystemManagementService";
pub(super) const SNAPSHOT_SERVICE: &str = "Msvm_VirtualSystemSnapshotService";
pub(super) const REFERENCE_POINT_SERVICE: &str = "Msvm_VirtualSystemReferencePointService";
pub(super) const IMAGE_SERVICE: &str = "Msvm_ImageManagementService";

/// `VirtualSystemType` of a machine's own settings, and of its checkpoints.
pub(super) const REALIZED: &str = "Microsoft:Hyper-V:System:Realized";
pub(super) const CHECKPOINT_PREFIX: &str = "Microsoft:Hyper-V:Snapshot:";
pub(super) const RECOVERY_CHECKPOINT: &str = "Microsoft:Hyper-V:Snapshot:Recovery";

pub(super) const IDE_CONTROLLER: &str = "Microsoft:Hyper-V:Emulated IDE Controller";
pub(super) const SCSI_CONTROLLER: &str = "Microsoft:Hyper-V:Synthetic SCSI Controller";
pub(super) const DISK_DRIVE: &str = "Microsoft:Hyper-V:Synthetic Disk Drive";
pub(super) const PHYSICAL_DRIVE: &str = "Microsoft:Hyper-V:Physical Disk Drive";
pub(super) const VIRTUAL_DISK: &str = "Microsoft:Hyper-V:Virtual Hard Disk";

/// All rows of the classes that make up machines.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub systems: Vec<Instance>,
    pub settings: Vec<Instance>,
    pub resources: Vec<Instance>,
    pub storage: Vec<Instance>,
    pub processors: Vec<Instance>,
    pub memories: Vec<Instance>,
    pub ports: Vec<Instance>,
    pub connections: Vec<Instance>,
    pub switches: Vec<Instance>,
    pub security: Vec<Instance>,
    pub vlans: Vec<Instance>,
}

impl Rows {
    pub(super) async fn fetch(wsman: &dyn Wsman) -> Result<Self, CallError> {
        let classes = [
            COMPUTER_SYSTEM,
            SETTINGS,
            RESOURCE,
            STORAGE,
            PROCESSOR,
            MEMORY,
            SYNTHETIC_PORT,
            EMULATED_PORT,
            CONNECTION,
            SWITCH,
            SECURITY,
            VLAN,
        ];
        let lists = try_join_all(classes.map(|class| list(wsman, class))).await?;
        let mut rows = Self::default();
        for (class, mut list) in classes.into_iter().zip(lists) {
            let place = match class {
                COMPUTER_SYSTEM => &mut rows.systems,
                SETTINGS => &mut rows.settings,
                RESOURCE => &mut rows.resources,
                STORAGE => &mut rows.storage,
                PROCESSOR => &mut rows.processors,
                MEMORY => &mut rows.memories,
                CONNECTION => &mut rows.connections,
                SWITCH => &mut rows.switches,
                SECURITY => &mut rows.security,
                VLAN => &mut rows.vlans,
                _ => &mut rows.ports,
            };
            place.append(&mut list);
        }
        Ok(rows)
    }

    /// The machine's own settings.
    pub(super) fn realized(&self, machine: &str) -> Option<&Instance> {
        self.settings.iter().find(|row| is_of(row, machine) && row.word("VirtualSystemType") == REALIZED)
    }

    /// The machine itself, and nothing for the host's own row.
    pub(super) fn system(&self, machine: &str) -> Option<&Instance> {
        self.systems.iter().find(|row| is_machine(row) && row.word("Name").eq_ignore_ascii_case(machine))
    }

    /// Settings by their `InstanceID`.
    pub(super) fn settings_of(&self, instance_id: &str) -> Option<&Instance> {
        self.settings.iter().find(|row| row.instance_id().eq_ignore_ascii_case(instance_id))
    }
}

/// The host's own row has its name where machines have a GUID; its caption is in the host's language.
pub(super) fn is_machine(system: &Instance) -> bool {
    uuid::Uuid::parse_str(system.word("Name")).is_ok()
}

pub(super) fn is_of(settings: &Instance, machine: &str) -> bool {
    settings.word("VirtualSystemIdentifier").eq_ignore_ascii_case(machine)
}

/// All rows of a class of Hyper-V.
pub(super) async fn all(wsman: &dyn Wsman, class: &str) -> Result<Vec<Instance>, CallError> {
    query(wsman, Namespace::Virtualization, &format!("SELECT * FROM {class}")).await
}

/// The same; classes that not every version of Windows has are empty where they are missing.
async fn list(wsman: &dyn Wsman, class: &str) -> Result<Vec<Instance>, CallError> {
    match all(wsman, class).await {
        Err(CallError::Fault(fault)) if OPTIONAL.contains(&class) && fault.is_missing_class() => Ok(Vec::new()),
        other => other,
    }
}

/// The parts of some settings.
pub(super) fn parts<'a>(rows: &'a [Instance], settings_id: &'a str) -> impl Iterator<Item = &'a Instance> {
    rows.iter().filter(move |row| tail(row.instance_id(), settings_id).is_some())
}

/// What follows the settings' own id: the device, the same in a machine and in its checkpoints.
pub(super) fn tail<'a>(instance_id: &'a str, settings_id: &str) -> Option<&'a str> {
    let (start, rest) = instance_id.split_at_checked(settings_id.len())?;
    rest.strip_prefix('\\').filter(|rest| start.eq_ignore_ascii_case(settings_id) && !rest.is_empty())
}

/// What follows the first part of an id, whatever settings it belongs to.
pub(super) fn any_tail(instance_id: &str) -> Option<&str> {
    instance_id.split_once('\\').map(|(_, tail)| tail)
}

/// The `InstanceID` a property refers to, by a WMI path in text or by a reference.
pub(super) fn parent_id(row: &Instance, property: &str) -> Option<String> {
    if let Some(reference) = row.reference(property) {
        return reference.selector("InstanceID").map(str::to_owned);
    }
    key_of_path(row.text(property)?, "InstanceID")
}

/// A key's value within a WMI path, e.g. `\\HOST\root\virtualization\v2:Class.InstanceID="Microsoft:…\\0"`.
pub(super) fn key_of_path(path: &str, key: &str) -> Option<String> {
    let marker = format!("{key}=\"");
    let at = path.to_ascii_lowercase().find(&marker.to_ascii_lowercase())?;
    // `Name="` is also the end of `CreationClassName="`.
    let rest = path.get(at..)?;
    let before = path.get(..at)?.chars().last();
    if before.is_some_and(char::is_alphanumeric) {
        return key_of_path(rest.get(marker.len()..)?, key);
    }
    let mut value = String::new();
    let mut letters = rest.get(marker.len()..)?.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return Some(value),
            '\\' => value.push(letters.next()?),
            letter => value.push(letter),
        }
    }
    None
}

/// A relative WMI path, its keys' backslashes doubled.
pub(super) fn wmi_path(class: &str, keys: &[(&str, &str)]) -> String {
    let keys: Vec<String> = keys
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
        .collect();
    format!("root/virtualization/v2:{class}.{}", keys.join(","))
}

pub(super) fn machine_reference(machine: &MachineRef) -> Reference {
    let keys = [("CreationClassName", COMPUTER_SYSTEM), ("Name", machine.0.as_str())];
    Reference::new(Namespace::Virtualization.uri(COMPUTER_SYSTEM), &keys)
}

pub(super) fn instance_reference(class: &str, instance_id: &str) -> Reference {
    Reference::new(Namespace::Virtualization.uri(class), &[("InstanceID", instance_id)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_belong_to_their_settings_by_id() {
        let row = |id: &str| Instance::of("X", &[("InstanceID", id)]);
        let rows = [row("Microsoft:A\\dev\\0"), row("Microsoft:AB\\dev"), row("Microsoft:A"), row("microsoft:a\\x")];
        let found: Vec<&str> = parts(&rows, "Microsoft:A").map(Instance::instance_id).collect();
        assert_eq!(found, ["Microsoft:A\\dev\\0", "microsoft:a\\x"]);
        assert_eq!(any_tail("Microsoft:A\\dev\\0"), Some("dev\\0"));
    }

    #[test]
    fn wmi_paths_are_written_and_read() {
        let path = wmi_path(RESOURCE, &[("InstanceID", "Microsoft:A\\b\\0")]);
        assert_eq!(
            path,
            "root/virtualization/v2:Msvm_ResourceAllocationSettingData.InstanceID=\"Microsoft:A\\\\b\\\\0\""
        );
        assert_eq!(key_of_path(&path, "InstanceID").unwrap(), "Microsoft:A\\b\\0");
        let switch = r#"\\HV1\root\virtualization\v2:Msvm_VirtualEthernetSwitch.CreationClassName="C",Name="G-1""#;
        assert_eq!(key_of_path(switch, "Name").unwrap(), "G-1");
        assert_eq!(key_of_path(switch, "CreationClassName").unwrap(), "C");
        for broken in ["", "Name=", "Name=\"open", "Other=\"x\"", "Name=\"x\\"] {
            assert_eq!(key_of_path(broken, "Name"), None, "{broken}");
        }
    }
}
