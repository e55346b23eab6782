//! What the subcommands print.

use domain::machine::Firmware;
use repository::{Catalogue, Damage, Point, PointList, Progress, Verified, VerifyProgress, VerifyReport};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use super::RepoError;

type Out<'a> = &'a mut (dyn Write + Send);

/// Stretches of a disk printed for one damage; `--json` has all.
const EXTENTS_SHOWN_MAX: usize = 5;

/// A size for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    for unit in UNITS {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} EiB")
}

/// Anything, as JSON.
pub fn json(value: &impl Serialize, out: Out<'_>) -> Result<(), RepoError> {
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::other)?;
    Ok(writeln!(out, "{text}")?)
}

/// Points, and when they were verified.
#[derive(Serialize)]
pub struct Listing {
    #[serde(flatten)]
    pub list: PointList,
    pub verified: Verified,
}

/// One line a point, and one on verification.
pub fn list(list: &PointList, verified: &Verified, out: Out<'_>) -> Result<(), RepoError> {
    if list.points.is_empty() && list.damaged.is_empty() {
        writeln!(out, "No restore points.")?;
    }
    for point in &list.points {
        let (id, at, kind) = (point.id, point.taken_at, point.kind.as_str());
        let (disks, bytes) = (point.disks, size(point.size_bytes));
        let plural = if disks == 1 { "" } else { "s" };
        writeln!(
            out,
            "{id}  {at}  {kind:<11}  {}  ({disks} disk{plural}, {bytes}, {})",
            point.machine_name, point.device
        )?;
    }
    for damaged in &list.damaged {
        writeln!(out, "UNREADABLE {}: {}", damaged.object, damaged.reason)?;
    }
    if verified.packs > 0 {
        writeln!(out, "{}", last_verified(verified))?;
    }
    Ok(())
}

/// All machines with their points and disks.
pub fn catalogue(catalogue: &Catalogue, out: Out<'_>) -> Result<(), RepoError> {
    writeln!(out, "Repository {}, made {}", catalogue.repository, catalogue.created_at)?;
    for machine in &catalogue.machines {
        writeln!(out, "\n{} on {} ({})", machine.name, machine.device, machine.machine_id)?;
        for point in &machine.points {
            let (kind, consistency) = (point.kind.as_str(), point.consistency.as_str());
            let (bytes, stored) = (size(point.size_bytes), size(point.bytes_stored));
            writeln!(out, "  {}  {}  {kind:<11}  {consistency}  {bytes}, {stored} stored", point.id, point.taken_at)?;
            for disk in &point.disks {
                writeln!(out, "    disk {}: {}, {}", disk.key, disk.label, size(disk.size_bytes))?;
            }
        }
    }
    for damaged in &catalogue.damaged {
        writeln!(out, "UNREADABLE {}: {}", damaged.object, damaged.reason)?;
    }
    let points: usize = catalogue.machines.iter().map(|machine| machine.points.len()).sum();
    let (machines, unreadable) = (catalogue.machines.len(), catalogue.damaged.len());
    writeln!(out, "\nMachines: {machines}. Restore points: {points}. Unreadable: {unreadable}.")?;
    writeln!(out, "A new server takes them over when this repository is added to it with its passphrase.")?;
    Ok(())
}

fn last_verified(verified: &Verified) -> String {
    let (Some(oldest), Some(newest)) = (verified.oldest, verified.newest) else {
        return "Never verified.".to_owned();
    };
    let mut text = match verified.packs - verified.packs_checked {
        0 => format!("Verified: all packs since {oldest}, the last at {newest}"),
        left => {
            format!("Verified: {} of {} packs since {oldest}, {left} never", verified.packs_checked, verified.packs)
        }
    };
    if verified.packs_bad > 0 {
        // Writing to a string does not fail.
        let _ = write!(text, "; bad chunks in {} packs", verified.packs_bad);
    }
    if let Some(since) = verified.unfinished_since {
        let _ = write!(text, "; one begun at {since} was cut short (verify --resume)");
    }
    text + "."
}

