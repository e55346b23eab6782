//! A machine that is being restored: defined with its hardware, its disks written as VHDX and attached at the end.
//!
//! Must never: leave a machine or a file behind after [`abandon`](RestoreTarget::abandon), or remove one that is not
//! ours: the token in its notes says which is.

use super::bytes::{Files, NewDisk};
use super::machine::SCSI_UNITS;
use super::model::{
    CONNECTION, IDE_CONTROLLER, MANAGEMENT_SERVICE, MEMORY, PROCESSOR, RESOURCE, Rows, SCSI_CONTROLLER, SETTINGS,
    SWITCH, all, instance_reference, machine_reference, parts,
};
use super::spec;
use super::wire::{CallError, Wsman};
use super::wmi::{Arguments, Embedded, Instance, run, service};
use crate::{ErrorKind, HostError, MachineRef, RestoreRequest, RestoreTarget, Result};
use async_trait::async_trait;
use bytes::Bytes;
use disk::container::ImageKind;
use disk::container::vhdx::VhdxOptions;
use domain::machine::{ControllerKind, DiskConfig, Firmware, PowerState};
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// What the host says of its default folders.
const SERVICE_SETTINGS: &str = "Msvm_VirtualSystemManagementServiceSettingData";
/// Disks of one machine: four SCSI controllers, and IDE.
const MAX_DISKS: usize = 260;
const PHYSICAL_SECTOR_BYTES: u32 = 4096;
const WRITES_IN_FLIGHT: usize = 8;

type Call<T> = std::result::Result<T, CallError>;

pub(super) struct NewMachine {
    maker: Maker,
    current: Option<(i32, Box<dyn NewDisk>)>,
    finished: Vec<i32>,
}

/// What defines the machine and gives it its parts.
struct Maker {
    wsman: Arc<dyn Wsman>,
    files: Arc<dyn Files>,
    request: RestoreRequest,
    machine: MachineRef,
    settings_id: String,
    folder: String,
}

pub(super) async fn create(
    wsman: &Arc<dyn Wsman>,
    files: &Arc<dyn Files>,
    request: &RestoreRequest,
) -> Result<Box<dyn RestoreTarget>> {
    let attempt = format!("define machine {}", request.name);
    let refuse = |code, reason: String, hint: &str| HostError {
        kind: ErrorKind::Unsupported,
        code,
        host: wsman.host().to_owned(),
        attempt: attempt.clone(),
        reason,
        hint: hint.to_owned(),
        source: None,
    };
    if request.name.is_empty() || request.name.chars().count() > spec::MAX_NAME_CHARS {
        let reason = format!("the name has more than {} letters, or none", spec::MAX_NAME_CHARS);
        return Err(refuse("hyperv.bad_name", reason, "Choose a shorter name."));
    }
    if request.config.disks.len() > MAX_DISKS {
        let reason = format!("the machine has {} disks", request.config.disks.len());
        return Err(refuse("hyperv.too_many_disks", reason, "Hyper-V takes 256 SCSI and 4 IDE disks."));
    }
    let default = default_folder(wsman.as_ref()).await.map_err(|error| error.during(wsman.host(), &attempt))?;
    let Some(folder) = spec::folder(request, &default) else {
        let reason = format!("\"{}\" is no volume or folder of the host", request.datastore);
        return Err(refuse("hyperv.bad_folder", reason, "Choose a volume of the host, e.g. D:."));
    };
    files.make_folder(&folder).await?;
    let defined = define(wsman.as_ref(), request, &folder).await;
    let (machine, settings_id) = defined.map_err(|error| error.during(wsman.host(), &attempt))?;
    let maker =
        Maker { wsman: wsman.clone(), files: files.clone(), request: request.clone(), machine, settings_id, folder };
    match maker.equip().await {
        Ok(()) => Ok(Box::new(NewMachine { maker, current: None, finished: Vec::new() })),
        Err(error) => {
            let error = error.during(wsman.host(), &attempt);
            remove_half_made(wsman.as_ref(), files.as_ref(), &request.token).await?;
            Err(error)
        }
    }
}

async fn default_folder(wsman: &dyn Wsman) -> Call<String> {
    let rows = all(wsman, SERVICE_SETTINGS).await?;
    Ok(rows.first().map(|row| row.word("DefaultVirtualHardDiskPath").to_owned()).unwrap_or_default())
}

