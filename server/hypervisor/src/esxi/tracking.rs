//! Changed block tracking: switching it on, and asking what changed.
//!
//! Must never: believe an answer that does not add up. A wrong list of areas is a corrupt backup nobody notices.

use super::inventory::machine_ref;
use super::machine::power_state;
use super::preflight::distrusted_tracking;
use super::property::{bad_answer, of_object};
use super::session::Vim;
use super::soap::{CallError, Request};
use super::task;
use super::xml::{MoRef, Node};
use crate::{Areas, ErrorKind, HostError, MachineRef, Result, TrackingState};
use domain::Extent;
use domain::extent::check_areas;
use domain::machine::PowerState;
use std::time::Duration;

const RECONFIGURE_BUDGET: Duration = Duration::from_secs(300);
/// A host gives at most 2000 areas at once; one that gives far more is not to be trusted with our memory.
const MAX_AREAS_PER_ANSWER: usize = 100_000;
/// Areas of one disk. Hosts track in blocks of 64 KiB and more, so this is 64 TiB in the worst pattern.
const MAX_AREAS: usize = 16_000_000;
/// All that is allocated, instead of what changed since a moment.
pub(super) const ALLOCATED: &str = "*";

pub(super) async fn enable(vim: &dyn Vim, machine: &MachineRef) -> Result<TrackingState> {
    if let Some(reason) = distrusted_tracking(vim.content()) {
        return Ok(TrackingState::Refused(reason));
    }
    let attempt = format!("switch change tracking on for machine {}", machine.0);
    let reference = machine_ref(machine);
    let state = of_object(vim, &reference, &["config.changeTrackingEnabled", "runtime.powerState"])
        .await
        .map_err(|error| error.during(vim.host(), &attempt))?;
    if state.is_true("config.changeTrackingEnabled") {
        return Ok(TrackingState::Active);
    }
    let request = Request::new("ReconfigVM_Task", &reference, |xml| {
        xml.group("spec", |spec| {
            spec.text("changeTrackingEnabled", true);
        });
    });
    match task::run(vim, request, RECONFIGURE_BUDGET).await {
        Ok(_) if power_state(&state) == PowerState::On => Ok(TrackingState::SwitchedOn),
        Ok(_) => Ok(TrackingState::Active),
        Err(CallError::Fault(fault))
            if !matches!(fault.name.as_str(), "RestrictedVersion" | "ManagedObjectNotFound") =>
        {
            Ok(TrackingState::Refused(fault.reason()))
        }
        Err(error) => Err(error.during(vim.host(), attempt)),
    }
}

/// A disk within a snapshot, to ask about.
#[derive(Debug, Clone)]
pub(super) struct Question<'a> {
    pub machine: &'a MoRef,
    pub snapshot: &'a MoRef,
    pub disk_key: i32,
    pub capacity_bytes: u64,
    /// `*`, or the change id of an earlier snapshot.
    pub change_id: &'a str,
}

/// All areas of the disk that changed since `change_id`, page by page until the capacity is reached.
/// A host that cannot tell is not an error: [`Areas::Unknown`].
pub(super) async fn query(vim: &dyn Vim, question: &Question<'_>) -> Result<Areas> {
    let attempt = format!("ask what changed on disk {} of machine {}", question.disk_key, question.machine.value);
    let mut areas: Vec<Extent> = Vec::new();
    let mut start = 0;
    while start < question.capacity_bytes {
        let answer = match vim.read(request(question, start)).await {
            Ok(answer) => answer,
            // FileFault: not tracked on this disk. InvalidArgument: a change id the host does not know (any more).
            Err(CallError::Fault(fault))
                if fault.is_any(&["FileFault", "InvalidArgument", "NotFound", "NotSupported"]) =>
            {
                return Ok(Areas::Unknown(format!("the host does not know what changed: {}", fault.reason())));
            }
            Err(error) => return Err(error.during(vim.host(), attempt)),
        };
        let page = answer.child("returnval");
        let page = page.ok_or_else(|| bad_answer(vim, &attempt, "an empty answer").during(vim.host(), &attempt))?;
        let next = read_page(page, start, question.capacity_bytes, &mut areas)
            .map_err(|reason| distrust(vim, &attempt, &reason))?;
        start = next;
    }
    check_areas(&areas, question.capacity_bytes).map_err(|error| distrust(vim, &attempt, &error.to_string()))?;
    Ok(Areas::Known(areas))
}

