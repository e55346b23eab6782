//! Recovery checkpoints: made, named as ours, removed with their merge. Which one is ours is for `recovery.rs`.
//!
//! Must never: leave a checkpoint that was made and then could not be used.

use super::machine::{Facts, power_state, read_config};
use super::model::{MANAGEMENT_SERVICE, Rows, SETTINGS, SNAPSHOT_SERVICE, instance_reference, machine_reference};
use super::quiesce;
use super::recovery::{Making, NOT_MADE, checkpoints};
use super::wire::{CallError, Fault, Wsman};
use super::wmi::{Arguments, Embedded, Kind, get, run, service, start, wait};
use crate::{ErrorKind, HostError, MachineRef, Quiesce, Result, Snapshot, SnapshotRef, SnapshotRequest};
use domain::machine::PowerState;
use domain::point::Consistency;
use tokio::time::Instant;

/// `SnapshotType` of a recovery checkpoint.
const RECOVERY: u32 = 32768;
/// `ConsistencyLevel`.
const APPLICATION: u8 = 1;
const CRASH: u8 = 2;
/// Refusals of an argument, by fault or by return value.
const INVALID_ARGUMENT: [&str; 3] = ["32773", "InvalidParameter", "SchemaValidationError"];
/// Second `OperationalStatus` of a machine whose checkpoint is being made or deleted, or whose disks are merged.
const AT_WORK: [&str; 3] = ["32768", "32770", "32772"];

type Call<T> = std::result::Result<T, CallError>;

pub(super) async fn create(wsman: &dyn Wsman, machine: &MachineRef, request: &SnapshotRequest) -> Result<Snapshot> {
    let attempt = format!("make checkpoint {} of machine {}", request.name, machine.0);
    create_inner(wsman, machine, request).await.map_err(|error| error.during(wsman.host(), attempt))
}

async fn create_inner(wsman: &dyn Wsman, machine: &MachineRef, request: &SnapshotRequest) -> Call<Snapshot> {
    let system = get(wsman, &machine_reference(machine)).await?;
    let power = power_state(&system);
    let mut warnings = Vec::new();
    let wants_application = request.quiesce != Quiesce::Off && power == PowerState::On;
    let making = Making::begin(wsman, machine, &request.name).await?;
    let mut level = if wants_application { APPLICATION } else { CRASH };
    let mut asks_name = true;
    let reference = loop {
        match make(&making, level, asks_name).await {
            Ok(reference) => break reference,
            // The documentation has the name among the settings, and no host was asked yet.
            Err(CallError::Fault(fault)) if asks_name && fault.is_any(&INVALID_ARGUMENT) => asks_name = false,
            Err(CallError::Fault(fault)) if level == APPLICATION && may_do_without(&fault) => {
                if request.quiesce == Quiesce::Require {
                    return Err(quiesce::refused(wsman, machine, &fault).await);
                }
                let reason = fault.reason();
                warnings.push(format!("The guest could not be frozen, so the point is crash-consistent: {reason}"));
                level = CRASH;
            }
            Err(error) => return Err(error),
        }
    };
    let named = name_and_read(wsman, &reference, request, &mut warnings).await;
    let config = match named {
        Ok(config) => config,
        Err(error) => {
            // Nobody else knows of it.
            if let Err(left) = remove_inner(wsman, machine, &reference).await {
                tracing::warn!(host = wsman.host(), checkpoint = reference.0, left = left.reason(), "left behind");
            }
            return Err(error);
        }
    };
    let consistency = match power {
        PowerState::Off => Consistency::Offline,
        _ if level == APPLICATION => Consistency::Application,
        _ => Consistency::Crash,
    };
    Ok(Snapshot { reference, consistency, config, warnings })
}

/// A crash-consistent checkpoint is worth a try after it: the guest's services failed, not the host's.
fn may_do_without(fault: &Fault) -> bool {
    fault.is_any(&["32768", "32770", "32771", "32772", "32775", "32780", "32781"])
}