/// Defines the machine, and finds it by its token where the answer does not name it.
async fn define(wsman: &dyn Wsman, request: &RestoreRequest, folder: &str) -> Call<(MachineRef, String)> {
    let settings = spec::settings(request, folder, request.config.disks.len());
    let arguments = Arguments::default().embedded("SystemSettings", settings);
    let service = service(MANAGEMENT_SERVICE);
    if let Err(error) = run(wsman, &service, "DefineSystem", arguments, wsman.timeouts().job).await
        && !error.is_lost()
    {
        return Err(error);
    }
    let found = by_token(wsman, &request.token).await?;
    match found.as_slice() {
        [one] => Ok((MachineRef(one.word("VirtualSystemIdentifier").to_owned()), one.instance_id().to_owned())),
        other => {
            let reason = format!("the host lists {} machines with the restore's token instead of one", other.len());
            Err(failure(wsman, "hyperv.not_defined", reason))
        }
    }
}

/// Settings of machines that carry the token.
async fn by_token(wsman: &dyn Wsman, token: &str) -> Call<Vec<Instance>> {
    let mut rows = all(wsman, SETTINGS).await?;
    rows.retain(|row| {
        let is_own = spec::disks_of_token(&row.list("Notes").join("\n"), token).is_some();
        is_own && row.word("VirtualSystemType") == super::model::REALIZED
    });
    Ok(rows)
}

impl Maker {
    /// Memory, processors, controllers and network adapters.
    async fn equip(&self) -> Call<()> {
        let config = &self.request.config;
        let memory = self.part_of(MEMORY).await?;
        self.modify(spec::memory(&memory, config)).await?;
        let processor = self.part_of(PROCESSOR).await?;
        self.modify(spec::processors(&processor, config)).await?;
        for _ in 0..self.scsi_controllers() {
            self.add(spec::scsi_controller()).await?;
        }
        let switches = all(self.wsman.as_ref(), SWITCH).await?;
        for adapter in &config.adapters {
            let port = self.add(spec::port(adapter, &self.request)).await?;
            if let Some(switch) = spec::switch_for(adapter, &self.request, &switches) {
                let connection = self.add(spec::connection(&port, switch)).await?;
                if let Some(id) = adapter.vlan {
                    self.set_vlan(&connection, id).await?;
                }
            }
        }
        Ok(())
    }

    async fn set_vlan(&self, connection: &Instance, id: u16) -> Call<()> {
        let arguments = Arguments::default()
            .reference("AffectedConfiguration", &instance_reference(CONNECTION, connection.instance_id()))
            .embedded("FeatureSettings", spec::vlan(id));
        let budget = self.wsman.timeouts().job;
        let service = service(MANAGEMENT_SERVICE);
        run(self.wsman.as_ref(), &service, "AddFeatureSettings", arguments, budget).await.map(drop)
    }

    /// The disk the machine started from first; a host that does not take it leaves its own order.
    async fn boot_from(&self, drive_id: &str) {
        let arguments = Arguments::default().embedded("SystemSettings", spec::boot_first(&self.settings_id, drive_id));
        let budget = self.wsman.timeouts().job;
        let service = service(MANAGEMENT_SERVICE);
        if let Err(error) = run(self.wsman.as_ref(), &service, "ModifySystemSettings", arguments, budget).await {
            tracing::warn!(machine = self.machine.0, reason = error.reason(), "the order of starting could not be set");
        }
    }

    /// As many as the machine had, and one where its disks need one.
    fn scsi_controllers(&self) -> usize {
        let config = &self.request.config;
        let had = config.controllers.iter().filter(|controller| controller.kind != ControllerKind::Ide).count();
        let needs = config.disks.iter().any(|disk| !self.is_ide(disk));
        had.max(usize::from(needs)).min(4)
    }

    fn is_ide(&self, disk: &DiskConfig) -> bool {
        let kind = self.controller_of(disk).map(|(kind, _)| kind);
        kind == Some(ControllerKind::Ide) && self.request.config.firmware == Firmware::Bios
    }

    /// Kind and place among its kind of a disk's controller.
    fn controller_of(&self, disk: &DiskConfig) -> Option<(ControllerKind, usize)> {
        let controllers = &self.request.config.controllers;
        let own = controllers.iter().find(|controller| controller.key == disk.controller_key)?;
        let is_ide = own.kind == ControllerKind::Ide;
        let before = controllers.iter().filter(|other| (other.kind == ControllerKind::Ide) == is_ide);
        Some((own.kind, before.take_while(|other| other.key != own.key).count()))
    }

