//! Resilient change tracking: what a disk's file is, asking what changed, and letting go of reference points; how they are made
//! is in `seal.rs`.
//!
//! A mark's token is `rct1|<tracking id>|<reference point>`. A tracking id belongs to one disk: it is paired by the
//! reference point's disk identifiers, never by the place in a list.
//! Must never: believe an answer that does not add up. A wrong list of areas is a corrupt backup nobody notices.

use super::model::{
    IMAGE_SERVICE, REFERENCE_POINT, REFERENCE_POINT_SERVICE, Rows, STORAGE, all, instance_reference, is_of, parts,
};
use super::wire::{CallError, Wsman};
use super::wmi::{Arguments, Instance, invoke, read_embedded, run, service};
use crate::{Areas, ErrorKind, HostError, MachineRef, Result, Snapshot};
use domain::Extent;
use domain::extent::check_areas;
use domain::machine::SECTOR_BYTES_DEFAULT;
use domain::point::ChangeMark;
use std::collections::BTreeSet;

/// Areas of one answer, and of one disk. Hosts track in blocks of 64 KiB and less.
const MAX_AREAS_PER_ANSWER: usize = 1_000_000;
const MAX_AREAS: usize = 16_000_000;
/// Questions about one disk.
const MAX_QUESTIONS: u32 = 100_000;
/// The first region that is asked for; it is halved when the answer is too large for an envelope.
const REGION_BYTES: u64 = 64 << 30;
const SMALLEST_REGION_BYTES: u64 = 64 << 20;
/// Times one question may end in a job, whose result only the next asking gives.
const MAX_JOBS_PER_QUESTION: u32 = 3;
pub(super) const TOKEN_VERSION: &str = "rct1";
/// `Format` and `Type` of a virtual hard disk's settings.
const FORMAT_VHD: u64 = 2;
const TYPE_DYNAMIC: u64 = 3;
const TYPE_DIFFERENCING: u64 = 4;

type Call<T> = std::result::Result<T, CallError>;

/// What the host says of a disk's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskFacts {
    pub size_bytes: u64,
    /// In small letters, without braces.
    pub disk_id: Option<String>,
    pub is_vhd: bool,
    pub is_dynamic: bool,
    pub sector_bytes: u32,
}

pub(super) async fn disk_facts(wsman: &dyn Wsman, path: &str) -> Call<DiskFacts> {
    let arguments = Arguments::default().text("Path", path);
    let output = invoke(wsman, &service(IMAGE_SERVICE), "GetVirtualHardDiskSettingData", arguments, true).await?;
    if let Some(code) = output.number("ReturnValue").filter(|code| *code != 0) {
        return Err(super::wire::Fault::from_return(code).into());
    }
    let settings = output.text("SettingData").and_then(read_embedded);
    let settings = settings.ok_or_else(|| bad_answer(wsman, path, "it does not say what the disk is"))?;
    let kind = settings.number("Type");
    Ok(DiskFacts {
        size_bytes: settings.number("MaxInternalSize").unwrap_or(0),
        disk_id: settings.text("VirtualDiskId").and_then(plain_id),
        is_vhd: settings.number("Format") == Some(FORMAT_VHD),
        is_dynamic: matches!(kind, Some(TYPE_DYNAMIC | TYPE_DIFFERENCING)),
        sector_bytes: if settings.number("LogicalSectorSize") == Some(4096) { 4096 } else { SECTOR_BYTES_DEFAULT },
    })
}

/// Hosts write ids with and without braces, in large and small letters.
fn plain_id(id: &str) -> Option<String> {
    uuid::Uuid::parse_str(id).ok().filter(|id| !id.is_nil()).map(|id| id.hyphenated().to_string())
}

pub(super) async fn reference_points(wsman: &dyn Wsman, machine: &MachineRef) -> Call<Vec<Instance>> {
    let mut points = all(wsman, REFERENCE_POINT).await?;
    points.retain(|point| is_of(point, &machine.0));
    Ok(points)
}

/// Tracking id and reference point of a mark.
fn split_token(token: &str) -> Option<(&str, &str)> {
    let (version, rest) = token.split_once('|')?;
    rest.split_once('|').filter(|(id, point)| version == TOKEN_VERSION && !id.is_empty() && !point.is_empty())
}

/// Destroys the reference points of marks that nobody will ask with again.
pub(super) async fn forget(wsman: &dyn Wsman, machine: &MachineRef, marks: &[ChangeMark]) -> Result<()> {
    let points: BTreeSet<&str> = marks.iter().filter_map(|mark| Some(split_token(&mark.token)?.1)).collect();
    for point in points {
        let attempt = format!("destroy reference point {point} of machine {}", machine.0);
        destroy(wsman, machine, point).await.map_err(|error| error.during(wsman.host(), attempt))?;
    }
    Ok(())
}

