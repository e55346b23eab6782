//! What a virtual machine is, in words both hypervisors share. Stored inside every restore point, so fields are only
//! ever added, each with a default.

use serde::{Deserialize, Serialize};

/// Everything that is needed to define the machine again on another host, apart from the contents of its disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual hardware version as the platform writes it, e.g. `vmx-19`.
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
}

/// Firmware of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// Legacy BIOS.
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
}

/// A network adapter of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quiesce {
    /// Ask; if the host refuses, take a crash-consistent snapshot and say so.
    Prefer,
    /// Do not ask.
    Off,
}

impl Quiesce {
    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prefer => "prefer",
            Self::Off => "off",
        }
    }
}