fn request(question: &Question<'_>, start: u64) -> Request {
    Request::new("QueryChangedDiskAreas", question.machine, |xml| {
        xml.reference("snapshot", question.snapshot)
            .text("deviceKey", question.disk_key)
            .text("startOffset", start)
            .text("changeId", question.change_id);
    })
}

/// Takes over a page's areas. Returns where the next page starts.
fn read_page(page: &Node, start: u64, capacity: u64, areas: &mut Vec<Extent>) -> std::result::Result<u64, String> {
    let number = |node: &Node, name: &str| {
        node.parse_at::<u64>(&[name]).ok_or_else(|| format!("{name} is missing, negative or no number"))
    };
    let (from, length) = (number(page, "startOffset")?, number(page, "length")?);
    if from != start {
        return Err(format!("asked from byte {start}, answered from byte {from}"));
    }
    let end = from.checked_add(length).filter(|end| *end <= capacity);
    let end = end.ok_or_else(|| format!("an answer for {from}+{length} of a disk of {capacity} bytes"))?;
    if length == 0 {
        return Err(format!("an answer for no bytes at {from}: it would never end"));
    }
    let first = areas.len();
    for area in page.all("changedArea") {
        let area = Extent::new(number(area, "start")?, number(area, "length")?);
        if area.offset < from || area.end() > end {
            return Err(format!("area {}+{} lies outside the answer's {from}+{length}", area.offset, area.length));
        }
        areas.push(area);
        if areas.len() - first > MAX_AREAS_PER_ANSWER || areas.len() > MAX_AREAS {
            return Err(format!("more than {MAX_AREAS_PER_ANSWER} areas in an answer, or {MAX_AREAS} in all"));
        }
    }
    Ok(end)
}

fn distrust(vim: &dyn Vim, attempt: &str, reason: &str) -> HostError {
    HostError {
        kind: ErrorKind::Protocol,
        code: "esxi.areas_invalid",
        host: vim.host().to_owned(),
        attempt: attempt.to_owned(),
        reason: format!("the list of changed areas does not add up: {reason}"),
        hint: "Reset change tracking of the machine: switch it off and on again while it is off.".into(),
        source: None,
    }
}

