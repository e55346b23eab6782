//! Machines are defined, changed and destroyed.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::resources::{attach, prepare};
use super::{Call, Output, RETURN_FAILED, RETURN_INVALID_PARAMETER, RETURN_INVALID_STATE, Refusal, settings_of};
use crate::hyperv::config::Quirks;
use crate::hyperv::host::MACHINES_MAX;
use crate::hyperv::inventory::machine_path;
use crate::hyperv::jobs::{FAILED, INVALID_PARAMETER, JobError};
use crate::hyperv::machine::{Machine, Settings};
use crate::hyperv::model::embedded::Embedded;
use crate::hyperv::model::value::Value;
use crate::hyperv::parts::{self, IDE};
use crate::state::now;

/// What the host decides; the rest of the settings is the client's.
const OWN: [&str; 7] = [
    "InstanceID",
    "VirtualSystemIdentifier",
    "VirtualSystemType",
    "VirtualSystemSubType",
    "ConfigurationID",
    "CreationTime",
    "Parent",
];
/// Characters of a machine's name.
const NAME_CHARS_MAX: usize = 100;
/// Template "Microsoft Windows" of secure boot.
const SECURE_BOOT_WINDOWS: &str = "1734C6E8-3154-4DDA-BA5F-A874CC483422";

/// The settings every machine begins with.
pub(crate) fn default_settings(name: &str, generation: u8) -> Settings {
    const ROOT: &str = "C:\\ProgramData\\Microsoft\\Windows\\Hyper-V";
    let bios = format!("{{{}}}", crate::hyperv::machine::guid(Uuid::new_v4()));
    let mut values = vec![
        ("Caption", Value::from("Virtual Machine Settings")),
        ("Description", "Active settings for the virtual machine.".into()),
        ("ElementName", name.into()),
        ("AutomaticCriticalErrorAction", 1u64.into()),
        ("AutomaticCriticalErrorActionTimeout", Value::Interval(30 * 60 * 1_000_000)),
        ("AutomaticRecoveryAction", 2u64.into()),
        ("AutomaticShutdownAction", 3u64.into()),
        ("AutomaticSnapshotsEnabled", false.into()),
        ("AutomaticStartupAction", 3u64.into()),
        ("AutomaticStartupActionDelay", Value::Interval(0)),
        ("AutomaticStartupActionSequenceNumber", 0u64.into()),
        ("Architecture", "x64".into()),
        ("BIOSGUID", bios.into()),
        ("BIOSNumLock", false.into()),
        ("ConfigurationDataRoot", ROOT.into()),
        ("ConsoleMode", 0u64.into()),
        ("GuestControlledCacheTypes", false.into()),
        ("HighMmioGapSize", 512u64.into()),
        ("IncrementalBackupEnabled", true.into()),
        ("IsSaved", false.into()),
        ("LockOnDisconnect", false.into()),
        ("LowMmioGapSize", 128u64.into()),
        ("Notes", Value::List(Vec::new())),
        ("SnapshotDataRoot", ROOT.into()),
        ("SwapFileDataRoot", ROOT.into()),
        ("UserSnapshotType", 3u64.into()),
        ("Version", "10.0".into()),
        ("VirtualNumaEnabled", true.into()),
        ("SecureBootEnabled", (generation == 2).into()),
    ];
    if generation == 2 {
        values.push(("SecureBootTemplateId", SECURE_BOOT_WINDOWS.into()));
    } else {
        values.push(("BootOrder", vec![1u64, 2, 3, 0].into()));
    }
    let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>();
    Settings { values, parts: Vec::new() }
}

/// A machine without disks, as `DefineSystem` makes it: generation 1 has its two IDE controllers, generation 2 no controller.
pub(crate) fn shell(name: &str, generation: u8, memory_mib: u64, processors: u32) -> Machine {
    let mut settings = default_settings(name, generation);
    settings.parts.extend(parts::units(memory_mib, processors));
    if generation == 1 {
        settings.parts.extend((0..2).map(|number| parts::controller(IDE, number)));
    }
    Machine {
        id: Uuid::new_v4(),
        generation,
        on: false,
        created: now(),
        changed: now(),
        settings,
        snapshots: Vec::new(),
        points: Vec::new(),
        writes: None,
        guest_says: Vec::new(),
        quirks: Quirks::default(),
    }
}

fn merge(settings: &mut Settings, wanted: &Embedded) {
    for (name, value) in wanted.values.iter().filter(|(name, _)| !OWN.contains(name)) {
        settings.values.insert((*name).to_owned(), value.clone());
    }
}