/// All reference points of the machine.
pub(super) async fn kept(wsman: &dyn Wsman, machine: &MachineRef) -> Result<Vec<String>> {
    let attempt = || format!("list the reference points of machine {}", machine.0);
    let points = reference_points(wsman, machine).await.map_err(|error| error.during(wsman.host(), attempt()))?;
    Ok(points.iter().map(|point| point.instance_id().to_owned()).collect())
}

/// Destroys the reference point that a conversion left whose answer nobody heard, if there is no doubt which one it is.
pub(super) async fn forget_unheard(
    wsman: &dyn Wsman,
    machine: &MachineRef,
    before: &[String],
    ours: &[ChangeMark],
) -> Result<()> {
    let known: BTreeSet<&str> = ours.iter().filter_map(|mark| Some(split_token(&mark.token)?.1)).collect();
    let mut fresh = kept(wsman, machine).await?;
    fresh.retain(|point| !before.contains(point) && !known.contains(point.as_str()));
    match fresh.as_slice() {
        [] => Ok(()),
        [point] => {
            let attempt = format!("destroy reference point {point} of machine {}", machine.0);
            destroy(wsman, machine, point).await.map_err(|error| error.during(wsman.host(), attempt))
        }
        several => {
            let (host, machine, count) = (wsman.host(), &machine.0, several.len());
            tracing::warn!(host, machine, count, "new reference points; ours cannot be told from another backup's");
            Ok(())
        }
    }
}

pub(super) async fn destroy(wsman: &dyn Wsman, machine: &MachineRef, point: &str) -> Call<()> {
    if !is_there(wsman, machine, point).await? {
        return Ok(());
    }
    let mut reference = instance_reference(REFERENCE_POINT, point);
    // Both are keys of the class.
    reference.selectors.push(("VirtualSystemIdentifier".to_owned(), machine.0.clone()));
    let arguments = Arguments::default().reference("AffectedReferencePoint", &reference);
    let service = service(REFERENCE_POINT_SERVICE);
    match run(wsman, &service, "DestroyReferencePoint", arguments, wsman.timeouts().job).await {
        Ok(_) => Ok(()),
        Err(error) => match is_there(wsman, machine, point).await {
            Ok(false) => Ok(()),
            _ => Err(error),
        },
    }
}

async fn is_there(wsman: &dyn Wsman, machine: &MachineRef, point: &str) -> Call<bool> {
    Ok(reference_points(wsman, machine).await?.iter().any(|row| row.instance_id() == point))
}

/// A frozen disk, to ask about.
#[derive(Debug, Clone)]
pub(super) struct Question<'a> {
    pub path: &'a str,
    pub label: &'a str,
    pub disk_uuid: Option<&'a str>,
    pub capacity_bytes: u64,
}

/// All areas of the disk that changed since `mark`. A host that cannot tell is not an error: [`Areas::Unknown`].
pub(super) async fn changed_since(wsman: &dyn Wsman, disk: &Question<'_>, mark: &ChangeMark) -> Result<Areas> {
    if let Some(reason) = mark_is_stale(mark, disk) {
        return Ok(Areas::Unknown(reason));
    }
    let Some((tracking_id, _)) = split_token(&mark.token) else {
        return Ok(Areas::Unknown("the mark is not one of this host's".into()));
    };
    let attempt = format!("ask what changed on {} ({})", disk.label, disk.path);
    let mut areas: Vec<Extent> = Vec::new();
    let (mut start, mut region) = (0, REGION_BYTES);
    for _ in 0..MAX_QUESTIONS {
        if start >= disk.capacity_bytes {
            check_areas(&areas, disk.capacity_bytes).map_err(|e| distrust(wsman, &attempt, &e.to_string()))?;
            return Ok(Areas::Known(areas));
        }
        let length = region_length(start, region, disk.capacity_bytes);
        match ask(wsman, disk.path, tracking_id, start, length).await {
            Ok(answer) => {
                let processed = read_answer(&answer, start, length, &mut areas);
                start += processed.map_err(|reason| distrust(wsman, &attempt, &reason))?;
            }
            Err(CallError::Fault(fault)) if is_too_large(&fault) && region > SMALLEST_REGION_BYTES => region /= 2,
            Err(CallError::Fault(fault)) if is_refusal(&fault) => {
                return Ok(Areas::Unknown(format!("the host does not know what changed: {}", fault.reason())));
            }
            Err(error) => return Err(error.during(wsman.host(), attempt)),
        }
    }
    Err(distrust(wsman, &attempt, &format!("the host does not come to an end within {MAX_QUESTIONS} answers")))
}

