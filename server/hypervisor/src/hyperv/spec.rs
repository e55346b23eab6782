//! The definition of a machine to make, as embedded instances with the changed properties only.

use super::machine::{EMULATED_MODEL, volume_of};
use super::model::{
    CONNECTION, DISK_DRIVE, EMULATED_PORT, MEMORY, PROCESSOR, RESOURCE, SCSI_CONTROLLER, SETTINGS, STORAGE, SWITCH,
    SYNTHETIC_PORT, VIRTUAL_DISK, VLAN, wmi_path,
};
use super::wmi::{Embedded, Instance, Kind};
use crate::RestoreRequest;
use domain::machine::{Firmware, MachineConfig, NetworkAdapter};

/// Longest name of a machine that Hyper-V takes.
pub(super) const MAX_NAME_CHARS: usize = 100;
/// Memory is given out in steps of two MiB.
const MEMORY_STEP_MIB: u64 = 2;
const LEAST_MEMORY_MIB: u64 = 32;
/// CIM's resource types.
const SCSI_TYPE: u16 = 6;
const ETHERNET_TYPE: u16 = 10;
const DRIVE_TYPE: u16 = 17;
const STORAGE_TYPE: u16 = 31;
const CONNECTION_TYPE: u16 = 33;

const BOOT_SOURCE: &str = "Msvm_BootSourceSettingData";
const SYNTHETIC_ETHERNET: &str = "Microsoft:Hyper-V:Synthetic Ethernet Port";
const EMULATED_ETHERNET: &str = "Microsoft:Hyper-V:Emulated Ethernet Port";
const ETHERNET_CONNECTION: &str = "Microsoft:Hyper-V:Ethernet Connection";

/// `DefineSystem`'s settings.
pub(super) fn settings(request: &RestoreRequest, folder: &str, disks: usize) -> Embedded {
    let config = &request.config;
    let is_efi = config.firmware == Firmware::Efi;
    let kept = config.bios_uuid.as_ref().filter(|_| request.keep_identity);
    let own = config.hyperv.clone().unwrap_or_default();
    let template = own.secure_boot_template.filter(|id| is_efi && uuid::Uuid::parse_str(id).is_ok());
    let boot_order: Vec<String> = own.boot_order.iter().filter(|_| !is_efi).map(u16::to_string).collect();
    let boot_order: Vec<&str> = boot_order.iter().map(String::as_str).collect();
    Embedded::new(SETTINGS)
        .property("ElementName", Kind::Text, &request.name)
        .property(
            "VirtualSystemSubType",
            Kind::Text,
            format!("Microsoft:Hyper-V:SubType:{}", if is_efi { 2 } else { 1 }),
        )
        .property("ConfigurationDataRoot", Kind::Text, folder)
        .property("SnapshotDataRoot", Kind::Text, folder)
        .property("SwapFileDataRoot", Kind::Text, folder)
        .array("Notes", Kind::Text, &[&notes(&config.notes, &request.token, disks)])
        .maybe("BIOSGUID", Kind::Text, kept.map(|id| format!("{{{}}}", id.to_uppercase())))
        .maybe("SecureBootEnabled", Kind::Flag, is_efi.then_some(config.secure_boot))
        .maybe("SecureBootTemplateId", Kind::Text, template)
        .maybe("AutomaticStartupAction", Kind::U16, own.automatic_start)
        .maybe("AutomaticShutdownAction", Kind::U16, own.automatic_stop)
        .maybe("UserSnapshotType", Kind::U16, own.checkpoint_type)
        .array("BootOrder", Kind::U16, &boot_order)
}

/// The notes, and the mark of a restore: by it a machine that was left half-made is found, and how many disks it has.
fn notes(notes: &str, token: &str, disks: usize) -> String {
    let mark = format!("{}{disks} disks)", token_mark(token));
    if notes.is_empty() { mark } else { format!("{notes}\n\n{mark}") }
}