/// What no machine of a generation can be.
fn check(generation: u8, wanted: &Embedded) -> Result<(), JobError> {
    let secure = wanted.get("SecureBootEnabled") == Some(&Value::Flag(true));
    let long = wanted.text("ElementName").is_some_and(|name| name.chars().count() > NAME_CHARS_MAX || name.is_empty());
    if (secure && generation != 2) || long {
        return Err(JobError::new(INVALID_PARAMETER, "The virtual machine cannot have these settings."));
    }
    Ok(())
}

pub(super) fn define(call: &Call<'_>) -> Result<Output, Refusal> {
    let wanted = call.instances("SystemSettings").first().ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?;
    let generation = match wanted.text("VirtualSystemSubType").unwrap_or("Microsoft:Hyper-V:SubType:1") {
        "Microsoft:Hyper-V:SubType:1" => 1,
        "Microsoft:Hyper-V:SubType:2" => 2,
        _ => return Err(Refusal::Code(RETURN_INVALID_PARAMETER)),
    };
    if let Err(error) = check(generation, wanted) {
        return call.start_failing(error);
    }
    if call.host.read(|state| state.machines.len()) >= MACHINES_MAX {
        return Err(Refusal::Code(RETURN_FAILED));
    }
    let mut machine = shell("New Virtual Machine", generation, 1024, 1);
    merge(&mut machine.settings, wanted);
    let mut files = Vec::new();
    for wanted in call.instances("ResourceSettings") {
        // Memory and processors are there already; what comes for them changes them.
        let unit = machine.settings.parts.iter_mut().find(|part| part.class == wanted.class.name);
        match unit.filter(|part| [parts::MEMORY, parts::PROCESSOR].contains(&&*part.class)) {
            Some(unit) => {
                for (name, value) in wanted.values.iter().filter(|(name, _)| *name != "InstanceID") {
                    unit.values.insert((*name).to_owned(), value.clone());
                }
            }
            None => match prepare(call.host, &machine, &machine.settings, wanted) {
                Ok(part) if part.backing.is_some() => files.push(part),
                Ok(part) => machine.settings.parts.push(part),
                Err(error) => return call.start_failing(error),
            },
        }
    }
    let id = machine.id;
    let output = call.start(Some(id), move |host| {
        host.change(|state| state.machines.push(machine))?;
        attach(host, id, files)?;
        Ok(vec![machine_path(id)])
    })?;
    Ok(output.with("ResultingSystem", machine_path(id)))
}

pub(super) fn modify(call: &Call<'_>) -> Result<Output, Refusal> {
    let wanted = call.instances("SystemSettings").first().ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?.clone();
    let (machine, id) = wanted
        .text("InstanceID")
        .and_then(|id| settings_of(call.host, id))
        .ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?;
    let other_kind =
        wanted.text("VirtualSystemSubType").is_some_and(|kind| !kind.ends_with(&machine.generation.to_string()));
    if other_kind {
        return Err(Refusal::Code(RETURN_INVALID_PARAMETER));
    }
    if let Err(error) = check(machine.generation, &wanted) {
        return call.start_failing(error);
    }
    call.start(Some(machine.id), move |host| {
        host.change_machine(machine.id, |machine| {
            let own = machine.id == id;
            let settings = match machine.snapshots.iter_mut().find(|snapshot| snapshot.id == id) {
                Some(snapshot) => &mut snapshot.settings,
                None if own => &mut machine.settings,
                None => return,
            };
            merge(settings, &wanted);
        })?;
        Ok(Vec::new())
    })
}

/// Ends a job that can be ended.
pub(super) fn end_job(call: &Call<'_>) -> Result<Output, Refusal> {
    /// `RequestedState`: terminate, kill.
    const ENDS: [u64; 2] = [4, 5];
    if !ENDS.contains(&call.number("RequestedState")?) {
        return Err(Refusal::Code(RETURN_INVALID_PARAMETER));
    }
    let id = call.target.get("InstanceID").text().and_then(|id| Uuid::parse_str(id).ok());
    if id.is_some_and(|id| call.host.jobs.terminate(id)) {
        Ok(Output::default())
    } else {
        Err(Refusal::Code(RETURN_INVALID_STATE))
    }
}

pub(super) fn destroy(call: &Call<'_>) -> Result<Output, Refusal> {
    let machine = call.machine("AffectedSystem")?;
    if machine.on {
        return Err(Refusal::Code(RETURN_INVALID_STATE));
    }
    call.start(Some(machine.id), move |host| {
        let gone = host.change(|state| {
            let at = state.machines.iter().position(|known| known.id == machine.id)?;
            Some(state.machines.remove(at))
        })?;
        let gone = gone.ok_or_else(|| JobError::new(FAILED, "The virtual machine is gone."))?;
        for (_, disk) in gone.settings.disks() {
            host.store.detach(disk)?;
        }
        Ok(Vec::new())
    })
}
