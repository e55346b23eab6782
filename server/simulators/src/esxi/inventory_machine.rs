//! Properties of machines and snapshots.

use super::config::{DiskMode, Firmware, Power};
use super::disk::Disk;
use super::disk::tracking::State;
use super::fault::SoapFault;
use super::host::Host;
use super::inventory::{datastore_ref, entity, green, network_ref};
use super::machine::{FrozenDisk, Machine, Nic, Snapshot};
use super::pool;
use super::value::{MoRef, Object, Value};

/// A property of a machine by its first name.
pub(crate) fn property(host: &Host, object: &MoRef, name: &str) -> Result<Option<Value>, SoapFault> {
    let shared = host.find_machine(object)?;
    let machine = shared.lock();
    Ok(match name {
        "config" => Some(config(host, &machine, None).into()),
        "runtime" => Some(runtime(&machine).into()),
        "summary" => Some(summary(&machine).into()),
        "guest" => Some(guest(&machine).into()),
        "snapshot" => snapshots(&machine).map(Value::Object),
        "rootSnapshot" => Some(Value::refs(
            machine.snapshots.iter().filter(|s| s.parent.is_none()).map(|s| machine.snapshot_ref(s.number)),
        )),
        "storage" => Some(storage(host, &machine).into()),
        "layoutEx" => Some(layout(&machine).into()),
        "capability" => Some(capability().into()),
        "datastore" => Some(Value::refs([datastore_ref(host, &machine.datastore)])),
        "network" => Some(Value::refs(machine.nics.iter().map(|nic| network_ref(&nic.network)))),
        "resourcePool" => Some(pool::pool_ref(&machine.pool).into()),
        "environmentBrowser" => Some(MoRef::new("EnvironmentBrowser", "ha-env-browser").into()),
        "guestHeartbeatStatus" => Some(Value::enumeration("ManagedEntityStatus", "gray")),
        "recentTask" => Some(Value::refs(host.tasks.recent(&machine.moref()))),
        _ => entity(name, &machine.name, Some(MoRef::new("Folder", "ha-folder-vm"))),
    })
}

/// A property of a snapshot by its first name.
pub(crate) fn snapshot_property(host: &Host, object: &MoRef, name: &str) -> Result<Option<Value>, SoapFault> {
    let (shared, number) = host.find_snapshot(object)?;
    let machine = shared.lock();
    let Some(snapshot) = machine.snapshot(number) else { return Err(SoapFault::not_found(object)) };
    Ok(match name {
        "config" => Some(config(host, &machine, Some(snapshot)).into()),
        "vm" => Some(machine.moref().into()),
        "childSnapshot" => Some(Value::refs(children(&machine, Some(number)).map(|s| machine.snapshot_ref(s.number)))),
        _ => None,
    })
}

fn children(machine: &Machine, parent: Option<i32>) -> impl Iterator<Item = &Snapshot> {
    machine.snapshots.iter().filter(move |snapshot| snapshot.parent == parent)
}

fn power(machine: &Machine) -> Value {
    power_value(machine.power)
}

fn power_value(power: Power) -> Value {
    Value::enumeration("VirtualMachinePowerState", if power == Power::On { "poweredOn" } else { "poweredOff" })
}

fn runtime(machine: &Machine) -> Object {
    Object::new("VirtualMachineRuntimeInfo")
        .with("host", Host::host_ref())
        .with("connectionState", Value::enumeration("VirtualMachineConnectionState", "connected"))
        .with("powerState", power(machine))
        .with("faultToleranceState", Value::enumeration("VirtualMachineFaultToleranceState", "notConfigured"))
        .with("toolsInstallerMounted", false)
        .maybe("bootTime", machine.boot_time)
        .with("maxCpuUsage", machine.processors as i32 * 3000)
        .with("maxMemoryUsage", machine.memory_mib as i32)
        .with("numMksConnections", 0)
        .with("recordReplayState", Value::enumeration("VirtualMachineRecordReplayState", "inactive"))
        .with("onlineStandby", false)
        .with("consolidationNeeded", machine.consolidation_needed)
        .with("paused", false)
        .with("snapshotInBackground", false)
}

