//! Parts of machines: what kinds there are, how they hang together, which values they begin with.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::machine::{Part, guid};
use super::model::value::Value;

pub(crate) const RASD: &str = "Msvm_ResourceAllocationSettingData";
pub(crate) const SASD: &str = "Msvm_StorageAllocationSettingData";
pub(crate) const NIC: &str = "Msvm_SyntheticEthernetPortSettingData";
pub(crate) const LEGACY_NIC: &str = "Msvm_EmulatedEthernetPortSettingData";
pub(crate) const CONNECTION: &str = "Msvm_EthernetPortAllocationSettingData";
pub(crate) const MEMORY: &str = "Msvm_MemorySettingData";
pub(crate) const PROCESSOR: &str = "Msvm_ProcessorSettingData";
/// Local ids that every machine has in common, as on a real host.
const IDE_LOCAL: &str = "83F8638B-8DCA-4152-9EDA-2CA8B33039B4";
const MEMORY_LOCAL: &str = "4764334D-E001-4176-82EE-5594EC9B530E";
const PROCESSOR_LOCAL: &str = "B637F346-6A0E-4DEC-AF52-BD70CB80A21D\\0";

/// Roles of parts, by which they hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// With so many places.
    Controller(u64),
    Drive,
    /// A file in a drive.
    Image,
    Adapter,
    /// An adapter's way to a switch.
    Connection,
    Unit,
}

/// A kind of parts.
#[derive(Debug)]
pub(crate) struct Kind {
    pub class: &'static str,
    pub resource_type: u64,
    pub sub_type: &'static str,
    pub name: &'static str,
    pub role: Role,
}

const fn kind(class: &'static str, resource_type: u64, sub_type: &'static str, name: &'static str, role: Role) -> Kind {
    Kind { class, resource_type, sub_type, name, role }
}

pub(crate) const IDE: &str = "Microsoft:Hyper-V:Emulated IDE Controller";
pub(crate) const SCSI: &str = "Microsoft:Hyper-V:Synthetic SCSI Controller";
pub(crate) const DRIVE: &str = "Microsoft:Hyper-V:Synthetic Disk Drive";
pub(crate) const PHYSICAL_DRIVE: &str = "Microsoft:Hyper-V:Physical Disk Drive";
pub(crate) const HARD_DISK: &str = "Microsoft:Hyper-V:Virtual Hard Disk";
const ADAPTER: &str = "Microsoft:Hyper-V:Synthetic Ethernet Port";
const ETHERNET: &str = "Microsoft:Hyper-V:Ethernet Connection";

/// All kinds. The resource types are those of `CIM_ResourceAllocationSettingData`.
static KINDS: [Kind; 12] = [
    kind(RASD, 5, IDE, "IDE Controller", Role::Controller(2)),
    kind(RASD, 6, SCSI, "SCSI Controller", Role::Controller(64)),
    kind(RASD, 17, DRIVE, "Hard Drive", Role::Drive),
    kind(RASD, 17, PHYSICAL_DRIVE, "Physical Disk Drive", Role::Drive),
    kind(RASD, 16, "Microsoft:Hyper-V:Synthetic DVD Drive", "DVD Drive", Role::Drive),
    kind(SASD, 31, HARD_DISK, "Hard Disk Image", Role::Image),
    kind(SASD, 31, "Microsoft:Hyper-V:Virtual CD/DVD Disk", "ISO Disk Image", Role::Image),
    kind(NIC, 10, ADAPTER, "Network Adapter", Role::Adapter),
    kind(LEGACY_NIC, 10, "Microsoft:Hyper-V:Emulated Ethernet Port", "Legacy Network Adapter", Role::Adapter),
    kind(CONNECTION, 33, ETHERNET, "Dynamic Ethernet Switch Port", Role::Connection),
    kind(MEMORY, 4, "Microsoft:Hyper-V:Memory", "Memory", Role::Unit),
    kind(PROCESSOR, 3, "Microsoft:Hyper-V:Processor", "Processor", Role::Unit),
];

/// The kind of a class and sub type.
pub(crate) fn find(class: &str, sub_type: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.class == class && kind.sub_type == sub_type)
}

/// The role of a part.
pub(crate) fn role(part: &Part) -> Role {
    find(&part.class, part.sub_type()).map_or(Role::Unit, |kind| kind.role)
}