fn token_mark(token: &str) -> String {
    format!("Restored by Stillframe ({token}, ")
}

/// How many disks the restore with this token was to write; `None` when the notes are not its.
pub(super) fn disks_of_token(notes: &str, token: &str) -> Option<usize> {
    let rest = notes.split_once(&token_mark(token))?.1;
    rest.split_once(" disks)")?.0.parse().ok()
}

pub(super) fn memory(instance_id: &str, config: &MachineConfig) -> Embedded {
    let step = |mib: u64| mib.max(LEAST_MEMORY_MIB).next_multiple_of(MEMORY_STEP_MIB);
    let own = config.hyperv.as_ref();
    let dynamic = own.and_then(|own| own.dynamic_memory);
    Embedded::new(MEMORY)
        .property("InstanceID", Kind::Text, instance_id)
        .property("DynamicMemoryEnabled", Kind::Flag, dynamic.is_some())
        .property("VirtualQuantity", Kind::U64, step(config.memory_mib))
        .maybe("Reservation", Kind::U64, dynamic.map(|memory| step(memory.minimum_mib)))
        .maybe("Limit", Kind::U64, dynamic.map(|memory| step(memory.maximum_mib)))
        .maybe("TargetMemoryBuffer", Kind::U32, dynamic.map(|memory| memory.buffer_percent))
        .maybe("Weight", Kind::U32, own.and_then(|own| own.memory_weight))
}

pub(super) fn processors(instance_id: &str, config: &MachineConfig) -> Embedded {
    let own = config.hyperv.clone().unwrap_or_default();
    Embedded::new(PROCESSOR)
        .property("InstanceID", Kind::Text, instance_id)
        .property("VirtualQuantity", Kind::U64, config.processors.max(1))
        .maybe("Reservation", Kind::U64, own.processor_reservation)
        .maybe("Limit", Kind::U64, own.processor_limit)
        .maybe("Weight", Kind::U32, own.processor_weight)
        .maybe("LimitProcessorFeatures", Kind::Flag, own.limit_processor_features.then_some(true))
        .maybe("ExposeVirtualizationExtensions", Kind::Flag, own.nested_virtualization.then_some(true))
}

/// The VLAN of a connection, in access mode.
pub(super) fn vlan(id: u16) -> Embedded {
    Embedded::new(VLAN).property("OperationMode", Kind::U32, 1).property("AccessVlanId", Kind::U16, id)
}

/// What generation 2 starts first: the entry that the host made for a drive.
pub(super) fn boot_first(settings_id: &str, drive_id: &str) -> Embedded {
    let entry = wmi_path(BOOT_SOURCE, &[("InstanceID", &format!("{drive_id}\\B"))]);
    Embedded::new(SETTINGS).property("InstanceID", Kind::Text, settings_id).array(
        "BootSourceOrder",
        Kind::Text,
        &[&entry],
    )
}

pub(super) fn scsi_controller() -> Embedded {
    Embedded::new(RESOURCE).property("ResourceType", Kind::U16, SCSI_TYPE).property(
        "ResourceSubType",
        Kind::Text,
        SCSI_CONTROLLER,
    )
}

pub(super) fn drive(controller_id: &str, unit: i32) -> Embedded {
    Embedded::new(RESOURCE)
        .property("ResourceType", Kind::U16, DRIVE_TYPE)
        .property("ResourceSubType", Kind::Text, DISK_DRIVE)
        .property("Parent", Kind::Text, wmi_path(RESOURCE, &[("InstanceID", controller_id)]))
        .property("AddressOnParent", Kind::Text, unit)
}

pub(super) fn disk(drive_id: &str, path: &str) -> Embedded {
    Embedded::new(STORAGE)
        .property("ResourceType", Kind::U16, STORAGE_TYPE)
        .property("ResourceSubType", Kind::Text, VIRTUAL_DISK)
        .property("Parent", Kind::Text, wmi_path(RESOURCE, &[("InstanceID", drive_id)]))
        .array("HostResource", Kind::Text, &[path])
}