/// A region is always less than the whole disk: the documentation asks for that.
fn region_length(start: u64, region: u64, capacity: u64) -> u64 {
    let length = region.min(capacity - start);
    if length == capacity && capacity > 1 { (capacity / 2).next_multiple_of(512).min(capacity - 1) } else { length }
}

async fn ask(wsman: &dyn Wsman, path: &str, tracking_id: &str, start: u64, length: u64) -> Call<Instance> {
    for _ in 0..MAX_JOBS_PER_QUESTION {
        let arguments = Arguments::default()
            .text("Path", path)
            .text("LimitId", tracking_id)
            .text("ByteOffset", start)
            .text("ByteLength", length);
        let budget = wsman.timeouts().job;
        let ended = run(wsman, &service(IMAGE_SERVICE), "GetVirtualDiskChanges", arguments, budget).await?;
        if ended.job.is_none() || ended.output.number("ProcessedByteLength").is_some() {
            return Ok(ended.output);
        }
    }
    Err(bad_answer(wsman, path, "it starts a job for each question, and never gives the answer"))
}

/// Takes over an answer's areas. Returns how far it went.
fn read_answer(
    answer: &Instance,
    start: u64,
    length: u64,
    areas: &mut Vec<Extent>,
) -> std::result::Result<u64, String> {
    let processed = answer.number("ProcessedByteLength").ok_or("ProcessedByteLength is missing or no number")?;
    if processed == 0 {
        return Err(format!("an answer for no bytes at {start}: it would never end"));
    }
    if processed > length {
        return Err(format!("asked for {length} bytes at {start}, answered for {processed}"));
    }
    let numbers = |name: &str| answer.numbers(name).ok_or_else(|| format!("{name} holds what is no number"));
    let (offsets, lengths) = (numbers("ChangedByteOffsets")?, numbers("ChangedByteLengths")?);
    if offsets.len() != lengths.len() {
        return Err(format!("{} offsets and {} lengths", offsets.len(), lengths.len()));
    }
    if offsets.len() > MAX_AREAS_PER_ANSWER || areas.len() + offsets.len() > MAX_AREAS {
        return Err(format!("more than {MAX_AREAS_PER_ANSWER} areas in an answer, or {MAX_AREAS} in all"));
    }
    let first = areas.len();
    areas.extend(offsets.into_iter().zip(lengths).map(|(offset, length)| Extent::new(offset, length)));
    let end = start + processed;
    let fresh = areas.get_mut(first..).unwrap_or_default();
    // The order within an answer is not documented.
    fresh.sort_unstable();
    match fresh.iter().find(|area| area.offset < start || area.offset.checked_add(area.length).is_none_or(|e| e > end))
    {
        Some(area) => {
            Err(format!("area {}+{} lies outside the answer's {start}+{processed}", area.offset, area.length))
        }
        None => Ok(processed),
    }
}

/// Why an earlier mark cannot be used with this disk as it is now; `None` when it can.
fn mark_is_stale(mark: &ChangeMark, disk: &Question<'_>) -> Option<String> {
    if mark.capacity_bytes != disk.capacity_bytes {
        Some(format!("the disk had {} bytes and now has {}", mark.capacity_bytes, disk.capacity_bytes))
    } else if mark.disk_uuid.as_deref() != disk.disk_uuid {
        Some("it is another disk than at the last backup".into())
    } else {
        None
    }
}

/// The host understood the question and has no answer: the tracking id is unknown, or the disk is not tracked.
fn is_refusal(fault: &super::wire::Fault) -> bool {
    fault.is_any(&["32768", "32770", "32773", "32775", "32779"])
        || (fault.is_any(&["InvalidParameter", "InternalError"]))
}

fn is_too_large(fault: &super::wire::Fault) -> bool {
    fault.is_any(&["EncodingLimit", "0x80338048"])
}

pub(super) fn bad_answer(wsman: &dyn Wsman, attempt: &str, reason: impl Into<String>) -> CallError {
    CallError::Host(HostError {
        kind: ErrorKind::Protocol,
        code: "hyperv.bad_answer",
        host: wsman.host().to_owned(),
        attempt: attempt.to_owned(),
        reason: reason.into(),
        hint: "The host answered in a way it should not; please report it with the host's version.".into(),
        source: None,
    })
}

