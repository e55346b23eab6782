//! What a virtual machine is, in words both hypervisors share. Stored inside every restore point, so fields are only
//! ever added, each with a default.

use serde::{Deserialize, Serialize};

/// Everything that is needed to define the machine again on another host, apart from the contents of its disks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Display name on the host.
    pub name: String,
    /// The host's identifier for the guest operating system, e.g. `debian12_64Guest` (vSphere `guestId`).
    pub guest_id: String,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// UEFI secure boot.
    #[serde(default)]
    pub secure_boot: bool,
    /// Virtual processors.
    pub processors: u32,
    /// Memory in MiB; with dynamic memory what it starts with.
    pub memory_mib: u64,
    /// Virtual hardware version as the platform writes it, e.g. `vmx-19` or `9.0`.
    pub hardware_version: String,
    /// The machine's unique id on its platform (vSphere `instanceUuid`), kept on an in-place restore only.
    #[serde(default)]
    pub instance_uuid: Option<String>,
    /// The id the guest sees (SMBIOS UUID; vSphere `config.uuid`).
    #[serde(default)]
    pub bios_uuid: Option<String>,
    /// Free text of the operator.
    #[serde(default)]
    pub notes: String,
    /// Disk controllers, in the host's order.
    pub controllers: Vec<Controller>,
    /// Disks that were backed up, in the host's order.
    pub disks: Vec<DiskConfig>,
    /// Network adapters, in the host's order.
    pub adapters: Vec<NetworkAdapter>,
    /// What only Hyper-V knows; none for a machine of another platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hyperv: Option<HyperVSettings>,
}

/// Firmware of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// Legacy BIOS.
    #[default]
    Bios,
    /// UEFI.
    Efi,
}

/// A disk controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// The host's device key, to which [`DiskConfig::controller_key`] refers.
    pub key: i32,
    /// What it is.
    pub kind: ControllerKind,
    /// Bus number.
    pub bus: i32,
}

/// Kinds of disk controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControllerKind {
    /// VMware paravirtual SCSI.
    ParavirtualScsi,
    /// LSI Logic parallel SCSI.
    LsiLogic,
    /// LSI Logic SAS.
    LsiLogicSas,
    /// BusLogic SCSI.
    BusLogic,
    /// SATA (AHCI).
    Sata,
    /// NVMe.
    Nvme,
    /// IDE.
    Ide,
    /// Hyper-V's synthetic SCSI controller.
    #[serde(rename = "hyperv_scsi")]
    HyperVScsi,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// The host's device key (vSphere: 2000 and up). Identifies the disk within its machine.
    pub key: i32,
    /// What the host's own console calls it, e.g. `Hard disk 1`.
    pub label: String,
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// Key of its [`Controller`].
    pub controller_key: i32,
    /// Slot on the controller.
    pub unit: i32,
    /// The host's own unique id of the disk (vSphere `backing.uuid`), when it gives one.
    #[serde(default)]
    pub uuid: Option<String>,
    /// Thin provisioned on the source.
    #[serde(default)]
    pub thin: bool,
    /// Logical sector in bytes: 512 or 4096. A guest that was installed on one does not start from the other.
    #[serde(default = "default_sector_bytes", skip_serializing_if = "is_default_sector")]
    pub sector_bytes: u32,
}

/// What a disk has whose host does not say.
pub const SECTOR_BYTES_DEFAULT: u32 = 512;

const fn default_sector_bytes() -> u32 {
    SECTOR_BYTES_DEFAULT
}

// By reference because serde calls it so.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_default_sector(bytes: &u32) -> bool {
    *bytes == SECTOR_BYTES_DEFAULT
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            key: 0,
            label: String::new(),
            capacity_bytes: 0,
            controller_key: 0,
            unit: 0,
            uuid: None,
            thin: false,
            sector_bytes: SECTOR_BYTES_DEFAULT,
        }
    }
}

/// A network adapter of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkAdapter {
    /// The host's device key.
    pub key: i32,
    /// Adapter type as the platform writes it, e.g. `VirtualVmxnet3`.
    pub model: String,
    /// Name of the network it was attached to.
    pub network: String,
    /// MAC address, e.g. `00:50:56:01:02:03`.
    pub mac: Option<String>,
    /// Connected when the machine is powered on.
    pub connect_at_power_on: bool,
    /// VLAN id in access mode, where the platform keeps it with the adapter (Hyper-V); 1 to 4094.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