async fn make(making: &Making<'_>, level: u8, asks_name: bool) -> Call<SnapshotRef> {
    let Making { wsman, machine, name, .. } = making;
    // The name is asked for as well: a host that heeds it leaves no moment in which nobody knows whose the checkpoint is.
    let settings = Embedded::new("Msvm_VirtualSystemSnapshotSettingData")
        .property("ConsistencyLevel", Kind::U8, level)
        .maybe("ElementName", Kind::Text, asks_name.then_some(name));
    let arguments = Arguments::default()
        .reference("AffectedSystem", &machine_reference(machine))
        .embedded("SnapshotSettings", settings)
        .text("SnapshotType", RECOVERY);
    let called = match start(*wsman, &service(SNAPSHOT_SERVICE), "CreateSnapshot", arguments).await {
        Ok(called) => called,
        Err(error) if error.is_lost() => return making.lost(error).await,
        Err(error) => return Err(error),
    };
    if let Some(job) = &called.job
        && let Err(error) = wait(*wsman, job, "CreateSnapshot", wsman.timeouts().create_snapshot).await
    {
        if error.is_lost() {
            making.give_up(job).await;
        }
        return Err(error);
    }
    let named = called.output.reference("ResultingSnapshot").and_then(|snapshot| snapshot.selector("InstanceID"));
    match named.filter(|id| !id.is_empty()) {
        Some(id) => Ok(SnapshotRef(id.to_owned())),
        // The usual case: the answer came before the checkpoint was there.
        None => making.made(called.job.as_ref()).await,
    }
}