    async fn part_of(&self, class: &'static str) -> Call<String> {
        let rows = all(self.wsman.as_ref(), class).await?;
        let found = parts(&rows, &self.settings_id).next().map(|row| row.instance_id().to_owned());
        found.ok_or_else(|| self.fail("hyperv.no_part", format!("the new machine has no {class}")))
    }

    async fn modify(&self, settings: Embedded) -> Call<()> {
        let arguments = Arguments::default().embedded("ResourceSettings", settings);
        let budget = self.wsman.timeouts().job;
        let service = service(MANAGEMENT_SERVICE);
        run(self.wsman.as_ref(), &service, "ModifyResourceSettings", arguments, budget).await.map(drop)
    }

    /// Adds a part, and finds what it became by what is new.
    async fn add(&self, settings: Embedded) -> Call<Instance> {
        let class = settings.class();
        let before: BTreeSet<String> = self.own(class).await?.iter().map(|row| row.instance_id().to_owned()).collect();
        let arguments = Arguments::default()
            .reference("AffectedConfiguration", &instance_reference(SETTINGS, &self.settings_id))
            .embedded("ResourceSettings", settings);
        let budget = self.wsman.timeouts().job;
        run(self.wsman.as_ref(), &service(MANAGEMENT_SERVICE), "AddResourceSettings", arguments, budget).await?;
        let after = self.own(class).await?;
        let fresh = after.into_iter().find(|row| !before.contains(row.instance_id()));
        fresh.ok_or_else(|| self.fail("hyperv.part_missing", format!("the host added no {class}, and said it did")))
    }

    async fn own(&self, class: &'static str) -> Call<Vec<Instance>> {
        let mut rows = all(self.wsman.as_ref(), class).await?;
        rows.retain(|row| super::model::tail(row.instance_id(), &self.settings_id).is_some());
        Ok(rows)
    }

    /// Attaches the written disks to their controllers, at their places.
    async fn attach(&self) -> Call<()> {
        let resources = self.own(RESOURCE).await?;
        let controllers = |sub_type: &str| {
            let mut ids: Vec<String> = resources
                .iter()
                .filter(|row| row.word("ResourceSubType") == sub_type)
                .map(|row| row.instance_id().to_owned())
                .collect();
            ids.sort_by_key(|id| id.to_ascii_lowercase());
            ids
        };
        let (ide, scsi) = (controllers(IDE_CONTROLLER), controllers(SCSI_CONTROLLER));
        let (mut free_unit, mut boot) = (0, None);
        for (place, disk) in self.request.config.disks.iter().enumerate() {
            let ids = if self.is_ide(disk) { &ide } else { &scsi };
            let known =
                self.controller_of(disk).filter(|(kind, _)| (*kind == ControllerKind::Ide) == self.is_ide(disk));
            let (bus, unit) = match known {
                Some((_, bus)) => (bus, disk.unit),
                // From an IDE machine to one without: in order.
                None => (0, free_unit),
            };
            free_unit = (free_unit + 1).min(SCSI_UNITS - 1);
            let id = ids.get(bus).ok_or_else(|| {
                self.fail("hyperv.no_controller", format!("the new machine has no controller {bus} for {}", disk.label))
            })?;
            let drive = self.add(spec::drive(id, unit)).await?;
            self.add(spec::disk(drive.instance_id(), &spec::disk_path(&self.folder, place))).await?;
            if self.request.config.hyperv.as_ref().is_some_and(|own| own.boot_disk_key == Some(disk.key)) {
                boot = Some(drive.instance_id().to_owned());
            }
        }
        if let Some(drive) = boot.filter(|_| self.request.config.firmware == Firmware::Efi) {
            self.boot_from(&drive).await;
        }
        Ok(())
    }

    fn fail(&self, code: &'static str, reason: String) -> CallError {
        failure(self.wsman.as_ref(), code, reason)
    }

    fn error(&self, code: &'static str, reason: String) -> HostError {
        match failure(self.wsman.as_ref(), code, reason) {
            CallError::Host(error) => HostError { attempt: format!("restore machine {}", self.request.name), ..error },
            CallError::Fault(fault) => fault.into_error(self.wsman.host(), "restore"),
        }
    }
}

fn failure(wsman: &dyn Wsman, code: &'static str, reason: String) -> CallError {
    CallError::Host(HostError {
        kind: ErrorKind::Refused,
        code,
        host: wsman.host().to_owned(),
        attempt: "define a machine".into(),
        reason,
        hint: "The host's Hyper-V-VMMS event log names the cause.".into(),
        source: None,
    })
}