fn guest(machine: &Machine) -> Object {
    let running = machine.running();
    let with_tools = running && machine.tools;
    let tools = if with_tools { "toolsOk" } else { "toolsNotRunning" };
    let state = if with_tools { "guestToolsRunning" } else { "guestToolsNotRunning" };
    Object::new("GuestInfo")
        .with("toolsStatus", Value::enumeration("VirtualMachineToolsStatus", tools))
        .with("toolsVersionStatus2", "guestToolsUnmanaged")
        .with("toolsRunningStatus", state)
        .with("toolsVersion", "12352")
        .maybe("guestId", running.then_some(&machine.guest_id))
        .with("guestFamily", "linuxGuest")
        .maybe("guestFullName", running.then(|| guest_title(&machine.guest_id)))
        .maybe("hostName", running.then_some(&machine.name))
        .with("guestState", if running { "running" } else { "notRunning" })
        .with("guestOperationsReady", running)
        .with("guestStateChangeSupported", running)
}

fn guest_title(guest_id: &str) -> String {
    match guest_id {
        "debian12_64Guest" => "Debian GNU/Linux 12 (64-bit)".to_owned(),
        "debian11_64Guest" => "Debian GNU/Linux 11 (64-bit)".to_owned(),
        "ubuntu64Guest" => "Ubuntu Linux (64-bit)".to_owned(),
        "windows2019srv_64Guest" => "Microsoft Windows Server 2019 (64-bit)".to_owned(),
        "otherGuest64" => "Other (64-bit)".to_owned(),
        other => other.trim_end_matches("Guest").to_owned(),
    }
}

fn firmware(machine: &Machine) -> &'static str {
    if machine.firmware == Firmware::Efi { "efi" } else { "bios" }
}

/// The configuration, as it is or as a snapshot froze the disks.
fn config(host: &Host, machine: &Machine, snapshot: Option<&Snapshot>) -> Object {
    let files = Object::new("VirtualMachineFileInfo")
        .with("vmPathName", machine.datastore_path(&format!("{}.vmx", machine.stem)))
        .with("snapshotDirectory", machine.datastore_path(""))
        .with("suspendDirectory", machine.datastore_path(""))
        .with("logDirectory", machine.datastore_path(""));
    let hardware = Object::new("VirtualHardware")
        .with("numCPU", machine.processors as i32)
        .with("numCoresPerSocket", 1)
        .with("memoryMB", machine.memory_mib as i32)
        .with("virtualICH7MPresent", false)
        .with("virtualSMCPresent", false)
        .with("device", Value::objects("VirtualDevice", devices(host, machine, snapshot)));
    let extra =
        machine.extra.iter().map(|(key, value)| Object::new("OptionValue").with("key", key).with("value", value));
    let boot = Object::new("VirtualMachineBootOptions")
        .with("bootDelay", 0_i64)
        .with("enterBIOSSetup", false)
        .with("efiSecureBootEnabled", machine.secure_boot);
    Object::new("VirtualMachineConfigInfo")
        .with("changeVersion", "1")
        .with("modified", jiff::Timestamp::UNIX_EPOCH)
        .with("name", &machine.name)
        .with("guestFullName", guest_title(&machine.guest_id))
        .with("version", &machine.hardware_version)
        .with("uuid", machine.bios_uuid.to_string())
        .with("instanceUuid", machine.instance_uuid.to_string())
        .with("template", false)
        .with("guestId", &machine.guest_id)
        .with("alternateGuestName", "")
        .with("annotation", &machine.annotation)
        .with("files", files)
        .with("flags", Object::new("VirtualMachineFlagInfo"))
        .with("defaultPowerOps", Object::new("VirtualMachineDefaultPowerOpInfo"))
        .with("hardware", hardware)
        .with("extraConfig", Value::objects("OptionValue", extra))
        .with("bootOptions", boot)
        .with("changeTrackingEnabled", machine.tracking_enabled)
        .with("firmware", firmware(machine))
}

fn description(label: impl Into<String>, summary: impl Into<String>) -> Object {
    Object::new("Description").with("label", label.into()).with("summary", summary.into())
}

