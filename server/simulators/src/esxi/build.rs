//! Making machines: from a [`MachineSpec`] of the configuration, or from a client's `VirtualMachineConfigSpec`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use uuid::Uuid;

use super::config::{DiskContent, DiskMode, Firmware, GuestWrites, MachineSpec, NicModel, Power};
use super::disk::{Disk, NewDisk};
use super::fault::SoapFault;
use super::host::{Host, Shared, now};
use super::machine::{Controller, ControllerKind, Machine, Nic};
use super::spec::ConfigSpec;
use super::value::MoRef;
use crate::SimulatorError;
use crate::content;

/// Disks of a machine.
const DISKS_MAX: usize = 64;

/// A disk to be made.
pub(crate) struct PlannedDisk {
    pub controller_key: i32,
    pub unit: i32,
    pub capacity: u64,
    pub mode: DiskMode,
    pub thin: bool,
    pub uuid: Option<Uuid>,
}

/// A machine to be made.
#[allow(clippy::struct_excessive_bools)] // each is a setting of its own
pub(crate) struct Plan {
    pub name: String,
    pub guest_id: String,
    pub firmware: Firmware,
    pub secure_boot: bool,
    pub processors: u32,
    pub memory_mib: u64,
    pub hardware_version: String,
    pub annotation: String,
    pub bios_uuid: Option<Uuid>,
    pub instance_uuid: Option<Uuid>,
    pub extra: Vec<(String, String)>,
    pub datastore: String,
    /// Folder and name of the `.vmx`, when the client chose them.
    pub path: Option<(String, String)>,
    pub controllers: Vec<Controller>,
    pub disks: Vec<PlannedDisk>,
    pub nics: Vec<Nic>,
    pub tracking: bool,
    pub writes: Option<GuestWrites>,
    pub tools: bool,
    pub pool: String,
    pub importing: bool,
}

/// Makes the machine's folder, files and disks, and puts it into the inventory.
pub(crate) fn create(host: &Host, plan: Plan) -> Result<Shared, SoapFault> {
    if let Some(other) = host.machine_named(&plan.name) {
        return Err(SoapFault::duplicate_name(&plan.name, &other.lock().moref()));
    }
    if plan.disks.len() > DISKS_MAX {
        return Err(SoapFault::device(DISKS_MAX, "device"));
    }
    let folder_name = plain_name(&plan.name);
    let (wanted, stem) = plan.path.clone().unwrap_or_else(|| (folder_name.clone(), folder_name));
    let (folder, dir) = free_folder(host, &plan.datastore, &wanted)?;
    let made = assemble(host, plan, folder, &dir, stem).and_then(|machine| {
        write_files(&machine)?;
        host.insert(machine)
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&dir);
    }
    made
}

fn assemble(host: &Host, plan: Plan, folder: String, dir: &Path, stem: String) -> Result<Machine, SoapFault> {
    let mut disks: Vec<Disk> = Vec::new();
    for (index, planned) in plan.disks.iter().enumerate() {
        let controller = plan.controllers.iter().find(|controller| controller.key == planned.controller_key);
        let key = controller.and_then(|controller| controller.kind.disk_key(controller.bus, planned.unit));
        let key = key.ok_or_else(|| SoapFault::device(index, "unitNumber"))?;
        if disks.iter().any(|disk| disk.key == key) {
            return Err(SoapFault::device(index, "unitNumber"));
        }
        disks.push(Disk::create(NewDisk {
            key,
            capacity: planned.capacity,
            controller_key: planned.controller_key,
            unit: planned.unit,
            uuid: planned.uuid.unwrap_or_else(Uuid::new_v4),
            mode: planned.mode,
            thin: planned.thin,
            dir: dir.to_owned(),
            stem: if index == 0 { stem.clone() } else { format!("{stem}_{index}") },
            tracking_unit: host.config.limits.tracking_unit_bytes,
        })?);
    }
    let mut machine = Machine {
        id: host.new_machine_id()?,
        name: plan.name,
        bios_uuid: plan.bios_uuid.unwrap_or_else(Uuid::new_v4),
        instance_uuid: plan.instance_uuid.unwrap_or_else(Uuid::new_v4),
        guest_id: plan.guest_id,
        firmware: plan.firmware,
        secure_boot: plan.secure_boot,
        processors: plan.processors,
        memory_mib: plan.memory_mib,
        hardware_version: plan.hardware_version,
        annotation: plan.annotation,
        extra: plan.extra,
        datastore: plan.datastore,
        folder,
        stem,
        dir: dir.to_owned(),
        power: Power::Off,
        boot_time: None,
        tracking_enabled: false,
        controllers: plan.controllers,
        nics: plan.nics,
        disks,
        snapshots: Vec::new(),
        current_snapshot: None,
        next_snapshot: 1,
        consolidation_needed: false,
        writes: plan.writes,
        tools: plan.tools,
        pool: plan.pool,
        importing: plan.importing,
        busy: None,
        leased: false,
        writer: None,
    };
    if plan.tracking {
        machine.set_tracking(true)?;
    }
    Ok(machine)
}

