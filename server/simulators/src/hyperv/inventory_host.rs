//! The host's own instances: operating system, volumes, services and their settings.

use super::config::DISK_FOLDER;
use super::host::Host;
use super::inventory::services;
use super::model::instance::Instance;
use super::model::schema::Class;
use crate::state::now;

const SETTINGS: &str = "Msvm_VirtualSystemManagementServiceSettingData";
/// Memory the host claims, in KiB.
const MEMORY_KIB: u64 = 64 << 20;

/// The instances of the host that are of a class.
pub(crate) fn instances(host: &Host, wanted: &Class) -> Vec<Instance> {
    let mut out = match wanted.name {
        "Win32_OperatingSystem" => vec![operating_system(host)],
        "Win32_ComputerSystem" => vec![computer(host)],
        "Win32_LogicalDisk" => vec![logical_disk(host)],
        "Win32_Volume" => vec![volume(host)],
        _ => Vec::new(),
    };
    if wanted.name.starts_with("Win32_") {
        return out;
    }
    out.extend(services().map(|(class, name)| service(host, class, name)));
    out.push(settings(host));
    out.push(
        Instance::of("Msvm_VirtualSystemManagementCapabilities")
            .with("InstanceID", "Microsoft:VirtualSystemManagementCapabilities")
            .with("ElementName", "Virtual System Management Capabilities")
            .with("ElementNameEditSupported", true)
            .with("MaxElementNameLen", 100u64),
    );
    out.retain(|instance| instance.class.is(wanted.name));
    out
}

fn edition(host: &Host) -> String {
    let year = match host.config.build {
        ..14394 => "2016",
        14394..17764 => "2019",
        17764..20349 => "2022",
        _ => "2025",
    };
    format!("Microsoft Windows Server {year} Datacenter (simulated by Stillframe)")
}

fn operating_system(host: &Host) -> Instance {
    let edition = edition(host);
    Instance::of("Win32_OperatingSystem")
        .with("BuildNumber", host.config.build.to_string())
        .with("Caption", edition.as_str())
        .with("CSName", host.config.name.as_str())
        .with("FreePhysicalMemory", MEMORY_KIB / 2)
        .with("LastBootUpTime", host.booted)
        .with("LocalDateTime", now())
        .with("Name", format!("{edition}|C:\\Windows|\\Device\\Harddisk0\\Partition4"))
        .with("OperatingSystemSKU", 8u64)
        .with("OSArchitecture", "64-bit")
        .with("OSLanguage", 1033u64)
        .with("ProductType", 3u64)
        .with("ServicePackMajorVersion", 0u64)
        .with("Status", "OK")
        .with("SystemDirectory", "C:\\Windows\\system32")
        .with("SystemDrive", "C:")
        .with("TotalVisibleMemorySize", MEMORY_KIB)
        .with("Version", format!("10.0.{}", host.config.build))
        .with("WindowsDirectory", "C:\\Windows")
}

fn computer(host: &Host) -> Instance {
    let name = host.config.name.as_str();
    Instance::of("Win32_ComputerSystem")
        .with("Caption", name)
        .with("DNSHostName", name)
        .with("Domain", "WORKGROUP")
        .with("DomainRole", 2u64)
        .with("HypervisorPresent", true)
        .with("Manufacturer", "Stillframe")
        .with("Model", "Simulated Hyper-V host")
        .with("Name", name)
        .with("NumberOfLogicalProcessors", 16u64)
        .with("NumberOfProcessors", 1u64)
        .with("PartOfDomain", false)
        .with("TotalPhysicalMemory", MEMORY_KIB << 10)
        .with("Workgroup", "WORKGROUP")
}

fn logical_disk(host: &Host) -> Instance {
    Instance::of("Win32_LogicalDisk")
        .with("Caption", "C:")
        .with("Description", "Local Fixed Disk")
        .with("DeviceID", "C:")
        .with("DriveType", 3u64)
        .with("FileSystem", "NTFS")
        .with("FreeSpace", host.config.volume_bytes / 2)
        .with("Name", "C:")
        .with("Size", host.config.volume_bytes)
        .with("VolumeName", "Simulated")
        .with("VolumeSerialNumber", "51F11A3E")
}

fn volume(host: &Host) -> Instance {
    Instance::of("Win32_Volume")
        .with("BlockSize", 4096u64)
        .with("Capacity", host.config.volume_bytes)
        .with("Caption", "C:\\")
        .with("DeviceID", "\\\\?\\Volume{51f11a3e-0000-0000-0000-100000000000}\\")
        .with("DriveLetter", "C:")
        .with("DriveType", 3u64)
        .with("FileSystem", "NTFS")
        .with("FreeSpace", host.config.volume_bytes / 2)
        .with("Label", "Simulated")
        .with("Name", "C:\\")
}

/// The row of `Msvm_ComputerSystem` that is the host itself.
pub(crate) fn host_row(host: &Host) -> Instance {
    Instance::of("Msvm_ComputerSystem")
        .with("Caption", "Hosting Computer System")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Description", "Microsoft Hosting Computer System")
        .with("ElementName", host.config.name.as_str())
        .with("EnabledDefault", 2u64)
        .with("EnabledState", 2u64)
        .with("HealthState", 5u64)
        .with("Name", host.config.name.as_str())
        .with("NumberOfNumaNodes", 1u64)
        .with("OperationalStatus", vec![2u64])
        .with("RequestedState", 12u64)
        .with("ResetCapability", 1u64)
        .with("Status", "OK")
        .with("StatusDescriptions", vec!["OK"])
}

fn service(host: &Host, class: &str, name: &str) -> Instance {
    Instance::of(class)
        .with("Caption", class)
        .with("CreationClassName", class)
        .with("ElementName", class)
        .with("EnabledState", 2u64)
        .with("Name", name)
        .with("Started", true)
        .with("StartMode", "Automatic")
        .with("SystemCreationClassName", "Msvm_ComputerSystem")
        .with("SystemName", host.config.name.as_str())
}

fn settings(host: &Host) -> Instance {
    Instance::of(SETTINGS)
        .with("Caption", "Hyper-V Virtual System Management Service")
        .with("DefaultExternalDataRoot", "C:\\ProgramData\\Microsoft\\Windows\\Hyper-V")
        .with("DefaultVirtualHardDiskPath", DISK_FOLDER)
        .with("ElementName", "Hyper-V Virtual System Management Service")
        .with("EnhancedSessionModeEnabled", false)
        .with("InstanceID", format!("Microsoft:{}", host.config.name))
        .with("MaximumMacAddress", "00155DFFFFFF")
        .with("MinimumMacAddress", "00155D000000")
        .with("NumaSpanningEnabled", true)
}

/// What joins the management service and its settings.
pub(crate) fn service_settings(host: &Host) -> Instance {
    let service = service(host, "Msvm_VirtualSystemManagementService", "vmms");
    Instance::of("Msvm_ElementSettingData")
        .with("ManagedElement", service.path())
        .with("SettingData", settings(host).path())
}