fn devices(host: &Host, machine: &Machine, snapshot: Option<&Snapshot>) -> Vec<Object> {
    let mut devices = Vec::new();
    for bus in 0..2 {
        let key = 200 + bus;
        if machine.controller(key).is_none() {
            let info = description(format!("IDE {bus}"), format!("IDE {bus}"));
            devices.push(
                Object::new("VirtualIDEController").with("key", key).with("deviceInfo", info).with("busNumber", bus),
            );
        }
    }
    let pci = description("PCI controller 0", "PCI controller 0");
    devices.push(Object::new("VirtualPCIController").with("key", 100).with("deviceInfo", pci).with("busNumber", 0));
    for controller in &machine.controllers {
        let label = format!("{} {}", controller.kind.type_name(), controller.bus);
        let attached = machine.disks.iter().filter(|disk| disk.controller_key == controller.key);
        let attached = Value::List("int", attached.map(|disk| Value::Int(disk.key)).collect());
        let mut device = Object::new(controller.kind.type_name())
            .with("key", controller.key)
            .with("deviceInfo", description(&label, &label))
            .with("controllerKey", 100)
            .with("unitNumber", 3 + controller.bus)
            .with("busNumber", controller.bus)
            .with("device", attached);
        if controller.kind.is_scsi() {
            let sharing = Value::enumeration("VirtualSCSISharing", "noSharing");
            device = device.with("hotAddRemove", true).with("sharedBus", sharing).with("scsiCtlrUnitNumber", 7);
        }
        devices.push(device);
    }
    for (index, disk) in machine.disks.iter().enumerate() {
        let frozen = snapshot.map(|snapshot| snapshot.disks.iter().find(|frozen| frozen.key == disk.key));
        match frozen {
            None => devices.push(disk_device(host, machine, disk, index, None)),
            Some(Some(frozen)) => devices.push(disk_device(host, machine, disk, index, Some(frozen))),
            Some(None) => {}
        }
    }
    devices.extend(machine.nics.iter().enumerate().map(|(index, nic)| nic_device(nic, index)));
    devices
}

fn disk_device(host: &Host, machine: &Machine, disk: &Disk, index: usize, frozen: Option<&FrozenDisk>) -> Object {
    let link = frozen.map_or(disk.top, |frozen| frozen.link);
    let capacity = frozen.map_or(disk.capacity, |frozen| frozen.capacity);
    let change_id = match frozen {
        Some(frozen) => frozen.change_id.clone(),
        None => disk.tracking.change_id(),
    };
    let backing = match disk.mode {
        DiskMode::RawDevicePhysical | DiskMode::RawDeviceVirtual => {
            let mode = if disk.mode == DiskMode::RawDevicePhysical { "physicalMode" } else { "virtualMode" };
            Object::new("VirtualDiskRawDiskMappingVer1BackingInfo")
                .with("fileName", machine.datastore_path(&disk.descriptor_name(link)))
                .with("datastore", datastore_ref(host, &machine.datastore))
                .with("lunUuid", disk.uuid.simple().to_string())
                .with("deviceName", "vml.simulated")
                .with("compatibilityMode", mode)
                .with("diskMode", "persistent")
                .with("uuid", disk.uuid.to_string())
                .maybe("changeId", change_id)
        }
        _ => flat_backing(host, machine, disk, &disk.chain(link)).maybe("changeId", change_id),
    };
    Object::new("VirtualDisk")
        .with("key", disk.key)
        .with("deviceInfo", description(format!("Hard disk {}", index + 1), format!("{} KB", capacity / 1024)))
        .with("backing", backing)
        .with("controllerKey", disk.controller_key)
        .with("unitNumber", disk.unit)
        .with("capacityInKB", (capacity / 1024) as i64)
        .with("capacityInBytes", capacity as i64)
        .with("diskObjectId", format!("{}-{}", machine.id, disk.key))
}