/// A network adapter; generation 2 has none of the emulated kind.
pub(super) fn port(adapter: &NetworkAdapter, request: &RestoreRequest) -> Embedded {
    let is_emulated = adapter.model == EMULATED_MODEL && request.config.firmware == Firmware::Bios;
    let (class, sub_type) =
        if is_emulated { (EMULATED_PORT, EMULATED_ETHERNET) } else { (SYNTHETIC_PORT, SYNTHETIC_ETHERNET) };
    let mac = adapter.mac.as_ref().filter(|_| request.keep_identity);
    Embedded::new(class)
        .property("ResourceType", Kind::U16, ETHERNET_TYPE)
        .property("ResourceSubType", Kind::Text, sub_type)
        .property("ElementName", Kind::Text, "Network Adapter")
        .maybe("StaticMacAddress", Kind::Flag, mac.map(|_| true))
        .maybe("Address", Kind::Text, mac.map(|mac| mac.replace(':', "").to_uppercase()))
}

pub(super) fn connection(port: &Instance, switch_id: &str) -> Embedded {
    let class = if port.class.is_empty() { SYNTHETIC_PORT } else { port.class.as_str() };
    let switch = wmi_path(SWITCH, &[("CreationClassName", SWITCH), ("Name", switch_id)]);
    Embedded::new(CONNECTION)
        .property("ResourceType", Kind::U16, CONNECTION_TYPE)
        .property("ResourceSubType", Kind::Text, ETHERNET_CONNECTION)
        .property("Parent", Kind::Text, wmi_path(class, &[("InstanceID", port.instance_id())]))
        .array("HostResource", Kind::Text, &[&switch])
}

/// The switch an adapter is attached to: the chosen one, or the one of its old name.
pub(super) fn switch_for<'a>(
    adapter: &NetworkAdapter,
    request: &RestoreRequest,
    switches: &'a [Instance],
) -> Option<&'a str> {
    if !request.connect_network {
        return None;
    }
    let wanted = request.network.as_ref().unwrap_or(&adapter.network);
    let switch = switches.iter().find(|row| row.word("ElementName") == wanted)?;
    switch.text("Name")
}

/// The folder of a new machine: below the host's own default where that is on the chosen volume.
pub(super) fn folder(request: &RestoreRequest, default: &str) -> Option<String> {
    let wanted = request.datastore.trim_end_matches('\\');
    let volume = volume_of(wanted)?;
    let parent = if wanted.len() > volume.len() {
        wanted.to_owned()
    } else if volume_of(default).as_ref() == Some(&volume) {
        default.trim_end_matches('\\').to_owned()
    } else {
        format!("{volume}\\Hyper-V")
    };
    let short: String = request.token.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    Some(format!("{parent}\\{} {short}", file_name(&request.name)))
}

pub(super) fn disk_path(folder: &str, place: usize) -> String {
    format!("{folder}\\disk{place}.vhdx")
}

