//! Disks of tests, and how they are held against what they should be.

use crate::samba::run;
use bytes::Bytes;
use disk::container::ImageKind;
use disk::container::vhdx::VhdxOptions;
use domain::Extent;
use futures_util::TryStreamExt as _;
use hypervisor::hyperv::files::{FrozenDisk, ShareOptions, Shares};
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use uuid::Uuid;

pub const MIB: u64 = 1 << 20;

/// Reproducible bytes that do not compress.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// A raw disk of `size` with data at some places.
pub fn make_raw(path: &Path, size: u64, areas: &[(u64, usize)]) {
    let file = File::create(path).expect("a raw disk");
    file.set_len(size).expect("its size");
    for (index, (offset, length)) in areas.iter().enumerate() {
        file.write_all_at(&noise(index as u64 + 1, *length), *offset).expect("its data");
    }
}

/// Runs a program that must succeed.
pub fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments, "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// An image of another program's making, of 80 MiB of data in 100 MiB, beside its raw form.
pub fn make_image(folder: &Path, name: &str) {
    let raw = folder.join(format!("{name}.raw"));
    make_raw(&raw, 100 * MIB, &[(0, 40 << 20), (50 * MIB - 700, 40 << 20)]);
    let image = folder.join(name);
    must("qemu-img", &["convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M", text(&raw), text(&image)]);
    settle_times(&image);
}

/// Samba takes the oldest of a file's times for that of its creation, which on Windows never changes: the first read would
/// move it from the file's making to its last write.
fn settle_times(image: &Path) {
    let file = File::options().write(true).open(image).expect("the image");
    let modified = file.metadata().and_then(|found| found.modified()).expect("its time");
    file.set_times(FileTimes::new().set_accessed(modified).set_modified(modified)).expect("its times");
}

pub async fn connect(options: ShareOptions) -> Shares {
    Shares::connect(options).await.unwrap_or_else(|error| panic!("{error} ({})", error.hint))
}

pub async fn open(shares: &Shares, path: &str) -> FrozenDisk {
    shares.open_disk(path).await.unwrap_or_else(|error| panic!("{error} ({})", error.hint))
}

pub async fn bytes_of(disk: &FrozenDisk, range: Extent) -> Vec<u8> {
    let pieces: Vec<Bytes> = disk.stream(range).try_collect().await.expect("the range can be read");
    pieces.concat()
}

/// Holds the disk against the raw file at these places, and its list of allocated areas against what is not zero there.
pub async fn assert_same(disk: &FrozenDisk, raw: &Path, places: &[Extent]) {
    let raw = File::open(raw).expect("the raw disk is there");
    let size = raw.metadata().expect("its length").len();
    assert_eq!(disk.size_bytes(), size);
    let allocated = disk.allocated().await.expect("allocated areas");
    assert_eq!(domain::extent::check_areas(&allocated, size), Ok(()));
    for place in places.iter().filter_map(|place| place.intersection(&Extent::new(0, size))) {
        let mut expected = vec![0; place.length as usize];
        raw.read_exact_at(&mut expected, place.offset).expect("raw bytes");
        let found = bytes_of(disk, place).await;
        assert_eq!(found.len(), expected.len());
        if found != expected {
            let at = (0..found.len()).find(|&at| found[at] != expected[at]).expect("a difference");
            panic!("byte {} is {} instead of {}", place.offset + at as u64, found[at], expected[at]);
        }
        let data = expected.iter().position(|&byte| byte != 0);
        if let Some(at) = data {
            let at = place.offset + at as u64;
            assert!(allocated.iter().any(|area| area.offset <= at && at < area.end()), "byte {at} is not in the list");
        }
    }
}

pub fn vhdx(kind: ImageKind, size_bytes: u64, block_mib: u32) -> VhdxOptions {
    VhdxOptions {
        kind,
        size_bytes,
        block_bytes: block_mib << 20,
        logical_sector_bytes: 512,
        physical_sector_bytes: 4096,
        disk_id: Uuid::from_u128(0x1234_5678),
        file_write_id: Uuid::from_u128(2),
        data_write_id: Uuid::from_u128(3),
        creator: "Stillframe".into(),
        writes_in_flight: 8,
    }
}

/// Names in a folder.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