fn flat_backing(host: &Host, machine: &Machine, disk: &Disk, chain: &[u32]) -> Object {
    let (link, rest) = chain.split_first().map_or((0, chain), |(link, rest)| (*link, rest));
    let mode = match disk.mode {
        DiskMode::IndependentPersistent => "independent_persistent",
        DiskMode::IndependentNonpersistent => "independent_nonpersistent",
        _ => "persistent",
    };
    let parent = (!rest.is_empty()).then(|| flat_backing(host, machine, disk, rest));
    let delta = parent.is_some();
    Object::new("VirtualDiskFlatVer2BackingInfo")
        .with("fileName", machine.datastore_path(&disk.descriptor_name(link)))
        .with("datastore", datastore_ref(host, &machine.datastore))
        .with("diskMode", mode)
        .with("split", false)
        .with("writeThrough", false)
        .maybe("thinProvisioned", (!delta).then_some(disk.thin))
        .with("uuid", disk.uuid.to_string())
        .with("contentId", disk.content_id(link))
        .maybe("parent", parent)
        .maybe("deltaDiskFormat", delta.then_some("redoLogFormat"))
        .with("digestEnabled", false)
        .with("sharing", "sharingNone")
}

fn nic_device(nic: &Nic, index: usize) -> Object {
    let backing = Object::new("VirtualEthernetCardNetworkBackingInfo")
        .with("deviceName", &nic.network)
        .with("useAutoDetect", false)
        .with("network", network_ref(&nic.network))
        .with("inPassthroughMode", false);
    let connectable = Object::new("VirtualDeviceConnectInfo")
        .with("startConnected", nic.start_connected)
        .with("allowGuestControl", true)
        .with("connected", nic.connected)
        .with("status", "untried");
    Object::new(nic.model.type_name())
        .with("key", nic.key)
        .with("deviceInfo", description(format!("Network adapter {}", index + 1), &nic.network))
        .with("backing", backing)
        .with("connectable", connectable)
        .with("controllerKey", 100)
        .with("unitNumber", 7 + index as i32)
        .with("addressType", &nic.address_type)
        .with("macAddress", &nic.mac)
        .with("wakeOnLanEnabled", true)
}

fn snapshots(machine: &Machine) -> Option<Object> {
    if machine.snapshots.is_empty() {
        return None;
    }
    let current = machine.current_snapshot.map(|number| machine.snapshot_ref(number));
    let trees = trees(machine, None, 0);
    Some(
        Object::new("VirtualMachineSnapshotInfo")
            .maybe("currentSnapshot", current)
            .with("rootSnapshotList", Value::objects("VirtualMachineSnapshotTree", trees)),
    )
}

fn trees(machine: &Machine, parent: Option<i32>, depth: usize) -> Vec<Object> {
    if depth > machine.snapshots.len() {
        return Vec::new();
    }
    let tree = |snapshot: &Snapshot| {
        let below = trees(machine, Some(snapshot.number), depth + 1);
        let below = (!below.is_empty()).then(|| Value::objects("VirtualMachineSnapshotTree", below));
        Object::new("VirtualMachineSnapshotTree")
            .with("snapshot", machine.snapshot_ref(snapshot.number))
            .with("vm", machine.moref())
            .with("name", &snapshot.name)
            .with("description", &snapshot.description)
            .with("id", snapshot.number)
            .with("createTime", snapshot.created)
            .with("state", power_value(snapshot.power))
            .with("quiesced", snapshot.quiesced)
            .maybe("childSnapshotList", below)
            .with("replaySupported", false)
    };
    children(machine, parent).map(tree).collect()
}