/// A point, its machine and its disks.
pub fn point(point: &Point, out: Out<'_>) -> Result<(), RepoError> {
    let machine = &point.machine;
    let firmware = match machine.firmware {
        Firmware::Bios => "BIOS",
        Firmware::Efi if machine.secure_boot => "UEFI with secure boot",
        Firmware::Efi => "UEFI",
    };
    writeln!(out, "Restore point {}", point.id)?;
    writeln!(out, "  taken        {}, {}, {}", point.taken_at, point.kind.as_str(), point.consistency.as_str())?;
    if let Some(task) = &point.task {
        writeln!(out, "  task         {task}")?;
    }
    if let Some(before) = &point.predecessor {
        writeln!(out, "  follows      {}", before.point)?;
    }
    writeln!(out, "Machine {} ({}) on {}", machine.name, point.machine_id, point.device)?;
    writeln!(out, "  guest        {}, hardware {}", machine.guest_id, machine.hardware_version)?;
    writeln!(
        out,
        "  size         {} processors, {} MiB of memory, {firmware}",
        machine.processors, machine.memory_mib
    )?;
    for adapter in &machine.adapters {
        let mac = adapter.mac.as_deref().unwrap_or("no address");
        writeln!(out, "  network      {} on {}, {mac}", adapter.model, adapter.network)?;
    }
    for disk in &point.disks {
        let (key, label) = (disk.config.key, &disk.config.label);
        let sizes = format!("{} ({} bytes)", size(disk.size_bytes), disk.size_bytes);
        let traffic = format!("{} read, {} stored", size(disk.bytes_read), size(disk.bytes_stored));
        writeln!(out, "Disk {key}: {label}, {sizes}; {traffic}")?;
    }
    for warning in &point.warnings {
        writeln!(out, "Warning: {warning}")?;
    }
    Ok(())
}

/// What a verification found.
pub fn verification(report: &VerifyReport, out: Out<'_>) -> Result<(), RepoError> {
    let (points, chunks, bytes) = (report.points, report.chunks, size(report.bytes_read));
    writeln!(out, "Checked {points} restore points: {chunks} chunks, {bytes} read.")?;
    if let Some(began) = report.resumed_from {
        writeln!(out, "Went on with the verification begun at {began}.")?;
    }
    if report.packs_skipped + report.packs_left > 0 {
        let (now, skipped, left) = (report.packs_checked, report.packs_skipped, report.packs_left);
        writeln!(out, "Packs: {now} read now, {skipped} checked lately, {left} left for another time.")?;
    }
    if report.bad_chunks_not_needed > 0 {
        writeln!(
            out,
            "{} bad chunks take nothing along: stored elsewhere too, or not in use.",
            report.bad_chunks_not_needed
        )?;
    }
    if report.damage.is_empty() {
        writeln!(out, "All is well.")?;
    }
    for found in &report.damage {
        damage(found, out)?;
    }
    Ok(())
}

fn damage(damage: &Damage, out: Out<'_>) -> Result<(), RepoError> {
    writeln!(out, "DAMAGED {}: {}", damage.object, damage.reason)?;
    for affected in &damage.affected {
        let bytes = size(affected.extents.iter().map(|extent| extent.length).sum());
        let (machine, disk, label) = (&affected.machine, affected.disk, &affected.label);
        writeln!(out, "  lost: {bytes} of {machine}, disk {disk} ({label}), restore point {}", affected.point)?;
        for extent in affected.extents.iter().take(EXTENTS_SHOWN_MAX) {
            writeln!(out, "    bytes {} to {}", extent.offset, extent.end())?;
        }
        if let Some(more) = affected.extents.len().checked_sub(EXTENTS_SHOWN_MAX).filter(|more| *more > 0) {
            writeln!(out, "    and {more} more stretches")?;
        }
    }
    if damage.affected.is_empty() {
        writeln!(out, "  no disk of a readable restore point depends on it")?;
    }
    Ok(())
}

/// A percentage on standard error, when that is a terminal.
pub struct Percent {
    word: &'static str,
    planned: AtomicU64,
    done: AtomicU64,
    shown: AtomicU64,
    on: bool,
}

impl Percent {
    /// Counts from nothing.
    pub fn new(word: &'static str) -> Self {
        let zero = AtomicU64::default;
        Self { word, planned: zero(), done: zero(), shown: zero(), on: std::io::stderr().is_terminal() }
    }
}

impl Percent {
    fn plan(&self, bytes: u64) {
        self.planned.fetch_add(bytes, Ordering::Relaxed);
    }

    fn count(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let percent = done * 100 / self.planned.load(Ordering::Relaxed).max(1);
        if self.on && self.shown.fetch_max(percent, Ordering::Relaxed) < percent {
            eprint!("\r{percent} % {}{}", self.word, if percent >= 100 { "\n" } else { "" });
        }
    }
}

impl VerifyProgress for Percent {
    fn planned(&self, bytes: u64) {
        self.plan(bytes);
    }

    fn read(&self, bytes: u64) {
        self.count(bytes);
    }
}

impl Progress for Percent {
    fn planned(&self, _: i32, bytes: u64) {
        self.plan(bytes);
    }

    fn read(&self, _: i32, bytes: u64) {
        self.count(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_readable() {
        let shown = [0, 1023, 1024, 1536, 5 << 30, u64::MAX].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB", "16.0 EiB"]);
    }
}