fn distrust(wsman: &dyn Wsman, attempt: &str, reason: &str) -> HostError {
    HostError {
        kind: ErrorKind::Protocol,
        code: "hyperv.areas_invalid",
        host: wsman.host().to_owned(),
        attempt: attempt.to_owned(),
        reason: format!("the list of changed areas does not add up: {reason}"),
        hint: "Run a full backup of the machine; report it with the host's version if it comes again.".into(),
        source: None,
    }
}

/// The frozen files of a checkpoint, by the key of the disk.
pub(super) fn frozen_paths(wsman: &dyn Wsman, rows: &Rows, snapshot: &Snapshot) -> Call<Vec<(i32, String)>> {
    if parts(&rows.storage, &snapshot.reference.0).next().is_none() && !snapshot.config.disks.is_empty() {
        let reason = format!("the host lists no {STORAGE} whose InstanceID begins with the checkpoint's");
        return Err(bad_answer(wsman, "find the frozen disks", reason));
    }
    let disks = super::machine::disk_rows(rows, &snapshot.reference.0);
    Ok(disks.into_iter().map(|disk| (disk.key, disk.path)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unnecessary_wraps, clippy::format_collect)] // a list of answers holds faults as well

    use super::*;
    use crate::hyperv::script::{Answer, Script, started, state};

    const CAPACITY: u64 = 1 << 20;

    fn mark() -> ChangeMark {
        ChangeMark {
            disk_key: 2000,
            disk_uuid: Some("d".into()),
            capacity_bytes: CAPACITY,
            token: "rct1|rctX:1|Microsoft:P".into(),
        }
    }

    const DISK: Question<'static> =
        Question { path: "C:\\vm\\a.vhdx", label: "SCSI 0:0", disk_uuid: Some("d"), capacity_bytes: CAPACITY };

    fn answer(processed: u64, areas: &[(u64, u64)]) -> Answer<String> {
        let list: String =
            areas.iter().map(|(at, _)| format!("<ChangedByteOffsets>{at}</ChangedByteOffsets>")).collect();
        let lengths: String =
            areas.iter().map(|(_, length)| format!("<ChangedByteLengths>{length}</ChangedByteLengths>")).collect();
        Ok(format!(
            "<GetVirtualDiskChanges_OUTPUT><ProcessedByteLength>{processed}</ProcessedByteLength>{list}{lengths}\
             <ReturnValue>0</ReturnValue></GetVirtualDiskChanges_OUTPUT>"
        ))
    }

    fn refused(code: u32) -> Answer<String> {
        Ok(format!("<GetVirtualDiskChanges_OUTPUT><ReturnValue>{code}</ReturnValue></GetVirtualDiskChanges_OUTPUT>"))
    }

    async fn ask_all(script: &Script) -> Result<Areas> {
        changed_since(script, &DISK, &mark()).await
    }

    #[tokio::test(start_paused = true)]
    async fn short_answers_are_asked_on_from_where_they_end() {
        let half = CAPACITY / 2;
        let script = Script::new([
            answer(half - 4096, &[(8192, 4096), (0, 4096)]),
            answer(half, &[]),
            answer(4096, &[(CAPACITY - 4096, 4096)]),
        ]);
        let expected = vec![Extent::new(0, 4096), Extent::new(8192, 4096), Extent::new(CAPACITY - 4096, 4096)];
        assert_eq!(ask_all(&script).await.unwrap(), Areas::Known(expected));
        let asked = script.asked();
        assert!(asked[0].body.contains(&format!(
            "<p:Path>C:\\vm\\a.vhdx</p:Path><p:LimitId>rctX:1</p:LimitId><p:ByteOffset>0</p:ByteOffset>\
             <p:ByteLength>{half}</p:ByteLength>"
        )));
        assert!(asked[1].body.contains(&format!("<p:ByteOffset>{}</p:ByteOffset>", half - 4096)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_of_a_job_is_asked_for_again() {
        let job = started("GetVirtualDiskChanges", "Msvm_StorageJob").map(str::to_owned);
        let done = state(7, "").map(str::to_owned);
        let script = Script::new([job, done, answer(CAPACITY / 2, &[]), answer(CAPACITY / 2, &[])]);
        assert_eq!(ask_all(&script).await.unwrap(), Areas::Known(Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_do_not_add_up_are_refused() {
        let cases = [
            ("no progress", answer(0, &[])),
            ("more than asked", answer(CAPACITY, &[])),
            ("past the answer", answer(4096, &[(4096, 1)])),
            ("overflow", answer(4096, &[(u64::MAX, 2)])),
            ("overlap", answer(CAPACITY / 2, &[(0, 4096), (2048, 4096)])),
            ("empty area", answer(CAPACITY / 2, &[(0, 0)])),
            (
                "nothing",
                Ok("<GetVirtualDiskChanges_OUTPUT><ReturnValue>0</ReturnValue></GetVirtualDiskChanges_OUTPUT>".into()),
            ),
        ];
        for (name, first) in cases {
            let script = Script::new([first, answer(CAPACITY / 2, &[])]);
            let error = ask_all(&script).await.expect_err(name);
            assert_eq!((error.kind, error.code), (ErrorKind::Protocol, "hyperv.areas_invalid"), "{name}: {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_tracking_id_is_no_error() {
        for code in [32773, 32768, 32779] {
            let found = ask_all(&Script::new([refused(code)])).await.unwrap();
            assert!(matches!(found, Areas::Unknown(reason) if reason.contains(&code.to_string())));
        }
        let error = ask_all(&Script::new([refused(32769)])).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Permission);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_is_used_only_with_the_disk_it_was_made_of() {
        for other in [
            ChangeMark { disk_uuid: Some("other".into()), ..mark() },
            ChangeMark { disk_uuid: None, ..mark() },
            ChangeMark { capacity_bytes: 1, ..mark() },
            ChangeMark { token: "52 de c0/5".into(), ..mark() },
        ] {
            // Nothing is asked.
            let script = Script::new(Vec::<Answer<String>>::new());
            assert!(matches!(changed_since(&script, &DISK, &other).await.unwrap(), Areas::Unknown(_)), "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_too_large_is_asked_for_in_smaller_regions() {
        let disk = Question { capacity_bytes: REGION_BYTES * 2, ..DISK };
        let mark = ChangeMark { capacity_bytes: disk.capacity_bytes, ..mark() };
        let mut answers: Vec<Answer<String>> = vec![Err("EncodingLimit")];
        answers.extend((0..4).map(|_| answer(REGION_BYTES / 2, &[])));
        let script = Script::new(answers);
        assert_eq!(changed_since(&script, &disk, &mark).await.unwrap(), Areas::Known(Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn reference_points_that_are_gone_are_forgotten_without_a_call() {
        let script = Script::new([Ok("<E><Items/><EndOfSequence/></E>")]);
        forget(&script, &MachineRef("VM".into()), &[mark(), mark()]).await.unwrap();
        assert_eq!(script.asked().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reference_point_is_destroyed_by_both_its_keys() {
        let list = "<E><Items><Msvm_VirtualSystemReferencePoint><InstanceID>Microsoft:P</InstanceID>\
            <VirtualSystemIdentifier>VM</VirtualSystemIdentifier></Msvm_VirtualSystemReferencePoint></Items>\
            <EndOfSequence/></E>";
        let script = Script::new([Ok(list), started("DestroyReferencePoint", "Msvm_ConcreteJob"), state(7, "")]);
        forget(&script, &MachineRef("VM".into()), &[mark()]).await.unwrap();
        let asked = script.asked();
        assert!(asked[1].body.contains("<w:Selector Name=\"InstanceID\">Microsoft:P</w:Selector>"));
        assert!(asked[1].body.contains("<w:Selector Name=\"VirtualSystemIdentifier\">VM</w:Selector>"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_heard_of_is_destroyed_only_without_a_doubt() {
        let list = |points: &[&str]| {
            let row = |point: &&str| {
                format!(
                    "<Msvm_VirtualSystemReferencePoint><InstanceID>Microsoft:{point}</InstanceID>\
                     <VirtualSystemIdentifier>VM</VirtualSystemIdentifier></Msvm_VirtualSystemReferencePoint>"
                )
            };
            format!("<E><Items>{}</Items><EndOfSequence/></E>", points.iter().map(row).collect::<String>())
        };
        let (machine, before) = (MachineRef("VM".into()), ["Microsoft:OLD".to_owned()]);
        // P is ours by a mark, OLD was there before: only NEW is left to be it.
        let all = list(&["OLD", "P", "NEW"]);
        let done =
            "<DestroyReferencePoint_OUTPUT><ReturnValue>0</ReturnValue></DestroyReferencePoint_OUTPUT>".to_owned();
        let script = Script::new([Ok(all.clone()), Ok(all), Ok(done)]);
        forget_unheard(&script, &machine, &before, &[mark()]).await.unwrap();
        assert!(script.asked()[2].body.contains("Microsoft:NEW"));
        for doubtful in [&["OLD", "P"][..], &["OLD", "NEW", "ANOTHER"]] {
            let script = Script::new([Ok(list(doubtful))]);
            forget_unheard(&script, &machine, &before, &[mark()]).await.unwrap();
            assert_eq!(script.asked().len(), 1, "{doubtful:?}: nothing is destroyed");
        }
    }
}
