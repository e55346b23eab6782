//! How fast a disk is read over SMB, whole and in an increment's areas, beside `smbclient get` of the same file from the
//! same Samba: signed, its file in the page cache. `smb_read [MiB] [rounds] [encrypt]`
//!
//! Prints MiB/s and processor seconds of the client of every round, and the ratios of the medians to that of smbclient.

#[path = "../tests/files/samba.rs"]
mod samba;

use bytes::Bytes;
use disk::container::ImageKind;
use disk::container::vhdx::VhdxOptions;
use domain::Extent;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hypervisor::hyperv::files::{FrozenDisk, LANES as LANES_AT_ONCE, ShareOptions, Shares};
use samba::{PASSWORD, Samba, run};
use std::collections::BTreeMap;
use std::time::Instant;
use std::{fmt, fs};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
/// Ticks of a second in `/proc`.
const TICKS: f64 = 100.0;
/// An increment's areas, one in every so many bytes.
const AREA_BYTES: u64 = 64 << 10;
const AREA_EVERY_BYTES: u64 = MIB;
/// What is measured.
const SMBCLIENT: &str = "smbclient get";
const FULL: &str = "full, one stream";
const SIDE_BY_SIDE: &str = "64 KiB in each MiB, side by side";
const LANES: &str = "64 KiB in each MiB, in lanes";
const ONE_BY_ONE: &str = "64 KiB in each MiB, one by one";

/// MiB/s, and processor seconds of the client.
#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    seconds: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.1} MiB/s {:5.2} s", self.rate, self.seconds)
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (mib, rounds) = (number(0, 1536), number(1, 5));
    let require_encryption = arguments.get(2).is_some_and(|word| word == "encrypt");
    let samba = Samba::start("");
    let options = ShareOptions { require_encryption, ..samba.options() };
    let shares = Shares::connect(options).await.expect("a session");
    write(&shares, mib).await;
    let disk = shares.open_disk(r"C:\x.vhdx").await.expect("the disk");
    println!("{:?}", shares.protection().await.expect("a session"));
    let mut found: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
    for round in 0..=rounds {
        let figures = [
            (SMBCLIENT, smbclient(&samba, mib, require_encryption)),
            (FULL, full(&disk, mib).await),
            (SIDE_BY_SIDE, side_by_side(&disk, mib).await),
            (LANES, by_lanes(&disk, mib, LANES_AT_ONCE).await),
            (ONE_BY_ONE, by_lanes(&disk, mib, 1).await),
        ];
        // The first warms everything up.
        for (what, figures) in figures.into_iter().filter(|_| round > 0) {
            println!("{what:32} {figures}");
            found.entry(what).or_default().push(figures);
        }
    }
    let median = |what: &str| median(&found[what]);
    let theirs = median(SMBCLIENT);
    println!("medians: {SMBCLIENT} {theirs}");
    for what in [FULL, SIDE_BY_SIDE, LANES, ONE_BY_ONE] {
        let ours = median(what);
        println!("{what:32} {ours}   ratio to smbclient {:.2}", ours.rate / theirs.rate);
    }
}

async fn write(shares: &Shares, mib: u64) {
    let options = VhdxOptions {
        kind: ImageKind::Dynamic,
        size_bytes: mib * MIB,
        block_bytes: VhdxOptions::DEFAULT_BLOCK_BYTES,
        logical_sector_bytes: 512,
        physical_sector_bytes: 4096,
        disk_id: Uuid::from_u128(1),
        file_write_id: Uuid::from_u128(2),
        data_write_id: Uuid::from_u128(3),
        creator: String::new(),
        writes_in_flight: 16,
    };
    let mut upload = shares.create_disk(r"C:\x.vhdx", options).await.expect("an upload");
    let mut state = 1u64;
    let mut piece = Vec::with_capacity(1 << 20);
    while piece.len() < 1 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        piece.extend_from_slice(&state.to_be_bytes());
    }
    let piece = Bytes::from(piece);
    let (start, before) = (Instant::now(), processor());
    for index in 0..mib {
        upload.write(index * MIB, piece.clone()).await.expect("a write");
    }
    upload.finish().await.expect("the end");
    println!("upload {}", figures(mib, start, processor().0 - before.0));
}

async fn full(disk: &FrozenDisk, mib: u64) -> Figures {
    let (start, before) = (Instant::now(), processor());
    let stream = disk.stream(Extent::new(0, disk.size_bytes()));
    let bytes = stream.try_fold(0, async |sum, piece| Ok(sum + piece.len() as u64)).await.expect("all of it");
    assert_eq!(bytes, mib * MIB);
    figures(mib, start, processor().0 - before.0)
}

fn smbclient(samba: &Samba, mib: u64, encrypt: bool) -> Figures {
    let port = samba.port.to_string();
    let account = format!("{}%{PASSWORD}", samba.account);
    let protection = format!("--client-protection={}", if encrypt { "encrypt" } else { "sign" });
    let get = ["//127.0.0.1/C$", "-p", &port, "-U", &account, &protection, "-c", "get x.vhdx /dev/null"];
    let (start, before) = (Instant::now(), processor());
    let output = run("smbclient", &get, "");
    assert!(output.status.success(), "{output:?}");
    figures(mib, start, processor().1 - before.1)
}

/// Areas of 64 KiB, one in every MiB.
fn areas(mib: u64) -> (Vec<Extent>, u64) {
    let areas: Vec<Extent> =
        (0..mib * MIB / AREA_EVERY_BYTES).map(|index| Extent::new(index * AREA_EVERY_BYTES, AREA_BYTES)).collect();
    let total = areas.len() as u64 * AREA_BYTES / MIB;
    (areas, total)
}

/// As a full of scattered areas is read.
async fn side_by_side(disk: &FrozenDisk, mib: u64) -> Figures {
    let (areas, total) = areas(mib);
    let count = areas.len();
    let (start, before) = (Instant::now(), processor());
    let pieces: Vec<(u64, Bytes)> = disk.stream_areas(areas).try_collect().await.expect("areas");
    assert_eq!(pieces.len(), count);
    figures(total, start, processor().0 - before.0)
}

/// As an increment is read: a stream for each area, so many at once.
async fn by_lanes(disk: &FrozenDisk, mib: u64, lanes: usize) -> Figures {
    let (areas, total) = areas(mib);
    let (start, before) = (Instant::now(), processor());
    let read = |area: Extent| async move {
        let pieces: Vec<Bytes> = disk.stream(area).try_collect().await.expect("an area");
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>() as u64, area.length);
    };
    stream::iter(areas).map(read).buffer_unordered(lanes).collect::<Vec<()>>().await;
    figures(total, start, processor().0 - before.0)
}

fn figures(mib: u64, start: Instant, seconds: f64) -> Figures {
    Figures { rate: mib as f64 / start.elapsed().as_secs_f64(), seconds }
}

fn median(found: &[Figures]) -> Figures {
    let mut found = found.to_vec();
    found.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    found[found.len() / 2]
}

/// Processor seconds of this process and of its children that have ended.
fn processor() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    let ticks: Vec<f64> =
        after_name.split_whitespace().skip(11).take(4).map(|word| word.parse().unwrap_or(0.0)).collect();
    ((ticks[0] + ticks[1]) / TICKS, (ticks[2] + ticks[3]) / TICKS)
}