/// Why an earlier mark cannot be used with this disk as it is now; `None` when it can.
pub(super) fn mark_is_stale(
    mark: &domain::point::ChangeMark,
    change_id: Option<&str>,
    disk_uuid: Option<&str>,
    capacity_bytes: u64,
) -> Option<String> {
    let Some(change_id) = change_id else {
        return Some("change tracking is not active on the disk".into());
    };
    let era = |token: &str| token.split_once('/').map(|(era, _)| era.to_owned());
    if mark.capacity_bytes != capacity_bytes {
        Some(format!("the disk had {} bytes and now has {capacity_bytes}", mark.capacity_bytes))
    } else if mark.disk_uuid.as_deref() != disk_uuid {
        Some("it is another disk than at the last backup".into())
    } else if era(&mark.token).is_none() || era(&mark.token) != era(change_id) {
        Some("change tracking was reset since the last backup".into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esxi::script::Script;
    use domain::point::ChangeMark;

    const CAPACITY: u64 = 1 << 20;

    fn page(start: u64, length: u64, areas: &[(u64, u64)]) -> String {
        let areas: Vec<String> = areas
            .iter()
            .map(|(start, length)| {
                format!("<changedArea><start>{start}</start><length>{length}</length></changedArea>")
            })
            .collect();
        let areas = areas.concat();
        format!("<returnval><startOffset>{start}</startOffset><length>{length}</length>{areas}</returnval>")
    }

    async fn ask(script: &Script) -> Result<Areas> {
        let (machine, snapshot) = (MoRef::new("VirtualMachine", "VM"), MoRef::new("VirtualMachineSnapshot", "S"));
        let question = Question {
            machine: &machine,
            snapshot: &snapshot,
            disk_key: 2000,
            capacity_bytes: CAPACITY,
            change_id: "*",
        };
        query(script, &question).await
    }

    #[tokio::test]
    async fn pages_are_asked_for_until_the_capacity() {
        let half = CAPACITY / 2;
        let script = Script::new([
            Ok(page(0, half, &[(0, 4096), (8192, 4096)])),
            Ok(page(half, half - 4096, &[])),
            Ok(page(CAPACITY - 4096, 4096, &[(CAPACITY - 4096, 4096)])),
        ]);
        let expected = vec![Extent::new(0, 4096), Extent::new(8192, 4096), Extent::new(CAPACITY - 4096, 4096)];
        assert_eq!(ask(&script).await.unwrap(), Areas::Known(expected));
        let asked = script.asked();
        assert_eq!(asked.len(), 3, "never at the capacity itself");
        assert_eq!(
            asked[0],
            concat!(
                r#"<QueryChangedDiskAreas xmlns="urn:vim25"><_this type="VirtualMachine">VM</_this>"#,
                r#"<snapshot type="VirtualMachineSnapshot">S</snapshot><deviceKey>2000</deviceKey>"#,
                "<startOffset>0</startOffset><changeId>*</changeId></QueryChangedDiskAreas>"
            )
        );
        assert!(asked[1].contains(&format!("<startOffset>{half}</startOffset>")));
    }

    #[tokio::test]
    async fn answers_that_do_not_add_up_are_refused() {
        let cases = [
            ("overlap", page(0, CAPACITY, &[(0, 4096), (2048, 4096)])),
            ("descending", page(0, CAPACITY, &[(8192, 4096), (0, 4096)])),
            ("empty area", page(0, CAPACITY, &[(0, 0)])),
            ("past the end", page(0, CAPACITY, &[(CAPACITY - 1, 2)])),
            ("past the answer", page(0, CAPACITY / 2, &[(CAPACITY / 2, 2)])),
            ("answer past the end", page(0, CAPACITY + 1, &[])),
            ("no progress", page(0, 0, &[])),
            ("another start", page(512, CAPACITY - 512, &[])),
            ("overflow", page(0, CAPACITY, &[(u64::MAX, 2)])),
            ("negative", "<returnval><startOffset>0</startOffset><length>-1</length></returnval>".into()),
            ("nothing", String::new()),
        ];
        for (name, answer) in cases {
            let error = ask(&Script::new([Ok(answer)])).await.expect_err(name);
            assert_eq!(error.kind, ErrorKind::Protocol, "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn a_host_that_does_not_know_is_no_error() {
        for fault in ["FileFault", "InvalidArgument"] {
            assert!(
                matches!(ask(&Script::new([Err(fault)])).await, Ok(Areas::Unknown(reason)) if reason.contains(fault))
            );
        }
        let error = ask(&Script::new([Err("NoPermission")])).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Permission);
    }

    #[test]
    fn a_mark_is_used_only_with_the_disk_it_was_made_of() {
        let mark =
            ChangeMark { disk_key: 2000, disk_uuid: Some("d".into()), capacity_bytes: 10, token: "era/5".into() };
        let stale = |change_id: Option<&str>, uuid, capacity| mark_is_stale(&mark, change_id, uuid, capacity).is_some();
        assert!(!stale(Some("era/9"), Some("d"), 10));
        assert!(stale(Some("other/9"), Some("d"), 10), "tracking was reset");
        assert!(stale(None, Some("d"), 10), "tracking is not active");
        assert!(stale(Some("era/9"), Some("e"), 10), "another disk");
        assert!(stale(Some("era/9"), None, 10));
        assert!(stale(Some("era/9"), Some("d"), 11), "resized");
        let odd = ChangeMark { token: "no era".into(), ..mark.clone() };
        assert!(mark_is_stale(&odd, Some("no era"), Some("d"), 10).is_some());
    }
}