/// A name that Windows takes for a folder.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_control() || "<>:\"/\\|?*".contains(c) { '_' } else { c };
    let text: String = name.chars().map(plain).take(60).collect();
    let text = text.trim_matches([' ', '.']);
    if text.is_empty() { "machine".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperv::snapshot::tests::snapshot_with;
    use domain::machine::{DynamicMemory, HyperVSettings};

    pub(super) fn request() -> RestoreRequest {
        RestoreRequest {
            config: snapshot_with(Vec::new()).config,
            name: "r & <d>".into(),
            datastore: "D:".into(),
            network: None,
            connect_network: true,
            keep_identity: false,
            token: "0123456789abcdef".into(),
        }
    }

    #[test]
    fn identity_is_kept_only_when_asked_for() {
        let mut request = request();
        request.config.bios_uuid = Some("11112222-3333-4444-5555-666677778888".into());
        request.config.secure_boot = true;
        request.config.hyperv = Some(HyperVSettings {
            generation: 2,
            secure_boot_template: Some("1734c6e8-3154-4dda-ba5f-a874cc483422".into()),
            ..HyperVSettings::default()
        });
        let copy = settings(&request, "D:\\vm", 2).into_text();
        assert!(copy.contains("<VALUE>r &amp; &lt;d&gt;</VALUE>") && copy.contains("SubType:2"));
        assert!(copy.contains("NAME=\"SecureBootEnabled\" TYPE=\"boolean\"><VALUE>true"));
        assert!(copy.contains("1734c6e8-3154-4dda-ba5f-a874cc483422"));
        assert!(!copy.contains("BIOSGUID"));
        let adapter = NetworkAdapter {
            key: 4000,
            model: "Synthetic".into(),
            network: "LAN".into(),
            mac: Some("00:15:5d:01:02:0a".into()),
            connect_at_power_on: true,
            vlan: None,
        };
        assert!(!port(&adapter, &request).into_text().contains("Address\""));
        request.keep_identity = true;
        assert!(settings(&request, "D:\\vm", 2).into_text().contains("{11112222-3333-4444-5555-666677778888}"));
        let kept = port(&adapter, &request).into_text();
        assert!(kept.contains("NAME=\"Address\" TYPE=\"string\"><VALUE>00155D01020A</VALUE>"), "{kept}");
    }

    #[test]
    fn a_half_made_machine_is_known_by_its_token_alone() {
        let text = notes("of the operator", "t-1", 3);
        assert_eq!(disks_of_token(&text, "t-1"), Some(3));
        assert_eq!(disks_of_token(&text, "t"), None);
        assert_eq!(disks_of_token(&text, "t-12"), None);
        assert_eq!(disks_of_token("of the operator", "t-1"), None);
    }

    #[test]
    fn machines_get_a_folder_of_their_own() {
        let mut request = request();
        assert_eq!(folder(&request, "C:\\VMs").unwrap(), "D:\\Hyper-V\\r & _d_ 01234567");
        assert_eq!(folder(&request, "d:\\VMs\\").unwrap(), "d:\\VMs\\r & _d_ 01234567");
        request.datastore = "E:\\fast\\".into();
        request.name = "..".into();
        assert_eq!(folder(&request, "C:\\VMs").unwrap(), "E:\\fast\\machine 01234567");
        request.datastore = "\\\\server\\share".into();
        assert_eq!(folder(&request, "C:\\VMs"), None);
    }

    #[test]
    fn paths_within_properties_have_their_backslashes_doubled() {
        let text = drive("Microsoft:A\\c\\0", 3).into_text();
        assert!(text.contains("InstanceID=\"Microsoft:A\\\\c\\\\0\"</VALUE>"), "{text}");
        assert!(text.contains("NAME=\"AddressOnParent\" TYPE=\"string\"><VALUE>3</VALUE>"));
    }

    #[test]
    fn memory_is_given_in_steps() {
        let text = |memory_mib: u64| memory("M", &MachineConfig { memory_mib, ..MachineConfig::default() }).into_text();
        assert!(text(1001).contains("<VALUE>1002</VALUE>") && text(1001).contains("<VALUE>false</VALUE>"));
        assert!(text(0).contains("<VALUE>32</VALUE>"));
        let dynamic = DynamicMemory { minimum_mib: 511, maximum_mib: 4096, buffer_percent: 20 };
        let hyperv = Some(HyperVSettings { dynamic_memory: Some(dynamic), ..HyperVSettings::default() });
        let text = memory("M", &MachineConfig { memory_mib: 1024, hyperv, ..MachineConfig::default() }).into_text();
        assert!(text.contains("NAME=\"Reservation\" TYPE=\"uint64\"><VALUE>512</VALUE>"), "{text}");
        assert!(text.contains("NAME=\"DynamicMemoryEnabled\" TYPE=\"boolean\"><VALUE>true</VALUE>"));
    }
}