#[async_trait]
impl RestoreTarget for NewMachine {
    fn machine(&self) -> Option<MachineRef> {
        Some(self.maker.machine.clone())
    }

    async fn begin_disk(&mut self, disk_key: i32) -> Result<()> {
        if self.current.is_some() || self.finished.contains(&disk_key) {
            return Err(self.maker.error("hyperv.disk_order", format!("disk {disk_key} began out of turn")));
        }
        let mut disks = self.maker.request.config.disks.iter().enumerate();
        let Some((place, disk)) = disks.find(|(_, disk)| disk.key == disk_key) else {
            return Err(self.maker.error("hyperv.disk_missing", format!("the machine has no disk {disk_key}")));
        };
        let kept = disk.uuid.as_ref().filter(|_| self.maker.request.keep_identity);
        let options = VhdxOptions {
            kind: ImageKind::Dynamic,
            size_bytes: disk.capacity_bytes,
            block_bytes: VhdxOptions::DEFAULT_BLOCK_BYTES,
            logical_sector_bytes: disk.sector_bytes,
            physical_sector_bytes: PHYSICAL_SECTOR_BYTES,
            disk_id: kept.and_then(|id| Uuid::parse_str(id).ok()).unwrap_or_else(Uuid::new_v4),
            file_write_id: Uuid::new_v4(),
            data_write_id: Uuid::new_v4(),
            creator: "Stillframe".into(),
            writes_in_flight: WRITES_IN_FLIGHT,
        };
        let upload = self.maker.files.create_disk(&spec::disk_path(&self.maker.folder, place), options).await?;
        self.current = Some((disk_key, upload));
        Ok(())
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        match &mut self.current {
            Some((_, upload)) => upload.write(offset, data).await,
            None => Err(self.maker.error("hyperv.disk_order", "bytes came before a disk was begun".into())),
        }
    }