/// Gives the checkpoint our name. Said again when the connection breaks: it does no harm twice.
async fn give_name(wsman: &dyn Wsman, reference: &SnapshotRef, name: &str) -> Call<()> {
    let deadline = Instant::now() + wsman.timeouts().settle;
    loop {
        let settings = Embedded::new(SETTINGS).property("InstanceID", Kind::Text, &reference.0);
        let settings = settings.property("ElementName", Kind::Text, name);
        let arguments = Arguments::default().embedded("SystemSettings", settings);
        let budget = wsman.timeouts().job;
        match run(wsman, &service(MANAGEMENT_SERVICE), "ModifySystemSettings", arguments, budget).await {
            Ok(_) => return Ok(()),
            Err(error) if (error.is_lost() || error.is_passing()) && Instant::now() < deadline => {
                tokio::time::sleep(wsman.timeouts().look_again()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Names the checkpoint and reads what it holds.
async fn name_and_read(
    wsman: &dyn Wsman,
    reference: &SnapshotRef,
    request: &SnapshotRequest,
    warnings: &mut Vec<String>,
) -> Call<domain::machine::MachineConfig> {
    if let Err(error) = give_name(wsman, reference, &request.name).await {
        let reason = error.reason();
        warnings.push(format!("The checkpoint could not be named, so a crash may leave it behind: {reason}"));
    }
    let rows = Rows::fetch(wsman).await?;
    let Some(settings) = rows.settings_of(&reference.0) else { return Err(not_made(wsman)) };
    let paths = super::machine::disk_rows(&rows, &reference.0).into_iter().map(|disk| disk.path);
    let facts = super::inventory::facts(wsman, paths).await?;
    let (mut config, disks) = read_config(&rows, settings, &facts);
    if let Some(broken) = disks.iter().find(|disk| disk.finding.is_some() || unread(disk.path.as_str(), &facts)) {
        let reason = format!("{} of the checkpoint cannot be read ({})", broken.label, broken.path);
        return Err(CallError::Host(error(wsman, ErrorKind::Unsupported, "hyperv.disk_unreadable", reason)));
    }
    // The checkpoint bears our name; what it holds is the machine.
    if let Some(own) = rows.realized(settings.word("VirtualSystemIdentifier")) {
        own.word("ElementName").clone_into(&mut config.name);
        config.notes = own.list("Notes").join("\n");
    }
    Ok(config)
}

fn unread(path: &str, facts: &Facts) -> bool {
    !matches!(facts.get(path), Some(Ok(_)))
}

pub(super) async fn remove(wsman: &dyn Wsman, machine: &MachineRef, snapshot: &SnapshotRef) -> Result<()> {
    let attempt = format!("remove checkpoint {} of machine {}", snapshot.0, machine.0);
    remove_inner(wsman, machine, snapshot).await.map_err(|error| error.during(wsman.host(), attempt))
}

async fn remove_inner(wsman: &dyn Wsman, machine: &MachineRef, snapshot: &SnapshotRef) -> Call<()> {
    remove_when_free(wsman, machine, snapshot, Instant::now() + wsman.timeouts().remove_snapshot).await
}

/// Removes a checkpoint; a machine that is busy with something else is waited for until `free_by`.
pub(super) async fn remove_when_free(
    wsman: &dyn Wsman,
    machine: &MachineRef,
    snapshot: &SnapshotRef,
    free_by: Instant,
) -> Call<()> {
    let deadline = Instant::now() + wsman.timeouts().remove_snapshot;
    loop {
        // Only a list without it says that it is gone: a host that finds no list at all says nothing of it.
        if !is_listed(wsman, machine, snapshot).await? {
            break;
        }
        let arguments = Arguments::default().reference("AffectedSnapshot", &instance_reference(SETTINGS, &snapshot.0));
        let left = deadline.saturating_duration_since(Instant::now());
        let again = Instant::now() + wsman.timeouts().look_again();
        match run(wsman, &service(SNAPSHOT_SERVICE), "DestroySnapshot", arguments, left).await {
            Err(error) if error.is_passing() && again < free_by.min(deadline) => tokio::time::sleep_until(again).await,
            // Someone else may have removed it in between, and then the host refuses what names it.
            Err(error) if !error.is_not_found() && is_listed(wsman, machine, snapshot).await.unwrap_or(true) => {
                return Err(error);
            }
            Ok(_) | Err(_) => break,
        }
    }
    wait_for_merge(wsman, machine, deadline).await
}

async fn is_listed(wsman: &dyn Wsman, machine: &MachineRef, snapshot: &SnapshotRef) -> Call<bool> {
    Ok(checkpoints(wsman, machine).await?.iter().any(|row| row.instance_id() == snapshot.0))
}

/// Waits until the machine works neither on a checkpoint nor on a merge.
pub(super) async fn wait_for_merge(wsman: &dyn Wsman, machine: &MachineRef, deadline: Instant) -> Call<()> {
    loop {
        match get(wsman, &machine_reference(machine)).await {
            Ok(system) if !system.list("OperationalStatus").iter().any(|status| AT_WORK.contains(status)) => {
                return Ok(());
            }
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if !error.is_passing() => return Err(error),
            Ok(_) | Err(_) => {}
        }
        if Instant::now() >= deadline {
            let reason = "the machine's disks are still being merged".to_owned();
            return Err(CallError::Host(error(wsman, ErrorKind::Busy, "hyperv.merge_needed", reason)));
        }
        tokio::time::sleep(wsman.timeouts().look_again()).await;
    }
}

fn not_made(wsman: &dyn Wsman) -> CallError {
    CallError::Host(error(wsman, ErrorKind::Refused, "hyperv.checkpoint_missing", NOT_MADE.to_owned()))
}

pub(super) fn error(wsman: &dyn Wsman, kind: ErrorKind, code: &'static str, reason: String) -> HostError {
    HostError {
        kind,
        code,
        host: wsman.host().to_owned(),
        attempt: "make a checkpoint".into(),
        reason,
        hint: "See the machine's checkpoints with Get-VMSnapshot, and the host's Hyper-V-VMMS event log.".into(),
        source: None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unnecessary_wraps, clippy::format_collect)] // a list of answers holds faults as well

    use super::*;
    use crate::hyperv::model::RECOVERY_CHECKPOINT;
    use crate::hyperv::script::{Answer, Script, started, state};
    use domain::machine::{DiskConfig, Firmware, MachineConfig};

    pub(in crate::hyperv) fn snapshot_with(disks: Vec<DiskConfig>) -> Snapshot {
        Snapshot {
            reference: SnapshotRef("Microsoft:S".into()),
            consistency: Consistency::Crash,
            config: MachineConfig {
                name: "web".into(),
                guest_id: String::new(),
                firmware: Firmware::Efi,
                secure_boot: false,
                processors: 1,
                memory_mib: 512,
                hardware_version: "9.0".into(),
                instance_uuid: None,
                bios_uuid: None,
                notes: String::new(),
                controllers: Vec::new(),
                disks,
                ..MachineConfig::default()
            },
            warnings: Vec::new(),
        }
    }

    fn machine() -> MachineRef {
        MachineRef("VM".into())
    }

    fn list(ids: &[&str]) -> Answer {
        let rows: String = ids
            .iter()
            .map(|id| {
                format!(
                    "<Msvm_VirtualSystemSettingData><InstanceID>{id}</InstanceID><VirtualSystemIdentifier>VM\
                     </VirtualSystemIdentifier><ElementName>stillframe-{id}</ElementName>\
                     <VirtualSystemType>{RECOVERY_CHECKPOINT}</VirtualSystemType></Msvm_VirtualSystemSettingData>"
                )
            })
            .collect();
        Ok(format!("<E><Items>{rows}</Items><EndOfSequence/></E>").leak())
    }

    fn system(status: &str) -> Answer {
        Ok(format!("<S><OperationalStatus>2</OperationalStatus><OperationalStatus>{status}</OperationalStatus></S>")
            .leak())
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_without_a_name_in_the_answer_is_found_by_what_is_new() {
        let create = started("CreateSnapshot", "Msvm_ConcreteJob");
        let script = Script::new([list(&["A"]), create, state(4, ""), state(7, ""), list(&["A", "B"])]);
        let vm = machine();
        let making = Making::begin(&script, &vm, "stillframe-1").await.unwrap();
        assert_eq!(make(&making, APPLICATION, true).await.unwrap().0, "B");
        let asked = script.asked();
        assert!(asked[1].body.contains("<p:SnapshotType>32768</p:SnapshotType>"));
        assert!(asked[1].body.contains("NAME=\"ConsistencyLevel\" TYPE=\"uint8\"><VALUE>1</VALUE>"));
        assert!(asked[1].body.contains("NAME=\"ElementName\" TYPE=\"string\"><VALUE>stillframe-1</VALUE>"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_is_removed_and_its_merge_awaited() {
        let script = Script::new([
            list(&["S"]),
            Ok("<DestroySnapshot_OUTPUT><ReturnValue>32775</ReturnValue></DestroySnapshot_OUTPUT>"),
            list(&["S"]),
            started("DestroySnapshot", "Msvm_ConcreteJob"),
            state(7, ""),
            system("32772"),
            system("32772"),
            system("0"),
        ]);
        remove(&script, &machine(), &SnapshotRef("S".into())).await.unwrap();
        assert_eq!(script.asked().len(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_that_is_gone_is_removed() {
        let script = Script::new([list(&["other"]), system("0")]);
        remove(&script, &machine(), &SnapshotRef("S".into())).await.unwrap();
    }

    const CONTROLLER: &str = "<R><InstanceID>Microsoft:S\\c\\0</InstanceID>\
        <ResourceSubType>Microsoft:Hyper-V:Synthetic SCSI Controller</ResourceSubType></R>";
    const DRIVE: &str = "<R><InstanceID>Microsoft:S\\c\\0\\0\\D</InstanceID><AddressOnParent>0</AddressOnParent>\
        <ResourceSubType>Microsoft:Hyper-V:Synthetic Disk Drive</ResourceSubType>\
        <Parent>x:R.InstanceID=\"Microsoft:S\\\\c\\\\0\"</Parent></R>";
    const MEDIA: &str = "<S><InstanceID>Microsoft:S\\c\\0\\0\\L</InstanceID><HostResource>C:\\vm\\a.vhdx</HostResource>\
        <ResourceSubType>Microsoft:Hyper-V:Virtual Hard Disk</ResourceSubType>\
        <Parent>x:R.InstanceID=\"Microsoft:S\\\\c\\\\0\\\\0\\\\D\"</Parent></S>";
    const FACTS: Answer = Ok("<GetVirtualHardDiskSettingData_OUTPUT><SettingData>&lt;INSTANCE CLASSNAME='V'&gt;\
        &lt;PROPERTY NAME='MaxInternalSize' TYPE='uint64'&gt;&lt;VALUE&gt;1048576&lt;/VALUE&gt;&lt;/PROPERTY&gt;\
        &lt;PROPERTY NAME='Type' TYPE='uint16'&gt;&lt;VALUE&gt;3&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;/INSTANCE&gt;</SettingData>\
        <ReturnValue>0</ReturnValue></GetVirtualHardDiskSettingData_OUTPUT>");

    fn items(rows: &str) -> Answer {
        Ok(format!("<E><Items>{rows}</Items><EndOfSequence/></E>").leak())
    }

    /// The twelve lists that make up machines.
    pub(in crate::hyperv) fn lists() -> Vec<Answer> {
        lists_with_live("C:\\vm\\a_1.avhdx")
    }

    /// The same, with the file the machine itself writes to.
    pub(in crate::hyperv) fn lists_with_live(live: &str) -> Vec<Answer> {
        let own = "<V><InstanceID>Microsoft:VM</InstanceID><VirtualSystemIdentifier>VM</VirtualSystemIdentifier>\
            <ElementName>web</ElementName><VirtualSystemType>Microsoft:Hyper-V:System:Realized</VirtualSystemType></V>";
        let checkpoint = "<V><InstanceID>Microsoft:S</InstanceID><VirtualSystemIdentifier>VM</VirtualSystemIdentifier>\
            <ElementName>stillframe-1</ElementName><VirtualSystemType>Microsoft:Hyper-V:Snapshot:Recovery\
            </VirtualSystemType></V>";
        let mut all = vec![items(""), items(&format!("{own}{checkpoint}")), items("")];
        let frozen = format!("{CONTROLLER}{DRIVE}");
        all[2] = items(&format!("{frozen}{}", frozen.replace("Microsoft:S", "Microsoft:VM")));
        let own_media = MEDIA.replace("Microsoft:S", "Microsoft:VM").replace("C:\\vm\\a.vhdx", live);
        all.push(items(&format!("{MEDIA}{own_media}")));
        // Processors, memory, ports of both kinds, connections, switches; then two classes the host does not know.
        all.extend((0..6).map(|_| items("")));
        all.extend([Err("0x80041010"), Err("0x80041010")]);
        all
    }

    fn power(state: u32) -> Answer {
        Ok(format!("<Msvm_ComputerSystem><EnabledState>{state}</EnabledState></Msvm_ComputerSystem>").leak())
    }

    const RENAMED: Answer =
        Ok("<ModifySystemSettings_OUTPUT><ReturnValue>0</ReturnValue></ModifySystemSettings_OUTPUT>");

    fn request() -> SnapshotRequest {
        SnapshotRequest { name: "stillframe-1".into(), description: String::new(), quiesce: Quiesce::Prefer }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_cannot_freeze_gets_a_crash_consistent_checkpoint_and_says_so() {
        let create = || started("CreateSnapshot", "Msvm_ConcreteJob");
        let mut answers = vec![power(2), list(&[]), create(), state(10, "<ErrorCode>32768</ErrorCode>")];
        answers.extend([create(), state(7, ""), list(&["Microsoft:S"]), RENAMED]);
        answers.extend(lists());
        answers.push(FACTS);
        let script = Script::new(answers);
        let made = super::create(&script, &machine(), &request()).await.unwrap();
        assert_eq!((made.reference.0.as_str(), made.consistency), ("Microsoft:S", Consistency::Crash));
        assert!(made.warnings.len() == 1 && made.warnings[0].contains("crash-consistent"), "{:?}", made.warnings);
        assert_eq!(made.config.name, "web", "the machine's name, not the checkpoint's");
        assert_eq!(
            made.config.disks.iter().map(|disk| (disk.key, disk.capacity_bytes)).collect::<Vec<_>>(),
            [(2000, 1 << 20)]
        );
        let asked = script.asked();
        assert!(asked[2].body.contains("<VALUE>1</VALUE>") && asked[4].body.contains("<VALUE>2</VALUE>"));
        let renamed = asked.iter().find(|request| request.action.ends_with("/ModifySystemSettings")).unwrap();
        assert!(renamed.body.contains("<VALUE>stillframe-1</VALUE>"), "{}", renamed.body);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_is_off_is_not_asked_to_freeze() {
        let create = started("CreateSnapshot", "Msvm_ConcreteJob");
        let mut answers = vec![power(3), list(&[]), create, state(7, ""), list(&["Microsoft:S"]), RENAMED];
        answers.extend(lists());
        answers.push(FACTS);
        let script = Script::new(answers);
        let made = super::create(&script, &machine(), &request()).await.unwrap();
        assert_eq!((made.consistency, made.warnings.len()), (Consistency::Offline, 0));
        assert!(script.asked()[2].body.contains("<VALUE>2</VALUE>"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_that_someone_else_removed_in_between_is_gone() {
        const REFUSED: &str = "<DestroySnapshot_OUTPUT><ReturnValue>32773</ReturnValue></DestroySnapshot_OUTPUT>";
        let script = Script::new([list(&["S"]), Ok(REFUSED), list(&[]), system("0")]);
        remove(&script, &machine(), &SnapshotRef("S".into())).await.unwrap();
        let script = Script::new([list(&["S"]), Ok(REFUSED), list(&["S"])]);
        let error = remove(&script, &machine(), &SnapshotRef("S".into())).await.unwrap_err();
        assert_eq!(error.code, "hyperv.invalid_argument", "it stands, and the host's reason is told");
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_that_cannot_be_used_does_not_stay() {
        let create = started("CreateSnapshot", "Msvm_ConcreteJob");
        let mut answers = vec![power(3), list(&[]), create, state(7, ""), list(&["Microsoft:S"]), RENAMED];
        answers.extend(lists());
        answers.push(Ok(
            "<GetVirtualHardDiskSettingData_OUTPUT><ReturnValue>32779</ReturnValue></GetVirtualHardDiskSettingData_OUTPUT>",
        ));
        answers.extend([
            list(&["Microsoft:S"]),
            started("DestroySnapshot", "Msvm_ConcreteJob"),
            state(7, ""),
            system("0"),
        ]);
        let script = Script::new(answers);
        let error = super::create(&script, &machine(), &request()).await.unwrap_err();
        assert_eq!(error.code, "hyperv.disk_unreadable");
        assert!(script.asked().iter().any(|request| request.action.ends_with("/DestroySnapshot")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sealed_checkpoint_gives_marks_of_its_disks() {
        let point = |rct: &str| {
            format!(
                "<P><InstanceID>Microsoft:P{rct}</InstanceID><VirtualSystemIdentifier>VM</VirtualSystemIdentifier>\
                 <VirtualDiskIdentifiers>Microsoft:VM\\c\\0\\0\\L</VirtualDiskIdentifiers>\
                 <ResilientChangeTrackingIdentifiers>rct{rct}</ResilientChangeTrackingIdentifiers></P>"
            )
        };
        let mut answers = lists();
        answers.extend([items(&point("1")), started("ConvertToReferencePoint", "Msvm_ConcreteJob"), state(7, "")]);
        answers.push(items(&format!("{}{}", point("1"), point("2"))));
        let script = Script::new(answers);
        let mut snapshot = snapshot_with(vec![DiskConfig { key: 2000, capacity_bytes: 9, ..DiskConfig::default() }]);
        snapshot.reference = SnapshotRef("Microsoft:S".into());
        let sealed = crate::hyperv::seal::seal(&script, &machine(), &snapshot).await.unwrap();
        let marks = sealed.marks;
        assert_eq!((marks.len(), sealed.unmarked.len()), (1, 0));
        assert_eq!((marks[0].disk_key, marks[0].token.as_str()), (2000, "rct1|rct2|Microsoft:P2"));
        let convert = script.asked().into_iter().find(|r| r.action.ends_with("/ConvertToReferencePoint")).unwrap();
        assert!(convert.body.contains("<p:AffectedSnapshot>"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_conversion_that_fails_gives_no_marks_and_its_words() {
        let mut answers = lists();
        answers.extend([items(""), started("ConvertToReferencePoint", "Msvm_ConcreteJob")]);
        answers.push(state(10, "<ErrorCode>32775</ErrorCode><ErrorDescription>busy</ErrorDescription>"));
        let script = Script::new(answers);
        let error = crate::hyperv::seal::seal(&script, &machine(), &snapshot_with(Vec::new())).await.unwrap_err();
        assert!(error.code == "hyperv.invalid_state" && error.reason.contains("busy"), "{error}");
    }
}