impl Kind {
    /// A part of this kind.
    pub fn part(&self, local: String, parent: Option<&str>) -> Part {
        let values = [
            ("Caption", Value::from(self.name)),
            ("Description", Value::from(format!("Settings for the Microsoft {}.", self.name))),
            ("ElementName", self.name.into()),
            ("ResourceType", self.resource_type.into()),
            ("ResourceSubType", self.sub_type.into()),
            ("AutomaticAllocation", true.into()),
            ("AutomaticDeallocation", true.into()),
            ("ConsumerVisibility", 3u64.into()),
            ("PoolID", "".into()),
            ("VirtualQuantity", 1u64.into()),
            ("Weight", 0u64.into()),
        ];
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>();
        let parent = parent.map(str::to_owned);
        Part { class: self.class.to_owned(), local, parent, values, backing: None, switch: None }
    }
}

fn known(class: &str, sub_type: &str) -> &'static Kind {
    find(class, sub_type).expect("a kind of the table")
}

/// A controller.
pub(crate) fn controller(sub_type: &str, number: usize) -> Part {
    let local = match sub_type {
        IDE => format!("{IDE_LOCAL}\\{number}"),
        _ => format!("{}\\0", guid(Uuid::new_v4())),
    };
    let mut part = known(RASD, sub_type).part(local, None);
    part.values.insert("Address".to_owned(), number.to_string().into());
    part.values.insert("ElementName".to_owned(), format!("{} {number}", known(RASD, sub_type).name).into());
    part
}

/// A drive at a place of a controller.
pub(crate) fn drive(sub_type: &str, controller: &Part, place: u64) -> Part {
    let mut part = known(RASD, sub_type).part(format!("{}\\{place}\\D", controller.local), Some(&controller.local));
    part.values.insert("AddressOnParent".to_owned(), place.to_string().into());
    part
}

/// The local id of what is in a drive.
pub(crate) fn image_local(drive: &str) -> String {
    drive.strip_suffix("\\D").unwrap_or(drive).to_owned() + "\\L"
}

/// What is in a drive, without its file.
pub(crate) fn image(sub_type: &str, drive: &Part) -> Part {
    known(SASD, sub_type).part(image_local(&drive.local), Some(&drive.local))
}

/// An adapter; `mac` is 12 hexadecimal digits.
pub(crate) fn adapter(mac: &str) -> Part {
    let mut part = known(NIC, ADAPTER).part(guid(Uuid::new_v4()), None);
    part.values.insert("Address".to_owned(), mac.into());
    part.values.insert("StaticMacAddress".to_owned(), false.into());
    let id = format!("{{{}}}", guid(Uuid::new_v4()));
    part.values.insert("VirtualSystemIdentifiers".to_owned(), vec![id].into());
    part
}

/// An adapter's connection to a switch.
pub(crate) fn connection(adapter: &Part, switch: Option<Uuid>) -> Part {
    let mut part = known(CONNECTION, ETHERNET).part(format!("{}\\C", adapter.local), Some(&adapter.local));
    part.values.insert("EnabledState".to_owned(), if switch.is_some() { 2u64 } else { 3 }.into());
    part.switch = switch;
    part
}

/// Memory and processors.
pub(crate) fn units(memory_mib: u64, processors: u32) -> [Part; 2] {
    let mut memory = known(MEMORY, "Microsoft:Hyper-V:Memory").part(MEMORY_LOCAL.to_owned(), None);
    let mut set = |name: &str, value: Value| memory.values.insert(name.to_owned(), value);
    set("VirtualQuantity", memory_mib.into());
    set("Reservation", memory_mib.into());
    set("Limit", 1_048_576u64.into());
    set("AllocationUnits", "byte * 2^20".into());
    set("DynamicMemoryEnabled", false.into());
    set("TargetMemoryBuffer", 20u64.into());
    set("Weight", 5000u64.into());
    let mut processor = known(PROCESSOR, "Microsoft:Hyper-V:Processor").part(PROCESSOR_LOCAL.to_owned(), None);
    let mut set = |name: &str, value: Value| processor.values.insert(name.to_owned(), value);
    set("VirtualQuantity", u64::from(processors).into());
    set("Reservation", 0u64.into());
    set("Limit", 100_000u64.into());
    set("AllocationUnits", "percent / 1000".into());
    set("LimitProcessorFeatures", false.into());
    set("Weight", 100u64.into());
    [memory, processor]
}