fn plain_name(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_control() || "/\\[]%\0".contains(c) { '_' } else { c }).collect();
    let plain = plain.trim().trim_start_matches('.').to_owned();
    if plain.is_empty() { "machine".to_owned() } else { plain }
}

fn free_folder(host: &Host, datastore: &str, wanted: &str) -> Result<(String, std::path::PathBuf), SoapFault> {
    for attempt in 0..1000 {
        let folder = if attempt == 0 { wanted.to_owned() } else { format!("{wanted}_{attempt}") };
        let dir = host.machine_dir(datastore, &folder)?;
        match fs::create_dir(&dir) {
            Ok(()) => return Ok((folder, dir)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(SoapFault::file("FileAlreadyExists", wanted, format!("Folder {wanted} exists.")))
}

/// Writes the `.vmx` and, for EFI, the `.nvram`.
pub(crate) fn write_files(machine: &Machine) -> Result<(), SoapFault> {
    let mut text = format!(
        ".encoding = \"UTF-8\"\nconfig.version = \"8\"\nvirtualHW.version = \"{}\"\ndisplayName = \"{}\"\nguestOS = \"{}\"\n\
         numvcpus = \"{}\"\nmemSize = \"{}\"\nfirmware = \"{}\"\nuuid.bios = \"{}\"\nvc.uuid = \"{}\"\nnvram = \"{}.nvram\"\n",
        machine.hardware_version.trim_start_matches("vmx-"),
        machine.name.replace('"', "|22"),
        machine.guest_id,
        machine.processors,
        machine.memory_mib,
        if machine.firmware == Firmware::Efi { "efi" } else { "bios" },
        super::disk::spaced_hex(machine.bios_uuid.as_bytes()),
        super::disk::spaced_hex(machine.instance_uuid.as_bytes()),
        machine.stem,
    );
    for disk in &machine.disks {
        use std::fmt::Write as _;
        let Some(controller) = machine.controller(disk.controller_key) else { continue };
        let bus = match controller.kind {
            ControllerKind::Ahci => "sata",
            ControllerKind::Nvme => "nvme",
            ControllerKind::Ide => "ide",
            _ => "scsi",
        };
        let slot = format!("{bus}{}:{}", controller.bus, disk.unit);
        let _ = writeln!(text, "{slot}.present = \"TRUE\"\n{slot}.fileName = \"{}\"", disk.descriptor_name(disk.top));
    }
    fs::write(machine.dir.join(format!("{}.vmx", machine.stem)), text)?;
    if machine.firmware == Firmware::Efi {
        let mut nvram = vec![0; 8 << 10];
        content::Generator::new(machine.bios_uuid.as_fields().0.into()).fill(&mut nvram);
        let path = machine.dir.join(format!("{}.nvram", machine.stem));
        if !path.exists() {
            fs::write(path, nvram)?;
        }
    }
    Ok(())
}

/// A MAC address of the range a host generates from, that a uuid decides.
pub(crate) fn generated_mac(uuid: Uuid) -> String {
    let [a, b, c, ..] = uuid.into_bytes();
    format!("00:0c:29:{a:02x}:{b:02x}:{c:02x}")
}

/// Makes a machine of the configuration.
pub(crate) fn from_spec(host: &Host, spec: &MachineSpec) -> Result<(), SimulatorError> {
    let refused = |fault: SoapFault| SimulatorError::Refused {
        operation: "creation",
        machine: spec.name.clone(),
        reason: fault.message,
    };
    let mut sizes = Vec::new();
    for disk in &spec.disks {
        let size = match (&disk.content, disk.size_bytes) {
            (DiskContent::Raw(path), 0) => fs::metadata(path).map_err(SimulatorError::file("open", path))?.len(),
            (_, size) => size,
        };
        if size == 0 {
            return Err(SimulatorError::Config { reason: format!("{}: a disk of no bytes", spec.name) });
        }
        sizes.push(size.next_multiple_of(1024));
    }
    let shared = create(host, plan_of(host, spec, &sizes)?).map_err(refused)?;
    let mut machine = shared.lock();
    for (disk, wanted) in machine.disks.iter().zip(&spec.disks) {
        let Some(file) = disk.base_file() else { continue };
        fill(&file, disk.capacity, &wanted.content)?;
    }
    for name in &spec.snapshots {
        machine.create_snapshot(name, "", false, now()).map_err(refused)?;
    }
    if spec.tracking {
        machine.set_tracking(true).map_err(refused)?;
    }
    if spec.power == Power::On {
        machine.power_on(&host.locks, now()).map_err(refused)?;
    }
    host.save(&machine)
}

fn plan_of(host: &Host, spec: &MachineSpec, sizes: &[u64]) -> Result<Plan, SimulatorError> {
    let first = host.config.datastores.first().map(|datastore| datastore.name.clone());
    let datastore = spec.datastore.clone().or(first);
    let datastore = datastore.ok_or_else(|| SimulatorError::Config { reason: "no datastore".to_owned() })?;
    let kind = ControllerKind::ParaVirtual;
    let units = (0..16).filter(|unit| *unit != 7);
    let slots = (0..4).flat_map(|bus| units.clone().map(move |unit| (bus, unit)));
    let disks: Vec<PlannedDisk> = spec
        .disks
        .iter()
        .zip(sizes)
        .zip(slots)
        .map(|((disk, &capacity), (bus, unit))| PlannedDisk {
            controller_key: kind.key(bus),
            unit,
            capacity,
            mode: disk.mode,
            thin: true,
            uuid: None,
        })
        .collect();
    let buses = (spec.disks.len().div_ceil(15) as i32).max(1);
    let nics = spec.nics.iter().zip(4000..).map(|(nic, key)| Nic {
        key,
        model: nic.model,
        network: nic.network.clone(),
        mac: generated_mac(Uuid::new_v4()),
        address_type: "generated".to_owned(),
        start_connected: true,
        connected: spec.power == Power::On,
    });
    Ok(Plan {
        name: spec.name.clone(),
        guest_id: spec.guest_id.clone(),
        firmware: spec.firmware,
        secure_boot: false,
        processors: spec.processors,
        memory_mib: spec.memory_mib,
        hardware_version: spec.hardware_version.clone(),
        annotation: String::new(),
        bios_uuid: None,
        instance_uuid: None,
        extra: Vec::new(),
        datastore,
        path: None,
        controllers: (0..buses).map(|bus| Controller { key: kind.key(bus), kind, bus }).collect(),
        disks,
        nics: nics.collect(),
        tracking: false,
        writes: spec.writes,
        tools: spec.tools,
        pool: spec.pool.clone(),
        importing: false,
    })
}

fn fill(file: &fs::File, capacity: u64, content: &DiskContent) -> Result<(), SimulatorError> {
    match content {
        DiskContent::Empty => Ok(()),
        DiskContent::Generated { seed, used_bytes } => {
            content::fill_disk(file, capacity, *seed, *used_bytes).map_err(SimulatorError::file("generate", "disk"))
        }
        DiskContent::Raw(path) => {
            let source = fs::File::open(path).map_err(SimulatorError::file("open", path))?;
            content::copy_sparse(&source, file, capacity).map_err(SimulatorError::file("copy", path))
        }
    }
}

/// Checks a client's specification and makes the machine.
pub(crate) fn from_config_spec(host: &Host, spec: ConfigSpec, importing: bool) -> Result<Shared, SoapFault> {
    let name = spec.name.clone().filter(|name| !name.trim().is_empty());
    let name = name.ok_or_else(|| SoapFault::invalid_argument("configSpec.name"))?;
    let path = spec.vm_path_name.as_deref().unwrap_or_default();
    let (datastore, rest) =
        Host::split_path(path).ok_or_else(|| SoapFault::invalid_argument("configSpec.files.vmPathName"))?;
    if host.datastore(datastore).is_none() {
        return Err(SoapFault::new("InvalidDatastore", format!("Invalid datastore path '{path}'.")));
    }
    let path =
        rest.strip_suffix(".vmx").and_then(|rest| rest.rsplit_once('/')).map(|(f, s)| (f.to_owned(), s.to_owned()));
    let hardware_version = spec.version.clone().unwrap_or_else(|| "vmx-13".to_owned());
    if !host.hardware_version_known(&hardware_version) {
        return Err(SoapFault::new(
            "NotSupported",
            format!("Hardware version {hardware_version} is not supported by this host."),
        ));
    }
    let datastore = datastore.to_owned();
    let (controllers, disks) = place_disks(&spec, &datastore)?;
    let nics = place_nics(host, &spec)?;
    let plan = Plan {
        name,
        guest_id: spec.guest_id.unwrap_or_else(|| "otherGuest64".to_owned()),
        firmware: spec.firmware.unwrap_or(Firmware::Bios),
        secure_boot: spec.secure_boot.unwrap_or(false),
        processors: spec.processors.unwrap_or(1),
        memory_mib: spec.memory_mib.unwrap_or(128),
        hardware_version,
        annotation: spec.annotation.unwrap_or_default(),
        bios_uuid: spec.bios_uuid,
        instance_uuid: spec.instance_uuid,
        extra: spec.extra,
        datastore,
        path,
        controllers,
        disks,
        nics,
        tracking: spec.tracking.unwrap_or(false),
        writes: None,
        tools: true,
        pool: String::new(),
        importing,
    };
    create(host, plan)
}

/// Gives controllers their buses and keys, and disks their slots.
fn place_disks(spec: &ConfigSpec, datastore: &str) -> Result<(Vec<Controller>, Vec<PlannedDisk>), SoapFault> {
    let mut controllers: Vec<Controller> = Vec::new();
    let mut keys = HashMap::new();
    for wanted in &spec.controllers {
        let same_bus = |other: &Controller| other.kind.key(0) == wanted.kind.key(0) && other.bus == wanted.bus;
        if controllers.iter().any(same_bus) || keys.contains_key(&wanted.key) || !(0..4).contains(&wanted.bus) {
            return Err(SoapFault::device(wanted.index, "busNumber"));
        }
        let key = wanted.kind.key(wanted.bus);
        keys.insert(wanted.key, key);
        controllers.push(Controller { key, kind: wanted.kind, bus: wanted.bus });
    }
    let mut disks = Vec::new();
    for disk in &spec.disks {
        let Some(&controller_key) = keys.get(&disk.controller_key) else {
            return Err(SoapFault::device(disk.index, "controllerKey"));
        };
        if Host::split_path(&disk.file_name).is_none_or(|(name, _)| name != datastore && !name.is_empty()) {
            return Err(SoapFault::device(disk.index, "backing.fileName"));
        }
        if !disk.create || disk.capacity == 0 {
            return Err(SoapFault::device(disk.index, if disk.create { "capacityInKB" } else { "fileOperation" }));
        }
        disks.push(PlannedDisk {
            controller_key,
            unit: disk.unit,
            capacity: disk.capacity,
            mode: disk.mode,
            thin: disk.thin,
            uuid: disk.uuid,
        });
    }
    Ok((controllers, disks))
}

fn place_nics(host: &Host, spec: &ConfigSpec) -> Result<Vec<Nic>, SoapFault> {
    let mut nics = Vec::new();
    for (nic, key) in spec.nics.iter().zip(4000..) {
        if !host.config.networks.contains(&nic.network) {
            return Err(SoapFault::device(nic.index, "backing.deviceName"));
        }
        let manual = nic.mac.is_some();
        nics.push(Nic {
            key,
            model: nic.model,
            network: nic.network.clone(),
            mac: nic.mac.clone().unwrap_or_else(|| generated_mac(Uuid::new_v4())),
            address_type: if manual { "manual" } else { "generated" }.to_owned(),
            start_connected: nic.start_connected,
            connected: false,
        });
    }
    Ok(nics)
}

impl NicModel {
    pub(crate) const ALL: [Self; 3] = [Self::Vmxnet3, Self::E1000, Self::E1000e];

    pub(crate) const fn type_name(self) -> &'static str {
        match self {
            Self::Vmxnet3 => "VirtualVmxnet3",
            Self::E1000 => "VirtualE1000",
            Self::E1000e => "VirtualE1000e",
        }
    }
}

impl Host {
    /// Whether the host runs machines of that hardware version.
    pub fn hardware_version_known(&self, version: &str) -> bool {
        let newest = match self.config.api_version.split('.').next() {
            Some("6") => 15,
            Some("7") => 19,
            _ => 21,
        };
        version.strip_prefix("vmx-").and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| (4..=newest).contains(&n))
    }

    /// The one host system.
    pub fn host_ref() -> MoRef {
        MoRef::new("HostSystem", "ha-host")
    }
}