fn summary(machine: &Machine) -> Object {
    let config = Object::new("VirtualMachineConfigSummary")
        .with("name", &machine.name)
        .with("template", false)
        .with("vmPathName", machine.datastore_path(&format!("{}.vmx", machine.stem)))
        .with("memorySizeMB", machine.memory_mib as i32)
        .with("numCpu", machine.processors as i32)
        .with("numEthernetCards", machine.nics.len() as i32)
        .with("numVirtualDisks", machine.disks.len() as i32)
        .with("uuid", machine.bios_uuid.to_string())
        .with("instanceUuid", machine.instance_uuid.to_string())
        .with("guestId", &machine.guest_id)
        .with("guestFullName", guest_title(&machine.guest_id))
        .with("annotation", &machine.annotation);
    let used = machine.used_bytes() as i64;
    let provisioned = machine.disks.iter().map(|disk| disk.capacity as i64).sum::<i64>();
    let storage = Object::new("VirtualMachineStorageSummary")
        .with("committed", used)
        .with("uncommitted", (provisioned - used).max(0))
        .with("unshared", used)
        .with("timestamp", super::host::now());
    let guest = Object::new("VirtualMachineGuestSummary")
        .maybe("guestId", machine.running().then_some(&machine.guest_id))
        .maybe("hostName", machine.running().then_some(&machine.name));
    let stats = Object::new("VirtualMachineQuickStats")
        .with("guestHeartbeatStatus", Value::enumeration("ManagedEntityStatus", "gray"));
    Object::new("VirtualMachineSummary")
        .with("vm", machine.moref())
        .with("runtime", runtime(machine))
        .with("guest", guest)
        .with("config", config)
        .with("storage", storage)
        .with("quickStats", stats)
        .with("overallStatus", green())
}

fn storage(host: &Host, machine: &Machine) -> Object {
    let used = machine.used_bytes() as i64;
    let usage = Object::new("VirtualMachineUsageOnDatastore")
        .with("datastore", datastore_ref(host, &machine.datastore))
        .with("committed", used)
        .with("uncommitted", 0_i64)
        .with("unshared", used);
    Object::new("VirtualMachineStorageInfo")
        .with("perDatastoreUsage", Value::objects("VirtualMachineUsageOnDatastore", [usage]))
        .with("timestamp", super::host::now())
}

fn layout(machine: &Machine) -> Object {
    let mut files = Vec::new();
    let mut disks = Vec::new();
    let mut file = |name: String, kind: &str, size: u64| {
        let key = files.len() as i32;
        files.push(
            Object::new("VirtualMachineFileLayoutExFileInfo")
                .with("key", key)
                .with("name", name)
                .with("type", kind)
                .with("size", size as i64)
                .with("accessible", true),
        );
        key
    };
    file(machine.datastore_path(&format!("{}.vmx", machine.stem)), "config", 2048);
    for disk in &machine.disks {
        let units = disk.chain(disk.top).into_iter().rev().map(|link| {
            let descriptor = file(machine.datastore_path(&disk.descriptor_name(link)), "diskDescriptor", 512);
            let extent = file(machine.shown_path(&disk.data_path(link)), "diskExtent", disk.file_bytes(link));
            Object::new("VirtualMachineFileLayoutExDiskUnit")
                .with("fileKey", Value::List("int", vec![Value::Int(descriptor), Value::Int(extent)]))
        });
        let units: Vec<Object> = units.collect();
        disks.push(
            Object::new("VirtualMachineFileLayoutExDiskLayout")
                .with("key", disk.key)
                .with("chain", Value::objects("VirtualMachineFileLayoutExDiskUnit", units)),
        );
    }
    Object::new("VirtualMachineFileLayoutEx")
        .with("file", Value::objects("VirtualMachineFileLayoutExFileInfo", files))
        .with("disk", Value::objects("VirtualMachineFileLayoutExDiskLayout", disks))
        .with("timestamp", super::host::now())
}

fn capability() -> Object {
    Object::new("VirtualMachineCapability")
        .with("snapshotOperationsSupported", true)
        .with("multipleSnapshotsSupported", true)
        .with("poweredOffSnapshotsSupported", true)
        .with("memorySnapshotsSupported", false)
        .with("revertToSnapshotSupported", true)
        .with("quiescedSnapshotsSupported", true)
        .with("changeTrackingSupported", true)
        .with("bootOptionsSupported", true)
}

impl Machine {
    /// Bytes its disk files take.
    pub fn used_bytes(&self) -> u64 {
        self.disks.iter().flat_map(|disk| disk.chain(disk.top).into_iter().map(|link| disk.file_bytes(link))).sum()
    }

    /// Whether change tracking works on the disk of that key.
    pub fn tracking_active(&self, key: i32) -> bool {
        self.disk(key).is_some_and(|disk| disk.tracking.state == State::Active)
    }
}