/// Settings of a machine that no other platform has, in `hyperv_v2`'s own numbers where it counts in them.
/// Source: `Msvm_VirtualSystemSettingData`, `Msvm_MemorySettingData`, `Msvm_ProcessorSettingData`,
/// `Msvm_SecuritySettingData`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HyperVSettings {
    /// 1 (BIOS, IDE) or 2 (UEFI): `VirtualSystemSubType`.
    pub generation: u8,
    /// Which keys secure boot trusts: `SecureBootTemplateId`, a GUID.
    pub secure_boot_template: Option<String>,
    /// A virtual TPM. Its keys stay with the host, so a restored guest may ask for its recovery key.
    pub tpm: bool,
    /// Memory grows and shrinks between two limits; none: it is fixed.
    pub dynamic_memory: Option<DynamicMemory>,
    /// `Weight` of its memory, 0 to 10 000; none: the host's own choice.
    pub memory_weight: Option<u32>,
    /// `Reservation` of its processors in 1/100 000.
    pub processor_reservation: Option<u64>,
    /// `Limit` of its processors in 1/100 000.
    pub processor_limit: Option<u64>,
    /// `Weight` of its processors.
    pub processor_weight: Option<u32>,
    /// `LimitProcessorFeatures`: may move to a host with other processors.
    pub limit_processor_features: bool,
    /// `ExposeVirtualizationExtensions`: may run virtual machines itself.
    pub nested_virtualization: bool,
    /// `AutomaticStartupAction`: 2 nothing, 3 as it was, 4 start.
    pub automatic_start: Option<u16>,
    /// `AutomaticShutdownAction`: 2 turn off, 3 save, 4 shut down.
    pub automatic_stop: Option<u16>,
    /// `UserSnapshotType`: 2 none, 3 production or else standard, 4 production only, 5 standard.
    pub checkpoint_type: Option<u16>,
    /// Generation 1 starts from these in turn: `BootOrder` (0 floppy, 1 CD, 2 IDE disk, 3 network).
    pub boot_order: Vec<u16>,
    /// Generation 2 starts from the disk with this [`DiskConfig::key`] first.
    pub boot_disk_key: Option<i32>,
}

impl Default for HyperVSettings {
    fn default() -> Self {
        Self {
            generation: 1,
            secure_boot_template: None,
            tpm: false,
            dynamic_memory: None,
            memory_weight: None,
            processor_reservation: None,
            processor_limit: None,
            processor_weight: None,
            limit_processor_features: false,
            nested_virtualization: false,
            automatic_start: None,
            automatic_stop: None,
            checkpoint_type: None,
            boot_order: Vec::new(),
            boot_disk_key: None,
        }
    }
}

/// Limits of a machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DynamicMemory {
    /// Never less, MiB.
    pub minimum_mib: u64,
    /// Never more, MiB.
    pub maximum_mib: u64,
    /// `TargetMemoryBuffer`: so much more than it needs, percent.
    pub buffer_percent: u32,
}

/// Power state of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// Running.
    On,
    /// Off.
    Off,
    /// Suspended to disk.
    Suspended,
}

impl PowerState {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Suspended => "suspended",
        }
    }
}

/// Whether the guest is asked to freeze its file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quiesce {
    /// Ask; a running machine whose guest did not freeze is not backed up.
    Require,
    /// Ask; if the host refuses, take a crash-consistent snapshot and say so.
    #[default]
    Prefer,
    /// Do not ask.
    Off,
}

impl Quiesce {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Require, Self::Prefer, Self::Off];

    /// The policy of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == word)
    }

    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
            Self::Off => "off",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As points of the first version hold it.
    const FIRST: &str = r#"{"name":"web","guest_id":"g","firmware":"efi","secure_boot":false,"processors":2,
        "memory_mib":1024,"hardware_version":"vmx-19","instance_uuid":null,"bios_uuid":null,"notes":"",
        "controllers":[{"key":1000,"kind":"paravirtual_scsi","bus":0}],
        "disks":[{"key":2000,"label":"d","capacity_bytes":512,"controller_key":1000,"unit":0,"uuid":null,"thin":true}],
        "adapters":[{"key":4000,"model":"VirtualVmxnet3","network":"n","mac":null,"connect_at_power_on":true}]}"#;

    #[test]
    fn a_machine_of_the_first_version_reads_and_writes_as_before() {
        let machine: MachineConfig = serde_json::from_str(FIRST).unwrap();
        assert_eq!((machine.disks[0].sector_bytes, &machine.hyperv, machine.adapters[0].vlan), (512, &None, None));
        let written = serde_json::to_value(&machine).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(FIRST).unwrap());
    }

    #[test]
    fn words_of_quiescing_are_read_as_they_are_written() {
        for policy in Quiesce::ALL {
            assert_eq!(Quiesce::parse(policy.as_str()), Some(policy));
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.as_str());
        }
        assert_eq!((Quiesce::parse("sometimes"), Quiesce::default()), (None, Quiesce::Prefer));
    }

    #[test]
    fn what_only_one_platform_has_survives() {
        let settings = HyperVSettings {
            generation: 2,
            dynamic_memory: Some(DynamicMemory { minimum_mib: 512, maximum_mib: 8192, buffer_percent: 20 }),
            ..HyperVSettings::default()
        };
        let machine = MachineConfig {
            controllers: vec![Controller { key: 1, kind: ControllerKind::HyperVScsi, bus: 0 }],
            disks: vec![DiskConfig { sector_bytes: 4096, ..DiskConfig::default() }],
            hyperv: Some(settings),
            ..MachineConfig::default()
        };
        let written = serde_json::to_string(&machine).unwrap();
        assert!(written.contains(r#""kind":"hyperv_scsi""#) && written.contains(r#""sector_bytes":4096"#), "{written}");
        assert_eq!(serde_json::from_str::<MachineConfig>(&written).unwrap(), machine);
        let sparse = r#"{"generation":2}"#;
        assert_eq!(serde_json::from_str::<HyperVSettings>(sparse).unwrap().generation, 2, "later fields have defaults");
    }
}
