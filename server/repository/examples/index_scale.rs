//! The index at scale, without data: packs of chunks that do not exist go through the index the way loading their segments
//! does, and memory, files, start-up and look-ups are measured and extrapolated to 760 million chunks (100 TB at 128 KiB each).
//!
//! ```text
//! index_scale FOLDER [MILLIONS...]      needs 45 bytes of disk a chunk in FOLDER; removes what it wrote
//! ```

use repository::synthetic::{PACK_CHUNKS, SyntheticIndex};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const MILLION: u64 = 1_000_000;
const TARGET_MILLIONS: f64 = 760.0;
const LOOK_UPS: u64 = 2 * MILLION;

/// One line of the table.
#[derive(Debug, Default, Clone, Copy)]
struct Row {
    millions: f64,
    build_seconds: f64,
    build_peak_mib: f64,
    disk_gb: f64,
    open_seconds: f64,
    /// Resident after opening and looking up, not backed by files.
    anonymous_mib: f64,
    peak_mib: f64,
    /// Look-ups a second: hits and misses, on one thread and on two.
    rates: [f64; 4],
}

/// A line of `/proc/self/status`, in MiB.
fn status(name: &str) -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name)).ok_or("no such line")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib / 1024.0)
}

fn folder_bytes(folder: &Path) -> Outcome<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.path().is_dir() { folder_bytes(&entry.path())? } else { entry.metadata()?.blocks() * 512 };
    }
    Ok(bytes)
}

/// Writes runs of so many packs; prints seconds and peak memory.
fn build(folder: &Path, packs: u64) -> Outcome {
    let start = Instant::now();
    let index = SyntheticIndex::open(Some(folder), 200_000)?;
    index.add(0..packs)?;
    index.settle(true)?;
    println!("{} {}", start.elapsed().as_secs_f64(), status("VmHWM")?);
    Ok(())
}

fn look_ups(index: &SyntheticIndex, chunks: u64, threads: u64, hits: bool) -> Outcome<f64> {
    let start = Instant::now();
    let wrong: u64 = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let mut number = thread * 7919 + 1;
            (0..LOOK_UPS)
                .filter(|_| {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let chunk = (number >> 20) % chunks;
                    index.has(if hits { chunk } else { chunks + chunk }) != hits
                })
                .count() as u64
        };
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(1)).sum()
    });
    if wrong > 0 {
        return Err(format!("{wrong} wrong answers").into());
    }
    Ok((LOOK_UPS * threads) as f64 / start.elapsed().as_secs_f64())
}

/// Opens and looks up; prints the rest of the row.
fn measure(folder: &Path, packs: u64) -> Outcome {
    let start = Instant::now();
    let index = SyntheticIndex::open(Some(folder), 200_000)?;
    let seconds = start.elapsed().as_secs_f64();
    if index.runs() == 0 {
        return Err("the cache was not taken over".into());
    }
    let chunks = packs * PACK_CHUNKS;
    look_ups(&index, chunks, 1, true)?; // warms the page cache
    let mut rates = Vec::new();
    for threads in [1, 2] {
        for hits in [true, false] {
            rates.push(look_ups(&index, chunks, threads, hits)?.to_string());
        }
    }
    println!("{seconds} {} {} {}", status("RssAnon")?, status("VmHWM")?, rates.join(" "));
    Ok(())
}

/// Runs this program again, so that each step's memory is its own: the numbers it prints.
fn step(name: &str, folder: &Path, packs: u64) -> Outcome<Vec<f64>> {
    let output = Command::new(std::env::current_exe()?).arg(name).arg(folder).arg(packs.to_string()).output()?;
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

fn row(folder: &Path, millions: u64) -> Outcome<Row> {
    let packs = millions * MILLION / PACK_CHUNKS;
    let folder = folder.join(format!("index-scale-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let steps = (|| {
        let [build_seconds, build_peak_mib] = step("build", &folder, packs)?[..] else {
            return Err("no figures".into());
        };
        let disk_gb = folder_bytes(&folder)? as f64 / 1e9;
        let [open_seconds, anonymous_mib, peak_mib, a, b, c, d] = step("measure", &folder, packs)?[..] else {
            return Err("no figures".into());
        };
        let (millions, rates) = (millions as f64, [a, b, c, d]);
        Ok(Row { millions, build_seconds, build_peak_mib, disk_gb, open_seconds, anonymous_mib, peak_mib, rates })
    })();
    std::fs::remove_dir_all(folder)?;
    steps
}

fn print(row: &Row) {
    let Row { millions, build_seconds, build_peak_mib, disk_gb, open_seconds, anonymous_mib, peak_mib, rates } = row;
    let [hit, miss, hit2, miss2] = rates.map(|rate| rate / 1000.0);
    println!(
        "| {millions:.0} M | {build_seconds:.1} | {build_peak_mib:.0} | {disk_gb:.2} | {open_seconds:.2} | {anonymous_mib:.0} | \
         {peak_mib:.0} | {hit:.0} / {miss:.0} | {hit2:.0} / {miss2:.0} |"
    );
}

/// A straight line through the two largest.
fn extrapolate(rows: &[Row]) -> Option<Row> {
    let [.., one, two] = rows else { return None };
    let line = |of: fn(&Row) -> f64| {
        let slope = (of(two) - of(one)) / (two.millions - one.millions);
        of(two) + slope * (TARGET_MILLIONS - two.millions)
    };
    Some(Row {
        millions: TARGET_MILLIONS,
        build_seconds: line(|row| row.build_seconds),
        build_peak_mib: line(|row| row.build_peak_mib),
        disk_gb: line(|row| row.disk_gb),
        open_seconds: line(|row| row.open_seconds),
        anonymous_mib: line(|row| row.anonymous_mib),
        peak_mib: line(|row| row.peak_mib),
        rates: two.rates, // they do not follow a line; measured at the largest
    })
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["build", folder, packs] => return build(Path::new(folder), packs.parse()?),
        ["measure", folder, packs] => return measure(Path::new(folder), packs.parse()?),
        [] => return Err("see the head of examples/index_scale.rs".into()),
        _ => {}
    }
    let folder = Path::new(words.first().copied().unwrap_or("."));
    let mut sizes: Vec<u64> = words.iter().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        sizes = vec![10, 50, 200];
    }
    println!(
        "| chunks | build s | peak MiB | disk GB | open s | RssAnon MiB | VmHWM MiB | 1000 look-ups/s, hits / misses | on 2 threads |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut rows = Vec::new();
    for millions in sizes {
        let row = row(folder, millions)?;
        print(&row);
        rows.push(row);
    }
    if let Some(row) = extrapolate(&rows) {
        println!("extrapolated by the last two (look-ups as measured at the largest):");
        print(&row);
    }
    Ok(())
}