    async fn finish_disk(&mut self) -> Result<()> {
        let Some((disk_key, upload)) = self.current.take() else {
            return Err(self.maker.error("hyperv.disk_order", "a disk ended that was not begun".into()));
        };
        upload.finish().await?;
        self.finished.push(disk_key);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<MachineRef> {
        let missing = self.maker.request.config.disks.iter().find(|disk| !self.finished.contains(&disk.key));
        if let Some(disk) = missing {
            let error = self.maker.error("hyperv.disk_missing", format!("{} was not written", disk.label));
            self.abandon().await?;
            return Err(error);
        }
        match self.maker.attach().await {
            Ok(()) => Ok(self.maker.machine),
            Err(error) => {
                let attempt = format!("attach the disks of {}", self.maker.request.name);
                let error = error.during(self.maker.wsman.host(), attempt);
                self.abandon().await?;
                Err(error)
            }
        }
    }

    async fn abandon(self: Box<Self>) -> Result<()> {
        let Self { maker, current, .. } = *self;
        if let Some((_, upload)) = current {
            upload.abandon().await?;
        }
        remove_half_made(maker.wsman.as_ref(), maker.files.as_ref(), &maker.request.token).await
    }
}

/// Removes the machine with this token, and the disks a restore wrote into its folder.
pub(super) async fn remove_half_made(wsman: &dyn Wsman, files: &dyn Files, token: &str) -> Result<()> {
    let attempt = "remove a half-made machine";
    let found = by_token(wsman, token).await.map_err(|error| error.during(wsman.host(), attempt))?;
    for settings in found {
        let machine = MachineRef(settings.word("VirtualSystemIdentifier").to_owned());
        let disks = spec::disks_of_token(&settings.list("Notes").join("\n"), token).unwrap_or(0).min(MAX_DISKS);
        let folder = settings.word("ConfigurationDataRoot").trim_end_matches('\\').to_owned();
        destroy(wsman, &machine).await.map_err(|error| error.during(wsman.host(), attempt))?;
        // Only the folder that was made for this machine: its name ends in the token's first letters.
        let short: String = token.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        if folder.ends_with(&short) && !short.is_empty() {
            for place in 0..disks {
                files.remove(&spec::disk_path(&folder, place)).await?;
            }
        }
    }
    Ok(())
}

async fn destroy(wsman: &dyn Wsman, machine: &MachineRef) -> Call<()> {
    match super::power::state(wsman, machine).await {
        Ok(PowerState::Off) => {}
        Err(error) if error.is_not_found() => return Ok(()),
        Ok(_) => {
            // A half-made machine is never started by us; one that runs was finished by somebody.
            return Err(failure(wsman, "hyperv.machine_runs", "the half-made machine was started".into()));
        }
        Err(error) => return Err(error),
    }
    let arguments = Arguments::default().reference("AffectedSystem", &machine_reference(machine));
    let budget = wsman.timeouts().job;
    match run(wsman, &service(MANAGEMENT_SERVICE), "DestroySystem", arguments, budget).await {
        Ok(_) => Ok(()),
        Err(error) => match Rows::fetch(wsman).await {
            Ok(rows) if rows.system(&machine.0).is_none() => Ok(()),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unnecessary_wraps, clippy::format_collect)] // a list of answers holds faults as well

    use super::*;
    use crate::hyperv::script::{Answer, FakeFiles, Script, started, state};
    use crate::hyperv::snapshot::tests::snapshot_with;
    use domain::machine::{Controller, NetworkAdapter};

    const TOKEN: &str = "0123456789abcdef";

    fn request() -> RestoreRequest {
        let disk = |key, unit| DiskConfig {
            key,
            label: format!("SCSI 0:{unit}"),
            capacity_bytes: 1 << 20,
            controller_key: 1000,
            unit,
            uuid: None,
            thin: true,
            sector_bytes: 512,
        };
        let mut config = snapshot_with(vec![disk(2003, 3)]).config;
        config.controllers = vec![Controller { key: 1000, kind: ControllerKind::HyperVScsi, bus: 0 }];
        config.adapters = vec![NetworkAdapter {
            key: 4000,
            model: "Synthetic".into(),
            network: "LAN".into(),
            mac: None,
            connect_at_power_on: true,
            vlan: Some(7),
        }];
        RestoreRequest {
            config,
            name: "web".into(),
            datastore: "D:".into(),
            network: None,
            connect_network: true,
            keep_identity: false,
            token: TOKEN.into(),
        }
    }

    fn list(class: &str, rows: &[&str]) -> Answer {
        let rows: String = rows.iter().map(|row| format!("<{class}>{row}</{class}>")).collect();
        Ok(format!("<E><Items>{rows}</Items><EndOfSequence/></E>").leak())
    }

    fn ids(class: &str, ids: &[&str]) -> Answer {
        let rows: Vec<String> = ids.iter().map(|id| format!("<InstanceID>{id}</InstanceID>")).collect();
        list(class, &rows.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn done(method: &str) -> Answer {
        Ok(format!("<{method}_OUTPUT><ReturnValue>0</ReturnValue></{method}_OUTPUT>").leak())
    }

    fn own() -> Answer {
        let row = format!(
            "<InstanceID>Microsoft:N</InstanceID><VirtualSystemIdentifier>N</VirtualSystemIdentifier>\
             <VirtualSystemType>Microsoft:Hyper-V:System:Realized</VirtualSystemType>\
             <ConfigurationDataRoot>D:\\Hyper-V\\web 01234567</ConfigurationDataRoot>\
             <Notes>Restored by Stillframe ({TOKEN}, 1 disks)</Notes>"
        );
        list(SETTINGS, &[row.as_str()])
    }

    /// Up to the machine with memory and processors.
    fn defined() -> Vec<Answer> {
        vec![
            list("S", &["<DefaultVirtualHardDiskPath>C:\\VMs</DefaultVirtualHardDiskPath>"]),
            started("DefineSystem", "Msvm_ConcreteJob"),
            state(7, ""),
            own(),
            ids(MEMORY, &["Microsoft:N\\mem", "Microsoft:OTHER\\mem"]),
            done("ModifyResourceSettings"),
            ids(PROCESSOR, &["Microsoft:N\\cpu"]),
            done("ModifyResourceSettings"),
        ]
    }

    fn added(class: &str, before: &[&str], after: &[&str]) -> Vec<Answer> {
        vec![ids(class, before), done("AddResourceSettings"), ids(class, after)]
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_is_defined_written_and_made_whole() {
        let (port, link) = ("Msvm_SyntheticEthernetPortSettingData", "Msvm_EthernetPortAllocationSettingData");
        let controller = "<InstanceID>Microsoft:N\\c\\0</InstanceID>\
            <ResourceSubType>Microsoft:Hyper-V:Synthetic SCSI Controller</ResourceSubType>";
        let mut answers = defined();
        answers.extend(added(RESOURCE, &[], &["Microsoft:N\\c\\0"]));
        answers.push(list(SWITCH, &["<ElementName>LAN</ElementName><Name>SW</Name>"]));
        answers.extend(added(port, &[], &["Microsoft:N\\p"]));
        answers.extend(added(link, &[], &["Microsoft:N\\p\\C"]));
        answers.push(done("AddFeatureSettings"));
        answers.push(list(RESOURCE, &[controller]));
        answers.extend(added(RESOURCE, &["Microsoft:N\\c\\0"], &["Microsoft:N\\c\\0", "Microsoft:N\\c\\0\\3\\D"]));
        answers.extend(added("Msvm_StorageAllocationSettingData", &[], &["Microsoft:N\\c\\0\\3\\L"]));
        let script = Arc::new(Script::new(answers));
        let files = Arc::new(FakeFiles::default());
        let (wsman, bytes): (Arc<dyn Wsman>, Arc<dyn Files>) = (script.clone(), files.clone());
        let mut target = create(&wsman, &bytes, &request()).await.unwrap();
        assert_eq!(target.machine(), Some(MachineRef("N".into())));
        target.begin_disk(2003).await.unwrap();
        target.write(0, Bytes::from_static(b"data")).await.unwrap();
        target.finish_disk().await.unwrap();
        assert_eq!(target.commit().await.unwrap(), MachineRef("N".into()));
        let folder = "D:\\Hyper-V\\web 01234567";
        assert_eq!(
            files.deeds(),
            [
                format!("make {folder}"),
                format!("create {folder}\\disk0.vhdx"),
                "write 0+4".to_owned(),
                "finish".to_owned()
            ]
        );
        let asked = script.asked();
        let bodies: Vec<&str> = asked.iter().map(|request| request.body.as_str()).collect();
        let drive = bodies.iter().find(|body| body.contains("Synthetic Disk Drive")).unwrap();
        assert!(
            drive.contains("InstanceID=\"Microsoft:N\\\\c\\\\0\"") && drive.contains("<VALUE>3</VALUE>"),
            "{drive}"
        );
        let disk = bodies.iter().find(|body| body.contains("HostResource") && body.contains("vhdx")).unwrap();
        assert!(disk.contains("InstanceID=\"Microsoft:N\\\\c\\\\0\\\\3\\\\D\""), "{disk}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_removes_the_machine_and_its_disks() {
        let mut answers = defined();
        answers.extend([
            ids(RESOURCE, &[]),
            Ok("<AddResourceSettings_OUTPUT><ReturnValue>32768</ReturnValue></AddResourceSettings_OUTPUT>"),
            own(),
            Ok("<Msvm_ComputerSystem><EnabledState>3</EnabledState></Msvm_ComputerSystem>"),
            started("DestroySystem", "Msvm_ConcreteJob"),
            state(7, ""),
        ]);
        let script = Arc::new(Script::new(answers));
        let files = Arc::new(FakeFiles::default());
        let (wsman, bytes): (Arc<dyn Wsman>, Arc<dyn Files>) = (script.clone(), files.clone());
        let error = create(&wsman, &bytes, &request()).await.err().unwrap();
        assert_eq!(error.code, "hyperv.failed");
        assert!(
            files.deeds().contains(&"remove D:\\Hyper-V\\web 01234567\\disk0.vhdx".to_owned()),
            "{:?}",
            files.deeds()
        );
        assert!(script.asked().iter().any(|request| request.action.ends_with("/DestroySystem")));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_machine_with_the_token_is_removed_and_never_one_that_runs() {
        let files = FakeFiles::default();
        let other = list(
            SETTINGS,
            &["<InstanceID>Microsoft:O</InstanceID><VirtualSystemType>Microsoft:Hyper-V:System:Realized\
               </VirtualSystemType><Notes>Restored by Stillframe (other, 1 disks)</Notes>"],
        );
        let script = Script::new([other]);
        remove_half_made(&script, &files, TOKEN).await.unwrap();
        assert_eq!(script.asked().len(), 1);
        let running = Ok("<Msvm_ComputerSystem><EnabledState>2</EnabledState></Msvm_ComputerSystem>");
        let script = Script::new([own(), running]);
        let error = remove_half_made(&script, &files, TOKEN).await.unwrap_err();
        assert_eq!(error.code, "hyperv.machine_runs");
        assert!(files.deeds().is_empty());
    }
}
