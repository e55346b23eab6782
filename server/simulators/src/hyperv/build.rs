//! Makes the machines of a fresh host from their specifications.

use super::config::{DISK_FOLDER, DiskKind, DiskSpec, MachineSpec};
use super::disk::{self, Content, DiskLayout, SectorSizes};
use super::host::{Host, Switch};
use super::jobs::JobError;
use super::machine::{Backing, Machine, Part};
use super::methods::{power, snapshots, systems};
use super::parts::{self, DRIVE, HARD_DISK, IDE, PHYSICAL_DRIVE, SCSI};
use crate::SimulatorError;
use uuid::Uuid;

/// Disks of a machine of generation 1: two on each of its IDE controllers.
const IDE_DISKS_MAX: usize = 4;

fn refused(operation: &'static str, machine: &str) -> impl FnOnce(JobError) -> SimulatorError {
    let machine = machine.to_owned();
    move |error| SimulatorError::Refused { operation, machine, reason: error.description }
}

/// Fills a fresh host.
pub(crate) fn fill(host: &Host) -> Result<(), SimulatorError> {
    let switches = host.config.switches.iter().map(|name| Switch { id: Uuid::new_v4(), name: name.clone() }).collect();
    host.change(|state| state.switches = switches)?;
    for spec in &host.config.machines {
        machine(host, spec)?;
    }
    Ok(())
}

fn machine(host: &Host, spec: &MachineSpec) -> Result<(), SimulatorError> {
    let mut machine = systems::shell(&spec.name, spec.generation, spec.memory_mib, spec.processors);
    machine.quirks = spec.quirks;
    machine.writes = spec.writes;
    machine.guest_says.clone_from(&spec.guest_says);
    let values = &mut machine.settings.values;
    values.insert("Notes".to_owned(), spec.notes.clone().into());
    values.insert("SecureBootEnabled".to_owned(), (spec.generation == 2 && spec.secure_boot).into());
    for (number, disk) in spec.disks.iter().enumerate() {
        add_disk(host, &mut machine, spec, number, disk)?;
    }
    for switch in &spec.nics {
        let adapter = parts::adapter(&host.change(super::host::State::mac)?);
        let switch = switch.as_ref().and_then(|name| {
            host.read(|state| state.switches.iter().find(|switch| switch.name == *name).map(|switch| switch.id))
        });
        machine.settings.parts.push(parts::connection(&adapter, switch));
        machine.settings.parts.push(adapter);
    }
    let id = machine.id;
    host.change(|state| state.machines.push(machine))?;
    for name in &spec.checkpoints {
        snapshots::make_named(host, id, name, false).map(drop).map_err(refused("checkpoint", &spec.name))?;
    }
    power::set(host, id, spec.on).map_err(refused("power on", &spec.name))
}

/// The file of a disk.
fn file_of(path: &str, spec: &DiskSpec) -> Result<disk::DiskSpec, SimulatorError> {
    let logical = if spec.kind == DiskKind::Dynamic4K { 4096 } else { 512 };
    let size = match &spec.content {
        Content::Raw(image) if spec.size_bytes == 0 => {
            std::fs::metadata(image).map_err(SimulatorError::file("look at", image))?.len()
        }
        _ => spec.size_bytes,
    };
    let layout = if spec.kind == DiskKind::Fixed { DiskLayout::Fixed } else { DiskLayout::Dynamic };
    Ok(disk::DiskSpec {
        content: spec.content.clone(),
        layout,
        sectors: SectorSizes { logical, physical: 4096 },
        ..disk::DiskSpec::dynamic(path, size.next_multiple_of(logical))
    })
}

fn add_disk(
    host: &Host,
    machine: &mut Machine,
    spec: &MachineSpec,
    number: usize,
    disk: &DiskSpec,
) -> Result<(), SimulatorError> {
    let controller = controller(machine, spec, number)?;
    let place = if spec.generation == 1 { number % 2 } else { number } as u64;
    if disk.kind == DiskKind::PassThrough {
        let mut drive = parts::drive(PHYSICAL_DRIVE, &controller, place);
        let device = format!(
            "\\\\{}\\root\\virtualization\\v2:Msvm_DiskDrive.DeviceID=\"Microsoft:{number}\"",
            host.config.name
        );
        drive.values.insert("HostResource".to_owned(), vec![device].into());
        machine.settings.parts.push(drive);
        return Ok(());
    }
    let drive = parts::drive(DRIVE, &controller, place);
    let mut image = parts::image(HARD_DISK, &drive);
    let suffix = if number == 0 { String::new() } else { format!("-{number}") };
    if disk.kind == DiskKind::Shared {
        let path = format!("{DISK_FOLDER}\\{}{suffix}.vhds", spec.name);
        image.values.insert("PersistentReservationsSupported".to_owned(), true.into());
        image.backing = Some(Backing { disk: None, path });
    } else {
        let path = format!("{DISK_FOLDER}\\{}{suffix}.vhdx", spec.name);
        let id = host.store.create(&file_of(&path, disk)?)?;
        image.backing = Some(Backing { disk: Some(id), path });
    }
    machine.settings.parts.extend([drive, image]);
    Ok(())
}

/// The controller for the disk of that number.
fn controller(machine: &mut Machine, spec: &MachineSpec, number: usize) -> Result<Part, SimulatorError> {
    let wanted = if spec.generation == 1 { IDE } else { SCSI };
    let index = if spec.generation == 1 { number / 2 } else { 0 };
    if spec.generation == 1 && number >= IDE_DISKS_MAX {
        let reason = format!("{}: a machine of generation 1 takes {IDE_DISKS_MAX} disks here", spec.name);
        return Err(SimulatorError::Config { reason });
    }
    let found = machine.settings.parts.iter().filter(|part| part.sub_type() == wanted).nth(index).cloned();
    Ok(found.unwrap_or_else(|| {
        let made = parts::controller(SCSI, 0);
        machine.settings.parts.push(made.clone());
        made
    }))
}
